package aggregate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// place is a partition of a topic; topics go by the number of their event.
type place struct {
	no        uint8
	partition uint32
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.no, b.no), cmp.Compare(a.partition, b.partition))
}

// span is a range of offsets, [from, to).
type span struct{ from, to uint64 }

// books are the aggregation's own, as of the last cycle.
type books struct {
	table      string
	generation uint64 // 0: none was ever exchanged
	attached   int64  // when the generation was begun beside the live one; tells one from another of its number
	exchanges  uint64 // generation of the live table at that moment, which each exchange makes higher; booksOf and readPair know it
	built      bool   // the building of the generation was finished
	by         int64  // whose insert the last cycle is; each has a number of its own, which is negative where rows were restored
	restored   uint64 // how often rows below the positions were stored again
	beside     bool   // there is another generation beside
	cycle      uint64
	now        int64 // horizon in milliseconds; means nothing while cycle is 0
	positions  map[place]uint64
}

// batch is what a cycle takes.
type batch struct {
	spans     map[place]span
	positions map[place]uint64 // where the cycle comes to, all partitions
	now       int64
	records   uint64
	more      bool
	by        int64 // the number of this attempt
	oldest    int64 // lowest loaded_at of its blocks, milliseconds
}

func (b *batch) empty() bool { return len(b.spans) == 0 }

// readBooks is step (a), for one table.
func (a *Aggregator) readBooks(ctx context.Context, table string) (*books, error) {
	rows, err := a.query(ctx, `SELECT toString(nomenclature), toUInt32(month), sum(mark) FROM `+table+`
		WHERE grp = 0 AND area = '#books' GROUP BY nomenclature, month`)
	if err != nil {
		return nil, fmt.Errorf("read books of the aggregation: %w", err)
	}
	defer rows.Close()
	out := &books{table: table, positions: map[place]uint64{}}
	for rows.Next() {
		var name string
		var partition uint32
		var mark int64
		if err := rows.Scan(&name, &partition, &mark); err != nil {
			return nil, fmt.Errorf("read books of the aggregation: %w", err)
		}
		switch no := numberOf(name); {
		case name == "cycle":
			out.cycle = uint64(mark)
		case name == "generation":
			out.generation = uint64(mark)
		case name == "attached":
			out.attached = mark
		case name == "built":
			out.built = mark > 0
		case name == "by":
			out.by = mark
		case name == "restored":
			out.restored = uint64(mark)
		case name == "now":
			out.now = mark
		case no != 0:
			out.positions[place{no, partition}] = uint64(mark)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read books of the aggregation: %w", err)
	}
	return out, nil
}

type block struct {
	place
	span
	read, accepted uint64
	occurred       int64
	loaded         int64
}

// plan is step (b): of each partition the blocks that follow its position, as many as the bound allows,
// taken in turn, so that none starves.
func (a *Aggregator) plan(ctx context.Context, books *books) (*batch, error) {
	rows, err := a.query(ctx, `SELECT type, partition, from_offset, to_offset, read, toInt64(loaded), toUnixTimestamp64Milli(max_occurred_at),
		toUnixTimestamp64Milli(loaded_at)
		FROM store.ledger WHERE `+ahead(books.positions)+` ORDER BY topic, partition, from_offset LIMIT 5000 BY topic, partition`)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	defer rows.Close()
	queues := map[place][]block{}
	for rows.Next() {
		var b block
		var accepted int64
		if err := rows.Scan(&b.no, &b.partition, &b.from, &b.to, &b.read, &accepted, &b.occurred, &b.loaded); err != nil {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
		b.accepted = uint64(accepted)
		queues[b.place] = append(queues[b.place], b)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	return takeBlocks(books, queues, a.opts.MaxRecords), nil
}

// ahead is the predicate of the blocks that follow positions, as ranges of the ledger's key: what is behind
// them is not read.
func ahead(positions map[place]uint64) string {
	var parts []string
	for i := range uint8(16) {
		no := i + 1
		topic := quote(typeOf(no).Topic)
		next := uint32(0)
		for _, p := range slices.SortedFunc(maps.Keys(ofType(positions, no)), comparePlaces) {
			if next < p.partition { // nothing is there yet
				parts = append(parts, fmt.Sprintf("(topic = %s AND partition >= %d AND partition < %d)", topic, next, p.partition))
			}
			parts = append(parts, fmt.Sprintf("(topic = %s AND partition = %d AND from_offset >= %d)", topic, p.partition, positions[p]))
			next = p.partition + 1
		}
		parts = append(parts, fmt.Sprintf("(topic = %s AND partition >= %d)", topic, next))
	}
	return strings.Join(parts, " OR ")
}

// takeBlocks chooses the blocks of a cycle. A block that does not begin where its predecessor ended is
// left: the one between is in the ledger later.
func takeBlocks(books *books, queues map[place][]block, limit uint64) *batch {
	out := &batch{spans: map[place]span{}, positions: map[place]uint64{}, now: books.now, by: rand.Int64()}
	for p, at := range books.positions {
		out.positions[p] = at
	}
	started := books.cycle > 0
	places := make([]place, 0, len(queues))
	for p := range queues {
		places = append(places, p)
	}
	slices.SortFunc(places, comparePlaces)
	for len(places) > 0 {
		left := places[:0]
		for _, p := range places {
			queue := queues[p]
			at, known := out.positions[p]
			for len(queue) > 0 && known && queue[0].to <= at {
				queue = queue[1:]
			}
			if len(queue) == 0 || known && queue[0].from != at {
				continue
			}
			if out.records >= limit {
				out.more = true
				return out
			}
			b := queue[0]
			queues[p] = queue[1:]
			s, ok := out.spans[p]
			if !ok {
				s.from = b.from
			}
			s.to = b.to
			out.spans[p] = s
			out.positions[p] = b.to
			out.records += b.read
			if out.oldest == 0 || b.loaded < out.oldest {
				out.oldest = b.loaded
			}
			if b.accepted > 0 && (!started || b.occurred > out.now) {
				out.now, started = b.occurred, true
			}
			left = append(left, p)
		}
		places = left
	}
	return out
}

// bookRow is a row by which the books advance.
type bookRow struct {
	cell
	mark int64
}

// snapshot is the predicate on (type, partition, offset) of what the cycle may see: the log below its
// positions, so that the result does not depend on what else has arrived.
func (b *batch) snapshot() string { return below(b.positions) }

func below(positions map[place]uint64) string {
	return "offset < " + lookUp(positions, func(at uint64) uint64 { return at })
}

// fresh is the predicate of the positions that the cycle takes.
func (b *batch) fresh() string {
	return "(offset >= " + lookUpOr(b.spans, func(s span) uint64 { return s.from }, "toUInt64(18446744073709551615)") +
		" AND offset < " + lookUp(b.spans, func(s span) uint64 { return s.to }) + ")"
}

func lookUp[V any](m map[place]V, of func(V) uint64) string { return lookUpOr(m, of, "toUInt64(0)") }

// lookUpOr is an expression that gives a number for (type, partition), or the default.
func lookUpOr[V any](m map[place]V, of func(V) uint64, none string) string {
	if len(m) == 0 {
		return none
	}
	places := make([]place, 0, len(m))
	for p := range m {
		places = append(places, p)
	}
	slices.SortFunc(places, comparePlaces)
	var keys, vals strings.Builder
	for i, p := range places {
		if i > 0 {
			keys.WriteByte(',')
			vals.WriteByte(',')
		}
		fmt.Fprintf(&keys, "%d", uint64(p.no)<<32|uint64(p.partition))
		fmt.Fprintf(&vals, "%d", of(m[p]))
	}
	return fmt.Sprintf("transform(bitShiftLeft(toUInt64(type), 32) + partition, CAST([%s], 'Array(UInt64)'), CAST([%s], 'Array(UInt64)'), %s)",
		keys.String(), vals.String(), none)
}

// ranges is the predicate of the positions of one event that the cycle takes; empty where it takes none.
func (b *batch) ranges(no uint8, partition, offset string) string {
	var parts []string
	for p, s := range b.spans {
		if p.no == no {
			parts = append(parts, fmt.Sprintf("(%s = %d AND %s >= %d AND %s < %d)", partition, p.partition, offset, s.from, offset, s.to))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	slices.Sort(parts)
	return "(" + strings.Join(parts, " OR ") + ")"
}

// numberOf returns the number of the event of a topic, or 0.
func numberOf(topic string) uint8 {
	for i := range uint8(16) {
		if typeOf(i+1).Topic == topic {
			return i + 1
		}
	}
	return 0
}

// quote is a string literal.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

package aggregate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Misfit is what store.facts or store.records lacked, or had too much, of the stored rows at the offsets
// [From, To) of a partition.
type Misfit struct {
	Table     string `json:"table"` // facts or records
	Topic     string `json:"topic"`
	Partition uint32 `json:"partition"`
	From      uint64 `json:"from_offset"`
	To        uint64 `json:"to_offset"` // exclusive
	Missing   uint64 `json:"missing"`   // rows of which there is nothing
	Changed   uint64 `json:"changed"`   // rows of which something else is there
	Extra     uint64 `json:"extra"`     // positions at which no row counts
}

// factsSlice is how many offsets are compared in one query, which bounds its memory.
const factsSlice = 500_000

// String is what does not fit, without where.
func (m *Misfit) String() string {
	return fmt.Sprintf("store.%s: %d missing, %d changed, %d of which no row counts", m.Table, m.Missing, m.Changed, m.Extra)
}

// VerifyFacts compares store.facts and store.records with the stored rows that they are made of, up to the
// aggregated positions, and calls found for what does not fit: never unless something is wrong. Cycles may go on
// meanwhile: what does not fit is looked at a second time.
func (a *Aggregator) VerifyFacts(ctx context.Context, found func(topic string, partition uint32, from, to, records uint64, detail string)) error {
	return a.eachMisfit(ctx, func(s slice, wrong misfits) error {
		m := s.misfit(wrong)
		found(m.Topic, m.Partition, m.From, m.To, m.Missing+m.Changed+m.Extra, m.String())
		return nil
	})
}

// MendFacts stores the facts and records that VerifyFacts misses, deletes those that are too much, and returns what
// it mended. Where that is anything aggregators forget what they remember; the cells are not touched: Rebuild is due.
func (a *Aggregator) MendFacts(ctx context.Context) ([]Misfit, error) {
	var out []Misfit
	err := a.eachMisfit(ctx, func(s slice, wrong misfits) error {
		out = append(out, s.misfit(wrong))
		return a.mend(ctx, s, wrong)
	})
	if err != nil || len(out) == 0 {
		return out, err
	}
	return out, a.tellRestored(ctx)
}

// slice is a part of one table that is compared at once.
type slice struct {
	table string // facts or records
	place
	span
}

// misfits are the offsets that do not fit, with the hashes of what should be there; empty: nothing should.
type misfits map[uint64]misfit

type misfit struct {
	want  []uint64
	empty bool // nothing is there
}

func (s slice) misfit(wrong misfits) Misfit {
	out := Misfit{Table: s.table, Topic: typeOf(s.no).Topic, Partition: s.partition}
	offsets := slices.Sorted(maps.Keys(wrong))
	out.From, out.To = offsets[0], offsets[len(offsets)-1]+1
	for _, m := range wrong {
		switch {
		case m.empty:
			out.Missing++
		case len(m.want) == 0:
			out.Extra++
		default:
			out.Changed++
		}
	}
	return out
}

// eachMisfit calls found for each slice in which something does not fit, of facts first: records follow from
// them when they are stored.
func (a *Aggregator) eachMisfit(ctx context.Context, found func(slice, misfits) error) error {
	if err := a.loadSources(ctx); err != nil {
		return err
	}
	books, err := a.readLive(ctx)
	if err != nil {
		return err
	}
	for _, table := range []string{"facts", "records"} {
		for _, p := range slices.SortedFunc(maps.Keys(books.positions), comparePlaces) {
			if a.sources[p.no] == "" || table == "facts" && p.no == revocation {
				continue
			}
			for from := uint64(0); from < books.positions[p]; from += factsSlice {
				s := slice{table, p, span{from, min(from+factsSlice, books.positions[p])}}
				wrong, err := a.compareSlice(ctx, s)
				if err != nil {
					return err
				}
				if len(wrong) == 0 {
					continue
				}
				// An erasure or a settled copy may have come between the tables that the query read.
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(a.opts.Interval):
				}
				again, err := a.compareSlice(ctx, s)
				if err != nil {
					return err
				}
				maps.DeleteFunc(again, func(offset uint64, _ misfit) bool { _, before := wrong[offset]; return !before })
				if len(again) == 0 {
					continue
				}
				if err := found(s, again); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// columns are those of the slice's table.
func (s slice) columns() []column {
	if s.table == "records" {
		return recordColumns
	}
	return factColumns
}

// hash is the expression of a row's hash, of both sides alike.
func (s slice) hash() string {
	var casts []string
	for _, c := range s.columns() {
		casts = append(casts, fmt.Sprintf("CAST(%s, %s)", c.name, quote(c.kind)))
	}
	return "sipHash64(" + strings.Join(casts, ", ") + ")"
}

// wanted is the query of the rows that the slice's table should have.
func (a *Aggregator) wanted(s slice) string {
	switch {
	case s.table == "facts":
		return fmt.Sprintf("SELECT %s FROM (%s)", factExpressions(s.no), a.sources[s.no])
	case s.no == revocation:
		return a.sources[s.no]
	}
	return fmt.Sprintf("SELECT rec, type, partition, offset, version, hash, grp, toUInt128(0) AS revocation, toInt64(0) AS up_to FROM (%s)", a.sources[s.no])
}

// String names the slice in errors.
func (s slice) String() string {
	return fmt.Sprintf("store.%s of %s/%d", s.table, typeOf(s.no).Topic, s.partition)
}

// at is the predicate of its rows.
func (s slice) at() string {
	return fmt.Sprintf("partition = %d AND offset >= %d AND offset < %d", s.partition, s.from, s.to)
}

// compareSlice finds the offsets of a slice whose rows in the table are not those that follow from the stored
// ones. What is erased or taken out, or about to be, is left out.
func (a *Aggregator) compareSlice(ctx context.Context, s slice) (misfits, error) {
	topic := quote(typeOf(s.no).Topic)
	query := fmt.Sprintf(`SELECT offset, arraySort(groupUniqArrayIf(h, side = 0)) AS want, arraySort(groupUniqArrayIf(h, side = 1)) AS have
		FROM (
			SELECT toUInt64(offset) AS offset, %[1]s AS h, 0 AS side FROM (%[2]s) WHERE %[3]s
			UNION ALL SELECT offset, %[1]s AS h, 1 AS side FROM store.%[4]s WHERE type = %[5]d AND gone = 0 AND %[3]s
			UNION ALL SELECT offset, 0 AS h, 2 AS side FROM store.%[4]s WHERE type = %[5]d AND gone = 1 AND %[3]s
			UNION ALL SELECT offset, 0 AS h, 2 AS side FROM store.erased WHERE topic = %[6]s AND %[3]s
			UNION ALL SELECT offset, 0 AS h, 2 AS side FROM store.superseded WHERE topic = %[6]s AND %[3]s
		) GROUP BY offset HAVING countIf(side = 2) = 0 AND want != have`,
		s.hash(), a.wanted(s), s.at(), s.table, s.no, topic)
	rows, err := a.query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("compare %s with the rows: %w", s, err)
	}
	defer rows.Close()
	out := misfits{}
	for rows.Next() {
		var offset uint64
		var want, have []uint64
		if err := rows.Scan(&offset, &want, &have); err != nil {
			return nil, fmt.Errorf("compare %s with the rows: %w", s, err)
		}
		out[offset] = misfit{want: want, empty: len(have) == 0}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("compare %s with the rows: %w", s, err)
	}
	return out, nil
}

// mendChunk is how many offsets a statement names.
const mendChunk = 5000

// mend stores what is right, then deletes what is not, so that no cycle in between finds nothing at all.
func (a *Aggregator) mend(ctx context.Context, s slice, wrong misfits) error {
	columns := names(s.columns())
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(wrong)), mendChunk) {
		var lacking, surplus, right []string
		for _, offset := range chunk {
			m := wrong[offset]
			at := fmt.Sprint(offset)
			if len(m.want) > 0 {
				lacking = append(lacking, at)
			}
			if !m.empty {
				surplus = append(surplus, at)
			}
			for _, h := range m.want {
				right = append(right, fmt.Sprintf("(%d, %d)", offset, h))
			}
		}
		if len(lacking) > 0 {
			settings := a.settings()
			maps.Copy(settings, clickhouse.Settings{"async_insert": 0, "insert_deduplicate": 0, "deduplicate_blocks_in_dependent_materialized_views": 0})
			query := fmt.Sprintf("INSERT INTO store.%s (%s) SELECT %s FROM (%s) WHERE %s AND offset IN (%s)",
				s.table, columns, columns, a.wanted(s), s.at(), strings.Join(lacking, ", "))
			if err := a.opts.DB.Exec(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), query); err != nil {
				return fmt.Errorf("mend %s: %w", s, err)
			}
		}
		if len(surplus) == 0 {
			continue
		}
		query := fmt.Sprintf("DELETE FROM store.%s WHERE type = %d AND gone = 0 AND %s AND offset IN (%s)",
			s.table, s.no, s.at(), strings.Join(surplus, ", "))
		if len(right) > 0 {
			query += fmt.Sprintf(" AND (offset, %s) NOT IN (%s)", s.hash(), strings.Join(right, ", "))
		}
		if err := a.exec(ctx, query); err != nil {
			return fmt.Errorf("mend %s: %w", s, err)
		}
	}
	return nil
}

// tellRestored has the books say that facts below the positions were stored again: aggregators remember which
// there are.
func (a *Aggregator) tellRestored(ctx context.Context) error {
	none := func(context.Context, func(id, cell, measures) error) error { return nil }
	for range 20 {
		books, err := a.readLive(ctx)
		if err != nil {
			return err
		}
		b := &batch{positions: books.positions, now: books.now, by: -1 - rand.Int64()}
		next := books.reach(b)
		next.restored++
		if _, _, err := a.insertDifference(ctx, books, next, none, true); err != nil {
			return fmt.Errorf("tell aggregators of facts stored again: %w", err)
		}
		after, err := a.readLive(ctx)
		if err != nil {
			return err
		}
		if after.by == b.by { // otherwise others came in between
			return nil
		}
	}
	return fmt.Errorf("tell aggregators of facts stored again: %w", errContended)
}

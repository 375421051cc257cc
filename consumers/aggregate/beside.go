package aggregate

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	wclickhouse "github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/fault"
)

// A generation of contributions is a table with books of its own. The live one is store.contrib; beside it
// there may be another: one that is being built anew, or the one that was live before. As long as it has a
// generation in its books, each cycle keeps it up as well, so that the two can be exchanged at any time.
//
// A cycle takes what follows the lower of the two positions, and brings each table from its own position to
// where the batch ends, or leaves it where it is beyond that. So whatever insert was lost, to a crash or to
// another aggregator, both come to be what the facts say, and rows of erased subjects are removed only when
// both no longer need them.
//
// An exchange may come at any moment of a cycle. An INSERT lands in the table that its name meant when it
// began, even where that was given another name since (a test has it so); the books are read again before
// the rows are sent, and nothing is sent where there was an exchange since, even two that gave the tables
// their names back: what the cycle read in between was of the other. So rows computed for one table never
// come into another.
const (
	liveTable   = "store.contrib"
	besideTable = "store.contrib_beside"
)

// pair are the books of both tables; beside is nil where there is no generation.
type pair struct{ live, beside *books }

func (a *Aggregator) readPair(ctx context.Context) (pair, error) {
	live, err := a.readLive(ctx)
	if err != nil {
		return pair{}, err
	}
	beside, err := a.readBooks(ctx, besideTable)
	if err != nil || beside.generation == 0 {
		return pair{live: live}, err
	}
	beside.exchanges = live.generation
	return pair{live, beside}, nil
}

func (a *Aggregator) readLive(ctx context.Context) (*books, error) {
	live, err := a.readBooks(ctx, liveTable)
	if err == nil {
		live.exchanges = live.generation
	}
	return live, err
}

// booksOf are the books of a table, with what readPair knows; nil where it has none.
func (a *Aggregator) booksOf(ctx context.Context, table string) (*books, error) {
	if table == liveTable { // the other has no say in it
		return a.readLive(ctx)
	}
	both, err := a.readPair(ctx)
	return both.beside, err
}

// replaced tells whether the name of b's table may have meant another since b was read.
func (b *books) replaced(now *books) bool {
	return now == nil || now.exchanges != b.exchanges || now.generation != b.generation || now.attached != b.attached
}

// base is how far both have come.
func (p pair) base() *books {
	if p.beside == nil {
		return p.live
	}
	out := *p.live
	out.beside = true
	out.now = min(p.live.now, p.beside.now)
	out.positions = map[place]uint64{}
	for at, offset := range p.live.positions {
		if other, ok := p.beside.positions[at]; ok {
			out.positions[at] = min(offset, other)
		}
	}
	return &out
}

// reach is where a table stands after a batch: never before where it stood.
func (b *books) reach(batch *batch) *books {
	out := &books{table: b.table, cycle: b.cycle + 1, now: max(b.now, batch.now), by: batch.by, restored: b.restored, positions: maps.Clone(b.positions)}
	if b.cycle == 0 {
		out.now = batch.now
	}
	for at, offset := range batch.positions {
		out.positions[at] = max(out.positions[at], offset)
	}
	return out
}

// rowsTo are the rows by which books advance.
func (b *books) rowsTo(next *books) []bookRow {
	out := []bookRow{bookOf("cycle", 0, int64(next.cycle-b.cycle)), bookOf("now", 0, next.now-b.now)}
	if next.by != b.by {
		out = append(out, bookOf("by", 0, next.by-b.by))
	}
	if next.restored != b.restored {
		out = append(out, bookOf("restored", 0, int64(next.restored-b.restored)))
	}
	for p, to := range next.positions {
		if from := b.positions[p]; to != from {
			out = append(out, bookOf(typeOf(p.no).Topic, p.partition, int64(to-from)))
		}
	}
	return out
}

func bookOf(name string, partition uint32, mark int64) bookRow {
	return bookRow{cell{nomenclature: name, area: areaBooks, month: uint16(partition)}, mark}
}

// insert is step (f), for the live table.
func (a *Aggregator) insert(ctx context.Context, books *books, batch *batch, work *work) error {
	_, err := a.insertInto(ctx, books, batch, work)
	return err
}

// insertBeside is step (f) for the generation beside that the cycle began with. Where others insert at the
// same time, it begins again; where the generation was replaced or exchanged, it leaves it to the next cycle.
func (a *Aggregator) insertBeside(ctx context.Context, began *books, batch *batch, work *work) error {
	for range 20 {
		books, err := a.booksOf(ctx, besideTable)
		if err != nil || began.replaced(books) {
			return err
		}
		next := books.reach(batch)
		sent, err := a.insertInto(ctx, books, batch, work)
		if err != nil {
			return err
		}
		if !sent {
			continue
		}
		// The token drops what came second without a word.
		after, err := a.readBooks(ctx, besideTable)
		if err != nil {
			return err
		}
		if after.cycle == next.cycle && after.now == next.now && maps.Equal(after.positions, next.positions) {
			return nil
		}
	}
	return fmt.Errorf("insert into %s: %w", besideTable, errContended)
}

// errContended says that others came in between too often. The next cycle tries again.
var errContended = errors.New("other inserts came in between twenty times")

// insertInto inserts what the work's groups lack in a table. It tells whether it sent anything: not where
// the table has another generation, or another cycle, by now.
func (a *Aggregator) insertInto(ctx context.Context, books *books, batch *batch, work *work) (sent bool, err error) {
	next := books.reach(batch)
	if work.restored && books.table == liveTable {
		next.restored++
	}
	difference, err := a.differenceOf(ctx, books, next, batch, work)
	if err != nil {
		return false, err
	}
	sent, _, err = a.insertDifference(ctx, books, next, difference, true)
	if err != nil {
		return false, fmt.Errorf("insert cycle %d of %d groups into %s: %w", next.cycle, len(work.groups), books.table, err)
	}
	return sent, nil
}

// differenceOf is what the work's groups lack in a table: by what is remembered, where that holds for the table.
func (a *Aggregator) differenceOf(ctx context.Context, books, next *books, batch *batch, work *work) (differ, error) {
	if work.memory.holds(books) {
		return func(ctx context.Context, emit func(id, cell, measures) error) error {
			return a.differenceKnown(ctx, books, next, work, emit)
		}, nil
	}
	if work.memory != nil { // others came in between: from here on all is looked up
		work.memory.forget()
		for g := range work.parts {
			work.groups[g] = true
		}
		work.memory, work.parts = nil, nil
		if _, err := a.offersNamed(ctx, batch, work); err != nil {
			return nil, err
		}
	}
	touched, err := work.table()
	if err != nil {
		return nil, err
	}
	return a.differenceIn(scope{wanted: wantedGroups, read: readGroups, snapshot: below(next.positions), touched: touched, table: books.table}, next.now), nil
}

// differ calls emit for each cell of a group that a table lacks.
type differ func(ctx context.Context, emit func(id, cell, measures) error) error

func (a *Aggregator) differenceIn(s scope, now int64) differ {
	return func(ctx context.Context, emit func(id, cell, measures) error) error {
		return a.difference(ctx, s, now, emit)
	}
}

// insertDifference inserts what groups lack in a table, with its books, and tells how many cells that
// were. A native batch travels as one block, and the table is not partitioned, so it becomes one part under
// one token: all of it counts or nothing. Where nothing is lacking it inserts only if it is told to.
func (a *Aggregator) insertDifference(ctx context.Context, books, next *books, difference differ, always bool) (sent bool, differing int, err error) {
	out, err := a.prepare(ctx, books.table, fmt.Sprintf("aggregate/%d", next.cycle))
	if err != nil {
		return false, 0, err
	}
	defer func() { _ = out.Close() }() // after Send it does nothing
	now := fault.Now().UTC()
	err = difference(ctx, func(g id, k cell, m measures) error {
		differing++
		return appendCell(out, g, k, m, now)
	})
	if err != nil {
		return false, differing, err
	}
	for _, row := range books.rowsTo(next) {
		if err := appendCell(out, id{}, row.cell, measures{mark: row.mark}, now); err != nil {
			return false, differing, err
		}
	}
	// The token drops a cycle that another aggregator has done, as long as the table remembers it. Whoever
	// slept longer than that sees it here; and whether the name still means that table.
	again, err := a.booksOf(ctx, books.table)
	if err != nil {
		return false, differing, err
	}
	if books.replaced(again) || again.cycle != books.cycle || again.restored != books.restored {
		return false, differing, nil
	}
	if differing == 0 && !always {
		return true, 0, nil
	}
	err = out.Send()
	var failure *clickhouse.Exception
	if books.table == besideTable && errors.As(err, &failure) && failure.Code == codeAborted {
		return false, differing, nil
	}
	return true, differing, err
}

// codeAborted is the engine's code of an insert whose table was dropped meanwhile.
const codeAborted = 236

// prepare begins an insert that is one part, known by its token in this life of the engine: a token that was
// taken without rows when the engine died would else be refused for ever, and with it all cycles. The insert
// is of the same life, or fails: the epoch that was read before it began is read again when it has begun, and
// its connection ends with the engine.
func (a *Aggregator) prepare(ctx context.Context, table, token string) (driver.Batch, error) {
	epoch, err := wclickhouse.Epoch(ctx, a.opts.DB)
	if err != nil {
		return nil, err
	}
	settings := a.settings()
	settings["insert_deduplication_token"] = fmt.Sprintf("%s/%x", token, epoch)
	settings["insert_deduplicate"] = 1
	settings["min_insert_block_size_rows"] = 1 << 40
	settings["min_insert_block_size_bytes"] = 0
	settings["max_insert_threads"] = 1
	settings["optimize_on_insert"] = 0
	settings["async_insert"] = 0
	out, err := a.opts.DB.PrepareBatch(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), insertContrib(table))
	if err != nil {
		return nil, err
	}
	now, err := wclickhouse.Epoch(ctx, a.opts.DB)
	if err == nil && now != epoch {
		err = errEngineStarted
	}
	if err != nil {
		return nil, errors.Join(err, out.Abort())
	}
	return out, nil
}

// errEngineStarted says that an insert was begun in one life of the engine with the token of another.
var errEngineStarted = errors.New("the engine was started again")

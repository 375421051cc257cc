package aggregate

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
)

// Recompute brings the cells in line with rows that were stored again, those of a topic's partition in
// [from, to): a replay restores rows, and their facts, below the positions that the cycles have come to, so
// no cycle would look at their groups, nor for erasures that came while they were away. Beyond these
// positions it does nothing, for a cycle comes there. It may run beside the cycles of other aggregators:
// where one comes in between, it begins again.
func (a *Aggregator) Recompute(ctx context.Context, topic string, partition int, from, to int64) error {
	no := numberOf(topic)
	if a.opts.DB == nil || no == 0 || partition < 0 || int64(partition) > math.MaxUint32 || from < 0 {
		return fmt.Errorf("recompute cells of %s/%d from offset %d: no such rows", topic, partition, from)
	}
	if err := a.loadSources(ctx); err != nil {
		return err
	}
	p, restored := place{no, uint32(partition)}, span{uint64(from), uint64(to)}
	err := errContended
	for range 20 {
		var before, after *books
		if before, err = a.readLive(ctx); err != nil {
			break
		}
		for _, table := range []string{besideTable, liveTable} { // the live one last: then what was erased goes
			if err = a.recompute(ctx, table, p, restored); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
		if after, err = a.readLive(ctx); err != nil || !before.replaced(after) {
			break
		}
		err = errContended // the two were exchanged: one of them may have been missed
	}
	if err != nil {
		return fmt.Errorf("recompute cells of %s/%d from offset %d to %d: %w", topic, partition, from, to, err)
	}
	return nil
}

func (a *Aggregator) recompute(ctx context.Context, table string, p place, restored span) error {
	told := table == besideTable
	for range 20 {
		books, err := a.booksOf(ctx, table)
		if err != nil || books == nil {
			return err
		}
		books.beside = table == besideTable
		rows := span{restored.from, min(restored.to, books.positions[p])}
		if rows.from >= rows.to {
			return nil
		}
		b := &batch{spans: map[place]span{p: rows}, positions: books.positions, now: books.now, by: -1 - rand.Int64()}
		work := newWork()
		if _, err := a.erase(ctx, b, work); err != nil {
			return err
		}
		orphans, err := a.orphans(ctx, p, rows, work)
		if err != nil {
			return err
		}
		if _, err := a.touch(ctx, books, b, work); err != nil {
			return err
		}
		differing, err := a.differing(ctx, table, b, work)
		if err != nil || differing == 0 && table == besideTable {
			return err
		}
		if differing == 0 && told {
			if orphans.only != "" {
				if err := a.remove(ctx, orphans); err != nil {
					return err
				}
			}
			return a.sweepFound(ctx, books)
		}
		// Where no cell differs too, the books say that rows were restored: aggregators remember which groups there are.
		work.restored = !told
		if _, err := a.insertInto(ctx, books, b, work); err != nil {
			return err
		}
		if !told {
			after, err := a.readBooks(ctx, table)
			if err != nil {
				return err
			}
			told = after.by == b.by // otherwise others came in between
		}
	}
	return errContended
}

// orphans are facts of rows that were lost when their subject was erased, so that no erasure found them: the
// replay has booked their positions as erased, without a source. It takes them out of the cells, and returns
// how to remove them once the cells are right; nothing where there are none.
func (a *Aggregator) orphans(ctx context.Context, p place, rows span, work *work) (removal, error) {
	topic := quote(typeOf(p.no).Topic)
	out := removal{
		table: "store.facts", verb: "DELETE FROM store.facts", partition: "partition", offset: "offset",
		only: fmt.Sprintf("type = %d AND gone = 0 AND partition = %d AND offset >= %d AND offset < %d", p.no, p.partition, rows.from, rows.to),
		at:   fmt.Sprintf("SELECT partition, offset FROM store.erased WHERE topic = %s AND source = '' AND partition = %d AND offset >= %d AND offset < %d", topic, p.partition, rows.from, rows.to),
	}
	marks, err := a.readMarks(ctx, fmt.Sprintf("SELECT %s FROM store.facts WHERE %s AND (partition, offset) IN (%s)", markColumns, out.only, out.at))
	if err != nil || len(marks) == 0 {
		return removal{}, err
	}
	return out, a.bury(ctx, marks, work)
}

// sweepFound removes the rows of erased subjects, where some were found.
func (a *Aggregator) sweepFound(ctx context.Context, books *books) error {
	if !a.pending {
		return nil
	}
	a.sweepAll = true
	return a.sweep(ctx, books.positions)
}

// differing counts the cells of the work's groups that are not what their facts say.
func (a *Aggregator) differing(ctx context.Context, table string, b *batch, work *work) (n int, err error) {
	if len(work.groups) == 0 {
		return 0, nil
	}
	touched, err := work.table()
	if err != nil {
		return 0, err
	}
	err = a.difference(ctx, scope{wanted: wantedGroups, read: readGroups, snapshot: b.snapshot(), touched: touched, table: table}, b.now, func(id, cell, measures) error {
		n++
		return nil
	})
	return n, err
}

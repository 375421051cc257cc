package aggregate

import (
	"context"
	"fmt"
	"math"
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
	for _, table := range []string{liveTable, besideTable} {
		if err := a.recompute(ctx, table, place{no, uint32(partition)}, span{uint64(from), uint64(to)}); err != nil {
			return fmt.Errorf("recompute cells of %s/%d from offset %d to %d: %w", topic, partition, from, to, err)
		}
	}
	return nil
}

func (a *Aggregator) recompute(ctx context.Context, table string, p place, restored span) error {
	for range 20 {
		books, err := a.readBooks(ctx, table)
		if err != nil || table == besideTable && books.generation == 0 {
			return err
		}
		rows := span{restored.from, min(restored.to, books.positions[p])}
		if rows.from >= rows.to {
			return nil
		}
		b := &batch{spans: map[place]span{p: rows}, positions: books.positions, now: books.now}
		work := newWork()
		if _, err := a.touch(ctx, books, b, work); err != nil {
			return err
		}
		differing, err := a.differing(ctx, table, b, work)
		if err != nil || differing == 0 {
			return err
		}
		if _, err := a.insertInto(ctx, books, b, work); err != nil {
			return err
		}
	}
	return errContended
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

package aggregate

import (
	"context"
	"fmt"
	"math"
)

// Recompute brings the cells in line with rows that were stored again, those of a topic's partition in
// [from, to): a replay restores rows, and their facts, below the positions that the cycles have come to, so
// no cycle would look at their groups. Beyond these positions it does nothing, for a cycle comes there. It
// may run beside the cycles of other aggregators: where one comes in between, it begins again.
func (a *Aggregator) Recompute(ctx context.Context, topic string, partition int, from, to int64) error {
	no := numberOf(topic)
	if a.opts.DB == nil || no == 0 || partition < 0 || int64(partition) > math.MaxUint32 || from < 0 {
		return fmt.Errorf("recompute cells of %s/%d from offset %d: no such rows", topic, partition, from)
	}
	if err := a.loadSources(ctx); err != nil {
		return err
	}
	if a.sources[no] == "" {
		return nil // counts in no cell
	}
	p := place{no, uint32(partition)}
	for range 20 {
		books, err := a.readBooks(ctx)
		if err != nil {
			return err
		}
		rows := span{uint64(from), min(uint64(to), books.positions[p])}
		if rows.from >= rows.to {
			return nil
		}
		b := &batch{spans: map[place]span{p: rows}, positions: books.positions, now: books.now}
		work := newWork()
		if _, err := a.touch(ctx, books, b, work); err != nil {
			return err
		}
		b.spans = nil // the positions stay
		differing, err := a.differing(ctx, b, work)
		if err != nil || differing == 0 {
			return err
		}
		if err := a.insert(ctx, books, b, work); err != nil {
			return err
		}
	}
	return fmt.Errorf("recompute cells of %s/%d from offset %d to %d: other cycles came in between twenty times", topic, partition, from, to)
}

// differing counts the cells of the work's groups that are not what their facts say.
func (a *Aggregator) differing(ctx context.Context, b *batch, work *work) (n int, err error) {
	touched, err := work.table()
	if err != nil {
		return 0, err
	}
	err = a.difference(ctx, scope{wanted: wantedGroups, read: readGroups, snapshot: b.snapshot(), touched: touched}, b.now, func(id, cell, measures) error {
		n++
		return nil
	})
	return n, err
}

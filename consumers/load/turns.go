package load

import (
	"context"
	"slices"
	"sync"

	"github.com/welfarehub/welfarehub/pkg/record"
)

// turns lets the blocks of a topic through to the store one at a time, in the order in which their ids went
// into the filter: so a block finds stored what the filter knows from an earlier one, and only the reading of
// the next block, not the look-up of its known ids, goes on beside an insert.
type turns struct {
	mu    sync.Mutex
	queue []*turn
}

// turn is a place in the queue.
type turn struct{ first chan struct{} } // closed when all before it have left

// take returns the last place.
func (q *turns) take() *turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &turn{make(chan struct{})}
	q.queue = append(q.queue, t)
	if len(q.queue) == 1 {
		close(t.first)
	}
	return t
}

// await waits until all before have left.
func (t *turn) await(ctx context.Context) error {
	select {
	case <-t.first:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave gives a place up, from wherever it is.
func (q *turns) leave(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.queue, t)
	q.queue = slices.Delete(q.queue, i, i+1)
	if i == 0 && len(q.queue) > 0 {
		close(q.queue[0].first)
	}
}

// blocksAhead is how many blocks of a topic may be decided and not yet stored: one goes into the store, one
// waits for it. Each has columns of its own.
const blocksAhead = 2

// largeBlocks is how many blocks of a topic may be large at once: one is fetched, one decided, one stored and one
// told.
const largeBlocks = 4

// columns takes columns for a block, which waits while blocksAhead blocks have theirs.
func (t *topic) columns(ctx context.Context) (*record.Columns, error) {
	select {
	case c := <-t.ahead:
		if c == nil {
			c = record.NewColumns(t.Type)
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

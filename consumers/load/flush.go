package load

import (
	"sync"
	"sync/atomic"
	"time"
)

// rounds tells how long a block waits for more records: as long as a round takes, in which each partition
// that has something stores a block, one after the other. Small blocks cost the store most of what large
// ones do, so where there is little a block goes at once, and where there is much, blocks grow instead of
// queueing. It is what an instance sees of itself: others make its inserts slower, and so its rounds longer.
type rounds struct {
	mu     sync.Mutex
	stored map[position]time.Time // when a partition last stored a block
	each   time.Duration          // how long a block takes to be stored: a mean of late
}

const (
	roundMemory = 2 * time.Second       // a partition that stored nothing for so long has no place in the round
	leastAge    = 10 * time.Millisecond // of a block
)

// done says that a partition stored a block, and how long that took.
func (r *rounds) done(p position, now time.Time, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stored == nil {
		r.stored, r.each = map[position]time.Time{}, took
	}
	r.stored[p] = now
	r.each += (took - r.each) / 8
}

// age is how long the next block of a partition waits for more records, at most limit.
func (r *rounds) age(p position, now time.Time, limit time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 1 // with its own
	for other, at := range r.stored {
		switch {
		case now.Sub(at) > roundMemory:
			delete(r.stored, other)
		case other != p:
			n++
		}
	}
	return min(max(time.Duration(n)*r.each, leastAge), limit)
}

// budget bounds the records that all blocks in work hold, in bytes of what the broker sent, about. A block
// takes a first fetch in any case, so that none waits for another; it gathers no more where too much is held.
type budget struct{ held atomic.Int64 }

func (b *budget) exceeds(limit int) bool { return b.held.Load() > int64(limit) }

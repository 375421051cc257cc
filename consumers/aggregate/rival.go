package aggregate

import "time"

// rival is another aggregator of the same tables: each loader has one. Both would do the same work, of which one
// insert counts; so who sees that another inserts cycles leaves them to it, as long as it goes on.
type rival struct {
	watched bool
	cycle   uint64
	seen    time.Time     // when its last cycle was seen; zero: none was
	gap     time.Duration // between its last two
}

// Bounds of how long a rival's next cycle is waited for: twice as long as the last one took, and no shorter than
// freshness needs it, nor longer than the death of a rival may go unnoticed.
const (
	leastPatience = 2 * time.Second
	mostPatience  = 30 * time.Second
)

// leads tells whether the next cycle is the rival's. own says that the last cycle is the caller's.
func (r *rival) leads(live *books, own bool, now time.Time) bool {
	switch {
	case own || !r.watched:
		r.seen = time.Time{} // what was done before anyone watched is no rival's
	case live.cycle != r.cycle && live.by >= 0:
		if !r.seen.IsZero() {
			r.gap = now.Sub(r.seen)
		}
		r.seen = now
	}
	r.watched, r.cycle = true, live.cycle
	return !r.seen.IsZero() && now.Sub(r.seen) < min(max(2*r.gap, leastPatience), mostPatience)
}

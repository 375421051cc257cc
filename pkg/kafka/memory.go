package kafka

import (
	"slices"
	"sync"
)

// Memory is buffers that Fetchers share: what one releases the next takes, so that large batches of many
// partitions cost the memory of those in work, not of all that ever were. Safe for concurrent use.
type Memory struct {
	mu    sync.Mutex
	free  [][]byte // oldest first
	bytes int      // of free
	kept  int      // at most
}

// keptBuffer bounds a buffer that is kept: what a batch took that was larger than batches are is given back.
const keptBuffer = 8 << 20

// NewMemory keeps at most so many bytes of free buffers.
func NewMemory(kept int) *Memory { return &Memory{kept: kept} }

// take returns a buffer of n bytes with any content: the smallest free one that is large enough and not much
// larger, or a new one.
func (m *Memory) take(n int) []byte {
	m.mu.Lock()
	best := -1
	for i, b := range m.free {
		if cap(b) >= n && cap(b) <= 2*n+64<<10 && (best < 0 || cap(b) < cap(m.free[best])) {
			best = i
		}
	}
	if best < 0 {
		m.mu.Unlock()
		return make([]byte, n, n+n/8)
	}
	b := m.free[best]
	m.free = slices.Delete(m.free, best, best+1)
	m.bytes -= cap(b)
	m.mu.Unlock()
	return b[:n]
}

// give takes a buffer that nothing aliases. It gives up the oldest free ones where there are too many.
func (m *Memory) give(b []byte) {
	if cap(b) > min(keptBuffer, m.kept) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = append(m.free, b)
	m.bytes += cap(b)
	old := 0
	for ; m.bytes > m.kept; old++ {
		m.bytes -= cap(m.free[old])
	}
	m.free = slices.Delete(m.free, 0, old)
}

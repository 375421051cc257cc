package kafka

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMemoryTakesTheSmallestThatFits(t *testing.T) {
	m := NewMemory(1 << 20)
	for _, n := range []int{300 << 10, 200 << 10, 100 << 10} {
		m.give(make([]byte, n))
	}
	if b := m.take(150 << 10); cap(b) != 200<<10 || len(b) != 150<<10 {
		t.Errorf("took %d of %d bytes", len(b), cap(b))
	}
	if b := m.take(1 << 10); cap(b) > 2<<10 {
		t.Errorf("took a buffer of %d bytes for a thousand", cap(b))
	}
	if m.bytes != 400<<10 || len(m.free) != 2 {
		t.Errorf("%d bytes in %d buffers are free", m.bytes, len(m.free))
	}
}

// TestMemoryKeepsNoMoreThanItMay gives and takes at random.
func TestMemoryKeepsNoMoreThanItMay(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	m := NewMemory(100 << 10)
	var taken [][]byte
	for range 10_000 {
		if len(taken) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(taken))
			m.give(taken[i])
			taken[i] = taken[len(taken)-1]
			taken = taken[:len(taken)-1]
		} else {
			taken = append(taken, m.take(1+r.IntN(120<<10)))
		}
		sum := 0
		seen := map[*byte]bool{}
		for _, b := range slices.Concat(m.free, taken) {
			if p := &b[:1][0]; seen[p] {
				t.Fatalf("seed %d: a buffer is twice there", seed)
			} else {
				seen[p] = true
			}
		}
		for _, b := range m.free {
			sum += cap(b)
		}
		if sum != m.bytes || sum > 100<<10 {
			t.Fatalf("seed %d: %d bytes are free, booked are %d", seed, sum, m.bytes)
		}
	}
}

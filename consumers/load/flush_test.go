package load

import (
	"testing"
	"time"
)

func TestABlockWaitsForARound(t *testing.T) {
	const limit = 500 * time.Millisecond
	now := time.Now()
	p := func(n int) position { return position{"a", n} }
	var r rounds
	if got := r.age(p(0), now, limit); got != leastAge {
		t.Errorf("the first block waits %s", got)
	}
	for n := range 4 {
		r.done(p(n), now, 20*time.Millisecond)
	}
	for _, c := range []struct {
		name string
		p    position
		at   time.Time
		want time.Duration
	}{
		{"one of four", p(0), now, 80 * time.Millisecond},
		{"a fifth", p(9), now, 100 * time.Millisecond},
		{"the others have nothing any more", p(0), now.Add(roundMemory + 1), 20 * time.Millisecond},
	} {
		if got := r.age(c.p, c.at, limit); got != c.want {
			t.Errorf("%s: waits %s, want %s", c.name, got, c.want)
		}
	}
	for n := range 100 {
		r.done(p(n), now, 20*time.Millisecond)
	}
	if got := r.age(p(0), now, limit); got != limit {
		t.Errorf("of a hundred partitions: waits %s, want %s", got, limit)
	}
	for range 100 {
		r.done(p(0), now.Add(2*roundMemory), time.Second)
	}
	if got := r.age(p(0), now.Add(2*roundMemory), time.Minute); got < 990*time.Millisecond || got > time.Second {
		t.Errorf("of a slow store: waits %s, want about a second", got)
	}
}

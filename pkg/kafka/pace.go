package kafka

import (
	"context"
	"time"
)

// Pace keeps whoever reads or publishes records below a rate. Its time begins with the first Wait.
type Pace struct {
	PerSecond float64 // records; 0 or less: no limit
	begin     time.Time
	done      int
}

// Wait is called after n records, and returns when the next may come. Before all records it may be called
// with 0, so that the time of the first ones counts too.
func (p *Pace) Wait(ctx context.Context, n int) error {
	if p.PerSecond <= 0 {
		return nil
	}
	if p.begin.IsZero() {
		p.begin = time.Now()
	}
	p.done += n
	ahead := time.Duration(float64(p.done)/p.PerSecond*float64(time.Second)) - time.Since(p.begin)
	if ahead <= 0 {
		return nil
	}
	return sleep(ctx, ahead)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

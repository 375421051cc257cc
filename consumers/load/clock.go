package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/welfarehub/welfarehub/pkg/fault"
)

// clock tells the time as ClickHouse has it. All instances stamp their decisions with it, for what looks at
// blocks of about one time (consumers/aggregate, for copies that raced) must not depend on the clocks of
// their machines: one that is two days back hid its copies.
type clock struct {
	mu    sync.Mutex
	there time.Time // ClickHouse's time
	here  time.Time // ours then
}

// clockAge is how old the comparison of the clocks may be. Between two of them ours only measures.
const clockAge = 10 * time.Second

// now is the time. Until the clocks were compared it is ours.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.here.IsZero() {
		return fault.Now().UTC()
	}
	return c.there.Add(time.Since(c.here)) // by the monotonic clock: a change of ours does no harm
}

// sync compares the clocks, where that is long ago.
func (c *clock) sync(ctx context.Context, s *store) error {
	c.mu.Lock()
	fresh := !c.here.IsZero() && time.Since(c.here) < clockAge
	c.mu.Unlock()
	if fresh {
		return nil
	}
	var now proto.ColInt64
	err := s.do(ctx, ch.Query{Body: "SELECT toUnixTimestamp64Milli(now64(3)) AS now", Result: proto.Results{{Name: "now", Data: &now}}})
	if err != nil || len(now) == 0 {
		return fmt.Errorf("read ClickHouse's clock: %w", errors.Join(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.there, c.here = time.UnixMilli(now[0]).UTC(), time.Now()
	return nil
}

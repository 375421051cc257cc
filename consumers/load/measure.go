package load

import (
	"context"
	"errors"
	"fmt"
)

// stored counts a block that is stored, and is this instance's.
func (w *worker) stored() {
	b, m, t := w.decided, w.l.opt.Metrics, w.topic
	c := b.counts()
	w.l.stats.add(t.Topic, c)
	if m == nil {
		return
	}
	rejects := map[string]int64{}
	for i := range b.ends {
		if why := b.ends[i].why; why != nil {
			rejects[why.Code]++
		}
	}
	m.Block(t.Topic, c.Loaded, c.Duplicate, c.Rejected, b.gone, rejects)
	t.mu.Lock()
	defer t.mu.Unlock()
	m.Filter(t.Topic, t.filter.Bytes(), t.filter.Len())
}

// left says that the instance is no member of the group now.
func (l *Loader) left() {
	l.member.Store(false)
	l.opt.Metrics.Left()
}

// errNoMember says that the group has given this instance no generation yet, or none any more.
var errNoMember = errors.New("not a member of the consumer group")

// Ready tells whether the loader can do its job: it is a member of its group, and ClickHouse answers.
func (l *Loader) Ready(ctx context.Context) error {
	if !l.member.Load() {
		return fmt.Errorf("group %s: %w", l.opt.Group, errNoMember)
	}
	c, err := l.store.connect(ctx)
	if err != nil {
		return fmt.Errorf("ask ClickHouse: %w", err)
	}
	c.release()
	return nil
}

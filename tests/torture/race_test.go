package torture

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// TestSameIDAtOnceOnTwoPartitions sends each event of family demand to two partitions at the same moment. Two loaders own
// them, and each waits between the decision of a block and its insert, so that neither can know of the other's. One row
// of each event must count in the end; what a reader sees meanwhile is measured.
func TestSameIDAtOnceOnTwoPartitions(t *testing.T) {
	gated(t, true)
	runs(t, "one id on two partitions at once", rounds(), func(t *testing.T, r run) {
		w := newWorld(t, r, "", 2)
		var seen meanwhile
		w.race(func() {
			const faults = "sleep:after-decide:1+300ms"
			one, two := w.load(faults), w.load(faults)
			w.eventually("both have partitions", func() bool { return one.assigned() && two.assigned() })
			w.eventually("each has some", func() bool { return !w.alone() })
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				seen = w.watch(ctx)
			}()
			for range 8 {
				w.publishTwice(150)
				sleep(t, r.duration(0, 400*time.Millisecond))
			}
			w.drain()
			stop()
			<-done
		})
		n, err := w.number("SELECT count() FROM store.superseded")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d raced; %s", n, seen)
		if seen.counted > 0 {
			t.Errorf("cells counted an event twice: %s", seen)
		}
		if n < 100 {
			t.Errorf("only %d events raced", n)
		}
	})
}

// alone tells whether a loader has all partitions, by its last assignment.
func (w *world) alone() bool {
	for _, p := range w.living() {
		out := p.Out.String()
		last := out[max(0, strings.LastIndex(out, "partitions assigned")):]
		if strings.HasPrefix(last, `partitions assigned","partitions":21`) {
			return true
		}
	}
	return false
}

// race has a simulation without rejects, which would be told twice, run by f through publishTwice, and finishes.
func (w *world) race(f func()) {
	w.t.Helper()
	cfg := w.config()
	cfg.Invalid, cfg.Erasures = 0, 0
	w.simulate(cfg)
	f()
	w.finish(func(truth *simulate.Truth) {
		for topic, end := range truth.Topics {
			if event.ByTopic(topic).Family == event.FamilyDemand {
				end.Duplicate += end.Sent
				end.Sent *= 2
				truth.Topics[topic] = end
			}
		}
	})
}

// publishTwice sends the next n messages, those of family demand to both of two partitions.
func (w *world) publishTwice(n int) {
	w.t.Helper()
	var msgs []kafka.Message
	for range n {
		m, _ := w.sim.Next()
		msg := kafka.Message{Topic: m.Topic, Key: bytes.Clone(m.Key), Value: bytes.Clone(m.Value), Time: m.Timestamp}
		for _, x := range m.Headers {
			msg.Headers = append(msg.Headers, kafka.Header{Key: x.Key, Value: bytes.Clone(x.Value)})
		}
		msgs = append(msgs, msg)
		if event.ByTopic(m.Topic).Family == event.FamilyDemand {
			msgs = append(msgs, msg)
		}
	}
	next := map[string]int{}
	w.writer.Balancer = kafka.BalancerFunc(func(m kafka.Message, partitions ...int) int {
		next[m.Topic]++
		return partitions[next[m.Topic]%len(partitions)]
	})
	if err := w.writer.WriteMessages(w.t.Context(), msgs...); err != nil {
		w.t.Fatal(err)
	}
	w.sent += len(msgs)
}

// meanwhile is what a reader saw while copies raced.
type meanwhile struct {
	looks, doubled int           // looks, and those that saw an event twice
	most           int64         // rows too many
	longest        time.Duration // an event was seen twice in all looks over this time
	counted        int           // looks at which a cell counted an event twice
}

func (m meanwhile) String() string {
	return fmt.Sprintf("of %d looks at welfare.service_requested %d saw events twice, %d rows at most, over %s at most; %d saw more requests in supply_demand than there are",
		m.looks, m.doubled, m.most, m.longest.Round(10*time.Millisecond), m.counted)
}

// watch looks at the requests, as a reader does, until ctx ends.
func (w *world) watch(ctx context.Context) meanwhile {
	var m meanwhile
	var since time.Time
	for ctx.Err() == nil {
		n, err := w.number("SELECT count() - uniqExact(source, event_id) FROM welfare.service_requested")
		if err != nil {
			continue
		}
		m.looks++
		if n == 0 {
			since = time.Time{}
		} else {
			m.doubled++
			m.most = max(m.most, n)
			if since.IsZero() {
				since = time.Now()
			}
			m.longest = max(m.longest, time.Since(since))
		}
		if m.looks%8 != 0 {
			continue
		}
		over, err := w.number("SELECT (SELECT toInt64(sum(requests)) FROM welfare.supply_demand WHERE level = 'COUNTRY') - (SELECT toInt64(uniqExact(source, source_record_id)) FROM welfare.service_requested)")
		if err == nil && over > 0 {
			m.counted++
		}
	}
	return m
}

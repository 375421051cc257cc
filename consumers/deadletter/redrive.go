package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// Redrive says how letters are published again.
type Redrive struct {
	All      bool // also those that would be rejected again
	DryRun   bool
	Who, Why string
	Rate     float64 // letters a second at most; 0: no limit
}

// Redriven is what a redrive did, or a dry one would do.
type Redriven struct {
	Selected  uint64            `json:"selected"`  // open rejects that have a letter
	Published uint64            `json:"published"` //
	Failing   uint64            `json:"failing"`   // left, for they would be rejected again
	Withheld  uint64            `json:"withheld"`  // left, for the letter holds nothing of the original
	Cut       uint64            `json:"cut"`       // left, for the value is not whole
	Without   uint64            `json:"without"`   // left, for the letter is gone
	Codes     map[string]uint64 `json:"codes"`     // of the failing
}

// Redrive publishes the open letters of a selection again, each with its original key, value and headers, as
// new offsets of its topic, and writes down where. Those that have no key go to the partition where they were.
func (d *Desk) Redrive(ctx context.Context, s Selection, o Redrive) (Redriven, error) {
	s.State = "open"
	out := Redriven{Codes: map[string]uint64{}}
	if !o.DryRun && o.Why == "" {
		return out, fmt.Errorf("%w: say why, for the audit", ErrSelection)
	}
	tr := d.Cluster.Transport()
	defer tr.CloseIdleConnections()
	p := &publisher{}
	p.writer = d.Cluster.Writer(tr, 16<<20)
	p.writer.Balancer, p.writer.Completion = sameWhereNoKey{}, p.acknowledged
	defer p.writer.Close()
	pace := wkafka.Pace{PerSecond: o.Rate}
	if err := pace.Wait(ctx, 0); err != nil {
		return out, err
	}
	without, err := d.Explain(ctx, s, func(letters []Explained) error {
		var send []*Explained
		for i := range letters {
			e := &letters[i]
			out.Selected++
			switch {
			case e.Answer == Withheld:
				out.Withheld++
			case e.Answer == Cut:
				out.Cut++
			case e.Answer == Fails && !o.All:
				out.Failing++
				out.Codes[e.Code]++
			default:
				send = append(send, e)
			}
		}
		if o.DryRun {
			out.Published += uint64(len(send))
			return nil
		}
		for chunk := range slices.Chunk(send, chunkOf(o.Rate)) {
			acked, err := p.publish(ctx, chunk)
			if d.AfterPublish != nil {
				err = errors.Join(err, d.AfterPublish())
			}
			if d.AfterPublish == nil || err == nil {
				err = errors.Join(err, d.settle(context.WithoutCancel(ctx), acked, o))
				out.Published += uint64(len(acked))
			}
			if err != nil {
				return err
			}
			if err := pace.Wait(ctx, len(acked)); err != nil {
				return err
			}
		}
		return nil
	})
	out.Without = without
	return out, err
}

// chunkOf is how many letters are published at once.
func chunkOf(rate float64) int {
	if rate > 0 {
		return min(batchLetters, max(1, int(rate/2)))
	}
	return batchLetters
}

// sameWhereNoKey sends records by their key, as all producers do, and those without one to where they were.
type sameWhereNoKey struct{}

func (sameWhereNoKey) Balance(m kafka.Message, partitions ...int) int {
	if l, ok := m.WriterData.(*Explained); ok && len(m.Key) == 0 {
		if p := int(l.Partition); slices.Contains(partitions, p) {
			return p
		}
		return partitions[0]
	}
	return kafka.Murmur2Balancer{}.Balance(m, partitions...)
}

// publisher publishes and learns where records came to lie.
type publisher struct {
	writer *kafka.Writer
	mu     sync.Mutex
	acked  []sent
}

// sent is a letter and its new place.
type sent struct {
	*Explained
	partition int
	offset    int64
}

func (p *publisher) acknowledged(msgs []kafka.Message, err error) {
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range msgs {
		if e, ok := m.WriterData.(*Explained); ok {
			p.acked = append(p.acked, sent{e, m.Partition, m.Offset})
		}
	}
}

// publish returns what was acknowledged, also where it fails.
func (p *publisher) publish(ctx context.Context, letters []*Explained) ([]sent, error) {
	msgs := make([]kafka.Message, len(letters))
	for i, e := range letters {
		msgs[i] = kafka.Message{Topic: e.Topic, Key: e.Key, Value: e.Value, Headers: e.Headers, WriterData: e}
	}
	err := p.writer.WriteMessages(ctx, msgs...)
	if err != nil {
		err = fmt.Errorf("publish %d letters of %s again: %w", len(msgs), letters[0].Topic, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	acked := p.acked
	p.acked = nil
	return acked, err
}

// settle writes down what was published.
func (d *Desk) settle(ctx context.Context, letters []sent, o Redrive) error {
	if len(letters) == 0 {
		return nil
	}
	out, err := d.DB.Conn().PrepareBatch(ctx, "INSERT INTO store.dispositions (topic, partition, offset, state, new_partition, new_offset, by, why, at)")
	if err != nil {
		return fmt.Errorf("insert into store.dispositions: %w", err)
	}
	defer func() { _ = out.Close() }()
	now := time.Now().UTC()
	for _, l := range letters {
		partition, offset := uint32(l.partition), uint64(l.offset)
		if err := out.Append(l.Topic, l.Partition, l.Offset, "redriven", &partition, &offset, o.Who, o.Why, now); err != nil {
			return fmt.Errorf("insert into store.dispositions: %w", err)
		}
	}
	if err := out.Send(); err != nil {
		return fmt.Errorf("write down %d letters that were published again: %w", len(letters), err)
	}
	return nil
}

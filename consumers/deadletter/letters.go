package deadletter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// Letter is a dead letter and what the books say of its event.
type Letter struct {
	Reject
	Key, Value []byte
	Headers    []kafka.Header // the original's
	Reasons    []kafka.Header // the loader's wh_ headers
}

// Withheld tells a letter that has none of its original, for a codice fiscale is in it: neither it nor
// anybody here can publish it again.
func (l *Letter) Withheld() bool {
	return len(l.Value) == 0 && !l.Cut() && !slices.Contains(l.Codes, "P01")
}

// Cut tells a letter whose value was too large for the topic of dead letters, or could not be read.
func (l *Letter) Cut() bool { return reason(l.Reasons, "wh_truncated") == "true" }

// whole tells whether the value is what was rejected.
func (l *Letter) whole() bool {
	sum := sha256.Sum256(l.Value)
	return hex.EncodeToString(sum[:]) == reason(l.Reasons, "wh_value_sha256")
}

func reason(headers []kafka.Header, name string) string {
	for _, h := range headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// Letters are read in batches of so many, which bounds the memory.
const (
	batchLetters = 1000
	batchBytes   = 16 << 20
)

// clocks is how far those of brokers and loaders may be apart.
const clocks = 5 * time.Minute

// letters calls take with the letters of a selection, in batches, in the order in which they were written,
// and returns how many of the selected rejects have none left. A topic of dead letters is read from where the first
// of the selected rejects can be up to its end as it is now.
func (d *Desk) letters(ctx context.Context, s Selection, take func([]Letter) error) (without uint64, err error) {
	tr := d.Cluster.Transport()
	defer tr.CloseIdleConnections()
	client := d.Cluster.Client(tr)
	tallies, err := d.Tallies(ctx, s)
	if err != nil {
		return 0, err
	}
	wanted, first := map[string]uint64{}, map[string]time.Time{}
	for _, t := range tallies {
		if wanted[t.Topic] == 0 || t.First.Before(first[t.Topic]) {
			first[t.Topic] = t.First
		}
		wanted[t.Topic] += t.Events
	}
	found := 0
	for _, topic := range slices.Sorted(maps.Keys(wanted)) {
		bounds, err := wkafka.LogBounds(ctx, client, topic+Suffix)
		if err != nil {
			return 0, err
		}
		from, err := wkafka.OffsetsAt(ctx, client, topic+Suffix, first[topic].Add(-clocks))
		if err != nil {
			return 0, err
		}
		for _, p := range slices.Sorted(maps.Keys(bounds)) {
			at, ok := from[p]
			if !ok {
				continue // nothing so late
			}
			scan := wkafka.NewScan(d.Cluster, topic+Suffix, p, at, bounds[p].End)
			n, err := d.scan(ctx, topic, s, scan, found, take)
			scan.Close()
			if err != nil {
				return 0, err
			}
			found += n
			wanted[topic] -= min(wanted[topic], uint64(n))
			if s.Limit > 0 && found >= s.Limit {
				return 0, nil
			}
		}
		without += wanted[topic]
	}
	return without, nil
}

// scan takes the letters of one partition of dead letters. A block that was told again has its letters there
// again; since those of a partition come in the order of its offsets, save when they are told again, each is
// taken once.
func (d *Desk) scan(ctx context.Context, topic string, s Selection, scan *wkafka.Scan, before int, take func([]Letter) error) (n int, err error) {
	seen := map[int]int64{}
	for {
		msgs, err := scan.Next(ctx, batchLetters, batchBytes)
		if err != nil || len(msgs) == 0 {
			return n, err
		}
		batch := map[Position]*Letter{}
		var order []Position
		for i := range msgs {
			p, l, ok := parse(&msgs[i])
			if !ok || p.Topic != topic {
				d.log().Warn("a message among the dead letters is none: it lacks wh_topic, wh_partition or wh_offset")
				continue
			}
			if last, ok := seen[p.Partition]; ok && p.Offset <= last {
				continue
			}
			seen[p.Partition] = p.Offset
			batch[p] = l
			order = append(order, p)
		}
		letters, err := d.selected(ctx, topic, s, batch, order)
		if err != nil {
			return n, err
		}
		if s.Limit > 0 {
			letters = letters[:min(len(letters), s.Limit-before-n)]
		}
		if len(letters) > 0 {
			n += len(letters)
			if err := take(letters); err != nil {
				return n, err
			}
		}
		if s.Limit > 0 && before+n >= s.Limit {
			return n, nil
		}
	}
}

// selected adds what the books say, and leaves out what is not selected.
func (d *Desk) selected(ctx context.Context, topic string, s Selection, batch map[Position]*Letter, order []Position) ([]Letter, error) {
	if len(order) == 0 {
		return nil, nil
	}
	var in strings.Builder
	for i, p := range order {
		if i > 0 {
			in.WriteByte(',')
		}
		fmt.Fprintf(&in, "(%d,%d)", p.Partition, p.Offset)
	}
	where, args := s.where()
	var rejects []Reject
	err := d.DB.Select(ctx, &rejects, "SELECT "+rejectColumns+" FROM welfare.rejected WHERE topic = ? AND (partition, offset) IN ("+in.String()+") AND "+where, append([]any{topic}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("look up %d dead letters of %s: %w", len(order), topic, err)
	}
	books := map[Position]*Reject{}
	for i := range rejects {
		books[rejects[i].Position()] = &rejects[i]
	}
	var out []Letter
	for _, p := range order {
		if r := books[p]; r != nil {
			l := batch[p]
			l.Reject = *r
			out = append(out, *l)
		}
	}
	return out, nil
}

// parse takes a dead letter apart. The loader's headers come last, after those of the original, which may
// themselves be named wh_, where somebody published a dead letter.
func parse(m *wkafka.Message) (Position, *Letter, bool) {
	at := -1
	for i, h := range m.Headers {
		if h.Key == "wh_code" {
			at = i
		}
	}
	if at < 0 {
		return Position{}, nil, false
	}
	l := &Letter{Key: m.Key, Value: m.Value, Headers: m.Headers[:at:at], Reasons: m.Headers[at:]}
	partition, err1 := strconv.Atoi(reason(l.Reasons, "wh_partition"))
	offset, err2 := strconv.ParseInt(reason(l.Reasons, "wh_offset"), 10, 64)
	return Position{reason(l.Reasons, "wh_topic"), partition, offset}, l, err1 == nil && err2 == nil
}

// Letter reads the dead letter of a position.
func (d *Desk) Letter(ctx context.Context, p Position) (*Letter, error) {
	rejects, err := d.List(ctx, Selection{At: &p})
	if err != nil {
		return nil, err
	}
	if len(rejects) == 0 {
		return nil, fmt.Errorf("%w: offset %d of %s/%d was not rejected", ErrNoLetter, p.Offset, p.Topic, p.Partition)
	}
	var out *Letter
	errFound := errors.New("found")
	_, err = d.letters(ctx, Selection{At: &p, Topics: []string{p.Topic}}, func(l []Letter) error {
		out = &l[0]
		return errFound
	})
	switch {
	case out != nil:
		return out, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("%w: that of offset %d of %s/%d is not in %s any more, for its retention", ErrNoLetter, p.Offset, p.Topic, p.Partition, p.Topic+Suffix)
}

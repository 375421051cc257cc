package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"go.uber.org/zap"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// clocks is how far those of brokers and loaders may be apart.
const clocks = 5 * time.Minute

// letterCheck compares the dead letters of one topic with its rejects. It holds 8 bytes a letter.
type letterCheck struct {
	*check
	o       *Options
	windows map[uint32]bounds

	offsets map[uint32][]uint64 // of letters, by partition of the topic
	read    map[int]int64       // how far each partition of the dead letters was read
	expired time.Time           // letters that are not younger may have gone with the retention of their topic
	foreign int
}

func (o *Options) letterCheck(c *check, windows map[uint32]bounds) *letterCheck {
	return &letterCheck{check: c, o: o, windows: windows, offsets: map[uint32][]uint64{}, read: map[int]int64{}}
}

// run finds open rejects that have no letter, and letters of records that were not rejected. A reject is
// booked before its letter is told, so those that lack one get a second look.
func (c *letterCheck) run(ctx context.Context, r *Report) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	if err := c.scan(ctx); err != nil {
		return err
	}
	without, err := c.compare(ctx, r, false)
	if err != nil {
		return err
	}
	if without > 0 && c.o.Recheck > 0 {
		if err := pause(ctx, c.o.Recheck); err != nil {
			return err
		}
		if err := c.scan(ctx); err != nil {
			return err
		}
	}
	if _, err = c.compare(ctx, r, true); err != nil {
		return err
	}
	if c.foreign > 0 {
		c.o.Logger.Warn("messages among the dead letters are none: they lack wh_topic, wh_partition or wh_offset", zap.String("topic", c.t.Topic+".dlq"), zap.Int("messages", c.foreign))
	}
	return nil
}

// scan reads the letters that it has not read yet.
func (c *letterCheck) scan(ctx context.Context) error {
	topic := c.t.Topic + ".dlq"
	transport := c.o.Cluster.Transport()
	defer transport.CloseIdleConnections()
	logs, err := wkafka.LogBounds(ctx, c.o.Cluster.Client(transport), topic)
	if errors.Is(err, wkafka.ErrNoTopic) {
		return nil // then every open reject lacks its letter
	}
	if err != nil {
		return err
	}
	for p, log := range logs {
		from, again := c.read[p]
		if !again {
			from = log.First
		}
		if log.First > 0 && log.First == log.End {
			c.expired = time.Now()
		}
		scan := wkafka.NewScan(c.o.Cluster, topic, p, from, log.End)
		first := !again && log.First > 0
		for {
			msgs, err := scan.Next(ctx, logRecords, logBytes)
			if err != nil {
				scan.Close()
				return err
			}
			if len(msgs) == 0 {
				break
			}
			if at := msgs[0].Time.Add(clocks); first && at.After(c.expired) {
				c.expired = at
			}
			first = false
			for i := range msgs {
				c.take(&msgs[i])
			}
		}
		scan.Close()
		c.read[p] = max(from, log.End)
	}
	for p, list := range c.offsets {
		slices.Sort(list)
		c.offsets[p] = slices.Compact(list) // a block that was told again has its letters twice
	}
	return nil
}

// take notes the position of a letter. The loader's headers come last, after those of the original.
func (c *letterCheck) take(m *wkafka.Message) {
	topic, partition, offset := "", -1, int64(-1)
	for _, h := range m.Headers {
		var err error
		switch h.Key {
		case "wh_topic":
			topic = string(h.Value)
		case "wh_partition":
			if partition, err = strconv.Atoi(string(h.Value)); err != nil {
				partition = -1
			}
		case "wh_offset":
			if offset, err = strconv.ParseInt(string(h.Value), 10, 64); err != nil {
				offset = -1
			}
		}
	}
	if topic != c.t.Topic || partition < 0 || offset < 0 {
		c.foreign++
		return
	}
	c.offsets[uint32(partition)] = append(c.offsets[uint32(partition)], uint64(offset))
}

// compare goes through rejects and letters by offset. It counts the open rejects without a letter, and
// where told is given reports them.
func (c *letterCheck) compare(ctx context.Context, r *Report, told bool) (without int, err error) {
	for partition, w := range c.windows {
		letters := between(c.offsets[partition], w.from, w.to)
		p := r.partition(c.t.Topic, partition)
		if p == nil {
			continue
		}
		p.Contents.Letters, p.Contents.Expired = uint64(len(letters)), 0
		var missing, stray ranges
		var offset uint64
		var open uint8
		var at time.Time
		err := c.each(ctx, `SELECT _offset, toUInt8(_offset NOT IN (SELECT offset FROM store.dispositions WHERE topic = {topic:String} AND partition = {partition:UInt32} AND state != 'open')), _loaded_at
FROM store.`+c.t.Table+` WHERE _partition = {partition:UInt32} AND _offset >= {from:UInt64} AND _offset < {to:UInt64} AND _end = 'rejected' ORDER BY _offset`,
			[]any{
				clickhouse.Named("topic", c.t.Topic), clickhouse.Named("partition", partition), clickhouse.Named("from", w.from), clickhouse.Named("to", w.to),
			}, func() error {
				for len(letters) > 0 && letters[0] < offset {
					stray.add(letters[0])
					letters = letters[1:]
				}
				if len(letters) > 0 && letters[0] == offset {
					letters = letters[1:]
					return nil
				}
				switch {
				case open == 0:
				case !at.After(c.expired):
					p.Contents.Expired++
				default:
					without++
					missing.add(offset)
				}
				return nil
			}, &offset, &open, &at)
		if err != nil {
			return 0, fmt.Errorf("compare dead letters of %s/%d: %w", c.t.Topic, partition, err)
		}
		for _, o := range letters {
			stray.add(o)
		}
		if !told {
			continue
		}
		for _, s := range missing.list {
			c.find(KindNoLetter, partition, s.from, s.to, s.n, s.detail())
		}
		for _, s := range stray.list {
			c.find(KindStrayLetter, partition, s.from, s.to, s.n, s.detail())
		}
	}
	return without, nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/metrics"
)

// readLogs reads the offsets of all partitions of the topics that are there.
func (w *Watcher) readLogs(ctx context.Context) error {
	bounds, err := wkafka.LogsBounds(ctx, w.client, event.Topics())
	if err != nil {
		return err
	}
	if len(bounds) == 0 {
		return errNoLogs
	}
	out := map[metrics.Place]offsets{}
	for topic, parts := range bounds {
		for partition, b := range parts {
			out[metrics.Place{Topic: topic, Partition: partition}] = offsets{b.First, b.End}
		}
	}
	w.logs = out
	return nil
}

// readStamp reads the timestamp of the first record from an offset on. It asks for one byte: the broker
// answers with the whole of the first batch, and no more.
func (w *Watcher) readStamp(ctx context.Context, p metrics.Place, offset int64) (time.Time, error) {
	res, err := w.client.Fetch(ctx, &kafka.FetchRequest{Topic: p.Topic, Partition: p.Partition, Offset: offset, MinBytes: 1, MaxBytes: 1, MaxWait: 200 * time.Millisecond})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("fetch %s/%d from offset %d: %w", p.Topic, p.Partition, offset, err)
	}
	for {
		rec, err := res.Records.ReadRecord()
		switch {
		case errors.Is(err, io.EOF):
			return time.Time{}, nil // offsets that the broker itself uses
		case err != nil:
			return time.Time{}, fmt.Errorf("fetch %s/%d from offset %d: %w", p.Topic, p.Partition, offset, err)
		case rec.Offset >= offset:
			return rec.Time, nil
		}
	}
}

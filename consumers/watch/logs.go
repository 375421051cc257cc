package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/metrics"
)

// readLogs reads the offsets of all partitions of the topics that are there.
func (w *Watcher) readLogs(ctx context.Context) error {
	meta, err := w.client.Metadata(ctx, &kafka.MetadataRequest{Topics: event.Topics()})
	if err != nil {
		return fmt.Errorf("read partitions of the topics: %w", err)
	}
	ask := map[string][]kafka.OffsetRequest{}
	for _, t := range meta.Topics {
		switch {
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition):
			continue // made when it is needed
		case t.Error != nil:
			return fmt.Errorf("read partitions of %s: %w", t.Name, t.Error)
		}
		for _, p := range t.Partitions {
			ask[t.Name] = append(ask[t.Name], kafka.FirstOffsetOf(p.ID), kafka.LastOffsetOf(p.ID))
		}
	}
	if len(ask) == 0 {
		return errNoLogs
	}
	res, err := w.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: ask})
	if err != nil {
		return fmt.Errorf("read offsets of %d topics: %w", len(ask), err)
	}
	out := map[metrics.Place]offsets{}
	for topic, parts := range res.Topics {
		for _, p := range parts {
			if p.Error != nil {
				return fmt.Errorf("read offsets of %s/%d: %w", topic, p.Partition, p.Error)
			}
			out[metrics.Place{Topic: topic, Partition: p.Partition}] = offsets{p.FirstOffset, p.LastOffset}
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

package reconcile

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// place is a partition of a topic.
type place struct {
	topic     string
	partition uint32
}

// offsets are the first offset of a log and the one that its next record will have.
type offsets struct{ start, end int64 }

// readLogs reads the offsets of all partitions of the topics that are there.
func readLogs(ctx context.Context, cluster wkafka.Cluster, types []*event.Type) (map[place]offsets, error) {
	transport := cluster.Transport()
	defer transport.CloseIdleConnections()
	client := cluster.Client(transport)
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.Topic
	}
	meta, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: names})
	if err != nil {
		return nil, fmt.Errorf("read partitions of %d topics: %w", len(names), err)
	}
	ask := map[string][]kafka.OffsetRequest{}
	for _, t := range meta.Topics {
		switch {
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition):
			continue // never published to; if the ledger has some of it, compareLogs says so
		case t.Error != nil:
			return nil, fmt.Errorf("read partitions of %s: %w", t.Name, t.Error)
		}
		for _, p := range t.Partitions {
			ask[t.Name] = append(ask[t.Name], kafka.FirstOffsetOf(p.ID), kafka.LastOffsetOf(p.ID))
		}
	}
	out := map[place]offsets{}
	if len(ask) == 0 {
		return out, nil
	}
	res, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: ask})
	if err != nil {
		return nil, fmt.Errorf("read offsets of %d topics: %w", len(ask), err)
	}
	for topic, parts := range res.Topics {
		for _, p := range parts {
			if p.Error != nil {
				return nil, fmt.Errorf("read offsets of %s/%d: %w", topic, p.Partition, p.Error)
			}
			out[place{topic, uint32(p.Partition)}] = offsets{p.FirstOffset, p.LastOffset}
		}
	}
	return out, nil
}

// compareLogs adds the logs to the partitions, with what the ledger lacks or has too much.
func (r *Report) compareLogs(logs map[place]offsets) {
	seen := map[place]bool{}
	for i := range r.Partitions {
		p := &r.Partitions[i]
		at := place{p.Topic, p.Partition}
		seen[at] = true
		log, ok := logs[at]
		if !ok {
			if p.Blocks > 0 {
				r.Findings = append(r.Findings, Finding{KindLog, p.Topic, p.Partition, p.From, p.To, p.Read, "the topic has no such partition; is it another cluster?"})
			}
			continue
		}
		p.LogStart, p.LogEnd = &log.start, &log.end
		if p.Blocks == 0 {
			p.Lag = log.end - log.start
			continue
		}
		p.Lag = max(0, log.end-int64(p.To))
		if log.end < int64(p.To) {
			r.Findings = append(r.Findings, Finding{
				KindLog, p.Topic, p.Partition, uint64(log.end), p.To, p.To - uint64(log.end),
				"the log ends before the ledger; was the topic deleted and made again?",
			})
		}
		if log.start < int64(p.From) {
			r.Findings = append(r.Findings, Finding{KindGap, p.Topic, p.Partition, uint64(log.start), p.From, p.From - uint64(log.start), "before the ledger's first range"})
		}
	}
	for at, log := range logs {
		if !seen[at] {
			r.Partitions = append(r.Partitions, Partition{
				Topic: at.topic, Partition: at.partition, LogStart: &log.start, LogEnd: &log.end,
				From: uint64(log.start), To: uint64(log.start), Lag: log.end - log.start,
			})
		}
	}
}

package reconcile

import (
	"context"

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
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.Topic
	}
	// A topic that was never published to is not there; if the ledger has some of it, compareLogs says so.
	bounds, err := wkafka.LogsBounds(ctx, cluster.Client(transport), names)
	if err != nil {
		return nil, err
	}
	out := map[place]offsets{}
	for topic, parts := range bounds {
		for partition, b := range parts {
			out[place{topic, uint32(partition)}] = offsets{b.First, b.End}
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

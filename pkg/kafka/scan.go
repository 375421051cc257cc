package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

// Bounds are where the log of a partition begins, and the offset that its next record will have.
type Bounds struct{ First, End int64 }

// ErrNoTopic says that the cluster does not have the topic.
var ErrNoTopic = errors.New("the cluster has no such topic")

// LogBounds reads the bounds of all partitions of a topic.
func LogBounds(ctx context.Context, client *kafka.Client, topic string) (map[int]Bounds, error) {
	all, err := LogsBounds(ctx, client, []string{topic})
	if err != nil {
		return nil, err
	}
	out, ok := all[topic]
	if !ok {
		return nil, fmt.Errorf("read partitions of %s: %w", topic, ErrNoTopic)
	}
	return out, nil
}

// LogsBounds reads the bounds of all partitions of topics; one that the cluster does not have is left out.
func LogsBounds(ctx context.Context, client *kafka.Client, topics []string) (map[string]map[int]Bounds, error) {
	if len(topics) == 0 {
		return nil, nil // the cluster would be asked for all that it has
	}
	parts, err := partitionsOf(ctx, client, topics)
	if err != nil {
		return nil, err
	}
	ask := map[string][]kafka.OffsetRequest{}
	for topic, ids := range parts {
		for _, p := range ids {
			ask[topic] = append(ask[topic], kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
		}
	}
	out := map[string]map[int]Bounds{}
	err = listOffsets(ctx, client, ask, func(topic string, p kafka.PartitionOffsets) {
		if out[topic] == nil {
			out[topic] = map[int]Bounds{}
		}
		out[topic][p.Partition] = Bounds{p.FirstOffset, p.LastOffset}
	})
	return out, err
}

// OffsetsAt reads, for each partition of a topic, the offset of the first record whose timestamp is not
// before at; a partition without one is left out.
func OffsetsAt(ctx context.Context, client *kafka.Client, topic string, at time.Time) (map[int]int64, error) {
	parts, err := partitionsOf(ctx, client, []string{topic})
	if err != nil {
		return nil, err
	}
	if len(parts[topic]) == 0 {
		return nil, fmt.Errorf("read partitions of %s: %w", topic, ErrNoTopic)
	}
	var ask []kafka.OffsetRequest
	for _, p := range parts[topic] {
		ask = append(ask, kafka.TimeOffsetOf(p, at))
	}
	out := map[int]int64{}
	err = listOffsets(ctx, client, map[string][]kafka.OffsetRequest{topic: ask}, func(_ string, p kafka.PartitionOffsets) {
		for offset := range p.Offsets {
			if offset >= 0 {
				out[p.Partition] = offset
			}
		}
	})
	return out, err
}

// partitionsOf reads which partitions topics have; a topic that is not there is left out.
func partitionsOf(ctx context.Context, client *kafka.Client, topics []string) (map[string][]int, error) {
	res, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
	if err != nil {
		return nil, fmt.Errorf("read partitions of %s: %w", named(topics), err)
	}
	out := map[string][]int{}
	for _, t := range res.Topics {
		switch {
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition):
			continue
		case t.Error != nil:
			return nil, fmt.Errorf("read partitions of %s: %w", t.Name, t.Error)
		}
		for _, p := range t.Partitions {
			out[t.Name] = append(out[t.Name], p.ID)
		}
		slices.Sort(out[t.Name])
	}
	return out, nil
}

// PartitionBounds reads the bounds of one partition.
func PartitionBounds(ctx context.Context, client *kafka.Client, topic string, partition int) (Bounds, error) {
	var out Bounds
	ask := map[string][]kafka.OffsetRequest{topic: {kafka.FirstOffsetOf(partition), kafka.LastOffsetOf(partition)}}
	err := listOffsets(ctx, client, ask, func(_ string, p kafka.PartitionOffsets) { out = Bounds{p.FirstOffset, p.LastOffset} })
	return out, err
}

// leaderless is for how long offsets are asked for again of a partition without a leader: more than a client
// remembers where leaders are, and than a broker takes to lead what it was just made the leader of.
const leaderless = 15 * time.Second

// listOffsets asks for offsets, and gives each partition's answer to take.
func listOffsets(ctx context.Context, client *kafka.Client, ask map[string][]kafka.OffsetRequest, take func(string, kafka.PartitionOffsets)) error {
	for begin := time.Now(); len(ask) > 0; {
		res, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: ask})
		if err != nil {
			return fmt.Errorf("read offsets of %s: %w", named(slices.Collect(maps.Keys(ask))), err)
		}
		again := map[string][]kafka.OffsetRequest{}
		for topic, asked := range ask {
			if len(res.Topics[topic]) == 0 {
				return fmt.Errorf("read offsets of %s: %w", topic, kafka.UnknownTopicOrPartition)
			}
			for _, p := range res.Topics[topic] {
				var refused kafka.Error
				switch {
				case p.Error == nil:
					take(topic, p)
				case errors.As(p.Error, &refused) && refused.Temporary() && time.Since(begin) < leaderless:
					for _, a := range asked {
						if a.Partition == p.Partition {
							again[topic] = append(again[topic], a)
						}
					}
				default:
					return fmt.Errorf("read offsets of %s/%d: %w", topic, p.Partition, p.Error)
				}
			}
		}
		if ask = again; len(ask) > 0 {
			select {
			case <-ctx.Done():
				return fmt.Errorf("read offsets of %s: %w", named(slices.Collect(maps.Keys(ask))), ctx.Err())
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

// named names one topic, or says how many.
func named(topics []string) string {
	if len(topics) == 1 {
		return topics[0]
	}
	return fmt.Sprintf("%d topics", len(topics))
}

// Message is a record of a log that is its receiver's.
type Message struct {
	kafka.Message
	Unread Unread // as that of Record
}

// Scan reads a range of one partition outside of any group: it commits nothing, and no group notices. It
// reads what the loader reads, by a Fetcher, and gives messages that are their receiver's. Not safe for
// concurrent use. Close it.
type Scan struct {
	cluster Cluster
	fetcher *Fetcher
	recs    []Record
	at, to  int64
}

// NewScan reads [from, to) of a partition. It connects at the first Next.
func NewScan(c Cluster, topic string, partition int, from, to int64) *Scan {
	return &Scan{cluster: c, fetcher: NewFetcher(c, topic, partition, nil), at: from, to: to}
}

// Next returns the next records: at least one, at most maxRecords, and about maxBytes of keys, values and
// headers. None is the end. It tries again where the broker cannot answer, for half a minute. Records that the
// topic's retention has taken meanwhile are passed over; the caller sees it by the offsets. A record that
// cannot be read is there as the loader has it: Unread, without key, value and headers.
func (s *Scan) Next(ctx context.Context, maxRecords, maxBytes int) ([]Message, error) {
	var out []Message
	size := 0
	for failures := 0; s.at < s.to && len(out) < maxRecords && size < maxBytes; {
		before := s.at
		n, err := s.read(ctx, maxRecords-len(out), maxBytes-size)
		for i := range n {
			r := &s.recs[i]
			size += len(r.Key) + len(r.Value) + len(r.headers)
			out = append(out, r.message(s.fetcher.topic, s.fetcher.partition))
		}
		switch {
		case err == nil && n == 0 && s.at == before && s.fetcher.LogEnd() >= s.to:
			s.at = s.to // what is left are offsets without a record
		case err == nil:
			failures = 0
		case ctx.Err() != nil:
			return out, ctx.Err()
		default:
			if failures++; failures == 7 {
				return out, fmt.Errorf("go on from offset %d: %w", s.at, err)
			}
			if err := sleep(ctx, 250*time.Millisecond<<failures); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// At is the offset that Next goes on from.
func (s *Scan) At() int64 { return s.at }

// Close ends the connection. A later Next makes another.
func (s *Scan) Close() { s.fetcher.Close() }

// scanPatience is how long an answer waits for a first record.
const scanPatience = 500 * time.Millisecond

// read takes the records of one answer into s.recs, and tells how many they are.
func (s *Scan) read(ctx context.Context, maxRecords, maxBytes int) (n int, err error) {
	s.fetcher.Release()
	recs, next, err := s.fetcher.Fetch(ctx, s.recs[:0], s.at, s.to, maxRecords, maxBytes, scanPatience)
	s.recs, s.at = recs, min(next, s.to)
	if errors.Is(err, kafka.OffsetOutOfRange) {
		err = s.skip(ctx)
	}
	return len(recs), err
}

// skip moves to the first record that is left.
func (s *Scan) skip(ctx context.Context) error {
	transport := s.cluster.Transport()
	defer transport.CloseIdleConnections()
	bounds, err := PartitionBounds(ctx, s.cluster.Client(transport), s.fetcher.topic, s.fetcher.partition)
	if err != nil {
		return err
	}
	if bounds.First <= s.at {
		return fmt.Errorf("offset %d is out of range, and the log begins at %d: %w", s.at, bounds.First, kafka.OffsetOutOfRange)
	}
	s.at = min(bounds.First, s.to)
	return nil
}

// message is the record as a message of its own.
func (r *Record) message(topic string, partition int) Message {
	m := Message{Unread: r.Unread}
	m.Topic, m.Partition, m.Offset, m.Key, m.Value = topic, partition, r.Offset, bytes.Clone(r.Key), bytes.Clone(r.Value)
	if r.Timestamp > 0 {
		m.Time = time.UnixMilli(r.Timestamp).UTC()
	}
	for _, h := range r.Headers(nil) {
		m.Headers = append(m.Headers, kafka.Header{Key: strings.Clone(h.Key), Value: bytes.Clone(h.Value)})
	}
	return m
}

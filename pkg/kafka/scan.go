package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

// Bounds are where the log of a partition begins, and the offset that its next record will have.
type Bounds struct{ First, End int64 }

// ErrNoTopic says that the cluster does not have the topic.
var ErrNoTopic = errors.New("the cluster has no such topic")

// LogBounds reads the bounds of all partitions of a topic.
func LogBounds(ctx context.Context, client *kafka.Client, topic string) (map[int]Bounds, error) {
	parts, err := partitionsOf(ctx, client, topic)
	if err != nil {
		return nil, err
	}
	var ask []kafka.OffsetRequest
	for _, p := range parts {
		ask = append(ask, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
	}
	out := map[int]Bounds{}
	err = listOffsets(ctx, client, topic, ask, func(p kafka.PartitionOffsets) { out[p.Partition] = Bounds{p.FirstOffset, p.LastOffset} })
	return out, err
}

// OffsetsAt reads, for each partition of a topic, the offset of the first record whose timestamp is not
// before at; a partition without one is left out.
func OffsetsAt(ctx context.Context, client *kafka.Client, topic string, at time.Time) (map[int]int64, error) {
	parts, err := partitionsOf(ctx, client, topic)
	if err != nil {
		return nil, err
	}
	var ask []kafka.OffsetRequest
	for _, p := range parts {
		ask = append(ask, kafka.TimeOffsetOf(p, at))
	}
	out := map[int]int64{}
	err = listOffsets(ctx, client, topic, ask, func(p kafka.PartitionOffsets) {
		for offset := range p.Offsets {
			if offset >= 0 {
				out[p.Partition] = offset
			}
		}
	})
	return out, err
}

func partitionsOf(ctx context.Context, client *kafka.Client, topic string) ([]int, error) {
	res, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return nil, fmt.Errorf("read partitions of %s: %w", topic, err)
	}
	var out []int
	for _, t := range res.Topics {
		switch {
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition):
			return nil, fmt.Errorf("read partitions of %s: %w", topic, ErrNoTopic)
		case t.Error != nil:
			return nil, fmt.Errorf("read partitions of %s: %w", topic, t.Error)
		}
		for _, p := range t.Partitions {
			out = append(out, p.ID)
		}
	}
	slices.Sort(out)
	return out, nil
}

func listOffsets(ctx context.Context, client *kafka.Client, topic string, ask []kafka.OffsetRequest, take func(kafka.PartitionOffsets)) error {
	res, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: ask}})
	if err != nil {
		return fmt.Errorf("read offsets of %s: %w", topic, err)
	}
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			return fmt.Errorf("read offsets of %s/%d: %w", topic, p.Partition, p.Error)
		}
		take(p)
	}
	return nil
}

// Scan reads a range of one partition outside of any group: it commits nothing, and no group notices.
// Not safe for concurrent use. Close it.
type Scan struct {
	cluster   Cluster
	topic     string
	partition int
	at, to    int64
	conn      *kafka.Conn
}

// NewScan reads [from, to) of a partition. It connects at the first Next.
func NewScan(c Cluster, topic string, partition int, from, to int64) *Scan {
	return &Scan{cluster: c, topic: topic, partition: partition, at: from, to: to}
}

// Next returns the next records: at least one, at most maxRecords, and about maxBytes of keys and values.
// None is the end. It tries again where the broker cannot answer, for half a minute. Records that the
// topic's retention has taken meanwhile are passed over; the caller sees it by the offsets.
func (s *Scan) Next(ctx context.Context, maxRecords, maxBytes int) ([]kafka.Message, error) {
	var out []kafka.Message
	size := 0
	for failures := 0; s.at < s.to && len(out) < maxRecords && size < maxBytes; {
		n := len(out)
		var end bool
		var err error
		out, end, err = s.read(ctx, out, maxRecords, maxBytes-size)
		for _, m := range out[n:] {
			size += len(m.Key) + len(m.Value)
			s.at = m.Offset + 1
		}
		switch {
		case err == nil && end:
			s.at = s.to // what is left are offsets without a record
		case err == nil:
			failures = 0
		case ctx.Err() != nil:
			return out, ctx.Err()
		default:
			s.Close()
			if failures++; failures == 7 {
				return out, fmt.Errorf("read %s/%d from offset %d: %w", s.topic, s.partition, s.at, err)
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
func (s *Scan) Close() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

const (
	scanBytes    = 4 << 20 // of one answer; a single larger batch still comes whole
	scanPatience = 500 * time.Millisecond
)

// read appends the records of one answer. end says that the partition has none left before s.to.
func (s *Scan) read(ctx context.Context, dst []kafka.Message, maxRecords, maxBytes int) (out []kafka.Message, end bool, err error) {
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return dst, false, err
		}
	}
	conn := s.conn
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return dst, false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := conn.Seek(s.at, kafka.SeekAbsolute|kafka.SeekDontCheck); err != nil {
		return dst, false, err
	}
	batch := conn.ReadBatchWith(kafka.ReadBatchConfig{MinBytes: 1, MaxBytes: scanBytes, MaxWait: scanPatience})
	n := len(dst)
	past := false
	for size := 0; len(dst) < maxRecords && size < maxBytes; {
		m, err := batch.ReadMessage()
		if endOfAnswer(err) {
			break // a record cut short comes again with the next answer
		}
		if err != nil {
			_ = batch.Close()
			if errors.Is(err, kafka.OffsetOutOfRange) {
				return dst, false, s.skip(ctx)
			}
			return dst, false, err
		}
		if m.Offset < s.at {
			continue
		}
		if past = m.Offset >= s.to; past {
			break
		}
		size += len(m.Key) + len(m.Value)
		dst = append(dst, m)
	}
	mark := batch.HighWaterMark()
	if err := batch.Close(); err != nil && !endOfAnswer(err) {
		return dst, false, err
	}
	return dst, len(dst) == n && (past || mark >= s.to), nil
}

// endOfAnswer tells the errors by which kafka-go says that an answer has no more records; one that had none
// from the start is a RequestTimedOut to it.
func endOfAnswer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, kafka.RequestTimedOut)
}

// skip moves to the first record that is left.
func (s *Scan) skip(ctx context.Context) error {
	s.Close()
	if err := s.dial(ctx); err != nil {
		return err
	}
	if err := s.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	first, err := s.conn.ReadFirstOffset()
	if err != nil {
		return err
	}
	if first <= s.at {
		return fmt.Errorf("offset %d is out of range, and the log begins at %d: %w", s.at, first, kafka.OffsetOutOfRange)
	}
	s.at = min(first, s.to)
	return nil
}

func (s *Scan) dial(ctx context.Context) error {
	var last error
	for _, addr := range s.cluster.Brokers {
		conn, err := s.cluster.Dialer().DialLeader(ctx, "tcp", addr, s.topic, s.partition)
		if err == nil {
			s.conn = conn
			return nil
		}
		last = err
	}
	return fmt.Errorf("connect to the leader of %s/%d: %w", s.topic, s.partition, last)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

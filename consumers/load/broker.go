package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// broker is the loader's side of Kafka: membership, claims, fetches, letters and outcomes.
type broker struct {
	cluster   wkafka.Cluster
	group     string
	transport *kafka.Transport
	client    *kafka.Client
	writer    *kafka.Writer
}

// fetchBytes bounds one answer of the broker; a single larger batch still comes whole.
const fetchBytes = 4 << 20

func newBroker(c wkafka.Cluster, group string, letterBytes int) *broker {
	t := c.Transport()
	return &broker{cluster: c, group: group, transport: t, client: c.Client(t), writer: c.Writer(t, letterBytes+letterBytes/2)}
}

func (b *broker) close() {
	_ = b.writer.Close()
	b.transport.CloseIdleConnections()
}

func (b *broker) join(topics []string, session time.Duration) (*kafka.ConsumerGroup, error) {
	return kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: b.group, Brokers: b.cluster.Brokers, Dialer: b.cluster.Dialer(), Topics: topics,
		GroupBalancers: []kafka.GroupBalancer{kafka.RoundRobinGroupBalancer{}},
		SessionTimeout: session, HeartbeatInterval: session / 5, RebalanceTimeout: max(30*time.Second, 2*session),
		JoinGroupBackoff: time.Second, StartOffset: kafka.FirstOffset, WatchPartitionChanges: true,
		PartitionWatchInterval: 5 * time.Second,
	})
}

// partitions counts the partitions of the topics that are assigned here.
func (b *broker) partitions(ctx context.Context, assigned map[string][]kafka.PartitionAssignment) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := b.client.Metadata(ctx, &kafka.MetadataRequest{Topics: slices.Collect(maps.Keys(assigned))})
	if err != nil {
		return nil, fmt.Errorf("read partitions of %d topics: %w", len(assigned), err)
	}
	out := make(map[string]int, len(res.Topics))
	for _, t := range res.Topics {
		if t.Error != nil {
			return nil, fmt.Errorf("read partitions of %s: %w", t.Name, t.Error)
		}
		out[t.Name] = len(t.Partitions)
	}
	return out, nil
}

// claim is a range of offsets, [from, to).
type claim struct{ from, to int64 }

func (c claim) pending() bool { return c.to > c.from }

// mark is the metadata of a committed offset.
type mark struct {
	To      int64 `json:"to,omitempty"`      // a block from the offset up to here is in work
	Settled bool  `json:"settled,omitempty"` // all before the offset is stored and told, and nothing after it is stored
}

// errFenced says that the broker refused a commit: another member owns the partition now.
var errFenced = errors.New("the group has a new generation")

// claim commits that a block is in work.
func (b *broker) claim(ctx context.Context, gen *kafka.Generation, p position, c claim) error {
	return b.commit(ctx, gen, p, c.from, mark{To: c.to})
}

// settle commits that a block is stored and told; clean says that nothing is stored beyond it.
func (b *broker) settle(ctx context.Context, gen *kafka.Generation, p position, to int64, clean bool) error {
	return b.commit(ctx, gen, p, to, mark{Settled: clean})
}

// commit writes the group offset of a partition. It fails with errFenced where the generation is over, and
// with another error where the broker cannot answer.
func (b *broker) commit(ctx context.Context, gen *kafka.Generation, p position, offset int64, m mark) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	res, err := b.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: b.group, GenerationID: int(gen.ID), MemberID: gen.MemberID,
		Topics: map[string][]kafka.OffsetCommit{p.topic: {{Partition: p.partition, Offset: offset, Metadata: string(raw)}}},
	})
	if err != nil {
		return fmt.Errorf("commit offset %d of %s/%d: %w", offset, p.topic, p.partition, err)
	}
	for _, part := range res.Topics[p.topic] {
		switch {
		case part.Error == nil:
		case errors.Is(part.Error, kafka.IllegalGeneration), errors.Is(part.Error, kafka.UnknownMemberId), errors.Is(part.Error, kafka.RebalanceInProgress):
			return errFenced
		default:
			return fmt.Errorf("commit offset %d of %s/%d: %w", offset, p.topic, p.partition, part.Error)
		}
	}
	return nil
}

// committed reads the group offset of a partition, -1 where there is none, and whether it was settled
// clean. An offset that was moved by hand has no mark.
func (b *broker) committed(ctx context.Context, p position) (offset int64, settled bool, err error) {
	res, err := b.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: b.group, Topics: map[string][]int{p.topic: {p.partition}}})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return -1, false, fmt.Errorf("read offset of %s/%d: %w", p.topic, p.partition, err)
	}
	parts := res.Topics[p.topic]
	if len(parts) == 0 {
		return -1, false, nil
	}
	if parts[0].Error != nil {
		return -1, false, fmt.Errorf("read offset of %s/%d: %w", p.topic, p.partition, parts[0].Error)
	}
	var m mark
	settled = json.Unmarshal([]byte(parts[0].Metadata), &m) == nil && m.Settled
	return parts[0].CommittedOffset, settled, nil
}

// reader fetches one partition from one connection. Not safe for concurrent use.
type reader struct {
	b      *broker
	p      position
	conn   *kafka.Conn
	logEnd int64 // as the last answer said
}

func (r *reader) close() {
	if r.conn != nil {
		_ = r.conn.Close()
		r.conn = nil
	}
}

func (r *reader) dial(ctx context.Context) error {
	var last error
	for _, addr := range r.b.cluster.Brokers {
		conn, err := r.b.cluster.Dialer().DialLeader(ctx, "tcp", addr, r.p.topic, r.p.partition)
		if err == nil {
			r.conn = conn
			return nil
		}
		last = err
	}
	return fmt.Errorf("connect to the leader of %s/%d: %w", r.p.topic, r.p.partition, last)
}

// read appends to dst the records from offset on that the broker has at once, waiting up to wait for the
// first. It stops at offset limit (exclusive; 0: none), after max records or maxBytes. Retry on any error.
func (r *reader) read(ctx context.Context, dst []kafka.Message, offset, limit int64, maxRecords, maxBytes int, wait time.Duration) ([]kafka.Message, error) {
	if r.conn == nil {
		if err := r.dial(ctx); err != nil {
			return dst, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetDeadline(time.Now()) })
	defer stop()
	dst, err := r.readBatch(dst, offset, limit, maxRecords, maxBytes, wait)
	switch {
	case err == nil:
		return dst, nil
	case errors.Is(err, kafka.OffsetOutOfRange):
		err = r.outOfRange(ctx, offset)
	default:
		err = fmt.Errorf("fetch %s/%d from offset %d: %w", r.p.topic, r.p.partition, offset, err)
	}
	r.close()
	return dst, err
}

func (r *reader) readBatch(dst []kafka.Message, offset, limit int64, maxRecords, maxBytes int, wait time.Duration) ([]kafka.Message, error) {
	if err := r.conn.SetDeadline(time.Now().Add(wait + 30*time.Second)); err != nil {
		return dst, err
	}
	if _, err := r.conn.Seek(offset, kafka.SeekAbsolute|kafka.SeekDontCheck); err != nil {
		return dst, err
	}
	batch := r.conn.ReadBatchWith(kafka.ReadBatchConfig{MinBytes: 1, MaxBytes: fetchBytes, MaxWait: wait})
	for size := 0; len(dst) < maxRecords && size < maxBytes; {
		m, err := batch.ReadMessage()
		if endOfAnswer(err) {
			break // a record cut short comes again with the next fetch
		}
		if err != nil {
			_ = batch.Close()
			return dst, err
		}
		if m.Offset < offset {
			continue
		}
		if limit > 0 && m.Offset >= limit {
			break
		}
		size += len(m.Key) + len(m.Value)
		dst = append(dst, m)
	}
	if end := batch.HighWaterMark(); end > 0 {
		r.logEnd = end
	}
	if err := batch.Close(); err != nil && !endOfAnswer(err) {
		return dst, err
	}
	return dst, nil
}

// endOfAnswer tells the errors by which kafka-go says that an answer has no more records; an answer that
// had none from the start is a RequestTimedOut to it.
func endOfAnswer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, kafka.RequestTimedOut)
}

// errLogShrank says that the log ends before the position: was the topic deleted and made again?
var errLogShrank = errors.New("the log ends before what the ledger holds; was the topic deleted and made again?")

// lostError says that the broker no longer has the records from offset from up to first.
type lostError struct{ from, first int64 }

func (e *lostError) Error() string {
	return fmt.Sprintf("records from offset %d up to %d were deleted by the topic's retention before they were read", e.from, e.first)
}

// outOfRange finds out, on a new connection, in which direction offset is out of range.
func (r *reader) outOfRange(ctx context.Context, offset int64) error {
	r.close()
	if err := r.dial(ctx); err != nil {
		return err
	}
	if err := r.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	first, last, err := r.conn.ReadOffsets()
	if err != nil {
		return fmt.Errorf("read offsets of %s/%d: %w", r.p.topic, r.p.partition, err)
	}
	if offset < first {
		return &lostError{from: offset, first: first}
	}
	return fmt.Errorf("%s/%d: position %d, log end %d: %w", r.p.topic, r.p.partition, offset, last, errLogShrank)
}

// produce publishes messages and returns when all are acknowledged.
func (b *broker) produce(ctx context.Context, msgs []kafka.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := b.writer.WriteMessages(ctx, msgs...); err != nil {
		return fmt.Errorf("publish %d letters and outcomes: %w", len(msgs), err)
	}
	return nil
}

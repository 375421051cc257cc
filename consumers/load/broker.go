package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	letters   *kafka.Writer // whose topics allow larger messages than others do
	outcomes  *kafka.Writer
	memory    *wkafka.Memory // of what is fetched
}

// freeMemory is what is kept of it for the next blocks.
const freeMemory = 64 << 20

func newBroker(c wkafka.Cluster, group string, letterBytes int) *broker {
	t := c.Transport()
	return &broker{cluster: c, group: group, transport: t, client: c.Client(t), letters: c.Writer(t, letterBytes+letterBytes/2), outcomes: c.Writer(t, outcomesBatch), memory: wkafka.NewMemory(freeMemory)}
}

func (b *broker) close() {
	_ = b.letters.Close()
	_ = b.outcomes.Close()
	b.transport.CloseIdleConnections()
}

func (b *broker) join(topics []string, session, drain time.Duration) (*kafka.ConsumerGroup, error) {
	return kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: b.group, Brokers: b.cluster.Brokers, Dialer: b.cluster.Dialer(), Topics: topics,
		GroupBalancers: []kafka.GroupBalancer{kafka.RoundRobinGroupBalancer{}},
		SessionTimeout: session, HeartbeatInterval: session / 5, RebalanceTimeout: drain + 2*session, // a member that died while it joined is waited for so long
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

// reader fetches one partition. Not safe for concurrent use.
type reader struct {
	*wkafka.Fetcher
	b *broker
	p position
}

func newReader(b *broker, p position) *reader {
	return &reader{Fetcher: wkafka.NewFetcher(b.cluster, p.topic, p.partition, b.memory), b: b, p: p}
}

// read appends to dst the records from offset on that the broker has at once, waiting up to wait for the
// first, and tells where to go on. It stops at offset limit (exclusive; 0: none), when dst has maxRecords, or
// after about maxBytes. Retry on any error. Records live until Release.
func (r *reader) read(ctx context.Context, dst []wkafka.Record, offset, limit int64, maxRecords, maxBytes int, wait time.Duration) ([]wkafka.Record, int64, error) {
	dst, next, err := r.Fetch(ctx, dst, offset, limit, maxRecords, maxBytes, wait)
	if errors.Is(err, kafka.OffsetOutOfRange) {
		err = r.outOfRange(ctx, offset)
	}
	return dst, next, err
}

// errLogShrank says that the log ends before the position: was the topic deleted and made again?
var errLogShrank = errors.New("the log ends before what the ledger holds; was the topic deleted and made again?")

// lostError says that the broker no longer has the records from offset from up to first.
type lostError struct{ from, first int64 }

func (e *lostError) Error() string {
	return fmt.Sprintf("records from offset %d up to %d were deleted by the topic's retention before they were read", e.from, e.first)
}

// outOfRange finds out in which direction offset is out of range.
func (r *reader) outOfRange(ctx context.Context, offset int64) error {
	log, err := r.bounds(ctx)
	if err != nil {
		return err
	}
	if offset < log.First {
		return &lostError{from: offset, first: log.First}
	}
	return fmt.Errorf("%s/%d: position %d, log end %d: %w", r.p.topic, r.p.partition, offset, log.End, errLogShrank)
}

// bounds are where the log begins and ends.
func (r *reader) bounds(ctx context.Context) (wkafka.Bounds, error) {
	return wkafka.PartitionBounds(ctx, r.b.client, r.p.topic, r.p.partition)
}

// outcomesBatch bounds the bytes of a batch of outcomes: topics take about a megabyte where nobody set more.
const outcomesBatch = 900 << 10

// publish writes messages and returns when all are acknowledged.
func publish(ctx context.Context, w *kafka.Writer, msgs []kafka.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	err := w.WriteMessages(ctx, msgs...)
	var each kafka.WriteErrors
	if errors.As(err, &each) { // one of a kind says enough
		err = each[slices.IndexFunc(each, func(err error) bool { return err != nil })]
		return fmt.Errorf("%d of %d messages: %w", each.Count(), len(msgs), err)
	}
	return err
}

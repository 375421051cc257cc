package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// topicLog is the log that holds a registry's state: a Kafka topic, or a list in tests.
type topicLog interface {
	// read waits a moment for records from offset on. next is the offset to read from after them; it may
	// move without records where the log has gaps.
	read(ctx context.Context, offset int64) (recs []logged, next int64, err error)
	// end is the offset that the next record will get, or a higher one.
	end(ctx context.Context) (int64, error)
	// append writes records at consecutive offsets, all or none, and returns the first offset.
	append(ctx context.Context, recs []record) (base int64, err error)
	close()
}

// logged is a record with its place.
type logged struct {
	record
	offset int64
}

var (
	// errTopic marks a topic that cannot be a registry's log; somebody has to change it.
	errTopic = errors.New("topic cannot hold a schema registry")
	// errTruncated marks a log that is shorter than what was read from it: records are lost, ids might be
	// given twice. Only a restart, which shows what is left, ends it.
	errTruncated = errors.New("log of the schema registry lost records")
	// errNotWritten marks an append that certainly wrote nothing and may be tried again.
	errNotWritten = errors.New("nothing was written")
	// errClosed marks a server that was closed while a request waited for the log.
	errClosed = errors.New("schema registry is closed")
	// errTooLarge marks records that the broker finds too large.
	errTooLarge = errors.New("record is larger than the topic takes")
)

// kafkaLog is the topic _schemas.
type kafkaLog struct {
	client    *kafka.Client
	transport *kafka.Transport
	topic     string
	empty     int // responses in a row without the records that the high watermark promises
}

const (
	fetchBytes = 8 << 20
	fetchWait  = time.Second
)

func newKafkaLog(c wkafka.Cluster, topic string) *kafkaLog {
	t := c.Transport()
	return &kafkaLog{client: c.Client(t), transport: t, topic: topic}
}

func (l *kafkaLog) close() { l.transport.CloseIdleConnections() }

// ensure makes the topic if it is not there and checks that its single partition keeps every key.
func (l *kafkaLog) ensure(ctx context.Context, replicas int) error {
	meta, err := l.client.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return fmt.Errorf("read cluster metadata: %w", err)
	}
	if !slices.ContainsFunc(meta.Topics, func(t kafka.Topic) bool { return t.Name == l.topic && t.Error == nil }) {
		if replicas == 0 {
			replicas = min(3, max(1, len(meta.Brokers)))
		}
		res, err := l.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
			Topic: l.topic, NumPartitions: 1, ReplicationFactor: replicas,
			ConfigEntries: []kafka.ConfigEntry{{ConfigName: "cleanup.policy", ConfigValue: "compact"}},
		}}})
		if err == nil {
			err = res.Errors[l.topic]
		}
		if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", l.topic, err)
		}
	}
	return l.check(ctx)
}

func (l *kafkaLog) check(ctx context.Context) error {
	meta, err := l.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{l.topic}})
	if err != nil {
		return fmt.Errorf("read metadata of topic %s: %w", l.topic, err)
	}
	if len(meta.Topics) != 1 {
		return fmt.Errorf("read metadata of topic %s: got %d topics", l.topic, len(meta.Topics))
	}
	if err := meta.Topics[0].Error; err != nil {
		return fmt.Errorf("read metadata of topic %s: %w", l.topic, err)
	}
	if n := len(meta.Topics[0].Partitions); n != 1 {
		return fmt.Errorf("%w: %s has %d partitions, want 1: the order of records is the registry's order", errTopic, l.topic, n)
	}
	res, err := l.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: l.topic, ConfigNames: []string{"cleanup.policy"},
	}}})
	if err != nil {
		return fmt.Errorf("read configuration of topic %s: %w", l.topic, err)
	}
	for _, r := range res.Resources {
		if r.Error != nil {
			if errors.Is(r.Error, kafka.TopicAuthorizationFailed) || errors.Is(r.Error, kafka.ClusterAuthorizationFailed) {
				continue // it is enough to be allowed to read and write
			}
			return fmt.Errorf("read configuration of topic %s: %w", l.topic, r.Error)
		}
		for _, e := range r.ConfigEntries {
			if e.ConfigName == "cleanup.policy" && e.ConfigValue != "compact" {
				return fmt.Errorf("%w: %s has cleanup.policy %q, want compact: else schemas would expire", errTopic, l.topic, e.ConfigValue)
			}
		}
	}
	return nil
}

func (l *kafkaLog) end(ctx context.Context) (int64, error) {
	res, err := l.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{l.topic: {kafka.LastOffsetOf(0)}},
	})
	if err != nil {
		return 0, fmt.Errorf("read end of topic %s: %w", l.topic, err)
	}
	answers := res.Topics[l.topic]
	if len(answers) == 0 {
		return 0, fmt.Errorf("read end of topic %s: no answer for partition 0", l.topic)
	}
	if err := answers[0].Error; err != nil {
		return 0, fmt.Errorf("read end of topic %s: %w", l.topic, err)
	}
	return answers[0].LastOffset, nil
}

func (l *kafkaLog) read(ctx context.Context, offset int64) ([]logged, int64, error) {
	res, err := l.client.Fetch(ctx, &kafka.FetchRequest{
		Topic: l.topic, Partition: 0, Offset: offset, MinBytes: 1, MaxBytes: fetchBytes, MaxWait: fetchWait,
	})
	if err != nil {
		return nil, offset, fmt.Errorf("read topic %s at offset %d: %w", l.topic, offset, err)
	}
	switch {
	case errors.Is(res.Error, kafka.OffsetOutOfRange) && offset < res.LogStartOffset:
		return nil, res.LogStartOffset, nil // a log whose head was cut before we came
	case errors.Is(res.Error, kafka.OffsetOutOfRange):
		return nil, offset, fmt.Errorf("%w: topic %s has no offset %d", errTruncated, l.topic, offset)
	case res.Error != nil:
		return nil, offset, fmt.Errorf("read topic %s at offset %d: %w", l.topic, offset, res.Error)
	}
	var out []logged
	next := offset
	for {
		r, err := res.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if len(out) > 0 { // a batch cut off by the size limit: the rest comes with the next fetch
				break
			}
			return nil, offset, fmt.Errorf("read topic %s at offset %d: %w", l.topic, offset, err)
		}
		key, err := bytesOf(r.Key)
		if err != nil {
			return nil, offset, fmt.Errorf("read topic %s key at offset %d: %w", l.topic, r.Offset, err)
		}
		value, err := bytesOf(r.Value)
		if err != nil {
			return nil, offset, fmt.Errorf("read topic %s value at offset %d: %w", l.topic, r.Offset, err)
		}
		if r.Offset < offset { // a batch is returned whole
			continue
		}
		out = append(out, logged{record{key, value}, r.Offset})
		next = r.Offset + 1
	}
	// Compaction leaves batches without records. Step over one when it is certain that the broker has
	// nothing at this offset.
	if next == offset && res.HighWatermark > offset {
		if l.empty++; l.empty >= 3 {
			next++
		}
	} else {
		l.empty = 0
	}
	return out, next, nil
}

// bytesOf reads a key or value; nil stands for null.
func bytesOf(b kafka.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	out, err := kafka.ReadAll(b)
	if out == nil && err == nil {
		out = []byte{}
	}
	return out, err
}

func (l *kafkaLog) append(ctx context.Context, recs []record) (int64, error) {
	now := time.Now()
	out := make([]kafka.Record, len(recs))
	for i, r := range recs {
		out[i] = kafka.Record{Key: kafka.NewBytes(r.key), Value: kafka.NewBytes(r.value), Time: now}
	}
	res, err := l.client.Produce(ctx, &kafka.ProduceRequest{
		Topic: l.topic, Partition: 0, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(out...),
	})
	if err == nil {
		err = res.Error
	}
	if err == nil {
		return res.BaseOffset, nil
	}
	var ke kafka.Error
	if errors.As(err, &ke) {
		switch ke {
		case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge:
			return 0, fmt.Errorf("write to topic %s: %w: %w", l.topic, errTooLarge, err)
		case kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.UnknownTopicOrPartition, kafka.NotEnoughReplicas:
			return 0, fmt.Errorf("write to topic %s: %w: %w", l.topic, errNotWritten, err)
		}
	}
	if strings.Contains(err.Error(), "connection refused") { // the dialer's error is not a type
		return 0, fmt.Errorf("write to topic %s: %w: %w", l.topic, errNotWritten, err)
	}
	return 0, fmt.Errorf("write to topic %s: %w", l.topic, err)
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// TopicSpec is a topic that must be there.
type TopicSpec struct {
	Name       string
	Partitions int               // 1 if zero
	Replicas   int               // the broker's default if zero
	Configs    map[string]string // applied when the topic is made, never to one that is there
}

// DeadLetterTopic is the spec of a topic's dead letters. They carry the original record and headers of their own, so
// larger messages are allowed than maxMessageBytes, the most that the topic itself allows.
func DeadLetterTopic(topic string, partitions, maxMessageBytes int, retention time.Duration) TopicSpec {
	return TopicSpec{Name: topic + ".dlq", Partitions: partitions, Configs: map[string]string{
		"max.message.bytes": strconv.Itoa(2*maxMessageBytes + 128<<10),
		"compression.type":  "zstd",
		"retention.ms":      strconv.FormatInt(retention.Milliseconds(), 10),
	}}
}

// CompactedTopic is the spec of a topic that keeps the last record of each key for good.
func CompactedTopic(name string, partitions int) TopicSpec {
	return TopicSpec{Name: name, Partitions: partitions, Configs: map[string]string{
		"cleanup.policy": "compact", "retention.ms": "-1", "retention.bytes": "-1",
	}}
}

// EnsureTopics makes the topics that are missing, on any Kafka, and returns once all of them have leaders. A topic that
// is there stays as it is, whoever made it; one with fewer partitions than its spec is an error.
func EnsureTopics(ctx context.Context, addr string, specs []TopicSpec) error {
	transport := &kafka.Transport{MetadataTTL: 200 * time.Millisecond}
	defer transport.CloseIdleConnections()
	return EnsureTopicsWith(ctx, &kafka.Client{Addr: kafka.TCP(strings.Split(addr, ",")...), Transport: transport}, specs)
}

// EnsureTopicsWith is EnsureTopics with a client that the caller set up, as for TLS and SASL.
func EnsureTopicsWith(ctx context.Context, client *kafka.Client, specs []TopicSpec) error {
	have, err := partitionCounts(ctx, client, specs)
	if err != nil {
		return err
	}
	req := &kafka.CreateTopicsRequest{}
	for _, spec := range specs {
		if _, ok := have[spec.Name]; ok {
			continue
		}
		config := kafka.TopicConfig{Topic: spec.Name, NumPartitions: max(spec.Partitions, 1), ReplicationFactor: -1}
		if spec.Replicas > 0 {
			config.ReplicationFactor = spec.Replicas
		}
		for _, name := range slices.Sorted(maps.Keys(spec.Configs)) {
			config.ConfigEntries = append(config.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: spec.Configs[name]})
		}
		req.Topics = append(req.Topics, config)
	}
	if len(req.Topics) > 0 {
		resp, err := client.CreateTopics(ctx, req)
		if err != nil {
			return fmt.Errorf("create %d topics at %s: %w", len(req.Topics), client.Addr, err)
		}
		for _, name := range slices.Sorted(maps.Keys(resp.Errors)) {
			// Somebody else was faster: then it is there.
			if err := resp.Errors[name]; err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
				return fmt.Errorf("create topic %s: %w", name, err)
			}
		}
	}
	return awaitTopics(ctx, client, specs)
}

func awaitTopics(ctx context.Context, client *kafka.Client, specs []TopicSpec) error {
	for {
		have, err := partitionCounts(ctx, client, specs)
		if err != nil {
			return err
		}
		var missing string
		for _, spec := range specs {
			n, ok := have[spec.Name]
			switch {
			case !ok || n == 0:
				missing = spec.Name
			case n < spec.Partitions:
				return fmt.Errorf("topic %s has %d partitions, %d are needed; add partitions, or configure fewer", spec.Name, n, spec.Partitions)
			}
		}
		if missing == "" {
			// The cluster tells who leads a new partition before that broker knows: its answer is waited for.
			_, err := wkafka.LogsBounds(ctx, client, slices.Collect(maps.Keys(have)))
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for topic %s to have leaders: %w", missing, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// partitionCounts tells for the topics that exist how many partitions they have; 0 while one has no leader.
func partitionCounts(ctx context.Context, client *kafka.Client, specs []TopicSpec) (map[string]int, error) {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Name
	}
	meta, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: names})
	if err != nil {
		var unreachable net.Error
		if errors.As(err, &unreachable) {
			return nil, fmt.Errorf("read topics from %s: %w; is the broker running there?", client.Addr, err)
		}
		return nil, fmt.Errorf("read topics from %s: %w", client.Addr, err)
	}
	counts := make(map[string]int)
	for _, topic := range meta.Topics {
		if errors.Is(topic.Error, kafka.UnknownTopicOrPartition) {
			continue
		}
		if topic.Error != nil && !errors.Is(topic.Error, kafka.LeaderNotAvailable) {
			return nil, fmt.Errorf("read topic %s: %w", topic.Name, topic.Error)
		}
		counts[topic.Name] = len(topic.Partitions)
		for _, p := range topic.Partitions {
			if p.Error != nil || p.Leader.Host == "" {
				counts[topic.Name] = 0
			}
		}
	}
	return counts, nil
}

package main

import (
	"context"
	"strconv"
	"time"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// brokerMessageBytes is the largest message that the embedded broker takes: more than --max-value-bytes,
// so that an overlong value becomes a reject that names it, not an error of the producer.
const brokerMessageBytes = 16 << 20

// deadLetterRetention is how long dead letters are kept to be redriven.
const deadLetterRetention = 30 * 24 * time.Hour

// topicSettings are what topics depend on.
type topicSettings struct {
	partitions    int // of the topics of family DEMAND; the others have 1
	maxValueBytes int
}

// topics are the topics of the hub, made where they are missing. The embedded broker keeps records by size
// alone: a simulated past would be deleted by its age.
func topics(s topicSettings, embedded bool) []broker.TopicSpec {
	var out []broker.TopicSpec
	for _, t := range event.Types {
		spec := broker.TopicSpec{Name: t.Topic, Partitions: 1}
		if t.Family == event.FamilyDemand {
			spec.Partitions = s.partitions
		}
		if embedded {
			spec.Configs = map[string]string{"max.message.bytes": strconv.Itoa(brokerMessageBytes), "retention.ms": "-1"}
		}
		out = append(out, spec, broker.DeadLetterTopic(t.Topic, 1, deadLetterBytes(s.maxValueBytes), deadLetterRetention))
	}
	return append(out, broker.TopicSpec{Name: event.TopicOutcome, Partitions: 1})
}

// ensureTopics makes the topics of the hub that a cluster lacks.
func ensureTopics(ctx context.Context, c wkafka.Cluster, s topicSettings, embedded bool) error {
	tr := c.Transport()
	defer tr.CloseIdleConnections()
	return broker.EnsureTopicsWith(ctx, c.Client(tr), topics(s, embedded))
}

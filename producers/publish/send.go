package publish

import (
	"context"
	"errors"
	"fmt"
	"strings"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// A batch is sent before it passes that many events or bytes, headers counted. Its part for one
// partition is one record batch, which the broker holds against max.message.bytes (1 MiB unless
// configured): half of that leaves room for what the estimate misses. An event larger than batchBytes
// goes alone.
const (
	batchEvents = 4000
	batchBytes  = 512 << 10
	recordBytes = 32 // a record's own lengths, offset and time, at most
)

// sender publishes events and notes where they landed.
type sender struct {
	o         *Options
	transport *kafkago.Transport
	writer    *kafkago.Writer
	report    *Report
	ids       map[string]int
	batch     []kafkago.Message
	bytes     int
}

func newSender(o *Options, report *Report) *sender {
	s := &sender{o: o, report: report, ids: map[string]int{}, transport: o.Cluster.Transport()}
	s.writer = o.Cluster.Writer(s.transport, o.MaxValueBytes+64<<10)
	// The writer sets the offsets that the broker answered, and calls this before WriteMessages returns.
	s.writer.Completion = func(messages []kafkago.Message, err error) {
		if err != nil {
			return
		}
		for i := range messages {
			report.Positions.add(Partition{messages[i].Topic, messages[i].Partition}, messages[i].Offset)
		}
	}
	return s
}

// schemaID is the id of the current schema of a topic, asked for once.
func (s *sender) schemaID(ctx context.Context, t *event.Type) (int, error) {
	if id, ok := s.ids[t.Topic]; ok {
		return id, nil
	}
	id, err := s.o.SchemaID(ctx, t.Topic)
	if err != nil {
		return 0, fmt.Errorf("look up the schema id of %s: %w; is the schema registry running, and does it have the schemas?", t.SubjectName(), err)
	}
	s.ids[t.Topic] = id
	return id, nil
}

// add takes a message, which it keeps until it is sent; before, it sends the batch if the message has
// no room in it.
func (s *sender) add(ctx context.Context, topic string, key, value []byte, headers []event.Header) error {
	m := kafkago.Message{Topic: topic, Key: key, Value: value, Headers: make([]kafkago.Header, len(headers))}
	size := recordBytes + len(key) + len(value)
	for i, h := range headers {
		m.Headers[i] = kafkago.Header(h)
		size += 4 + len(h.Key) + len(h.Value)
	}
	if len(s.batch) >= batchEvents || s.bytes+size > batchBytes {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.batch = append(s.batch, m)
	s.bytes += size
	return nil
}

// flush sends the batch and waits until all in-sync replicas have it.
func (s *sender) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	err := s.writer.WriteMessages(ctx, s.batch...)
	sent, first := len(s.batch), err
	var each kafkago.WriteErrors
	if errors.As(err, &each) {
		first = nil
		for _, e := range each {
			if e == nil {
				continue
			}
			sent--
			if first == nil {
				first = e
			}
		}
	} else if err != nil {
		sent = 0
	}
	topic := s.batch[0].Topic
	for i := range s.batch {
		switch {
		case err == nil, each != nil && each[i] == nil:
			s.report.Bytes += int64(len(s.batch[i].Value))
		case each != nil && errors.Is(each[i], first):
			topic = s.batch[i].Topic
		}
	}
	s.report.Published += sent
	n := len(s.batch) - sent
	clear(s.batch)
	s.batch, s.bytes = s.batch[:0], 0
	if err == nil {
		return nil
	}
	return fmt.Errorf("publish %d events to %s at %s: %w: %w; %s", n, topic, strings.Join(s.o.Cluster.Brokers, ","), ErrNotAcknowledged, first, s.advice(ctx, first, topic))
}

// advice says what to do about an error of the broker.
func (s *sender) advice(ctx context.Context, err error, topic string) string {
	again := fmt.Sprintf("%d events of this run were acknowledged before; publish the file again then: they will end as duplicates", s.report.Published)
	switch {
	case ctx.Err() != nil:
		return "interrupted: " + again
	case errors.Is(err, kafkago.UnknownTopicOrPartition):
		return "the topic does not exist (or the brokers are of another cluster): create " + topic + "; " + again
	case errors.Is(err, kafkago.TopicAuthorizationFailed), errors.Is(err, kafkago.SASLAuthenticationFailed), errors.Is(err, kafkago.ClusterAuthorizationFailed):
		return "ask for the right to write to " + topic + "; " + again
	case errors.Is(err, kafkago.MessageSizeTooLarge):
		return "the broker takes smaller records only: raise max.message.bytes of " + topic + "; " + again
	}
	return "is the broker running and reachable? " + again
}

func (s *sender) close() error {
	err := s.writer.Close()
	s.transport.CloseIdleConnections()
	return err
}

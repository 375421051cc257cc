package kafka_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	embedded "github.com/welfarehub/welfarehub/pkg/broker"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// TestScanGivesMessagesOfItsOwn reads a range in pieces and looks at all of it at the end: what was given
// must not alias what was read after it.
func TestScanGivesMessagesOfItsOwn(t *testing.T) {
	cluster := wkafka.Cluster{Brokers: testkit.Kafka(t)}
	tr := cluster.Transport()
	defer tr.CloseIdleConnections()
	topic := fmt.Sprintf("scan.%d", time.Now().UnixNano())
	if err := embedded.EnsureTopicsWith(t.Context(), cluster.Client(tr), []embedded.TopicSpec{{Name: topic, Partitions: 1, Configs: map[string]string{"retention.ms": "-1"}}}); err != nil {
		t.Fatal(err)
	}
	w := cluster.Writer(tr, 1<<20)
	w.Compression, w.BatchSize = kafka.Lz4, 7
	defer w.Close()
	var sent []kafka.Message
	for i := range 100 {
		m := kafka.Message{Topic: topic, Key: fmt.Appendf(nil, "key %d", i), Value: fmt.Appendf(nil, "value %d", i), Time: time.UnixMilli(1_700_000_000_000 + int64(i)).UTC()}
		if i%3 == 0 {
			m.Key = nil
		}
		m.Headers = []kafka.Header{{Key: fmt.Sprint("header ", i), Value: fmt.Appendf(nil, "%d", i)}}
		sent = append(sent, m)
	}
	if err := w.WriteMessages(t.Context(), sent...); err != nil {
		t.Fatal(err)
	}
	scan := wkafka.NewScan(cluster, topic, 0, 5, 90)
	defer scan.Close()
	var got []wkafka.Message
	for {
		msgs, err := scan.Next(t.Context(), 11, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(msgs) == 0 {
			break
		}
		if len(msgs) > 11 {
			t.Fatalf("%d messages at once", len(msgs))
		}
		got = append(got, msgs...)
	}
	if len(got) != 85 || scan.At() != 90 {
		t.Fatalf("%d messages, at %d", len(got), scan.At())
	}
	for i := range got {
		rec, want := wkafka.RecordOf(&got[i]), sent[5+i]
		equal(t, &rec, &want, int64(5+i))
		if got[i].Topic != topic {
			t.Errorf("topic %q", got[i].Topic)
		}
	}
}

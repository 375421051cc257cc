package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

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

// TestBoundsOfALeaderThatDoesNotYetKnow asks a broker that the cluster names as the leader and that refuses
// for one partition, then for both, as one does that was made it a moment ago.
func TestBoundsOfALeaderThatDoesNotYetKnow(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "young"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asked := 0
	c.ControlKey(int16(kmsg.ListOffsets), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if asked++; asked > 3 {
			return nil, nil, false
		}
		req := kreq.(*kmsg.ListOffsetsRequest)
		res := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, topic := range req.Topics {
			rt := kmsg.NewListOffsetsResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.Offset = p.Partition, 7
				if asked < 3 || p.Partition == 1 {
					rp.ErrorCode = int16(kafka.NotLeaderForPartition)
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			res.Topics = append(res.Topics, rt)
		}
		return res, nil, true
	})
	cluster := wkafka.Cluster{Brokers: c.ListenAddrs()}
	tr := cluster.Transport()
	defer tr.CloseIdleConnections()
	bounds, err := wkafka.LogBounds(t.Context(), cluster.Client(tr), "young")
	if err != nil || asked < 4 || len(bounds) != 2 || bounds[1] != (wkafka.Bounds{}) {
		t.Errorf("%v after %d questions: %v", bounds, asked, err)
	}
	if _, err := wkafka.LogBounds(t.Context(), cluster.Client(tr), "none"); !errors.Is(err, wkafka.ErrNoTopic) {
		t.Errorf("no topic: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	asked = -1000
	if _, err := wkafka.LogBounds(ctx, cluster.Client(tr), "young"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no patience: %v", err)
	}
}

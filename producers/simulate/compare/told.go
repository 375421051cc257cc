package compare

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// Told compares the dead letters with a truth, and the outcomes with the books. Both may be repeated, never
// changed: so each record is taken once, and what is said again of it must be the same.
func Told(ctx context.Context, cluster wkafka.Cluster, db *clickhouse.DB, truth simulate.Truth) (Report, error) {
	var r Report
	letters, want := map[string]int{}, map[string]int{}
	for topic, t := range truth.Topics {
		for code, n := range t.Rejected {
			want[topic+" "+code] += n
		}
		msgs, err := readAll(ctx, cluster, topic+".dlq")
		if err != nil {
			return r, err
		}
		said := map[string]string{}
		for _, m := range msgs {
			h := map[string]string{}
			for _, x := range m.Headers {
				h[x.Key] = string(x.Value)
			}
			at, code := h["wh_partition"]+"/"+h["wh_offset"], h["wh_code"]
			if before, again := said[at]; !again {
				said[at] = code
				letters[topic+" "+code]++
			} else if before != code {
				r.add("letter of %s/%s: %s, then %s", topic, at, before, code)
			}
		}
	}
	r.counts("dead letters", letters, want)

	got, err := Books(ctx, db)
	if err != nil {
		return r, err
	}
	ends, err := outcomes(ctx, cluster, &r)
	if err != nil {
		return r, err
	}
	booked := map[string]int{}
	for topic, b := range got {
		for end, n := range map[string]int{"LOADED": b.Loaded, "DUPLICATE": b.Duplicate, "REJECTED": b.Rejected} {
			if n > 0 {
				booked[topic+" "+end] = n
			}
		}
	}
	r.counts("outcomes", ends, booked)
	return r, nil
}

// outcomes counts the records by topic and outcome.
func outcomes(ctx context.Context, cluster wkafka.Cluster, r *Report) (map[string]int, error) {
	msgs, err := readAll(ctx, cluster, event.TopicOutcome)
	if err != nil {
		return nil, err
	}
	said, ends := map[string]string{}, map[string]int{}
	for _, m := range msgs {
		var report event.OutcomesReported
		if err := avro.Unmarshal(event.OutcomesReportedSchema, m.Value[event.FrameSize:], &report); err != nil {
			return nil, fmt.Errorf("decode outcomes at offset %d: %w", m.Offset, err)
		}
		for _, o := range report.Outcomes {
			at, what := fmt.Sprintf("%s/%d/%d", report.Topic, report.Partition, o.Offset), string(o.Outcome)+" "+strings.Join(o.Codes, ",")
			if before, again := said[at]; !again {
				said[at] = what
				ends[report.Topic+" "+string(o.Outcome)]++
			} else if before != what {
				r.add("outcome of %s: %s, then %s", at, before, what)
			}
		}
	}
	return ends, nil
}

// readAll reads all that a topic holds.
func readAll(ctx context.Context, cluster wkafka.Cluster, topic string) ([]kafka.Message, error) {
	parts, err := cluster.Dialer().LookupPartitions(ctx, "tcp", cluster.Brokers[0], topic)
	if err != nil {
		return nil, fmt.Errorf("find partitions of %s: %w", topic, err)
	}
	var out []kafka.Message
	for _, p := range parts {
		msgs, err := readPartition(ctx, cluster, topic, p.ID)
		if err != nil {
			return nil, fmt.Errorf("read %s/%d: %w", topic, p.ID, err)
		}
		out = append(out, msgs...)
	}
	return slices.Clip(out), nil
}

func readPartition(ctx context.Context, cluster wkafka.Cluster, topic string, partition int) ([]kafka.Message, error) {
	conn, err := cluster.Dialer().DialLeader(ctx, "tcp", cluster.Brokers[0], topic, partition)
	if err != nil {
		return nil, err
	}
	first, end, err := conn.ReadOffsets()
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	if err != nil || first == end {
		return nil, err
	}
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: cluster.Brokers, Dialer: cluster.Dialer(), Topic: topic, Partition: partition, MaxWait: 100 * time.Millisecond, MaxBytes: 16 << 20,
	})
	defer r.Close()
	var out []kafka.Message
	for {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return out, err
		}
		out = append(out, m)
		if m.Offset >= end-1 {
			return out, nil
		}
	}
}

package compare

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hamba/avro/v2"

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
		report, err := decodeOutcomes(m.Value)
		if err != nil {
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

// errFrame says that a message is too short for the frame of the registry's wire format.
var errFrame = errors.New("there is no frame")

// bounded reads Avro within bounds of memory.
var bounded = avro.Config{MaxSliceAllocSize: 1 << 20}.Freeze()

// decodeOutcomes decodes a message of the topic of outcomes. The reader's own Unmarshal takes one that is cut short
// for a whole one.
func decodeOutcomes(value []byte) (report event.OutcomesReported, err error) {
	if len(value) < event.FrameSize {
		return report, errFrame
	}
	r := avro.NewReader(nil, 0, avro.WithReaderConfig(bounded)).Reset(value[event.FrameSize:])
	r.ReadVal(event.OutcomesReportedSchema, &report)
	return report, r.Error
}

// readAll reads all that a topic holds.
func readAll(ctx context.Context, cluster wkafka.Cluster, topic string) ([]wkafka.Message, error) {
	tr := cluster.Transport()
	defer tr.CloseIdleConnections()
	logs, err := wkafka.LogBounds(ctx, cluster.Client(tr), topic)
	if err != nil {
		return nil, err
	}
	var out []wkafka.Message
	for p, log := range logs {
		msgs, err := readPartition(ctx, wkafka.NewScan(cluster, topic, p, log.First, log.End))
		if err != nil {
			return nil, err
		}
		out = append(out, msgs...)
	}
	return out, nil
}

func readPartition(ctx context.Context, scan *wkafka.Scan) (out []wkafka.Message, err error) {
	defer scan.Close()
	for {
		msgs, err := scan.Next(ctx, 10_000, 16<<20)
		if err != nil || len(msgs) == 0 {
			return out, err
		}
		out = append(out, msgs...)
	}
}

package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	embedded "github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestFetcherReadsWhatWasWritten writes random records, compressed in all ways, and reads them in pieces.
func TestFetcherReadsWhatWasWritten(t *testing.T) {
	cluster := wkafka.Cluster{Brokers: testkit.Kafka(t)}
	tr := cluster.Transport()
	defer tr.CloseIdleConnections()
	for _, codec := range []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			topic := fmt.Sprintf("fetch.%d.%d", codec, time.Now().UnixNano())
			if err := embedded.EnsureTopicsWith(t.Context(), cluster.Client(tr), []embedded.TopicSpec{{Name: topic, Partitions: 1, Configs: map[string]string{"retention.ms": "-1"}}}); err != nil {
				t.Fatal(err)
			}
			w := cluster.Writer(tr, 1<<20)
			w.Compression, w.BatchSize = codec, 37
			defer w.Close()
			rng := rand.New(rand.NewPCG(1, uint64(codec)))
			var want []kafka.Message
			for i := range 500 {
				m := kafka.Message{Topic: topic, Time: time.UnixMilli(1_700_000_000_000 + int64(i)*rng.Int64N(1000))}
				if rng.IntN(5) > 0 {
					m.Key = randomBytes(rng, 40)
				}
				if rng.IntN(20) > 0 {
					m.Value = randomBytes(rng, 3000)
				}
				for range rng.IntN(4) {
					m.Headers = append(m.Headers, kafka.Header{Key: string(randomBytes(rng, 20)), Value: randomBytes(rng, 300)})
				}
				want = append(want, m)
			}
			if err := w.WriteMessages(t.Context(), want...); err != nil {
				t.Fatal(err)
			}
			f := wkafka.NewFetcher(cluster, topic, 0, nil)
			defer f.Close()
			for at := int64(0); at < int64(len(want)); {
				var recs []wkafka.Record
				from, n := at, 1+rng.IntN(120)
				var err error
				for len(recs) == 0 { // an answer may have none yet
					if recs, at, err = f.Fetch(t.Context(), recs, at, 0, n, 1<<20, time.Second); err != nil {
						t.Fatal(err)
					}
				}
				if len(recs) > n || at != from+int64(len(recs)) || f.LogEnd() != int64(len(want)) {
					t.Fatalf("%d records from %d, next %d, log end %d", len(recs), from, at, f.LogEnd())
				}
				for i := range recs {
					equal(t, &recs[i], &want[from+int64(i)], from+int64(i))
				}
				if rng.IntN(2) == 0 {
					f.Release()
				}
				if rng.IntN(6) == 0 {
					at = rng.Int64N(at + 1) // a jump
				}
				if rng.IntN(10) == 0 {
					f.Close()
				}
			}
			if recs, next, err := f.Fetch(t.Context(), nil, 100, 105, 1000, 1<<20, time.Second); err != nil || len(recs) != 5 || next != 105 {
				t.Errorf("%d records up to the limit, next %d, %v", len(recs), next, err)
			}
			if _, _, err := f.Fetch(t.Context(), nil, int64(len(want))+1, 0, 1, 1, time.Second); !errors.Is(err, kafka.OffsetOutOfRange) {
				t.Errorf("beyond the end: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			began := time.Now()
			if recs, _, err := f.Fetch(ctx, nil, int64(len(want)), 0, 1, 1, 20*time.Second); len(recs) != 0 || ctx.Err() == nil {
				t.Errorf("%d records at the end, %v after %s", len(recs), err, time.Since(began))
			}
		})
	}
}

// randomBytes is empty sometimes, and never nil.
func randomBytes(rng *rand.Rand, most int) []byte {
	b := make([]byte, rng.IntN(most))
	for i := range b {
		b[i] = byte('a' + rng.IntN(7))
	}
	return b
}

func equal(t *testing.T, got *wkafka.Record, want *kafka.Message, offset int64) {
	t.Helper()
	if got.Offset != offset || got.Timestamp != want.Time.UnixMilli() {
		t.Errorf("offset %d, timestamp %d; want %d, %d", got.Offset, got.Timestamp, offset, want.Time.UnixMilli())
	}
	if !bytes.Equal(got.Key, want.Key) || (got.Key == nil) != (want.Key == nil) || !bytes.Equal(got.Value, want.Value) || (got.Value == nil) != (want.Value == nil) {
		t.Errorf("offset %d: key %q value %d bytes; want %q, %d bytes", offset, got.Key, len(got.Value), want.Key, len(want.Value))
	}
	headers := got.Headers(nil)
	if !slices.EqualFunc(headers, want.Headers, func(a event.Header, b kafka.Header) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }) {
		t.Errorf("offset %d: headers %v, want %v", offset, headers, want.Headers)
	}
}

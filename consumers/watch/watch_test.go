package watch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/zap/zaptest"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/pkg/metrics/metricstest"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// away is a ClickHouse that does not answer.
type away struct{ driver.Conn }

func (away) Query(context.Context, string, ...any) (driver.Rows, error) {
	return nil, errors.New("away")
}

// TestLagIsSeenWithoutALoader: nobody loads here, and in the end ClickHouse is away as well.
func TestLagIsSeenWithoutALoader(t *testing.T) {
	cluster := wkafka.Cluster{Brokers: testkit.Kafka(t)}
	db := hubtest.Store(t, testkit.ClickHouse(t).DSN)
	request := event.ByName("ServiceRequested")
	if err := broker.EnsureTopics(t.Context(), cluster.Brokers[0], []broker.TopicSpec{{Name: request.Topic, Partitions: 3}}); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Millisecond)
	publish := func(partition int, ages ...time.Duration) {
		t.Helper()
		conn, err := kafkago.DialLeader(t.Context(), "tcp", cluster.Brokers[0], request.Topic, partition)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		var msgs []kafkago.Message
		for _, age := range ages {
			msgs = append(msgs, kafkago.Message{Value: []byte("x"), Time: now.Add(-age)})
		}
		if _, err := conn.WriteCompressedMessages(kafkago.Zstd.Codec(), msgs...); err != nil {
			t.Fatal(err)
		}
	}
	ledger := func(partition, from, to int) {
		t.Helper()
		q := fmt.Sprintf("INSERT INTO store.ledger (type, topic, partition, from_offset, to_offset, read, loaded) VALUES (%d, '%s', %d, %d, %d, %d, %d)",
			request.No, request.Topic, partition, from, to, to-from, to-from)
		if err := db.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	publish(0, 50*time.Second, 40*time.Second, 30*time.Second, 20*time.Second, 10*time.Second)
	publish(1, time.Hour, time.Minute)
	ledger(0, 0, 2)

	reg := metrics.New("test")
	w := New(Options{Cluster: cluster, DB: db.Conn(), Metrics: reg.Watch(1), Logger: zaptest.NewLogger(t)})
	defer w.transport.CloseIdleConnections()
	check := func(what string, partition int, records, seconds, aggregate float64) {
		t.Helper()
		v := metricstest.Values(t, reg)
		at := fmt.Sprintf(" %d %s", partition, request.Topic)
		since := time.Since(now).Seconds()
		if seconds > 0 {
			seconds += since
		}
		if v["welfarehub_lag_records"+at] != records || math.Abs(v["welfarehub_lag_seconds"+at]-seconds) > 2 || v["welfarehub_lag_aggregate_records"+at] != aggregate {
			t.Errorf("%s: partition %d: %v records, %v s, %v to aggregate; want %v, %v, %v", what, partition,
				v["welfarehub_lag_records"+at], v["welfarehub_lag_seconds"+at], v["welfarehub_lag_aggregate_records"+at], records, seconds, aggregate)
		}
	}
	w.lookAtLag(t.Context())
	check("the third of a batch", 0, 3, 30, 2)
	check("never loaded", 1, 2, 3600, 0)
	check("empty", 2, 0, 0, 0)

	ledger(0, 2, 5)
	w.lookAtLag(t.Context())
	check("all loaded", 0, 0, 0, 5)

	publish(0, 5*time.Second)
	w.lookAtLag(t.Context())
	check("one more", 0, 1, 5, 5)

	w.opt.DB = away{}
	publish(0, 4*time.Second, 3*time.Second)
	w.lookAtLag(t.Context())
	check("ClickHouse is away", 0, 3, 5, 5)
	if v := metricstest.Values(t, reg); v["welfarehub_watch_last_look_timestamp_seconds kafka"] <= v["welfarehub_watch_last_look_timestamp_seconds ledger"] {
		t.Errorf("looks: %v", v)
	}

	w.opt.DB = db.Conn()
	for i, source := range []string{"urn:a", "urn:a", "urn:b", "RSSMRA85T10A562S"} {
		q := fmt.Sprintf("INSERT INTO store.%s (_partition, _offset, _from, _to, _end, _loaded_at, source) VALUES (9, %d, %d, %d, 'loaded', fromUnixTimestamp64Milli(%d, 'UTC'), '%s')",
			request.Table, i, i, i+1, now.Add(-time.Duration(i+1)*time.Minute).UnixMilli(), source)
		if err := db.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	w.lookAtSources(t.Context())
	v := metricstest.Values(t, reg)
	for source, want := range map[string]float64{"urn:a": 60, "other": 180} {
		if got := v["welfarehub_source_silence_seconds "+source] - time.Since(now).Seconds(); math.Abs(got-want) > 2 {
			t.Errorf("%s is silent for %v s, want %v", source, got, want)
		}
	}
	for name := range v {
		if strings.Contains(name, "RSS") || strings.Contains(name, "urn:b") {
			t.Errorf("%s", name)
		}
	}
}

// TestRunEnds: whatever is away.
func TestRunEnds(t *testing.T) {
	reg := metrics.New("test")
	w := New(Options{Cluster: wkafka.Cluster{Brokers: []string{"127.0.0.1:1"}}, DB: away{}, Metrics: reg.Watch(1), Every: time.Millisecond, SourcesEvery: time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := w.Run(ctx); err != nil {
		t.Error(err)
	}
	if v := metricstest.Values(t, reg); v["welfarehub_watch_last_look_timestamp_seconds kafka"] != 0 {
		t.Error("what is away was read")
	}
}

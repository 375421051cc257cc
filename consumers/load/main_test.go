package load

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// world is a broker, an empty store and the schemas, for one test.
type world struct {
	t       *testing.T
	cluster wkafka.Cluster
	dsn     string
	db      *clickhouse.DB
	writer  *kafka.Writer
	group   string
}

func newWorld(t *testing.T, partitions int) *world {
	t.Helper()
	return newWorldOn(t, testkit.ClickHouse(t).DSN, partitions)
}

func newWorldOn(t *testing.T, dsn string, partitions int) *world {
	t.Helper()
	h := hubtest.On(t, dsn, partitions)
	h.Writer.Balancer = byHint{}
	return &world{t: t, cluster: h.Cluster, dsn: h.DSN, db: h.DB, writer: h.Writer, group: "load-" + uuid.NewString()}
}

// byHint sends a message to the partition that its header names, else to 0.
type byHint struct{}

func (byHint) Balance(m kafka.Message, _ ...int) int {
	for _, h := range m.Headers {
		if h.Key == "test_partition" {
			return int(h.Value[0] - '0')
		}
	}
	return 0
}

// message is the record of a row, for a partition.
func message(row *event.Row, partition int) kafka.Message {
	m := hubtest.Message(row, row.Type.No)
	m.Headers = append(m.Headers, kafka.Header{Key: "test_partition", Value: []byte{byte('0' + partition)}})
	return m
}

func (w *world) publish(msgs ...kafka.Message) {
	w.t.Helper()
	if err := w.writer.WriteMessages(w.t.Context(), msgs...); err != nil {
		w.t.Fatal(err)
	}
}

// start runs a loader until stop is called. before are called with it before it runs.
func (w *world) start(schemas record.SchemaSource, change func(*Options), before ...func(*Loader)) (l *Loader, stop func()) {
	w.t.Helper()
	opt := Options{
		Cluster: w.cluster, Group: w.group, DSN: w.dsn, Schemas: schemas, OutcomeSchemaID: hubtest.OutcomeSchemaID,
		FlushAge: 50 * time.Millisecond, SessionTimeout: 6 * time.Second, Logger: zaptest.NewLogger(w.t, zaptest.Level(zap.WarnLevel)),
	}
	if change != nil {
		change(&opt)
	}
	l, err := New(opt)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range before {
		f(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(stop)
	return l, stop
}

// books are the sums of the ledger.
func (w *world) books(topic string) (c Counts) {
	w.t.Helper()
	var read, loaded, duplicate, rejected uint64
	if err := w.db.Scan(w.t.Context(), "SELECT sum(read), sum(loaded), sum(duplicate), sum(rejected) FROM store.ledger WHERE topic = ?", []any{topic}, &read, &loaded, &duplicate, &rejected); err != nil {
		w.t.Fatal(err)
	}
	return Counts{int64(read), int64(loaded), int64(duplicate), int64(rejected)}
}

// await waits until n records of the topic are in the ledger.
func (w *world) await(topic string, n int64) {
	w.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got := w.books(topic)
		if got.Read >= n {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: %+v after a minute, want %d read", topic, got, n)
		}
	}
}

// count runs a query that returns one number.
func (w *world) count(query string, args ...any) int64 {
	w.t.Helper()
	var n uint64
	if err := w.db.Scan(w.t.Context(), "SELECT toUInt64((SELECT "+query+"))", args, &n); err != nil {
		w.t.Fatal(err)
	}
	return int64(n)
}

// drain reads all that a topic holds.
func (w *world) drain(topic string) []kafka.Message {
	w.t.Helper()
	r := wkafka.NewFetcher(w.cluster, topic, 0, nil)
	defer r.Close()
	var out []kafka.Message
	for at := int64(0); ; {
		recs, next, err := r.Fetch(w.t.Context(), nil, at, 0, 1<<20, 1<<30, 200*time.Millisecond)
		if err != nil {
			w.t.Fatal(err)
		}
		for i := range recs {
			m := kafka.Message{Topic: topic, Offset: recs[i].Offset, Key: recs[i].Key, Value: recs[i].Value, Time: time.UnixMilli(recs[i].Timestamp)}
			for _, h := range recs[i].Headers(nil) {
				m.Headers = append(m.Headers, kafka.Header(h))
			}
			out = append(out, m)
		}
		if at = next; at >= r.LogEnd() {
			return out
		}
	}
}

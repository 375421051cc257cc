package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/engine"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/kafka"
)

func TestMain(m *testing.M) {
	engine.RunIfChild()
	m.Run() // its code is the process's
	if shared.stop != nil {
		shared.stop()
	}
}

// shared is the migrated engine of this package's tests, started by the first that needs it.
var shared struct {
	once sync.Once
	db   *clickhouse.DB
	stop func()
	err  error
}

// database returns the database without rows. WELFAREHUB_E2E=0 skips the test, =1 requires an engine,
// unset runs it where one is installed.
func database(t *testing.T) *clickhouse.DB {
	t.Helper()
	e2e := os.Getenv("WELFAREHUB_E2E")
	if e2e == "0" {
		t.Skip("WELFAREHUB_E2E=0")
	}
	shared.once.Do(func() { shared.db, shared.stop, shared.err = startDatabase() })
	if errors.Is(shared.err, engine.ErrLibraryMissing) && e2e != "1" {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	for _, table := range []string{theType.Table, "ledger", "ids", "erased", "superseded", "dispositions"} {
		exec(t, shared.db, "TRUNCATE TABLE store."+table)
	}
	return shared.db
}

func startDatabase() (*clickhouse.DB, func(), error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "reconcile-test")
	if err != nil {
		return nil, nil, err
	}
	e, err := engine.Start(ctx, engine.Options{DataDir: dir, MinFreeDisk: -1})
	if err != nil {
		return nil, func() { _ = os.RemoveAll(dir) }, err
	}
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = e.Stop(ctx)
		_ = os.RemoveAll(dir)
	}
	if err := clickhouse.Migrate(ctx, e.DSN(), zap.NewNop()); err != nil {
		return nil, stop, err
	}
	db, err := clickhouse.Open(ctx, e.DSN())
	return db, stop, err
}

func exec(t *testing.T, db *clickhouse.DB, query string) {
	t.Helper()
	if err := db.Exec(t.Context(), query); err != nil {
		t.Fatalf("%.100s: %v", query, err)
	}
}

// theType is the event of these tests: one with a subject, so that its rows can be erased.
var theType = event.ByName("ServiceRequested")

// put stores a block as the loader does: an end for each record, l, d or r, or - for an offset that the
// broker skipped. The block is [from, from+len(ends)).
func put(t *testing.T, db *clickhouse.DB, partition, from int, ends string) {
	t.Helper()
	var rows []string
	for i, end := range ends {
		offset := from + i
		name := map[rune]string{'l': "loaded", 'd': "duplicate", 'r': "rejected"}[end]
		if name == "" {
			continue
		}
		rows = append(rows, fmt.Sprintf("(%d, %d, %d, %d, '%s', substring(SHA256('%d %d'), 1, 16), '{\"code\":\"E01\",\"codes\":[\"E01\"]}')",
			partition, offset, from, from+len(ends), name, partition, offset))
	}
	token := fmt.Sprintf("%s/%d/%d-%d %s", theType.Topic, partition, from, from+len(ends), t.Name())
	query := "INSERT INTO store." + theType.Table + " (_partition, _offset, _from, _to, _end, _id_hash, _detail) VALUES " + strings.Join(rows, ", ")
	if err := db.Exec(clickhouse.InsertOnce(t.Context(), token), query); err != nil {
		t.Fatal(err)
	}
}

// topic starts a broker whose topic has as many records in each partition as counts says.
func topic(t *testing.T, counts ...int) kafka.Cluster {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Options{DataDir: t.TempDir(), MinFreeDisk: -1, Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := broker.EnsureTopics(t.Context(), b.Addr(), []broker.TopicSpec{{Name: theType.Topic, Partitions: len(counts)}}); err != nil {
		t.Fatal(err)
	}
	for partition, n := range counts {
		if n == 0 {
			continue
		}
		conn, err := kafkago.DialLeader(t.Context(), "tcp", b.Addr(), theType.Topic, partition)
		if err != nil {
			t.Fatal(err)
		}
		msgs := make([]kafkago.Message, n)
		for i := range msgs {
			msgs[i].Value = []byte("x")
		}
		if _, err := conn.WriteMessages(msgs...); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	return kafka.Cluster{Brokers: []string{b.Addr()}}
}

// run reconciles the topic of these tests and returns the report with its findings as sorted lines.
func run(t *testing.T, db *clickhouse.DB, cluster kafka.Cluster) (Report, []string) {
	t.Helper()
	r, err := Run(t.Context(), Options{DB: db.Conn(), Cluster: cluster, Topics: []string{theType.Topic}, Recheck: -1})
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for _, f := range r.Findings {
		lines[fmt.Sprintf("%s %d [%d,%d) %d", f.Kind, f.Partition, f.From, f.To, f.Records)] = true
	}
	return r, slices.Sorted(maps.Keys(lines))
}

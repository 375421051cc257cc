package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// database returns the database without rows.
func database(t *testing.T) *clickhouse.DB {
	t.Helper()
	db := hubtest.Store(t, testkit.ClickHouse(t).DSN)
	for _, table := range []string{theType.Table, "ledger", "ids", "erased", "superseded", "settled", "dispositions"} {
		exec(t, db, "TRUNCATE TABLE store."+table)
	}
	return db
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

// log makes the topic once, with 15 records in partition 0, 11 in partition 1 and none in partition 2.
func log(t *testing.T) kafka.Cluster {
	t.Helper()
	cluster := kafka.Cluster{Brokers: testkit.Kafka(t)}
	filled.Do(func() {
		if err := broker.EnsureTopics(t.Context(), cluster.Brokers[0], []broker.TopicSpec{{Name: theType.Topic, Partitions: 3}}); err != nil {
			t.Fatal(err)
		}
		for partition, n := range []int{15, 11} {
			conn, err := kafkago.DialLeader(t.Context(), "tcp", cluster.Brokers[0], theType.Topic, partition)
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
	})
	return cluster
}

// filled is done when the topic has its records.
var filled sync.Once

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

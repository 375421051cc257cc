package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// TestCopiesHaveNoHorizon publishes the same 4,000 messages again in each way in which copies come: at new offsets, a month
// later in other partitions, after the topics got more partitions, under other keys; and lets the group begin anew from
// offset 0. The rows that the first time left, their places and every cell stay as they are.
func TestCopiesHaveNoHorizon(t *testing.T) {
	const events, seed = 4000, 11
	data := t.TempDir()
	args := []string{"--no-demo", "--partitions", "2", "--block-records", "500", "--flush-age", "50ms"}
	h := start(t, data, args...)
	msgs, truth := h.messages(events, seed)
	cluster := wkafka.Cluster{Brokers: []string{h.Kafka}}
	tr := cluster.Transport()
	defer func() { tr.CloseIdleConnections() }()
	w := cluster.Writer(tr, 16<<20)
	defer func() { w.Close() }()
	publish := func(change func(m *kafka.Message)) {
		t.Helper()
		batch := make([]kafka.Message, len(msgs))
		for i, m := range msgs {
			change(&m)
			batch[i] = m
		}
		if err := w.WriteMessages(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	publish(func(*kafka.Message) {})
	db := h.db()
	awaitAll(t, db, len(msgs))
	compareTruth(t, db, truth)
	rows, first := places(t, db), cells(t, db)
	sent := len(msgs)
	unchanged := func(what string) {
		t.Helper()
		awaitAll(t, db, sent)
		differ(t, places(t, db), rows)
		differ(t, cells(t, db), first)
		if n := number(t, db, "SELECT sum(read) - sum(loaded) - sum(duplicate) - sum(rejected) FROM welfare.books"); n != 0 {
			t.Errorf("%s: %d records have no end", what, n)
		}
		if t.Failed() {
			t.Fatal(what)
		}
	}

	publish(func(*kafka.Message) {})
	sent += len(msgs)
	unchanged("at new offsets")

	rnd := rand.New(rand.NewPCG(seed, 1))
	w.Balancer = kafka.BalancerFunc(func(_ kafka.Message, partitions ...int) int { return partitions[rnd.IntN(len(partitions))] })
	publish(func(m *kafka.Message) { m.Time = m.Time.Add(30 * 24 * time.Hour) })
	sent += len(msgs)
	unchanged("a month later, in other partitions")

	var grow []kafka.TopicPartitionsConfig
	for _, typ := range event.Types {
		if typ.Family == event.FamilyDemand {
			grow = append(grow, kafka.TopicPartitionsConfig{Name: typ.Topic, Count: 5})
		}
	}
	if res, err := cluster.Client(tr).CreatePartitions(t.Context(), &kafka.CreatePartitionsRequest{Topics: grow}); err != nil {
		t.Fatal(err)
	} else if err := firstError(res.Errors); err != nil {
		t.Fatal(err)
	}
	w.Close()
	tr.CloseIdleConnections()
	tr = cluster.Transport()
	w = cluster.Writer(tr, 16<<20) // knows the new partitions
	publish(func(*kafka.Message) {})
	sent += len(msgs)
	unchanged("after the number of partitions grew")
	if n := number(t, db, "SELECT count() FROM welfare.books WHERE partition > 1 AND duplicate > 0"); n == 0 {
		t.Error("no copy came to a new partition")
	}

	before := number(t, db, "SELECT count() FROM welfare.rejected WHERE code = 'E16'")
	publish(func(m *kafka.Message) { m.Key = []byte("another") })
	sent += len(msgs)
	unchanged("under another key")
	if n := number(t, db, "SELECT count() FROM welfare.rejected WHERE has(codes, 'E16')"); n < before+int64(len(msgs))*9/10 {
		t.Errorf("%d are rejected for their key", n)
	}

	if code := h.interrupt(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, h.out)
	}
	h = start(t, data, append(args, "--group", "another")...)
	db = h.db()
	unchanged("a group without offsets")
	h.reconcile()
}

func firstError(errs map[string]error) error {
	for topic, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: %w", topic, err)
		}
	}
	return nil
}

// places says for each table which events a reader sees, and where they come from.
func places(t *testing.T, db *clickhouse.DB) []string {
	t.Helper()
	var out []string
	for _, typ := range event.Types {
		var n, ids, sum uint64
		if err := db.Scan(t.Context(), "SELECT count(), uniqExact(source, event_id), groupBitXor(cityHash64(source, event_id, _partition, _offset)) FROM welfare."+typ.Table, nil, &n, &ids, &sum); err != nil {
			t.Fatal(err)
		}
		if n != ids {
			t.Errorf("%s: %d rows of %d events", typ.Table, n, ids)
		}
		out = append(out, fmt.Sprintf("%s: %d rows %016x", typ.Table, n, sum))
	}
	return out
}

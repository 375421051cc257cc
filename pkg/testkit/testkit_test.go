package testkit

import (
	"context"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/broker"
)

func TestMain(m *testing.M) { Main(m) }

func write(t *testing.T, addr, topic string, n int) {
	t.Helper()
	transport := &kafka.Transport{MetadataTTL: 200 * time.Millisecond}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{Addr: kafka.TCP(addr), Topic: topic, BatchTimeout: 5 * time.Millisecond, RequiredAcks: kafka.RequireAll, Transport: transport}
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range n {
		if err := w.WriteMessages(ctx, kafka.Message{Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
}

func end(ctx context.Context, addr, topic string) (int64, error) {
	conn, err := (&kafka.Dialer{Timeout: 2 * time.Second}).DialLeader(ctx, "tcp", addr, topic, 0)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return 0, err
	}
	return conn.ReadLastOffset()
}

func wantEnd(t *testing.T, addr, topic string, want int64) {
	t.Helper()
	var got int64
	var err error
	for begin := time.Now(); time.Since(begin) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
		if got, err = end(t.Context(), addr, topic); err == nil && got == want {
			return
		}
	}
	t.Fatalf("topic ends at %d, want %d: %v", got, want, err)
}

func open(t *testing.T, dsn string) driver.Conn {
	t.Helper()
	opts, err := clickhouse.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	opts.DialTimeout = 2 * time.Second
	conn, err := clickhouse.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func rows(t *testing.T, dsn, table string) uint64 {
	t.Helper()
	var n uint64
	if err := open(t, dsn).QueryRow(t.Context(), "SELECT count() FROM "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSharedServersAnswer(t *testing.T) {
	addr := Kafka(t)[0]
	if again := Kafka(t)[0]; again != addr {
		t.Errorf("another Kafka at the second call: %s, %s", addr, again)
	}
	topic := Name(t)
	if err := broker.EnsureTopics(t.Context(), addr, []broker.TopicSpec{
		{Name: topic, Partitions: 2}, broker.DeadLetterTopic(topic, 1, 1<<20, time.Hour), broker.CompactedTopic(topic+".state", 1),
	}); err != nil {
		t.Fatal(err)
	}
	if err := broker.EnsureTopics(t.Context(), addr, []broker.TopicSpec{{Name: topic, Partitions: 2}}); err != nil {
		t.Fatal(err)
	}
	s := ClickHouse(t)
	if ClickHouse(t) != s {
		t.Error("another ClickHouse at the second call")
	}
	if n := rows(t, s.DSN, "system.one"); n != 1 {
		t.Errorf("system.one has %d rows", n)
	}
}

func TestKafkaSurvivesItsFaults(t *testing.T) {
	s := KafkaServer(t)
	topic := Name(t)
	if err := broker.EnsureTopics(t.Context(), s.Addr, []broker.TopicSpec{{Name: topic}}); err != nil {
		t.Fatal(err)
	}
	write(t, s.Addr, topic, 10)

	s.Pause(t)
	time.Sleep(50 * time.Millisecond) // the kernel stops thread after thread
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	if _, err := end(ctx, s.Addr, topic); err == nil {
		t.Error("a paused Kafka answers")
	}
	cancel()
	s.Resume(t)
	wantEnd(t, s.Addr, topic, 10)

	s.Kill(t)
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	if _, err := end(ctx, s.Addr, topic); err == nil {
		t.Error("a killed Kafka answers")
	}
	cancel()
	s.Start(t)
	wantEnd(t, s.Addr, topic, 10)
	write(t, s.Addr, topic, 5)
	wantEnd(t, s.Addr, topic, 15)
}

func TestClickHouseSurvivesItsFaults(t *testing.T) {
	s := ClickHouseServer(t)
	conn := open(t, s.DSN)
	for _, q := range []string{"CREATE TABLE welfare.kept (a UInt64) ENGINE = MergeTree ORDER BY a", "INSERT INTO welfare.kept SELECT number FROM numbers(1000)"} {
		if err := conn.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	ping := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return conn.Ping(ctx)
	}
	s.Pause(t)
	for tries := 0; ping() == nil; tries++ { // its threads stop one after the other
		if tries == 20 {
			t.Fatal("a paused ClickHouse answers")
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.Resume(t)
	if n := rows(t, s.DSN, "welfare.kept"); n != 1000 {
		t.Errorf("%d rows after a pause", n)
	}
	s.Kill(t)
	s.Start(t)
	if n := rows(t, s.DSN, "welfare.kept"); n != 1000 {
		t.Errorf("%d rows after a kill", n)
	}
}

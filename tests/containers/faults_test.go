// Package containers runs tests on a real Kafka and a real ClickHouse in containers, and breaks them: by pause, kill and
// network cut. deploy/images/run.sh provides what it needs:
//
//	deploy/images/run.sh go test ./tests/containers/...
package containers

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// needContainers skips where the environment does not ask for containers: elsewhere these tests say nothing new.
func needContainers(t *testing.T) {
	t.Helper()
	if os.Getenv("WELFAREHUB_KAFKA") != "container" || os.Getenv("WELFAREHUB_CLICKHOUSE") != "container" {
		t.Skip("not on containers: run it by deploy/images/run.sh")
	}
}

// patience is how long a client may need to find a server again.
const patience = 30 * time.Second

// within tries f until it succeeds. Each try has a deadline of its own, because a call to a frozen server hangs.
func within(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	begin := time.Now()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err := f(ctx)
		cancel()
		if err == nil {
			t.Logf("%s: after %s", what, time.Since(begin).Round(time.Millisecond))
			return
		}
		if time.Since(begin) > patience {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// fails makes sure that f does not succeed, within a second and a half.
func fails(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := f(ctx); err == nil {
		t.Errorf("%s: it answered", what)
	}
}

// faults breaks a server in each way. check is run after each, and must find all that was written before.
func faults(t *testing.T, s *testkit.Server, write, check func(ctx context.Context) error) {
	t.Helper()
	within(t, "first write", write)
	for _, fault := range []struct {
		name       string
		begin, end func(t testing.TB)
	}{
		{"pause", s.Pause, s.Resume},
		{"network cut", s.Cut, s.Mend},
		{"kill", s.Kill, s.Start},
	} {
		fault.begin(t)
		fails(t, fault.name, check)
		fault.end(t)
		within(t, "check after "+fault.name, check)
		within(t, "write after "+fault.name, write)
		within(t, "second check after "+fault.name, check)
	}
}

func TestKafkaSurvivesFaults(t *testing.T) {
	needContainers(t)
	s := testkit.KafkaServer(t)
	topic := testkit.Name(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := broker.EnsureTopics(ctx, s.Addr, []broker.TopicSpec{{Name: topic}}); err != nil {
		t.Fatal(err)
	}
	transport := &kafka.Transport{MetadataTTL: 200 * time.Millisecond, DialTimeout: time.Second}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{Addr: kafka.TCP(s.Addr), Topic: topic, BatchTimeout: time.Millisecond, MaxAttempts: 1, RequiredAcks: kafka.RequireAll, Transport: transport, WriteTimeout: 2 * time.Second}
	defer w.Close()
	written := int64(0)
	faults(t, s, func(ctx context.Context) error {
		err := w.WriteMessages(ctx, kafka.Message{Value: []byte("x")})
		if err == nil {
			written++
		}
		return err
	}, func(ctx context.Context) error {
		conn, err := (&kafka.Dialer{Timeout: time.Second}).DialLeader(ctx, "tcp", s.Addr, topic, 0)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		end, err := conn.ReadLastOffset()
		// A write that failed may have landed all the same, so there may be more.
		if err == nil && end < written {
			t.Errorf("topic ends at %d after %d acknowledged writes", end, written)
		}
		return err
	})
}

func TestClickHouseSurvivesFaults(t *testing.T) {
	needContainers(t)
	s := testkit.ClickHouseServer(t)
	conn := open(t, s.DSN)
	defer conn.Close()
	table := "welfare." + testkit.Name(t)
	if err := conn.Exec(t.Context(), "CREATE TABLE "+table+" (a UInt64) ENGINE = MergeTree ORDER BY a"); err != nil {
		t.Fatal(err)
	}
	written := uint64(0)
	faults(t, s, func(ctx context.Context) error {
		err := conn.Exec(ctx, "INSERT INTO "+table+" SELECT number FROM numbers(1000)")
		if err == nil {
			written += 1000
		}
		return err
	}, func(ctx context.Context) error {
		var n uint64
		err := conn.QueryRow(ctx, "SELECT count() FROM "+table).Scan(&n)
		if err == nil && n < written {
			t.Errorf("%d rows after %d acknowledged ones", n, written)
		}
		return err
	})
}

func open(t *testing.T, dsn string) driver.Conn {
	t.Helper()
	opts, err := clickhouse.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	opts.DialTimeout = time.Second
	conn, err := clickhouse.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

package containers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

const (
	session  = 3 * time.Second         // of the loader in its group
	outage   = session + 2*time.Second // longer than the session, so that the group has given the loader up
	recovery = 2 * time.Minute         // what the hub may need after it
)

// pipeline is a Kafka and a ClickHouse in containers, and a registry and a loader, the built binary, between them.
type pipeline struct {
	kafka, clickhouse *testkit.Server
	db                *clickhouse.DB
	registry, loader  *process
	sim               *simulate.Simulator
	sink              *simulate.KafkaSink
	sent              int64
}

func newPipeline(t *testing.T) *pipeline {
	t.Helper()
	needContainers(t)
	p := &pipeline{kafka: testkit.KafkaServer(t), clickhouse: testkit.ClickHouseServer(t)}
	p.db = hubtest.Store(t, p.clickhouse.DSN)

	const limit = 1 << 20
	specs := []broker.TopicSpec{{Name: event.TopicOutcome}}
	for _, typ := range event.Types {
		spec := broker.TopicSpec{Name: typ.Topic, Partitions: 1}
		if typ.Family == event.FamilyDemand {
			spec.Partitions = 2
		}
		specs = append(specs, spec, broker.DeadLetterTopic(typ.Topic, 1, limit, time.Hour))
	}
	cluster := wkafka.Cluster{Brokers: []string{p.kafka.Addr}}
	tr := cluster.Transport()
	t.Cleanup(tr.CloseIdleConnections)
	if err := broker.EnsureTopicsWith(t.Context(), cluster.Client(tr), specs); err != nil {
		t.Fatal(err)
	}

	addr := "127.0.0.1:" + freePorts(t, 1)[0]
	p.registry = start(t, "registry", "--kafka-brokers", p.kafka.Addr, "--registry", addr)
	client, err := registry.NewClient(registry.ClientOptions{URL: "http://" + addr})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the registry answers", time.Minute, func(ctx context.Context) (bool, string) {
		p.registry.alive(t)
		err := client.Ping(ctx)
		return err == nil, fmt.Sprint(err)
	})
	bySubject, err := registry.RegisterAll(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for subject, id := range bySubject {
		ids[strings.TrimSuffix(subject, "-value")] = id
	}

	// Of the simulator's messages all ends, all disturbances and an erasure or two. The records carry the time of sending:
	// this Kafka keeps a week only.
	cfg := simulate.Config{
		Seed: 7, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Step: time.Hour, SchemaIDs: ids, Truth: true, Reference: model.Shipped(),
		Duplicates: 0.05, Corrections: 0.02, Revocations: 0.005, Late: 0.05, Invalid: 0.02, Erasures: 0.0005, Unmapped: 0.003,
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p.sim = simulate.New(cfg)
	w := cluster.Writer(tr, limit)
	t.Cleanup(func() { _ = w.Close() })
	p.sink = simulate.NewKafkaSink(w, true)

	// Small blocks: a fault must find the loader between two of them, or within one.
	p.loader = start(t, "load", "--kafka-brokers", p.kafka.Addr, "--registry-url", "http://"+addr, "--clickhouse-dsn", p.clickhouse.DSN,
		"--session-timeout", session.String(), "--block-records", "20", "--flush-age", "50ms")
	return p
}

// publish sends the next n messages of the simulation.
func (p *pipeline) publish(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), recovery)
	defer cancel()
	for range n {
		m, _ := p.sim.Next() // it has no end
		if err := p.sink.Write(ctx, &m); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.sink.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	p.sent += int64(n)
}

func (p *pipeline) alive(t *testing.T) {
	t.Helper()
	p.registry.alive(t)
	p.loader.alive(t)
}

// read is how many records the ledger has.
func (p *pipeline) read(ctx context.Context) (int64, error) {
	return number(ctx, p.db, "SELECT sum(read) FROM welfare.ledger")
}

// loadHalf publishes, and returns when the loader has stored some of it and not all.
func (p *pipeline) loadHalf(t *testing.T) {
	t.Helper()
	const messages = 1000
	before := p.sent
	p.publish(t, messages)
	eventually(t, "the loader stores", recovery, func(ctx context.Context) (bool, string) {
		p.alive(t)
		n, err := p.read(ctx)
		if n == p.sent {
			p.publish(t, messages) // it was faster than we look
		}
		return err == nil && n > before && n < p.sent, fmt.Sprintf("%d records are stored, %d were before, %d are sent; %v", n, before, p.sent, err)
	})
}

// awaitAll waits until every record is stored and in the aggregates.
func (p *pipeline) awaitAll(t *testing.T) {
	t.Helper()
	begin := time.Now()
	eventually(t, "every record is stored", recovery, func(ctx context.Context) (bool, string) {
		p.alive(t)
		n, err := p.read(ctx)
		return err == nil && n >= p.sent, fmt.Sprintf("%d of %d; %v", n, p.sent, err)
	})
	stored := time.Since(begin)
	eventually(t, "every record is in the aggregates", recovery, func(ctx context.Context) (bool, string) {
		p.alive(t)
		n, err := number(ctx, p.db, "SELECT count() FROM welfare.freshness WHERE aggregated_to < ledgered_to OR settled_to < ledgered_to")
		return err == nil && n == 0, fmt.Sprintf("%d partitions are behind; %v", n, err)
	})
	t.Logf("%d records: stored after %s, in the aggregates after %s", p.sent, stored.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

// hold keeps a fault for longer than the group waits for a member. Time is all that it is about.
func hold(t *testing.T) {
	t.Helper()
	select {
	case <-time.After(outage):
	case <-t.Context().Done():
	}
}

// TestLoaderSurvivesFaults breaks Kafka and ClickHouse under a running loader, in each way a container can be broken, and
// compares all that it made of the messages with the simulator's truth after each.
func TestLoaderSurvivesFaults(t *testing.T) {
	p := newPipeline(t)
	for _, fault := range []struct {
		name       string
		begin, end func(t testing.TB)
		kafkaUp    bool
	}{
		{"Kafka pauses", p.kafka.Pause, p.kafka.Resume, false},
		{"Kafka is cut off", p.kafka.Cut, p.kafka.Mend, false},
		{"Kafka is killed", p.kafka.Kill, p.kafka.Start, false},
		{"ClickHouse pauses", p.clickhouse.Pause, p.clickhouse.Resume, true},
		{"ClickHouse is cut off", p.clickhouse.Cut, p.clickhouse.Mend, true},
		{"ClickHouse is killed", p.clickhouse.Kill, p.clickhouse.Start, true},
	} {
		ok := t.Run(fault.name, func(t *testing.T) {
			p.loadHalf(t)
			fault.begin(t)
			if fault.kafkaUp {
				p.publish(t, 200)
			}
			hold(t)
			fault.end(t)
			p.alive(t)
			p.publish(t, 200)
			p.awaitAll(t)
			compareStored(t, p.db, p.sim.Truth())
		})
		if !ok {
			return // what comes after would fail of it too
		}
	}
	compareTold(t, p.kafka.Addr, p.db, p.sim.Truth())
	if out, code := run(t, "", binary(t), "reconcile", "--aggregates", "--log-level", "warn", "--kafka-brokers", p.kafka.Addr, "--clickhouse-dsn", p.clickhouse.DSN); code != 0 {
		t.Errorf("reconcile: exit code %d\n%s", code, out)
	}
	joined := strings.Count(p.loader.Out.String(), `"partitions assigned"`)
	t.Logf("the group gave the loader its partitions %d times", joined)
	if joined < 2 {
		t.Error("no fault cost the loader its place in the group")
	}
	p.loader.stop(t)
	p.registry.stop(t)
}

package torture

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
	"github.com/welfarehub/welfarehub/producers/simulate"
	"github.com/welfarehub/welfarehub/producers/simulate/compare"
)

const (
	session = 1500 * time.Millisecond // of the loaders in their group
	outage  = session + time.Second   // longer than the session
	patient = 2 * time.Minute         // what anything may need
)

func itoa(n int) string { return strconv.Itoa(n) }

// world is a broker and an engine that outlive the loaders, a registry, and a simulation.
type world struct {
	t       *testing.T
	r       run
	cluster wkafka.Cluster
	kafka   *testkit.Server
	engine  *testkit.Server // nil where the test brought its own
	dsn     string
	db      *clickhouse.DB
	http    *httptest.Server
	ids     map[string]int
	writer  *kafka.Writer
	sim     *simulate.Simulator
	sink    *simulate.KafkaSink
	sent    int
	loaders []*process
	kafkaAt string // where loaders find Kafka and ClickHouse: a gate, perhaps
	storeAt string
	kills   int
	began   time.Time
	note    string
}

// newWorld starts all but loaders. dsn is an engine of the test's own; where it is empty, one is started.
func newWorld(t *testing.T, r run, dsn string, partitions int) *world {
	t.Helper()
	hubBinary(t)
	w := &world{t: t, r: r, kafka: testkit.KafkaServer(t), dsn: dsn, began: time.Now()}
	if dsn == "" {
		w.engine = testkit.ClickHouseServer(t)
		w.dsn = w.engine.DSN
	}
	w.cluster = wkafka.Cluster{Brokers: []string{w.kafka.Addr}}
	w.kafkaAt, w.storeAt = w.kafka.Addr, w.dsn
	w.db = hubtest.Store(t, w.dsn)
	tr := w.cluster.Transport()
	t.Cleanup(tr.CloseIdleConnections)
	forever := map[string]string{"retention.ms": "-1"}
	specs := []broker.TopicSpec{{Name: event.TopicOutcome, Configs: forever}}
	for _, typ := range event.Types {
		spec := broker.TopicSpec{Name: typ.Topic, Partitions: 1, Configs: forever}
		if typ.Family == event.FamilyDemand {
			spec.Partitions = partitions
		}
		specs = append(specs, spec, broker.DeadLetterTopic(typ.Topic, 1, 1<<20, time.Hour))
	}
	if err := broker.EnsureTopicsWith(t.Context(), w.cluster.Client(tr), specs); err != nil {
		t.Fatal(err)
	}
	w.startRegistry()
	w.writer = w.cluster.Writer(tr, 1<<20)
	t.Cleanup(func() { _ = w.writer.Close() })
	cfg := w.config()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	w.simulate(cfg)
	return w
}

// config is a simulation with all disturbances.
func (w *world) config() simulate.Config {
	return simulate.Config{
		Seed: w.r.seed, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Step: time.Hour, SchemaIDs: w.ids, Truth: true, Reference: model.Shipped(),
		Duplicates: 0.08, Corrections: 0.05, Revocations: 0.01, Late: 0.05, Invalid: 0.03, Erasures: 0.001, Unmapped: 0.003,
	}
}

// simulate begins a simulation.
func (w *world) simulate(cfg simulate.Config) {
	w.sim, w.sink = simulate.New(cfg), simulate.NewKafkaSink(w.writer, false)
}

func (w *world) startRegistry() {
	w.t.Helper()
	srv, err := registry.NewServer(w.t.Context(), registry.Options{Cluster: w.cluster})
	if err != nil {
		w.t.Fatal(err)
	}
	w.http = httptest.NewServer(srv.Handler())
	w.t.Cleanup(func() { w.http.Close(); _ = srv.Close() })
	client, err := registry.NewClient(registry.ClientOptions{URL: w.http.URL})
	if err != nil {
		w.t.Fatal(err)
	}
	bySubject, err := registry.RegisterAll(w.t.Context(), client)
	if err != nil {
		w.t.Fatal(err)
	}
	w.ids = map[string]int{}
	for subject, id := range bySubject {
		w.ids[strings.TrimSuffix(subject, "-value")] = id
	}
}

// publish sends the next n messages of the simulation.
func (w *world) publish(n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patient)
	defer cancel()
	for range n {
		m, _ := w.sim.Next() // it has no end
		if err := w.sink.Write(ctx, &m); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.sink.Flush(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.sent += n
}

// load starts a loader, with faults ("" for none).
func (w *world) load(faults string, args ...string) *process {
	w.t.Helper()
	return w.loadWith([]string{"HUB_FAULTS=" + faults}, args...)
}

func (w *world) loadWith(env []string, args ...string) *process {
	w.t.Helper()
	args = append([]string{
		"load", "--kafka-brokers", w.kafkaAt, "--registry-url", w.http.URL, "--clickhouse-dsn", w.storeAt, "--log-level", "info",
		"--session-timeout", session.String(), "--block-records", itoa(w.r.between(15, 60)), "--flush-age", "30ms", "--drain-timeout", "5s",
	}, args...)
	p := start(w.t, env, args...)
	w.loaders = append(w.loaders, p)
	return p
}

// living are the loaders that run.
func (w *world) living() (out []*process) {
	for _, p := range w.loaders {
		if p.Alive() {
			out = append(out, p)
		}
	}
	return out
}

// number runs a query that gives one number.
func (w *world) number(query string) (int64, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second) // a call to a frozen server hangs
	defer cancel()
	var n int64
	err := w.db.Scan(ctx, "SELECT toInt64(("+query+"))", nil, &n)
	return n, err
}

// read is how many records the ledger has; -1 while the engine is away.
func (w *world) read() int {
	n, err := w.number("SELECT sum(read) FROM welfare.ledger")
	if err != nil {
		return -1
	}
	return int(n)
}

// eventually waits until done says so.
func (w *world) eventually(what string, done func() bool) {
	w.t.Helper()
	for begin := time.Now(); !done(); time.Sleep(30 * time.Millisecond) {
		if time.Since(begin) > patient {
			w.t.Fatalf("%s: not after %s: %d of %d read", what, patient, w.read(), w.sent)
		}
	}
}

// more waits until the ledger has n records more than now, or all.
func (w *world) more(n int) {
	w.t.Helper()
	before := w.read()
	w.eventually("the ledger grows", func() bool {
		now := w.read()
		return now >= 0 && (before < 0 || now >= before+n || now == w.sent)
	})
}

// drain waits until all is read and in the aggregates. It starts a loader where none is left.
func (w *world) drain() {
	w.t.Helper()
	w.eventually("all is read", func() bool {
		if len(w.living()) == 0 {
			w.load("")
		}
		return w.read() == w.sent
	})
	w.eventually("all is aggregated", func() bool {
		if len(w.living()) == 0 {
			w.load("")
		}
		n, err := w.number("SELECT count() FROM welfare.freshness WHERE aggregated_to < ledgered_to OR settled_to < ledgered_to")
		return err == nil && n == 0
	})
}

// finish drains, compares with the truth and reconciles. change may correct the truth.
func (w *world) finish(change func(*simulate.Truth)) {
	w.t.Helper()
	w.drain()
	truth := w.sim.Truth()
	if change != nil {
		change(&truth)
	}
	report, err := compare.Stored(w.t.Context(), w.db, truth)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range w.living() { // they tell of what they stored before they end
		if code := p.end(time.Minute); code != 0 {
			w.t.Errorf("a loader ends with exit code %d", code)
		}
	}
	told, err := compare.Told(w.t.Context(), w.cluster, w.db, truth)
	if err != nil {
		w.t.Fatal(err)
	}
	lines := append(report.Lines, told.Lines...)
	for _, line := range lines[:min(len(lines), 20)] {
		w.t.Error(line)
	}
	out, code := command(w.t, "reconcile", "--aggregates", "--log-level", "warn", "--kafka-brokers", w.kafka.Addr, "--clickhouse-dsn", w.dsn)
	if code != 0 {
		w.t.Errorf("reconcile: exit code %d\n%s", code, out)
	}
	record(w.t, result{
		Fault: w.r.fault, Seed: w.r.seed, Kills: w.kills, Events: w.sent, Lost: report.Lost, Doubled: report.Doubled, Cells: report.Cells,
		Differences: len(lines), Reconcile: code, Seconds: time.Since(w.began).Seconds(), Note: w.note,
	})
	w.t.Logf("%s: %d kills, %d events, %d lost, %d doubled, %d cells differ, reconcile %d, %s",
		w.r.fault, w.kills, w.sent, report.Lost, report.Doubled, report.Cells, code, fmt.Sprintf("%.1f s", time.Since(w.began).Seconds()))
}

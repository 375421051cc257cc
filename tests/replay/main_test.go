// Package replay tests replays and dead letters on running parts: a loader, aggregates, Kafka and ClickHouse.
package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/load"
	"github.com/welfarehub/welfarehub/consumers/reconcile"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// hub is a broker, an empty store, a loader and the aggregates.
type hub struct {
	t       *testing.T
	cluster wkafka.Cluster
	client  *kafka.Client
	dsn     string
	db      *clickhouse.DB
	writer  *kafka.Writer
	group   string
	schemas *hubtest.Schemas
}

// sub runs a subtest with the hub as its own.
func (h *hub) sub(name string, f func(t *testing.T)) {
	parent := h.t
	parent.Run(name, func(t *testing.T) {
		h.t = t
		defer func() { h.t = parent }()
		f(t)
	})
}

// newHub returns a hub with a further topic, copies.
func newHub(t *testing.T, partitions int) *hub {
	t.Helper()
	h := hubtest.New(t, partitions, "copies")
	return &hub{t: t, cluster: h.Cluster, client: h.Client, dsn: h.DSN, db: h.DB, writer: h.Writer, group: "replay-" + uuid.NewString(), schemas: &hubtest.Schemas{}}
}

// load runs a loader and the aggregates until stop is called.
func (h *hub) load(change func(*load.Options)) (stop func()) {
	h.t.Helper()
	log := zaptest.NewLogger(h.t, zaptest.Level(zap.ErrorLevel))
	opt := load.Options{
		Cluster: h.cluster, Group: h.group, DSN: h.dsn, Schemas: h.schemas, OutcomeSchemaID: hubtest.OutcomeSchemaID, DeadLetterBytes: 8 << 20,
		FlushAge: 50 * time.Millisecond, SessionTimeout: 6 * time.Second, Logger: log,
	}
	if change != nil {
		change(&opt)
	}
	l, err := load.New(opt)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); err != nil {
			h.t.Error(err)
		}
	})
	wg.Go(func() {
		if err := aggregate.New(aggregate.Options{DB: h.db.Conn(), Logger: log}).Run(ctx); err != nil {
			h.t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	h.t.Cleanup(stop)
	return stop
}

// settle waits until all that is in the topics is loaded and in the aggregates, and no erasure is at work.
func (h *hub) settle() {
	h.t.Helper()
	var ends uint64
	for _, t := range event.Types {
		bounds, err := wkafka.LogBounds(h.t.Context(), h.client, t.Topic)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, b := range bounds {
			ends += uint64(b.End)
		}
	}
	var quiet []string
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var ledgered, aggregated uint64
		if err := h.db.Scan(h.t.Context(), "SELECT sum(ledgered_to), sum(aggregated_to) FROM welfare.freshness", nil, &ledgered, &aggregated); err != nil {
			h.t.Fatal(err)
		}
		if ledgered == ends && aggregated == ends {
			now := h.checksums() // removals come after the cells are right
			if slices.Equal(now, quiet) {
				return
			}
			quiet = now
			time.Sleep(time.Second)
		}
		if time.Now().After(end) {
			h.same("after a minute", quiet)
			h.t.Fatalf("after a minute %d of %d offsets are loaded, %d aggregated", ledgered, ends, aggregated)
		}
	}
}

// checksums are the content of every table and cell, whatever its order, without _loaded_at, _epoch and what the
// aggregates and replays write of themselves.
func (h *hub) checksums() []string {
	h.t.Helper()
	ctx := h.t.Context()
	var tables []struct {
		Name   string `ch:"name"`
		Engine string `ch:"engine"`
	}
	err := h.db.Select(ctx, &tables, `SELECT concat('store.', t.name) AS name, t.engine AS engine FROM system.tables AS t WHERE t.database = 'store' AND t.engine LIKE '%MergeTree'
		AND t.name NOT IN ('contrib', 'aggregated', 'log_end', 'settled', 'purges', 'goose_db_version') ORDER BY 1`)
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for _, t := range tables {
		var n, sum uint64
		// An instant may be there twice, which counts once.
		distinct, final := "", ""
		if t.Name == "store.instants" {
			distinct = "DISTINCT "
		}
		if t.Engine == "ReplacingMergeTree" { // merges leave one of the rows of a key
			final = " FINAL"
		}
		if err := h.db.Scan(ctx, "SELECT count(), sum(h) FROM (SELECT "+distinct+"cityHash64(toString(tuple(* EXCEPT (_loaded_at, _epoch)))) AS h FROM "+t.Name+final+")", nil, &n, &sum); err != nil {
			h.t.Fatalf("%s: %v", t.Name, err)
		}
		out = append(out, fmt.Sprintf("%s: %d rows, %x", t.Name, n, sum))
	}
	return append(out, h.cells())
}

// cells are the cells of supply_demand.
func (h *hub) cells() string {
	h.t.Helper()
	var n, sum uint64
	if err := h.db.Scan(h.t.Context(), "SELECT count(), sum(h) FROM (SELECT cityHash64(toString(tuple(* EXCEPT (updated_at)))) AS h FROM welfare.supply_demand)", nil, &n, &sum); err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("welfare.supply_demand: %d cells, %x", n, sum)
}

func (h *hub) same(what string, before []string) {
	h.t.Helper()
	after := h.checksums()
	if slices.Equal(before, after) {
		return
	}
	for i := range before {
		if i >= len(after) || before[i] != after[i] {
			h.t.Errorf("%s: was %s\nis  %s", what, before[i], after[min(i, len(after)-1)])
		}
	}
}

// offsets are those of the loaders' group.
func (h *hub) offsets() string {
	h.t.Helper()
	ask := map[string][]int{}
	for _, t := range event.Types {
		bounds, err := wkafka.LogBounds(h.t.Context(), h.client, t.Topic)
		if err != nil {
			h.t.Fatal(err)
		}
		for n := range bounds {
			ask[t.Topic] = append(ask[t.Topic], n)
		}
	}
	res, err := h.client.OffsetFetch(h.t.Context(), &kafka.OffsetFetchRequest{GroupID: h.group, Topics: ask})
	if err != nil || res.Error != nil {
		h.t.Fatal(err, res)
	}
	var lines []string
	for topic, parts := range res.Topics {
		for _, p := range parts {
			lines = append(lines, fmt.Sprintf("%s/%d at %d %s", topic, p.Partition, p.CommittedOffset, p.Metadata))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (h *hub) exec(query string, args ...any) {
	h.t.Helper()
	if err := h.db.Exec(h.t.Context(), query, args...); err != nil {
		h.t.Fatalf("%s: %v", query, err)
	}
}

func (h *hub) count(query string, args ...any) int {
	h.t.Helper()
	var n uint64
	if err := h.db.Scan(h.t.Context(), "SELECT toUInt64((SELECT "+query+"))", args, &n); err != nil {
		h.t.Fatalf("%s: %v", query, err)
	}
	return int(n)
}

// balanced wants no finding of reconcile, the aggregates included.
func (h *hub) balanced(what string) reconcile.Report {
	h.t.Helper()
	r, err := reconcile.Run(h.t.Context(), reconcile.Options{
		DB: h.db.Conn(), Cluster: h.cluster, Verifier: aggregate.New(aggregate.Options{DB: h.db.Conn()}), Recheck: -1,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range r.Findings {
		h.t.Errorf("%s: %+v", what, f)
	}
	return r
}

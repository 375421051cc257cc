// Package watch looks at how far the hub is behind, for operators: it asks Kafka for the ends of the logs and
// ClickHouse for the ledger itself, so that lag is seen, and grows, also when no loader runs. It promises
// that its questions stay cheap: it rests for twenty times as long as they took, and never reads more of a
// record than its timestamp.
package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/metrics"
)

// Options configure a Watcher. Zero values take the defaults that the comments give.
type Options struct {
	Cluster      wkafka.Cluster // without brokers lag is not looked at
	DB           driver.Conn    // ClickHouse, with SELECT on database welfare; required
	Metrics      *metrics.Watch // required
	Logger       *zap.Logger    // none
	Every        time.Duration  // lag; 10 s
	SourcesEvery time.Duration  // sources; 1 min
}

// Watcher looks until it is stopped. Make it with New.
type Watcher struct {
	opt       Options
	log       *zap.Logger
	transport *kafka.Transport
	client    *kafka.Client

	logs   map[metrics.Place]offsets // as last read
	ledger map[metrics.Place]progress
	oldest map[metrics.Place]stamp
	down   map[string]bool // what could not be read the last time
}

// offsets are the first offset of a log and the one that its next record will have.
type offsets struct{ first, end int64 }

// progress is how far a partition is in the ledger and in the aggregates.
type progress struct{ ledgered, aggregated int64 }

// stamp is the timestamp of the first record from an offset on.
type stamp struct {
	offset int64
	at     time.Time
}

// New returns a Watcher. It asks nobody yet.
func New(o Options) *Watcher {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Every <= 0 {
		o.Every = 10 * time.Second
	}
	if o.SourcesEvery <= 0 {
		o.SourcesEvery = time.Minute
	}
	w := &Watcher{opt: o, log: o.Logger, oldest: map[metrics.Place]stamp{}, down: map[string]bool{}}
	if len(o.Cluster.Brokers) > 0 {
		w.transport = o.Cluster.Transport()
		w.client = o.Cluster.Client(w.transport)
		o.Metrics.Asks("kafka", "ledger")
	}
	o.Metrics.Asks("sources")
	return w
}

// Run looks until ctx ends, and returns nil then. What cannot be read is logged and looked for again.
func (w *Watcher) Run(ctx context.Context) error {
	if w.transport != nil {
		defer w.transport.CloseIdleConnections()
	}
	lag, sources := time.After(0), time.After(0)
	if w.client == nil {
		lag = nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lag:
			lag = time.After(max(w.opt.Every, 20*took(func() { w.lookAtLag(ctx) })))
		case <-sources:
			sources = time.After(max(w.opt.SourcesEvery, 20*took(func() { w.lookAtSources(ctx) })))
		}
	}
}

func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// patience bounds one question.
const patience = 20 * time.Second

// look asks one question. What was answered before stands while there is no answer: a loader that cannot
// reach ClickHouse cannot load either, so the lag is right as long as Kafka answers.
func (w *Watcher) look(ctx context.Context, of string, ask func(context.Context) error) {
	c, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := ask(c)
	switch {
	case err == nil:
		w.opt.Metrics.Looked(of)
	case ctx.Err() == nil && !w.down[of]:
		w.log.Warn("watch: cannot look, trying again", zap.String("of", of), zap.Error(err))
	}
	w.down[of] = err != nil
}

func (w *Watcher) lookAtLag(ctx context.Context) {
	w.look(ctx, "kafka", w.readLogs)
	w.look(ctx, "ledger", w.readLedger)
	if w.logs == nil || w.ledger == nil {
		return
	}
	lags := make(map[metrics.Place]metrics.Lag, len(w.logs))
	for p, log := range w.logs {
		done := w.ledger[p]
		next := max(done.ledgered, log.first)
		l := metrics.Lag{Records: max(0, log.end-next), Aggregate: max(0, done.ledgered-done.aggregated)}
		if l.Records > 0 {
			l.Oldest = w.stampOf(ctx, p, next)
		}
		lags[p] = l
	}
	w.opt.Metrics.SetLags(lags)
}

// stampOf is the timestamp of the first record from an offset on; zero where there is none. It is asked for
// once. While it cannot be had, that of an earlier record stands.
func (w *Watcher) stampOf(ctx context.Context, p metrics.Place, offset int64) time.Time {
	if s, ok := w.oldest[p]; ok && s.offset == offset && !s.at.IsZero() {
		return s.at
	}
	c, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	at, err := w.readStamp(c, p, offset)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Debug("watch: timestamp not read", zap.String("topic", p.Topic), zap.Int("partition", p.Partition), zap.Error(err))
		}
		return w.oldest[p].at
	}
	w.oldest[p] = stamp{offset, at}
	return at
}

// lookAtSources reads when each source was last heard of.
func (w *Watcher) lookAtSources(ctx context.Context) {
	w.look(ctx, "sources", func(ctx context.Context) error {
		ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_threads": 1}))
		rows, err := w.opt.DB.Query(ctx, "SELECT toString(source), toUInt64(sum(events)) AS n, max(last_loaded_at) FROM welfare.sources GROUP BY source ORDER BY n DESC LIMIT 10000")
		if err != nil {
			return fmt.Errorf("read welfare.sources: %w", err)
		}
		defer func() { _ = rows.Close() }()
		var out []metrics.Source
		for rows.Next() {
			var s metrics.Source
			if err := rows.Scan(&s.Name, &s.Events, &s.Last); err != nil {
				return fmt.Errorf("read welfare.sources: %w", err)
			}
			out = append(out, s)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("read welfare.sources: %w", err)
		}
		w.opt.Metrics.SetSources(out)
		return nil
	})
}

func (w *Watcher) readLedger(ctx context.Context) error {
	rows, err := w.opt.DB.Query(ctx, "SELECT toString(topic), toUInt32(partition), toInt64(ledgered_to), toInt64(aggregated_to) FROM welfare.freshness")
	if err != nil {
		return fmt.Errorf("read welfare.freshness: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[metrics.Place]progress{}
	for rows.Next() {
		var topic string
		var partition uint32
		var p progress
		if err := rows.Scan(&topic, &partition, &p.ledgered, &p.aggregated); err != nil {
			return fmt.Errorf("read welfare.freshness: %w", err)
		}
		out[metrics.Place{Topic: topic, Partition: int(partition)}] = p
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read welfare.freshness: %w", err)
	}
	w.ledger = out
	return nil
}

// errNoLogs says that a cluster has none of the topics.
var errNoLogs = errors.New("the cluster has no topic of the hub")

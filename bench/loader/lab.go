//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/apachekafka"
	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/engine"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/registry"
)

// lab is where contestants run: one Kafka, one engine, one registry, all on this machine.
type lab struct {
	dir         string
	engine      *engine.Engine
	db          *clickhouse.DB
	kafka       *apachekafka.Node // nil: none runs
	cluster     wkafka.Cluster
	transport   *kafka.Transport
	client      *kafka.Client
	registry    string // URL
	ids         map[string]int
	groups      int
	stopClients []func()
}

// engineMemory is plenty: no contestant is measured at its limit.
const engineMemory = 6 << 30

// openLab starts the engine. startKafka starts the rest.
func openLab(ctx context.Context, dir string) (*lab, error) {
	dir, err := os.MkdirTemp(dir, "welfarehub-bench-")
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	l := &lab{dir: dir}
	if l.engine, err = engine.Start(ctx, engine.Options{DataDir: filepath.Join(dir, "engine"), MemoryLimit: engineMemory}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := clickhouse.Migrate(ctx, l.engine.DSN(), zap.NewNop()); err != nil {
		return nil, errors.Join(err, l.close())
	}
	if l.db, err = clickhouse.Open(ctx, l.engine.DSN()); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) close() error {
	l.stopKafka()
	var err error
	if l.db != nil {
		err = l.db.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = l.engine.Stop(ctx) // that it was killed is no matter: the data goes away
	return errors.Join(err, os.RemoveAll(l.dir))
}

// startKafka starts a fresh, empty Kafka, of default settings save what a single node needs, with the topics of the hub, and a registry in this process. The
// Kafka before it ends. Topics of events that are not measured have others partitions.
func (l *lab) startKafka(ctx context.Context, partitions, others int) error {
	l.stopKafka()
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	l.kafka, err = apachekafka.Start(starting, apachekafka.Options{Dir: l.kafkaDir(), Java: []string{"-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"}})
	if err != nil {
		return err
	}
	l.cluster = wkafka.Cluster{Brokers: []string{l.kafka.Addr}}
	l.transport = l.cluster.Transport()
	l.client = l.cluster.Client(l.transport)
	var specs []broker.TopicSpec
	for _, t := range event.Types {
		n := others
		if t == requested {
			n = partitions
		}
		specs = append(specs, broker.TopicSpec{Name: t.Topic, Partitions: n, Configs: map[string]string{"retention.ms": "-1"}},
			broker.DeadLetterTopic(t.Topic, 1, 1<<20, 24*time.Hour))
	}
	specs = append(specs, broker.TopicSpec{Name: event.TopicOutcome, Partitions: partitions})
	if err := broker.EnsureTopicsWith(ctx, l.client, specs); err != nil {
		return err
	}
	if err := l.startRegistry(ctx); err != nil {
		return err
	}
	return l.warmGroups(ctx)
}

func (l *lab) startRegistry(ctx context.Context) error {
	srv, err := registry.NewServer(ctx, registry.Options{Cluster: l.cluster, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	l.stopClients = append(l.stopClients, func() { _ = srv.Close() })
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it lives as long as the lab
	if err != nil {
		return fmt.Errorf("listen for the registry: %w", err)
	}
	web := &http.Server{Handler: srv.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = web.Serve(listener) }()
	l.stopClients = append(l.stopClients, func() { _ = web.Close() })
	l.registry = "http://" + listener.Addr().String()
	client, err := registry.NewClient(registry.ClientOptions{URL: l.registry})
	if err != nil {
		return err
	}
	l.ids, err = registry.RegisterAll(ctx, client)
	return err
}

// warmGroups has Kafka make its topic of offsets, which takes seconds and is nobody's work.
func (l *lab) warmGroups(ctx context.Context) error {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		res, err := l.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: "warm", Topics: map[string][]int{requested.Topic: {0}}})
		if err == nil {
			err = res.Error
		}
		if err == nil {
			return nil
		}
		if time.Since(began) > time.Minute || ctx.Err() != nil {
			return fmt.Errorf("wait for groups: %w", err)
		}
	}
}

func (l *lab) stopKafka() {
	if l.kafka == nil {
		return
	}
	for i := len(l.stopClients) - 1; i >= 0; i-- {
		l.stopClients[i]()
	}
	l.stopClients = nil
	l.transport.CloseIdleConnections()
	l.kafka.Kill()
	l.kafka = nil
	_ = os.RemoveAll(l.kafkaDir())
}

func (l *lab) kafkaDir() string { return filepath.Join(l.dir, "kafka") }

// writer publishes fast: lz4, large batches, by key.
func (l *lab) writer() *kafka.Writer {
	return &kafka.Writer{
		Addr: l.cluster.Addr(), Transport: l.transport, Balancer: kafka.Murmur2Balancer{}, RequiredAcks: kafka.RequireOne,
		Compression: kafka.Lz4, BatchSize: 5000, BatchBytes: 900_000, BatchTimeout: 10 * time.Millisecond,
	}
}

// group is a consumer group that nobody had.
func (l *lab) group(who string) string {
	l.groups++
	return fmt.Sprintf("bench-%s-%d", who, l.groups)
}

// emptyStore makes all tables of the hub anew.
func (l *lab) emptyStore(ctx context.Context) error {
	if err := clickhouse.MigrateDown(ctx, l.engine.DSN(), 0, zap.NewNop()); err != nil {
		return err
	}
	return clickhouse.Migrate(ctx, l.engine.DSN(), zap.NewNop())
}

// settle waits until no merge has run for a second, five minutes at most, and returns when the last ended.
func (l *lab) settle(ctx context.Context) (time.Time, error) {
	began, last := time.Now(), time.Now()
	for time.Since(last) < time.Second && time.Since(began) < 5*time.Minute {
		var n uint64
		if err := l.db.Scan(ctx, "SELECT count() FROM system.merges", nil, &n); err != nil {
			return last, fmt.Errorf("ask for merges: %w", err)
		}
		if n > 0 {
			last = time.Now()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return last, nil
}

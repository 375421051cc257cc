//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"

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
	kafka       *exec.Cmd
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

// kafkaProperties are the defaults of Kafka, save what a single node needs.
const kafkaProperties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s
advertised.listeners=PLAINTEXT://%[1]s
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=%[3]s
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
`

// startKafka starts a fresh, empty Kafka with the topics of the hub, and a registry in this process. The
// Kafka before it ends. Topics of events that are not measured have others partitions.
func (l *lab) startKafka(ctx context.Context, partitions, others int) error {
	l.stopKafka()
	dir := filepath.Join(l.dir, "kafka")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	controller, err := freeAddress()
	if err != nil {
		return err
	}
	properties := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(properties, fmt.Appendf(nil, kafkaProperties, addr, controller, filepath.Join(dir, "data")), 0o600); err != nil {
		return fmt.Errorf("write settings of Kafka: %w", err)
	}
	jars, err := filepath.Abs(filepath.Join(".cache", "kafka", "lib"))
	if err != nil {
		return fmt.Errorf("find jars of Kafka: %w", err)
	}
	if _, err := os.Stat(jars); err != nil {
		return fmt.Errorf("find jars of Kafka (run deploy/kafka-test/install.sh, and this from the root of the project): %w", err)
	}
	classes := filepath.Join(jars, "*")
	format := exec.CommandContext(ctx, "java", "-cp", classes, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", properties)
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format storage of Kafka: %w: %.500s", err, out)
	}
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return fmt.Errorf("make log of Kafka: %w", err)
	}
	defer log.Close()
	l.kafka = exec.CommandContext(context.WithoutCancel(ctx), "java", "-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classes, "kafka.Kafka", properties)
	l.kafka.Stdout, l.kafka.Stderr = log, log
	if err := startChild(l.kafka); err != nil {
		return fmt.Errorf("start Kafka: %w", err)
	}
	l.cluster = wkafka.Cluster{Brokers: []string{addr}}
	l.transport = l.cluster.Transport()
	l.client = l.cluster.Client(l.transport)
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		meta, err := l.client.Metadata(ctx, &kafka.MetadataRequest{})
		if err == nil && len(meta.Brokers) > 0 {
			break
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("wait for Kafka on %s: %w", addr, err)
		}
	}
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
	_ = l.kafka.Process.Kill()
	_ = l.kafka.Wait() // it was killed
	l.kafka = nil
	_ = os.RemoveAll(filepath.Join(l.dir, "kafka"))
}

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

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed at once
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// startChild starts a process that ends when this one does. The kernel goes by the thread that started it,
// so that thread is kept.
func startChild(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		select {} // for as long as this process lives
	}()
	return <-started
}

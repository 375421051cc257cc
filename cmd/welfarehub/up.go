package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/load"
	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/datadir"
	"github.com/welfarehub/welfarehub/pkg/engine"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/web/api"
)

// upFlags are the settings of up.
type upFlags struct {
	data, http, kafka, registry, native, chHTTP, ready string
	noDemo                                             bool
	once                                               int
	rate                                               float64
	history                                            int
	retentionBytes                                     int64
	partitions                                         int
	engineMemory                                       int64
	external                                           struct {
		kafka    kafkaFlags
		ch       clickhouseFlags
		registry registryFlags
	}
	load  loadFlags
	sim   simFlags
	watch watchFlags
}

func (f *upFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.data, "data", ".welfarehub", "folder of all data; made where it is missing")
	fs.StringVar(&f.http, "http", "127.0.0.1:8080", "address of the API; port 0 takes a free one, here and in the other addresses")
	fs.StringVar(&f.kafka, "kafka", "127.0.0.1:9092", "address of the embedded Kafka broker")
	fs.StringVar(&f.registry, "registry", "127.0.0.1:8081", "address of the embedded schema registry")
	fs.StringVar(&f.native, "clickhouse-native", "127.0.0.1:9000", "address of ClickHouse, native protocol")
	fs.StringVar(&f.chHTTP, "clickhouse-http", "127.0.0.1:8123", "address of ClickHouse, HTTP")
	fs.StringVar(&f.ready, "ready-file", "", "write the addresses to this file, as JSON, when all is ready; removed at the stop")
	fs.BoolVar(&f.noDemo, "no-demo", false, "publish nothing: no population, no simulated traffic")
	fs.IntVar(&f.once, "once", 0, "publish this many simulated messages, wait until each is accounted for, compare with the simulator's truth and exit: 0 equal, 3 not; 0: off")
	fs.Float64Var(&f.rate, "rate", 500, "simulated events per second after the history; 0: none")
	fs.IntVar(&f.history, "history", 100_000, "simulated events of the past year, published at once at the first start; 0: none")
	fs.Int64Var(&f.retentionBytes, "retention-bytes", 64<<20, "size limit of each partition of the embedded broker, in bytes; older records are deleted, loaded rows stay; 0: the default")
	fs.IntVar(&f.partitions, "partitions", 1, "partitions of the topics of family demand in the embedded broker; the others have 1")
	fs.Int64Var(&f.engineMemory, "engine-memory", 640<<20, "memory limit of the embedded ClickHouse for queries and merges, in bytes; the process takes some 250 MiB more")
	f.external.kafka.add(fs)
	f.external.ch.add(fs)
	f.external.registry.add(fs)
	f.load.add(fs)
	f.sim.add(fs)
	f.watch.add(fs)
}

func newUp() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the whole hub on this machine, with the population of Italy and simulated traffic",
		Long: `up starts, in one process tree, a durable Kafka broker, ClickHouse, a schema registry, the
loader with the aggregates, and the API; then the demo: the real population of all
Italian municipalities, a simulated history, and simulated traffic at --rate.

All state is in --data and survives any kill; the next up goes on from it. Everything
listens on the loopback interface. --kafka-brokers, --clickhouse-dsn and --registry-url
replace an embedded part by a real one.

The first Ctrl-C drains and exits 0; the second exits at once.`,
		Example: `  welfarehub up
  welfarehub up --rate 2000 --data /var/lib/welfarehub
  welfarehub up --no-demo --http 127.0.0.1:0 --ready-file ready.json
  welfarehub up --once 200000 --duplicates 0.05 --invalid 0.01 --seed 7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if err := f.sim.check(); err != nil {
				return err
			}
			h := &hub{f: &f, log: log, out: cmd.OutOrStdout(), metrics: metrics.New(version)}
			err = h.run(cmd.Context())
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				err = nil
			}
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}

// hub is all parts of up. They are started in the order of their dependence and stopped in the order of
// the data: traffic, loader, aggregates, API, ClickHouse, registry, broker.
type hub struct {
	f       *upFlags
	log     *zap.Logger
	out     io.Writer
	metrics *metrics.Registry

	cluster     wkafka.Cluster
	registryURL string
	client      *registry.Client
	schemaIDs   map[string]int
	dsn         string
	engine      *engine.Engine
	db          *clickhouse.DB
	apiURL      string
	loader      *load.Loader
	listeners   listeners
	failed      chan error // of a part that runs in the background
	stops       []stop     // in the order of their start
}

type stop struct {
	name string
	f    func(ctx context.Context) error
}

// stopContext bounds the stop of one part.
func stopContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 30*time.Second)
}

func (h *hub) run(ctx context.Context) (err error) {
	h.failed = make(chan error, 8)
	defer func() { err = errors.Join(err, h.stopAll()) }()
	started := time.Now()
	if err := openData(h.f.data); err != nil {
		return err
	}
	if err := h.listen(ctx); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		f    func(context.Context) error
	}{
		{"Kafka broker", h.startBroker},
		{"schema registry", h.startRegistry},
		{"ClickHouse", h.startEngine},
		{"migrations", h.migrate},
		{"loader", h.startLoader},
		{"aggregates", h.startAggregates},
		{"API", h.startAPI},
	} {
		if err := h.step(ctx, s.name, s.f); err != nil {
			return err
		}
	}
	if err := h.writeReady(); err != nil {
		return err
	}
	if h.f.once > 0 {
		return h.runOnce(ctx)
	}
	h.greet(time.Since(started))
	if !h.f.noDemo {
		if err := h.startDemo(ctx); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(h.out, "stopping; once more Ctrl-C ends at once")
		return nil
	case err := <-h.failed:
		return err
	}
}

// openData makes the data folder, and refuses one that holds only what is somebody else's.
func openData(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w; choose another with --data", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read data folder: %w; choose another with --data", err)
	}
	foreign := ""
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "kafka", name == "clickhouse", name == demoFile:
			return nil
		case name[0] == '.', name == "lost+found", name == "clickhouse.password":
		default:
			foreign = name
		}
	}
	if foreign != "" {
		return fmt.Errorf("%w: %s holds %s and nothing of welfarehub; choose another with --data, or an empty one", datadir.ErrForeign, dir, foreign)
	}
	return nil
}

// withFlags names the flags that move a part away from a taken port.
func withFlags(err error, flags string) error {
	if errors.Is(err, broker.ErrPortInUse) || errors.Is(err, engine.ErrPortInUse) {
		return fmt.Errorf("%w, by %s", err, flags)
	}
	return err
}

// step starts one part and says how long it took.
func (h *hub) step(ctx context.Context, name string, f func(context.Context) error) error {
	start := time.Now()
	slow := time.AfterFunc(time.Second, func() { fmt.Fprintf(h.out, "  %s ...\n", name) })
	err := f(ctx)
	slow.Stop()
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	fmt.Fprintf(h.out, "  %-18s %5.1f s\n", name, time.Since(start).Seconds())
	return nil
}

// background runs a part until its stop; an early end of it ends up.
func (h *hub) background(name string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		if err != nil && ctx.Err() == nil {
			h.failed <- fmt.Errorf("%s: %w", name, err)
		}
		done <- err
	}()
	h.onStop(name, func(wait context.Context) error {
		cancel()
		select {
		case err := <-done:
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case <-wait.Done():
			return errors.New("did not end in time")
		}
	})
}

func (h *hub) onStop(name string, f func(context.Context) error) {
	h.stops = append(h.stops, stop{name, f})
}

// stopAll stops the parts, last started first.
func (h *hub) stopAll() error {
	var errs []error
	for i := len(h.stops) - 1; i >= 0; i-- {
		start := time.Now()
		ctx, cancel := stopContext()
		if err := h.stops[i].f(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", h.stops[i].name, err))
		}
		cancel()
		h.log.Debug("stopped", zap.String("part", h.stops[i].name), zap.Duration("took", time.Since(start)))
	}
	return errors.Join(errs...)
}

func (h *hub) startBroker(ctx context.Context) error {
	if len(h.f.external.kafka.brokers) > 0 {
		c, err := h.f.external.kafka.cluster()
		if err != nil {
			return &exitError{exitUsage, err}
		}
		h.cluster = c
		return h.ensureTopics(ctx, false)
	}
	b, err := broker.Start(ctx, broker.Options{
		Addr: h.f.kafka, DataDir: h.f.data, RetentionBytes: h.f.retentionBytes,
		MaxMessageBytes: brokerMessageBytes, Logger: h.log.Named("kafka"),
		OnFault: func(err error) {
			select {
			case h.failed <- fmt.Errorf("Kafka broker: %w", err):
			default:
			}
		},
	})
	if err != nil {
		return withFlags(err, "--kafka")
	}
	h.onStop("Kafka broker", func(context.Context) error { b.Close(); return nil })
	h.cluster = wkafka.Cluster{Brokers: []string{b.Addr()}}
	return h.ensureTopics(ctx, true)
}

func (h *hub) ensureTopics(ctx context.Context, embedded bool) error {
	return ensureTopics(ctx, h.cluster, topicSettings{h.f.partitions, h.f.load.maxValueBytes}, embedded)
}

func (h *hub) startRegistry(ctx context.Context) error {
	if h.f.external.registry.url != "" {
		h.registryURL = h.f.external.registry.url
		client, err := h.f.external.registry.client()
		if err != nil {
			return &exitError{exitUsage, err}
		}
		h.client = client
	} else {
		srv, err := registry.NewServer(ctx, registry.Options{Cluster: h.cluster, Logger: h.log.Named("registry")})
		if err != nil {
			return err
		}
		h.onStop("registry's log", func(context.Context) error { return srv.Close() })
		h.registryURL = "http://" + h.serveHTTP("schema registry", h.listeners.registry, srv.Handler())
		if h.client, err = registry.NewClient(registry.ClientOptions{URL: h.registryURL}); err != nil {
			return err
		}
	}
	ids, err := registry.RegisterAll(ctx, h.client)
	if err != nil {
		return err
	}
	h.schemaIDs = ids
	return nil
}

func (h *hub) startEngine(ctx context.Context) error {
	if h.f.external.ch.dsn != "" {
		h.dsn = h.f.external.ch.dsn
		return nil
	}
	e, err := engine.Start(ctx, engine.Options{
		DataDir: h.f.data, Native: h.f.native, HTTP: h.f.chHTTP, MemoryLimit: h.f.engineMemory, Logger: h.log.Named("clickhouse"),
	})
	if err != nil {
		return withFlags(err, "--clickhouse-native or --clickhouse-http")
	}
	h.engine, h.dsn = e, e.DSN()
	h.onStop("ClickHouse", e.Stop)
	return nil
}

func (h *hub) migrate(ctx context.Context) error {
	if err := clickhouse.Migrate(ctx, h.dsn, h.log); err != nil {
		return err
	}
	db, err := clickhouse.Open(ctx, h.dsn)
	if err != nil {
		return err
	}
	h.db = db
	h.onStop("connections to ClickHouse", func(context.Context) error { return db.Close() })
	return nil
}

func (h *hub) startLoader(context.Context) error {
	opt := load.Options{Cluster: h.cluster, DSN: h.dsn, Schemas: h.client, OutcomeSchemaID: h.schemaIDs[registry.OutcomeSubject], Logger: h.log.Named("load"), Metrics: h.metrics.Load()}
	h.f.load.apply(&opt)
	loader, err := load.New(opt)
	if err != nil {
		return err
	}
	h.loader = loader
	return nil
}

// startAggregates starts the loader after the aggregates, so that it stops before them.
func (h *hub) startAggregates(context.Context) error {
	agg := aggregate.New(aggregate.Options{DB: h.db.Conn(), Logger: h.log.Named("aggregate"), Metrics: h.metrics.Aggregate(), SweepEvery: sweepEvery, PurgeEvery: purgeEvery})
	h.background("aggregates", agg.Run)
	h.background("loader", h.loader.Run)
	return nil
}

func (h *hub) startAPI(context.Context) error {
	stop := h.f.watch.start(context.Background(), h.metrics, h.cluster, h.db, h.log.Named("watch"))
	h.onStop("watch", func(context.Context) error { stop(); return nil })
	h.apiURL = "http://" + h.serveHTTP("API", h.listeners.api, api.New(api.Options{DB: h.db.Conn(), Logger: h.log.Named("api"), Version: version, Metrics: h.metrics.Handler()}))
	return nil
}

// serveHTTP serves until the stop, and returns the address.
func (h *hub) serveHTTP(name string, ln net.Listener, handler http.Handler) string {
	srv := api.Server(handler)
	srv.ErrorLog = zap.NewStdLog(h.log.Named("http"))
	go func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			h.failed <- fmt.Errorf("%s: %w", name, err)
		}
	}()
	h.onStop(name, srv.Shutdown)
	return ln.Addr().String()
}

// readiness is the content of --ready-file.
type readiness struct {
	HTTP             string `json:"http"`
	Kafka            string `json:"kafka"`
	Registry         string `json:"registry"`
	ClickHouseNative string `json:"clickhouse_native"`
	ClickHouseHTTP   string `json:"clickhouse_http"`
	Data             string `json:"data"`
	PID              int    `json:"pid"`
}

func (h *hub) addresses() readiness {
	data, err := filepath.Abs(h.f.data)
	if err != nil {
		data = h.f.data
	}
	r := readiness{HTTP: h.apiURL, Kafka: h.cluster.Brokers[0], Registry: h.registryURL, Data: data, PID: os.Getpid()}
	if h.engine != nil {
		r.ClickHouseNative, r.ClickHouseHTTP = h.engine.NativeAddr(), "http://"+h.engine.HTTPAddr()
	}
	return r
}

// writeReady writes the ready file whole or not at all.
func (h *hub) writeReady() error {
	if h.f.ready == "" {
		return nil
	}
	raw, err := json.MarshalIndent(h.addresses(), "", "  ")
	if err != nil {
		return err
	}
	tmp := h.f.ready + ".tmp"
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("write --ready-file: %w", err)
	}
	if err := os.Rename(tmp, h.f.ready); err != nil {
		return fmt.Errorf("write --ready-file: %w", err)
	}
	h.onStop("ready file", func(context.Context) error { return os.Remove(h.f.ready) })
	return nil
}

func (h *hub) greet(took time.Duration) {
	a := h.addresses()
	fmt.Fprintf(h.out, `
welfarehub is up (%.1f s). Ctrl-C stops it; its data stay in %s.

  API               %s
  Kafka             %s
  schema registry   %s
`, took.Seconds(), a.Data, a.HTTP, a.Kafka, a.Registry)
	if a.ClickHouseHTTP != "" {
		fmt.Fprintf(h.out, `  ClickHouse        native %s, %s (user planner, no password)

Three things to try:
  curl '%s/api/v1/supply-demand?level=REGION'
  curl '%s/?user=planner' --data-binary 'SELECT * FROM welfare.supply_demand LIMIT 10 FORMAT PrettyCompact'
`, a.ClickHouseNative, a.ClickHouseHTTP, a.HTTP, a.ClickHouseHTTP)
	} else {
		fmt.Fprintf(h.out, "\nTo try:\n  curl '%s/api/v1/supply-demand?level=REGION'\n", a.HTTP)
	}
	fmt.Fprintf(h.out, "  bin/welfarehub publish --kafka-brokers %s --registry-url %s --dry-run --mapping istat_population schemas/codes/comuni.csv\n\n", a.Kafka, a.Registry)
}

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/load"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/web/health"
)

// loadFlags are the limits of the loader, the same in load and up.
type loadFlags struct {
	group         string
	maxRecords    int
	maxBytes      int
	maxInWork     int
	maxValueBytes int
	flushAge      time.Duration
	session       time.Duration
	drain         time.Duration
}

func (f *loadFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.group, "group", "welfarehub-load", "consumer group of the loaders; those of one ClickHouse share it")
	fs.IntVar(&f.maxRecords, "block-records", 200_000, "a block is inserted when it has this many records; 0: the default")
	fs.IntVar(&f.maxBytes, "block-bytes", 64<<20, "or about this many bytes of keys, values and headers; 0: the default")
	fs.IntVar(&f.maxInWork, "in-work-bytes", 192<<20, "or when the blocks of all partitions have about this many bytes together, which bounds the memory; 0: the default")
	fs.DurationVar(&f.flushAge, "flush-age", time.Second, "or when its first record has waited this long; it waits less where ClickHouse stores blocks faster than they come; 0: 500ms")
	fs.IntVar(&f.maxValueBytes, "max-value-bytes", 1<<20, "a larger value, in bytes, is rejected with P06; 0: the default")
	fs.DurationVar(&f.session, "session-timeout", 10*time.Second, "a loader that is silent for this long loses its partitions; 0: the default")
	fs.DurationVar(&f.drain, "drain-timeout", 10*time.Second, "time that blocks in work have to end when the loader stops; 0: the default")
}

func (f *loadFlags) apply(o *load.Options) {
	o.Group, o.MaxRecords, o.MaxBytes, o.MaxInWork, o.FlushAge = f.group, f.maxRecords, f.maxBytes, f.maxInWork, f.flushAge
	o.MaxValueBytes, o.DeadLetterBytes, o.SessionTimeout, o.DrainTimeout = f.maxValueBytes, deadLetterBytes(f.maxValueBytes), f.session, f.drain
}

// deadLetterBytes is the largest dead letter for a value limit.
func deadLetterBytes(maxValue int) int { return 2*maxValue + 64<<10 }

func newLoad() *cobra.Command {
	var (
		kf kafkaFlags
		cf clickhouseFlags
		rf registryFlags
		lf loadFlags

		addr string
	)
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Load events from Kafka into ClickHouse, exactly once, and keep the aggregates",
		Long: `load joins the consumer group, validates, deduplicates and loads the events of all
welfare topics, and keeps the aggregates of what is loaded. Run as many as there are
partitions, if you like; a partition has one loader at a time, and any may be killed.

The topics must be there, and the schema (welfarehub migrate). At the start the registry
and ClickHouse must answer; after that outages of Kafka, ClickHouse and the registry are
waited out. --health opens an address for supervisors and Prometheus: /livez, /readyz (a
member of the group, and ClickHouse answers) and /metrics. SIGTERM ends the blocks in work
(--drain-timeout) and leaves the group.`,
		Example: `  welfarehub load --kafka-brokers broker:9092 --registry-url http://registry:8081 \
    --clickhouse-dsn clickhouse://hub:secret@clickhouse:9000/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			cluster, err := kf.cluster()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := cf.check(); err != nil {
				return &exitError{exitUsage, err}
			}
			client, err := rf.client()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			reg := metrics.New(version)
			var ready readyWhenMade
			stop, err := serveHealth(cmd, log, addr, health.Options{Metrics: reg.Handler(), Ready: ready.Ready, Logger: log})
			if err != nil {
				return err
			}
			defer stop()
			if err := ensureTopics(cmd.Context(), cluster, topicSettings{partitions: 1, maxValueBytes: lf.maxValueBytes}, false); err != nil {
				return err
			}
			ids, err := registry.RegisterAll(cmd.Context(), client)
			if err != nil {
				return fmt.Errorf("register schemas: %w", err)
			}
			opt := load.Options{Cluster: cluster, DSN: cf.dsn, Schemas: client, OutcomeSchemaID: ids[registry.OutcomeSubject], Logger: log, Metrics: reg.Load()}
			lf.apply(&opt)
			loader, err := load.New(opt)
			if err != nil {
				return err
			}
			ready.made(loader.Ready)
			db, err := clickhouse.Open(cmd.Context(), cf.dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			agg := aggregate.New(aggregate.Options{DB: db.Conn(), Logger: log, Metrics: reg.Aggregate(), SweepEvery: sweepEvery, PurgeEvery: purgeEvery})
			group, ctx := errgroup.WithContext(cmd.Context())
			group.Go(func() error { return loader.Run(ctx) })
			group.Go(func() error { return agg.Run(ctx) })
			return group.Wait()
		},
	}
	kf.add(cmd.Flags())
	cf.add(cmd.Flags())
	rf.add(cmd.Flags())
	lf.add(cmd.Flags())
	cmd.Flags().StringVar(&addr, "health", "", "address of /livez, /readyz and /metrics, plain HTTP; port 0 takes a free one; none where not given")
	return cmd
}

// sweepEvery is how often the rows of erased subjects are removed from the tables. Readers and cells leave
// them out at once; the removal rewrites parts, so it pays to gather them.
const sweepEvery = 30 * time.Second

// purgeEvery is how often their bytes are taken off the disk, which rewrites the parts that hold them.
const purgeEvery = time.Hour

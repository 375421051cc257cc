package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/consumers/watch"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/web/api"
)

func newServe() *cobra.Command {
	var (
		kf   kafkaFlags
		cf   clickhouseFlags
		wf   watchFlags
		addr string
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the HTTP API",
		Long: `serve answers GET /api/v1/supply-demand and GET /api/v1/status from ClickHouse. It needs no
more than SELECT on database welfare. / lists what there is; /livez, /readyz and /metrics
are for supervisors and Prometheus.

With --kafka-brokers it also measures the lag of every partition, by asking Kafka for the
ends of the logs itself: so it is seen when no loader runs. It needs the right to describe
and read the topics, and joins no group.`,
		Example: `  welfarehub serve --clickhouse-dsn clickhouse://planner@clickhouse:9000/ --http 0.0.0.0:8080
  welfarehub serve --clickhouse-dsn clickhouse://planner@clickhouse:9000/ \
    --kafka-brokers broker:9092`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if err := cf.check(); err != nil {
				return &exitError{exitUsage, err}
			}
			var cluster wkafka.Cluster
			if len(kf.brokers) > 0 {
				if cluster, err = kf.cluster(); err != nil {
					return &exitError{exitUsage, err}
				}
			}
			db, err := clickhouse.Open(cmd.Context(), cf.dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			reg := metrics.New(version)
			stop := wf.start(cmd.Context(), reg, cluster, db, log)
			defer stop()
			return serveUntilDone(cmd, log, addr, "--http", api.New(api.Options{DB: db.Conn(), Logger: log, Version: version, Metrics: reg.Handler()}))
		},
	}
	kf.add(cmd.Flags())
	cf.add(cmd.Flags())
	wf.add(cmd.Flags())
	cmd.Flags().StringVar(&addr, "http", "127.0.0.1:8080", "address to listen on, plain HTTP; port 0 takes a free one")
	return cmd
}

// watchFlags are the settings of what is measured beside requests, the same in serve and up.
type watchFlags struct{ sources int }

func (f *watchFlags) add(fs *pflag.FlagSet) {
	fs.IntVar(&f.sources, "metrics-sources", 20, "sources that /metrics names, those with the most events; the rest is one series, other")
}

// start looks at lag and sources until stop is called.
func (f *watchFlags) start(ctx context.Context, reg *metrics.Registry, c wkafka.Cluster, db *clickhouse.DB, log *zap.Logger) (stop func()) {
	w := watch.New(watch.Options{Cluster: c, DB: db.Conn(), Metrics: reg.Watch(f.sources), Logger: log})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.Run(ctx) // never fails
	}()
	return func() { cancel(); <-done }
}

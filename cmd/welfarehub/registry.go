package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/web/api"
	"github.com/welfarehub/welfarehub/web/health"
)

func newRegistry() *cobra.Command {
	var (
		kf   kafkaFlags
		addr string
	)
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Serve the schema registry (Confluent REST API)",
		Long: `registry serves the Confluent REST API. Its state is in the compacted topic _schemas, in
Confluent's own format: it survives, and another registry can take it over. Run one.
/livez, /readyz and /metrics are for supervisors and Prometheus.`,
		Example: `  welfarehub registry --kafka-brokers broker:9092 --registry 0.0.0.0:8081`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			cluster, err := kf.cluster()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			srv, err := registry.NewServer(cmd.Context(), registry.Options{Cluster: cluster, Logger: log})
			if err != nil {
				return err
			}
			defer srv.Close()
			ops := health.Options{Metrics: metrics.New(version).Handler(), Ready: srv.Ready, Logger: log}
			return serveUntilDone(cmd, log, addr, "--registry", health.Handler(ops, srv.Handler()))
		},
	}
	kf.add(cmd.Flags())
	cmd.Flags().StringVar(&addr, "registry", "127.0.0.1:8081", "address to listen on, plain HTTP; port 0 takes a free one")
	return cmd
}

// serveUntilDone serves HTTP until the command is told to stop, then ends the requests in work.
func serveUntilDone(cmd *cobra.Command, log *zap.Logger, addr, flag string, h http.Handler) error {
	ln, err := listen(cmd.Context(), addr, flag)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "listening on http://%s\n", ln.Addr())
	srv := api.Server(h)
	srv.ErrorLog = zap.NewStdLog(log)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		return err
	case <-cmd.Context().Done():
	}
	ctx, cancel := stopContext()
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return err
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

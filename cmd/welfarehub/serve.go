package main

import (
	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/web/api"
)

func newServe() *cobra.Command {
	var (
		cf   clickhouseFlags
		addr string
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the HTTP API",
		Long: `serve answers GET /api/v1/supply-demand and GET /api/v1/status from ClickHouse. It needs no
more than SELECT on database welfare. / lists what there is.`,
		Example: `  welfarehub serve --clickhouse-dsn clickhouse://planner@clickhouse:9000/ --http 0.0.0.0:8080`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if err := cf.check(); err != nil {
				return &exitError{exitUsage, err}
			}
			db, err := clickhouse.Open(cmd.Context(), cf.dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			return serveUntilDone(cmd, log, addr, "--http", api.New(api.Options{DB: db.Conn(), Logger: log, Version: version}))
		},
	}
	cf.add(cmd.Flags())
	cmd.Flags().StringVar(&addr, "http", "127.0.0.1:8080", "address to listen on, plain HTTP; port 0 takes a free one")
	return cmd
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

func newMigrate() *cobra.Command {
	var (
		cf   clickhouseFlags
		down int64
	)
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the ClickHouse schema to this version",
		Long: `migrate creates or upgrades the databases store (the hub's own) and welfare (public).
It is safe to run again, and loads the reference lists of this version. --down-to goes
back to an earlier version; going back to 0 removes all tables and their data.`,
		Example: `  welfarehub migrate --clickhouse-dsn clickhouse://hub:secret@clickhouse:9000/
  welfarehub migrate --clickhouse-dsn clickhouse://hub:secret@clickhouse:9000/ --down-to 3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if err := cf.check(); err != nil {
				return &exitError{exitUsage, err}
			}
			if cmd.Flags().Changed("down-to") {
				err = clickhouse.MigrateDown(cmd.Context(), cf.dsn, down, log)
			} else {
				err = clickhouse.Migrate(cmd.Context(), cf.dsn, log)
			}
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("down-to") {
				fmt.Fprintf(cmd.OutOrStdout(), "the schema is at version %d\n", down)
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the schema is up to date")
			return nil
		},
	}
	cf.add(cmd.Flags())
	cmd.Flags().Int64Var(&down, "down-to", 0, "go back to this version; what later versions added is dropped with its data; 0: everything")
	return cmd
}

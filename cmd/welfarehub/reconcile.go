package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/reconcile"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

func newReconcile() *cobra.Command {
	var (
		kf         kafkaFlags
		cf         clickhouseFlags
		names      []string
		asJSON     bool
		aggregates bool
	)
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Prove that what was read is what was stored",
		Long: `reconcile compares, per topic and partition, the log with the ledger and the ledger with the
rows: read = loaded + duplicate + rejected, no gap, no repeat, nothing stored that was
not booked. It lists what does not fit as ranges of offsets. The loader may be at work
meanwhile. Lag and open rejects are shown and do not count against it.
docs/OPERATIONS.md says what to do about each kind of finding.

Exit codes: 0 all fits, 3 it does not, 1 it could not be found out.`,
		Example: `  welfarehub reconcile --kafka-brokers 127.0.0.1:9092 \
    --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if err := cf.check(); err != nil {
				return &exitError{exitUsage, err}
			}
			cluster, err := kf.cluster()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			db, err := clickhouse.Open(cmd.Context(), cf.dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			opt := reconcile.Options{DB: db.Conn(), Cluster: cluster, Topics: names, Logger: log}
			if aggregates {
				opt.Verifier = aggregate.New(aggregate.Options{DB: db.Conn(), Logger: log})
			}
			report, err := reconcile.Run(cmd.Context(), opt)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(report)
			} else {
				err = report.WriteTable(cmd.OutOrStdout())
			}
			if err == nil && !report.Balanced() {
				err = &exitError{code: exitUnbalanced}
			}
			return err
		},
	}
	kf.add(cmd.Flags())
	cf.add(cmd.Flags())
	cmd.Flags().StringSliceVar(&names, "topic", nil, "topics to look at, with commas; all where not given")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&aggregates, "aggregates", false, "compute the aggregates again from their facts too, and compare")
	return cmd
}

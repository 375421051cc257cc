package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/reconcile"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

func newReconcile() *cobra.Command {
	var (
		kf         kafkaFlags
		cf         clickhouseFlags
		rf         registryFlags
		names      []string
		partition  uint32
		from, to   uint64
		window     windowFlags
		opt        reconcile.Options
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

The books do not say whether a row was changed by hand. --content hashes each row again and
compares it with the hash that it was loaded with. --log reads the records again and
compares them with the rows, field by field. --dead-letters compares <topic>.dlq with the
rejects, --aggregates the cells with their facts and these with the rows. The checksum of
ids and contents in the table does not depend on their order: it is the same before and
after a replay, and, over all partitions of a topic, in another hub of the same release
that loaded the same events.

A window (--since, --until, --from-offset, --to-offset) bounds checksums, contents, log and
dead letters; the books are always whole.

Exit codes: 0 all fits, 3 it does not, 1 it could not be found out.`,
		Example: `  welfarehub reconcile --kafka-brokers 127.0.0.1:9092 \
    --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/
  welfarehub reconcile --topic welfare.demand.request --since 2026-11-25T00:00:00+01:00 \
    --content --log --registry-url http://127.0.0.1:8081 ...`,
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
			if opt.Log {
				client, err := rf.client()
				if err != nil {
					return &exitError{exitUsage, fmt.Errorf("--log: %w", err)}
				}
				opt.Schemas = client
			}
			if opt.Window.Since, opt.Window.Until, err = window.times(); err != nil {
				return &exitError{exitUsage, err}
			}
			if cmd.Flags().Changed("partition") {
				opt.Window.Partition = &partition
			}
			if cmd.Flags().Changed("from-offset") {
				opt.Window.From = &from
			}
			if cmd.Flags().Changed("to-offset") {
				opt.Window.To = &to
			}
			db, err := clickhouse.Open(cmd.Context(), cf.dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			opt.DB, opt.Cluster, opt.Topics, opt.Logger = db.Conn(), cluster, names, log
			bar := newProgress(cmd.ErrOrStderr())
			opt.Progress = func(part string, done, total int64) { bar.show(part, done, total) }
			if aggregates {
				opt.Verifier = aggregate.New(aggregate.Options{DB: db.Conn(), Logger: log})
			}
			report, err := reconcile.Run(cmd.Context(), opt)
			bar.stop()
			if errors.Is(err, reconcile.ErrUnknownTopic) {
				return &exitError{exitUsage, err}
			}
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
	rf.add(cmd.Flags())
	cmd.Flags().Uint32Var(&partition, "partition", 0, "only this partition of each topic; all where not given")
	cmd.Flags().Uint64Var(&from, "from-offset", 0, "window: from this offset of each partition on")
	cmd.Flags().Uint64Var(&to, "to-offset", 0, "window: before this offset of each partition")
	window.add(cmd.Flags(), "records with a Kafka timestamp")
	cmd.Flags().BoolVar(&opt.Content, "content", false, "hash the rows again, and compare with the hashes that they were loaded with")
	cmd.Flags().BoolVar(&opt.Log, "log", false, "read the records again, and compare them with the rows; needs --registry-url")
	cmd.Flags().BoolVar(&opt.Letters, "dead-letters", false, "compare the dead letters with the rejects")
	cmd.Flags().IntVar(&opt.MaxValueBytes, "max-value-bytes", 1<<20, "limit of a value in bytes, as the loader's, with --log; 0: the default")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&aggregates, "aggregates", false, "compare the facts of the aggregates with the rows, and the aggregates with their facts")
	return cmd
}

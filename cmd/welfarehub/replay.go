package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/replay"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

// selectFlags say which records to replay.
type selectFlags struct {
	topics         []string
	partition      uint32
	from, to       uint64
	window         windowFlags
	key            string
	source, record string
	schemaID       int
}

func (f *selectFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringSliceVar(&f.topics, "topic", nil, "topics to replay, with commas")
	fs.Uint32Var(&f.partition, "partition", 0, "only this partition of the topic; all where not given")
	fs.Uint64Var(&f.from, "from-offset", 0, "only from this offset of the partition on")
	fs.Uint64Var(&f.to, "to-offset", 0, "only before this offset of the partition")
	f.window.add(fs, "records with a Kafka timestamp")
	fs.StringVar(&f.key, "key", "", "only records with this key; the audit keeps its SHA-256")
	fs.StringVar(&f.source, "source", "", "only events of this source")
	fs.StringVar(&f.record, "record", "", "only events with this sourceRecordId")
	fs.IntVar(&f.schemaID, "schema-id", 0, "only records written with this schema of the registry")
}

func (f *selectFlags) selection(cmd *cobra.Command) (s replay.Selection, err error) {
	if err := impersonal("key", f.key, "source", f.source, "record", f.record); err != nil {
		return s, err
	}
	s = replay.Selection{Topics: f.topics, Source: f.source, Record: f.record, SchemaID: f.schemaID}
	if s.Since, s.Until, err = f.window.times(); err != nil {
		return s, err
	}
	if cmd.Flags().Changed("partition") {
		n := int(f.partition)
		s.Partition = &n
	}
	if cmd.Flags().Changed("from-offset") {
		n := int64(min(f.from, math.MaxInt64))
		s.From = &n
	}
	if cmd.Flags().Changed("to-offset") {
		n := int64(min(f.to, math.MaxInt64))
		s.To = &n
	}
	if f.key != "" {
		s.KeyHash = replay.HashKey(f.key)
	}
	return s, nil
}

func newReplay() *cobra.Command {
	var (
		kf     kafkaFlags
		cf     clickhouseFlags
		rf     registryFlags
		sel    selectFlags
		audit  auditFlags
		opt    replay.Options
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Read records of the log again, and store rows that were lost",
		Long: `replay reads records again, up to the end that the log has when it begins, and decides each
by the books: one that is booked as loaded, whose row is missing, and that is neither erased
nor superseded, is stored again, with its ids and facts. All else is only counted. It writes
no ledger, joins no group and moves no offset, so it may run beside the loaders, and again.

--dry-run counts what the run would do. --to-topic and --to-file copy the records instead:
to a topic with key, value and headers as they are, to a file as JSON lines that
welfarehub publish takes. Records that hold a codice fiscale are left out, and those whose
batch cannot be read, of which there is nothing to copy. Each run is a row per partition of
welfare.replays, by which --resume goes on with one that was cut off; a copy to a topic may
then repeat records of the last chunk.

Exit codes: 0 done, 1 failure, 2 wrong usage, 3 rows are missing that could not be restored.`,
		Example: `  welfarehub replay --topic welfare.demand.request --dry-run \
    --kafka-brokers 127.0.0.1:9092 --registry-url http://127.0.0.1:8081 \
    --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/
  welfarehub replay --topic welfare.demand.request --partition 2 --from-offset 1000 \
    --to-offset 2000 --why "disk of 25 November" ...
  welfarehub replay --topic welfare.demand.request --since 2026-11-25T00:00:00+01:00 \
    --source urn:welfare:c_f205:csi --to-file requests.jsonl --why "asked by Milan" ...
  welfarehub replay --resume 018f5a1e-7c3b-4d2a-9e61-0d7c35b1a2f4 ...`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			usage := func(err error) error { return &exitError{exitUsage, err} }
			if err := cf.check(); err != nil {
				return usage(err)
			}
			if opt.Cluster, err = kf.cluster(); err != nil {
				return usage(err)
			}
			client, err := rf.client()
			if err != nil {
				return usage(err)
			}
			if opt.Select, err = sel.selection(cmd); err != nil {
				return usage(err)
			}
			if err := audit.complete(!opt.DryRun && opt.Resume == ""); err != nil {
				return usage(err)
			}
			opt.DSN, opt.Schemas, opt.Logger, opt.Who, opt.Why = cf.dsn, client, log, audit.who, audit.why
			if err := opt.Validate(); err != nil {
				return usage(err)
			}
			db, err := clickhouse.Open(cmd.Context(), cf.dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			opt.Aggregates = aggregate.New(aggregate.Options{DB: db.Conn(), Logger: log})
			bar := newProgress(cmd.ErrOrStderr())
			opt.Progress = func(p replay.Progress) { bar.show(fmt.Sprintf("%s/%d", p.Topic, p.Partition), p.Done, p.Total) }
			report, err := replay.Run(cmd.Context(), opt)
			bar.stop()
			if err != nil {
				return replayError(report, err)
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(report)
			} else {
				err = writeReplay(cmd.OutOrStdout(), report, opt.Target)
			}
			if err == nil && report.Unknown > 0 {
				err = &exitError{exitUnbalanced, fmt.Errorf("%d records of the ledger have no row, and it could not be restored; welfarehub reconcile names them", report.Unknown)}
			}
			return err
		},
	}
	sel.add(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&opt.DryRun, "dry-run", false, "count what would be done, and change nothing")
	fs.StringVar(&opt.Resume, "resume", "", "go on with the replay of this id, which was cut off; its selection and target are kept")
	fs.StringVar(&opt.Target.Topic, "to-topic", "", "copy the records to this topic, which must be there, instead of restoring rows")
	fs.StringVar(&opt.Target.File, "to-file", "", "copy the events to this file, which must not be there, as JSON lines instead of restoring rows")
	fs.Float64Var(&opt.Rate, "rate", 0, "records a second at most; 0: no limit")
	fs.IntVar(&opt.MaxValueBytes, "max-value-bytes", 1<<20, "limit of a value in bytes, as the loader's; 0: the default")
	fs.BoolVar(&asJSON, "json", false, "print the report as JSON")
	audit.add(fs)
	kf.add(fs)
	cf.add(fs)
	rf.add(fs)
	return cmd
}

// replayError says what to do about a replay that failed.
func replayError(r *replay.Report, err error) error {
	switch {
	case errors.Is(err, replay.ErrSelection), errors.Is(err, replay.ErrNoReplay):
		return &exitError{exitUsage, err}
	case r.ID != "" && !r.DryRun:
		return fmt.Errorf("%w\nit can go on: welfarehub replay --resume %s", err, r.ID)
	}
	return err
}

// writeReplay prints the counts of a replay.
func writeReplay(w io.Writer, r *replay.Report, t replay.Target) error {
	var b strings.Builder
	restored := "restored"
	if r.DryRun {
		restored = "would be restored"
		b.WriteString("dry run, nothing was changed: ")
	} else {
		fmt.Fprintf(&b, "replay %s: ", r.ID)
	}
	fmt.Fprintf(&b, "%d records read again\n", r.Read)
	line := func(name string, n uint64, more string) {
		fmt.Fprintf(&b, "  %-18s %12d%s\n", name, n, more)
	}
	if t != (replay.Target{}) {
		line("copied", r.Copied, "")
		line("left out", r.Read-r.Copied, "")
	} else {
		var codes string
		for _, code := range slices.Sorted(maps.Keys(r.Codes)) {
			codes += fmt.Sprintf("  %s %d", code, r.Codes[code])
		}
		line("already present", r.Present, "")
		line(restored, r.Restored, "")
		line("duplicate", r.Duplicate, "")
		line("rejected", r.Rejected, codes)
		line("erased", r.Erased, "")
		line("superseded", r.Superseded, "")
		line("not loaded yet", r.Pending, "")
		line("unknown", r.Unknown, "")
	}
	for _, p := range r.Partitions {
		if p.LogStart > 0 && p.From == p.LogStart {
			fmt.Fprintf(&b, "%s/%d: the first offset that is left is %d\n", p.Topic, p.Partition, p.LogStart)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/consumers/deadletter"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

func newDLQ() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at rejected events and their dead letters, and publish them again",
		Long: `dlq deals with rejected events: welfare.rejected says which they are and why, the topics
<topic>.dlq have the records as they were. Each is open, redriven (published again, as a
new offset) or discarded. A letter with a codice fiscale in it (E11) holds nothing of the
original and cannot be published again: the source must correct the event.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDLQList(), newDLQShow(), newDLQExplain(), newDLQRedrive(), newDLQDiscard(), newDLQExport())
	return cmd
}

// dlqFlags are what the commands on dead letters share: which are meant, and where everything is.
type dlqFlags struct {
	kf     kafkaFlags
	cf     clickhouseFlags
	rf     registryFlags
	window windowFlags
	sel    deadletter.Selection
	limit  int
	asJSON bool
	needs  needs
	max    int
}

// needs are the servers that a command reads besides ClickHouse.
type needs int

const (
	onlyBooks needs = iota
	letters
	lettersAndSchemas
)

// add defines the flags. anyState is for commands that look at more than open events; state is their default.
func (f *dlqFlags) add(cmd *cobra.Command, n needs, anyState bool, state string) {
	f.needs = n
	fs := cmd.Flags()
	fs.StringSliceVar(&f.sel.Topics, "topic", nil, "only events of these topics, with commas")
	fs.StringSliceVar(&f.sel.Codes, "code", nil, "only events that violated one of these codes, with commas: P03,E14")
	fs.StringVar(&f.sel.Source, "source", "", "only events of this source")
	f.window.add(fs, "events rejected")
	if anyState {
		fs.StringVar(&f.sel.State, "state", state, "only events in this state: open, redriven or discarded; empty: any")
	}
	fs.IntVar(&f.limit, "limit", 0, "only so many of them; 0: all")
	f.addServers(cmd)
}

func (f *dlqFlags) addServers(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&f.asJSON, "json", false, "print the report as JSON")
	f.cf.add(fs)
	if f.needs >= letters {
		f.kf.add(fs)
	}
	if f.needs >= lettersAndSchemas {
		f.rf.add(fs)
		fs.IntVar(&f.max, "max-value-bytes", 1<<20, "limit of a value in bytes, as the loader's; 0: the default")
	}
}

// desk checks the flags and opens what the command needs.
func (f *dlqFlags) desk(cmd *cobra.Command) (d *deadletter.Desk, done func(), err error) {
	usage := func(err error) (*deadletter.Desk, func(), error) { return nil, nil, &exitError{exitUsage, err} }
	log, err := logger(cmd)
	if err != nil {
		return nil, nil, err
	}
	f.sel.Limit = f.limit
	if f.sel.Since, f.sel.Until, err = f.window.times(); err != nil {
		return usage(err)
	}
	if err := f.sel.Validate(); err != nil {
		return usage(err)
	}
	if err := f.cf.check(); err != nil {
		return usage(err)
	}
	d = &deadletter.Desk{Logger: log, MaxValueBytes: f.max}
	if f.needs >= letters {
		if d.Cluster, err = f.kf.cluster(); err != nil {
			return usage(err)
		}
	}
	if f.needs >= lettersAndSchemas {
		if d.Schemas, err = f.rf.client(); err != nil {
			return usage(err)
		}
	}
	if d.DB, err = clickhouse.Open(cmd.Context(), f.cf.dsn); err != nil {
		return nil, nil, err
	}
	return d, func() { _ = d.DB.Close() }, nil
}

// print writes a report as JSON, or as f does.
func (f *dlqFlags) print(w io.Writer, report any, text func(io.Writer)) error {
	if f.asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	text(t)
	return t.Flush()
}

const dlqServers = ` \
    --kafka-brokers 127.0.0.1:9092 --registry-url http://127.0.0.1:8081 \
    --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/`

func newDLQList() *cobra.Command {
	var f dlqFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Count rejected events by topic, code and state, and list them",
		Long: `list counts the rejected events and lists them, the latest first: topic, partition, offset,
code, field, source, state. It reads ClickHouse only.`,
		Example: `  welfarehub dlq list --state open --code P03 --limit 20 \
    --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, done, err := f.desk(cmd)
			if err != nil {
				return err
			}
			defer done()
			tallies, err := d.Tallies(cmd.Context(), f.sel)
			if err != nil {
				return err
			}
			s := f.sel
			if s.Limit == 0 {
				s.Limit = 100
			}
			rejects, err := d.List(cmd.Context(), s)
			if err != nil {
				return err
			}
			report := struct {
				Counts []deadletter.Tally  `json:"counts"`
				Events []deadletter.Reject `json:"events"`
			}{tallies, rejects}
			return f.print(cmd.OutOrStdout(), report, func(w io.Writer) {
				fmt.Fprintln(w, "TOPIC\tCODE\tSTATE\tEVENTS\tFIRST\tLAST")
				for _, t := range tallies {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", t.Topic, t.Code, t.State, t.Events, instant(t.First), instant(t.Last))
				}
				fmt.Fprintln(w, "\nPOSITION\tCODES\tFIELD\tSOURCE\tSTATE\tREJECTED")
				for i := range rejects {
					r := &rejects[i]
					fmt.Fprintf(w, "%s/%d/%d\t%s\t%s\t%s\t%s\t%s\n", r.Topic, r.Partition, r.Offset, strings.Join(r.Codes, ","), r.Field, optional(r.Source), state(r), instant(r.RejectedAt))
				}
			})
		},
	}
	f.add(cmd, onlyBooks, true, "")
	return cmd
}

func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func optional(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

func state(r *deadletter.Reject) string {
	if r.NewPartition == nil || r.NewOffset == nil {
		return r.State
	}
	return fmt.Sprintf("%s to %d/%d", r.State, *r.NewPartition, *r.NewOffset)
}

func newDLQShow() *cobra.Command {
	var (
		f         dlqFlags
		t         []string
		partition uint32
		offset    uint64
	)
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show one dead letter, with personal data masked",
		Long: `show prints the dead letter of a rejected event: why it was rejected, its key, headers and, if
it can be decoded, its fields. Pseudonyms are shortened to 8 digits; free texts, and whatever
holds a codice fiscale, are replaced.`,
		Example: `  welfarehub dlq show --topic welfare.demand.request --partition 0 --from-offset 1234` + dlqServers,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(t) != 1 || !cmd.Flags().Changed("from-offset") {
				return &exitError{exitUsage, errors.New("name one event: --topic, --partition and --from-offset")}
			}
			f.sel.Topics = t
			d, done, err := f.desk(cmd)
			if err != nil {
				return err
			}
			defer done()
			shown, err := d.Show(cmd.Context(), deadletter.Position{Topic: t[0], Partition: int(partition), Offset: int64(min(offset, math.MaxInt64))})
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), shown, func(w io.Writer) { writeLetter(w, shown) })
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&t, "topic", nil, "topic of the rejected event")
	fs.Uint32Var(&partition, "partition", 0, "its partition")
	fs.Uint64Var(&offset, "from-offset", 0, "its offset in that partition")
	f.needs = lettersAndSchemas
	f.addServers(cmd)
	return cmd
}

func writeLetter(w io.Writer, s *deadletter.Shown) {
	fmt.Fprintf(w, "position\t%s/%d/%d\n", s.Topic, s.Partition, s.Offset)
	fmt.Fprintf(w, "rejected\t%s, %s\n", instant(s.RejectedAt), state(&s.Reject))
	fmt.Fprintf(w, "codes\t%s\n", strings.Join(s.Codes, ","))
	fmt.Fprintf(w, "field\t%s\n", s.Field)
	fmt.Fprintf(w, "message\t%s\n", s.Message)
	fmt.Fprintf(w, "schema id\t%d\n", s.SchemaID)
	fmt.Fprintf(w, "key\t%s\n", s.Key)
	for _, h := range s.Headers {
		fmt.Fprintf(w, "header %s\t%s\n", h.Name, h.Value)
	}
	fmt.Fprintf(w, "value\t%d bytes\n", s.Bytes)
	for _, v := range s.Fields {
		fmt.Fprintf(w, "  %s\t%s\n", v.Name, v.Value)
	}
	if s.Note != "" {
		fmt.Fprintf(w, "note\t%s\n", s.Note)
	}
}

func newDLQExplain() *cobra.Command {
	var f dlqFlags
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say which dead letters would pass today's rules",
		Long: `explain judges each letter as if it were published again now, with the registry and the limits
of today: it passes, would end as duplicate, fails (with code, field and what to do), or its
letter holds nothing (E11) or not all (P06) of the original. It changes nothing.`,
		Example: `  welfarehub dlq explain --code P03` + dlqServers,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, done, err := f.desk(cmd)
			if err != nil {
				return err
			}
			defer done()
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			enc := json.NewEncoder(cmd.OutOrStdout())
			answers := map[deadletter.Answer]int{}
			if !f.asJSON {
				fmt.Fprintln(w, "POSITION\tWAS\tNOW\tFIELD\tMESSAGE")
			}
			without, err := d.Explain(cmd.Context(), f.sel, func(all []deadletter.Explained) error {
				for i := range all {
					e := &all[i]
					answers[e.Answer]++
					if f.asJSON {
						if err := enc.Encode(e); err != nil {
							return err
						}
						continue
					}
					now := string(e.Answer)
					if len(e.Codes) > 0 {
						now += " " + strings.Join(e.Codes, ",")
					}
					fmt.Fprintf(w, "%s/%d/%d\t%s\t%s\t%s\t%s\n", e.Topic, e.Partition, e.Offset, strings.Join(e.Was.Codes, ","), now, e.Field, e.Message)
				}
				return w.Flush()
			})
			if err != nil || f.asJSON {
				return err
			}
			var sum []string
			for _, a := range slices.Sorted(maps.Keys(answers)) {
				sum = append(sum, fmt.Sprintf("%d %s", answers[a], a))
			}
			sum = append(sum, fmt.Sprintf("%d without a letter", without))
			fmt.Fprintln(cmd.OutOrStdout(), strings.Join(sum, ", "))
			return nil
		},
	}
	f.add(cmd, lettersAndSchemas, true, "open")
	return cmd
}

func newDLQRedrive() *cobra.Command {
	var (
		f     dlqFlags
		audit auditFlags
		o     deadletter.Redrive
	)
	cmd := &cobra.Command{
		Use:   "redrive",
		Short: "Publish dead letters again to their topics",
		Long: `redrive publishes open letters again, with their original key, value and headers, as new
offsets of their topics, and writes down where, by whom and why. Only what passes today's
rules is sent (see explain), or everything with --all. What was redriven is not open any more,
so a second redrive sends nothing. If it is cut off between sending and writing down, the next
one sends those letters again, and they end as duplicate.`,
		Example: `  welfarehub dlq redrive --code P03 --dry-run` + dlqServers + `
  welfarehub dlq redrive --code P03 --why "schema 12 registered"` + dlqServers,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := audit.complete(!o.DryRun); err != nil {
				return &exitError{exitUsage, err}
			}
			o.Who, o.Why = audit.who, audit.why
			d, done, err := f.desk(cmd)
			if err != nil {
				return err
			}
			defer done()
			r, err := d.Redrive(cmd.Context(), f.sel, o)
			printed := f.print(cmd.OutOrStdout(), r, func(w io.Writer) {
				did := "published again"
				if o.DryRun {
					did = "would be published again"
				}
				fmt.Fprintf(w, "%s\t%d\n", did, r.Published)
				var codes string
				for _, c := range slices.Sorted(maps.Keys(r.Codes)) {
					codes += fmt.Sprintf("  %s %d", c, r.Codes[c])
				}
				fmt.Fprintf(w, "left, would be rejected again\t%d%s\n", r.Failing, codes)
				fmt.Fprintf(w, "left, letter withheld (E11): the source must publish again\t%d\n", r.Withheld)
				fmt.Fprintf(w, "left, value not whole: the source must publish again\t%d\n", r.Cut)
				fmt.Fprintf(w, "left, letter gone by retention: the source must publish again\t%d\n", r.Without)
			})
			return errors.Join(err, printed)
		},
	}
	f.add(cmd, lettersAndSchemas, false, "")
	fs := cmd.Flags()
	fs.BoolVar(&o.All, "all", false, "also publish what would be rejected again")
	fs.BoolVar(&o.DryRun, "dry-run", false, "count what would be done, and change nothing")
	fs.Float64Var(&o.Rate, "rate", 0, "letters a second at most; 0: no limit")
	audit.add(fs)
	return cmd
}

func newDLQDiscard() *cobra.Command {
	var (
		f      dlqFlags
		audit  auditFlags
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "discard",
		Short: "Mark rejected events as discarded",
		Long: `discard marks open rejects as discarded, with who and why: nobody waits for them any more. The
dead letters stay until the retention of their topic takes them.`,
		Example: `  welfarehub dlq discard --code E03 --source urn:welfare:c_f205:csi --why "test data" \
    --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := audit.complete(!dryRun); err != nil {
				return &exitError{exitUsage, err}
			}
			d, done, err := f.desk(cmd)
			if err != nil {
				return err
			}
			defer done()
			n, err := d.Discard(cmd.Context(), f.sel, audit.who, audit.why, dryRun)
			if err != nil {
				return err
			}
			report := struct {
				Discarded uint64 `json:"discarded"`
				DryRun    bool   `json:"dry_run"`
			}{n, dryRun}
			return f.print(cmd.OutOrStdout(), report, func(w io.Writer) {
				if dryRun {
					fmt.Fprintf(w, "%d rejects would be discarded\n", n)
					return
				}
				fmt.Fprintf(w, "%d rejects discarded\n", n)
			})
		},
	}
	f.add(cmd, onlyBooks, false, "")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "count what would be done, and change nothing")
	audit.add(cmd.Flags())
	return cmd
}

func newDLQExport() *cobra.Command {
	var (
		f    dlqFlags
		file string
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write dead letters to a file as they are",
		Long: `export writes letters as JSON lines: why each was rejected, and its key, value and headers in
base64. Nothing is masked, so the file is readable by its owner only; it must not be there.`,
		Example: `  welfarehub dlq export --topic welfare.demand.request --to-file letters.jsonl \
    --kafka-brokers 127.0.0.1:9092 \
    --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return &exitError{exitUsage, errors.New("name the file: --to-file letters.jsonl")}
			}
			d, done, err := f.desk(cmd)
			if err != nil {
				return err
			}
			defer done()
			out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("make %s: %w", file, err)
			}
			n, without, err := d.Export(cmd.Context(), f.sel, out)
			if err := errors.Join(err, out.Close()); err != nil {
				return err
			}
			report := struct {
				Written int    `json:"written"`
				Without uint64 `json:"without"`
			}{n, without}
			return f.print(cmd.OutOrStdout(), report, func(w io.Writer) { fmt.Fprintf(w, "%d letters written, %d rejects have none left\n", n, without) })
		},
	}
	f.add(cmd, letters, true, "")
	cmd.Flags().StringVar(&file, "to-file", "", "file to write, JSON lines; it must not be there")
	return cmd
}

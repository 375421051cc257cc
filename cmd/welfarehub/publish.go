package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/pkg/validate"
	"github.com/welfarehub/welfarehub/producers/publish"
)

func newPublish() *cobra.Command {
	var (
		o    publish.Options
		kf   kafkaFlags
		rf   registryFlags
		cf   clickhouseFlags
		wait bool
	)
	cmd := &cobra.Command{
		Use:   "publish FILE...",
		Short: "Publish JSON lines or CSV as checked events",
		Long: `publish reads JSON lines and CSV (- is standard input, .gz is unpacked), checks each record
against the event's schema and the hub's rules, and publishes what passes. Columns and
members are named as the event's fields, or mapped by a YAML file (--mapping). Events
without an eventId get one made from their content: to publish a file again is safe.

Errors give file, line, field, rule, limit and what to do, never a value. It exits 0 when
every record passed and was acknowledged by all in-sync replicas; with --wait, when every
event was loaded.`,
		Example: `  welfarehub publish --type ServiceRequested --dry-run requests.csv
  welfarehub publish --kafka-brokers 127.0.0.1:9092 \
    --registry-url http://127.0.0.1:8081 requests.jsonl
  welfarehub publish --mapping istat_population comuni_pop.csv`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Files = args
			o.Check = newChecker()
			o.Stdin = cmd.InOrStdin()
			o.Progress, o.Terminal = cmd.ErrOrStderr(), isTerminal(cmd.ErrOrStderr())
			o.OnProblem = func(p publish.Problem) { fmt.Fprintln(cmd.ErrOrStderr(), p) }
			if !o.DryRun {
				cluster, err := kf.cluster()
				if err != nil {
					return &exitError{exitUsage, fmt.Errorf("%w, or --dry-run", err)}
				}
				client, err := rf.client()
				if err != nil {
					return &exitError{exitUsage, err}
				}
				o.Cluster, o.SchemaID = cluster, schemaID(client)
				if wait {
					if err := cf.check(); err != nil {
						return &exitError{exitUsage, fmt.Errorf("--wait: %w", err)}
					}
				}
			}
			if err := o.Validate(); err != nil {
				return &exitError{exitUsage, err}
			}
			report, err := publish.Run(cmd.Context(), o)
			fmt.Fprintf(cmd.OutOrStdout(), "%d records, %d events accepted, %d published, %d records with problems\n",
				report.Records, report.Accepted(), report.Published, report.Bad)
			if err != nil || !wait || o.DryRun {
				return err
			}
			db, err := clickhouse.Open(cmd.Context(), cf.dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			waited, err := publish.Wait(cmd.Context(), publish.NewLedger(db.Conn()), report.Positions, publish.WaitOptions{})
			fmt.Fprintf(cmd.OutOrStdout(), "%d loaded, %d duplicate, %d rejected\n", waited.Loaded, waited.Duplicate, waited.Rejected)
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Format, "format", "", "csv or jsonl; by the file's extension where not given")
	fs.StringVar(&o.Type, "type", "", "event or topic of every record; where not given, the column or member event names it")
	fs.StringVar(&o.Mapping, "mapping", "", "YAML file that maps foreign columns, or the name of one that ships: istat_population")
	fs.StringToStringVar(&o.Defaults, "default", nil, "field=value for records that do not give the field; may be repeated")
	fs.BoolVar(&o.DryRun, "dry-run", false, "check only; needs neither Kafka nor a registry")
	fs.IntVar(&o.MaxErrors, "max-errors", publish.DefaultMaxErrors, "stop after this many bad records; 0: the default, negative: no limit")
	fs.IntVar(&o.MaxValueBytes, "max-value-bytes", publish.DefaultMaxValueBytes, "limit of an event's size in bytes, as the loader's; 0: the default")
	fs.BoolVar(&wait, "wait", false, "wait until all is loaded, and print the ends; needs --clickhouse-dsn")
	kf.add(fs)
	rf.add(fs)
	cf.add(fs)
	return cmd
}

// schemaID asks the registry for the id of a topic's current schema, registering it where it is missing.
func schemaID(c *registry.Client) func(context.Context, string) (int, error) {
	var ids map[string]int
	return func(ctx context.Context, topic string) (int, error) {
		if ids == nil {
			bySubject, err := registry.RegisterAll(ctx, c)
			if err != nil {
				return 0, err
			}
			ids = topicIDs(bySubject)
		}
		id, ok := ids[topic]
		if !ok {
			return 0, errors.New("no schema for topic " + topic)
		}
		return id, nil
	}
}

// checker gives publish the loader's own rules.
type checker struct {
	v   *validate.Validator
	res validate.Result
}

func newChecker() publish.Checker { return &checker{v: validate.New()} }

func (c *checker) Check(row *event.Row, at time.Time, found func(publish.Finding)) {
	c.v.Check(row, validate.Meta{Key: row.Vals[row.Type.Key].Bytes, Timestamp: at.UnixMilli()}, &c.res)
	for _, v := range c.res.Violations {
		found(publish.Finding{Code: string(v.Code), Field: v.Field, Message: v.Message})
	}
	for _, name := range validate.FlagNames(c.res.Flags) {
		found(publish.Finding{Code: name})
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// simFlags are the knobs of the simulator, the same in simulate and up.
type simFlags struct {
	seed  uint64
	rates simulate.Config
}

func (f *simFlags) add(fs *pflag.FlagSet) {
	f.rates = simulate.DefaultRates()
	f.rates.Erasures = 0.0001 // each new erasure is searched for in all that is stored
	fs.Uint64Var(&f.seed, "seed", 1, "seed of the simulation: the same seed, start and shares give the same bytes")
	share := func(p *float64, name, what string) {
		fs.Float64Var(p, name, *p, "share of simulated messages, 0 to 1, that are "+what)
	}
	share(&f.rates.Duplicates, "duplicates", "copies of earlier events")
	share(&f.rates.Corrections, "corrections", "higher versions of earlier records")
	share(&f.rates.Revocations, "revocations", "annulments of records")
	share(&f.rates.Late, "late", "facts of 30 to 700 days ago")
	share(&f.rates.Invalid, "invalid", "invalid, each rule's violation in turn")
	share(&f.rates.Erasures, "erasures", "erasures of a subject")
	share(&f.rates.Unmapped, "unmapped", "facts with an unknown comune or service code")
}

// check refuses shares that are none.
func (f *simFlags) check() error {
	cfg := f.config()
	cfg.Count, cfg.Start = 1, time.Now() // the rest is set by the commands
	if err := cfg.ValidateAs(func(knob string) string { return "--" + knob }); err != nil {
		return &exitError{exitUsage, err}
	}
	return nil
}

// config is the simulator's configuration with the knobs set.
func (f *simFlags) config() simulate.Config {
	c := f.rates
	c.Seed = f.seed
	return c
}

// defaultStart is where the simulated clock starts unless told otherwise.
const defaultStart = "2024-01-01"

func newSimulate() *cobra.Command {
	var (
		kf                       kafkaFlags
		rf                       registryFlags
		sf                       simFlags
		events                   int
		rate                     float64
		start, out, format, told string
		territories              bool
		wallClock                bool
	)
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Make up welfare events, the same for the same seed",
		Long: `simulate makes consistent histories: offers with capacity in proportion to population,
requests that are assessed, wait, become benefits and deliveries, schools with their
sessions, attendance, indicators and feedback, waves of deprivation. It sends them to
Kafka, or writes them to a folder with --out, one file a topic.

--events, --rate or both must be given. --truth says what the hub must make of every
message: per topic loaded, duplicate, rejected by code, records in force, and every cell
of supply_demand.`,
		Example: `  welfarehub simulate --events 10000 --out sample --format jsonl
  welfarehub simulate --rate 500 --kafka-brokers 127.0.0.1:9092 \
    --registry-url http://127.0.0.1:8081`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := sf.check(); err != nil {
				return err
			}
			cfg := sf.config()
			var err error
			if cfg.Start, err = time.Parse(time.DateOnly, start); err != nil {
				return &exitError{exitUsage, fmt.Errorf("--start %q is not a day, as 2024-01-31", start)}
			}
			if format != "avro" && format != "jsonl" {
				return &exitError{exitUsage, fmt.Errorf("--format %q is not avro or jsonl", format)}
			}
			if events <= 0 && rate <= 0 {
				return &exitError{exitUsage, errors.New("give --events N, --rate R or both")}
			}
			cfg.Count, cfg.Territories, cfg.Truth, cfg.Reference = max(events, 0), territories, told != "", model.Shipped()
			if cfg.Count == 0 {
				cfg.Step = time.Duration(float64(time.Second) / rate)
			}
			var sink simulate.Sink
			if out != "" {
				if sink, err = simulate.NewFileSink(out, format == "jsonl"); err != nil {
					return err
				}
			} else {
				cluster, err := kf.cluster()
				if err != nil {
					return &exitError{exitUsage, fmt.Errorf("%w, or --out FOLDER", err)}
				}
				client, err := rf.client()
				if err != nil {
					return &exitError{exitUsage, err}
				}
				ids, err := registry.RegisterAll(cmd.Context(), client)
				if err != nil {
					return fmt.Errorf("register schemas: %w", err)
				}
				cfg.SchemaIDs = topicIDs(ids)
				if err := ensureTopics(cmd.Context(), cluster, topicSettings{partitions: 1, maxValueBytes: 1 << 20}, false); err != nil {
					return err
				}
				tr := cluster.Transport()
				defer tr.CloseIdleConnections()
				w := cluster.Writer(tr, brokerMessageBytes)
				defer w.Close()
				sink = simulate.NewKafkaSink(w, wallClock)
			}
			sim := simulate.New(cfg)
			sent, err := simulate.Run(cmd.Context(), sim, sink, simulate.Pace{PerSecond: rate})
			if cerr := sink.Close(); err == nil {
				err = cerr
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d messages\n", sent)
			if err != nil || told == "" {
				return err
			}
			f, err := os.Create(told)
			if err != nil {
				return fmt.Errorf("write --truth: %w", err)
			}
			return errors.Join(sim.Truth().WriteJSON(f), f.Close())
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&events, "events", 0, "messages in all; 0: until stopped")
	fs.Float64Var(&rate, "rate", 0, "messages per second; 0: as fast as they go")
	fs.StringVar(&start, "start", defaultStart, "first day of the simulated clock, YYYY-MM-DD, UTC")
	fs.StringVar(&out, "out", "", "folder to write to instead of Kafka, one file a topic; made where it is missing")
	fs.StringVar(&format, "format", "avro", "format of --out: avro (object container files) or jsonl")
	fs.StringVar(&told, "truth", "", "write the expected end of all messages to this file, JSON; kept in memory until the end")
	fs.BoolVar(&territories, "territories", false, "begin with the comuni and their population")
	fs.BoolVar(&wallClock, "wall-clock", false, "stamp records with the time of sending, for brokers whose retention would delete a simulated past")
	kf.add(fs)
	rf.add(fs)
	sf.add(fs)
	return cmd
}

// topicIDs makes ids by topic from ids by registry subject.
func topicIDs(bySubject map[string]int) map[string]int {
	out := map[string]int{}
	for s, id := range bySubject {
		out[s[:len(s)-len("-value")]] = id
	}
	return out
}

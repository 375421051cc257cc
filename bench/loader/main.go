//go:build linux

// Command loader measures the loader against its peers, on a real Kafka and the engine, all on this machine:
//
//	go build -o .cache/bench-loader ./bench/loader
//	.cache/bench-loader quick          # ours and the peers, one million events, about three minutes
//	.cache/bench-loader full           # all questions
//	.cache/bench-loader -repeats 5 peers limits
//
// `make bench` runs it. Every contestant loads the same log into tables made anew, in turn with the others,
// several times; its figures are medians, with the least and the most. After each run the rows of the target
// are counted and summed up without regard to their order, and must be those that were published.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/welfarehub/welfarehub/pkg/engine"
)

func main() {
	engine.RunIfChild()
	if len(os.Args) > 1 && os.Args[1] == contestantArgument {
		if err := contestant(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "Error of contestant:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	events, long, latencyEvents int
	repeats, peerRepeats        int
	rate                        int
	duplicates                  []float64
	seed                        uint64
	block, blockBytes           int
	peerBlock                   int
	flushAge                    time.Duration
	dir, out, results           string
	profile                     string
	commit                      string // that is measured
}

func measure(ctx context.Context, args []string) error {
	var o options
	fs := flag.NewFlagSet("loader", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "usage: loader [flags] <question>...\n\nQuestions:")
		for _, q := range questions {
			fmt.Fprintf(fs.Output(), "  %-11s %s\n", q.name, q.title)
		}
		fmt.Fprintln(fs.Output(), "  quick       peers, with 1,000,000 events at 0 and 10 % duplicates, each peer once\n  full        all of them\n\nFlags:")
		fs.PrintDefaults()
	}
	fs.IntVar(&o.events, "events", 2_100_000, "records of a log")
	fs.IntVar(&o.long, "long", 10_000_000, "records of the logs of lasting and replay")
	fs.IntVar(&o.repeats, "repeats", 3, "runs of each contestant")
	fs.IntVar(&o.peerRepeats, "peer-repeats", 0, "runs of each peer; 0: as ours; -1: none")
	fs.IntVar(&o.rate, "rate", 20_000, "events/s of latency")
	fs.IntVar(&o.latencyEvents, "latency-events", 1_200_000, "events of latency")
	fs.Uint64Var(&o.seed, "seed", 1, "seed of the events")
	fs.IntVar(&o.block, "block", 0, "records of our blocks at most; 0: the loader's default")
	fs.IntVar(&o.blockBytes, "block-bytes", 0, "bytes of our blocks, about; 0: the loader's default")
	fs.StringVar(&o.profile, "profile", "", "file for a CPU profile of our loader, of its last run")
	fs.IntVar(&o.peerBlock, "peer-block", 200_000, "rows of a peer's block on our table and settings")
	fs.DurationVar(&o.flushAge, "flush-age", 0, "flush age of our loader; 0: its default; latency has its own")
	fs.StringVar(&o.dir, "dir", "", "folder for data, some GB; empty: the system's for temporary files")
	fs.StringVar(&o.out, "out", "", "file for the results, Markdown; empty: standard output only")
	fs.StringVar(&o.results, "results", "", "Markdown file whose sections, between markers, the results replace")
	duplicates := fs.String("duplicates", "0,0.1,0.5", "shares of duplicates of peers")
	if err := fs.Parse(args); err != nil {
		return err
	}
	names := fs.Args()
	switch {
	case slices.Equal(names, []string{"quick"}):
		names, o.events, o.peerRepeats, *duplicates = []string{"peers"}, 1_000_000, 1, "0,0.1"
	case slices.Equal(names, []string{"full"}):
		names = nil
		for _, q := range questions {
			names = append(names, q.name)
		}
	case len(names) == 0:
		fs.Usage()
		return fmt.Errorf("name a question, or quick or full")
	}
	for _, share := range strings.Split(*duplicates, ",") {
		v, err := strconv.ParseFloat(share, 64)
		if err != nil || v < 0 || v >= 1 {
			return fmt.Errorf("-duplicates: got %q, limits 0 to below 1", share)
		}
		o.duplicates = append(o.duplicates, v)
	}
	if o.peerRepeats == 0 {
		o.peerRepeats = o.repeats
	}
	var chosen []question
	for _, name := range names {
		i := slices.IndexFunc(questions, func(q question) bool { return q.name == name })
		if i < 0 {
			return fmt.Errorf("no question %q; have quick, full and those that -h lists", name)
		}
		chosen = append(chosen, questions[i])
	}
	return answer(ctx, &o, chosen)
}

// answer runs the questions, and writes each answer as soon as it is known.
func answer(ctx context.Context, o *options, chosen []question) (err error) {
	o.commit = commitNow(ctx)
	l, err := openLab(ctx, o.dir)
	if err != nil {
		return err
	}
	defer func() {
		if e := l.close(); err == nil {
			err = e
		}
	}()
	if o.out != "" {
		if err := os.WriteFile(o.out, nil, 0o644); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	for _, q := range chosen {
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s: %s\n", q.name, q.title)
		text, err := q.ask(ctx, l, o)
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		conditions, err := l.conditions(ctx, o, began)
		if err != nil {
			return err
		}
		text = "### " + q.title + "\n\n" + text + "\n" + conditions
		if err := o.write(q.name, text); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

func newRebuild() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Compute the aggregates anew beside the live ones, and exchange them",
		Long: `rebuild computes a new generation of the contributions that welfare.supply_demand is made of,
beside the live one, while loaders and planners go on. When it is what the stored facts say,
the two are exchanged at once. The old generation stays, is kept up, and rollback brings
it back, until drop removes it. Rows are not touched: replay restores those. Facts are, with
--facts: they are made of the rows.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRebuildAggregates(), newRebuildStatus(),
		newRebuildStep("swap", "Make the generation live that was built with --no-swap", "the generation that was built is live",
			func(cmd *cobra.Command, a *aggregate.Aggregator) error { return a.Swap(cmd.Context()) }),
		newRebuildStep("rollback", "Make the generation live again that was live before", "the generation that was live before is live again",
			func(cmd *cobra.Command, a *aggregate.Aggregator) error { return a.RollBack(cmd.Context()) }),
		newRebuildStep("drop", "Remove the generation that is not live", "the generation that was not live is removed",
			func(cmd *cobra.Command, a *aggregate.Aggregator) error { return a.Drop(cmd.Context()) }))
	return cmd
}

// withAggregates calls do with an aggregator of the ClickHouse that the flags name.
func withAggregates(cmd *cobra.Command, cf *clickhouseFlags, do func(*aggregate.Aggregator) error) error {
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
	return rebuildError(do(aggregate.New(aggregate.Options{DB: db.Conn(), Logger: log})))
}

// rebuildError says what to do about an error.
func rebuildError(err error) error {
	switch {
	case errors.Is(err, aggregate.ErrGeneration):
		return fmt.Errorf("%w; welfarehub rebuild status shows it, welfarehub rebuild drop removes it", err)
	case errors.Is(err, aggregate.ErrUnfinished):
		return fmt.Errorf("%w; welfarehub rebuild drop removes it, then begin again", err)
	}
	return err
}

func newRebuildAggregates() *cobra.Command {
	var (
		cf     clickhouseFlags
		facts  bool
		noSwap bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "aggregates",
		Short: "Build, compare with the live generation, and exchange",
		Long: `aggregates builds a new generation from the facts up to where the live one stands, lets the
cycles of the loaders keep it up, goes over all groups until nothing is left to correct,
says which cells the live generation has other figures of (the first 20), and exchanges
the two. With --no-swap it stops before that, and swap does it later. With --facts it first
compares the facts with the rows that they are made of, stores those that are missing or
changed anew, and removes those that no row says.`,
		Example: `  welfarehub rebuild aggregates --clickhouse-dsn clickhouse://hub:secret@127.0.0.1:9000/`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAggregates(cmd, &cf, func(a *aggregate.Aggregator) error {
				var mended []aggregate.Misfit
				if facts {
					var err error
					if mended, err = a.MendFacts(cmd.Context()); err != nil {
						return err
					}
				}
				bar := newProgress(cmd.ErrOrStderr())
				r, err := a.Rebuild(cmd.Context(), func(done, total uint64) { bar.show("facts", int64(done), int64(total)) })
				bar.stop()
				if err != nil {
					return err
				}
				if !noSwap {
					if err := a.Swap(cmd.Context()); err != nil {
						return err
					}
				}
				return writeRebuilt(cmd.OutOrStdout(), mended, r, !noSwap, asJSON)
			})
		},
	}
	cf.add(cmd.Flags())
	cmd.Flags().BoolVar(&facts, "facts", false, "mend the facts first, out of the stored rows")
	cmd.Flags().BoolVar(&noSwap, "no-swap", false, "build and compare only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func writeRebuilt(w io.Writer, mended []aggregate.Misfit, r *aggregate.Rebuilt, swapped, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			*aggregate.Rebuilt
			Mended []aggregate.Misfit `json:"mended,omitempty"`
			Live   bool               `json:"live"`
		}{r, mended, swapped})
	}
	var b strings.Builder
	for _, m := range mended {
		fmt.Fprintf(&b, "mended %s/%d [%d, %d) %s\n", m.Topic, m.Partition, m.From, m.To, &m)
	}
	fmt.Fprintf(&b, "generation %d: %d contributions in %d passes, in %s\n", r.Generation, r.Cells, r.Passes, r.Took.Round(time.Millisecond))
	about := ""
	if !r.Exact && r.Differing > 0 {
		about = ", or less: cycles came in between"
	}
	fmt.Fprintf(&b, "%d cells differ from those that were live%s\n", r.Differing, about)
	for _, c := range r.First {
		fmt.Fprintf(&b, "  %s %s %s %s %s: %s\n", c.Month, orDash(c.Comune), orDash(c.Nomenclature), orDash(c.Area), orDash(c.Unit), strings.Join(c.Changes, ", "))
	}
	if swapped {
		b.WriteString("it is live; welfarehub rebuild rollback brings the old one back, welfarehub rebuild drop removes that\n")
	} else {
		b.WriteString("it is not live yet: welfarehub rebuild swap\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newRebuildStatus() *cobra.Command {
	var (
		cf     clickhouseFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the generations that there are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAggregates(cmd, &cf, func(a *aggregate.Aggregator) error {
				all, err := a.Generations(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					enc := json.NewEncoder(cmd.OutOrStdout())
					enc.SetIndent("", "  ")
					return enc.Encode(all)
				}
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
				fmt.Fprintln(t, "generation\tstate\toffsets\trows\t")
				for _, g := range all {
					fmt.Fprintf(t, "%d\t%s\t%d\t%d\t\n", g.Number, g.State, g.Offsets, g.Rows)
				}
				return t.Flush()
			})
		},
	}
	cf.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func newRebuildStep(use, short, done string, do func(*cobra.Command, *aggregate.Aggregator) error) *cobra.Command {
	var cf clickhouseFlags
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAggregates(cmd, &cf, func(a *aggregate.Aggregator) error {
				if err := do(cmd, a); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), done)
				return err
			})
		},
	}
	cf.add(cmd.Flags())
	return cmd
}

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/producers/simulate"
	"github.com/welfarehub/welfarehub/producers/simulate/compare"
)

// runOnce publishes --once messages, waits until the hub has accounted for each, and compares all of it
// with the simulator's truth: books by topic and code, records in force, every cell of supply_demand.
func (h *hub) runOnce(ctx context.Context) error {
	var known uint64
	if err := h.db.Scan(ctx, "SELECT sum(read) FROM welfare.ledger", nil, &known); err != nil {
		return err
	}
	if known > 0 {
		return &exitError{exitUsage, fmt.Errorf("--once compares the whole hub with the simulation, and %s holds %d records already; give an empty folder with --data", h.f.data, known)}
	}
	cfg := h.withIDs(h.f.sim.config())
	cfg.Count, cfg.Truth, cfg.Reference = h.f.once, true, model.Shipped()
	start, err := time.Parse(time.DateOnly, defaultStart)
	if err != nil {
		return err
	}
	cfg.Start = start
	sim := simulate.New(cfg)
	began := time.Now()
	if err := h.step(ctx, "simulation", func(ctx context.Context) error { return h.simulate(ctx, sim) }); err != nil {
		return err
	}
	truth := sim.Truth()
	if err := h.step(ctx, "loading", func(ctx context.Context) error { return h.awaitRead(ctx, truth) }); err != nil {
		return err
	}
	if err := h.step(ctx, "aggregating", h.awaitAggregates); err != nil {
		return err
	}
	took := time.Since(began)
	if err := h.printBooks(ctx); err != nil {
		return err
	}
	var wrong []string
	if err := h.step(ctx, "comparison", func(ctx context.Context) error {
		report, err := compare.Stored(ctx, h.db, truth)
		wrong = report.Lines
		return err
	}); err != nil {
		return err
	}
	if len(wrong) > 0 {
		const shown = 20
		for _, w := range wrong[:min(len(wrong), shown)] {
			fmt.Fprintln(h.out, "  DIFFERS", w)
		}
		fmt.Fprintf(h.out, "%d differences to the simulator's truth\n", len(wrong))
		return &exitError{code: exitUnbalanced}
	}
	fmt.Fprintf(h.out, "%d messages in %.1f s: all accounted for, %d cells of supply_demand equal to the simulator's truth\n", h.f.once, took.Seconds(), len(truth.SupplyDemand))
	return nil
}

// poll asks done every quarter of a second until it says so.
func (h *hub) poll(ctx context.Context, done func() (bool, error)) error {
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-h.failed:
			return err
		case <-t.C:
		}
	}
}

func (h *hub) awaitRead(ctx context.Context, truth simulate.Truth) error {
	want := 0
	for _, t := range truth.Topics {
		want += t.Sent
	}
	return h.poll(ctx, func() (bool, error) {
		var read uint64
		err := h.db.Scan(ctx, "SELECT sum(read) FROM welfare.ledger", nil, &read)
		return read >= uint64(want), err
	})
}

func (h *hub) awaitAggregates(ctx context.Context) error {
	return h.poll(ctx, func() (bool, error) {
		var behind uint64
		err := h.db.Scan(ctx, "SELECT count() FROM welfare.freshness WHERE aggregated_to < ledgered_to OR settled_to < ledgered_to", nil, &behind)
		return behind == 0, err
	})
}

// printBooks prints the books of each topic.
func (h *hub) printBooks(ctx context.Context) error {
	books, err := compare.Books(ctx, h.db)
	if err != nil {
		return err
	}
	fmt.Fprintf(h.out, "\n  %-30s %9s = %9s + %9s + %9s\n", "topic", "read", "loaded", "duplicate", "rejected")
	for _, topic := range slices.Sorted(maps.Keys(books)) {
		b := books[topic]
		fmt.Fprintf(h.out, "  %-30s %9d = %9d + %9d + %9d\n", topic, b.Read, b.Loaded, b.Duplicate, b.Rejected)
	}
	fmt.Fprintln(h.out)
	return nil
}

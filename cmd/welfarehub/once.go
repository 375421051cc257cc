package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/producers/simulate"
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
	var wrong []string
	if err := h.step(ctx, "comparison", func(ctx context.Context) error {
		for _, compare := range []func(context.Context, simulate.Truth) ([]string, error){h.compareBooks, h.compareCurrent, h.compareCells} {
			found, err := compare(ctx, truth)
			if err != nil {
				return err
			}
			wrong = append(wrong, found...)
		}
		return nil
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

// compareBooks prints the books of each topic and returns where they differ from the truth.
func (h *hub) compareBooks(ctx context.Context, truth simulate.Truth) ([]string, error) {
	rows, err := h.db.Conn().Query(ctx, "SELECT topic, sum(read), sum(loaded), sum(duplicate), sum(rejected), sum(erased) FROM welfare.books GROUP BY topic ORDER BY topic")
	if err != nil {
		return nil, fmt.Errorf("read the books: %w", err)
	}
	defer rows.Close()
	var wrong []string
	seen := map[string]bool{}
	fmt.Fprintf(h.out, "\n  %-30s %9s = %9s + %9s + %9s\n", "topic", "read", "loaded", "duplicate", "rejected")
	for rows.Next() {
		var topic string
		var read, loaded, duplicate, rejected, erased uint64
		if err := rows.Scan(&topic, &read, &loaded, &duplicate, &rejected, &erased); err != nil {
			return nil, err
		}
		fmt.Fprintf(h.out, "  %-30s %9d = %9d + %9d + %9d\n", topic, read, loaded, duplicate, rejected)
		if read != loaded+duplicate+rejected {
			wrong = append(wrong, topic+": the ends do not sum to what was read")
		}
		t := truth.Topics[topic]
		seen[topic] = true
		refused := 0
		for _, n := range t.Rejected {
			refused += n
		}
		if int(read) != t.Sent || int(loaded) != t.Loaded || int(duplicate) != t.Duplicate || int(rejected) != refused || int(erased) != t.Erased {
			wrong = append(wrong, fmt.Sprintf("%s: want read %d, loaded %d (%d of them erased), duplicate %d, rejected %d; erased are %d", topic, t.Sent, t.Loaded, t.Erased, t.Duplicate, refused, erased))
		}
	}
	fmt.Fprintln(h.out)
	for topic := range truth.Topics {
		if !seen[topic] {
			wrong = append(wrong, topic+": not in the books")
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	codes, err := h.compareCodes(ctx, truth)
	return append(wrong, codes...), err
}

func (h *hub) compareCodes(ctx context.Context, truth simulate.Truth) ([]string, error) {
	want := map[string]int{}
	for topic, t := range truth.Topics {
		for code, n := range t.Rejected {
			want[topic+" "+code] = n
		}
	}
	rows, err := h.db.Conn().Query(ctx, "SELECT concat(topic, ' ', code) AS k, count() FROM welfare.rejected GROUP BY k")
	if err != nil {
		return nil, fmt.Errorf("read the rejects: %w", err)
	}
	defer rows.Close()
	got := map[string]int{}
	for rows.Next() {
		var k string
		var n uint64
		if err := rows.Scan(&k, &n); err != nil {
			return nil, err
		}
		got[k] = int(n)
	}
	var wrong []string
	for k := range union(want, got) {
		if want[k] != got[k] {
			wrong = append(wrong, fmt.Sprintf("%s: %d rejected, want %d", k, got[k], want[k]))
		}
	}
	sort.Strings(wrong)
	return wrong, rows.Err()
}

func union[K comparable, V, W any](a map[K]V, b map[K]W) map[K]bool {
	out := map[K]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// compareCurrent compares the records in force by number and by an order-free checksum of their contents.
func (h *hub) compareCurrent(ctx context.Context, truth simulate.Truth) ([]string, error) {
	var wrong []string
	for _, t := range event.Types {
		var n, sum uint64
		q := fmt.Sprintf("SELECT count(), sum(reinterpretAsUInt64(reverse(substring(_content_hash, 1, 8)))) FROM store.%[1]s WHERE _end = 'loaded' AND (_partition, _offset) IN (SELECT _partition, _offset FROM welfare.%[1]s_current)", t.Table)
		if err := h.db.Scan(ctx, q, nil, &n, &sum); err != nil {
			return nil, err
		}
		want := truth.Topics[t.Topic]
		if int(n) != want.Current || sum != want.Checksum {
			wrong = append(wrong, fmt.Sprintf("%s_current: %d records, checksum %016x; want %d, %016x", t.Table, n, sum, want.Current, want.Checksum))
		}
	}
	return wrong, nil
}

func (h *hub) compareCells(ctx context.Context, truth simulate.Truth) ([]string, error) {
	rows, err := h.db.Conn().Query(ctx, `SELECT level, territory_code, nomenclature_code, user_area, toString(period_start), unit,
	toInt64(capacity * 1000), toInt64(occupied * 1000), toInt64(requests), toInt64(granted), toInt64(refused), toInt64(waiting),
	toInt64(delivered_units * 1000), toInt64(amount * 100), population FROM welfare.supply_demand`)
	if err != nil {
		return nil, fmt.Errorf("read supply_demand: %w", err)
	}
	defer rows.Close()
	type cell struct {
		model.Measures
		population string
	}
	show := func(p *int64) string {
		if p == nil {
			return "NULL"
		}
		return fmt.Sprint(*p)
	}
	got := map[model.Key]cell{}
	for rows.Next() {
		var k model.Key
		var m model.Measures
		var population *int64
		if err := rows.Scan(&k.Level, &k.Territory, &k.Nomenclature, &k.UserArea, &k.PeriodStart, &k.Unit,
			&m.Capacity, &m.Occupied, &m.Requests, &m.Granted, &m.Refused, &m.Waiting, &m.DeliveredUnits, &m.Amount, &population); err != nil {
			return nil, err
		}
		got[k] = cell{m, show(population)}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	var wrong []string
	for _, r := range truth.SupplyDemand {
		c, ok := got[r.Key]
		if want := (cell{r.Measures, show(r.Population)}); !ok || c != want {
			wrong = append(wrong, fmt.Sprintf("%s: %+v, want %+v", cellName(r.Key), c, want))
		}
		delete(got, r.Key)
	}
	for _, k := range slices.SortedFunc(maps.Keys(got), func(a, b model.Key) int { return strings.Compare(cellName(a), cellName(b)) }) {
		wrong = append(wrong, fmt.Sprintf("%s: %+v, want no row", cellName(k), got[k]))
	}
	return wrong, nil
}

func cellName(k model.Key) string {
	return strings.Join([]string{k.Level, k.Territory, k.Nomenclature, k.UserArea, k.PeriodStart, k.Unit}, " ")
}

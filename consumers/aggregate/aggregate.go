// Package aggregate keeps welfare.supply_demand equal to what the loaded events say. It promises that
// each cell is a function of the records in force, whatever the order, batching and repetition of
// their arrival, and that a crash or a second aggregator at any point changes nothing.
//
// A cycle takes the blocks that the ledger has gained, finds the groups that they touch (all facts of
// one request, benefit, offer, or the population of one territory), computes what those groups add to
// the cells now, and inserts the difference to what is stored together with the positions it has come
// to: one block, one token, one part.
//
// An aggregator remembers which groups and records there are, and the state of those touched last, so that
// it looks up little: docs/decisions/0004-what-an-aggregator-remembers.md says why that is as exact. What
// it remembers is never more than a saving: a cycle without it looks everything up, and does the same.
package aggregate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/fault"
	"github.com/welfarehub/welfarehub/pkg/metrics"
)

// Options of an Aggregator. DB is required, the rest has defaults.
type Options struct {
	DB     driver.Conn
	Logger *zap.Logger
	// Metrics take what is measured. Default: nothing is.
	Metrics *metrics.Aggregate
	// Interval is the pause between cycles when the ledger has nothing new. Default 200 ms.
	Interval time.Duration
	// MaxRecords bounds the records of a cycle, give or take a block. Default 200,000.
	MaxRecords uint64
	// MaxMemory bounds the engine's memory for each query, in bytes; grouping spills at half of it. Default 2 GiB.
	MaxMemory uint64
	// HealAfter is how long a cycle waits for facts of a block that is in the ledger already, before it
	// restores them itself from the stored rows. Default 2 s.
	HealAfter time.Duration
	// SweepEvery is how often the rows of erased subjects are removed at most: each removal rewrites
	// parts, so it pays to gather them. Cells leave them out at once. Default 0: as soon as may be.
	SweepEvery time.Duration
	// PurgeEvery is how often Run takes the bytes of removed rows off the disk, which rewrites whole
	// parts; the first time after a minute at most. Default 0: never, merges do it in time.
	PurgeEvery time.Duration

	// fail is called after each step; tests inject errors by it.
	fail func(step string) error
	// states is maxStates; tests keep fewer.
	states int
}

// Stats tell what a cycle did.
type Stats struct {
	Cycle      uint64        // number of the cycle, from 1; 0 where nothing was to do
	Records    uint64        // records of the ledger that it took
	Groups     int           // groups computed
	Superseded int           // events that lost against a copy in another partition
	Erased     int           // rows of erased subjects found
	Healed     uint64        // facts that a block lacked and that were restored
	More       bool          // the ledger has more
	Took       time.Duration // wall time
	Steps      Steps         // of it, by step
}

// Steps is how long the steps of a cycle took.
type Steps struct{ Plan, Settle, Erase, Touch, Insert, Sweep time.Duration }

// Aggregator runs cycles. Not safe for concurrent use; several, in one or more processes, may work on
// one database: they do no harm, and no good.
type Aggregator struct {
	opts     Options
	log      *zap.Logger
	sources  map[uint8]string // by event number: SELECT that makes facts of stored rows
	sweepAll bool             // removals of an earlier life may be unfinished
	pending  bool             // removals are due
	erasing  bool             // there are erasures
	memory   *memory          // nil: none, all is looked up
	by       int64            // the number of the last attempt
	rival    rival

	memorized  time.Time     // when the memory was made last
	memorizing time.Duration // how long that took
	sweptAt    time.Time
	apart      chan struct{} // Run removes beside the cycles: it is told here that removals are due
}

// New returns an Aggregator. It does not touch the database.
func New(o Options) *Aggregator {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Interval <= 0 {
		o.Interval = 200 * time.Millisecond
	}
	if o.MaxRecords == 0 {
		o.MaxRecords = 200_000
	}
	if o.MaxMemory == 0 {
		o.MaxMemory = 2 << 30
	}
	if o.HealAfter == 0 {
		o.HealAfter = 2 * time.Second
	}
	if o.states == 0 {
		o.states = maxStates
	}
	if o.fail == nil {
		o.fail = func(step string) error { fault.At("aggregate", step); return nil }
	}
	return &Aggregator{opts: o, log: o.Logger, sweepAll: true}
}

// Run runs cycles until ctx ends, and returns nil then. Errors of a cycle are logged and retried, ever
// more slowly up to 30 s.
func (a *Aggregator) Run(ctx context.Context) error {
	a.apart = make(chan struct{}, 1)
	a.apart <- struct{}{} // removals of an earlier life may be unfinished
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		a.runSweeps(ctx)
	}()
	defer func() { <-swept }()
	var delay time.Duration
	for {
		stats, err := a.Cycle(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			delay = min(max(2*delay, a.opts.Interval), 30*time.Second)
			a.opts.Metrics.Failed("cycle")
			a.log.Error("aggregate: cycle failed, trying again", zap.Error(err), zap.Duration("in", delay))
		case stats.More:
			delay = 0
		default:
			delay = a.opts.Interval
		}
		if err == nil {
			a.measure(&stats)
		}
		if err == nil && stats.Cycle > 0 {
			a.log.Debug("aggregate: cycle", zap.Uint64("cycle", stats.Cycle), zap.Uint64("records", stats.Records),
				zap.Int("groups", stats.Groups), zap.Duration("took", stats.Took), zap.Duration("plan", stats.Steps.Plan),
				zap.Duration("settle", stats.Steps.Settle), zap.Duration("erase", stats.Steps.Erase), zap.Duration("touch", stats.Steps.Touch),
				zap.Duration("insert", stats.Steps.Insert))
		}
		if delay == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// runSweeps does step (g), and purges, beside the cycles until ctx ends: a removal can wait for merges for
// seconds, and no cell depends on it.
func (a *Aggregator) runSweeps(ctx context.Context) {
	beside := New(a.opts)
	asked := a.apart
	var wait, purge <-chan time.Time
	if a.opts.PurgeEvery > 0 {
		purge = time.After(min(a.opts.PurgeEvery, time.Minute))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait:
			asked, wait = a.apart, nil
		case <-asked:
			if err := a.timed("sweep", func() error { return beside.sweepNow(ctx) }); err != nil && ctx.Err() == nil {
				a.opts.Metrics.Failed("sweep")
				a.log.Error("aggregate: removal of erased rows failed, trying again", zap.Error(err))
				a.sweepLater()
			}
			asked, wait = nil, time.After(max(a.opts.SweepEvery, time.Second))
		case <-purge:
			if err := a.timed("purge", func() error { return beside.purge(ctx) }); err != nil && ctx.Err() == nil {
				a.opts.Metrics.Failed("purge")
				a.log.Error("aggregate: bytes of erased rows not purged, trying again", zap.Error(err), zap.Duration("in", a.opts.PurgeEvery))
			}
			purge = time.After(a.opts.PurgeEvery)
		}
	}
}

// sweepLater asks for removals.
func (a *Aggregator) sweepLater() {
	select {
	case a.apart <- struct{}{}:
	default: // asked for already
	}
}

// sweepNow does step (g) by itself.
func (a *Aggregator) sweepNow(ctx context.Context) error {
	if err := a.loadSources(ctx); err != nil {
		return err
	}
	both, err := a.readPair(ctx)
	if err != nil {
		return err
	}
	a.sweepAll = true
	return a.sweep(ctx, both.base().positions)
}

// Cycle does one cycle. When it fails it can be repeated, by this or another Aggregator: each step
// finds again what it found, and nothing counts before the insert of step (f).
func (a *Aggregator) Cycle(ctx context.Context) (Stats, error) {
	start := time.Now()
	stats, err := a.cycle(ctx)
	stats.Took = time.Since(start)
	if err != nil {
		a.memory.forget()
		a.sweepAll, a.pending = true, true // what was found and not removed is found by a full search
	}
	return stats, err
}

func (a *Aggregator) cycle(ctx context.Context) (Stats, error) {
	var stats Stats
	begin := time.Now()
	lap := func(d *time.Duration) {
		*d = time.Since(begin)
		begin = time.Now()
	}
	if err := a.loadSources(ctx); err != nil {
		return stats, err
	}
	// (a) How far we are.
	both, err := a.readPair(ctx)
	if err != nil {
		return stats, err
	}
	if a.apart != nil && a.rival.leads(both.live, both.live.by == a.by, time.Now()) {
		return stats, nil
	}
	books := both.base()
	// (b) What is new. The horizon moves with the ledger only, so without news nothing falls due either.
	batch, err := a.plan(ctx, books)
	if err != nil {
		return stats, err
	}
	if batch.empty() {
		if a.apart != nil {
			return stats, nil
		}
		return stats, a.sweep(ctx, books.positions)
	}
	lap(&stats.Steps.Plan)
	a.by = batch.by
	stats.Cycle, stats.Records, stats.More = books.cycle+1, batch.records, batch.more
	work := newWork()
	if work.memory, err = a.remember(ctx, both); err != nil {
		return stats, err
	}

	// (e) Facts of the new rows, which need nothing of (c) and (d).
	feeding := a.beginFeed(ctx, books, batch, work)
	defer feeding.cancel()
	// (c) Copies of one event that raced in two partitions.
	if stats.Superseded, err = a.settle(ctx, batch, work); err != nil {
		return stats, err
	}
	lap(&stats.Steps.Settle)
	if err := a.opts.fail("settle"); err != nil {
		return stats, err
	}
	// (d) Rows of erased subjects: found and marked here, removed in (g), when the cells no longer need them.
	if stats.Erased, err = a.erase(ctx, batch, work); err != nil {
		return stats, err
	}
	lap(&stats.Steps.Erase)
	if err := a.opts.fail("erase"); err != nil {
		return stats, err
	}
	rows, err := feeding.wait()
	if err != nil {
		return stats, err
	}
	if err := a.opts.fail("feed"); err != nil {
		return stats, err
	}
	// And the groups that any of it touches.
	if work.memory != nil {
		stats.Healed, err = a.touchKnown(ctx, work.memory, books, batch, work, rows)
	} else {
		stats.Healed, err = a.touch(ctx, books, batch, work)
	}
	if err != nil {
		return stats, err
	}
	stats.Groups = len(work.groups) + len(work.parts)
	lap(&stats.Steps.Touch)
	if err := a.opts.fail("touch"); err != nil {
		return stats, err
	}
	// (f) The difference, the positions and the number of the cycle, at once.
	if err := a.insert(ctx, both.live, batch, work); err != nil {
		return stats, err
	}
	if err := a.opts.fail("insert"); err != nil {
		return stats, err
	}
	if both.beside != nil {
		if err := a.insertBeside(ctx, both.beside, batch, work); err != nil {
			return stats, err
		}
		if err := a.opts.fail("beside"); err != nil {
			return stats, err
		}
	}
	if work.memory != nil {
		work.memory.learn(both.live, batch, work)
	}
	lap(&stats.Steps.Insert)
	// (g) The removal of what (d) marked.
	if a.apart != nil {
		if a.pending {
			a.sweepLater()
			a.pending = false
		}
		return stats, nil
	}
	if both, err = a.readPair(ctx); err != nil { // what was inserted may have come second, and counted for nothing
		return stats, err
	}
	err = a.sweep(ctx, both.base().positions)
	lap(&stats.Steps.Sweep)
	return stats, err
}

// settings bound each query.
func (a *Aggregator) settings() clickhouse.Settings {
	return clickhouse.Settings{
		"max_memory_usage":                   a.opts.MaxMemory,
		"max_bytes_before_external_group_by": a.opts.MaxMemory / 2,
		"max_query_size":                     64 << 20, // positions are named one by one
		"max_ast_elements":                   1_000_000,
		"max_expanded_ast_elements":          5_000_000,
	}
}

func (a *Aggregator) query(ctx context.Context, query string, opts ...clickhouse.QueryOption) (driver.Rows, error) {
	opts = append([]clickhouse.QueryOption{clickhouse.WithSettings(a.settings())}, opts...)
	return a.opts.DB.Query(clickhouse.Context(ctx, opts...), query)
}

func (a *Aggregator) exec(ctx context.Context, query string) error {
	settings := a.settings()
	settings["async_insert"] = 0
	return a.opts.DB.Exec(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), query)
}

// loadSources reads the SELECTs of the views that feed facts and revocations: whoever looks rows up by
// position, or restores facts, makes them as the views do.
func (a *Aggregator) loadSources(ctx context.Context) error {
	if a.sources != nil {
		return nil
	}
	rows, err := a.query(ctx, `SELECT name, as_select FROM system.tables WHERE database = 'store' AND engine = 'View'
		AND (name LIKE 'facts_of_%' OR name = 'records_of_revocations')`)
	if err != nil {
		return fmt.Errorf("read views of store.facts: %w", err)
	}
	defer rows.Close()
	sources := map[uint8]string{}
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			return fmt.Errorf("read views of store.facts: %w", err)
		}
		for no, view := range factViews {
			if view == name {
				sources[no] = text
			}
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read views of store.facts: %w", err)
	}
	if len(sources) != len(factViews) {
		return fmt.Errorf("read views of store.facts: found %d of %d: is the schema migrated?: %w", len(sources), len(factViews), errNoViews)
	}
	a.sources = sources
	return nil
}

// factViews name the view that makes facts, or for revocations records, of each event that counts.
var factViews = map[uint8]string{
	1: "facts_of_offer", 2: "facts_of_capacity", 3: "facts_of_request", 4: "facts_of_assessment",
	5: "facts_of_waiting", 6: "facts_of_benefit", 7: "facts_of_delivery", 9: "facts_of_population",
	revocation: "records_of_revocations",
}

const (
	offer      = 1
	population = 9
	revocation = 15
	erasure    = 16
)

// typeOf returns the event of a number of the catalogue.
func typeOf(no uint8) *event.Type { return event.Types[no-1] }

// sorted returns the keys of a map in their order, so that queries are the same for the same state.
func sorted[V any](m map[uint8]V) []uint8 {
	out := make([]uint8, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/registry"
)

// kindKafkaEngine is the contestant that is no process.
const kindKafkaEngine = "Kafka engine"

// question is one section of the results.
type question struct {
	name, title string
	ask         func(ctx context.Context, l *lab, o *options) (string, error)
}

// questions are in the order of the results.
var questions = []question{
	{"peers", "Ours and its peers: one event, 8 partitions", askPeers},
	{"limits", "The limits: each step alone", askLimits},
	{"mixed", "All 16 events, with corrections, revocations, erasures and rejects", askMixed},
	{"lasting", "Lasting: merges settled, without and with the aggregates", askLasting},
	{"latency", "Event to queryable at a steady rate", askLatency},
	{"dedup", "The filter of ids: memory and time per id", askDedup},
	{"replay", "A full replay: all events are duplicates", askReplay},
	{"partitions", "1, 4 and 16 partitions", askPartitions},
	{"loaders", "1 to 3 loaders", askLoaders},
}

const usualPartitions = 8

// usualDuplicates is the share where a question does not say otherwise.
const usualDuplicates = 0.05

// publishNew starts a Kafka and fills it.
func (l *lab) publishNew(ctx context.Context, d *dataset) (expected, error) {
	if err := l.startKafka(ctx, d.partitions, 1); err != nil {
		return expected{}, err
	}
	return l.publish(ctx, d, 0, d.events)
}

func (l *lab) publish(ctx context.Context, d *dataset, from, to int) (expected, error) {
	began := time.Now()
	w := l.writer()
	defer w.Close()
	e, err := d.publish(ctx, w, l.ids[requested.Topic+"-value"], from, to)
	if err != nil {
		return e, err
	}
	l.progress("published %d records, values of %d bytes, in %.1f s", e.records.rows, e.bytes/int64(e.records.rows), time.Since(began).Seconds())
	return e, nil
}

// spec is what every contestant needs.
func (l *lab) spec(kind string, d *dataset) spec {
	return spec{
		Kind: kind, Brokers: l.cluster.Brokers, DSN: l.engine.DSN(), Registry: l.registry, OutcomeID: l.ids[registry.OutcomeSubject],
		Group: l.group(strings.Fields(kind)[0]), Partitions: d.partitions, Events: d.events,
	}
}

func (l *lab) oursSpec(o *options, d *dataset) spec {
	s := l.spec(kindOurs, d)
	s.Block, s.BlockBytes, s.FlushAge, s.Profile = o.block, o.blockBytes, o.flushAge, o.profile
	return s
}

// raceOurs loads a log by n loaders into empty tables, and checks them.
func (l *lab) raceOurs(ctx context.Context, o *options, d *dataset, e *expected, share string, n int) (result, error) {
	if err := l.emptyStore(ctx); err != nil {
		return result{}, err
	}
	specs := []spec{l.oursSpec(o, d)}
	for len(specs) < n {
		specs = append(specs, specs[0])
	}
	r, err := l.race(ctx, result{contestant: kindOurs, terms: "store", share: share, records: d.events}, specs...)
	if err != nil {
		return r, err
	}
	l.tell(&r)
	return r, l.checkOurs(ctx, e.distinct, e.records.rows-e.distinct.rows)
}

// racePeer loads a log by a peer into a new table, and checks it.
func (l *lab) racePeer(ctx context.Context, d *dataset, e *expected, kind, share string, t *terms) (result, error) {
	if err := l.createPeerTable(ctx, t); err != nil {
		return result{}, err
	}
	r := result{contestant: kind, terms: t.name, share: share, records: d.events}
	var err error
	if kind == kindKafkaEngine {
		r, err = l.raceKafkaEngine(ctx, r, t, d.partitions)
	} else {
		s := l.spec(kind, d)
		s.Table, s.Bytes, s.Block, s.OnInsert = peerTable, t.ours, t.plain, t.onInsert
		r, err = l.race(ctx, r, s)
	}
	if err != nil {
		return r, err
	}
	l.tell(&r)
	if t.ours {
		return r, l.check(ctx, peerTable, "1", true, e.records)
	}
	return r, l.check(ctx, peerTable+" FINAL", "1", false, e.distinct)
}

// check compares a table with what was published.
func (l *lab) check(ctx context.Context, from, where string, bytes bool, want sums) error {
	var got sums
	if err := l.db.Scan(ctx, "SELECT count(), sum(halfMD5("+canonicalSQL(bytes)+")) FROM "+from+" WHERE "+where, nil, &got.rows, &got.sum); err != nil {
		return fmt.Errorf("check %s: %w", from, err)
	}
	if got != want {
		return fmt.Errorf("check %s: %d rows of sum %x, want %d of %x", from, got.rows, got.sum, want.rows, want.sum)
	}
	return nil
}

// checkOurs compares the rows, their ends and the ledger with what was published.
func (l *lab) checkOurs(ctx context.Context, loaded sums, duplicates uint64) error {
	if err := l.check(ctx, "store."+requested.Table, "_end = 'loaded'", true, loaded); err != nil {
		return err
	}
	return l.checkLedger(ctx, [3]uint64{loaded.rows, duplicates, 0})
}

// checkLedger compares the ends of all records: loaded, duplicate, rejected.
func (l *lab) checkLedger(ctx context.Context, want [3]uint64) error {
	var got [3]uint64
	if err := l.db.Scan(ctx, "SELECT sum(loaded), sum(duplicate), sum(rejected) FROM welfare.ledger", nil, &got[0], &got[1], &got[2]); err != nil {
		return fmt.Errorf("check the ledger: %w", err)
	}
	if got != want {
		return fmt.Errorf("check the ledger: loaded, duplicate and rejected are %d, want %d", got, want)
	}
	return nil
}

func percent(share float64) string { return fmt.Sprintf("%g %% duplicates", share*100) }

func askPeers(ctx context.Context, l *lab, o *options) (string, error) {
	all := termsOf(o.peerBlock)
	var results []result
	var size int64
	for _, share := range o.duplicates {
		d := &dataset{seed: o.seed, events: o.events, duplicates: share, partitions: usualPartitions}
		e, err := l.publishNew(ctx, d)
		if err != nil {
			return "", err
		}
		size = e.bytes / int64(e.records.rows)
		for i := range max(o.repeats, o.peerRepeats) {
			if i < o.repeats {
				r, err := l.raceOurs(ctx, o, d, &e, percent(share), 1)
				if err != nil {
					return "", err
				}
				results = append(results, r)
			}
			for t := range all {
				if i >= o.peerRepeats {
					break
				}
				for _, kind := range []string{kindPlain, kindKafkaEngine} {
					r, err := l.racePeer(ctx, d, &e, kind, percent(share), &all[t])
					if err != nil {
						return "", err
					}
					results = append(results, r)
				}
			}
		}
	}
	return fmt.Sprintf(`%d ServiceRequested, values of %d bytes on the mean, 29 columns, %d partitions, lz4, with the CloudEvents headers of the contract.
Ours decodes, validates, finds duplicates, keeps ledger and ids, and publishes an outcome for each event; the peers do none of it.
Each has the time from the start of its process; ours joins all 16 topics, of which the 15 others have one partition and are empty.
"Our table and settings": a copy of the storage table without the columns of the protocol, optimize_on_insert = 0, blocks of %d rows.
"As users have it": LowCardinality, ReplacingMergeTree, default settings (save async_insert = 0, which suits the peers), batches of 100,000 (plain Go) and 1,048,576 (engine).
The Kafka engine has %d consumers with a thread each. Its figure is the best moment after 60 %% of the log: the last block waits for its flush interval of 7.5 s, which is not held against it.

`, o.events, size, usualPartitions, o.peerBlock, engineConsumers(usualPartitions)) + table(results) + ratios(results, all), nil
}

func askLimits(ctx context.Context, l *lab, o *options) (string, error) {
	d := &dataset{seed: o.seed, events: o.events, duplicates: usualDuplicates, partitions: usualPartitions}
	if _, err := l.publishNew(ctx, d); err != nil {
		return "", err
	}
	ours := termsOf(o.peerBlock)[0]
	var results []result
	for range o.repeats {
		for _, kind := range []string{kindFetch, kindFetchPlain, kindDecode, kindDecodePlain, kindInsert} {
			s := l.spec(kind, d)
			r := result{contestant: kind, terms: "all cores", records: d.events}
			switch kind {
			case kindDecode, kindDecodePlain:
				r.terms = "one core"
			case kindInsert:
				if err := l.copyStore(ctx); err != nil {
					return "", err
				}
				s.Table, s.Block, r.terms = peerTable, min(ours.plain, inMemory, o.events/2), "two connections, all columns, no views"
				r.records = d.events / s.Block / 2 * s.Block * 2
			}
			r, err := l.race(ctx, r, s)
			if err != nil {
				return "", err
			}
			l.tell(&r)
			results = append(results, r)
		}
	}
	return table(results), nil
}

// copyStore makes a table like the storage table, which no view reads.
func (l *lab) copyStore(ctx context.Context) error {
	for _, s := range []string{"CREATE DATABASE IF NOT EXISTS bench", "DROP TABLE IF EXISTS " + peerTable + " SYNC", "CREATE TABLE " + peerTable + " AS store." + requested.Table} {
		if err := l.db.Exec(ctx, s); err != nil {
			return fmt.Errorf("copy the storage table: %w", err)
		}
	}
	return nil
}

func askDedup(ctx context.Context, l *lab, o *options) (string, error) {
	d := &dataset{partitions: 1}
	if err := l.startKafka(ctx, 1, 1); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| ids | ns per new id | bytes per id: filter | process, at its peak | busy cores before |\n|---|---|---|---|---|\n")
	for _, n := range []int{10_000_000, 100_000_000} {
		d.events = n
		var runs []result
		for range o.repeats {
			r, err := l.race(ctx, result{contestant: kindFilter, records: n}, l.spec(kindFilter, d))
			if err != nil {
				return "", err
			}
			runs = append(runs, r)
		}
		g := group{runs: runs}
		fmt.Fprintf(&b, "| %d | %s | %.2f | %.2f | %.2f |\n", n, spread("%.1f", g.of(func(r *result) float64 { return float64(r.wall.Nanoseconds()) / float64(n) })),
			float64(runs[0].held)/float64(n), g.mid(func(r *result) float64 { return float64(r.peak) / float64(n) }),
			slices.Max(g.of(func(r *result) float64 { return r.busy })))
	}
	return b.String(), nil
}

func askPartitions(ctx context.Context, l *lab, o *options) (string, error) {
	var results []result
	for _, n := range []int{1, 4, 16} {
		d := &dataset{seed: o.seed, events: o.events, duplicates: usualDuplicates, partitions: n}
		e, err := l.publishNew(ctx, d)
		if err != nil {
			return "", err
		}
		for range o.repeats {
			r, err := l.raceOurs(ctx, o, d, &e, fmt.Sprintf("%d partitions", n), 1)
			if err != nil {
				return "", err
			}
			results = append(results, r)
		}
	}
	return table(results), nil
}

func askLoaders(ctx context.Context, l *lab, o *options) (string, error) {
	d := &dataset{seed: o.seed, events: o.events, duplicates: usualDuplicates, partitions: usualPartitions}
	e, err := l.publishNew(ctx, d)
	if err != nil {
		return "", err
	}
	var results []result
	for range o.repeats {
		for n := 1; n <= 3; n++ {
			r, err := l.raceOurs(ctx, o, d, &e, fmt.Sprintf("%d loaders", n), n)
			if err != nil {
				return "", err
			}
			results = append(results, r)
		}
	}
	return table(results), nil
}

// askReplay loads a log of different events, publishes all of it once more, and loads that.
func askReplay(ctx context.Context, l *lab, o *options) (string, error) {
	d := &dataset{seed: o.seed, events: o.long, partitions: usualPartitions}
	first, err := l.publishNew(ctx, d)
	if err != nil {
		return "", err
	}
	one, err := l.raceOurs(ctx, o, d, &first, "the first time", 1)
	if err != nil {
		return "", err
	}
	if _, err := l.publish(ctx, d, 0, d.events); err != nil {
		return "", err
	}
	two, err := l.race(ctx, result{contestant: kindOurs, terms: "store", share: "all again, by a new loader", records: d.events}, l.oursSpec(o, d))
	if err != nil {
		return "", err
	}
	l.tell(&two)
	if err := l.checkOurs(ctx, first.distinct, first.records.rows); err != nil {
		return "", err
	}
	return table([]result{one, two}), nil
}

// askLasting loads a long log until the merges have settled, then again with the aggregates beside, until
// supply_demand counts all requests.
func askLasting(ctx context.Context, l *lab, o *options) (string, error) {
	d := &dataset{seed: o.seed, events: o.long, duplicates: usualDuplicates, partitions: usualPartitions}
	e, err := l.publishNew(ctx, d)
	if err != nil {
		return "", err
	}
	apart, err := l.raceOurs(ctx, o, d, &e, "aggregates apart", 1)
	if err != nil {
		return "", err
	}
	if err := l.emptyStore(ctx); err != nil {
		return "", err
	}
	s := l.oursSpec(o, d)
	s.Kind = kindOursSummed
	r := result{contestant: kindOurs, terms: "store", share: "with the aggregates", records: d.events}
	var summed time.Duration
	r, err = l.raceThen(ctx, r, func(began time.Time) error {
		summed, err = l.awaitRequests(ctx, began, e.distinct.rows)
		return err
	}, s)
	if err != nil {
		return "", err
	}
	l.tell(&r)
	if err := l.checkOurs(ctx, e.distinct, e.records.rows-e.distinct.rows); err != nil {
		return "", err
	}
	return table([]result{apart, r}) + fmt.Sprintf("\nWith the aggregates, `welfare.supply_demand` counted all %d requests after %.1f s: %.0f thousand records/s; the CPU of the loader is to the last insert.\n",
		e.distinct.rows, summed.Seconds(), float64(d.events)/summed.Seconds()/1000), nil
}

// awaitRequests waits until supply_demand counts n requests.
func (l *lab) awaitRequests(ctx context.Context, began time.Time, n uint64) (time.Duration, error) {
	for {
		var got float64
		if err := l.db.Scan(ctx, "SELECT toFloat64(sum(requests)) FROM welfare.supply_demand WHERE level = 'COUNTRY'", nil, &got); err != nil {
			return 0, fmt.Errorf("ask supply_demand: %w", err)
		}
		took := time.Since(began)
		if uint64(got) == n {
			return took, nil
		}
		if took > patience {
			return 0, fmt.Errorf("supply_demand counts %.0f requests of %d after %s", got, n, patience)
		}
		time.Sleep(time.Second)
	}
}

// byTopic finds the schema ids that the simulator wants.
func (l *lab) byTopic() map[string]int {
	out := map[string]int{}
	for _, t := range event.Types {
		out[t.Topic] = l.ids[t.Topic+"-value"]
	}
	return out
}

package aggregate

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"golang.org/x/sync/errgroup"
)

// freshRows are the rows that a cycle takes, as facts, and the claims of revocations.
type freshRows struct {
	facts  []fact
	claims []claim
}

// claim is a row of a revocation: one for each record that it may concern.
type claim struct {
	rec, target id
	partition   uint32
	offset      uint64
}

// feeding is the making of facts, in the tables and in memory, beside other steps.
type feeding struct {
	stop  context.CancelFunc
	group *errgroup.Group
	rows  *freshRows
}

// beginFeed makes facts of the batch's rows; who remembers reads them too. The caller waits for it, or cancels it.
func (a *Aggregator) beginFeed(ctx context.Context, books *books, batch *batch, work *work) *feeding {
	ctx, stop := context.WithCancel(ctx)
	f := &feeding{stop: stop}
	f.group, ctx = errgroup.WithContext(ctx)
	f.group.Go(func() error { return a.feed(ctx, batch, fmt.Sprint(books.cycle+1)) })
	if work.memory != nil {
		f.group.Go(func() (err error) {
			f.rows, err = a.readFresh(ctx, batch)
			return err
		})
	}
	return f
}

// cancel leaves nothing that runs.
func (f *feeding) cancel() {
	f.stop()
	_ = f.group.Wait() // who waits for it has the error
}

// wait returns the rows, for who remembers.
func (f *feeding) wait() (*freshRows, error) { return f.rows, f.group.Wait() }

// readFresh makes facts of the batch's rows, as feed does, and reads them.
func (a *Aggregator) readFresh(ctx context.Context, batch *batch) (*freshRows, error) {
	out := &freshRows{}
	if ranges := batch.ranges(revocation, "partition", "offset"); ranges != "" {
		if err := a.readClaims(ctx, ranges, out); err != nil {
			return nil, err
		}
	}
	facts := a.factsOfRows(batch)
	if facts == "" {
		return out, nil
	}
	rows, err := a.query(ctx, "SELECT "+readColumns+" FROM (SELECT *, toUInt8(0) AS gone FROM ("+facts+"))")
	if err != nil {
		return nil, fmt.Errorf("read new rows: %w", err)
	}
	defer rows.Close()
	out.facts = make([]fact, 0, batch.records)
	scan := newFactScanner()
	for rows.Next() {
		out.facts = append(out.facts, fact{})
		if _, err := scan.scan(rows, &out.facts[len(out.facts)-1]); err != nil {
			return nil, fmt.Errorf("read new rows: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read new rows: %w", err)
	}
	sortByGroup(out.facts)
	return out, nil
}

func (a *Aggregator) readClaims(ctx context.Context, ranges string, out *freshRows) error {
	rows, err := a.query(ctx, fmt.Sprintf("SELECT reinterpretAsFixedString(rec), reinterpretAsFixedString(grp), partition, offset FROM (%s) WHERE %s AND revocation = 0",
		a.sources[revocation], ranges))
	if err != nil {
		return fmt.Errorf("read new revocations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var c claim
		if err := rows.Scan(&c.rec, &c.target, &c.partition, &c.offset); err != nil {
			return fmt.Errorf("read new revocations: %w", err)
		}
		out.claims = append(out.claims, c)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read new revocations: %w", err)
	}
	return nil
}

// part is what a group gains by new facts alone: all that it has, or what is added to a state that is known.
type part struct {
	facts []fact
	state state
	known bool
}

// touchKnown is step (e) for an aggregator that remembers. Groups that are new, and those of a known state to
// which facts are added, need no look-up; the others come into the work's groups as in touch.
func (a *Aggregator) touchKnown(ctx context.Context, m *memory, books *books, batch *batch, work *work, rows *freshRows) (healed uint64, err error) {
	offers := m.newOffers(rows)
	hot := m.meetAll(rows)
	for rec := range hot {
		work.records[rec] = true
	}
	m.sort(rows, hot, work)
	m.cover(batch.positions)
	if healed, err = a.awaitFacts(ctx, books, batch, rows); err != nil {
		return healed, err
	}
	if _, err := a.groupsOfRecords(ctx, batch, work); err != nil {
		return healed, err
	}
	if books.cycle > 0 && batch.now > books.now {
		if err := a.instantsDue(ctx, books, batch, work); err != nil {
			return healed, err
		}
	}
	if err := a.changedOffers(ctx, m, batch, work, offers); err != nil {
		return healed, err
	}
	for g := range work.groups {
		delete(work.parts, g)
	}
	return healed, nil
}

// newOffers are the new facts of offers that nothing is known of, and whether any fact named them before.
func (m *memory) newOffers(rows *freshRows) map[id]bool {
	out := map[id]bool{}
	for i := range rows.facts {
		if f := &rows.facts[i]; f.no == offer {
			out[f.grp] = m.named.Has((*[16]byte)(&f.grp))
		}
	}
	return out
}

// sort tells the groups of new rows apart: those that are computed by what is at hand come into the work's
// parts, the others into its groups.
func (m *memory) sort(rows *freshRows, hot map[id]bool, work *work) {
	for of := range eachGroup(rows.facts) {
		g := of[0].grp
		known := m.groups.TestAndAdd((*[16]byte)(&g))
		exact := work.groups[g]
		for i := range of {
			exact = exact || hot[of[i].rec]
		}
		p := part{facts: of, known: known}
		if known && !exact {
			var ok bool
			p.state, ok = m.states.get(g)
			exact = !ok || !p.state.takes(of)
		}
		if exact {
			for i := range of {
				work.add(g, of[i].no)
			}
			continue
		}
		if of[0].no == population {
			work.population = true
		}
		work.parts[g] = p
	}
}

// awaitFacts waits until the new rows are in store.facts and store.records, and restores them if they do not
// come. Facts are fed as one block, which begins where the books stand; so where the last row of a
// partition is there, all are; a tombstone, which is as early as its row is found, is no row.
func (a *Aggregator) awaitFacts(ctx context.Context, books *books, batch *batch, rows *freshRows) (healed uint64, err error) {
	last, n, err := lastRows(rows)
	if err != nil || n == 0 {
		return 0, err
	}
	return a.untilFed(ctx, books, batch, func() (uint64, string, error) {
		var inFacts, inRecords uint64
		found, err := a.query(ctx, `SELECT
			(SELECT uniqExact(type, partition, offset) FROM store.facts WHERE gone = 0 AND (grp, rec) IN (SELECT reinterpretAsUInt128(grp), reinterpretAsUInt128(rec) FROM last WHERE type != 15)
				AND (type, partition, offset) IN (SELECT type, partition, offset FROM last)),
			(SELECT uniqExact(type, partition, offset) FROM store.records WHERE gone = 0 AND rec IN (SELECT reinterpretAsUInt128(rec) FROM last)
				AND (type, partition, offset) IN (SELECT type, partition, offset FROM last))`, clickhouse.WithExternalTable(last.table))
		if err != nil {
			return 0, "", fmt.Errorf("look up facts of new rows: %w", err)
		}
		defer found.Close()
		for found.Next() {
			if err := found.Scan(&inFacts, &inRecords); err != nil {
				return 0, "", fmt.Errorf("look up facts of new rows: %w", err)
			}
		}
		if err := found.Err(); err != nil {
			return 0, "", fmt.Errorf("look up facts of new rows: %w", err)
		}
		if inFacts >= last.facts && inRecords >= n {
			return 0, "", nil
		}
		all := uint64(len(rows.facts) + len(rows.claims))
		return all, fmt.Sprintf("of %d new rows: %d facts and %d records of %d are there", all, inFacts, inRecords, n), nil
	})
}

// lastOf are the last rows of each partition.
type lastOf struct {
	table *ext.Table
	facts uint64
}

func lastRows(rows *freshRows) (out lastOf, n uint64, err error) {
	type at struct {
		grp, rec id
		offset   uint64
	}
	last := map[place]at{}
	for i := range rows.facts {
		f := &rows.facts[i]
		p := place{f.no, f.partition}
		if l, ok := last[p]; !ok || l.offset < f.offset {
			last[p] = at{f.grp, f.rec, f.offset}
		}
	}
	out.facts = uint64(len(last))
	for _, c := range rows.claims {
		p := place{revocation, c.partition}
		if l, ok := last[p]; !ok || l.offset < c.offset {
			last[p] = at{id{}, c.rec, c.offset}
		}
	}
	out.table, err = ext.NewTable("last", ext.Column("grp", "FixedString(16)"), ext.Column("rec", "FixedString(16)"),
		ext.Column("type", "UInt8"), ext.Column("partition", "UInt32"), ext.Column("offset", "UInt64"))
	if err != nil {
		return out, 0, fmt.Errorf("make table of last rows: %w", err)
	}
	for p, l := range last {
		if err := out.table.Append(l.grp[:], l.rec[:], p.no, p.partition, l.offset); err != nil {
			return out, 0, fmt.Errorf("append to table of last rows: %w", err)
		}
	}
	return out, uint64(len(last)), nil
}

// changedOffers computes the services of the offers that are touched, and adds the groups that name one whose
// service has changed. named are the offers of new rows, and whether older facts may name them.
func (a *Aggregator) changedOffers(ctx context.Context, m *memory, batch *batch, work *work, named map[id]bool) error {
	for g := range work.offers {
		work.services[g] = service{}
	}
	exact := slices.SortedFunc(maps.Keys(work.offers), id.compare)
	for chunk := range slices.Chunk(exact, chunkGroups) {
		facts, err := a.inForce(ctx, m, batch.snapshot(), chunk, fmt.Sprintf(" AND type = %d", offer))
		if err != nil {
			return err
		}
		for of := range eachGroup(facts) {
			work.services[of[0].grp], _ = offeredBy(of)
		}
	}
	for g := range named {
		if p, ok := work.parts[g]; ok && !work.offers[g] {
			if s, ok := offeredBy(slices.Concat(p.state.facts, p.facts)); ok {
				work.services[g] = s
			}
		}
	}
	changed := map[id]bool{}
	for g, s := range work.services {
		if s != m.offers[g] && (named[g] || work.offers[g] && m.named.Has((*[16]byte)(&g))) {
			changed[g] = true
		}
	}
	return a.groupsNaming(ctx, work, changed)
}

// offeredBy is the service of the offer whose facts these are.
func offeredBy(facts []fact) (service, bool) {
	var best *fact
	for i := range facts {
		if f := &facts[i]; f.no == offer && (best == nil || byOccurrence(best, f) < 0) {
			best = f
		}
	}
	if best == nil {
		return service{}, false
	}
	return best.service, true
}

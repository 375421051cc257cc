package aggregate

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2"
	"golang.org/x/sync/errgroup"
)

// holds tells whether the memory says what the table of these books has.
func (m *memory) holds(b *books) bool {
	return m != nil && m.cycle != 0 && maps.Equal(m.positions, b.positions) && (b.table != liveTable || b.cycle == m.cycle && b.by == m.by)
}

// chunkGroups is how many groups are looked up and computed at once.
const chunkGroups = 20_000

// differenceKnown is difference for a work that was made with a memory.
func (a *Aggregator) differenceKnown(ctx context.Context, books, next *books, work *work, emit func(id, cell, measures) error) error {
	counter := newCounter(next.now, work.memory.service(work))
	for g, p := range work.parts {
		sum := counter.gain(&p)
		if err := emitAll(g, sum, emit); err != nil {
			return err
		}
		if s := p.state; s.grow(p.facts) {
			work.states[g] = s
		}
	}
	groups := make([]id, 0, len(work.groups))
	for g := range work.groups {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, id.compare)
	for chunk := range slices.Chunk(groups, chunkGroups) {
		if err := a.differenceOfGroups(ctx, chunk, next, books.table, counter, work, emit); err != nil {
			return err
		}
	}
	return nil
}

func emitAll(g id, of cells, emit func(id, cell, measures) error) error {
	for k, m := range of {
		if m == (measures{}) {
			continue
		}
		if err := emit(g, k, m); err != nil {
			return err
		}
	}
	return nil
}

// gain is what a part adds to the cells.
func (c *counter) gain(p *part) cells {
	if !p.known {
		return c.count(p.facts)
	}
	before := p.state.before()
	sum := c.count(slices.Concat(before, p.facts))
	for k, m := range c.count(before) {
		sum.add(k, m, -1)
	}
	return sum
}

// differenceOfGroups looks groups up and computes them: groups in their order, a chunk of them.
func (a *Aggregator) differenceOfGroups(ctx context.Context, groups []id, next *books, table string, counter *counter, work *work, emit func(id, cell, measures) error) error {
	touched, err := groupTable(allWanted(groups))
	if err != nil {
		return err
	}
	var looking errgroup.Group // without a context, which would end the stream of what is stored
	var stored *storedStream
	looking.Go(func() (err error) {
		stored, err = a.readStored(ctx, scope{wanted: wantedGroups, touched: touched, table: table})
		return err
	})
	var facts []fact
	looking.Go(func() (err error) {
		facts, err = a.inForce(ctx, work.memory, below(next.positions), groups, "")
		return err
	})
	if err := looking.Wait(); err != nil {
		if stored != nil {
			stored.close()
		}
		return err
	}
	defer stored.close()
	for _, g := range groups {
		n := 0
		for n < len(facts) && facts[n].grp == g {
			n++
		}
		of := facts[:n:n]
		facts = facts[n:]
		sum := counter.count(of)
		if err := stored.subtract(g, sum); err != nil {
			return err
		}
		if err := emitAll(g, sum, emit); err != nil {
			return err
		}
		if s, ok := stateOf(of); ok {
			work.states[g] = s
		}
	}
	return nil
}

// inForce are the facts in force of groups, in their order, each record once; of those that the further condition takes.
func (a *Aggregator) inForce(ctx context.Context, m *memory, snapshot string, groups []id, condition string) ([]fact, error) {
	touched, err := groupTable(allWanted(groups))
	if err != nil {
		return nil, err
	}
	s := scope{wanted: wantedGroups + condition, snapshot: snapshot, touched: touched}
	facts, hot, err := a.factsOf(ctx, s, m)
	if err != nil {
		return nil, err
	}
	if len(hot) > 0 {
		dead, err := a.deadOf(ctx, s, hot)
		if err != nil {
			return nil, err
		}
		facts = slices.DeleteFunc(facts, func(f fact) bool { return dead[position{f.rec, f.partition, f.offset}] })
	}
	return once(facts), nil
}

// once leaves one of the facts of each record, which follow one another: a healed fact is there twice.
func once(facts []fact) []fact {
	return slices.CompactFunc(facts, func(x, y fact) bool { return x.grp == y.grp && x.rec == y.rec })
}

// allWanted are groups for groupTable.
func allWanted(groups []id) iter.Seq2[id, bool] {
	return func(yield func(id, bool) bool) {
		for _, g := range groups {
			if !yield(g, true) {
				return
			}
		}
	}
}

// factsOf reads the facts of groups, in their order, and which of their records may have another row than
// the one that is read.
func (a *Aggregator) factsOf(ctx context.Context, s scope, m *memory) (facts []fact, hot map[id]bool, err error) {
	rows, err := a.query(ctx, fmt.Sprintf("SELECT %s FROM store.facts WHERE %s AND %s ORDER BY grp, rec", readColumns, s.wanted, s.snapshot), s.tables())
	if err != nil {
		return nil, nil, fmt.Errorf("read facts: %w", err)
	}
	defer rows.Close()
	hot = map[id]bool{}
	scan := newFactScanner()
	for rows.Next() {
		var f fact
		gone, err := scan.scan(rows, &f)
		if err != nil {
			return nil, nil, fmt.Errorf("read facts: %w", err)
		}
		if gone || m.several.Has((*[16]byte)(&f.rec)) {
			hot[f.rec] = true
		}
		if !gone {
			facts = append(facts, f)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("read facts: %w", err)
	}
	return facts, hot, nil
}

// deadOf are the positions of records that are not in force.
func (a *Aggregator) deadOf(ctx context.Context, s scope, records map[id]bool) (map[position]bool, error) {
	recs, err := idTable("recs", records)
	if err != nil {
		return nil, err
	}
	versions, err := a.versions(ctx, "rec IN (SELECT reinterpretAsUInt128(id) FROM recs)", 1, s, clickhouse.WithExternalTable(recs))
	if err != nil {
		return nil, err
	}
	dead, err := a.outOfForce(ctx, s, versions)
	if err != nil {
		return nil, err
	}
	out := make(map[position]bool, len(dead))
	for _, p := range dead {
		out[p] = true
	}
	return out, nil
}

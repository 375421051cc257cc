package aggregate

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Errors that a caller tells apart.
var (
	ErrGeneration   = errors.New("a generation is beside the live one already") // it must be dropped first
	ErrNoGeneration = errors.New("there is no generation beside the live one")
	ErrUnfinished   = errors.New("the generation beside the live one is not finished") // its building was cut off
	ErrReplaced     = errors.New("the generation that was built is not there any more")
)

// Generation is a table of contributions.
type Generation struct {
	Number  uint64 `json:"generation"` // grows with each exchange; 0: there was none yet
	State   string `json:"state"`      // live; building, built (and not live yet), old (was live before)
	Cycle   uint64 `json:"cycle"`
	Rows    uint64 `json:"rows"`
	Offsets uint64 `json:"offsets"` // sum of the positions that it has come to
}

// Cell is a cell that two generations have different figures of.
type Cell struct {
	Comune       string   `json:"comune"`
	Nomenclature string   `json:"nomenclature_code"`
	Area         string   `json:"user_area"`
	Month        string   `json:"month"`
	Unit         string   `json:"unit"`
	Changes      []string `json:"changes"` // measure: live -> beside; capacity, occupied, waiting and residents are steps
}

// maxCells is how many differing cells a report names.
const maxCells = 20

// Rebuilt is the report of Rebuild.
type Rebuilt struct {
	Generation uint64        `json:"generation"`
	Cells      uint64        `json:"cells"`     // contributions of groups to cells that were computed
	Passes     int           `json:"passes"`    // over all groups; the last one found nothing to correct
	Differing  uint64        `json:"differing"` // cells that the live generation has other figures of
	Exact      bool          `json:"exact"`     // false: the two were compared while cycles came in between
	First      []Cell        `json:"first"`     // of them, at most 20
	Took       time.Duration `json:"took_ns"`
}

const besideComment = "A generation of store.contrib beside the live one: being built, or live before. Empty where there is none."

// maxSlice is how many facts are computed at once, about, which bounds the memory; and it is what a cycle may
// come in between of, so it shrinks where cycles do.
const maxSlice = 100_000

// Rebuild computes a new generation beside the live one, from the facts, and compares the two. Cycles of
// other aggregators may go on meanwhile: they keep both up. It does not exchange them: that is Swap.
func (a *Aggregator) Rebuild(ctx context.Context, progress func(done, total uint64)) (*Rebuilt, error) {
	start := time.Now()
	if err := a.loadSources(ctx); err != nil {
		return nil, err
	}
	generation, err := a.attach(ctx)
	if err != nil {
		return nil, err
	}
	out := &Rebuilt{Generation: generation}
	var facts uint64
	if err := a.opts.DB.QueryRow(ctx, "SELECT count() FROM store.facts").Scan(&facts); err != nil {
		return out, fmt.Errorf("count facts: %w", err)
	}
	for clean := false; !clean; {
		if out.Passes == 10 {
			return out, fmt.Errorf("build generation %d: ten passes found something to correct: report it", generation)
		}
		out.Passes++
		n, err := a.pass(ctx, generation, facts, progress)
		if err != nil {
			return out, fmt.Errorf("build generation %d: %w", generation, err)
		}
		out.Cells += n
		clean = n == 0
		a.log.Debug("aggregate: pass over all groups", zap.Uint64("generation", generation), zap.Uint64("cells", n))
	}
	if err := a.insertBooks(ctx, besideTable, fmt.Sprintf("built/%d", generation), []bookRow{bookOf("built", 0, 1)}); err != nil {
		return out, err
	}
	err = a.compareGenerations(ctx, out)
	out.Took = time.Since(start)
	return out, err
}

// attach makes an empty generation, whose books say that it stands where the live one stands: so cycles keep
// it up from now on. Its cycles have numbers of their own, for facts are fed under those of the live one.
func (a *Aggregator) attach(ctx context.Context) (uint64, error) {
	p, err := a.readPair(ctx)
	if err != nil {
		return 0, err
	}
	if p.beside != nil {
		return 0, ErrGeneration
	}
	if err := a.freshTable(ctx); err != nil {
		return 0, err
	}
	if p.live.generation == 0 {
		if err := a.insertBooks(ctx, liveTable, "generation/1", []bookRow{bookOf("generation", 0, 1)}); err != nil {
			return 0, err
		}
		if p.live, err = a.readBooks(ctx, liveTable); err != nil {
			return 0, err
		}
	}
	generation := p.live.generation + 1
	empty := &books{table: besideTable, positions: map[place]uint64{}}
	next := &books{cycle: generation << 40, now: p.live.now, positions: p.live.positions}
	rows := append(empty.rowsTo(next), bookOf("generation", 0, int64(generation)), bookOf("attached", 0, time.Now().UnixNano()))
	return generation, a.insertBooks(ctx, besideTable, fmt.Sprintf("generation/%d", generation), rows)
}

// freshTable puts an empty table in the place of the one beside. It is another table: an insert that is under
// way is lost with the old one.
func (a *Aggregator) freshTable(ctx context.Context) error {
	if err := a.exec(ctx, "CREATE OR REPLACE TABLE "+besideTable+" AS "+liveTable+" COMMENT "+quote(besideComment)); err != nil {
		return fmt.Errorf("make %s anew: %w", besideTable, err)
	}
	return nil
}

func (a *Aggregator) insertBooks(ctx context.Context, table, token string, rows []bookRow) error {
	out, err := a.prepare(ctx, table, token)
	if err != nil {
		return fmt.Errorf("insert books into %s: %w", table, err)
	}
	defer func() { _ = out.Close() }()
	for _, row := range rows {
		if err := appendCell(out, id{}, row.cell, measures{mark: row.mark}, time.Now().UTC()); err != nil {
			return err
		}
	}
	if err := out.Send(); err != nil {
		return fmt.Errorf("insert books into %s: %w", table, err)
	}
	return nil
}

// pass goes over all groups, by ranges of their hashes, and inserts what the generation lacks. It returns how
// many contributions those were. A range in which a cycle came in between is done again, in smaller steps.
func (a *Aggregator) pass(ctx context.Context, generation, facts uint64, progress func(done, total uint64)) (cells uint64, err error) {
	end := new(big.Int).Lsh(big.NewInt(1), 128)
	most := new(big.Int).Div(end, new(big.Int).SetUint64(1+facts/maxSlice))
	least := new(big.Int).Rsh(end, 40)
	step := new(big.Int).Set(most)
	for at := new(big.Int); at.Cmp(end) < 0; {
		to := new(big.Int).Add(at, step)
		if to.Cmp(end) > 0 {
			to.Set(end)
		}
		n, done, err := a.passRange(ctx, generation, at, to)
		if err != nil {
			return cells, err
		}
		if !done {
			if step.Rsh(step, 1); step.Cmp(least) < 0 {
				step.Set(least)
			}
			continue
		}
		cells += n
		at = to
		if step.Mul(step, big.NewInt(3)).Rsh(step, 1); step.Cmp(most) > 0 {
			step.Set(most)
		}
		if progress != nil {
			part := new(big.Int).Mul(at, new(big.Int).SetUint64(facts))
			progress(part.Rsh(part, 128).Uint64(), facts)
		}
	}
	return cells, nil
}

// passRange does the groups of [from, to). It is not done where another insert came in between.
func (a *Aggregator) passRange(ctx context.Context, generation uint64, from, to *big.Int) (cells uint64, done bool, err error) {
	books, err := a.booksOf(ctx, besideTable)
	if err != nil {
		return 0, false, err
	}
	if books == nil || books.generation != generation {
		return 0, false, ErrReplaced
	}
	wanted := fmt.Sprintf("(grp >= toUInt128('%s') AND grp <= toUInt128('%s'))", from, new(big.Int).Sub(to, big.NewInt(1)))
	read := fmt.Sprintf("(%s OR grp IN (SELECT svc FROM store.facts WHERE %s AND svc != 0))", wanted, wanted)
	next := *books
	next.cycle++
	s := scope{wanted: wanted, read: read, snapshot: below(books.positions), table: besideTable}
	sent, n, err := a.insertDifference(ctx, books, &next, a.differenceIn(s, next.now), false)
	if err != nil {
		return 0, false, fmt.Errorf("compute groups: %w", err)
	}
	return uint64(n), sent, nil
}

// Swap exchanges the generation beside for the live one. No query sees a state between, and the one that was
// live stays beside, kept up by the cycles, so that Swap brings it back. It waits a little where the one
// beside is behind.
func (a *Aggregator) Swap(ctx context.Context) error {
	p, err := a.readPair(ctx)
	switch {
	case err != nil:
		return err
	case p.beside == nil:
		return ErrNoGeneration
	case p.beside.generation > p.live.generation && !p.beside.built:
		return ErrUnfinished
	}
	// What comes to be live has a higher number than any before, so that a cycle sees that there was an exchange.
	if p.beside.generation < p.live.generation {
		next := p.live.generation + 1
		row := bookOf("generation", 0, int64(next-p.beside.generation))
		if err := a.insertBooks(ctx, besideTable, fmt.Sprintf("generation/%d", next), []bookRow{row, bookOf("built", 0, 1)}); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if p, err = a.readPair(ctx); err != nil {
			return err
		}
		if p.beside == nil {
			return ErrReplaced
		}
		if !p.beside.behind(p.live) || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := a.exec(ctx, "EXCHANGE TABLES "+liveTable+" AND "+besideTable); err != nil {
		return fmt.Errorf("exchange %s and %s: %w", liveTable, besideTable, err)
	}
	return nil
}

// behind tells whether b lacks offsets that o has.
func (b *books) behind(o *books) bool {
	for p, to := range o.positions {
		if b.positions[p] < to {
			return true
		}
	}
	return false
}

// RollBack makes the generation that was live before live again.
func (a *Aggregator) RollBack(ctx context.Context) error {
	p, err := a.readPair(ctx)
	if err != nil {
		return err
	}
	if p.beside == nil || p.beside.generation > p.live.generation {
		return fmt.Errorf("%w that was live before", ErrNoGeneration)
	}
	return a.Swap(ctx)
}

// Drop removes the generation beside.
func (a *Aggregator) Drop(ctx context.Context) error {
	p, err := a.readPair(ctx)
	if err != nil {
		return err
	}
	if p.beside == nil {
		return ErrNoGeneration
	}
	return a.freshTable(ctx)
}

// Generations are the live one, and the one beside, if there is one.
func (a *Aggregator) Generations(ctx context.Context) ([]Generation, error) {
	p, err := a.readPair(ctx)
	if err != nil {
		return nil, err
	}
	var out []Generation
	for _, b := range []*books{p.live, p.beside} {
		if b == nil {
			continue
		}
		g := Generation{Number: b.generation, State: "live", Cycle: b.cycle}
		for _, offset := range b.positions {
			g.Offsets += offset
		}
		switch {
		case b == p.live:
		case b.generation < p.live.generation:
			g.State = "old"
		case b.built:
			g.State = "built"
		default:
			g.State = "building"
		}
		if err := a.opts.DB.QueryRow(ctx, "SELECT count() FROM "+b.table).Scan(&g.Rows); err != nil {
			return nil, fmt.Errorf("count %s: %w", b.table, err)
		}
		out = append(out, g)
	}
	return out, nil
}

// measuresOfCells are the columns of store.contrib that two generations are compared by.
var measuresOfCells = []string{"requests", "granted", "refused", "waiting", "capacity", "occupied", "delivered", "amount", "residents"}

// compareGenerations counts the cells that differ, at a moment at which both have come equally far, if there
// is one within half a minute.
func (a *Aggregator) compareGenerations(ctx context.Context, out *Rebuilt) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		before, err := a.readPair(ctx)
		if err != nil {
			return err
		}
		if before.beside == nil {
			return ErrReplaced
		}
		if err := a.differingCells(ctx, out); err != nil {
			return err
		}
		after, err := a.readPair(ctx)
		if err != nil {
			return err
		}
		if after.beside == nil {
			return ErrReplaced
		}
		out.Exact = before.live.cycle == after.live.cycle && before.beside.cycle == after.beside.cycle && !before.live.behind(before.beside) && !before.beside.behind(before.live)
		if out.Exact || out.Differing == 0 || time.Now().After(deadline) {
			return nil
		}
	}
}

func (a *Aggregator) differingCells(ctx context.Context, out *Rebuilt) error {
	var columns, sums, changes []string
	for _, m := range measuresOfCells {
		columns = append(columns, m)
		sums = append(sums, fmt.Sprintf("sumIf(%[1]s, g = 0) AS live_%[1]s, sumIf(%[1]s, g = 1) AS beside_%[1]s", m))
		changes = append(changes, fmt.Sprintf("if(live_%[1]s = beside_%[1]s, '', concat('%[1]s: ', toString(live_%[1]s), ' -> ', toString(beside_%[1]s)))", m))
	}
	list := strings.Join(columns, ", ")
	query := fmt.Sprintf(`SELECT comune, nomenclature, area, month, unit, arrayFilter(x -> x != '', [%s]) AS changes FROM (
	SELECT comune, nomenclature, area, month, unit, %s FROM (
		SELECT 0 AS g, comune, toString(nomenclature) AS nomenclature, toString(area) AS area, month, toString(unit) AS unit, %s FROM %s WHERE area NOT IN ('#books', '#service')
		UNION ALL
		SELECT 1, comune, toString(nomenclature), toString(area), month, toString(unit), %s FROM %s WHERE area NOT IN ('#books', '#service'))
	GROUP BY comune, nomenclature, area, month, unit) WHERE notEmpty(changes)`,
		strings.Join(changes, ", "), strings.Join(sums, ", "), list, liveTable, list, besideTable)
	rows, err := a.query(ctx, "SELECT *, count() OVER () FROM ("+query+") ORDER BY month DESC, comune, nomenclature, area, unit LIMIT "+fmt.Sprint(maxCells))
	if err != nil {
		return fmt.Errorf("compare generations: %w", err)
	}
	defer rows.Close()
	out.First, out.Differing = []Cell{}, 0
	for rows.Next() {
		var c Cell
		var month uint16
		if err := rows.Scan(&c.Comune, &c.Nomenclature, &c.Area, &month, &c.Unit, &c.Changes, &out.Differing); err != nil {
			return fmt.Errorf("compare generations: %w", err)
		}
		c.Comune = strings.TrimRight(c.Comune, "\x00")
		c.Month = fmt.Sprintf("%04d-%02d", month/12, month%12+1)
		out.First = append(out.First, c)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("compare generations: %w", err)
	}
	return nil
}

package aggregate

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
)

// id is a group or a record, the 16 bytes of its hash.
type id [16]byte

// work gathers what a cycle has to do.
type work struct {
	groups     map[id]bool // true: compute it; false: an offer that is only looked up
	offers     map[id]bool // groups whose offers may have changed their service
	records    map[id]bool // records whose groups are touched
	population bool        // whether a group of population is among them

	// What an aggregator that remembers adds: see touchKnown. Where the books of a table stand otherwise than
	// the memory has it, the groups of the parts are computed as the others are.
	restored bool // rows below the positions were stored again
	memory   *memory
	parts    map[id]part
	services map[id]service // of the offers that are touched; zero: none
	states   map[id]state   // of the groups that were computed
}

func newWork() *work {
	return &work{
		groups: map[id]bool{}, offers: map[id]bool{}, records: map[id]bool{},
		parts: map[id]part{}, services: map[id]service{}, states: map[id]state{},
	}
}

// Predicates on grp by the external table of work.table.
const (
	wantedGroups = "grp IN (SELECT reinterpretAsUInt128(id) FROM touched WHERE wanted = 1)"
	readGroups   = "grp IN (SELECT reinterpretAsUInt128(id) FROM touched)"
)

// table is the work's groups as a table that travels with a query.
func (w *work) table() (*ext.Table, error) { return groupTable(maps.All(w.groups)) }

// groupTable is the table that wantedGroups and readGroups read, of groups and whether they are wanted.
func groupTable(groups iter.Seq2[id, bool]) (*ext.Table, error) {
	t, err := ext.NewTable("touched", ext.Column("id", "FixedString(16)"), ext.Column("wanted", "UInt8"))
	if err != nil {
		return nil, fmt.Errorf("make table of groups: %w", err)
	}
	for g, wanted := range groups {
		var flag uint8
		if wanted {
			flag = 1
		}
		if err := t.Append(g[:], flag); err != nil {
			return nil, fmt.Errorf("append to table of groups: %w", err)
		}
	}
	return t, nil
}

func idTable(name string, ids map[id]bool) (*ext.Table, error) {
	t, err := ext.NewTable(name, ext.Column("id", "FixedString(16)"))
	if err != nil {
		return nil, fmt.Errorf("make table of %s: %w", name, err)
	}
	for i := range ids {
		if err := t.Append(i[:]); err != nil {
			return nil, fmt.Errorf("append to table of %s: %w", name, err)
		}
	}
	return t, nil
}

// touch is step (e). It makes facts of the new blocks, and finds the groups to compute. An aggregator that
// died in this cycle, or another that does it now, may have made them of less than this one takes: then they
// are made once more.
func (a *Aggregator) touch(ctx context.Context, books *books, batch *batch, work *work) (healed uint64, err error) {
	arrived, err := a.arrivals(ctx, batch, work)
	if err != nil {
		return 0, err
	}
	return a.untilFed(ctx, books, batch, func() (missing uint64, found string, err error) {
		inRecords, err := a.groupsOfRecords(ctx, batch, work)
		if err != nil {
			return 0, "", err
		}
		if books.cycle > 0 && batch.now > books.now {
			if err := a.instantsDue(ctx, books, batch, work); err != nil {
				return 0, "", err
			}
		}
		if err := a.groupsOfChangedOffers(ctx, books, batch, work); err != nil {
			return 0, "", err
		}
		inFacts, err := a.offersNamed(ctx, batch, work)
		if err != nil || inRecords >= arrived.all() && inFacts >= arrived.facts {
			return 0, "", err
		}
		return arrived.all() - min(inRecords, inFacts), fmt.Sprintf("of %d new rows: %d facts and %d records are there", arrived.all(), inFacts, inRecords), nil
	})
}

// untilFed looks until no facts of new rows are missing, and restores them once where they do not come by HealAfter. look
// tells how many rows it misses, and what it found.
func (a *Aggregator) untilFed(ctx context.Context, books *books, batch *batch, look func() (missing uint64, found string, err error)) (healed uint64, err error) {
	for due := time.Now().Add(a.opts.HealAfter); ; {
		missing, found, err := look()
		if err != nil || missing == 0 {
			return healed, err
		}
		if time.Now().After(due) {
			if healed > 0 {
				return healed, fmt.Errorf("restore facts %s: %w", found, errFactsMissing)
			}
			a.log.Warn("aggregate: facts are behind the ledger, restoring them from the stored rows")
			if err := a.feed(ctx, batch, fmt.Sprintf("%d/%s", books.cycle+1, batch.key())); err != nil {
				return healed, err
			}
			healed = missing
			continue
		}
		select {
		case <-ctx.Done():
			return healed, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// arrival counts the new rows that must be found in store.facts and store.records.
type arrival struct{ facts, revocations uint64 }

func (c arrival) all() uint64 { return c.facts + c.revocations }

// arrivals reads the groups and records of the new rows from the storage tables.
func (a *Aggregator) arrivals(ctx context.Context, batch *batch, work *work) (arrival, error) {
	var out arrival
	var selects []string
	for _, no := range sorted(a.sources) {
		ranges := batch.ranges(no, "partition", "offset")
		if ranges == "" {
			continue
		}
		cond := ranges
		if no == revocation {
			cond += " AND revocation = 0"
		}
		selects = append(selects, fmt.Sprintf(
			"SELECT DISTINCT toUInt8(%d) AS no, reinterpretAsFixedString(grp) AS g, reinterpretAsFixedString(rec) AS r, partition, offset FROM (%s) WHERE %s",
			no, a.sources[no], cond))
	}
	if len(selects) == 0 {
		return out, nil
	}
	rows, err := a.query(ctx, "SELECT no, g, r, count() FROM ("+strings.Join(selects, "\nUNION ALL\n")+") GROUP BY no, g, r")
	if err != nil {
		return out, fmt.Errorf("read new rows: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var no uint8
		var g, r string
		var n uint64
		if err := rows.Scan(&no, &g, &r, &n); err != nil {
			return out, fmt.Errorf("read new rows: %w", err)
		}
		work.records[toID(r)] = true
		if no == revocation {
			out.revocations += n // of several targets, one position each
			continue
		}
		out.facts += n
		work.add(toID(g), no)
	}
	if err := rows.Err(); err != nil {
		return out, fmt.Errorf("read new rows: %w", err)
	}
	return out, nil
}

func (w *work) add(g id, no uint8) {
	w.groups[g] = true
	switch no {
	case offer:
		w.offers[g] = true
	case population:
		w.population = true
	}
}

// groupsOfRecords adds the groups in which any version of the work's records stands, and those of the
// records that its revocations name in any version. It returns how many new positions it met.
func (a *Aggregator) groupsOfRecords(ctx context.Context, batch *batch, work *work) (met uint64, err error) {
	ask := work.records
	for round := 0; len(ask) > 0; round++ {
		recs, err := idTable("recs", ask)
		if err != nil {
			return 0, err
		}
		rows, err := a.query(ctx, `SELECT type, reinterpretAsFixedString(grp), uniqExactIf((rec, grp, partition, offset), `+batch.fresh()+`)
			FROM store.records WHERE rec IN (SELECT reinterpretAsUInt128(id) FROM recs) AND revocation = 0
			GROUP BY type, grp`, clickhouse.WithExternalTable(recs))
		if err != nil {
			return 0, fmt.Errorf("look up %d records: %w", len(ask), err)
		}
		targets := map[id]bool{}
		for rows.Next() {
			var no uint8
			var g string
			var n uint64
			if err := rows.Scan(&no, &g, &n); err != nil {
				rows.Close()
				return 0, fmt.Errorf("look up records: %w", err)
			}
			if round == 0 {
				met += n
			}
			if no == revocation {
				if t := toID(g); t != (id{}) && !work.records[t] {
					targets[t] = true
				}
				continue
			}
			work.add(toID(g), no)
		}
		err = rows.Err()
		rows.Close()
		if err != nil {
			return 0, fmt.Errorf("look up records: %w", err)
		}
		if round > 0 {
			break // targets are facts: they revoke nothing
		}
		ask = targets
	}
	return met, nil
}

// instantsDue adds the groups that have an instant which the horizon has passed in this cycle.
func (a *Aggregator) instantsDue(ctx context.Context, books *books, batch *batch, work *work) error {
	return a.addGroups(ctx, work, fmt.Sprintf(`SELECT DISTINCT reinterpretAsFixedString(grp) FROM store.instants
		WHERE instant > fromUnixTimestamp64Milli(%d, 'UTC') AND instant <= fromUnixTimestamp64Milli(%d, 'UTC')`, books.now, batch.now))
}

// groupsOfChangedOffers adds the groups that name an offer whose service is another than the one that
// was stored with its last contributions.
func (a *Aggregator) groupsOfChangedOffers(ctx context.Context, books *books, batch *batch, work *work) error {
	if len(work.offers) == 0 {
		return nil
	}
	only := newWork()
	for g := range work.offers {
		only.groups[g] = true
	}
	scope := scope{wanted: wantedGroups, snapshot: batch.snapshot()}
	var err error
	if scope.touched, err = only.table(); err != nil {
		return err
	}
	dead, err := a.dead(ctx, scope)
	if err != nil {
		return err
	}
	now, err := a.services(ctx, scope, dead)
	if err != nil {
		return err
	}
	changed := map[id]bool{}
	for _, scope.table = range []string{liveTable, besideTable} {
		before, err := a.storedServices(ctx, scope)
		if err != nil {
			return err
		}
		for g := range work.offers {
			if now[g] != before[g] {
				changed[g] = true
			}
		}
		if err := a.opts.fail("services of " + scope.table); err != nil {
			return err
		}
		if !books.beside {
			break
		}
	}
	return a.groupsNaming(ctx, work, changed)
}

// groupsNaming adds the groups that name one of the offers.
func (a *Aggregator) groupsNaming(ctx context.Context, work *work, offers map[id]bool) error {
	if len(offers) == 0 {
		return nil
	}
	table, err := idTable("offers", offers)
	if err != nil {
		return err
	}
	return a.addGroups(ctx, work, `SELECT DISTINCT reinterpretAsFixedString(grp) FROM store.facts
		WHERE svc IN (SELECT reinterpretAsUInt128(id) FROM offers)`, clickhouse.WithExternalTable(table))
}

// offersNamed adds the offers that the work's groups name, to be looked up only. It returns how many
// new positions it met in the facts.
func (a *Aggregator) offersNamed(ctx context.Context, batch *batch, work *work) (met uint64, err error) {
	if len(work.groups) == 0 {
		return 0, nil
	}
	touched, err := work.table()
	if err != nil {
		return 0, err
	}
	rows, err := a.query(ctx, `SELECT reinterpretAsFixedString(svc), uniqExactIf((rec, partition, offset), `+batch.fresh()+`)
		FROM store.facts WHERE `+wantedGroups+` GROUP BY svc`, clickhouse.WithExternalTable(touched))
	if err != nil {
		return 0, fmt.Errorf("look up offers of %d groups: %w", len(work.groups), err)
	}
	defer rows.Close()
	for rows.Next() {
		var g string
		var n uint64
		if err := rows.Scan(&g, &n); err != nil {
			return 0, fmt.Errorf("look up offers: %w", err)
		}
		met += n
		if o := toID(g); o != (id{}) && !work.groups[o] {
			work.groups[o] = false
		}
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("look up offers: %w", err)
	}
	return met, nil
}

func (a *Aggregator) addGroups(ctx context.Context, work *work, query string, opts ...clickhouse.QueryOption) error {
	return a.eachID(ctx, "look up groups", query, func(g *id) { work.groups[*g] = true }, opts...)
}

// eachID calls do with what a query of one FixedString(16) returns. The id is valid until do returns.
func (a *Aggregator) eachID(ctx context.Context, what, query string, do func(*id), opts ...clickhouse.QueryOption) error {
	rows, err := a.query(ctx, query, opts...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer rows.Close()
	var i id
	for rows.Next() {
		if err := rows.Scan(&i); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		do(&i)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// number is the hash as the engine's UInt128, which is little-endian.
func (i id) number() *big.Int {
	b := i.bigEndian()
	return new(big.Int).SetBytes(b[:])
}

func (i id) bigEndian() id {
	slices.Reverse(i[:])
	return i
}

// toID takes the bytes of a hash; a short one, as the engine cuts trailing zeros, is padded.
func toID(s string) id {
	var out id
	copy(out[:], s)
	return out
}

package aggregate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/dedup"
)

// memory is what an aggregator knows of what is aggregated, so that a cycle looks up nothing that cannot be
// there. All of it follows from the tables, so it can be lost at any time; without it a cycle looks up all.
//
// The filters are supersets of what the tables have up to the positions covered: of a group or a record that
// they do not know there is no fact, no claim and no contribution. What is said of the offers and of the
// states of groups holds for one cycle exactly, and is forgotten where the books stand otherwise.
type memory struct {
	generation uint64 // of the live table
	attached   int64
	restored   uint64
	covered    map[place]uint64

	groups  dedup.Filter // groups that have facts or contributions
	records dedup.Filter // records that have a version, or a claim on them
	several dedup.Filter // records that have more than one row in store.records
	named   dedup.Filter // offers that facts name

	cycle     uint64 // for which offers and states hold, and whose insert that was; 0: for none
	by        int64
	positions map[place]uint64
	offers    map[id]service // services of all offers that have one
	states    states
}

// remember brings the memory to where the books stand. It returns nil where this cycle must do without one:
// where the tables stand apart, or where it would have to be made anew too often.
func (a *Aggregator) remember(ctx context.Context, both pair) (*memory, error) {
	live := both.live
	if both.beside != nil && (both.beside.now != live.now || !maps.Equal(both.beside.positions, live.positions)) {
		return nil, nil //nolint:nilnil // no memory is no error
	}
	m := a.memory
	if m != nil && (m.generation != live.generation || m.attached != live.attached || m.restored != live.restored) {
		m = nil
	}
	var err error
	switch {
	case m == nil:
		a.memory = nil
		if time.Since(a.memorized) < 20*a.memorizing {
			return nil, nil //nolint:nilnil // as above
		}
		start := time.Now()
		m, err = a.memorize(ctx, live)
		a.memorized, a.memorizing = time.Now(), time.Since(start)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("aggregate: groups and records cannot be read, going on without", zap.Error(err))
			return nil, nil //nolint:nilnil // as above
		}
		if err != nil {
			return nil, err
		}
		a.log.Debug("aggregate: groups and records read", zap.Int("groups", m.groups.Len()), zap.Int("records", m.records.Len()), zap.Duration("took", a.memorizing))
	case m.cycle != live.cycle || m.by != live.by || !maps.Equal(m.positions, live.positions):
		a.memory = nil // until it is whole
		if err := a.catchUp(ctx, m, live); err != nil {
			return nil, err
		}
	}
	a.memory = m
	return m, nil
}

// memorize makes a memory out of the tables.
func (a *Aggregator) memorize(ctx context.Context, live *books) (*memory, error) {
	m := &memory{generation: live.generation, attached: live.attached, restored: live.restored, covered: maps.Clone(live.positions)}
	add := func(of *dedup.Filter) func(*id) {
		return func(i *id) { of.TestAndAdd((*[16]byte)(i)) }
	}
	for _, read := range []struct {
		query string
		add   func(*id)
	}{
		{"SELECT reinterpretAsFixedString(grp) FROM store.facts", add(&m.groups)},
		{"SELECT DISTINCT reinterpretAsFixedString(svc) FROM store.facts WHERE svc != 0", add(&m.named)},
		{"SELECT reinterpretAsFixedString(grp) FROM " + liveTable + " WHERE grp != 0", add(&m.groups)},
		{"SELECT reinterpretAsFixedString(grp) FROM " + besideTable + " WHERE grp != 0", add(&m.groups)},
		{"SELECT reinterpretAsFixedString(rec) FROM store.records", func(rec *id) { m.meet(rec) }},
	} {
		if err := a.eachID(ctx, "read groups and records", read.query, read.add); err != nil {
			return nil, err
		}
	}
	return m, a.readOffers(ctx, m, live)
}

// meet adds a row of a record. It tells whether the record may have another.
func (m *memory) meet(rec *id) bool {
	if !m.records.TestAndAdd((*[16]byte)(rec)) {
		return false
	}
	m.several.TestAndAdd((*[16]byte)(rec))
	return true
}

// readOffers reads the services of all offers, as of the books, and forgets the states of groups.
func (a *Aggregator) readOffers(ctx context.Context, m *memory, live *books) error {
	m.cycle = 0
	m.states = states{limit: a.opts.states}
	s := scope{wanted: fmt.Sprintf("type = %d", offer), snapshot: below(live.positions), table: liveTable}
	dead, err := a.dead(ctx, s)
	if err != nil {
		return err
	}
	if m.offers, err = a.services(ctx, s, dead); err != nil {
		return err
	}
	m.cycle, m.by, m.positions = live.cycle, live.by, maps.Clone(live.positions)
	return nil
}

// catchUp takes in what others aggregated, and what a cycle of our own may or may not have inserted.
func (a *Aggregator) catchUp(ctx context.Context, m *memory, live *books) error {
	b := &batch{spans: map[place]span{}}
	for p, to := range live.positions {
		if from := m.covered[p]; from < to {
			b.spans[p] = span{from, to}
		}
	}
	if !b.empty() {
		rows, err := a.readFresh(ctx, b)
		if err != nil {
			return err
		}
		m.meetAll(rows)
		for i := range rows.facts {
			m.groups.TestAndAdd((*[16]byte)(&rows.facts[i].grp))
		}
		m.cover(live.positions)
	}
	return a.readOffers(ctx, m, live)
}

// meetAll adds the records of new rows, and the offers that they name. It returns the records that may have
// other rows.
func (m *memory) meetAll(rows *freshRows) map[id]bool {
	hot := map[id]bool{}
	for _, c := range rows.claims {
		hot[c.rec] = true
		m.meet(&c.rec)
		if c.target != (id{}) {
			// The record may come later, and is never without a second row then.
			m.records.TestAndAdd((*[16]byte)(&c.target))
			m.several.TestAndAdd((*[16]byte)(&c.target))
		}
	}
	for i := range rows.facts {
		f := &rows.facts[i]
		if m.meet(&f.rec) {
			hot[f.rec] = true
		}
		if f.offer != (id{}) {
			m.named.TestAndAdd((*[16]byte)(&f.offer))
		}
	}
	return hot
}

func (m *memory) cover(positions map[place]uint64) {
	for p, to := range positions {
		m.covered[p] = max(m.covered[p], to)
	}
}

// service is that of an offer, as the work has it or as it was before.
func (m *memory) service(w *work) func(id) (service, bool) {
	return func(offer id) (service, bool) {
		s, ok := w.services[offer]
		if !ok {
			s, ok = m.offers[offer]
		}
		return s, ok && s != (service{})
	}
}

// learn takes in what a cycle has inserted.
func (m *memory) learn(live *books, batch *batch, w *work) {
	next := live.reach(batch)
	m.cycle, m.by, m.positions = next.cycle, next.by, next.positions
	for o, s := range w.services {
		if s == (service{}) {
			delete(m.offers, o)
			continue
		}
		m.offers[o] = s
	}
	for g := range w.groups {
		m.states.drop(g) // those that have one come again
	}
	for g, s := range w.states {
		m.states.put(g, s)
	}
}

// maxStates bounds the states that are kept: of the groups touched last, so many groups and facts, and as many
// again of those before.
const maxStates = 1 << 17

// state is what new facts of a group are computed with: those of its facts in force whose part in the cells
// may come to be another by them. Of a request or a benefit these are its waits and, as long as it has no
// service, its assessments and deliveries; then these add to cells by themselves. Of an offer they are all.
type state struct {
	given  *service // by the request or benefit; nil: none yet
	rank   rank     // of the record that gave it
	facts  []fact
	family uint8 // number of the event that can give the service; 0: of an offer
}

// rank is the order in which records of a request or benefit give it its service: the lowest does.
type rank struct {
	occurred     int64
	sourceRecord string
}

func (f *fact) rank() rank { return rank{f.occurred, f.sourceRecord} }

func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.occurred, o.occurred), strings.Compare(r.sourceRecord, o.sourceRecord))
}

// stateOf is the state of a group, of its facts in force, which are not kept. It is false of a group that
// has none: the population of a territory.
func stateOf(facts []fact) (out state, ok bool) {
	if len(facts) == 0 {
		return state{}, false
	}
	ok = out.grow(facts)
	return out, ok
}

// grow adds facts to a state. It is false where the state would be another than that of all facts together.
func (s *state) grow(facts []fact) bool {
	for i := range facts {
		f := &facts[i]
		switch f.no {
		case 3, 6:
			s.family = f.no
			if s.given == nil || f.rank().compare(s.rank) < 0 {
				s.given, s.rank = &f.service, f.rank()
			}
		case 4, 5:
			s.family = 3
		case 7:
			s.family = 6
		case 1, 2:
			s.family = 0
		default:
			return false
		}
	}
	all := append(slices.Clip(s.facts), facts...)
	s.facts = all[:0:0]
	for i := range all {
		switch f := &all[i]; {
		case f.no == 3 || f.no == 6, s.given != nil && f.no != 5 && s.family != 0, f.no == 5 && f.kind == 0:
		default:
			s.facts = append(s.facts, *f)
		}
	}
	return true
}

// takes tells whether facts can be added: not where one gives the service in place of that which did.
func (s *state) takes(facts []fact) bool {
	for i := range facts {
		if f := &facts[i]; f.no == population || (f.no == 3 || f.no == 6) && s.given != nil && f.rank().compare(s.rank) < 0 {
			return false
		}
	}
	return true
}

// before are facts that give the same state.
func (s *state) before() []fact {
	if s.given == nil {
		return s.facts
	}
	given := fact{no: s.family, labels: &labels{service: *s.given}, occurred: s.rank.occurred, sourceRecord: s.rank.sourceRecord}
	return append([]fact{given}, s.facts...)
}

// states are those of the groups touched last.
type states struct {
	young, old map[id]state
	weight     int // of the young
	limit      int
	given      map[service]*service // each once
}

func (s *states) get(g id) (state, bool) {
	out, ok := s.young[g]
	if !ok {
		out, ok = s.old[g]
	}
	return out, ok
}

// drop forgets a group.
func (s *states) drop(g id) {
	delete(s.young, g)
	delete(s.old, g)
}

func (s *states) put(g id, of state) {
	if s.young == nil || s.weight >= s.limit {
		s.young, s.old, s.weight = map[id]state{}, s.young, 0
	}
	if s.given == nil || len(s.given) > s.limit {
		s.given = map[service]*service{}
	}
	if of.given != nil {
		one, ok := s.given[*of.given]
		if !ok {
			one = &service{strings.Clone(of.given.nomenclature), strings.Clone(of.given.area)}
			s.given[*one] = one
		}
		of.given = one
	}
	s.weight += 1 + len(of.facts)
	s.young[g] = of
}

// forget drops the states, after a cycle that failed.
func (m *memory) forget() {
	if m != nil {
		m.cycle = 0
	}
}

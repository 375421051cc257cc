// Package model is the reference model of the hub: it tells tests what the tables and aggregates
// must show after any set of events, in any order. It is kept plain (maps, no indexes, everything
// recomputed by each query) so that it can be read beside the contract; it is not fast and keeps
// every row in memory. Its decisions are in docs/decisions/0003-supply-demand-semantics.md.
package model

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Record is one valid message as read from its topic. The model keeps Row: a caller that reuses its
// rows passes a clone.
type Record struct {
	Topic     string
	Partition int
	Offset    int64
	Row       *event.Row
}

// End is what became of a record.
type End string

// The ends of a valid record. A conflict of event identity (E07) is the one reject that other events cause.
const (
	Loaded    End = "loaded"
	Duplicate End = "duplicate"
	Rejected  End = "rejected"
)

// Books count the records of a topic by end; Erased are those of the loaded that an erasure took out.
type Books struct {
	Loaded, Duplicate, Rejected, Erased int
}

// Reference is what ships with a release and decides where a record counts.
type Reference struct {
	Regions           map[string]string // comune (6 digits) to region (2 digits)
	KnownNomenclature func(code string) bool
}

// Model is the hub as it should be. Not safe for concurrent use.
type Model struct {
	ref     Reference
	ids     map[eventID]*stored
	events  map[string][]*stored // accepted events by name of their type, in the order of Apply
	books   map[string]*Books    // by topic
	horizon int64                // highest occurredAt accepted, milliseconds; see accepted
	any     bool                 // whether horizon means anything
}

type eventID struct{ topic, source, id string }

// recordID names a record within its type, or a revoked one.
type recordID struct{ source, id string }

type stored struct {
	Record
	hash [32]byte // content as sent
}

// New returns an empty model.
func New(ref Reference) *Model {
	return &Model{ref: ref, ids: map[eventID]*stored{}, events: map[string][]*stored{}, books: map[string]*Books{}}
}

// Apply takes one valid record and says how it ends. Records may come in any order; of two with one
// identity and different contents, the first to be applied is the one that is loaded.
func (m *Model) Apply(rec Record) End {
	row := rec.Row
	b := m.books[rec.Topic]
	if b == nil {
		b = &Books{}
		m.books[rec.Topic] = b
	}
	id := eventID{rec.Topic, row.Str(event.Source), strings.ToLower(row.Str(event.EventID))}
	hash := row.ContentHash()
	if first, ok := m.ids[id]; ok {
		if first.hash == hash {
			b.Duplicate++
			return Duplicate
		}
		b.Rejected++
		return Rejected
	}
	s := &stored{rec, hash}
	m.ids[id] = s
	m.events[row.Type.Name] = append(m.events[row.Type.Name], s)
	b.Loaded++
	if at := row.Vals[event.OccurredAt].Int; !m.any || at > m.horizon {
		m.horizon, m.any = at, true
	}
	return Loaded
}

// Ends returns the books of each topic that had a record.
func (m *Model) Ends() map[string]Books {
	out := map[string]Books{}
	st := m.resolve()
	for topic, b := range m.books {
		books := *b
		for _, s := range m.events[event.ByTopic(topic).Name] {
			if st.erased(s.Row) {
				books.Erased++
			}
		}
		out[topic] = books
	}
	return out
}

// State is a record in force: its row, with household_pseudonym NULL where it was erased, and the
// hash of its content as it was sent.
type State struct {
	Record
	Hash [32]byte
}

// Current returns the records of a type that are in force, by source and then sourceRecordId.
func (m *Model) Current(t *event.Type) []State { return m.resolve().current(t) }

// resolved is what the control events say of the model's events.
type resolved struct {
	m      *Model
	erase  map[erasure]int64 // highest requestedAt
	hidden map[revoked]int64 // highest version hidden
}

type erasure struct {
	pseudonym string
	family    event.Family
}

type revoked struct {
	recordID
	event string // name of the event type, "" for every type
}

// resolve reads erasures, then revocations: nothing lifts an erasure, and nothing hides a revocation.
func (m *Model) resolve() *resolved {
	st := &resolved{m: m, erase: map[erasure]int64{}, hidden: map[revoked]int64{}}
	for _, s := range m.events["SubjectErased"] {
		families := []event.Family{event.Family(s.Row.Symbol(event.SubjectErasedScope))}
		if families[0] == "ALL" {
			families = []event.Family{event.FamilyDemand, event.FamilyPoverty, event.FamilySchool}
		}
		for _, f := range families { // UNKNOWN is no family of any event
			k := erasure{s.Row.Str(event.SubjectErasedPseudonym), f}
			at := s.Row.Vals[event.SubjectErasedRequestedAt].Int
			if limit, ok := st.erase[k]; !ok || at > limit {
				st.erase[k] = at
			}
		}
	}
	for _, s := range st.current(event.ByName("RecordRevoked")) {
		k := revoked{
			recordID{s.Row.Str(event.RecordRevokedRevokedSource), s.Row.Str(event.RecordRevokedRevokedSourceRecordID)},
			s.Row.Str(event.RecordRevokedRevokedType),
		}
		st.hidden[k] = max(st.hidden[k], s.Row.Vals[event.RecordRevokedRevokedUpToVersion].Int)
	}
	return st
}

// concerned tells whether an erasure of this pseudonym reaches the event.
func (st *resolved) concerned(r *event.Row, pseudonym string) bool {
	limit, ok := st.erase[erasure{pseudonym, r.Type.Family}]
	return ok && r.Vals[event.OccurredAt].Int <= limit
}

func (st *resolved) erased(r *event.Row) bool {
	return r.Type.Subject >= 0 && r.Type.Family != event.FamilyControl && !r.Vals[r.Type.Subject].Null &&
		st.concerned(r, r.Str(r.Type.Subject))
}

func (st *resolved) revoked(r *event.Row) bool {
	if r.Type.Family == event.FamilyControl {
		return false
	}
	id := recordID{r.Str(event.Source), r.Str(event.SourceRecordID)}
	upTo := max(st.hidden[revoked{id, ""}], st.hidden[revoked{id, r.Type.Name}])
	return r.Vals[event.RecordVersion].Int <= upTo
}

func (st *resolved) current(t *event.Type) []State {
	best := map[recordID]*stored{}
	for _, s := range st.m.events[t.Name] {
		if st.erased(s.Row) || st.revoked(s.Row) {
			continue
		}
		id := recordID{s.Row.Str(event.Source), s.Row.Str(event.SourceRecordID)}
		if best[id] == nil || precedes(s, best[id]) {
			best[id] = s
		}
	}
	out := make([]State, 0, len(best))
	for _, s := range best {
		out = append(out, State{Record: st.redacted(s.Record), Hash: s.hash})
	}
	slices.SortFunc(out, func(a, b State) int {
		return cmpAll(strings.Compare(a.Row.Str(event.Source), b.Row.Str(event.Source)),
			strings.Compare(a.Row.Str(event.SourceRecordID), b.Row.Str(event.SourceRecordID)))
	})
	return out
}

// precedes orders the events of one record: the first is its state.
func precedes(a, b *stored) bool {
	return cmpAll(
		cmpInt(b.Row.Vals[event.RecordVersion].Int, a.Row.Vals[event.RecordVersion].Int),
		bytes.Compare(a.hash[:], b.hash[:]),
		cmpInt(int64(a.Partition), int64(b.Partition)),
		cmpInt(a.Offset, b.Offset)) < 0
}

func (st *resolved) redacted(rec Record) Record {
	i := rec.Row.Type.Field("householdPseudonym")
	if i < 0 || rec.Row.Vals[i].Null || !st.concerned(rec.Row, rec.Row.Str(i)) {
		return rec
	}
	rec.Row = rec.Row.Clone()
	rec.Row.SetNull(i)
	return rec
}

// cmpAll returns the first comparison that is not equal.
func cmpAll(c ...int) int {
	for _, n := range c {
		if n != 0 {
			return n
		}
	}
	return 0
}

func cmpInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// sortedKeys makes walks over maps repeatable.
func sortedKeys[K comparable, V any](in map[K]V, cmp func(a, b K) int) []K {
	return slices.SortedFunc(maps.Keys(in), cmp)
}

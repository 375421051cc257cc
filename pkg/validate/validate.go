// Package validate has the rules that one event can keep or break. It tells the loader, and whoever
// publishes, which codes an event violates and which flags it carries.
//
// A verdict depends on the event itself, its key, headers and Kafka timestamp, and on reference data that
// ships with the release: never on other events, and never on the clock. So it is the same whenever and
// wherever it is made. Rules lists all codes; docs/rules.md is made from it.
package validate

import (
	"slices"

	"github.com/welfarehub/welfarehub/pkg/codes"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// Header is a header of a Kafka record.
type Header = event.Header

// Meta is what rules know of the Kafka record besides the value. Check keeps none of it.
type Meta struct {
	Key       []byte   // nil: no key
	Timestamp int64    // of the record, milliseconds since 1970; 0 or less: the record has none
	Headers   []Header // in any order; names may repeat
}

// Violation is a broken rule of code E.
type Violation struct {
	Code    Code
	Field   string // Avro name of the field, name of the header, or "key"
	Message string // for the publisher: what is wrong, the limit, what to do; never a value
}

// Result is the verdict on one event. Reuse it: Check resets it, and a valid event costs no allocation.
// Violations are valid until the next Check.
type Result struct {
	Violations []Violation // in the order of their codes' numbers; several fields may break one rule
	Flags      uint16      // bits by FlagBits
	in         input       // scratch of Check
}

// OK tells whether the event breaks no rule.
func (r *Result) OK() bool { return len(r.Violations) == 0 }

// Codes returns the violated codes, each once, in the order of their numbers.
func (r *Result) Codes() []string {
	out := []string{}
	for _, v := range r.Violations {
		if n := len(out); n == 0 || out[n-1] != string(v.Code) {
			out = append(out, string(v.Code))
		}
	}
	return out
}

// input is what a rule looks at, and where it reports.
type input struct {
	row   *event.Row
	meta  Meta
	lists *codes.Lists
	res   *Result
}

func (in *input) reject(c Code, field, message string) {
	in.res.Violations = append(in.res.Violations, Violation{c, field, message})
}

func (in *input) flag(bit uint16) { in.res.Flags |= bit }

// given tells whether an optional text is there: an empty one says nothing.
func (in *input) given(field int) bool {
	return len(in.row.Vals[field].Bytes) > 0 && !in.row.Vals[field].Null
}

// symbolIs tells whether an enum has a symbol. A symbol newer than our schema is none that we know.
func (in *input) symbolIs(field int, symbol int64) bool {
	v := &in.row.Vals[field]
	return v.Int == symbol && !v.Unknown
}

// Validator checks events of all types. It is safe for concurrent use; a Result is not.
type Validator struct {
	lists *codes.Lists
	plans []*plan // by Type.No - 1
}

// New returns a validator with the shipped reference lists.
func New() *Validator {
	v := &Validator{lists: codes.Default()}
	for _, t := range event.Types {
		v.plans = append(v.plans, newPlan(t))
	}
	return v
}

// Check applies all rules of the row's event to it and its record, and sets res. It keeps neither row nor
// meta. It never panics on a row that a decoder made.
func (v *Validator) Check(row *event.Row, meta Meta, res *Result) {
	p := v.plans[row.Type.No-1]
	clear(res.Violations)
	res.Violations, res.Flags = res.Violations[:0], 0
	res.in = input{row: row, meta: meta, lists: v.lists, res: res}
	for _, check := range p.checks {
		check(p, &res.in)
	}
	res.in = input{}
}

// plan is what the rules of one event need, found once.
type plan struct {
	t       *event.Type
	checks  []func(*plan, *input) // of the rules that concern the event, by number
	texts   []textLimit
	numbers []numberLimit
	scans   []scan
	enums   []int
	dates   []int

	pseudonyms []int
	// Fields of several events; -1 where the event has none.
	comuneCode, inpsCode, nomenclatureCode, schoolCode, validFrom, validTo, meansTest, iseeBand,
	frameworkID, frameworkVersion, indicatorCode int
}

func newPlan(t *event.Type) *plan {
	p := &plan{
		t:          t,
		comuneCode: t.Field("comuneCode"), inpsCode: t.Field("inpsCode"), nomenclatureCode: t.Field("nomenclatureCode"),
		schoolCode: t.Field("schoolCode"), validFrom: t.Field("validFrom"), validTo: t.Field("validTo"),
		meansTest: t.Field("meansTest"), iseeBand: t.Field("iseeBand"),
		frameworkID: t.Field("frameworkId"), frameworkVersion: t.Field("frameworkVersion"), indicatorCode: t.Field("indicatorCode"),
	}
	for i := range t.Fields {
		f := &t.Fields[i]
		switch f.Kind {
		case event.Bytes: // encrypted by the edge, or not
			p.scans = append(p.scans, scan{i, nil})
		case event.String, event.UUID, event.Strings:
			p.scans = append(p.scans, scan{i, machineFormat(f.Name)})
			if slices.Contains(pseudonymFields, f.Name) {
				p.pseudonyms = append(p.pseudonyms, i)
			} else if l, ok := limitOfText(f.Name); ok {
				l.field = i
				p.texts = append(p.texts, l)
			}
		case event.Enum:
			p.enums = append(p.enums, i)
		case event.Date, event.Timestamp:
			if i >= event.HeaderFields {
				p.dates = append(p.dates, i)
			}
		case event.Int, event.Long, event.Double:
			if l, ok := limitOfNumber(f.Name); ok {
				l.field, l.double = i, f.Kind == event.Double
				p.numbers = append(p.numbers, l)
			}
		}
	}
	for i := range registry {
		if r := &registry[i]; r.check != nil && r.concerns(t) {
			p.checks = append(p.checks, r.check)
		}
	}
	return p
}

// symbol returns the index of an enum's symbol, for tables of the rules.
func symbol(eventName, field, name string) int64 {
	t := event.ByName(eventName)
	i := slices.Index(t.Fields[t.MustField(field)].Symbols, name)
	if i < 0 {
		panic("BUG: " + eventName + "." + field + " has no symbol " + name)
	}
	return int64(i)
}

// unknown is the index of UNKNOWN in every enum.
const unknown = 0

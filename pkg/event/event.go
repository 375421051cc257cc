// Package event is the catalogue of welfare events and their in-memory form. It tells loaders,
// producers and rules which events there are, which fields they have and where they travel, and
// decodes, encodes and hashes them without a struct per event.
//
// The catalogue is read from schemas/avro once, at start; nothing here does I/O.
package event

import (
	"fmt"
	"sort"
	"strings"
	"unicode"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/schemas"
)

// Kind is the physical and logical type of a leaf field.
type Kind uint8

// The kinds of leaf fields that the schemas use. A nullable field has the kind of its value.
const (
	String    Kind = iota + 1 // UTF-8 text
	UUID                      // text of a UUID; its form is rule E01, not part of decoding
	Enum                      // Value.Int is the index in Field.Symbols
	Bool                      // Value.Int is 0 or 1
	Int                       // 32 bits
	Long                      // 64 bits
	Double                    // Value.Float
	Bytes                     // opaque bytes
	Date                      // Value.Int in days since 1970-01-01
	Timestamp                 // Value.Int in milliseconds since 1970-01-01 UTC
	Decimal                   // Value.Int unscaled, Field.Scale digits after the point
	Strings                   // array of text, Value.List
)

// Field is one leaf of an event, header and subject flattened.
type Field struct {
	Name      string   // Avro name, for example sourceRecordId
	Path      string   // dotted path in the schema, for example header.sourceRecordId
	Column    string   // ClickHouse column, snake case of Name
	Kind      Kind     //
	Nullable  bool     // a union with null
	Precision int      // of Decimal, digits in all
	Scale     int      // of Decimal, digits after the point
	Symbols   []string // of Enum; Symbols[0] is always UNKNOWN
	Doc       string   // what it means, unit, nullability
	HasDef    bool     // the schema gives a default
	Default   Value    // the default, when HasDef
	Since     int      // version of the event's schema that brought it

	aliases     []string // other paths under which a writer may have it
	symbolSince []int    // version that brought each of Symbols
}

// Family groups events by the purpose of their pseudonyms and by erasure scope.
type Family string

// Families of events (topic welfare.<family>.<event>).
const (
	FamilySupply  Family = "SUPPLY"
	FamilyDemand  Family = "DEMAND"
	FamilyRef     Family = "REF"
	FamilyPoverty Family = "POVERTY"
	FamilySchool  Family = "SCHOOL"
	FamilyControl Family = "CONTROL"
)

// Type is one event of the catalogue.
type Type struct {
	No          int         // 1..16, the number in the catalogue; stable, stored as _type
	Name        string      // ServiceRequested
	Topic       string      // welfare.demand.request
	Table       string      // service_requested
	Family      Family      //
	Key         int         // index in Fields of the field that is the Kafka key
	Subject     int         // index of the subject's pseudonym (pseudonym, student or respondent); -1: none
	Fields      []Field     // leaves in schema order
	Schema      avro.Schema // current schema
	Raw         string      // text of the current schema, as in schemas/avro
	Version     int         // of the current schema, from 1: the last released one, or the one to come
	byName      map[string]int
	byNameOrder []int // field indexes in the order of their names
}

// Header fields come first in every event, in this order, so that their index is the same everywhere.
const (
	EventID = iota
	Source
	SourceRecordID
	RecordVersion
	OccurredAt
	RecordedAt
	OrgCode
	LegalBasis
	Traceparent
	HeaderFields // number of header fields
)

// catalogue lists the events in the order of docs/events.md; keep numbers stable.
var catalogue = []struct {
	name, topic, key string
	family           Family
}{
	{"ServiceOfferPublished", "welfare.supply.offer", "serviceId", FamilySupply},
	{"CapacityChanged", "welfare.supply.capacity", "serviceId", FamilySupply},
	{"ServiceRequested", "welfare.demand.request", "pseudonym", FamilyDemand},
	{"NeedAssessed", "welfare.demand.assessment", "pseudonym", FamilyDemand},
	{"WaitingListChanged", "welfare.demand.waiting", "pseudonym", FamilyDemand},
	{"BenefitDecided", "welfare.demand.benefit", "pseudonym", FamilyDemand},
	{"ServiceDelivered", "welfare.demand.delivery", "pseudonym", FamilyDemand},
	{"TerritoryUpserted", "welfare.ref.territory", "territoryCode", FamilyRef},
	{"PopulationReported", "welfare.ref.population", "territoryCode", FamilyRef},
	{"DeprivationObserved", "welfare.poverty.deprivation", "pseudonym", FamilyPoverty},
	{"ActivitySessionHeld", "welfare.school.session", "schoolCode", FamilySchool},
	{"AttendanceRecorded", "welfare.school.attendance", "student", FamilySchool},
	{"IndicatorObserved", "welfare.school.indicator", "schoolCode", FamilySchool},
	{"FeedbackRecorded", "welfare.school.feedback", "schoolCode", FamilySchool},
	{"RecordRevoked", "welfare.control.revocation", "revokedSource", FamilyControl},
	{"SubjectErased", "welfare.control.erasure", "pseudonym", FamilyControl},
}

// TopicOutcome is where the hub reports what became of each event, as OutcomesReported, keyed by source.
const TopicOutcome = "welfare.outcome"

// OutcomesReportedRaw is the text of the schema of OutcomesReported, and OutcomesReportedSchema the same, read.
var (
	OutcomesReportedRaw    = mustRead("OutcomesReported")
	OutcomesReportedSchema = avro.MustParse(OutcomesReportedRaw)
)

// Types is the catalogue, in the order of its numbers. Callers must not change it.
var Types = mustCatalogue()

var byTopic, byName = index(Types)

// ByTopic returns the event of a topic, or nil.
func ByTopic(topic string) *Type { return byTopic[topic] }

// ByName returns the event of a name, or nil.
func ByName(name string) *Type { return byName[name] }

// Topics returns the topics of the catalogue, in its order. The caller owns the slice.
func Topics() []string {
	out := make([]string, len(Types))
	for i, t := range Types {
		out[i] = t.Topic
	}
	return out
}

// Field returns the index in Fields of the field of that Avro name, or -1.
func (t *Type) Field(name string) int {
	if i, ok := t.byName[name]; ok {
		return i
	}
	return -1
}

// MustField is Field for names that the code itself knows; it panics on an unknown one.
func (t *Type) MustField(name string) int {
	i := t.Field(name)
	if i < 0 {
		panic("BUG: " + t.Name + " has no field " + name)
	}
	return i
}

// SubjectName is the registry subject of the event's values: <topic>-value.
func (t *Type) SubjectName() string { return t.Topic + "-value" }

func index(types []*Type) (topics, names map[string]*Type) {
	topics, names = map[string]*Type{}, map[string]*Type{}
	for _, t := range types {
		topics[t.Topic], names[t.Name] = t, t
	}
	return topics, names
}

func mustRead(name string) string {
	raw, err := schemas.Avro.ReadFile("avro/" + name + ".avsc")
	if err != nil {
		panic("BUG: catalogue: " + err.Error())
	}
	return string(raw)
}

func mustCatalogue() []*Type {
	out := make([]*Type, 0, len(catalogue))
	for i, c := range catalogue {
		t, err := newType(mustRead(c.name))
		if err != nil {
			panic("BUG: catalogue: " + c.name + ": " + err.Error())
		}
		if t.Name != c.name {
			panic("BUG: catalogue: " + c.name + ".avsc defines " + t.Name)
		}
		t.No, t.Topic, t.Family = i+1, c.topic, c.family
		t.Key = t.MustField(c.key)
		t.Subject = -1
		for _, n := range []string{"pseudonym", "student", "respondent"} {
			if j := t.Field(n); j >= 0 {
				t.Subject = j
			}
		}
		if err := t.date(releasedTexts(t.Name)); err != nil {
			panic("BUG: catalogue: " + err.Error())
		}
		out = append(out, t)
	}
	return out
}

// newType flattens a schema into fields. It takes what the catalogue uses (records of leaves, one
// level of nesting, unions of null and one type) and refuses the rest.
func newType(raw string) (*Type, error) {
	s, err := avro.ParseWithCache(raw, "", &avro.SchemaCache{})
	if err != nil {
		return nil, err
	}
	rec, ok := s.(*avro.RecordSchema)
	if !ok {
		return nil, fmt.Errorf("schema is a %s, not a record", s.Type())
	}
	t := &Type{Name: rec.Name(), Table: Snake(rec.Name()), Schema: s, Raw: raw, byName: map[string]int{}}
	if err := t.flatten("", rec); err != nil {
		return nil, err
	}
	t.byNameOrder = t.nameOrder()
	return t, nil
}

func (t *Type) flatten(prefix string, rec *avro.RecordSchema) error {
	for _, f := range rec.Fields() {
		path := prefix + f.Name()
		if r, ok := f.Type().(*avro.RecordSchema); ok {
			if err := t.flatten(path+".", r); err != nil {
				return err
			}
			continue
		}
		leaf, err := newField(f)
		if err != nil {
			return fmt.Errorf("field %s: %w", path, err)
		}
		leaf.Path, leaf.aliases = path, aliasPaths(prefix, f)
		if _, dup := t.byName[leaf.Name]; dup {
			return fmt.Errorf("field %s: the flat name %s is taken", path, leaf.Name)
		}
		t.byName[leaf.Name] = len(t.Fields)
		t.Fields = append(t.Fields, leaf)
	}
	return nil
}

func newField(f *avro.Field) (Field, error) {
	out := Field{Name: f.Name(), Column: Snake(f.Name()), Doc: f.Doc()}
	s := f.Type()
	if u, ok := s.(*avro.UnionSchema); ok {
		if len(u.Types()) != 2 || u.Types()[0].Type() != avro.Null {
			return out, fmt.Errorf("union must be [null, T]")
		}
		out.Nullable, s = true, u.Types()[1]
	}
	switch v := s.(type) {
	case *avro.EnumSchema:
		out.Kind, out.Symbols = Enum, v.Symbols()
		if len(out.Symbols) == 0 || out.Symbols[0] != "UNKNOWN" || v.Default() != "UNKNOWN" {
			return out, fmt.Errorf("enum %s must have UNKNOWN first and as default", v.Name())
		}
	case *avro.ArraySchema:
		if v.Items().Type() != avro.String {
			return out, fmt.Errorf("array must be of string")
		}
		out.Kind = Strings
	case *avro.PrimitiveSchema:
		var logical avro.LogicalType
		if l := v.Logical(); l != nil {
			logical = l.Type()
		}
		switch {
		case v.Type() == avro.String && logical == avro.UUID:
			out.Kind = UUID
		case v.Type() == avro.String:
			out.Kind = String
		case v.Type() == avro.Bytes && logical == avro.Decimal:
			d := v.Logical().(*avro.DecimalLogicalSchema)
			out.Kind, out.Precision, out.Scale = Decimal, d.Precision(), d.Scale()
			if out.Precision > 18 {
				return out, fmt.Errorf("decimal precision %d is over 18", out.Precision)
			}
		case v.Type() == avro.Bytes:
			out.Kind = Bytes
		case v.Type() == avro.Boolean:
			out.Kind = Bool
		case v.Type() == avro.Int && logical == avro.Date:
			out.Kind = Date
		case v.Type() == avro.Int:
			out.Kind = Int
		case v.Type() == avro.Long && logical == avro.TimestampMillis:
			out.Kind = Timestamp
		case v.Type() == avro.Long && logical == "":
			out.Kind = Long
		case v.Type() == avro.Double:
			out.Kind = Double
		default:
			return out, fmt.Errorf("type %s with logical type %q is not used in the catalogue", v.Type(), logical)
		}
	default:
		return out, fmt.Errorf("type %s is not used in the catalogue", s.Type())
	}
	if !f.HasDefault() {
		return out, nil
	}
	out.HasDef = true
	switch d := f.Default().(type) {
	case nil:
		out.Default.Null = true
	case bool:
		if d {
			out.Default.Int = 1
		}
	case float64:
		out.Default.Float = d
	case string:
		if out.Kind != Enum || d != out.Symbols[0] {
			return out, fmt.Errorf("default of a text, or another than UNKNOWN of an enum, is not used in the catalogue")
		}
	case []any:
		if len(d) > 0 {
			return out, fmt.Errorf("default of an array must be empty")
		}
	default:
		if !out.Nullable {
			return out, fmt.Errorf("default %v (%T) is not used in the catalogue", d, d)
		}
		out.Default.Null = true
	}
	return out, nil
}

// Snake is the column or table name of an Avro name: serviceId gives service_id.
func Snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) {
			if i > 0 {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// nameOrder returns the field indexes in the order of their names, the order of the content hash.
func (t *Type) nameOrder() []int {
	out := make([]int, len(t.Fields))
	for i := range out {
		out[i] = i
	}
	sort.Slice(out, func(a, b int) bool { return t.Fields[out[a]].Name < t.Fields[out[b]].Name })
	return out
}

package event

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/schemas"
)

// structs are the generated types, by event.
var structs = map[string]any{
	"ServiceOfferPublished": &ServiceOfferPublished{}, "CapacityChanged": &CapacityChanged{},
	"ServiceRequested": &ServiceRequested{}, "NeedAssessed": &NeedAssessed{},
	"WaitingListChanged": &WaitingListChanged{}, "BenefitDecided": &BenefitDecided{},
	"ServiceDelivered": &ServiceDelivered{}, "TerritoryUpserted": &TerritoryUpserted{},
	"PopulationReported": &PopulationReported{}, "DeprivationObserved": &DeprivationObserved{},
	"ActivitySessionHeld": &ActivitySessionHeld{}, "AttendanceRecorded": &AttendanceRecorded{},
	"IndicatorObserved": &IndicatorObserved{}, "FeedbackRecorded": &FeedbackRecorded{},
	"RecordRevoked": &RecordRevoked{}, "SubjectErased": &SubjectErased{},
}

// TestRowIsTheTwinOfTheGeneratedStruct encodes random rows, has hamba/avro read them into the structs
// and compares value by value; then the other way round.
func TestRowIsTheTwinOfTheGeneratedStruct(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, typ := range Types {
		dec, err := NewDecoder(typ, typ.Schema)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			row := randomRow(rng, typ)
			data := row.AppendAvro(nil)
			s := reflect.New(reflect.TypeOf(structs[typ.Name]).Elem())
			if err := avro.Unmarshal(typ.Schema, data, s.Interface()); err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
			for i := range typ.Fields {
				if err := sameAsStruct(row, i, s.Elem()); err != nil {
					t.Fatalf("%s: %v", typ.Name, err)
				}
			}
			back, err := avro.Marshal(typ.Schema, s.Interface())
			if err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
			got := NewRow(typ)
			if err := dec.Decode(back, got); err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
			if err := sameRow(row, got); err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
		}
	}
}

// sameAsStruct compares field i of row with the member of s that its path names.
func sameAsStruct(row *Row, i int, s reflect.Value) error {
	f, v := &row.Type.Fields[i], &row.Vals[i]
	m := s
	for p := range strings.SplitSeq(f.Path, ".") {
		name := p
		m = m.FieldByNameFunc(func(n string) bool {
			return strings.EqualFold(n, name)
		})
		if !m.IsValid() {
			return fmt.Errorf("no member for %s", f.Path)
		}
	}
	if f.Nullable {
		if m.IsNil() != v.Null {
			return fmt.Errorf("%s: null %v, struct %v", f.Name, v.Null, m.IsNil())
		}
		if v.Null {
			return nil
		}
		m = m.Elem()
	}
	ok := false
	switch f.Kind {
	case String, UUID:
		ok = m.String() == string(v.Bytes)
	case Bytes:
		ok = string(m.Bytes()) == string(v.Bytes)
	case Enum:
		ok = m.String() == row.Symbol(i)
	case Bool:
		ok = m.Bool() == (v.Int == 1)
	case Int, Long:
		ok = m.Int() == v.Int
	case Double:
		ok = m.Float() == v.Float
	case Date, Timestamp:
		ok = m.Interface().(time.Time).Equal(row.Time(i))
	case Decimal:
		want, _ := new(big.Rat).SetString(string(AppendDecimal(nil, v.Int, f.Scale)))
		ok = m.Interface().(*big.Rat).Cmp(want) == 0
	case Strings:
		ok = m.Len() == len(v.List)
		for j := 0; ok && j < m.Len(); j++ {
			ok = m.Index(j).String() == string(v.List[j])
		}
	}
	if !ok {
		return fmt.Errorf("%s differs", f.Name)
	}
	return nil
}

// TestFieldConstantsAreTheIndexes evaluates fields_gen.go and compares each constant with Type.Field.
func TestFieldConstantsAreTheIndexes(t *testing.T) {
	fset := token.NewFileSet()
	gen, err := parser.ParseFile(fset, "fields_gen.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := parser.ParseFile(fset, "stub.go", fmt.Sprintf("package event\nconst HeaderFields = %d\n", HeaderFields), 0)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := new(types.Config).Check("event", fset, []*ast.File{gen, stub}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{"HeaderFields": true}
	check := func(name string, want int) {
		c, ok := pkg.Scope().Lookup(name).(*types.Const)
		if !ok {
			t.Errorf("no constant %s", name)
			return
		}
		seen[name] = true
		if got, _ := constant.Int64Val(c.Val()); int(got) != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	for _, typ := range Types {
		for _, f := range typ.Fields[HeaderFields:] {
			name := strings.ToUpper(f.Name[:1]) + f.Name[1:]
			if s, ok := strings.CutSuffix(name, "Id"); ok {
				name = s + "ID"
			}
			check(typ.Name+name, typ.Field(f.Name))
		}
		check(typ.Name+"Fields", len(typ.Fields))
	}
	for _, name := range pkg.Scope().Names() {
		if !seen[name] {
			t.Errorf("constant %s is of no field", name)
		}
	}
	for i, name := range []string{"eventId", "source", "sourceRecordId", "recordVersion", "occurredAt", "recordedAt", "orgCode", "legalBasis", "traceparent"} {
		for _, typ := range Types {
			if typ.Field(name) != i {
				t.Errorf("%s: %s is field %d, want %d", typ.Name, name, typ.Field(name), i)
			}
		}
	}
}

func TestOutcomesReportedTravels(t *testing.T) {
	raw, err := avroFile("OutcomesReported")
	if err != nil {
		t.Fatal(err)
	}
	id := "018f0000-0000-7000-8000-000000000001"
	in := OutcomesReported{
		Source: "urn:welfare:a:b", Topic: "welfare.demand.request", Partition: 3,
		DecidedAt: time.UnixMilli(1700000000123).UTC(),
		Outcomes: []Outcome{
			{EventID: &id, Outcome: OutcomeKindLoaded, Codes: []string{}, Flags: []string{"W21"}, Offset: 7},
			{Outcome: OutcomeKindRejected, Codes: []string{"P02"}, Flags: []string{}, Offset: 8},
		},
	}
	data, err := avro.Marshal(raw, &in)
	if err != nil {
		t.Fatal(err)
	}
	var out OutcomesReported
	if err := avro.Unmarshal(raw, data, &out); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("got %+v, want %+v", out, in)
	}
}

func avroFile(name string) (avro.Schema, error) {
	raw, err := schemas.Avro.ReadFile("avro/" + name + ".avsc")
	if err != nil {
		return nil, err
	}
	return avro.ParseWithCache(string(raw), "", &avro.SchemaCache{})
}

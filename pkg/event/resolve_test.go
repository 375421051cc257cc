package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
)

// schemaOf is the schema of an event as JSON, to be changed.
type schemaOf map[string]any

func schemaFor(t testing.TB, name string) schemaOf {
	t.Helper()
	var s schemaOf
	if err := json.Unmarshal([]byte(ByName(name).Raw), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// field returns a field by its path, as the schema has it.
func (s schemaOf) field(path string) map[string]any {
	fields := s["fields"].([]any)
	head, rest, nested := strings.Cut(path, ".")
	for _, f := range fields {
		m := f.(map[string]any)
		switch {
		case m["name"] != head:
		case nested:
			return schemaOf(m["type"].(map[string]any)).field(rest)
		default:
			return m
		}
	}
	panic("BUG: no field " + path)
}

func (s schemaOf) add(field string) {
	var m map[string]any
	if err := json.Unmarshal([]byte(field), &m); err != nil {
		panic("BUG: " + err.Error())
	}
	s["fields"] = append(s["fields"].([]any), m)
}

func (s schemaOf) drop(name string) {
	var out []any
	for _, f := range s["fields"].([]any) {
		if f.(map[string]any)["name"] != name {
			out = append(out, f)
		}
	}
	s["fields"] = out
}

func (s schemaOf) text() string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return string(raw)
}

func (s schemaOf) parse(t testing.TB) avro.Schema {
	t.Helper()
	out, err := avro.ParseWithCache(s.text(), "", &avro.SchemaCache{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func typeOf(text string) any {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic("BUG: " + err.Error())
	}
	return v
}

// evolve is one row of the matrix: what a writer's schema has, what our schema has, and what becomes of a value.
type evolve struct {
	name   string
	event  string
	writer func(schemaOf)                      // changes the writer's schema
	ours   func(schemaOf)                      // changes ours
	value  func(m map[string]any)              // changes the value, as hamba/avro takes it
	field  string                              // looked at
	want   string                              // as JSON; "P04" and so on: that code; "no": the schemas do not resolve
	more   func(t *testing.T, row *Row)        // further checks
	bytes  func(t *testing.T, b []byte) []byte // changes the encoded value
}

func setType(path, typ string) func(schemaOf) {
	return func(s schemaOf) {
		f := s.field(path)
		f["type"] = typeOf(typ)
		delete(f, "default")
	}
}

var day = time.Date(2024, 5, 31, 0, 0, 0, 0, time.UTC)

var matrix = []evolve{
	{name: "field added with a default", event: "RecordRevoked", writer: func(s schemaOf) {
		s.add(`{"name":"note","type":"string","default":""}`)
	}, value: func(m map[string]any) { m["note"] = "x" }, field: "revokedSource", want: `"src"`},
	{name: "field added that nests itself", event: "RecordRevoked", writer: func(s schemaOf) {
		s.add(`{"name":"tree","type":["null",{"type":"record","name":"Node","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","Node"]}]}],"default":null}`)
	}, value: func(m map[string]any) {
		node := func(next any) any {
			return map[string]any{"it.welfarehub.v1.Node": map[string]any{"v": 7, "next": next}}
		}
		m["tree"] = node(node(node(nil)))
	}, field: "revokedSource", want: `"src"`},
	{name: "field that only we have", event: "RecordRevoked", ours: func(s schemaOf) {
		s.add(`{"name":"note","type":["null","string"],"default":null}`)
	}, field: "note", want: "null"},
	{name: "enum field that only we have", event: "RecordRevoked", ours: func(s schemaOf) {
		s.add(`{"name":"weight","type":{"type":"enum","name":"Weight","symbols":["UNKNOWN","LIGHT"],"default":"UNKNOWN"},"default":"UNKNOWN"}`)
	}, field: "weight", want: `"UNKNOWN"`, more: func(t *testing.T, row *Row) {
		if row.Vals[row.Type.MustField("weight")].Unknown {
			t.Error("a field that is not there counts as given")
		}
	}},
	{name: "optional field removed", event: "RecordRevoked", writer: func(s schemaOf) { s.drop("revokedType") }, field: "revokedType", want: "null"},
	{name: "required field removed", event: "RecordRevoked", writer: func(s schemaOf) { s.drop("revokedSource") }, want: "no"},
	{
		name: "field renamed, ours has the alias", event: "RecordRevoked", writer: func(s schemaOf) {
			s.field("revokedSource")["name"] = "oldSource"
		}, ours: func(s schemaOf) { s.field("revokedSource")["aliases"] = []any{"older", "oldSource"} },
		value: func(m map[string]any) { m["oldSource"] = "was" }, field: "revokedSource", want: `"was"`,
	},
	{
		name: "field of the header renamed", event: "RecordRevoked", writer: func(s schemaOf) {
			s.field("header.orgCode")["name"] = "body"
		}, ours: func(s schemaOf) { s.field("header.orgCode")["aliases"] = []any{"body"} },
		value: func(m map[string]any) { m["header"].(map[string]any)["body"] = "F205" }, field: "orgCode", want: `"F205"`,
	},
	{
		name: "both names: ours counts", event: "RecordRevoked", writer: func(s schemaOf) {
			s.add(`{"name":"oldSource","type":"string"}`)
		}, ours: func(s schemaOf) { s.field("revokedSource")["aliases"] = []any{"oldSource"} },
		value: func(m map[string]any) { m["oldSource"] = "was" }, field: "revokedSource", want: `"src"`,
	},
	{name: "renamed without an alias", event: "RecordRevoked", writer: func(s schemaOf) { s.field("revokedSource")["name"] = "oldSource" }, want: "no"},
	{
		name: "record renamed, ours has the alias", event: "RecordRevoked", writer: func(s schemaOf) { s["name"] = "RecordAnnulled" },
		ours: func(s schemaOf) { s["aliases"] = []any{"RecordAnnulled"} }, field: "revokedSource", want: `"src"`,
	},
	{
		name: "int to long", event: "RecordRevoked", writer: setType("revokedUpToVersion", `"int"`),
		value: func(m map[string]any) { m["revokedUpToVersion"] = math.MaxInt32 }, field: "revokedUpToVersion", want: "2147483647",
	},
	{name: "long to int", event: "ActivitySessionHeld", writer: setType("minutes", `"long"`), want: "no"},
	{
		name: "int to double", event: "DeprivationObserved", writer: setType("sampleWeight", `"int"`),
		value: func(m map[string]any) { m["sampleWeight"] = 3 }, field: "sampleWeight", want: "3",
	},
	{
		name: "float to double", event: "DeprivationObserved", writer: setType("sampleWeight", `"float"`),
		value: func(m map[string]any) { m["sampleWeight"] = float32(1.5) }, field: "sampleWeight", want: "1.5",
	},
	{name: "double to float is none of ours", event: "RecordRevoked", writer: setType("revokedUpToVersion", `"double"`), want: "no"},
	{
		name: "string to bytes and back", event: "RecordRevoked", writer: setType("revokedSource", `"bytes"`),
		value: func(m map[string]any) { m["revokedSource"] = []byte("raw") }, field: "revokedSource", want: `"raw"`,
	},
	{
		name: "bytes that are no text", event: "RecordRevoked", writer: setType("revokedSource", `"bytes"`),
		value: func(m map[string]any) { m["revokedSource"] = []byte("\xff") }, want: "P07",
	},
	{
		name: "uuid in a union", event: "RecordRevoked", writer: setType("header.eventId", `["null",{"type":"string","logicalType":"uuid"}]`),
		value: func(m map[string]any) {
			m["header"].(map[string]any)["eventId"] = "018f0000-0000-7000-8000-000000000001"
		},
		field: "eventId", want: `"018f0000-0000-7000-8000-000000000001"`,
	},
	{
		name: "null uuid", event: "RecordRevoked", writer: setType("header.eventId", `["null",{"type":"string","logicalType":"uuid"}]`),
		value: func(m map[string]any) { m["header"].(map[string]any)["eventId"] = nil }, want: "P04",
	},
	{
		name: "date in a union, null last", event: "ServiceOfferPublished", writer: setType("validTo", `[{"type":"int","logicalType":"date"},"null"]`),
		value: func(m map[string]any) { m["validTo"] = day }, field: "validTo", want: `"2024-05-31"`,
	},
	{
		name: "null date", event: "ServiceOfferPublished", writer: setType("validTo", `[{"type":"int","logicalType":"date"},"null"]`),
		value: func(m map[string]any) { m["validTo"] = nil }, field: "validTo", want: "null",
	},
	{
		name: "timestamp-micros in a union", event: "ServiceRequested", writer: setType("requestedAt", `["null",{"type":"long","logicalType":"timestamp-micros"}]`),
		value: func(m map[string]any) { m["requestedAt"] = day.Add(1500 * time.Microsecond) }, field: "requestedAt", want: `"2024-05-31T00:00:00.001Z"`,
	},
	{
		name: "micros without their logical type", event: "ServiceRequested", writer: setType("requestedAt", `"long"`),
		value: func(m map[string]any) { m["requestedAt"] = day.UnixMicro() }, want: "P09",
	},
	{name: "time-micros is no instant", event: "ServiceRequested", writer: setType("requestedAt", `{"type":"long","logicalType":"time-micros"}`), want: "no"},
	{name: "local time is no instant", event: "ServiceRequested", writer: setType("requestedAt", `{"type":"long","logicalType":"local-timestamp-millis"}`), want: "no"},
	{name: "a date is no instant", event: "ServiceRequested", writer: setType("requestedAt", `{"type":"int","logicalType":"date"}`), want: "no"},
	{name: "a date is no number", event: "ActivitySessionHeld", writer: setType("minutes", `{"type":"int","logicalType":"date"}`), want: "no"},
	{name: "an instant is no number", event: "RecordRevoked", writer: setType("revokedUpToVersion", `{"type":"long","logicalType":"timestamp-millis"}`), want: "no"},
	{name: "a decimal is no text", event: "RecordRevoked", writer: setType("revokedSource", `{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}`), want: "no"},
	{
		name: "decimal in a union, with fewer digits", event: "BenefitDecided", writer: setType("monthlyAmount", `["null",{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}]`),
		field: "monthlyAmount", want: "null",
	},
	{
		name: "decimal as fixed", event: "CapacityChanged", writer: setType("authorised", `{"type":"fixed","name":"Amount","size":12,"logicalType":"decimal","precision":20,"scale":3}`),
		bytes: fixedDecimal, field: "authorised", want: `"-1.234"`,
	},
	{name: "decimal of another scale", event: "CapacityChanged", writer: setType("authorised", `{"type":"bytes","logicalType":"decimal","precision":14,"scale":2}`), want: "no"},
	{name: "decimal without its logical type", event: "CapacityChanged", writer: setType("authorised", `"bytes"`), want: "no"},
	{name: "enum with a new symbol", event: "RecordRevoked", writer: func(s schemaOf) {
		e := s.field("reason")["type"].(map[string]any)
		e["symbols"] = append(e["symbols"].([]any), "NEWER")
	}, value: func(m map[string]any) { m["reason"] = "NEWER" }, field: "reason", want: `"UNKNOWN"`, more: func(t *testing.T, row *Row) {
		if !row.Vals[row.Type.MustField("reason")].Unknown {
			t.Error("a new symbol does not count as given")
		}
	}},
	{name: "enum in another order", event: "RecordRevoked", writer: func(s schemaOf) {
		s.field("reason")["type"].(map[string]any)["symbols"] = []any{"COURT_ORDER", "UNKNOWN"}
	}, value: func(m map[string]any) { m["reason"] = "COURT_ORDER" }, field: "reason", want: `"COURT_ORDER"`},
	{name: "enum as text", event: "RecordRevoked", writer: setType("reason", `"string"`), want: "no"},
	{
		name: "union with a branch that we cannot read, another comes", event: "RecordRevoked", writer: setType("revokedSource", `["boolean","string"]`),
		value: func(m map[string]any) { m["revokedSource"] = "src" }, field: "revokedSource", want: `"src"`,
	},
	{
		name: "union with a branch that we cannot read, and it comes", event: "RecordRevoked", writer: setType("revokedSource", `["boolean","string"]`),
		value: func(m map[string]any) { m["revokedSource"] = true }, want: "P04",
	},
	{name: "union of what we cannot read", event: "RecordRevoked", writer: setType("revokedSource", `["null","boolean"]`), want: "no"},
	{name: "header as text", event: "RecordRevoked", writer: setType("header", `"string"`), want: "no"},
}

// fixedDecimal puts -1.234 of scale 3, as twelve bytes, in the place of the first decimal.
func fixedDecimal(t *testing.T, b []byte) []byte {
	t.Helper()
	at := strings.Index(string(b), "\x00AMOUNT-----\x00")
	if at < 0 {
		t.Fatal("no amount")
	}
	out := append([]byte{}, b...)
	for i := range 10 {
		out[at+i] = 0xff
	}
	n := int16(-1234)
	out[at+10], out[at+11] = byte(uint16(n)>>8), byte(n)
	return append(out[:at+12], out[at+13:]...)
}

// sample is a value of an event for hamba/avro: what a schema needs, and no more.
func sample(s avro.Schema) any {
	switch v := deref(s).(type) {
	case *avro.RecordSchema:
		m := map[string]any{}
		for _, f := range v.Fields() {
			m[f.Name()] = sample(f.Type())
		}
		return m
	case *avro.UnionSchema:
		if _, ok := v.Types()[0].(*avro.NullSchema); ok {
			return nil
		}
		return sample(v.Types()[0])
	case *avro.EnumSchema:
		return v.Symbols()[0]
	case *avro.ArraySchema:
		return []any{}
	case *avro.FixedSchema:
		return nil
	case *avro.PrimitiveSchema:
		switch logical(v) {
		case avro.Date, avro.TimestampMillis, avro.TimestampMicros, avro.LocalTimestampMillis:
			return day
		case avro.TimeMicros:
			return time.Duration(0)
		case avro.Decimal:
			return nil
		}
		switch v.Type() {
		case avro.String:
			return "src"
		case avro.Bytes:
			return []byte("src")
		case avro.Int:
			return 1
		case avro.Long:
			return int64(1)
		case avro.Boolean:
			return true
		case avro.Float:
			return float32(1)
		case avro.Double:
			return float64(1)
		}
	}
	return nil
}

// TestEvolution is the matrix of writer's and our schemas. Values are written by hamba/avro, so that what
// we read is not what we wrote.
func TestEvolution(t *testing.T) {
	for _, c := range matrix {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			theirs, ours := schemaFor(t, c.event), schemaFor(t, c.event)
			if c.writer != nil {
				c.writer(theirs)
			}
			typ := ByName(c.event)
			if c.ours != nil {
				c.ours(ours)
				var err error
				if typ, err = typ.WithSchema(ours.text()); err != nil {
					t.Fatal(err)
				}
			}
			writer := theirs.parse(t)
			dec, err := NewDecoder(typ, writer)
			if c.want == "no" {
				if err == nil {
					t.Fatal("the schemas resolve")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			data := encode(t, writer, c)
			row := NewRow(typ)
			err = dec.Decode(data, row)
			if strings.HasPrefix(c.want, "P") {
				var e *DecodeError
				if !errors.As(err, &e) || e.Code != c.want || e.Field == "" {
					t.Fatalf("got %v, want %s of a field", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]json.RawMessage
			if err := json.Unmarshal(row.AppendJSON(nil), &got); err != nil {
				t.Fatal(err)
			}
			if string(got[c.field]) != c.want {
				t.Errorf("%s is %s, want %s", c.field, got[c.field], c.want)
			}
			if c.more != nil {
				c.more(t, row)
			}
		})
	}
}

// encode writes the value of a case.
func encode(t *testing.T, writer avro.Schema, c evolve) []byte {
	t.Helper()
	value := sample(writer).(map[string]any)
	if c.value != nil {
		c.value(value)
	}
	var out []byte
	for _, f := range writer.(*avro.RecordSchema).Fields() {
		out = append(out, part(t, f.Type(), value[f.Name()])...)
	}
	if c.bytes != nil {
		out = c.bytes(t, out)
	}
	return out
}

func part(t *testing.T, s avro.Schema, v any) []byte {
	t.Helper()
	if l := logical(s); l == avro.Decimal && v == nil {
		if s.Type() == avro.Fixed {
			return []byte("\x00AMOUNT-----\x00") // see fixedDecimal
		}
		return []byte{2, 5}
	}
	raw, err := avro.Marshal(s, v)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return raw
}

func TestDecoderTellsThatTheWriterHasMore(t *testing.T) {
	typ := ByName("RecordRevoked")
	more := schemaFor(t, "RecordRevoked")
	more.add(`{"name":"note","type":["null","string"],"default":null}`)
	for _, c := range []struct {
		schema avro.Schema
		want   bool
	}{{typ.Schema, false}, {more.parse(t), true}} {
		dec, err := NewDecoder(typ, c.schema)
		if err != nil {
			t.Fatal(err)
		}
		if dec.SkipsFields() != c.want {
			t.Errorf("skips fields: %v", dec.SkipsFields())
		}
	}
}

// TestSkippedValuesAreBounded gives few bytes that name more items than anyone can count through.
func TestSkippedValuesAreBounded(t *testing.T) {
	typ := ByName("RecordRevoked")
	nested := `{"type":"record","name":"E","fields":[]}`
	for i := range 24 {
		nested = fmt.Sprintf(`{"type":"record","name":"N%d","fields":[{"name":"a","type":%s},{"name":"b","type":"%s"}]}`, i, nested, map[bool]string{true: "E", false: fmt.Sprintf("N%d", i-1)}[i == 0])
	}
	for name, c := range map[string]struct {
		field string
		value []byte
	}{
		"2^24 records of no byte": {nested, nil},
		"nulls":                   {`{"type":"array","items":"null"}`, append(appendLong(nil, 1<<40), 0)},
		"nulls in arrays":         {`{"type":"array","items":{"type":"array","items":"null"}}`, nullsInArrays()},
		"a list nested 100,000 times": {
			`{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}`,
			append([]byte(strings.Repeat("\x02", 100_000)), 0),
		},
	} {
		s := schemaFor(t, "RecordRevoked")
		s.add(`{"name":"more","type":` + c.field + `}`)
		dec, err := NewDecoder(typ, s.parse(t))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		data := NewRow(typ).AppendAvro(nil)
		began := time.Now()
		var e *DecodeError
		if err := dec.Decode(append(data, c.value...), NewRow(typ)); !errors.As(err, &e) || e.Code != "P04" {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// nullsInArrays are 50,000 arrays, each of as many nulls as one array may have.
func nullsInArrays() []byte {
	out := appendLong(nil, 50_000)
	for range 50_000 {
		out = append(appendLong(out, 150_000), 0)
	}
	return append(out, 0)
}

func TestHashesOfTwoReleasesAgreeOnWhatBothKnow(t *testing.T) {
	old := ByName("RecordRevoked")
	s := schemaFor(t, "RecordRevoked")
	s.add(`{"name":"note","type":["null","string"],"default":null}`)
	e := s.field("reason")["type"].(map[string]any)
	e["symbols"] = append(e["symbols"].([]any), "NEWER")
	typ, err := old.WithSchema(s.text())
	if err != nil {
		t.Fatal(err)
	}
	if old.Version != 1 || typ.Version != 2 {
		t.Fatalf("versions %d and %d", old.Version, typ.Version)
	}
	read := func(as *Type, data []byte) *Row {
		t.Helper()
		dec, err := NewDecoder(as, typ.Schema)
		if err != nil {
			t.Fatal(err)
		}
		row := NewRow(as)
		if err := dec.Decode(data, row); err != nil {
			t.Fatal(err)
		}
		return row
	}
	var h Hasher
	row := NewRow(typ)
	row.Set(Source, "s")
	plain := row.AppendAvro(nil)
	row.Set(typ.MustField("note"), "x")
	noted := row.AppendAvro(nil)
	row.SetInt(typ.MustField("reason"), int64(len(typ.Fields[typ.MustField("reason")].Symbols)-1))
	newer := row.AppendAvro(nil)
	for name, data := range map[string][]byte{"plain": plain, "new field": noted, "new symbol": newer} {
		before, now := h.Sum(read(old, data)), h.SumAt(read(typ, data), old.Version)
		if before != now {
			t.Errorf("%s: the newer release does not find the older one's hash", name)
		}
		if same := h.Sum(read(typ, data)) == before; same != (name == "plain") {
			t.Errorf("%s: the same hash: %v", name, same)
		}
	}
}

func TestWithSchemaChecks(t *testing.T) {
	typ := ByName("RecordRevoked")
	s := schemaFor(t, "RecordRevoked")
	s.drop("revokedSource")
	for name, raw := range map[string]string{"no schema": "{", "another event": ByName("SubjectErased").Raw, "no key": s.text()} {
		if _, err := typ.WithSchema(raw); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

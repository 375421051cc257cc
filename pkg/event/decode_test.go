package event

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
)

// RandomRow fills a row of type t with values that its schema can carry, null where it may be, at random.
func randomRow(rng *rand.Rand, t *Type) *Row {
	r := NewRow(t)
	for i := range t.Fields {
		f := &t.Fields[i]
		if f.Nullable && rng.IntN(3) == 0 {
			continue
		}
		switch f.Kind {
		case String, UUID, Bytes:
			r.Set(i, strings.Repeat("aè", rng.IntN(5)))
		case Enum:
			r.SetInt(i, int64(rng.IntN(len(f.Symbols))))
		case Bool:
			r.SetInt(i, int64(rng.IntN(2)))
		case Int:
			r.SetInt(i, int64(int32(rng.Uint32())))
		case Long:
			r.SetInt(i, int64(rng.Uint64()))
		case Double:
			r.Vals[i] = Value{Float: rng.NormFloat64()}
		case Date:
			r.SetInt(i, rng.Int64N(40000)-10000)
		case Timestamp:
			r.SetInt(i, rng.Int64N(4e12)-1e12)
		case Decimal:
			r.SetInt(i, rng.Int64N(2*pow10[f.Precision]-1)-pow10[f.Precision]+1)
		case Strings:
			r.Vals[i] = Value{}
			for range rng.IntN(3) {
				r.Vals[i].List = append(r.Vals[i].List, []byte("x"))
			}
		}
	}
	return r
}

func sameRow(a, b *Row) error {
	for i, f := range a.Type.Fields {
		x, y := a.Vals[i], b.Vals[i]
		if x.Null != y.Null || x.Int != y.Int || x.Float != y.Float || x.Unknown != y.Unknown ||
			string(x.Bytes) != string(y.Bytes) || len(x.List) != len(y.List) {
			return fmt.Errorf("field %s: %+v and %+v", f.Name, x, y)
		}
		for j := range x.List {
			if string(x.List[j]) != string(y.List[j]) {
				return fmt.Errorf("field %s: item %d differs", f.Name, j)
			}
		}
	}
	return nil
}

func TestDecodeReturnsWhatWasEncoded(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, typ := range Types {
		dec, err := NewDecoder(typ, typ.Schema)
		if err != nil {
			t.Fatal(err)
		}
		got := NewRow(typ)
		for range 200 {
			want := randomRow(rng, typ)
			data := want.AppendAvro(nil)
			if err := dec.Decode(data, got); err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
			if err := sameRow(want, got); err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
			if want.ContentHash() != got.ContentHash() {
				t.Fatalf("%s: content hash changed on the way", typ.Name)
			}
			var generic map[string]any
			if err := avro.Unmarshal(typ.Schema, data, &generic); err != nil {
				t.Fatalf("%s: hamba/avro cannot read what we wrote: %v", typ.Name, err)
			}
			again, err := avro.Marshal(typ.Schema, generic)
			if err != nil {
				t.Fatal(err)
			}
			if err := dec.Decode(again, got); err != nil {
				t.Fatalf("%s: cannot read what hamba/avro wrote: %v", typ.Name, err)
			}
			if err := sameRow(want, got); err != nil {
				t.Fatalf("%s: through hamba/avro: %v", typ.Name, err)
			}
		}
	}
}

func TestDecodeRefusesCutAndLongValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, typ := range Types {
		dec, err := NewDecoder(typ, typ.Schema)
		if err != nil {
			t.Fatal(err)
		}
		data, row := randomRow(rng, typ).AppendAvro(nil), NewRow(typ)
		for n := range data {
			var e *DecodeError
			if err := dec.Decode(data[:n], row); !errors.As(err, &e) || e.Code != "P04" {
				t.Fatalf("%s cut at %d of %d: %v", typ.Name, n, len(data), err)
			}
		}
		var e *DecodeError
		if err := dec.Decode(append(data, 0), row); !errors.As(err, &e) || e.Code != "P05" {
			t.Fatalf("%s with a byte more: %v", typ.Name, err)
		}
	}
}

const evolved = `{"type":"record","name":"RecordRevoked","namespace":"it.welfarehub.v1","fields":[
 {"name":"new","type":{"type":"map","values":{"type":"array","items":"int"}}},
 {"name":"header","type":{"type":"record","name":"EventHeader","fields":[
  {"name":"eventId","type":"string"},{"name":"source","type":["string","null"]},{"name":"sourceRecordId","type":"bytes"},
  {"name":"recordVersion","type":"int"},{"name":"more","type":["null",{"type":"record","name":"R","fields":[{"name":"x","type":"float"}]}]},
  {"name":"occurredAt","type":{"type":"long","logicalType":"timestamp-micros"}},{"name":"recordedAt","type":"long"},
  {"name":"orgCode","type":"string"}]}},
 {"name":"revokedSource","type":"string"},{"name":"revokedSourceRecordId","type":"string"},{"name":"revokedUpToVersion","type":"long"},
 {"name":"reason","type":{"type":"enum","name":"RevocationReason","symbols":["NEW","UNKNOWN","DUPLICATE"],"default":"UNKNOWN"}}]}`

func TestDecodeResolvesAnotherSchema(t *testing.T) {
	typ := ByName("RecordRevoked")
	writer, err := avro.ParseWithCache(evolved, "", &avro.SchemaCache{})
	if err != nil {
		t.Fatal(err)
	}
	value := func(source any, reason string) []byte {
		data, err := avro.Marshal(writer, map[string]any{
			"new": map[string]any{"k": []int{1, 2}},
			"header": map[string]any{
				"eventId": "e", "source": source, "sourceRecordId": []byte("r"), "recordVersion": 3,
				"more": map[string]any{"it.welfarehub.v1.R": map[string]any{"x": float32(1)}}, "occurredAt": time.UnixMicro(-1500).UTC(), "recordedAt": int64(7), "orgCode": "F205",
			},
			"revokedSource": "s", "revokedSourceRecordId": "q", "revokedUpToVersion": int64(2), "reason": reason,
		})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	dec, err := NewDecoder(typ, writer)
	if err != nil {
		t.Fatal(err)
	}
	row := NewRow(typ)
	if err := dec.Decode(value("s", "DUPLICATE"), row); err != nil {
		t.Fatal(err)
	}
	reason, revokedType := typ.MustField("reason"), typ.MustField("revokedType")
	if row.Str(Source) != "s" || row.Str(SourceRecordID) != "r" || row.Vals[RecordVersion].Int != 3 || row.Vals[OccurredAt].Int != -2 ||
		row.Symbol(reason) != "DUPLICATE" || !row.Vals[revokedType].Null || !row.Vals[LegalBasis].Null {
		t.Errorf("row %+v", row.Vals)
	}
	if err := dec.Decode(value("s", "NEW"), row); err != nil || !row.Vals[reason].Unknown || row.Symbol(reason) != "UNKNOWN" {
		t.Errorf("a new symbol: %v, %+v", err, row.Vals[reason])
	}
	var e *DecodeError
	if err := dec.Decode(value(nil, "NEW"), row); !errors.As(err, &e) || e.Code != "P04" {
		t.Errorf("null for a required field: %v", err)
	}
	if _, err := NewDecoder(ByName("SubjectErased"), writer); !errors.Is(err, ErrOtherEvent) {
		t.Errorf("schema of another event: %v", err)
	}
	short := avro.MustParse(`{"type":"record","name":"SubjectErased","namespace":"it.welfarehub.v1","fields":[{"name":"keyEpoch","type":"int"}]}`)
	if _, err := NewDecoder(ByName("SubjectErased"), short); err == nil || !strings.Contains(err.Error(), "header.eventId") {
		t.Errorf("fields missing without default: %v", err)
	}
}

func TestDecodeChecksTimesNumbersAndText(t *testing.T) {
	typ := ByName("CapacityChanged")
	dec, err := NewDecoder(typ, typ.Schema)
	if err != nil {
		t.Fatal(err)
	}
	year := func(y int) int64 { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() }
	for _, c := range []struct {
		name string
		set  func(r *Row)
		code string
	}{
		{"first instant", func(r *Row) { r.SetInt(OccurredAt, year(1900)) }, ""},
		{"before it", func(r *Row) { r.SetInt(OccurredAt, year(1900)-1) }, "P09"},
		{"last instant", func(r *Row) { r.SetInt(OccurredAt, year(2201)-1) }, ""},
		{"after it", func(r *Row) { r.SetInt(OccurredAt, year(2201)) }, "P09"},
		{"largest decimal", func(r *Row) { r.SetInt(typ.MustField("authorised"), pow10[14]-1) }, ""},
		{"too large a decimal", func(r *Row) { r.SetInt(typ.MustField("authorised"), pow10[14]) }, "P04"},
		{"too small a decimal", func(r *Row) { r.SetInt(typ.MustField("authorised"), math.MinInt64) }, "P04"},
		{"bad text", func(r *Row) { r.Set(Source, "a\xff") }, "P07"},
	} {
		r, got := NewRow(typ), NewRow(typ)
		c.set(r)
		var e *DecodeError
		code := ""
		if err := dec.Decode(r.AppendAvro(nil), got); errors.As(err, &e) {
			code = e.Code
		}
		if code != c.code {
			t.Errorf("%s: code %q, want %q", c.name, code, c.code)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	typ := ByName("ServiceRequested")
	dec, err := NewDecoder(typ, typ.Schema)
	if err != nil {
		t.Fatal(err)
	}
	data, row := randomRow(rand.New(rand.NewPCG(2, 2)), typ).AppendAvro(nil), NewRow(typ)
	var h Hasher
	h.Sum(row)
	if n := testing.AllocsPerRun(100, func() {
		if err := dec.Decode(data, row); err != nil {
			t.Fatal(err)
		}
		h.Sum(row)
	}); n > 0 {
		t.Errorf("%v allocations per event", n)
	}
}

func TestContentHashIsOfTheContentOnly(t *testing.T) {
	typ := ByName("DeprivationObserved")
	a := randomRow(rand.New(rand.NewPCG(3, 3)), typ)
	b := a.Clone()
	b.Set(EventID, "other")
	b.SetInt(RecordedAt, 5)
	b.Set(Traceparent, "tp")
	if a.ContentHash() != b.ContentHash() {
		t.Error("eventId, recordedAt and traceparent change the hash")
	}
	for i, f := range typ.Fields {
		if i == EventID || i == RecordedAt || i == Traceparent {
			continue
		}
		c := a.Clone()
		switch f.Kind {
		case Enum, Bool:
			c.SetInt(i, 1-min(a.Vals[i].Int, 1))
		case Double:
			c.Vals[i] = Value{Float: a.Vals[i].Float + 1}
		case String, UUID, Bytes:
			c.Set(i, "changed")
		default:
			c.SetInt(i, a.Vals[i].Int+1)
		}
		if a.ContentHash() == c.ContentHash() {
			t.Errorf("field %s does not change the hash", f.Name)
		}
	}
}

func TestParseUUID(t *testing.T) {
	id, ok := ParseUUID([]byte("0190a1b2-C3D4-7e5f-8a9b-0c1d2e3f4a5b"))
	if !ok || hex.EncodeToString(id[:]) != "0190a1b2c3d47e5f8a9b0c1d2e3f4a5b" {
		t.Errorf("%x %v", id, ok)
	}
	for _, s := range []string{"", "0190a1b2c3d47e5f8a9b0c1d2e3f4a5b", "{190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b}", "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5g"} {
		if _, ok := ParseUUID([]byte(s)); ok {
			t.Errorf("%q is taken for a UUID", s)
		}
	}
}

func TestCatalogue(t *testing.T) {
	if len(Types) != 16 {
		t.Fatalf("%d events", len(Types))
	}
	header := []string{"eventId", "source", "sourceRecordId", "recordVersion", "occurredAt", "recordedAt", "orgCode", "legalBasis", "traceparent"}
	for _, typ := range Types {
		var names []string
		for _, f := range typ.Fields[:HeaderFields] {
			names = append(names, f.Name)
		}
		if !reflect.DeepEqual(names, header) {
			t.Errorf("%s: header %v", typ.Name, names)
		}
		for _, f := range typ.Fields {
			if f.Doc == "" {
				t.Errorf("%s.%s has no doc", typ.Name, f.Path)
			}
		}
		if ByTopic(typ.Topic) != typ || ByName(typ.Name) != typ || ByTopic("x") != nil {
			t.Errorf("%s is not found", typ.Name)
		}
	}
}

func BenchmarkDecodeAndHash(b *testing.B) {
	typ := ByName("ServiceRequested")
	dec, _ := NewDecoder(typ, typ.Schema)
	data, row := randomRow(rand.New(rand.NewPCG(2, 2)), typ).AppendAvro(nil), NewRow(typ)
	var h Hasher
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := dec.Decode(data, row); err != nil {
			b.Fatal(err)
		}
		h.Sum(row)
	}
}

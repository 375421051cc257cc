package validate_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/validate"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

func TestCheckDoesNotAllocateForValidEvents(t *testing.T) {
	v := validate.New()
	var res validate.Result
	for _, typ := range event.Types {
		row := validtest.Valid(typ)
		meta := validtest.Meta(row)
		if n := testing.AllocsPerRun(100, func() { v.Check(row, meta, &res) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", typ.Name, n)
		}
	}
}

func TestResultIsReset(t *testing.T) {
	v := validate.New()
	var res validate.Result
	row, meta := apply("CapacityChanged", set{"eventId": "x", "operational": 0})
	v.Check(row, meta, &res)
	if res.OK() || res.Flags == 0 {
		t.Fatalf("got %q", verdict(&res))
	}
	row, meta = apply("CapacityChanged", nil)
	v.Check(row, meta, &res)
	if !res.OK() || res.Flags != 0 {
		t.Errorf("a valid event after an invalid one: got %q", verdict(&res))
	}
}

func TestFlagBitsAreStable(t *testing.T) {
	want := []string{"W03", "W21", "W24", "W34", "W35", "W36", "W61", "W90"}
	if got := validate.FlagNames(0xff); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: the bits are stored", got, want)
	}
	if got := validate.FlagNames(1<<1 | 1<<15); !slices.Equal(got, []string{"W21"}) {
		t.Errorf("got %v, want W21", got)
	}
	if got := validate.FlagNames(0); got == nil || len(got) != 0 {
		t.Errorf("got %v, want an empty list", got)
	}
	for i, name := range want {
		if got, ok := validate.FlagMask([]string{name}); !ok || got != 1<<i {
			t.Errorf("%s is bit %b", name, got)
		}
	}
	if _, ok := validate.FlagMask([]string{"W41"}); ok {
		t.Error("W41 depends on other events, but has a bit")
	}
}

func TestYearsAreThoseOfTheDecoder(t *testing.T) {
	for _, tt := range []struct {
		at   string
		want bool
	}{{"1899-12-31", false}, {"1900-01-01", true}, {"2200-12-31", true}, {"2201-01-01", false}} {
		d, err := time.Parse(time.DateOnly, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := validate.TimestampInRange(d.UnixMilli()); got != tt.want {
			t.Errorf("instant %s: got %v", tt.at, got)
		}
		if got := validate.TimestampInRange(d.UnixMilli() - 1); got != (tt.want && tt.at != "1900-01-01" || tt.at == "2201-01-01") {
			t.Errorf("millisecond before %s: got %v", tt.at, got)
		}
		if got := validate.DateInRange(d.Unix() / 86400); got != tt.want {
			t.Errorf("date %s: got %v", tt.at, got)
		}
		typ := event.ByName("SubjectErased")
		dec, err := event.NewDecoder(typ, typ.Schema)
		if err != nil {
			t.Fatal(err)
		}
		row := validtest.Valid(typ)
		row.SetInt(event.SubjectErasedDueBy, d.UnixMilli())
		if err := dec.Decode(row.AppendAvro(nil), event.NewRow(typ)); (err == nil) != tt.want {
			t.Errorf("decoder on %s: got %v", tt.at, err)
		}
	}
}

// randomRow fills a row with what a decoder may deliver, sensible or not.
func randomRow(rng *rand.Rand, typ *event.Type) *event.Row {
	row := validtest.Valid(typ)
	texts := []string{"", "x", "A1.16", "3.INF.01", "015146", "RSSMRA85T10A562S", "rss mra 85t10 a562s", "MI-CP-1", "AS-1", "AS01", "EDU1", "\u00e8 bello", "RecordRevoked"}
	text := func() []byte {
		if rng.IntN(10) == 0 {
			b := make([]byte, rng.IntN(2000))
			for i := range b {
				b[i] = byte(' ' + rng.IntN(95))
			}
			return b
		}
		return []byte(texts[rng.IntN(len(texts))])
	}
	ints := []int64{-1 << 31, -1, 0, 1, 2, 12, 13, 100, 101, 1<<31 - 1}
	for i := range typ.Fields {
		f, v := &typ.Fields[i], &row.Vals[i]
		if rng.IntN(3) > 0 {
			continue
		}
		*v = event.Value{Null: f.Nullable && rng.IntN(3) == 0}
		if v.Null {
			continue
		}
		switch f.Kind {
		case event.String, event.UUID, event.Bytes:
			v.Bytes = text()
		case event.Strings:
			for range rng.IntN(4) {
				v.List = append(v.List, text())
			}
		case event.Enum:
			v.Int = rng.Int64N(int64(len(f.Symbols)))
			if rng.IntN(8) == 0 {
				v.Int, v.Unknown = 0, true
			}
		case event.Bool:
			v.Int = rng.Int64N(2)
		case event.Double:
			v.Float = rng.NormFloat64() * 100
		case event.Date:
			v.Int = -25567 + rng.Int64N(109938)
		case event.Timestamp:
			v.Int = -2208988800000 + rng.Int64N(9498643200000)
		case event.Decimal:
			v.Int = rng.Int64N(2e14) - 1e14
		default:
			v.Int = ints[rng.IntN(len(ints))]
			if f.Kind == event.Long && rng.IntN(4) == 0 {
				v.Int = int64(rng.Uint64())
			}
		}
	}
	return row
}

// FuzzCheck holds for any row that a decoder may deliver: no panic, codes in order and known, a field that
// is there, the same verdict again.
func FuzzCheck(f *testing.F) {
	for i := range event.Types {
		f.Add(uint64(i), uint8(i), []byte("k"), "ce_id", []byte("v"), int64(1))
	}
	v := validate.New()
	known := map[validate.Code]bool{}
	for _, r := range validate.Rules() {
		known[r.Code] = r.By == validate.ByRules
	}
	f.Fuzz(func(t *testing.T, seed uint64, no uint8, key []byte, hk string, hv []byte, ts int64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		row := randomRow(rng, event.Types[int(no)%len(event.Types)])
		meta := validate.Meta{Key: key, Timestamp: ts, Headers: []validate.Header{{Key: hk, Value: hv}}}
		var res, again validate.Result
		v.Check(row, meta, &res)
		for i, vi := range res.Violations {
			if !known[vi.Code] || !vi.Code.Rejects() {
				t.Errorf("%s is no code of Check", vi.Code)
			}
			if i > 0 && validate.Compare(res.Violations[i-1].Code, vi.Code) > 0 {
				t.Errorf("%s comes after %s", vi.Code, res.Violations[i-1].Code)
			}
			if row.Type.Field(vi.Field) < 0 && vi.Field != "key" && vi.Field != "header" && vi.Field != hk {
				t.Errorf("%s blames %q", vi.Code, vi.Field)
			}
		}
		v.Check(row, meta, &again)
		if !slices.Equal(res.Violations, again.Violations) || res.Flags != again.Flags {
			t.Error("the second verdict differs")
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	v := validate.New()
	var res validate.Result
	for _, name := range []string{"ServiceRequested", "BenefitDecided", "CapacityChanged", "IndicatorObserved", "FeedbackRecorded"} {
		row := validtest.Valid(event.ByName(name))
		meta := validtest.Meta(row)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v.Check(row, meta, &res)
			}
		})
	}
}

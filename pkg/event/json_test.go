package event

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// jsonRow is a random row that JSON can carry: finite doubles, times in range, text.
func jsonRow(rng *rand.Rand, t *Type) *Row {
	r := randomRow(rng, t)
	texts := []string{"", "a", "è", "\"q\"\\", "\n\t\x01\x7f", "😀\u2028", "null", "2024-01-01"}
	for i := range t.Fields {
		if r.Vals[i].Null {
			continue
		}
		switch t.Fields[i].Kind {
		case String, UUID:
			r.Set(i, texts[rng.IntN(len(texts))])
		case Date:
			r.SetInt(i, (minMillis+rng.Int64N(maxMillis-minMillis))/dayMillis)
		case Timestamp:
			r.SetInt(i, minMillis+rng.Int64N(maxMillis-minMillis))
		}
	}
	return r
}

func TestJSONReturnsTheRow(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, typ := range Types {
		got := NewRow(typ)
		for range 200 {
			row := jsonRow(rng, typ)
			data := row.AppendJSON(nil)
			if !json.Valid(data) {
				t.Fatalf("%s: not JSON: %s", typ.Name, data)
			}
			if err := ParseJSON(typ, data, got); err != nil {
				t.Fatalf("%s: %v in %s", typ.Name, err, data)
			}
			if err := sameRow(row, got); err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
		}
	}
}

// TestTextReturnsTheRow sets each field from the text that JSON has between its quotes.
func TestTextReturnsTheRow(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, typ := range Types {
		for range 50 {
			row, got := jsonRow(rng, typ), NewRow(typ)
			for i := range typ.Fields {
				f, v := &typ.Fields[i], &row.Vals[i]
				text := ""
				switch {
				case v.Null:
				case f.Kind == String || f.Kind == UUID:
					if text = string(v.Bytes); text == "" {
						row.Set(i, "x")
						text = "x"
					}
				case f.Kind == Bytes:
					text = strings.Trim(string(appendJSONValue(nil, f, v)), `"`)
					if text == "" {
						row.Set(i, "x")
						text = "eA=="
					}
				case f.Kind == Strings:
					for j, s := range v.List {
						if j > 0 {
							text += ";"
						}
						text += string(s)
					}
				default:
					text = strings.Trim(string(appendJSONValue(nil, f, v)), `"`)
				}
				if err := SetText(got, i, text); err != nil {
					t.Fatalf("%s: %v", typ.Name, err)
				}
			}
			if err := sameRow(row, got); err != nil {
				t.Fatalf("%s: %v", typ.Name, err)
			}
		}
	}
}

func TestAppendJSONGolden(t *testing.T) {
	r := NewRow(ByName("ServiceDelivered"))
	r.Set(EventID, "018f0000-0000-7000-8000-000000000001")
	r.Set(Source, "urn:welfare:c_f205:sociale")
	r.SetInt(OccurredAt, 1700000000123)
	r.SetInt(ServiceDeliveredPeriodStart, 19723)
	r.SetInt(ServiceDeliveredAmountTotal, 10123)
	r.SetInt(ServiceDeliveredQuotaSsn, -5)
	r.SetInt(ServiceDeliveredUnit, 3)
	want := `{"eventId":"018f0000-0000-7000-8000-000000000001","source":"urn:welfare:c_f205:sociale","sourceRecordId":"","recordVersion":0,` +
		`"occurredAt":"2023-11-14T22:13:20.123Z","recordedAt":"1970-01-01T00:00:00.000Z","orgCode":"","legalBasis":null,"traceparent":null,` +
		`"pseudonym":"","keyEpoch":0,"householdPseudonym":null,"birthYear":null,"sex":"UNKNOWN","citizenship":"UNKNOWN","comuneCode":"","iseeBand":"UNKNOWN",` +
		`"benefitId":"","serviceId":null,"periodStart":"2024-01-01","periodEnd":"1970-01-01","unit":"HOUR_WEEK","unitsPlanned":null,"unitsDelivered":"0.000",` +
		`"amountTotal":"101.23","quotaEnte":"0.00","quotaUtente":"0.00","quotaSsn":"-0.05","benefitSource":null}`
	if got := string(r.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r.Vals[ServiceDeliveredAmountTotal] = Value{}
	w := NewRow(ByName("IndicatorObserved"))
	w.Vals[IndicatorObservedValue].Float = math.NaN()
	if got := string(w.AppendJSON(nil)); !json.Valid([]byte(got)) || !strings.Contains(got, `"value":"NaN"`) {
		t.Errorf("NaN is written as %s", got)
	}
}

const population = `{"header":{"eventId":"018f0000-0000-7000-8000-000000000001","source":"urn:welfare:istat:pop","sourceRecordId":"a","recordVersion":1,
 "occurredAt":1700000000123,"recordedAt":"2023-11-14T23:13:20.1239+01:00","orgCode":"istat"},
 "territoryCode":"015146","referenceDate":"2023-01-01","ageFrom":0,"ageTo":100,"residents":1354196}`

func TestParseJSONTakesNestedNamesAndMissingFields(t *testing.T) {
	typ := ByName("PopulationReported")
	r := NewRow(ByName("ServiceRequested"))
	for _, extra := range []string{``, `"event":"PopulationReported",`, `"type":"welfare.ref.population",`} {
		if err := ParseJSON(typ, []byte(strings.Replace(population, "{", "{"+extra, 1)), r); err != nil {
			t.Fatal(err)
		}
		if r.Type != typ || r.Vals[OccurredAt].Int != 1700000000123 || r.Vals[RecordedAt].Int != 1700000000123 || r.Vals[PopulationReportedResidents].Int != 1354196 ||
			!r.Vals[LegalBasis].Null || !r.Is(PopulationReportedSex, "UNKNOWN") || r.Str(PopulationReportedTerritoryCode) != "015146" {
			t.Errorf("row is %s", r.AppendJSON(nil))
		}
	}
	d := NewRow(ByName("DeprivationObserved"))
	_ = ParseJSON(d.Type, []byte(`{}`), d)
	if d.Vals[DeprivationObservedSampleWeight].Float != 1 {
		t.Error("a field that is left out lacks its default")
	}
}

// TestParseJSONRefuses has one case per problem. The text SECRET stands for what no error may show.
func TestParseJSONRefuses(t *testing.T) {
	typ := ByName("ServiceDelivered")
	good := map[string]string{
		"eventId": `"x"`, "source": `"s"`, "sourceRecordId": `"r"`, "recordVersion": `1`, "occurredAt": `"2024-01-01T00:00:00Z"`,
		"recordedAt": `"2024-01-01T00:00:00Z"`, "orgCode": `"o"`, "pseudonym": `"p"`, "keyEpoch": `1`, "comuneCode": `"015146"`, "benefitId": `"b"`,
		"periodStart": `"2024-01-01"`, "periodEnd": `"2024-01-31"`, "unitsDelivered": `1.5`, "amountTotal": `"1"`, "quotaEnte": `"1.00"`, "quotaUtente": `0`, "quotaSsn": `0.000`,
	}
	build := func(field, value string) string {
		var b strings.Builder
		for n, v := range good {
			if n == field {
				continue
			}
			b.WriteString(`"` + n + `":` + v + `,`)
		}
		if value == "" {
			return "{" + strings.TrimSuffix(b.String(), ",") + "}"
		}
		return "{" + b.String() + `"` + field + `":` + value + "}"
	}
	row := NewRow(typ)
	if err := ParseJSON(typ, []byte(build("none", "")), row); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ field, value, want string }{
		{"benefitId", ``, "field benefitId: missing; want a text"},
		{"benefitId", `null`, "field benefitId: null; want a text"},
		{"benefitId", `77441`, "field benefitId: wrong type; want a text"},
		{"benefitId", `["SECRET"]`, "field benefitId: wrong type; want a text"},
		{"birthYear", `"SECRET"`, "field birthYear: wrong type; want a whole number of 32 bits, or null"},
		{"birthYear", `1980.5`, "field birthYear: not a whole number in range; want a whole number of 32 bits, or null"},
		{"keyEpoch", `2147483648`, "field keyEpoch: not a whole number in range; want a whole number of 32 bits"},
		{"recordVersion", `9223372036854775808`, "field recordVersion: not a whole number in range; want a whole number of 64 bits"},
		{"recordVersion", `1e3`, "field recordVersion: not a whole number in range; want a whole number of 64 bits"},
		{"sex", `"SECRET"`, "field sex: unknown symbol; want one of UNKNOWN, M, F"},
		{"sex", `1`, "field sex: wrong type; want one of UNKNOWN, M, F"},
		{"periodStart", `"01/02/2024"`, "field periodStart: not a date; want YYYY-MM-DD, years 1900 to 2200"},
		{"periodStart", `"1899-12-31"`, "field periodStart: date out of range; want YYYY-MM-DD, years 1900 to 2200"},
		{"occurredAt", `"2024-01-01"`, "field occurredAt: not a timestamp; want RFC 3339 with its zone (2024-05-31T10:00:00Z) or milliseconds since 1970 (12 digits or more), years 1900 to 2200"},
		{"occurredAt", `1700000000`, "field occurredAt: not milliseconds since 1970 (seconds, or a date?); want RFC 3339 with its zone (2024-05-31T10:00:00Z) or milliseconds since 1970 (12 digits or more), years 1900 to 2200"},
		{"occurredAt", `7289654400000`, "field occurredAt: timestamp out of range; want RFC 3339 with its zone (2024-05-31T10:00:00Z) or milliseconds since 1970 (12 digits or more), years 1900 to 2200"},
		{"amountTotal", `"1.234"`, "field amountTotal: too many decimals; want at most 12 digits, a point and 2 decimals"},
		{"amountTotal", `1e12`, "field amountTotal: too many digits; want at most 12 digits, a point and 2 decimals"},
		{"amountTotal", `"1,50"`, "field amountTotal: not a decimal number; want at most 12 digits, a point and 2 decimals"},
		{"amountTotal", `true`, "field amountTotal: wrong type; want at most 12 digits, a point and 2 decimals"},
		{"servizioId", `"SECRET"`, "field servizioId: unknown field; want fields of ServiceDelivered"},
		{"service_id", `"SECRET"`, "field service_id: unknown field; want fields of ServiceDelivered (serviceId?)"},
		{"VRDGLI11C65F205W", `1`, "unknown field, its name not shown; want fields of ServiceDelivered"},
		{"vrdgliMMCSRFNLRx", `1`, "unknown field, its name not shown; want fields of ServiceDelivered"},
		{"Mario Rossi", `1`, "unknown field, its name not shown; want fields of ServiceDelivered"},
		{"header", `"SECRET"`, "field header: wrong type; want an object"},
		{"header", `{"benefitId":"SECRET"}`, "field header.benefitId: unknown field; want a field of that record; benefitId is elsewhere"},
		{"header", `{"header":{"SECRET":1}}`, "field header.header: unknown field; want fields of ServiceDelivered"},
		{"event", `"SECRET"`, "field event: names another event; want ServiceDelivered"},
	} {
		err := ParseJSON(typ, []byte(build(c.field, c.value)), row)
		var fe *FieldError
		if err == nil || err.Error() != c.want || !errors.As(err, &fe) {
			t.Errorf("%s %s: got %v\nwant %s", c.field, c.value, err, c.want)
		}
	}
	twice := ParseJSON(typ, []byte(strings.Replace(build("none", ""), "{", `{"header":{"orgCode":"SECRET"},`, 1)), row)
	if twice == nil || twice.Error() != "field orgCode: given twice; want once" {
		t.Errorf("twice: %v", twice)
	}
	for _, s := range []string{
		``, `{`, `[]`, `null`, `{"source":"SECRET`, `{"source":"\ud800"}`, `{"source":"SECRET"} x`, `{"a":01}`, `{"a":1,}`, "{\"a\":\"\n\"}", "{\"a\":\"\xff\"}",
		`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	} {
		err := ParseJSON(typ, []byte(s), row)
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != "" || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v", s, err)
		}
	}
	var all FieldErrors
	if err := ParseJSON(typ, []byte(`{}`), row); !errors.As(err, &all) || len(all) != 18 {
		t.Errorf("an empty object gives %d errors: %v", len(all), err)
	}
}

func TestParseDecimalIsExact(t *testing.T) {
	for _, c := range []struct {
		in      string
		want    int64
		problem string
	}{
		{"101.23", 10123, ""},
		{"-0.05", -5, ""},
		{"0", 0, ""},
		{"-0", 0, ""},
		{"000001.10", 110, ""},
		{"1.2300", 123, ""},
		{"1e2", 10000, ""},
		{"12.3e-1", 123, ""},
		{"0.1e1", 100, ""},
		{"999999999999.99", 99999999999999, ""},
		{"1000000000000", 0, "too many digits"},
		{"0e99999999999999999999", 0, "not a decimal number"},
		{"0e999", 0, ""},
		{"1e999", 0, "too many digits"},
		{"1e-999", 0, "too many decimals"},
		{"1.005", 0, "too many decimals"},
		{"", 0, "not a decimal number"},
		{".5", 0, "not a decimal number"},
		{"5.", 0, "not a decimal number"},
		{"+1", 0, "not a decimal number"},
		{"1 000", 0, "not a decimal number"},
		{"--1", 0, "not a decimal number"},
		{"0.1", 10, ""},
		{"0.29", 29, ""},
		{"1.15", 115, ""},
	} {
		got, problem := parseDecimal(c.in, 14, 2)
		if got != c.want || problem != c.problem {
			t.Errorf("%q: %d %q, want %d %q", c.in, got, problem, c.want, c.problem)
		}
	}
}

func TestCatalogueFitsTheParser(t *testing.T) {
	for _, typ := range Types {
		if len(typ.Fields) > maxFields {
			t.Errorf("%s has %d fields, the parser knows %d", typ.Name, len(typ.Fields), maxFields)
		}
		for _, n := range []string{"event", "type", "header", "subject"} {
			if typ.Field(n) >= 0 {
				t.Errorf("%s has a field %s, which JSON gives another meaning", typ.Name, n)
			}
		}
	}
}

func TestMessageCarriesTheEvent(t *testing.T) {
	typ := ByName("PopulationReported")
	row := NewRow(typ)
	if err := ParseJSON(typ, []byte(population), row); err != nil {
		t.Fatal(err)
	}
	row.Set(Traceparent, "00-1-2-01")
	key, value, headers := Message(row, 77)
	if string(key) != "015146" || string(value[:5]) != "\x00\x00\x00\x00M" {
		t.Errorf("key %s, frame %x", key, value[:5])
	}
	dec, err := NewDecoder(typ, typ.Schema)
	if err != nil {
		t.Fatal(err)
	}
	got := NewRow(typ)
	if err := dec.Decode(value[FrameSize:], got); err != nil {
		t.Fatal(err)
	}
	if err := sameRow(row, got); err != nil {
		t.Error(err)
	}
	var text []string
	for _, h := range headers {
		text = append(text, h.Key+"="+string(h.Value))
	}
	want := "content-type=application/avro ce_specversion=1.0 ce_id=018f0000-0000-7000-8000-000000000001 ce_source=urn:welfare:istat:pop " +
		"ce_type=welfare.ref.population ce_subject=a ce_time=2023-11-14T22:13:20.123Z ce_dataschema=/schemas/ids/77 traceparent=00-1-2-01"
	if got := strings.Join(text, " "); got != want {
		t.Errorf("headers %s\nwant    %s", got, want)
	}
}

// FuzzParseJSON: nothing panics; what is taken is JSON and comes back the same; what is not JSON is refused.
func FuzzParseJSON(f *testing.F) {
	f.Add(uint8(8), []byte(population))
	rng := rand.New(rand.NewPCG(1, 2))
	for i, typ := range Types {
		f.Add(uint8(i), jsonRow(rng, typ).AppendJSON(nil))
	}
	f.Add(uint8(0), []byte(`{"a":"\ud83d\ude00\u0000","b":[1,{"c":null}],"event":"x","header":{}}`))
	f.Fuzz(func(t *testing.T, no uint8, data []byte) {
		typ := Types[int(no)%len(Types)]
		row, again := NewRow(typ), NewRow(typ)
		if err := ParseJSON(typ, data, row); err != nil {
			var fe *FieldError
			if !errors.As(err, &fe) {
				t.Fatalf("error is a %T", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("took what is not JSON: %q", data)
		}
		if err := ParseJSON(typ, row.AppendJSON(nil), again); err != nil {
			t.Fatal(err)
		}
		if err := sameRow(row, again); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkParseJSON(b *testing.B) {
	typ := ByName("ServiceRequested")
	data := jsonRow(rand.New(rand.NewPCG(1, 2)), typ).AppendJSON(nil)
	row := NewRow(typ)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := ParseJSON(typ, data, row); err != nil {
			b.Fatal(err)
		}
	}
}

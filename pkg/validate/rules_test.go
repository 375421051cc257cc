package validate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/validate"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

// newer stands for an enum symbol that a newer schema has and ours does not.
type newer struct{}

// set is fields to change in a valid event, with what validtest.Set takes.
type set map[string]any

// cases are changes to a valid event and what Check says of them. Where the changed field is the Kafka
// key, the key follows, and so do the CloudEvents headers. want is codes and flags; empty: accepted.
var cases = []struct {
	event string
	set   set
	want  string
}{
	{"ServiceRequested", set{"eventId": "018F0000-0000-7000-8000-000000000001"}, ""},
	{"ServiceRequested", set{"eventId": "018f000000007000800000000000000a"}, "E01"},
	{"ServiceRequested", set{"eventId": "{018f0000-0000-7000-8000-000000000001}"}, "E01"},
	{"ServiceRequested", set{"eventId": "018g0000-0000-7000-8000-000000000001"}, "E01"},
	{"ServiceRequested", set{"eventId": ""}, "E01"},
	{"ServiceRequested", set{"recordVersion": 1 << 40}, ""},
	{"ServiceRequested", set{"recordVersion": 0}, "E02"},
	{"ServiceRequested", set{"recordVersion": -1}, "E02"},

	{"ServiceRequested", set{"occurredAt": validtest.RecordedAt.Add(5 * time.Minute)}, ""},
	{"ServiceRequested", set{"occurredAt": validtest.RecordedAt.Add(5*time.Minute + time.Millisecond)}, "E03"},
	{"ServiceRequested", set{"recordedAt": validtest.KafkaTime.Add(5 * time.Minute)}, ""},
	{"ServiceRequested", set{"recordedAt": validtest.KafkaTime.Add(5*time.Minute + time.Millisecond)}, "E03"},
	{"ServiceRequested", set{"occurredAt": validtest.RecordedAt.AddDate(-10, 0, 0), "requestedAt": "2014-03-10T09:00:00Z"}, ""},
	{"ServiceRequested", set{"occurredAt": validtest.RecordedAt.AddDate(-10, 0, 0).Add(-time.Millisecond), "requestedAt": "2014-03-10T09:00:00Z"}, "W03"},
	{"ServiceRequested", set{"occurredAt": "1950-01-01T00:00:00Z", "requestedAt": "1990-01-01T00:00:00Z"}, "E14 W03"},

	{"ServiceRequested", set{"comuneCode": "999999"}, ""},
	{"ServiceRequested", set{"comuneCode": "000000"}, ""},
	{"ServiceRequested", set{"comuneCode": "15146"}, "E04"},
	{"ServiceRequested", set{"comuneCode": "F205"}, "E04"},
	{"ServiceRequested", set{"comuneCode": "01514６"}, "E04"},
	{"ServiceOfferPublished", set{"comuneCode": "0151460"}, "E04"},
	{"DeprivationObserved", set{"comuneCode": ""}, "E04"},

	{"ServiceRequested", set{"householdPseudonym": strings.Repeat("0a", 32)}, ""},
	{"ServiceRequested", set{"householdPseudonym": ""}, "E10"},
	{"ServiceRequested", set{"pseudonym": strings.Repeat("0A", 32)}, "E10"},
	{"ServiceRequested", set{"pseudonym": strings.Repeat("0a", 31)}, "E10"},
	{"SubjectErased", set{"pseudonym": "x"}, "E10"},
	{"AttendanceRecorded", set{"student": strings.Repeat("0g", 32)}, "E10"},
	{"IndicatorObserved", set{"student": nil}, ""},
	{"IndicatorObserved", set{"student": "mario"}, "E10"},
	{"FeedbackRecorded", set{"respondent": strings.Repeat("0a", 32)}, ""},
	{"FeedbackRecorded", set{"respondent": "mario"}, "E10"},

	{"ServiceOfferPublished", set{"name": "Nido di RSS MRA 85T10 A562S"}, "E11"},
	{"ServiceOfferPublished", set{"providerCode": "vrdglimmcsrfnlrb"}, "E11"},
	{"ServiceOfferPublished", set{"providerCode": "P-" + strings.Repeat("0a", 32)}, ""},
	{"ServiceOfferPublished", set{"name": "Nido RSSMRA85T10A562T"}, ""},
	{"ServiceOfferPublished", set{"name": "NidoRSSMRA85T10A562S"}, ""},
	{"TerritoryUpserted", set{"successorCodes": []string{"013256", "RSSMRA85T10A562S"}}, "E11"},
	{"ServiceRequested", set{"eventId": "RSSMRA85T10A562S"}, "E01 E11"},
	{"ServiceRequested", set{"pseudonym": "RSSMRA85T10A562S"}, "E10 E11"},
	{"ServiceRequested", set{"traceparent": "RSSMRA85T10A562S"}, "E11"},
	{"ServiceRequested", set{"traceparent": "00-" + strings.Repeat("0a", 16) + "-abcdef12a34b567a-01"}, ""},
	{"ServiceRequested", set{"sourceRecordId": "RSSMRA85T10A562S/2024"}, "E11"},
	{"NeedAssessed", set{"sensitive": `{"cf":"RSSMRA85T10A562S"}`}, "E11"},
	{"NeedAssessed", set{"sensitive": "\x00\xffRSSMRA85T10A562T"}, ""},

	{"ServiceOfferPublished", set{"ageMin": 3, "ageMax": 2}, "E12"},
	{"ServiceOfferPublished", set{"ageMin": nil, "ageMax": nil, "lat": nil, "lon": nil}, ""},
	{"ServiceOfferPublished", set{"ageMin": -1}, "E12"},
	{"ServiceOfferPublished", set{"ageMin": 3, "ageMax": 3}, ""},
	{"ServiceOfferPublished", set{"ageMin": 3, "ageMax": nil}, ""},
	{"ServiceOfferPublished", set{"ageMin": nil, "ageMax": 0}, ""},
	{"ServiceOfferPublished", set{"lat": -90.0, "lon": 180.0}, ""},
	{"ServiceOfferPublished", set{"lat": 90.5}, "E12"},
	{"ServiceOfferPublished", set{"lon": -181.0}, "E12"},
	{"ServiceRequested", set{"keyEpoch": 0}, "E12"},
	{"NeedAssessed", set{"needLevel": 100}, ""},
	{"NeedAssessed", set{"needLevel": 101}, "E12"},
	{"NeedAssessed", set{"needLevel": -1}, "E12"},
	{"ActivitySessionHeld", set{"minutes": 0, "seats": 0, "staff": 0}, ""},
	{"ActivitySessionHeld", set{"minutes": -1}, "E12"},
	{"ActivitySessionHeld", set{"seats": -1}, "E12"},
	{"ActivitySessionHeld", set{"staff": -1}, "E12"},
	{"AttendanceRecorded", set{"minutesPresent": nil}, ""},
	{"AttendanceRecorded", set{"minutesPresent": -1}, "E12"},
	{"RecordRevoked", set{"revokedUpToVersion": 0}, ""},
	{"RecordRevoked", set{"revokedUpToVersion": -1}, "E12"},
	{"DeprivationObserved", set{"frameworkVersion": 0}, "E12 W61"},
	{"TerritoryUpserted", set{"cadastralCode": nil}, ""},
	{"TerritoryUpserted", set{"cadastralCode": "f205"}, "E12"},
	{"TerritoryUpserted", set{"cadastralCode": "FF05"}, "E12"},
	{"TerritoryUpserted", set{"cadastralCode": "F2050"}, "E12"},
	{"TerritoryUpserted", set{"cadastralCode": "Z999"}, ""},

	{"ServiceOfferPublished", set{"inpsCode": nil}, ""},
	{"ServiceOfferPublished", set{"inpsCode": "A2.17"}, ""},
	{"ServiceOfferPublished", set{"inpsCode": "A2.13"}, "W35"},
	{"ServiceOfferPublished", set{"inpsCode": "Z9.99"}, ""},
	{"ServiceRequested", set{"inpsCode": "A2.1"}, "E13"},
	{"ServiceRequested", set{"inpsCode": "11.16"}, "E13"},
	{"ServiceRequested", set{"inpsCode": "AA.16"}, "E13"},
	{"ServiceRequested", set{"inpsCode": "A1-16"}, "E13"},
	{"ServiceRequested", set{"inpsCode": "A1.1x"}, "E13"},
	{"ServiceRequested", set{"inpsCode": "A1.166"}, "E13"},
	{"BenefitDecided", set{"inpsCode": ""}, "E13"},
	{"BenefitDecided", set{"inpsCode": "a1.16"}, "E13"},
	{"ServiceRequested", set{"nomenclatureCode": "1"}, ""},
	{"ServiceRequested", set{"nomenclatureCode": "9.X"}, "W36"},
	{"ServiceOfferPublished", set{"nomenclatureCode": "1234567890123456"}, "W36"},
	{"ServiceOfferPublished", set{"nomenclatureCode": "12345678901234567"}, "E15"},
	{"BenefitDecided", set{"nomenclatureCode": ""}, "E15"},
	{"BenefitDecided", set{"nomenclatureCode": ".A"}, "E15"},
	{"BenefitDecided", set{"nomenclatureCode": "nido"}, "E15"},

	{"ServiceRequested", set{"requestedAt": validtest.OccurredAt.AddDate(0, 24, 0)}, ""},
	{"ServiceRequested", set{"requestedAt": validtest.OccurredAt.AddDate(0, 24, 0).Add(time.Millisecond)}, "E14"},
	{"ServiceRequested", set{"occurredAt": "2023-03-10T09:30:00Z", "requestedAt": "2025-03-10T09:30:00Z"}, ""}, // 731 days
	{"ServiceDelivered", set{"periodStart": "1990-01-01"}, ""},
	{"ServiceDelivered", set{"periodStart": "1989-12-31"}, "E14"},
	{"PopulationReported", set{"referenceDate": "2026-03-10"}, ""},
	{"PopulationReported", set{"referenceDate": "2026-03-11"}, "E14"},
	{"BenefitDecided", set{"endDate": "2034-01-01"}, "E14"},

	{"CapacityChanged", set{"authorised": 0, "operational": 0, "occupied": 0, "funded": nil}, ""},
	{"CapacityChanged", set{"operational": 60_001}, "E20"},
	{"CapacityChanged", set{"operational": -1, "occupied": 0}, "E20 W21"},
	{"CapacityChanged", set{"occupied": -1}, "E20"},
	{"CapacityChanged", set{"funded": -1}, "E20"},
	{"CapacityChanged", set{"funded": 0}, ""},
	{"CapacityChanged", set{"occupied": 50_000}, ""},
	{"CapacityChanged", set{"occupied": 50_001}, "W21"},
	{"CapacityChanged", set{"operational": 0}, "W21 W24"},
	{"CapacityChanged", set{"unit": "FTE", "profession": "EDUCATORE"}, ""},
	{"CapacityChanged", set{"unit": "FTE"}, "E22"},
	{"CapacityChanged", set{"unit": "FTE", "profession": ""}, "E22"},
	{"CapacityChanged", set{"profession": "EDUCATORE"}, "E22"},
	{"CapacityChanged", set{"profession": ""}, ""},
	{"CapacityChanged", set{"unit": "UNKNOWN", "profession": "EDUCATORE"}, "E22"},
	{"CapacityChanged", set{"unit": newer{}, "profession": "EDUCATORE"}, "W90"},
	{"CapacityChanged", set{"unit": newer{}}, "W90"},

	{"ServiceOfferPublished", set{"validTo": "2024-01-02"}, ""},
	{"ServiceOfferPublished", set{"validTo": "2024-01-01"}, "E23"},
	{"TerritoryUpserted", set{"validTo": "2024-01-02"}, ""},
	{"TerritoryUpserted", set{"validTo": "2023-12-31"}, "E23"},

	{"BenefitDecided", set{"months": nil}, ""},
	{"BenefitDecided", set{"monthlyAmount": nil}, ""},
	{"BenefitDecided", set{"months": nil, "monthlyAmount": nil}, "E30"},
	{"BenefitDecided", set{"startDate": nil}, "E30"},
	{"BenefitDecided", set{"oneOffAmount": 100}, "E30"},
	{"BenefitDecided", set{"decision": "RENEWED", "startDate": nil}, "E30"},
	{"BenefitDecided", set{"months": 13}, "E30"},
	{"BenefitDecided", set{"months": 0}, "E30"},
	{"BenefitDecided", set{"months": 1}, ""},
	{"BenefitDecided", set{"decision": "ENDED", "months": 13}, "E30"},
	{"BenefitDecided", set{"decision": "ENDED", "startDate": nil, "endDate": nil, "months": nil, "monthlyAmount": nil, "character": "UNKNOWN"}, ""},
	{"BenefitDecided", set{"decision": "SUSPENDED", "oneOffAmount": 100}, ""},
	{"BenefitDecided", set{"character": "UNKNOWN"}, "E30"},
	{"BenefitDecided", set{"character": newer{}, "startDate": nil}, "W90"},
	{"BenefitDecided", set{"decision": newer{}, "startDate": nil}, "W90"},
	{"BenefitDecided", set{"decision": newer{}, "months": 13}, "E30 W90"},
	{"BenefitDecided", set{"character": "ONE_OFF", "months": nil, "monthlyAmount": nil, "oneOffAmount": 100, "endDate": nil}, ""},
	{"BenefitDecided", set{"character": "ONE_OFF", "monthlyAmount": nil, "oneOffAmount": 100}, "E30"},
	{"BenefitDecided", set{"character": "ONE_OFF", "months": nil, "oneOffAmount": 100}, "E30"},
	{"BenefitDecided", set{"character": "ONE_OFF", "months": nil, "monthlyAmount": nil}, "E30"},
	{"BenefitDecided", set{"character": "ONE_OFF", "months": nil, "monthlyAmount": nil, "oneOffAmount": 100, "startDate": nil}, "E30"},
	{"BenefitDecided", set{"endDate": "2024-04-01"}, ""},
	{"BenefitDecided", set{"endDate": "2024-03-31"}, "E31"},
	{"BenefitDecided", set{"decision": "ENDED", "startDate": nil}, ""},
	{"ServiceDelivered", set{"periodEnd": "2024-02-01"}, ""},
	{"ServiceDelivered", set{"periodEnd": "2024-01-31"}, "E31"},
	// INPS's own example: three quotas, of which one row balances to the cent and one does not.
	{"ServiceDelivered", set{"amountTotal": 126_523, "quotaEnte": 96_769, "quotaUtente": 15_556, "quotaSsn": 14_198}, ""},
	{"ServiceDelivered", set{"quotaSsn": 0}, "E32"},
	{"ServiceDelivered", set{"amountTotal": 10_124}, "E32"},

	{"NeedAssessed", set{"iseeBand": "NOT_PRESENTED"}, ""},
	{"NeedAssessed", set{"iseeBand": "UNKNOWN"}, "E33"},
	{"NeedAssessed", set{"iseeBand": newer{}}, "W90"},
	{"NeedAssessed", set{"iseeBand": "UNKNOWN", "meansTest": "NONE"}, ""},
	{"NeedAssessed", set{"iseeBand": "UNKNOWN", "meansTest": newer{}}, "W90"},
	{"BenefitDecided", set{"iseeBand": "UNKNOWN"}, "E33"},
	{"ServiceRequested", set{"iseeBand": "UNKNOWN"}, ""},
	{"BenefitDecided", set{"meansTest": "OTHER_MEANS"}, "W34"},
	{"BenefitDecided", set{"meansTest": "NONE"}, "W34"},
	{"BenefitDecided", set{"meansTest": "NONE", "iseeThreshold": nil}, ""},
	{"BenefitDecided", set{"meansTest": "ISEE_WAIVED"}, ""},
	{"BenefitDecided", set{"meansTest": "UNKNOWN"}, ""},

	{"WaitingListChanged", set{"change": "LEAVE", "leaveReason": "PLACED"}, ""},
	{"WaitingListChanged", set{"change": "LEAVE"}, "E40"},
	{"WaitingListChanged", set{"leaveReason": "PLACED"}, "E40"},
	{"WaitingListChanged", set{"change": "LEAVE", "leaveReason": newer{}}, "W90"},
	{"WaitingListChanged", set{"leaveReason": newer{}}, "E40 W90"},
	{"WaitingListChanged", set{"change": newer{}, "leaveReason": "PLACED"}, "W90"},
	{"WaitingListChanged", set{"change": newer{}}, "W90"},

	{"PopulationReported", set{"ageFrom": 100, "residents": 0}, ""},
	{"PopulationReported", set{"ageFrom": 5, "ageTo": 4}, "E50"},
	{"PopulationReported", set{"ageFrom": -1}, "E50"},
	{"PopulationReported", set{"ageTo": 101}, "E50"},
	{"PopulationReported", set{"residents": -1}, "E50"},

	{"DeprivationObserved", set{"missing": 1, "deprived": 0}, ""},
	{"DeprivationObserved", set{"missing": 1}, "E60"},
	{"DeprivationObserved", set{"indicatorCode": "CD01"}, "E61"},
	{"DeprivationObserved", set{"frameworkId": "AS-1", "indicatorCode": "AS01"}, "E61"},
	{"DeprivationObserved", set{"frameworkVersion": 2, "indicatorCode": "new"}, "W61"},
	{"DeprivationObserved", set{"frameworkId": "XX-1"}, "W61"},
	{"IndicatorObserved", set{"indicatorCode": "AS99"}, "E61"},
	{"IndicatorObserved", set{"frameworkId": "EU-CD17", "indicatorCode": "CD01"}, "E61"},
	{"IndicatorObserved", set{"frameworkVersion": 7}, "W61"},
	{"DeprivationObserved", set{"sampleWeight": 0.001}, ""},
	{"DeprivationObserved", set{"sampleWeight": 0.0}, "E62"},
	{"DeprivationObserved", set{"sampleWeight": -1.0}, "E62"},
	{"DeprivationObserved", set{"unitKind": "HOUSEHOLD"}, "E63"},
	{"DeprivationObserved", set{"unitKind": "UNKNOWN"}, "E63"},
	{"DeprivationObserved", set{"unitKind": newer{}}, "W90"},
	{"DeprivationObserved", set{"unitKind": "HOUSEHOLD", "indicatorCode": "ECO1"}, ""},
	{"DeprivationObserved", set{"unitKind": "HOUSEHOLD", "frameworkVersion": 2}, "W61"},
	{"IndicatorObserved", set{"level": "SCHOOL"}, "E64"},
	{"IndicatorObserved", set{"level": "UNKNOWN"}, "E64"},
	{"IndicatorObserved", set{"level": newer{}}, "W90"},
	{"IndicatorObserved", set{"indicatorCode": "AS20", "level": "SCHOOL", "value": 12.5}, ""},

	{"ActivitySessionHeld", set{"schoolCode": "mimm8ex00x"}, "E70"},
	{"AttendanceRecorded", set{"schoolCode": "MIMM8EX0Z"}, "E70"},
	{"IndicatorObserved", set{"schoolCode": "MI-M8EX00X"}, "E70"},
	{"FeedbackRecorded", set{"schoolCode": ""}, "E70"},
	{"FeedbackRecorded", set{"schoolCode": "MIMM8EX00XX"}, "E70"},

	{"FeedbackRecorded", set{"likert": 1, "text": ""}, ""},
	{"FeedbackRecorded", set{"likert": 5}, ""},
	{"FeedbackRecorded", set{"likert": 6}, "E72"},
	{"FeedbackRecorded", set{"likert": 0}, "E72"},
	{"FeedbackRecorded", set{"likert": nil}, "E72"},
	{"FeedbackRecorded", set{"likert": nil, "text": ""}, "E72"},
	{"FeedbackRecorded", set{"likert": nil, "text": "Mi piace"}, ""},
	{"FeedbackRecorded", set{"text": "Mi piace"}, "E72"},
	{"FeedbackRecorded", set{"direction": "FROM_FAMILY", "text": "Bene"}, "E72"},
	{"FeedbackRecorded", set{"direction": "TO_SCHOOL", "likert": nil, "text": "Grazie", "inReplyTo": "FB-0"}, ""},
	{"FeedbackRecorded", set{"direction": "TO_STUDENT", "likert": nil, "text": "Grazie", "actionTaken": "Nuovi orari"}, ""},
	{"FeedbackRecorded", set{"direction": "TO_SCHOOL", "likert": nil, "text": "Grazie"}, "E74"},
	{"FeedbackRecorded", set{"direction": "TO_SCHOOL", "likert": nil, "text": "Grazie", "actionTaken": ""}, "E74"},
	{"FeedbackRecorded", set{"direction": "TO_SCHOOL", "likert": 3, "text": "Grazie", "inReplyTo": "FB-0"}, "E72"},
	{"FeedbackRecorded", set{"direction": "TO_SCHOOL", "likert": nil}, "E72 E74"},
	{"FeedbackRecorded", set{"direction": "UNKNOWN", "text": "Bene"}, ""},
	{"FeedbackRecorded", set{"direction": newer{}, "likert": nil}, "W90"},
	{"IndicatorObserved", set{"value": 10.0}, ""},
	{"IndicatorObserved", set{"value": 0.0}, ""},
	{"IndicatorObserved", set{"value": 10.01}, "E73"},
	{"IndicatorObserved", set{"value": -0.01}, "E73"},
	{"IndicatorObserved", set{"value": 85.0, "frameworkVersion": 2}, "W61"},
	{"IndicatorObserved", set{"value": 85.0, "level": "CLASS"}, "E64 E73"},

	{"RecordRevoked", set{"revokedSource": "urn:welfare:other:x"}, "E81"},
	{"RecordRevoked", set{"revokedType": "BenefitDecided"}, ""},
	{"RecordRevoked", set{"revokedType": "NoSuchEvent"}, ""},
	{"RecordRevoked", set{"revokedType": "RecordRevoked"}, "E82"},
	{"RecordRevoked", set{"revokedType": "SubjectErased"}, "E82"},

	{"ServiceRequested", set{"userArea": newer{}}, "W90"},
	// All broken rules are reported, in the order of their numbers.
	{"ServiceRequested", set{
		"eventId": "x", "recordVersion": 0, "comuneCode": "", "pseudonym": "x", "requestId": "", "inpsCode": "x", "nomenclatureCode": "x",
		"requestedAt": "1980-01-01T00:00:00Z", "channel": newer{},
	}, "E01 E02 E04 E10 E12 E13 E14 E15 W90"},
}

// apply returns the valid event with the changes of s, and its key and headers.
func apply(name string, s set) (*event.Row, validate.Meta) {
	row := validtest.Valid(event.ByName(name))
	for f, v := range s {
		if _, ok := v.(newer); ok {
			row.Vals[row.Type.MustField(f)] = event.Value{Unknown: true}
			continue
		}
		validtest.Set(row, f, v)
	}
	return row, validtest.Meta(row)
}

// verdict is codes and flags with a space between.
func verdict(res *validate.Result) string {
	return strings.Join(append(res.Codes(), validate.FlagNames(res.Flags)...), " ")
}

func TestCheck(t *testing.T) {
	v := validate.New()
	var res validate.Result
	for _, tt := range cases {
		row, meta := apply(tt.event, tt.set)
		v.Check(row, meta, &res)
		if got := verdict(&res); got != tt.want {
			t.Errorf("%s %v: got %q %v, want %q", tt.event, tt.set, got, res.Violations, tt.want)
		}
		for _, vi := range res.Violations {
			if err := mentionsValue(row, tt.set, vi); err != nil {
				t.Errorf("%s %v: %v", tt.event, tt.set, err)
			}
			if row.Type.Field(vi.Field) < 0 && !strings.HasPrefix(vi.Field, "ce_") {
				t.Errorf("%s %v: %s names the field %q, which the event has not", tt.event, tt.set, vi.Code, vi.Field)
			}
		}
	}
}

// mentionsValue reports a message that repeats a text that was set.
func mentionsValue(row *event.Row, s set, vi validate.Violation) error {
	for f, v := range s {
		text, ok := v.(string)
		if !ok || len(text) < 3 || row.Type.Fields[row.Type.MustField(f)].Kind == event.Enum || vi.Code == validate.E82 {
			continue
		}
		if strings.Contains(vi.Message, text) {
			return fmt.Errorf("the message of %s holds the value of %s", vi.Code, f)
		}
	}
	return nil
}

func TestValidEventsAreAcceptedWithoutFlags(t *testing.T) {
	v := validate.New()
	var res validate.Result
	for _, typ := range event.Types {
		row := validtest.Valid(typ)
		v.Check(row, validtest.Meta(row), &res)
		if got := verdict(&res); got != "" {
			t.Errorf("%s: got %s %v", typ.Name, got, res.Violations)
		}
		v.Check(row, validate.Meta{Key: row.Vals[typ.Key].Bytes}, &res) // neither headers nor a timestamp
		if got := verdict(&res); got != "" {
			t.Errorf("%s without headers: got %s", typ.Name, got)
		}
	}
}

func TestKeyAndHeaders(t *testing.T) {
	const cf = "RSSMRA85T10A562S"
	v := validate.New()
	var res validate.Result
	header := func(key, value string) func(*validate.Meta) {
		return func(m *validate.Meta) { m.Headers = []validate.Header{{Key: key, Value: []byte(value)}} }
	}
	key := func(k []byte) func(*validate.Meta) { return func(m *validate.Meta) { m.Key = k } }
	for _, tt := range []struct {
		name  string
		meta  func(*validate.Meta)
		want  string
		field string
	}{
		{"no key", key(nil), "E16", "key"},
		{"empty key", key([]byte{}), "E16", "key"},
		{"another key", key([]byte("x")), "E16", "key"},
		{"key that names a person", key([]byte(cf)), "E11 E16", "key"},
		{"ce_id in capitals", header("ce_id", "018F0000-0000-7000-8000-000000000001"), "", ""},
		{"another ce_id", header("ce_id", "018f0000-0000-7000-8000-000000000002"), "E09", "ce_id"},
		{"empty ce_id", header("ce_id", ""), "E09", "ce_id"},
		{"another ce_source", header("ce_source", "urn:x"), "E09", "ce_source"},
		{"ce_type by another name", header("ce_type", "ServiceRequested"), "E09", "ce_type"},
		{"other headers are free", header("ce_time", "yesterday"), "", ""},
		{"case of names counts", header("CE_TYPE", "x"), "", ""},
		{"person in a header", header("x-note", "di "+cf), "E11", "x-note"},
		{"person in ce_id", header("ce_id", cf), "E09 E11", "ce_id"},
		{"person in ce_subject", header("ce_subject", cf), "E11", "ce_subject"},
		{"person in a header's name", header("x-"+cf, ""), "E11", "header"},
		{"long name", header(strings.Repeat("x", 65), cf), "E11", "header"},
		{"longest name", header(strings.Repeat("x", 64), cf), "E11", strings.Repeat("x", 64)},
		{"name that is not UTF-8", header("\xff", cf), "E11", "header"},
		{"trace", header("traceparent", "00-"+strings.Repeat("0a", 16)+"-abcdef12a34b567a-01"), "", ""},
		{"late record", func(m *validate.Meta) { m.Timestamp = validtest.KafkaTime.AddDate(1, 0, 0).UnixMilli() }, "", ""},
		{"record before its event", func(m *validate.Meta) { m.Timestamp = validtest.OccurredAt.UnixMilli() }, "E03", "recordedAt"},
		{"record without a timestamp", func(m *validate.Meta) { m.Timestamp = -1 }, "", ""},
	} {
		row, meta := apply("ServiceRequested", nil)
		tt.meta(&meta)
		v.Check(row, meta, &res)
		if got := verdict(&res); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		for _, vi := range res.Violations {
			if vi.Field != tt.field || strings.Contains(vi.Message+vi.Field, cf) {
				t.Errorf("%s: %s blames %q, want %q", tt.name, vi.Code, vi.Field, tt.field)
			}
		}
	}
	t.Run("every repeated header counts", func(t *testing.T) {
		row, meta := apply("ServiceRequested", nil)
		meta.Headers = append(meta.Headers, validate.Header{Key: "ce_source", Value: []byte("urn:x")})
		v.Check(row, meta, &res)
		if got := verdict(&res); got != "E09" {
			t.Errorf("got %q, want E09", got)
		}
	})
}

// hexCF returns a codice fiscale of hexadecimal digits, as a hash may hold one by chance.
func hexCF(t *testing.T) string {
	t.Helper()
	for _, a := range "abcdef" {
		for _, b := range "abcdef" {
			if s := string(a) + "bcdef12a34b567" + string(b); privacy.Valid(s) {
				return s
			}
		}
	}
	t.Fatal("no codice fiscale of hexadecimal digits")
	return ""
}

func TestMachineFormatsAreExemptInTheirFormOnly(t *testing.T) {
	v := validate.New()
	var res validate.Result
	cf := hexCF(t)
	uuid := cf[:8] + "-" + cf[8:12] + "-" + cf[12:] + "-8000-000000000001"
	trace := "00-" + strings.Repeat("0a", 16) + "-" + cf + "-01"
	for _, tt := range []struct {
		set  set
		want string
	}{
		{set{"eventId": uuid, "traceparent": trace}, ""},
		{set{"eventId": uuid + "0"}, "E01 E11"},
		{set{"sourceRecordId": uuid}, "E11"},
		{set{"traceparent": trace + "0"}, "E11"},
		{set{"traceparent": "00_" + trace[3:]}, "E11"},
		{set{"traceparent": trace[:35] + "." + trace[36:]}, "E11"},
		{set{"traceparent": trace[:52] + "." + trace[53:]}, "E11"},
		{set{"traceparent": "0g" + trace[2:]}, "E11"},
		{set{"traceparent": "0A" + trace[2:]}, "E11"},
		{set{"householdPseudonym": cf + strings.Repeat("-0a0a0a0a0a0a0a0", 3)}, "E10 E11"},
	} {
		row, meta := apply("ServiceRequested", tt.set)
		v.Check(row, meta, &res)
		if got := verdict(&res); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.set, got, tt.want)
		}
	}
	row, meta := apply("ServiceRequested", nil)
	meta.Headers = []validate.Header{{Key: "x-request", Value: []byte(uuid)}}
	v.Check(row, meta, &res)
	if got := verdict(&res); got != "E11" {
		t.Errorf("another header in the form of a UUID: got %q, want E11", got)
	}
}

// TestEveryFieldIsUnderItsRule goes through all fields of all events, so that a field that a schema gains
// is not left out.
func TestEveryFieldIsUnderItsRule(t *testing.T) {
	v := validate.New()
	var res validate.Result
	has := func(c validate.Code, field string) bool {
		return slices.ContainsFunc(res.Violations, func(vi validate.Violation) bool { return vi.Code == c && vi.Field == field })
	}
	check := func(row *event.Row) { v.Check(row, validtest.Meta(row), &res) }
	for _, typ := range event.Types {
		for i, f := range typ.Fields {
			row := validtest.Valid(typ)
			switch f.Kind {
			case event.String, event.UUID:
				row.Set(i, "RSSMRA85T10A562S")
			case event.Strings:
				row.Vals[i].List = [][]byte{[]byte("RSSMRA85T10A562S")}
			case event.Enum:
				row.Vals[i] = event.Value{Unknown: true}
			case event.Date:
				row.SetInt(i, -1)
			case event.Timestamp:
				row.SetInt(i, -1)
			default:
				continue
			}
			check(row)
			var ok bool
			switch f.Kind {
			case event.String, event.UUID, event.Strings:
				ok = has(validate.E11, f.Name)
			case event.Enum:
				ok = res.Flags&validate.FlagW90 != 0
			default:
				ok = i < event.HeaderFields || has(validate.E14, f.Name)
			}
			if !ok {
				t.Errorf("%s.%s: got %s", typ.Name, f.Name, verdict(&res))
			}
		}
	}
}

func TestLengthsCountCharacters(t *testing.T) {
	v := validate.New()
	var res validate.Result
	limits := validate.TextLimits()
	for _, typ := range event.Types {
		for _, f := range typ.Fields {
			l, ok := limits[f.Name]
			if f.Kind != event.String && f.Kind != event.Strings || !ok {
				continue
			}
			for n, want := range map[int]bool{l[0] - 1: false, l[0]: true, l[1]: true, l[1] + 1: false} {
				if n < 0 {
					continue
				}
				row := validtest.Valid(typ)
				text := strings.Repeat("è", n)
				if f.Kind == event.Strings {
					validtest.Set(row, f.Name, []string{text})
				} else {
					validtest.Set(row, f.Name, text)
				}
				v.Check(row, validtest.Meta(row), &res)
				if got := !slices.Contains(res.Codes(), "E12"); got != want {
					t.Errorf("%s.%s with %d characters: accepted %v, want %v", typ.Name, f.Name, n, got, want)
				}
			}
		}
	}
	for name, want := range map[string][2]int{
		"sourceRecordId": {1, 64}, "requestId": {1, 32}, "name": {0, 200}, "text": {0, 1000}, "actionTaken": {0, 1000},
		"atsCode": {1, 16}, "serviceId": {1, 64}, "source": {1, 200},
	} {
		if limits[name] != want {
			t.Errorf("limit of %s is %v, the contract says %v", name, limits[name], want)
		}
	}
}

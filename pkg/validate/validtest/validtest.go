// Package validtest builds valid events for the tests of every package that needs one. What it builds
// breaks no rule and carries no flag; tests of pkg/validate hold it to that.
package validtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// Instants of a valid event.
var (
	OccurredAt = time.Date(2024, 3, 10, 9, 30, 0, 0, time.UTC)
	RecordedAt = OccurredAt.Add(10 * time.Minute)
	KafkaTime  = OccurredAt.Add(time.Hour)
)

// values are what a field holds in a valid event, by event and name, or by name alone. A missing one is
// null or, of a required field, zero. Enums are symbols, dates YYYY-MM-DD, times RFC 3339.
var values = map[string]any{
	"eventId": "018f0000-0000-7000-8000-000000000001", "source": "urn:welfare:c_f205:sociali", "sourceRecordId": "REC-1",
	"recordVersion": 1, "occurredAt": OccurredAt, "recordedAt": RecordedAt, "orgCode": "c_f205",

	"pseudonym": "8f1d5c0b2a7e4f6391d0c8b7a6e5f4d3c2b1a0918273645546372819a0b1c2d3", "keyEpoch": 1,
	"birthYear": 2012, "sex": "F", "citizenship": "IT", "comuneCode": "015146", "iseeBand": "UP_6000",

	"serviceId": "NIDO-1", "name": "Nido di via Dante", "nomenclatureCode": "3.INF.01", "inpsCode": "A3.03", "userArea": "FAMILY_MINORS",
	"providerCode": "01199250158", "providerKind": "PUBLIC", "atsCode": "ATS-MI", "status": "OPEN", "ageMin": 0, "ageMax": 2,
	"validFrom": "2024-01-01", "lat": 45.4642, "lon": 9.19,

	"CapacityChanged.unit": "PLACE", "authorised": 60_000, "funded": 50_000, "operational": 50_000, "occupied": 42_000,
	"effectiveFrom": OccurredAt, "acceptsReferrals": "YES",

	"requestId": "2024/001", "channel": "ONLINE", "requestedAt": OccurredAt,
	"outcome": "ELIGIBLE", "meansTest": "ISEE", "needLevel": 40, "assessedAt": OccurredAt,
	"change": "ENTER", "changedAt": OccurredAt,
	"benefitId": "BEN-1", "decision": "GRANTED", "character": "PERIODIC", "takenInCharge": 1, "startDate": "2024-04-01", "endDate": "2025-03-31",
	"months": 12, "monthlyAmount": 25_000, "iseeThreshold": 1_500_000,
	"ServiceDelivered.unit": "PLACE", "periodStart": "2024-02-01", "periodEnd": "2024-02-29", "unitsDelivered": 1_000,
	"amountTotal": 10_123, "quotaEnte": 5_254, "quotaUtente": 2_171, "quotaSsn": 2_698,

	"TerritoryUpserted.level": "COMUNE", "territoryCode": "015146", "TerritoryUpserted.name": "Milano", "TerritoryUpserted.atsCode": "ATS-MI",
	"parentCode": "015", "cadastralCode": "F205", "TerritoryUpserted.successorCodes": []string{},
	"referenceDate": "2024-01-01", "ageFrom": 0, "ageTo": 100, "residents": 1_354_196, "PopulationReported.sex": "UNKNOWN",

	"unitKind": "CHILD", "wave": "2024H1", "DeprivationObserved.frameworkId": "MI-CP-1", "frameworkVersion": 1,
	"DeprivationObserved.indicatorCode": "EDU1", "deprived": 1, "sampleWeight": 1.0, "observedAt": "2024-03-01",
	"schoolCode": "MIMM8EX00X", "activityId": "ACT-1", "sessionId": "SES-1", "activityKind": "HOMEWORK", "startsAt": OccurredAt,
	"minutes": 90, "seats": 20, "staff": 2,
	"student": "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f809", "AttendanceRecorded.status": "PRESENT", "minutesPresent": 85,
	"IndicatorObserved.frameworkId": "AS-1", "IndicatorObserved.indicatorCode": "AS05", "IndicatorObserved.level": "STUDENT",
	"arm": "TREATED", "period": "BASELINE", "schoolYear": "2023/24", "value": 7.5, "IndicatorObserved.unit": "score",
	"direction": "FROM_STUDENT", "feedbackId": "FB-1", "instrumentId": "Q-1", "itemCode": "I1", "likert": 4, "submittedAt": OccurredAt,

	"revokedSource": "urn:welfare:c_f205:sociali", "revokedSourceRecordId": "REC-0", "revokedUpToVersion": 1, "RecordRevoked.reason": "ENTERED_IN_ERROR",
	"scope": "ALL", "ground": "ART17_REQUEST", "dueBy": OccurredAt.AddDate(0, 0, 30),
}

// Valid returns a valid event of type t: always the same one, in fresh memory.
func Valid(t *event.Type) *event.Row {
	row := event.NewRow(t)
	for i := range t.Fields {
		f := &t.Fields[i]
		v, ok := values[t.Name+"."+f.Name]
		if !ok {
			v, ok = values[f.Name]
		}
		if ok {
			Set(row, f.Name, v)
		} else if !f.Nullable && (f.Kind == event.String || f.Kind == event.UUID) {
			panic("BUG: no valid value for " + t.Name + "." + f.Name)
		}
	}
	return row
}

// Set puts a value into the field of that name: nil makes it null; a text is itself, an enum's symbol, a
// date (YYYY-MM-DD) or a time (RFC 3339); an integer is also an unscaled decimal, or an enum's index.
func Set(row *event.Row, field string, value any) {
	i := row.Type.MustField(field)
	f := &row.Type.Fields[i]
	switch v := value.(type) {
	case nil:
		row.SetNull(i)
	case int:
		row.SetInt(i, int64(v))
	case float64:
		row.Vals[i] = event.Value{Float: v}
	case time.Time:
		row.SetInt(i, v.UnixMilli())
	case []string:
		row.Vals[i] = event.Value{}
		for _, s := range v {
			row.Vals[i].List = append(row.Vals[i].List, []byte(s))
		}
	case string:
		switch f.Kind {
		case event.Enum:
			at := slices.Index(f.Symbols, v)
			if at < 0 {
				panic("BUG: " + row.Type.Name + "." + field + " has no symbol " + v)
			}
			row.SetInt(i, int64(at))
		case event.Date:
			row.SetInt(i, mustTime(time.DateOnly, v).Unix()/86400)
		case event.Timestamp:
			row.SetInt(i, mustTime(time.RFC3339, v).UnixMilli())
		default:
			row.Set(i, v)
		}
	default:
		panic(fmt.Sprintf("BUG: %s.%s: a %T is no value", row.Type.Name, field, value))
	}
}

func mustTime(layout, s string) time.Time {
	t, err := time.Parse(layout, s)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return t
}

// Meta returns the key, headers and timestamp with which the row would travel validly. Key and headers
// alias the row.
func Meta(row *event.Row) validate.Meta {
	key, _, headers := event.Message(row, 1)
	return validate.Meta{Key: key, Headers: headers, Timestamp: KafkaTime.UnixMilli()}
}

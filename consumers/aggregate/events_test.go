package aggregate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// fields of an event by Avro name: string, int, time.Time or nil.
type fields map[string]any

var serial int

// make returns an event with plausible defaults, each with an event id of its own.
func makeEvent(t testing.TB, name string, f fields) *event.Row {
	t.Helper()
	serial++
	typ := event.ByName(name)
	r := event.NewRow(typ)
	base := fields{
		"eventId": fmt.Sprintf("00000000-0000-4000-8000-%012d", serial), "source": "a", "sourceRecordId": fmt.Sprintf("r%d", serial),
		"recordVersion": 1, "occurredAt": at("2026-01-10T10:00:00Z"), "orgCode": "o", "pseudonym": person(1), "comuneCode": "015146",
		"requestId": "q1", "benefitId": "b1", "nomenclatureCode": "K1", "userArea": "DISABILITY",
		"requestedAt": at("2026-01-10T10:00:00Z"), "assessedAt": at("2026-01-10T10:00:00Z"), "changedAt": at("2026-01-10T10:00:00Z"),
		"effectiveFrom": at("2026-01-10T10:00:00Z"), "status": "OPEN", "unit": "PLACE", "change": "ENTER", "decision": "GRANTED",
		"outcome": "NOT_ELIGIBLE", "validFrom": at("2020-01-01T00:00:00Z"), "periodStart": at("2026-01-01T00:00:00Z"),
		"periodEnd": at("2026-01-31T00:00:00Z"), "unitsDelivered": 5000, "amountTotal": 12345, "operational": 10000, "occupied": 4000,
		"scope": "ALL", "referenceDate": at("2026-01-01T00:00:00Z"), "ageTo": 100, "residents": 1000, "territoryCode": "015146", "level": "COMUNE",
		"revokedSource": "a", "revokedUpToVersion": 1,
	}
	switch name {
	case "ServiceOfferPublished", "CapacityChanged", "WaitingListChanged":
		base["serviceId"] = "s1"
	}
	for k, v := range f {
		base[k] = v
	}
	for k, v := range base {
		i := typ.Field(k)
		if i < 0 {
			continue
		}
		set(r, i, v)
	}
	return r
}

func set(r *event.Row, i int, v any) {
	f := r.Type.Fields[i]
	switch v := v.(type) {
	case nil:
		r.SetNull(i)
	case string:
		if f.Kind == event.Enum {
			for n, s := range f.Symbols {
				if s == v {
					r.SetInt(i, int64(n))
				}
			}
			return
		}
		r.Set(i, v)
	case int:
		r.SetInt(i, int64(v))
	case time.Time:
		if f.Kind == event.Date {
			r.SetInt(i, v.Unix()/86400)
			return
		}
		r.SetInt(i, v.UnixMilli())
	default:
		panic(fmt.Sprintf("BUG: no value %T", v))
	}
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func person(n int) string { return strings.Repeat(fmt.Sprintf("%02x", n+16), 32) }

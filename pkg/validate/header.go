package validate

import (
	"bytes"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// tolerance is how far the clocks of sources and brokers may differ (E03).
const tolerance = 5 * time.Minute

// oldAfterYears is the age of an event from which it is flagged (W03).
const oldAfterYears = 10

func checkEventID(_ *plan, in *input) {
	if _, ok := event.ParseUUID(in.row.Vals[event.EventID].Bytes); !ok {
		in.reject(E01, "eventId", "eventId is no UUID: 36 characters as xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx are expected; version 7 is advised")
	}
}

func checkRecordVersion(_ *plan, in *input) {
	if in.row.Vals[event.RecordVersion].Int < 1 {
		in.reject(E02, "recordVersion", "recordVersion is below 1; the first version of a record is 1, a correction has a higher one")
	}
}

func checkTimes(_ *plan, in *input) {
	occurred, recorded := in.row.Vals[event.OccurredAt].Int, in.row.Vals[event.RecordedAt].Int
	limit := tolerance.Milliseconds()
	if occurred > recorded+limit {
		in.reject(E03, "occurredAt", "occurredAt is "+late(occurred-recorded)+" after recordedAt, the limit is 5m0s; is the time zone right? Times are UTC")
	}
	if ts := in.meta.Timestamp; ts > 0 && recorded > ts+limit {
		in.reject(E03, "recordedAt", "recordedAt is "+late(recorded-ts)+" after the timestamp of the Kafka record, the limit is 5m0s; is the time zone or the clock of the source right?")
	}
	if occurred >= recorded-surelyYoung {
		return
	}
	if occurred < time.UnixMilli(recorded).UTC().AddDate(-oldAfterYears, 0, 0).UnixMilli() {
		in.flag(FlagW03)
	}
}

// surelyYoung is no longer than 10 years, whichever they are: it saves the calendar.
const surelyYoung = oldAfterYears * 365 * dayMillis

const dayMillis = 24 * 60 * 60 * 1000

func late(ms int64) string {
	if ms > int64(48*time.Hour/time.Millisecond) {
		return "more than 48h"
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

func checkHeaders(p *plan, in *input) {
	vals := in.row.Vals
	for i := range in.meta.Headers {
		h := &in.meta.Headers[i]
		switch h.Key {
		case "ce_id":
			if !bytes.EqualFold(h.Value, vals[event.EventID].Bytes) {
				in.reject(E09, "ce_id", "header ce_id differs from eventId; leave it out or send the same")
			}
		case "ce_source":
			if !bytes.Equal(h.Value, vals[event.Source].Bytes) {
				in.reject(E09, "ce_source", "header ce_source differs from source; leave it out or send the same")
			}
		case "ce_type":
			if string(h.Value) != p.t.Topic {
				in.reject(E09, "ce_type", "header ce_type is not the name of the topic, "+p.t.Topic+"; leave it out or send that")
			}
		}
	}
}

func checkKey(p *plan, in *input) {
	name := p.t.Fields[p.t.Key].Name
	switch {
	case in.meta.Key == nil:
		in.reject(E16, "key", "the Kafka record has no key; its key is "+name+", as text")
	case !bytes.Equal(in.meta.Key, in.row.Vals[p.t.Key].Bytes):
		in.reject(E16, "key", "the Kafka key differs from "+name+"; is it serialised as text, without quotes or a schema?")
	}
}

func checkSymbols(p *plan, in *input) {
	for _, i := range p.enums {
		if in.row.Vals[i].Unknown {
			in.flag(FlagW90)
			return
		}
	}
}

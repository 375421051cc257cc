package load

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// TestOutcomesAreAvro decodes by the schema what is encoded by hand.
func TestOutcomesAreAvro(t *testing.T) {
	b := &block{p: position{"welfare.demand.request", 3}, c: claim{10, 11_010}, at: time.UnixMilli(1_700_000_000_123).UTC()}
	want := map[string][]event.Outcome{}
	for i := range 11_000 {
		e := ended{end: record.End(1 + i%3), source: fmt.Sprintf("urn:welfare:org:%d", i%2), flags: uint16(i % 5)}
		o := event.Outcome{Outcome: event.OutcomeKind(e.end.String()), Offset: int64(10 + i), Codes: []string{}, Flags: []string{}}
		id := uuid.NewSHA1(uuid.NameSpaceURL, fmt.Append(nil, i))
		e.id, e.hasID = id, true
		text := id.String()
		switch {
		case i%7 == 0:
			e.source, e.hasID, text = "", false, ""
		case e.end == record.Rejected:
			e.hasID, e.eventID = false, fmt.Sprintf("not a uuid %d", i)
			text = e.eventID
		}
		if text != "" {
			o.EventID = &text
		}
		if e.end == record.Rejected {
			e.why = &record.Rejection{Codes: []string{"E02", "E11"}}
			o.Codes = e.why.Codes
		}
		if e.end == record.Loaded {
			o.Flags = append(o.Flags, validate.FlagNames(e.flags)...)
		}
		source := e.source
		if source == "" {
			source = "unknown"
		}
		want[source] = append(want[source], o)
		b.ends, b.recs = append(b.ends, e), append(b.recs, wkafka.Record{Offset: int64(10 + i)})
	}
	got := map[string][]event.Outcome{}
	schema := avro.MustParse(event.OutcomesReportedRaw)
	for _, m := range outcomes(b, 17) {
		if m.Value[4] != 17 {
			t.Errorf("schema id %d", m.Value[4])
		}
		var o event.OutcomesReported
		if err := avro.Unmarshal(schema, m.Value[event.FrameSize:], &o); err != nil {
			t.Fatal(err)
		}
		if len(o.Outcomes) > outcomesPerMessage || string(m.Key) != o.Source || o.Topic != b.p.topic || o.Partition != 3 || !o.DecidedAt.Equal(b.at) {
			t.Errorf("%d outcomes of %s under key %s, %s/%d at %s", len(o.Outcomes), o.Source, m.Key, o.Topic, o.Partition, o.DecidedAt)
		}
		got[o.Source] = append(got[o.Source], o.Outcomes...)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%d sources, want %d", len(got), len(want))
		for s := range want {
			for i := range want[s] {
				if i >= len(got[s]) || !reflect.DeepEqual(got[s][i], want[s][i]) {
					t.Fatalf("%s %d: got %+v, want %+v", s, i, got[s][min(i, len(got[s])-1)], want[s][i])
				}
			}
		}
	}
}

// TestOutcomesOfALargeBlockArePublished has so many sources that their messages together are more than a topic
// takes in one batch, unless it is told to.
func TestOutcomesOfALargeBlockArePublished(t *testing.T) {
	w := newWorld(t, 1)
	br := newBroker(w.cluster, w.group, 2<<20)
	defer br.close()
	b := &block{p: position{event.ByName("ServiceRequested").Topic, 0}, at: time.UnixMilli(1_700_000_000_123).UTC()}
	for i := range 60_000 {
		id := [16]byte{byte(i >> 16), byte(i >> 8), byte(i)}
		b.ends = append(b.ends, ended{end: record.Loaded, source: fmt.Sprintf("urn:welfare:org:%d", i%700), id: id, hasID: true})
		b.recs = append(b.recs, wkafka.Record{Offset: int64(i)})
	}
	msgs := outcomes(b, 17)
	size := 0
	for i := range msgs {
		size += len(msgs[i].Value)
	}
	if size < 2*outcomesBatch {
		t.Fatalf("%d bytes are too few to show anything", size)
	}
	if err := publish(t.Context(), br.outcomes, msgs); err != nil {
		t.Fatal(err)
	}
}

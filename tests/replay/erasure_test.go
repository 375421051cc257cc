package replay

import (
	"testing"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// TestReplayBringsNoErasedPersonBack erases people whose rows are lost: before the replay, and in the middle of
// it, when the row is already decided.
func TestReplayBringsNoErasedPersonBack(t *testing.T) {
	h := newHub(t, 1)
	h.load(nil)
	typ, erasure := event.ByName("ServiceRequested"), event.ByName("SubjectErased")
	var msgs []kafka.Message
	for n := range 10 {
		msgs = append(msgs, hubtest.Message(hubtest.Valid(typ, n), typ.No))
	}
	h.publish(msgs...)
	lost := func() {
		h.exec("DELETE FROM store.service_requested WHERE _end = 'loaded' SETTINGS lightweight_deletes_sync = 1")
	}
	erase := func(n int) {
		row := hubtest.Valid(erasure, 1000+n)
		row.Set(event.EventID, uuid.NewString())
		row.Set(erasure.Subject, hubtest.Valid(typ, n).Str(typ.Subject))
		requested := erasure.MustField("requestedAt")
		at := max(row.Vals[event.OccurredAt].Int, hubtest.Valid(typ, n).Vals[event.OccurredAt].Int)
		for _, f := range []int{requested, event.OccurredAt, event.RecordedAt} {
			row.SetInt(f, at)
		}
		row.SetInt(erasure.MustField("scope"), int64(symbol(t, erasure, "scope", "ALL")))
		h.publish(hubtest.Message(row, erasure.No))
	}
	gone := func(n int) {
		t.Helper()
		who := hubtest.Valid(typ, n).Str(typ.Subject)
		if c := h.count("count() FROM store.facts WHERE type = 3 AND gone = 0 AND (partition, offset) NOT IN (SELECT _partition, _offset FROM store.service_requested)"); c != 0 {
			t.Errorf("person %d: %d facts of rows that are stored no more", n, c)
		}
		for _, query := range []string{
			"count() FROM welfare.service_requested WHERE pseudonym = ?",
			"count() FROM store.service_requested WHERE lower(hex(pseudonym)) = ?",
		} {
			if c := h.count(query, who); c != 0 {
				t.Errorf("person %d: %s: %d", n, query, c)
			}
		}
	}

	lost()
	erase(3)
	r := h.bothRuns(h.options(typ.Topic))
	if r.Restored != 9 || r.Erased != 1 {
		t.Errorf("%+v", r.Counts)
	}
	gone(3)

	lost()
	o := h.options(typ.Topic)
	o.Step = func(step string) error {
		if step == "fill" {
			erase(5)
		}
		return nil
	}
	if r = h.replay(o); r.Restored != 9 || r.Erased != 1 {
		t.Errorf("%+v", r.Counts)
	}
	gone(3)
	gone(5)
	if n := h.count("count() FROM welfare.service_requested"); n != 8 {
		t.Errorf("%d rows, want 8", n)
	}
	if n := h.count("sum(requests) FROM welfare.supply_demand WHERE level = 'COUNTRY'"); n != 8 {
		t.Errorf("%d requests in the cells, want 8", n)
	}
	h.balanced("at the end")
	if r = h.bothRuns(h.options(typ.Topic)); r.Present != 8 || r.Erased != 2 || r.Restored != 0 {
		t.Errorf("%+v", r.Counts)
	}
}

func symbol(t *testing.T, typ *event.Type, field, name string) int {
	t.Helper()
	for i, s := range typ.Fields[typ.MustField(field)].Symbols {
		if s == name {
			return i
		}
	}
	t.Fatalf("%s has no %s", field, name)
	return 0
}

package aggregate

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestRestoredRowsAreRemembered loses the rows and facts of a request while an aggregator does not know of them,
// restores them behind its back, as a replay does, and adds to the request.
func TestRestoredRowsAreRemembered(t *testing.T) {
	h := newHub(t)
	ctx := t.Context()
	h.load(0, makeEvent(t, "ServiceRequested", fields{"requestId": "q1"}), makeEvent(t, "ServiceRequested", fields{"requestId": "q2", "nomenclatureCode": "K2"}))
	h.drain(h.aggregator(Options{}))
	h.exec("CREATE TABLE store.saved AS store.service_requested")
	defer h.exec("DROP TABLE store.saved SYNC")
	h.exec("INSERT INTO store.saved SELECT * FROM store.service_requested WHERE request_id = 'q2'")
	h.exec("DELETE FROM store.service_requested WHERE request_id = 'q2' SETTINGS lightweight_deletes_sync = 1")
	for _, book := range []string{"facts", "records"} {
		h.exec("DELETE FROM store." + book + " WHERE type = 3 AND offset = 1 SETTINGS lightweight_deletes_sync = 1")
	}
	recompute := func() {
		t.Helper()
		must(t, h.aggregator(Options{}).Recompute(ctx, "welfare.demand.request", 0, 0, 2))
	}
	h.exec("INSERT INTO store.contrib (grp, comune, nomenclature, area, month, requests) SELECT grp, comune, nomenclature, area, month, -requests FROM store.contrib WHERE nomenclature = 'K2'")
	h.exec("OPTIMIZE TABLE store.contrib FINAL")
	a := h.aggregator(Options{})
	h.load(0, makeEvent(t, "ServiceRequested", fields{"requestId": "q3"}))
	h.drain(a)
	if a.memory == nil || a.memory.groups.Len() != 2 {
		t.Fatal("the aggregator remembers what is not there")
	}
	h.exec("ALTER TABLE store.service_requested ATTACH PARTITION tuple() FROM store.saved")
	recompute()
	h.agree("restored")
	h.load(0, makeEvent(t, "NeedAssessed", fields{"requestId": "q2"}))
	h.drain(a)
	h.agree("restored, with more")
	h.verify(a, "restored, with more")
	if a.memory == nil || a.memory.groups.Len() != 3 {
		t.Error("the aggregator does not remember what was restored")
	}
}

// TestCyclesOfOthersAreRemembered has two aggregators take turns: each learns what the other did.
func TestCyclesOfOthersAreRemembered(t *testing.T) {
	h := newHub(t)
	logs, seen := observer.New(zap.DebugLevel)
	turns := []*Aggregator{h.aggregator(Options{Logger: zap.New(logs)}), h.aggregator(Options{Logger: zap.New(logs)})}
	for i := range 12 {
		h.load(0, makeEvent(t, "NeedAssessed", fields{"requestId": fmt.Sprint("q", i%3)}))
		if i%4 == 3 {
			h.load(0, makeEvent(t, "ServiceRequested", fields{"requestId": fmt.Sprint("q", i%3)}))
		}
		h.drain(turns[i%2])
		h.agree(fmt.Sprint("after turn ", i))
	}
	if n := seen.FilterMessage("aggregate: groups and records read").Len(); n != 2 {
		t.Errorf("the tables were read %d times, want once by each", n)
	}
}

// TestAnAttemptThatLostIsNotRemembered lets another aggregator come first in the middle of a cycle.
func TestAnAttemptThatLostIsNotRemembered(t *testing.T) {
	h := newHub(t)
	other := h.aggregator(Options{})
	armed := false
	a := h.aggregator(Options{fail: func(step string) error {
		if step == "touch" && armed {
			armed = false
			h.drain(other)
		}
		return nil
	}})
	for i := range 6 {
		h.load(0, makeEvent(t, "NeedAssessed", nil))
		if i%2 == 1 {
			h.load(0, makeEvent(t, "WaitingListChanged", nil))
			armed = true
		}
		if _, err := a.Cycle(context.Background()); err != nil {
			t.Fatal(err)
		}
		h.drain(a)
		h.agree(fmt.Sprint("after turn ", i))
	}
	h.verify(a, "at the end")
}

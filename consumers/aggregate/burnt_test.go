package aggregate

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/engine"
)

// newMortalHub returns a hub whose engine the test may kill, and how to: the newest parts of some tables are away then,
// as a death between the token of an insert and its part leaves them.
func newMortalHub(t *testing.T) (h *hub, losePart func(tables ...string)) {
	newHub(t) // for its gate
	e, err := engine.Start(t.Context(), engine.Options{DataDir: t.TempDir(), MinFreeDisk: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	h = newHubOn(t, e.DSN())
	for _, table := range []string{"facts", "records", "instants", "contrib"} {
		h.exec("SYSTEM STOP MERGES store." + table)
	}
	return h, func(tables ...string) {
		t.Helper()
		before := map[string]uint64{}
		var paths []string
		for _, table := range tables {
			before[table] = h.number("SELECT count() FROM store." + table)
			var path string
			if err := h.db.QueryRow(t.Context(), "SELECT argMax(path, (modification_time, max_block_number)) FROM system.parts WHERE database = 'store' AND table = $1 AND active", table).Scan(&path); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
		pid := e.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for e.PID() == pid {
			time.Sleep(time.Millisecond)
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				t.Error(err)
			}
		}
		if err := e.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for h.db.Ping(t.Context()) != nil { // connections of the engine that is gone
			time.Sleep(time.Millisecond)
		}
		for table, n := range before {
			if now := h.number("SELECT count() FROM store." + table); now >= n {
				t.Fatalf("store.%s has %d rows, and had %d", table, now, n)
			}
		}
	}
}

// TestACycleWhoseTokenHasNoRows: the number of a cycle is used again after a death, its token is not.
func TestACycleWhoseTokenHasNoRows(t *testing.T) {
	h, losePart := newMortalHub(t)
	h.load(0, makeEvent(t, "ServiceRequested", nil))
	h.drain(h.aggregator(Options{}))
	for range 2 {
		h.load(0, makeEvent(t, "NeedAssessed", nil))
		h.load(0, makeEvent(t, "PopulationReported", nil))
		a := h.aggregator(Options{})
		before, err := a.Cycle(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		losePart("contrib")
		again, err := a.Cycle(t.Context())
		if err != nil || again.Cycle != before.Cycle {
			t.Fatalf("cycle %d was lost, and then %d was done: %v", before.Cycle, again.Cycle, err)
		}
		if next, err := a.Cycle(t.Context()); err != nil || next.Cycle != 0 {
			t.Fatalf("cycle %d is not done: %v", next.Cycle, err)
		}
		h.agree("after a cycle was done again")
		h.verify(a, "after a cycle was done again")
	}
}

// TestFactsWhoseTokensHaveNoRows: the same for the facts of a cycle that was cut off, and for what their views feed.
func TestFactsWhoseTokensHaveNoRows(t *testing.T) {
	for _, table := range []string{"facts", "records", "instants"} {
		t.Run(table, func(t *testing.T) {
			h, losePart := newMortalHub(t)
			h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"validTo": at("2026-04-02T00:00:00Z")}))
			h.drain(h.aggregator(Options{}))
			h.load(0, makeEvent(t, "CapacityChanged", nil), makeEvent(t, "CapacityChanged", fields{"effectiveFrom": at("2026-01-20T00:00:00Z"), "operational": 30000}))
			cut := errors.New("cut off")
			_, err := h.aggregator(Options{fail: func(step string) error {
				if step == "feed" {
					return cut
				}
				return nil
			}}).Cycle(t.Context())
			if !errors.Is(err, cut) {
				t.Fatal(err)
			}
			losePart(table)
			a := h.aggregator(Options{})
			h.drain(a)
			h.load(0, makeEvent(t, "AttendanceRecorded", fields{"occurredAt": at("2026-01-20T00:00:00Z")}))
			h.drain(a)
			if got := h.capacity("2026-01-01"); got != 30 {
				t.Errorf("capacity %d, want 30", got)
			}
			h.agree("at the end")
			h.verify(a, "at the end")
		})
	}
}

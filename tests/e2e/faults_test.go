package e2e

import (
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestUpSurvivesKill kills the whole tree in the middle of a load, ten times, and compares all of it with the truth.
func TestUpSurvivesKill(t *testing.T) {
	data := t.TempDir()
	truth := filepath.Join(t.TempDir(), "truth.json")
	const events, kills = 40000, 10
	small := []string{"--no-demo", "--block-records", "200", "--flush-age", "50ms", "--partitions", "2"}
	h := start(t, data, small...)
	// The engine stands still while the events are published, so that the kills find them not loaded.
	if err := syscall.Kill(h.engine(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.simulate(events, truth)
	h.kill()
	h = start(t, data, small...)
	inTheMiddle := 1
	for n := range kills - 1 {
		time.Sleep(time.Duration(20+n*97%500) * time.Millisecond)
		if read, err := tryNumber(t.Context(), h.db(), "SELECT sum(read) FROM welfare.ledger"); err == nil && read < events {
			inTheMiddle++
		}
		h.kill()
		h = start(t, data, small...)
	}
	if inTheMiddle < 2 {
		t.Errorf("only %d of %d kills were in the middle of the load", inTheMiddle, kills)
	}
	t.Logf("%d of %d kills were in the middle of the load", inTheMiddle, kills)
	db := h.db()
	awaitAll(t, db, events)
	compareTruth(t, db, readTruth(t, truth))
	h.reconcile()
}

// TestEngineKilledWhileLoading kills the ClickHouse child under a running loader.
func TestEngineKilledWhileLoading(t *testing.T) {
	truth := filepath.Join(t.TempDir(), "truth.json")
	const events, kills = 20000, 3
	h := start(t, t.TempDir(), "--no-demo", "--block-records", "200", "--flush-age", "50ms")
	h.simulate(events, truth)
	db := h.db()
	last := 0
	for range kills {
		child := h.engine()
		for end := time.Now().Add(time.Minute); child == 0 || child == last; child = h.engine() {
			if time.Now().After(end) {
				t.Fatalf("the engine did not come back\n%s", h.out)
			}
			time.Sleep(20 * time.Millisecond)
		}
		before, _ := tryNumber(t.Context(), db, "SELECT sum(read) FROM welfare.ledger")
		await(t, db, "SELECT sum(read) > "+strconv.FormatInt(min(before, events-1), 10)+" FROM welfare.ledger", 1, time.Minute)
		if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		last = child
	}
	awaitAll(t, db, events)
	if now := h.engine(); now == 0 || now == last {
		t.Errorf("the engine is process %d, and %d was killed", now, last)
	}
	compareTruth(t, db, readTruth(t, truth))
	h.reconcile()
	if code := h.interrupt(); code != 0 {
		t.Errorf("exit code %d\n%s", code, h.out)
	}
}

// simulate sends events with all disturbances to the hub and keeps their truth in a file.
func (h *hub) simulate(events int, truth string) {
	h.t.Helper()
	args := append([]string{"simulate", "--events", strconv.Itoa(events), "--truth", truth, "--kafka-brokers", h.Kafka, "--registry-url", h.Registry}, simulated...)
	if out, code := run(h.t, args...); code != 0 {
		h.t.Fatalf("simulate: exit code %d\n%s", code, out)
	}
}

// reconcile runs welfarehub reconcile, aggregates too.
func (h *hub) reconcile() {
	h.t.Helper()
	if out, code := run(h.t, "reconcile", "--aggregates", "--log-level", "warn", "--kafka-brokers", h.Kafka, "--clickhouse-dsn", h.dsn()); code != 0 {
		h.t.Errorf("reconcile: exit code %d\n%s", code, out)
	}
}

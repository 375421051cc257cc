package aggregate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestFactsAreComparedWithRowsAndMended deletes, changes and adds facts and records by hand, after a history with
// corrections, revocations, erasures and copies.
func TestFactsAreComparedWithRowsAndMended(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	ctx := t.Context()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := &generator{t: t, rnd: rand.New(rand.NewPCG(seed, 2))}
	more := func(blocks int) {
		h.loadSome(g, blocks)
		h.drain(a)
	}
	misfits := func() (out []string) {
		t.Helper()
		must(t, a.VerifyFacts(ctx, func(topic string, partition uint32, from, to, records uint64, detail string) {
			out = append(out, fmt.Sprintf("%s/%d [%d, %d) %d: %s", topic, partition, from, to, records, detail))
		}))
		return out
	}
	more(60)
	if got := misfits(); len(got) > 0 {
		t.Fatalf("of what nobody touched: %+v", got)
	}
	offsets := func(no uint8) (out []uint64) {
		rows, err := h.db.Query(ctx, fmt.Sprintf("SELECT offset FROM store.facts WHERE type = %d AND partition = 0 GROUP BY offset HAVING max(gone) = 0 ORDER BY offset", no))
		must(t, err)
		defer rows.Close()
		for rows.Next() {
			var offset uint64
			must(t, rows.Scan(&offset))
			out = append(out, offset)
		}
		return out
	}
	requests, waits, deliveries := offsets(3), offsets(5), offsets(7)
	for len(requests) < 2 || len(waits) < 2 || len(deliveries) < 2 {
		more(10)
		requests, waits, deliveries = offsets(3), offsets(5), offsets(7)
	}
	const now = " SETTINGS mutations_sync = 2"
	h.exec(fmt.Sprintf("ALTER TABLE store.facts DELETE WHERE type = 3 AND offset = %d", requests[1]) + now)
	h.exec(fmt.Sprintf("ALTER TABLE store.facts UPDATE a = a + 1 WHERE type = 7 AND offset = %d", deliveries[0]) + now)
	h.exec(fmt.Sprintf("DELETE FROM store.waiting_list_changed WHERE _offset = %d", waits[1]))
	h.exec(fmt.Sprintf("ALTER TABLE store.records DELETE WHERE type = 7 AND offset = %d", deliveries[1]) + now)
	at := func(no uint8, offset uint64) string {
		return fmt.Sprintf("%s/0 [%d, %d) 1", typeOf(no).Topic, offset, offset+1)
	}
	want := []string{
		at(3, requests[1]) + ": store.facts: 1 missing, 0 changed, 0 of which no row counts",
		at(5, waits[1]) + ": store.facts: 0 missing, 0 changed, 1 of which no row counts",
		at(7, deliveries[0]) + ": store.facts: 0 missing, 1 changed, 0 of which no row counts",
		at(5, waits[1]) + ": store.records: 0 missing, 0 changed, 1 of which no row counts",
		at(7, deliveries[1]) + ": store.records: 1 missing, 0 changed, 0 of which no row counts",
	}
	if got := misfits(); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	mended, err := a.MendFacts(ctx)
	must(t, err)
	if len(mended) < 4 {
		t.Errorf("mended %+v", mended)
	}
	if got := misfits(); len(got) > 0 {
		t.Fatalf("after mending: %+v", got)
	}

	h.exec("TRUNCATE TABLE store.records")
	h.exec("TRUNCATE TABLE store.facts")
	if got := misfits(); len(got) == 0 {
		t.Fatal("nothing is missing of empty tables")
	}
	_, err = a.MendFacts(ctx)
	must(t, err)
	if got := misfits(); len(got) > 0 {
		t.Fatalf("after all was made again: %+v", got)
	}
	_, err = a.Rebuild(ctx, nil)
	must(t, err)
	must(t, a.Swap(ctx))
	h.verify(a, "rebuilt from facts that were mended")
	more(5)
	h.verify(a, "with more")
}

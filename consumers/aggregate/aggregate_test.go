package aggregate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

func TestCellsOfEachMeasure(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"occurredAt": at("2025-11-10T10:00:00Z")}))
	h.load(0, makeEvent(t, "CapacityChanged", fields{"effectiveFrom": at("2025-12-10T10:00:00Z")}))
	h.load(0, makeEvent(t, "ServiceRequested", fields{"comuneCode": "999999"}), makeEvent(t, "ServiceRequested", fields{"requestId": "q2", "nomenclatureCode": "X9"}))
	h.load(0, makeEvent(t, "NeedAssessed", nil))
	h.load(0, makeEvent(t, "WaitingListChanged", nil))
	h.load(0, makeEvent(t, "BenefitDecided", nil))
	h.load(0, makeEvent(t, "ServiceDelivered", fields{"unit": "HOUR_WEEK"}))
	h.load(0, makeEvent(t, "PopulationReported", nil))
	h.load(0, makeEvent(t, "ServiceRequested", fields{"requestId": "q3", "occurredAt": at("2026-03-02T10:00:00Z")}))
	h.drain(a)
	if len(h.expected()) == 0 {
		t.Fatal("the model shows nothing")
	}
	h.agree("after a cycle")
	h.verify(a, "after a cycle")
}

// capacity is what IT shows for a month.
func (h *hub) capacity(month string) uint64 {
	return h.number(fmt.Sprintf("SELECT toUInt64(sum(capacity)) FROM welfare.supply_demand WHERE level = 'COUNTRY' AND period_start = '%s'", month))
}

func TestFutureCapacityFallsDue(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"validTo": at("2026-04-02T00:00:00Z")}))
	h.load(0, makeEvent(t, "CapacityChanged", nil), makeEvent(t, "CapacityChanged", fields{"effectiveFrom": at("2026-01-20T00:00:00Z"), "operational": 30000}))
	h.drain(a)
	if got := h.capacity("2026-01-01"); got != 10 {
		t.Fatalf("before the instant: capacity %d, want 10", got)
	}
	// News of something else move the horizon past the instant, then into the next months.
	for _, c := range []struct {
		at, month string
		want      uint64
	}{{"2026-01-20T00:00:00Z", "2026-01-01", 30}, {"2026-03-05T00:00:00Z", "2026-02-01", 30}, {"2026-03-06T00:00:00Z", "2026-03-01", 30}, {"2026-04-01T22:00:00Z", "2026-04-01", 0}} {
		h.load(0, makeEvent(t, "AttendanceRecorded", fields{"occurredAt": at(c.at)}))
		h.drain(a)
		if got := h.capacity(c.month); got != c.want {
			t.Errorf("now %s: capacity of %s is %d, want %d", c.at, c.month, got, c.want)
		}
		h.agree("now " + c.at)
	}
	h.verify(a, "at the end")
}

func TestOfferThatChangesNomenclatureMovesItsWaits(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	h.load(0, makeEvent(t, "WaitingListChanged", nil))
	h.load(0, makeEvent(t, "ServiceDelivered", fields{"serviceId": "s1"}))
	h.drain(a)
	h.agree("before the offer")
	h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"sourceRecordId": "o"}))
	h.drain(a)
	h.agree("with the offer")
	h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"sourceRecordId": "o", "recordVersion": 2, "nomenclatureCode": "K7", "status": "CLOSED"}))
	h.drain(a)
	h.agree("with another nomenclature")
	h.load(0, makeEvent(t, "RecordRevoked", fields{"revokedSourceRecordId": "o", "revokedUpToVersion": 2, "sourceRecordId": "v"}))
	h.drain(a)
	h.agree("with the offer revoked")
	h.load(0, makeEvent(t, "RecordRevoked", fields{"revokedSourceRecordId": "o", "revokedUpToVersion": 0, "sourceRecordId": "v", "recordVersion": 2}))
	h.drain(a)
	h.agree("with the revocation lifted")
	h.verify(a, "at the end")
}

// TestAStrayIDTakesNothingOut has an id at a position that is stored as a duplicate: the dropped insert of a former
// owner, which had it for loaded, may leave that.
func TestAStrayIDTakesNothingOut(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	first := makeEvent(t, "ServiceRequested", nil)
	h.load(1, first)
	h.drain(a)
	h.owner = 2
	h.load(0, first) // a duplicate
	h.exec("INSERT INTO store.ids SELECT type, id_hash, 0, 0, content_hash, hash_version, 2 FROM store.ids WHERE partition = 1")
	h.drain(a)
	h.agree("with a stray")
	if n := h.number("SELECT count() FROM store.superseded"); n != 0 {
		t.Errorf("%d rows were taken out", n)
	}
	h.owner = 3
	p := place{uint8(first.Type.No), 2}
	h.store(p, 0, []string{"loaded"}, nil, first) // a copy that raced
	h.drain(a)
	h.agree("with a stray and a copy")
	if n := h.number("SELECT count() FROM store.superseded FINAL WHERE partition = 2 AND of_partition = 1"); n != 1 {
		t.Errorf("%d rows of the copy, want 1", n)
	}
}

func TestRacedConflictCountsItsWinner(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	winner := makeEvent(t, "ServiceRequested", fields{"comuneCode": "015146"})
	loser := winner.Clone()
	loser.Set(loser.Type.MustField("comuneCode"), "058091")
	p := place{uint8(winner.Type.No), 1}
	// The loser is stored and counted first; then another instance stores the winner in a lower partition.
	h.store(p, 0, []string{"loaded"}, nil, loser)
	h.drain(a)
	if n := h.number("SELECT sum(requests) FROM welfare.supply_demand WHERE territory_code = '058091'"); n != 1 {
		t.Fatalf("before the race is seen: %d requests of the loser, want 1", n)
	}
	h.owner = 2
	h.load(0, winner)
	crash := h.aggregator(Options{fail: func(step string) error {
		if step == "settle" {
			return errInjected
		}
		return nil
	}})
	if _, err := crash.Cycle(context.Background()); !errors.Is(err, errInjected) {
		t.Fatalf("cycle with an injected error: %v", err)
	}
	h.drain(a)
	h.agree("after the race")
	if n := h.number("SELECT count() FROM store.superseded FINAL WHERE topic = 'welfare.demand.request' AND partition = 1 AND offset = 0 AND of_partition = 0"); n != 1 {
		t.Errorf("store.superseded has %d rows of the loser, want 1", n)
	}
	if n := h.number("SELECT max(settled_to) FROM store.settled WHERE partition = 0"); n != 1 {
		t.Errorf("settled to %d, want 1", n)
	}
	h.verify(a, "after the race")
}

// TestFactsThatWereLostAreRestored stops a cycle that has made its facts, and takes them away: the next has
// the same number, so the same token, by which the facts seem to be there.
func TestFactsThatWereLostAreRestored(t *testing.T) {
	h := newHub(t)
	stop := errors.New("stop")
	dies := h.aggregator(Options{fail: func(step string) error {
		if step == "feed" {
			return stop
		}
		return nil
	}})
	h.load(0, makeEvent(t, "ServiceRequested", fields{"sourceRecordId": "x"}))
	h.load(0, makeEvent(t, "RecordRevoked", fields{"revokedSourceRecordId": "x", "revokedType": "ServiceRequested"}))
	h.load(0, makeEvent(t, "NeedAssessed", nil))
	if _, err := dies.Cycle(t.Context()); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if n := h.number("SELECT count() FROM store.facts"); n != 2 {
		t.Fatalf("%d facts of two events", n)
	}
	for _, q := range []string{"facts", "records"} {
		h.exec("ALTER TABLE store." + q + " DELETE WHERE 1 SETTINGS mutations_sync = 1")
	}
	a := h.aggregator(Options{})
	stats, err := a.Cycle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Healed == 0 {
		t.Error("nothing was restored")
	}
	h.agree("restored")
	// Restored facts may be there twice.
	h.exec("INSERT INTO store.facts SELECT * FROM store.facts")
	h.load(0, makeEvent(t, "NeedAssessed", nil))
	h.drain(a)
	h.agree("with facts twice")
	h.verify(a, "with facts twice")
}

func TestErasureLeavesCertificates(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	subject, kin := person(1), person(2)
	h.load(0, makeEvent(t, "ServiceRequested", fields{"pseudonym": subject}), makeEvent(t, "ServiceRequested", fields{"pseudonym": kin, "householdPseudonym": subject}),
		makeEvent(t, "ServiceRequested", fields{"pseudonym": subject, "occurredAt": at("2026-02-20T00:00:00Z")}))
	h.drain(a)
	erasure := makeEvent(t, "SubjectErased", fields{"pseudonym": subject, "scope": "DEMAND", "requestedAt": at("2026-02-01T00:00:00Z"), "occurredAt": at("2026-02-01T00:00:00Z")})
	h.load(0, erasure)
	h.drain(a)
	// Late ones: one that the loader lets through, one that it knows to be gone.
	h.load(0, makeEvent(t, "ServiceDelivered", fields{"pseudonym": subject}))
	h.loadGone(0, func(*event.Row) bool { return true }, makeEvent(t, "NeedAssessed", fields{"pseudonym": subject}))
	h.drain(a)
	h.agree("after the erasure")
	h.clean("after the erasure")
	for table, want := range map[string]uint64{"service_requested": 2, "service_delivered": 1, "need_assessed": 0} {
		query := fmt.Sprintf("SELECT any(rows) FROM welfare.erasures WHERE table = '%s' AND source = 'a' AND scope = 'DEMAND' AND pseudonym_sha256 = lower(hex(SHA256('%s')))", table, subject)
		if n := h.number(query); n != want {
			t.Errorf("certificate of %s: %d rows, want %d", table, n, want)
		}
	}
	if n := h.number("SELECT count() FROM welfare.erasures"); n != 5 {
		t.Errorf("%d certificates, want one for each of the 5 tables of the family", n)
	}
	if n := h.number("SELECT count() FROM store.facts WHERE gone = 0 AND occurred_at < '2026-02-01' AND type = 3 AND (partition, offset) NOT IN (SELECT _partition, _offset FROM store.service_requested)"); n != 0 {
		t.Errorf("store.facts has %d rows of the subject", n)
	}
	// Until merges or a purge come the rows are there, beneath a mask.
	masked := "SELECT count() FROM system.parts WHERE database = 'store' AND active AND has_lightweight_delete AND table IN ('facts', 'service_requested', 'service_delivered')"
	if n := h.number(masked); n == 0 {
		t.Error("nothing is masked before the purge")
	}
	if n := h.number("SELECT count() FROM welfare.erasures WHERE purged_at IS NOT NULL"); n != 0 {
		t.Errorf("%d certificates say that their table is purged", n)
	}
	if err := a.purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := h.number(masked); n != 0 {
		t.Errorf("%d parts have a mask after the purge", n)
	}
	if n := h.number("SELECT count() FROM welfare.erasures WHERE purged_at >= applied_at"); n != 5 {
		t.Errorf("%d certificates say that their table is purged, want 5", n)
	}
	h.clean("after the purge")
}

func TestACycleIsOnePart(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{MaxRecords: 1_000_000, HealAfter: time.Minute})
	h.exec(`INSERT INTO store.service_requested (_partition, _offset, _from, _to, _end, _content_hash, source, source_record_id, record_version, occurred_at, comune_code, request_id, nomenclature_code, requested_at)
		SELECT 0, number, 0, 350000, 'loaded', SHA256(toString(number)), 'a', toString(number), 1, toDateTime64('2026-01-01', 3, 'UTC') AS t, '015146', toString(number), 'K1', t
		FROM numbers(350000) SETTINGS min_insert_block_size_rows = 10000000, min_insert_block_size_bytes = 0, max_block_size = 10000000, max_insert_threads = 1`)
	stats, err := a.Cycle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Groups != 350_000 {
		t.Fatalf("%d groups, want 350000", stats.Groups)
	}
	t.Logf("350,000 groups in %s", stats.Took)
	if n := h.number("SELECT count() FROM system.parts WHERE database = 'store' AND table = 'contrib' AND level = 0"); n != 1 {
		t.Errorf("%d parts, want 1", n)
	}
	if n := h.number("SELECT sum(requests) FROM welfare.supply_demand WHERE level = 'COMUNE'"); n != 350_000 {
		t.Errorf("%d requests, want 350000", n)
	}
}

func TestAggregatorsRace(t *testing.T) {
	h := newHub(t)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	options := Options{Interval: time.Millisecond, MaxRecords: 5}
	group.Go(func() {
		if err := h.aggregator(options).Run(ctx); err != nil {
			t.Error(err)
		}
	})
	group.Go(func() { // Run would leave the cycles to the other
		for a := h.aggregator(options); ctx.Err() == nil; {
			if _, err := a.Cycle(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for i := range 25 {
		h.load(uint32(i%2), makeEvent(t, "ServiceRequested", fields{"requestId": fmt.Sprint("q", i%7), "sourceRecordId": fmt.Sprint("r", i%5), "recordVersion": i}),
			makeEvent(t, "ServiceRequested", fields{"requestId": fmt.Sprint("q", i%3)}))
		h.load(0, makeEvent(t, "WaitingListChanged", fields{"requestId": fmt.Sprint("q", i%7)}))
		if i == 12 {
			h.load(0, makeEvent(t, "SubjectErased", fields{"requestedAt": at("2026-01-05T00:00:00Z"), "occurredAt": at("2026-01-10T00:00:00Z")}))
		}
	}
	a := h.aggregator(Options{})
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) && h.number("SELECT count() FROM store.ledger AS l LEFT JOIN store.aggregated AS a ON a.topic = l.topic AND a.partition = l.partition WHERE a.aggregated_to < l.to_offset") > 0 {
		time.Sleep(50 * time.Millisecond)
	}
	cancel()
	group.Wait()
	h.agree("after the race")
	h.verify(a, "after the race")
}

func TestTakeBlocksStopsAtGapsAndBounds(t *testing.T) {
	p, q := place{3, 0}, place{3, 1}
	books := &books{cycle: 1, now: 50, positions: map[place]uint64{p: 10}}
	made := func(at place, from, to uint64, occurred int64) block {
		return block{place: at, span: span{from, to}, read: to - from, accepted: 1, occurred: occurred}
	}
	got := takeBlocks(books, map[place][]block{
		p: {made(p, 0, 10, 99), made(p, 10, 20, 60), made(p, 25, 30, 70)}, // the first is done, the third beyond a gap
		q: {made(q, 7, 9, 40), made(q, 9, 12, 80)},
	}, 13)
	if want := (span{10, 20}); got.spans[p] != want {
		t.Errorf("partition 0: %v, want %v", got.spans[p], want)
	}
	if want := (span{7, 12}); got.spans[q] != want {
		t.Errorf("partition 1: %v, want %v", got.spans[q], want)
	}
	if got.now != 80 || got.records != 15 {
		t.Errorf("now %d records %d, want 80 and 15", got.now, got.records)
	}
	if got := takeBlocks(books, map[place][]block{p: {made(p, 10, 20, 60), made(p, 20, 30, 60)}}, 5); !got.more || got.positions[p] != 20 {
		t.Errorf("bounded: more %t, to %d; want true, 20", got.more, got.positions[p])
	}
}

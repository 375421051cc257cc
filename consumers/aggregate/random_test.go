package aggregate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

var errInjected = errors.New("injected")

// TestAnyOrderBatchingAndCrash loads random events that collide as much as possible, in random blocks
// over partitions, with cycles, crashes at any step and a second aggregator in between, and compares
// every row of the view with the model whenever the lag is zero.
//
//	WELFAREHUB_SEED=7 go test ./consumers/aggregate -run TestAnyOrder -v    repeats a run
//	WELFAREHUB_ROUNDS=50                                                    runs longer
func TestAnyOrderBatchingAndCrash(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("WELFAREHUB_SEED"), 10, 64); err == nil {
		seed = s
	}
	rounds := 2
	if n, err := strconv.Atoi(os.Getenv("WELFAREHUB_ROUNDS")); err == nil {
		rounds = n
	}
	for i := range uint64(rounds) {
		t.Logf("repeat with WELFAREHUB_SEED=%d WELFAREHUB_ROUNDS=1", seed+i)
		randomRun(t, rand.New(rand.NewPCG(seed+i, 1)))
		if t.Failed() {
			return
		}
	}
}

func randomRun(t *testing.T, rnd *rand.Rand) {
	h := newHub(t)
	g := &generator{t: t, rnd: rnd}
	queue := make([]*event.Row, 0, 400)
	for range 200 + rnd.IntN(100) {
		queue = append(queue, g.event())
	}
	crash := ""
	fail := func(step string) error {
		if step == crash {
			crash = ""
			return errInjected
		}
		return nil
	}
	options := Options{MaxRecords: uint64(1 + rnd.IntN(60)), fail: fail, states: 1 << rnd.IntN(9)}
	one, other := h.aggregator(options), h.aggregator(options)
	steps := []string{"", "", "settle", "erase", "touch", "insert", "sweep service_requested", "sweep service_delivered"}
	for len(queue) > 0 {
		// A block: some events of one type, in the order of the queue.
		n := 1 + rnd.IntN(8)
		typ := queue[0].Type
		var block, rest []*event.Row
		for _, r := range queue {
			if r.Type == typ && len(block) < n {
				block = append(block, r)
			} else {
				rest = append(rest, r)
			}
		}
		queue = rest
		h.load(uint32(rnd.IntN(2)), block...)
		if rnd.IntN(6) > 0 {
			continue
		}
		crash = steps[rnd.IntN(len(steps))]
		a := one
		if rnd.IntN(3) == 0 {
			a = other
		}
		if _, err := a.Cycle(context.Background()); err != nil && !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		if rnd.IntN(3) == 0 {
			one = h.aggregator(options) // a restart
		}
		if rnd.IntN(8) == 0 {
			crash = ""
			h.drain(one)
			h.agree(fmt.Sprintf("with %d events to come", len(queue)))
		}
	}
	crash = ""
	h.drain(other)
	h.drain(one)
	h.agree("at the end")
	h.verify(one, "at the end")
	h.clean("at the end")
}

// clean fails where a row of an erased subject is left anywhere.
func (h *hub) clean(when string) {
	h.t.Helper()
	for _, typ := range event.Types {
		if typ.Subject < 0 || typ.Family == event.FamilyControl {
			continue
		}
		limit := fmt.Sprintf("SELECT pseudonym, max(requested_at) AS up_to FROM store.subject_erased WHERE scope IN ('ALL', '%s') GROUP BY pseudonym", typ.Family)
		for _, column := range []string{typ.Fields[typ.Subject].Column, "household_pseudonym"} {
			if column == "household_pseudonym" && typ.Field("householdPseudonym") < 0 {
				continue
			}
			if n := h.number(fmt.Sprintf("SELECT count() FROM store.%s AS t INNER JOIN (%s) AS l ON l.pseudonym = t.%s WHERE t._end = 'loaded' AND t._gone = 0 AND t.occurred_at <= l.up_to", typ.Table, limit, column)); n != 0 {
				h.t.Errorf("%s: store.%s has %d rows by %s of erased subjects", when, typ.Table, n, column)
			}
		}
	}
	for no, view := range factViews {
		if no == revocation {
			continue
		}
		if n := h.number(fmt.Sprintf("SELECT count() FROM store.facts WHERE type = %d AND gone = 0 AND (partition, offset) NOT IN (SELECT partition, offset FROM store.%s)", no, view)); n != 0 {
			h.t.Errorf("%s: store.facts has %d rows of %s that are stored no more", when, n, typeOf(no).Table)
		}
	}
	for topic, books := range h.model.Ends() {
		if n := h.number(fmt.Sprintf("SELECT uniqExact(partition, offset) FROM store.erased WHERE topic = '%s'", topic)); n != uint64(books.Erased) {
			h.t.Errorf("%s: %s has %d erased, want %d", when, topic, n, books.Erased)
		}
	}
}

// generator makes events from spaces so small that everything meets everything.
type generator struct {
	t   *testing.T
	rnd *rand.Rand
}

func (g *generator) pick(s ...string) string { return s[g.rnd.IntN(len(s))] }

func (g *generator) id(prefix string, n int) string {
	return fmt.Sprintf("%s%d", prefix, g.rnd.IntN(n))
}

func (g *generator) maybe(v any) any {
	if g.rnd.IntN(2) == 0 {
		return nil
	}
	return v
}

// instant is one of the edges of months in Rome, or any time around them.
func (g *generator) instant() time.Time {
	edges := []time.Time{
		at("2025-10-31T22:59:59.999Z"), at("2025-10-31T23:00:00Z"), at("2025-12-31T23:00:00Z"), at("2026-01-31T22:59:59.999Z"),
		at("2026-03-28T12:00:00Z"), at("2026-03-31T21:59:59.999Z"), at("2026-03-31T22:00:00Z"), at("2026-05-10T10:00:00Z"),
	}
	switch g.rnd.IntN(3) {
	case 0:
		return edges[g.rnd.IntN(len(edges))]
	case 1:
		return at("2025-11-01T00:00:00Z").Add(time.Duration(g.rnd.IntN(200*24)) * time.Hour)
	}
	return at("2026-01-01T00:00:00Z").Add(time.Duration(g.rnd.IntN(5)) * time.Hour)
}

func (g *generator) day() time.Time {
	return at("2025-11-01T00:00:00Z").AddDate(0, 0, g.rnd.IntN(9)*15)
}

func (g *generator) event() *event.Row {
	names := []string{
		"ServiceOfferPublished", "CapacityChanged", "CapacityChanged", "ServiceRequested", "ServiceRequested", "NeedAssessed",
		"WaitingListChanged", "WaitingListChanged", "WaitingListChanged", "BenefitDecided", "ServiceDelivered", "ServiceDelivered",
		"PopulationReported", "PopulationReported", "RecordRevoked", "TerritoryUpserted", "AttendanceRecorded",
	}
	if g.rnd.IntN(40) == 0 {
		names = []string{"SubjectErased"}
	}
	name := names[g.rnd.IntN(len(names))]
	source := g.pick("a", "a", "b")
	occurred := at("2025-11-05T00:00:00Z").Add(time.Duration(g.rnd.IntN(150*24)) * time.Hour)
	var validTo any
	if g.rnd.IntN(3) == 0 {
		validTo = g.day()
	}
	f := fields{
		"source": source, "sourceRecordId": g.id("r", 12), "recordVersion": 1 + g.rnd.IntN(3), "occurredAt": occurred,
		"pseudonym": person(g.rnd.IntN(5)), "student": person(g.rnd.IntN(5)), "householdPseudonym": g.maybe(person(g.rnd.IntN(5))),
		"comuneCode": g.pick("015146", "015002", "058091", "777777", "015999", "999999"),
		"requestId":  g.id("q", 4), "benefitId": g.id("b", 3), "serviceId": g.id("s", 3), "nomenclatureCode": g.pick("K1", "K2", "X9"),
		"userArea": g.pick("DISABILITY", "MULTI"), "requestSource": g.maybe(g.pick("a", "b")), "benefitSource": g.maybe(g.pick("a", "b")),
		"requestedAt": g.instant(), "assessedAt": g.instant(), "changedAt": g.instant(), "effectiveFrom": g.instant(),
		"status": g.pick("OPEN", "OPEN", "CLOSED"), "unit": g.pick("PLACE", "BED", "HOUR_WEEK", "UNKNOWN"), "change": g.pick("ENTER", "ENTER", "LEAVE", "UNKNOWN"),
		"leaveReason": g.pick("PLACED", "WITHDRAWN"), "decision": g.pick("GRANTED", "ENDED"), "outcome": g.pick("NOT_ELIGIBLE", "ELIGIBLE"),
		"validFrom": g.day(), "validTo": validTo, "periodStart": g.day(), "unitsDelivered": g.rnd.IntN(9) * 500, "amountTotal": g.rnd.IntN(5) * 1001,
		"operational": g.rnd.IntN(20) * 1000, "occupied": g.rnd.IntN(20) * 500,
		"scope": g.pick("ALL", "DEMAND", "SCHOOL", "UNKNOWN"), "territoryCode": g.pick("015146", "015002", "777777", "015999", "015"),
		"referenceDate": g.day(), "sex": g.pick("UNKNOWN", "M", "F"), "residents": g.rnd.IntN(1000), "level": g.pick("COMUNE", "UTS"),
		"parentCode": g.maybe(g.pick("03", "058", "99")), "revokedSource": source, "revokedSourceRecordId": g.id("r", 12), "revokedUpToVersion": g.rnd.IntN(4),
		"revokedType": g.maybe(g.pick("ServiceRequested", "CapacityChanged", "PopulationReported", "Nothing")),
	}
	switch g.rnd.IntN(3) {
	case 0:
		f["ageFrom"], f["ageTo"] = 0, 100
	case 1:
		f["ageFrom"], f["ageTo"] = 0, 17
	case 2:
		f["ageFrom"], f["ageTo"] = 18, 100
	}
	switch name {
	case "ServiceRequested", "BenefitDecided", "ServiceDelivered":
		f["serviceId"] = g.maybe(f["serviceId"])
	case "SubjectErased":
		f["requestedAt"] = occurred
		f["sourceRecordId"] = g.id("e", 2)
	case "RecordRevoked":
		f["sourceRecordId"] = g.id("v", 6)
	}
	r := makeEvent(g.t, name, f)
	if g.rnd.IntN(20) == 0 { // a copy of an id: a duplicate, or another content
		serial--
	}
	return r
}

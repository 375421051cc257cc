package aggregate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// loadSome loads blocks of random events, each of one kind.
func (h *hub) loadSome(g *generator, blocks int) {
	for range blocks {
		rows := []*event.Row{g.event()}
		for range 40 {
			if r := g.event(); r.Type == rows[0].Type {
				rows = append(rows, r)
			}
		}
		h.load(0, rows...)
	}
}

// spoil puts wrong figures into the live cells: of groups that are there, and of one that is not.
func (h *hub) spoil() {
	h.exec("INSERT INTO " + insertContrib(liveTable)[len("INSERT INTO "):] + " SELECT grp, comune, nomenclature, area, month, unit, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, now64(3) FROM store.contrib WHERE grp != 0 AND NOT startsWith(area, '#') LIMIT 2")
	h.exec("INSERT INTO " + insertContrib(liveTable)[len("INSERT INTO "):] + " VALUES (5, '015146', 'K1', 'MULTI', 24312, '', 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, now64(3))")
}

// verifyBoth fails where either table is not what the facts say.
func (h *hub) verifyBoth(a *Aggregator, when string) {
	h.t.Helper()
	for _, table := range []string{liveTable, besideTable} {
		n, err := a.verify(context.Background(), table)
		if err != nil {
			h.t.Fatal(err)
		}
		if n != 0 {
			h.t.Fatalf("%s: %d cells of %s differ", when, n, table)
		}
	}
}

func (h *hub) states(a *Aggregator) string {
	h.t.Helper()
	all, err := a.Generations(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	out := ""
	for _, g := range all {
		out += fmt.Sprintf("%d %s;", g.Number, g.State)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRebuiltAndExchangedAndBack(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	ctx := t.Context()
	g := &generator{t: t, rnd: rand.New(rand.NewPCG(1, 2))}
	more := func() { h.loadSome(g, 5) }
	more()
	h.drain(a)
	h.agree("before")
	if got := h.states(a); got != "0 live;" {
		t.Error(got)
	}
	must(t, errorIs(a.Swap(ctx), ErrNoGeneration))
	must(t, errorIs(a.Drop(ctx), ErrNoGeneration))
	r, err := a.Rebuild(ctx, nil)
	must(t, err)
	if r.Differing != 0 || !r.Exact || r.Cells == 0 || r.Generation != 2 {
		t.Errorf("%+v", r)
	}
	must(t, a.Drop(ctx))

	h.spoil()
	r, err = a.Rebuild(ctx, nil)
	must(t, err)
	if r.Differing == 0 || len(r.First) != int(r.Differing) || !r.Exact || len(r.First[0].Changes) == 0 {
		t.Errorf("%+v", r)
	}
	if _, err := a.Rebuild(ctx, nil); !errors.Is(err, ErrGeneration) {
		t.Error(err)
	}
	more()
	h.drain(a)
	if got := h.states(a); got != "1 live;2 built;" {
		t.Error(got)
	}
	if n, err := a.verify(ctx, besideTable); err != nil || n != 0 {
		t.Fatalf("cycles left %d cells behind: %v", n, err)
	}
	must(t, errorIs(a.RollBack(ctx), ErrNoGeneration))
	must(t, a.Swap(ctx))
	h.agree("exchanged")
	h.verify(a, "exchanged")
	more()
	h.drain(a)
	h.agree("exchanged, with more")
	if got := h.states(a); got != "2 live;1 old;" {
		t.Error(got)
	}
	must(t, a.RollBack(ctx))
	if n, err := a.VerifyAll(ctx); err != nil || n == 0 {
		t.Errorf("what was wrong before is not back: %d, %v", n, err)
	}
	more()
	h.drain(a)
	must(t, a.RollBack(ctx))
	h.agree("there again")
	if got := h.states(a); got != "4 live;3 old;" {
		t.Error(got)
	}
	must(t, a.Drop(ctx))
	more()
	h.drain(a)
	h.agree("dropped")
	if n := h.number("SELECT count() FROM store.contrib_beside"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if got := h.states(a); got != "4 live;" {
		t.Error(got)
	}
}

func errorIs(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("got %v, want %s", err, want.Error()) //nolint:errorlint // the first may be nil
}

// TestABuildingThatWasCutOffIsNotExchanged cancels a build.
func TestABuildingThatWasCutOffIsNotExchanged(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	h.load(0, makeEvent(t, "ServiceRequested", nil))
	h.drain(a)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := a.Rebuild(ctx, func(uint64, uint64) { cancel() }); err == nil {
		t.Fatal("no error")
	}
	if got := h.states(a); got != "1 live;2 building;" {
		t.Error(got)
	}
	must(t, errorIs(a.Swap(t.Context()), ErrUnfinished))
	must(t, a.Drop(t.Context()))
}

// TestAnInsertLandsInTheTableThatItBeganWith is what makes an exchange safe in the middle of an insert.
func TestAnInsertLandsInTheTableThatItBeganWith(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	ctx := t.Context()
	for _, replace := range []string{"EXCHANGE TABLES store.contrib AND store.contrib_beside", "CREATE OR REPLACE TABLE store.contrib_beside AS store.contrib"} {
		batch, err := a.prepare(ctx, besideTable, "x")
		must(t, err)
		must(t, appendCell(batch, id{1}, cell{}, measures{requests: 1}, time.Now()))
		done := make(chan error, 1)
		go func() { done <- h.db.Exec(ctx, replace) }()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s waits for the insert", replace)
		}
		_ = batch.Send() // into a table that was dropped it may fail
		if n := h.number("SELECT count() FROM store.contrib_beside"); n != 0 {
			t.Errorf("%s: the rows are in the other table", replace)
		}
	}
	if n := h.number("SELECT count() FROM store.contrib"); n != 1 {
		t.Errorf("%d rows in the table that the insert began with", n)
	}
	// Its projection and its window of tokens came along.
	if n := h.number("SELECT count() FROM system.projections WHERE database = 'store' AND table IN ('contrib', 'contrib_beside')"); n != 2 {
		t.Errorf("%d projections", n)
	}
	if n := h.number("SELECT count() FROM system.tables WHERE database = 'store' AND name IN ('contrib', 'contrib_beside') AND engine = 'SummingMergeTree' AND create_table_query LIKE '%non_replicated_deduplication_window = 10000%'"); n != 2 {
		t.Errorf("%d tables with their settings", n)
	}
}

// TestTwoExchangesInTheMiddleOfACycle has the tables change places twice while a cycle looks at what offers were
// when they were last computed, so that it looks at one of them twice and at the other not at all.
func TestTwoExchangesInTheMiddleOfACycle(t *testing.T) {
	h := newHub(t)
	ctx := t.Context()
	plain := h.aggregator(Options{})
	h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"sourceRecordId": "offer"}))
	h.load(0, makeEvent(t, "WaitingListChanged", nil))
	h.drain(plain)
	_, err := plain.Rebuild(ctx, nil)
	must(t, err)

	h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"sourceRecordId": "offer", "recordVersion": 2, "nomenclatureCode": "K2"}))
	dies := h.aggregator(Options{fail: func(step string) error {
		if step == "insert" { // into the live table; the one beside is left where it was
			return errInjected
		}
		return nil
	}})
	if _, err := dies.Cycle(ctx); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	exchange := func() error {
		p, err := plain.readPair(ctx)
		if err != nil {
			return err
		}
		if next := p.live.generation + 1; p.beside.generation < next {
			row := bookOf("generation", 0, int64(next-p.beside.generation))
			if err := plain.insertBooks(ctx, besideTable, fmt.Sprint("generation/", next), []bookRow{row}); err != nil {
				return err
			}
		}
		return plain.exec(ctx, "EXCHANGE TABLES "+liveTable+" AND "+besideTable)
	}
	exchanges := 0
	a := h.aggregator(Options{fail: func(step string) error {
		if step == "services of "+liveTable && exchanges == 0 || step == "touch" && exchanges == 1 {
			exchanges++
			return exchange()
		}
		return nil
	}})
	_, err = a.Cycle(ctx)
	must(t, err)
	if exchanges != 2 {
		t.Fatalf("%d exchanges", exchanges)
	}
	h.drain(plain)
	h.verifyBoth(plain, "exchanged twice")
	h.agree("exchanged twice")
}

// TestRebuildUnderLoad builds, exchanges, rolls back and drops again and again, while random events are loaded and two aggregators run that crash.
func TestRebuildUnderLoad(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("WELFAREHUB_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("repeat with WELFAREHUB_SEED=%d", seed)
	h := newHub(t)
	rnd := rand.New(rand.NewPCG(seed, 3))
	g := &generator{t: t, rnd: rnd}
	var mu sync.Mutex
	crashes := rand.New(rand.NewPCG(seed, 4))
	options := Options{MaxRecords: 40, fail: func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if crashes.IntN(25) == 0 {
			return errInjected
		}
		return nil
	}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			a := h.aggregator(options)
			for ctx.Err() == nil {
				if _, err := a.Cycle(ctx); err != nil && !errors.Is(err, errInjected) && ctx.Err() == nil {
					t.Errorf("cycle: %v", err)
					return
				}
			}
		})
	}
	built := 0
	wg.Go(func() {
		desk := h.aggregator(Options{})
		for ctx.Err() == nil {
			_, err := desk.Rebuild(ctx, nil)
			for _, do := range []func(context.Context) error{desk.Swap, desk.RollBack, desk.Swap, desk.Drop} {
				if err == nil {
					err = do(ctx)
				}
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("rebuild: %v", err)
				return
			}
			built++
		}
	})
	for i, end := 0, time.Now().Add(12*time.Second); time.Now().Before(end) && i < 400; i++ {
		rows := []*event.Row{g.event()}
		for rnd.IntN(3) > 0 {
			if r := g.event(); r.Type == rows[0].Type {
				rows = append(rows, r)
			}
		}
		h.load(uint32(rnd.IntN(2)), rows...)
	}
	stop()
	wg.Wait()
	a := h.aggregator(Options{})
	if _, err := a.Rebuild(t.Context(), nil); err != nil && !errors.Is(err, ErrGeneration) {
		t.Fatal(err)
	}
	h.drain(a)
	h.agree("at the end")
	h.verifyBothIfBuilt(a)
	h.clean("at the end")
	t.Logf("%d generations", built)
	if built == 0 {
		t.Error("none was built in the time")
	}
}

// verifyBothIfBuilt verifies also a generation whose building the end of the test did not cut off.
func (h *hub) verifyBothIfBuilt(a *Aggregator) {
	h.t.Helper()
	h.verify(a, "at the end")
	p, err := a.readPair(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	if p.beside != nil && (p.beside.built || p.beside.generation < p.live.generation) {
		h.verifyBoth(a, "at the end")
	}
}

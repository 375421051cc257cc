package load

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// losePart kills the engine and takes the newest part of each table away: what a death between an insert's token
// and its part leaves.
func (w *world) losePart(server *testkit.Server, tables ...string) {
	w.t.Helper()
	var paths []string
	for _, table := range tables {
		var path string
		if err := w.db.Scan(w.t.Context(), "SELECT argMax(path, max_block_number) FROM system.parts WHERE database = 'store' AND table = ? AND active", []any{table}, &path); err != nil {
			w.t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			w.t.Skipf("parts of this server are out of reach: %v", err)
		}
		paths = append(paths, path)
	}
	server.Kill(w.t)
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			w.t.Error(err)
		}
	}
	server.Start(w.t)
	for _, table := range tables {
		w.wait("the part is away", func() bool { return w.count("count() FROM store."+table) == 0 })
	}
}

// wait waits for what comes soon; the pool has connections of an engine that is gone.
func (w *world) wait(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within half a minute: %s", what)
		}
	}
}

// TestTokensWithoutRowsAreMended has the engine die between token and part in each of the tables that an insert
// goes to, when nobody knows whether the block was stored.
func TestTokensWithoutRowsAreMended(t *testing.T) {
	request := event.ByName("ServiceRequested")
	server := testkit.ClickHouseServer(t)
	for _, lost := range [][]string{{request.Table, "ids", "ledger"}, {"ids"}, {"ledger"}, {"ids", "ledger"}} {
		t.Run(strings.Join(lost, "_"), func(t *testing.T) {
			w := newWorldOn(t, server.DSN, 1)
			w.publish(message(hubtest.Valid(request, 1), 0), message(hubtest.Valid(request, 2), 0))
			w.dieAfter(request, 4, 2)
			w.losePart(server, lost...)
			w.start(&hubtest.Schemas{}, nil)
			w.await(request.Topic, 2)
			w.publish(message(hubtest.Valid(request, 1), 0), message(hubtest.Valid(request, 2), 0), message(hubtest.Valid(request, 3), 0))
			w.await(request.Topic, 5)
			if got, want := w.books(request.Topic), (Counts{5, 3, 2, 0}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			if ids, rows := w.count("count() FROM store.ids"), w.count("count() FROM store."+request.Table); ids != 3 || rows != 5 {
				t.Errorf("%d ids and %d rows, want 3 and 5", ids, rows)
			}
			if n := w.count("uniqExact(_epoch) FROM store." + request.Table + " WHERE _epoch != 0"); n == 0 {
				t.Error("rows without an epoch")
			}
		})
	}
	t.Run("erasures", func(t *testing.T) {
		erasure := event.ByName("SubjectErased")
		w := newWorldOn(t, server.DSN, 1)
		w.publish(message(hubtest.Valid(erasure, 1), 0))
		w.dieAfter(erasure, 4, 1)
		want := w.count("count() FROM store.erasures")
		w.losePart(server, "erasures")
		w.start(&hubtest.Schemas{}, nil)
		w.wait("erasures are there again", func() bool { return w.count("count() FROM store.erasures") > 0 })
		if got := w.count("count() FROM store.erasures"); got != want || want == 0 {
			t.Errorf("%d erasures, want %d", got, want)
		}
	})
}

// TestHealPassesOverTokensWithoutRows has tokens taken of a view, in this life of the engine and in an earlier one, and
// of fills before; and several who heal at once.
func TestHealPassesOverTokensWithoutRows(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	server := testkit.ClickHouseServer(t)
	w := newWorldOn(t, server.DSN, 1)
	w.publish(message(hubtest.Valid(typ, 1), 0), message(hubtest.Valid(typ, 2), 0))
	w.dieAfter(typ, 4, 2)
	s, err := newStore(w.dsn, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	p, c := position{typ.Topic, 0}, claim{0, 2}
	heal := func(what string) {
		t.Helper()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if found, err := s.heal(t.Context(), typ, p, c); err != nil || !found {
					t.Errorf("%s: found %t, %v", what, found, err)
				}
			})
		}
		all.Wait()
		if ids, blocks, rows := w.count("count() FROM store.ids"), w.count("count() FROM store.ledger"), w.count("count() FROM store."+typ.Table); ids != 2 || blocks != 1 || rows != 2 {
			t.Errorf("%s: %d ids, %d blocks, %d rows", what, ids, blocks, rows)
		}
	}
	heal("nothing is missing")
	if err := w.db.Exec(t.Context(), "DELETE FROM store.ids WHERE 1"); err != nil { // keeps the token, as an exception does
		t.Fatal(err)
	}
	heal("a token without rows in this life")
	for i := range 3 {
		w.losePart(server, "ids", "ledger")
		heal(fmt.Sprintf("a token without rows in an earlier life, time %d", i+1))
	}
}

// TestABlockWithoutRowsStopsItsPartition takes the rows of a block that the ledger has: whoever takes over does not
// pass it over, nor do the other partitions wait for it.
func TestABlockWithoutRowsStopsItsPartition(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	server := testkit.ClickHouseServer(t)
	w := newWorldOn(t, server.DSN, 2)
	w.publish(message(hubtest.Valid(typ, 1), 0), message(hubtest.Valid(typ, 2), 0))
	w.dieAfter(typ, 4, 2)
	w.losePart(server, typ.Table)
	core, logs := observer.New(zap.ErrorLevel)
	w.start(&hubtest.Schemas{}, func(o *Options) { o.Logger = zap.New(zapcore.NewTee(core, o.Logger.Core())) })
	w.publish(message(hubtest.Valid(typ, 3), 0), message(hubtest.Valid(typ, 4), 1))
	w.await(typ.Topic, 3)
	time.Sleep(500 * time.Millisecond)
	if got, want := w.books(typ.Topic), (Counts{3, 3, 0, 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := logs.FilterMessageSnippet("has no row of it").Len(); n != 1 {
		t.Errorf("%d errors in the log, want one", n)
	}
}

// TestEpochsAreOfALife: the same for all connections, and another one after a start.
func TestEpochsAreOfALife(t *testing.T) {
	server := testkit.ClickHouseServer(t)
	w := newWorldOn(t, server.DSN, 1)
	s, err := newStore(w.dsn, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	seen := map[uint64]bool{}
	for range 3 {
		var mu sync.Mutex
		var all sync.WaitGroup
		now := map[uint64]bool{}
		for range 8 {
			all.Go(func() {
				c, err := s.connect(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer c.release()
				mu.Lock()
				defer mu.Unlock()
				now[c.epoch] = true
			})
		}
		all.Wait()
		if len(now) != 1 {
			t.Fatalf("%d epochs at once", len(now))
		}
		for e := range now {
			if seen[e] || e == 0 {
				t.Errorf("epoch %d again", e)
			}
			seen[e] = true
		}
		server.Kill(t)
		server.Start(t)
	}
}

package publish

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/engine"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

func TestMain(m *testing.M) {
	engine.RunIfChild()
	os.Exit(testkit.CheckLeaks(m.Run()))
}

// TestWaitReadsTheLedgerInClickHouse books a block with each end and waits for it. WELFAREHUB_E2E=0
// skips it, =1 requires an engine, unset runs it where one is installed.
func TestWaitReadsTheLedgerInClickHouse(t *testing.T) {
	gate := os.Getenv("WELFAREHUB_E2E")
	if gate == "0" {
		t.Skip("WELFAREHUB_E2E=0")
	}
	ctx := t.Context()
	e, err := engine.Start(ctx, engine.Options{DataDir: t.TempDir(), MinFreeDisk: -1})
	if err != nil && gate != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if err := e.Stop(stop); err != nil {
			t.Error(err)
		}
	}()
	if err := clickhouse.Migrate(ctx, e.DSN(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	db, err := clickhouse.Open(ctx, e.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Exec(ctx, `INSERT INTO store.capacity_changed (_partition, _offset, _from, _to, _end, _detail) VALUES
		(2, 10, 10, 14, 'loaded', ''), (2, 11, 10, 14, 'duplicate', '{"source":"s","of_partition":0,"of_offset":1}'),
		(2, 12, 10, 14, 'rejected', '{"code":"E20","codes":["E20"]}'), (2, 13, 10, 14, 'rejected', '{"code":"E02","codes":["E02"]}')`); err != nil {
		t.Fatal(err)
	}
	p := Partition{"welfare.supply.capacity", 2}
	pos := &Positions{}
	for o := range int64(3) {
		pos.add(p, 10+o)
	}
	report, err := Wait(ctx, NewLedger(db.Conn()), pos, WaitOptions{})
	if !errors.Is(err, ErrNotLoaded) || report.Loaded != 1 || report.Duplicate != 1 || report.Rejected != 1 || report.Rejects[0] != (Reject{p, 12, "E20"}) {
		t.Errorf("%+v: %v", report, err)
	}
	pos.add(p, 14)
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := Wait(short, NewLedger(db.Conn()), pos, WaitOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("offset 14 is not booked: %v", err)
	}
}

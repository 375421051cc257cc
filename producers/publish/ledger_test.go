package publish

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestWaitReadsTheLedgerInClickHouse books a block with each end and waits for it.
func TestWaitReadsTheLedgerInClickHouse(t *testing.T) {
	ctx, server := t.Context(), testkit.ClickHouse(t)
	db := hubtest.Store(t, server.DSN)
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

package api

import (
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// database returns a connection to the migrated server of this package's tests, with all rights, and one
// of its planner, or the same again where it has none.
func database(t *testing.T) (hub *clickhouse.DB, planner driver.Conn) {
	t.Helper()
	server := testkit.ClickHouse(t)
	hub = hubtest.Store(t, server.DSN)
	if server.PlannerDSN == "" {
		return hub, hub.Conn()
	}
	db, err := clickhouse.Open(t.Context(), server.PlannerDSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return hub, db.Conn()
}

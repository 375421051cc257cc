package api

import (
	"sync"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// migrated is done when the shared server has the schema.
var migrated sync.Once

// database returns a connection to the migrated server of this package's tests, with all rights, and one
// of its planner, or the same again where it has none.
func database(t *testing.T) (hub *clickhouse.DB, planner driver.Conn) {
	t.Helper()
	server := testkit.ClickHouse(t)
	migrated.Do(func() {
		if err := clickhouse.Migrate(t.Context(), server.DSN, zap.NewNop()); err != nil {
			t.Fatal(err)
		}
	})
	open := func(dsn string) *clickhouse.DB {
		db, err := clickhouse.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	hub = open(server.DSN)
	if server.PlannerDSN == "" {
		return hub, hub.Conn()
	}
	return hub, open(server.PlannerDSN).Conn()
}

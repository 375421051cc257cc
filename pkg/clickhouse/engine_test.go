package clickhouse_test

import (
	"testing"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// migrated returns a connection to a server with the current schema and no rows.
func migrated(t *testing.T) *clickhouse.DB {
	t.Helper()
	db := hubtest.Store(t, testkit.ClickHouse(t).DSN)
	for _, table := range show(t, db, "SELECT concat(database, '.', name) FROM system.tables WHERE database IN ('store', 'welfare') AND name != 'schema_version' AND engine LIKE '%MergeTree' AND total_rows > 0") {
		if err := db.Exec(t.Context(), "TRUNCATE TABLE "+table+" SYNC"); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

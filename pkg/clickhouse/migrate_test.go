package clickhouse_test

import (
	"testing"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

func TestMigrateUpDownUp(t *testing.T) {
	e := testkit.ClickHouse(t)
	db := migrated(t)
	count := func() (n uint64) {
		t.Helper()
		if err := db.Scan(t.Context(), "SELECT count() FROM system.tables WHERE database IN ('store', 'welfare') AND name != 'schema_version'", nil, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	up := count()
	if up < 16*4 {
		t.Errorf("%d tables and views after the migration, want at least %d", up, 16*4)
	}
	if err := clickhouse.Migrate(t.Context(), e.DSN, zap.NewNop()); err != nil {
		t.Fatalf("a second migration: %v", err)
	}
	if err := clickhouse.MigrateDown(t.Context(), e.DSN, 0, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d tables and views are left after going down", n)
	}
	if err := clickhouse.Migrate(t.Context(), e.DSN, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != up {
		t.Errorf("%d tables and views after up, down, up, want %d", n, up)
	}
}

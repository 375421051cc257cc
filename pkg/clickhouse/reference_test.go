package clickhouse_test

import (
	"fmt"
	"testing"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/codes"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

func TestMigrateReplacesTheReferenceLists(t *testing.T) {
	e := testkit.ClickHouse(t)
	db := migrated(t)
	lists := codes.Default()
	if err := db.Exec(t.Context(), "INSERT INTO store.comuni (code, name) VALUES ('000000', 'old')"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := clickhouse.Migrate(t.Context(), e.DSN, zap.NewNop()); err != nil {
			t.Fatal(err)
		}
		expect(t, db, "SELECT concat(count(), ' ', countIf(code = '000000')) FROM store.comuni", fmt.Sprintf("%d 0", len(lists.Comuni())))
		expect(t, db, "SELECT toString(count()) FROM store.reference_nomenclature", fmt.Sprint(len(lists.Nomenclature())))
	}
	expect(t, db, "SELECT concat(name, ' ', province, ' ', region) FROM store.comuni WHERE code = '015146'", "Milano 015 03")
	put(t, db, "service_requested", 0, 0, with(id("a"), "comune_code", "'015146'"), with(id("b"), "comune_code", "'000000'"))
	expect(t, db, flags, "W04 welfare.demand.request ServiceRequested 1")
	expect(t, db, "SELECT name FROM system.tables WHERE name LIKE '%_next'")
}

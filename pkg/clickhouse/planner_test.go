package clickhouse_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

// TestPlannerReadsWelfareOnly selects from every object of both databases as planner.
func TestPlannerReadsWelfareOnly(t *testing.T) {
	e := startEngine(t)
	db := migrated(t)
	put(t, db, "service_requested", 0, 0, rec{"pseudonym": p("1")})
	planner, err := clickhouse.Open(t.Context(), e.PlannerDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer planner.Close()
	objects := show(t, db, "SELECT concat(database, '.', name) FROM system.tables WHERE database IN ('store', 'welfare') ORDER BY 1")
	for _, o := range objects {
		// The planner's limit is 60 s; the driver asks for the deadline and 5 s.
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := planner.Exec(ctx, "SELECT * FROM "+o+" LIMIT 1 FORMAT Null")
		cancel()
		var denied *driver.Exception
		switch {
		case strings.HasPrefix(o, "welfare.") && err != nil:
			t.Errorf("planner cannot read %s: %v", o, err)
		case strings.HasPrefix(o, "store.") && !(errors.As(err, &denied) && denied.Code == 497):
			t.Errorf("planner reads %s: %v", o, err)
		}
	}
	for _, want := range []string{
		"welfare.service_requested", "welfare.service_requested_current", "welfare.ledger", "welfare.rejected", "welfare.duplicates",
		"welfare.books", "welfare.conflicts", "welfare.flags", "welfare.erasures", "welfare.freshness", "welfare.replays",
	} {
		if !slices.Contains(objects, want) {
			t.Errorf("there is no %s", want)
		}
	}
}

// TestEverythingIsCommented looks for public tables and columns without a comment, save the aggregates.
func TestEverythingIsCommented(t *testing.T) {
	db := migrated(t)
	expect(t, db, "SELECT concat(database, '.', name) FROM system.tables WHERE database = 'welfare' AND comment = '' AND name NOT IN ('population', 'supply_demand', 'supply_demand_full')")
	expect(t, db, "SELECT concat(table, '.', name) FROM system.columns WHERE database = 'welfare' AND comment = '' AND table NOT IN ('population', 'supply_demand', 'supply_demand_full')")
}

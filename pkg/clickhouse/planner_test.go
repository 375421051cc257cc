package clickhouse_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// TestNoCallAsksForMoreThanTheServerAllows: of the embedded users, planner has 60 s and hub no limit.
func TestNoCallAsksForMoreThanTheServerAllows(t *testing.T) {
	e := testkit.ClickHouse(t)
	for dsn, most := range map[string]float64{e.PlannerDSN: 60, e.DSN: 125} {
		db, err := clickhouse.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var asked float64
		if err := db.Scan(t.Context(), "SELECT toFloat64(getSetting('max_execution_time'))", nil, &asked); err != nil {
			t.Error(err)
		}
		if asked > most || asked <= most-5 {
			t.Errorf("a call asks for %v s, where %v s are allowed", asked, most)
		}
	}
}

// TestPlannerReadsWelfareOnly selects from every object of both databases as planner.
func TestPlannerReadsWelfareOnly(t *testing.T) {
	e := testkit.ClickHouse(t)
	db := migrated(t)
	put(t, db, "service_requested", 0, 0, rec{"pseudonym": p("1")})
	planner, err := clickhouse.Open(t.Context(), e.PlannerDSN)
	if err != nil {
		t.Fatal(err)
	}
	defer planner.Close()
	objects := show(t, db, "SELECT concat(database, '.', name) FROM system.tables WHERE database IN ('store', 'welfare') ORDER BY 1")
	for _, o := range objects {
		err := planner.Exec(t.Context(), "SELECT * FROM "+o+" LIMIT 1 FORMAT Null")
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

// TestEverythingIsCommented looks for public tables, views and columns without a comment.
func TestEverythingIsCommented(t *testing.T) {
	db := migrated(t)
	expect(t, db, "SELECT concat(database, '.', name) FROM system.tables WHERE database = 'welfare' AND comment = '' ORDER BY 1")
	expect(t, db, "SELECT concat(table, '.', name) FROM system.columns WHERE database = 'welfare' AND comment = '' ORDER BY 1")
	expect(t, db, "SELECT toString(uniqExact(table) = (SELECT count() FROM system.tables WHERE database = 'welfare')) FROM system.columns WHERE database = 'welfare'", "1")
}

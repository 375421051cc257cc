package clickhouse_test

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/engine"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// shared is the engine of this package's tests, started by the first that needs it.
var shared struct {
	engine *engine.Engine
	dir    string
	err    error
	tried  bool
}

func TestMain(m *testing.M) {
	engine.RunIfChild()
	code := m.Run()
	if shared.engine != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if err := shared.engine.Stop(ctx); err != nil {
			code = 1
		}
		cancel()
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(testkit.CheckLeaks(code))
}

// startEngine returns the engine. WELFAREHUB_E2E=0 skips the test, =1 requires an engine, unset runs it
// where one is installed.
func startEngine(t *testing.T) *engine.Engine {
	t.Helper()
	e2e := os.Getenv("WELFAREHUB_E2E")
	if e2e == "0" {
		t.Skip("WELFAREHUB_E2E=0")
	}
	if !shared.tried {
		shared.tried = true
		if shared.dir, shared.err = os.MkdirTemp("", "clickhouse-test"); shared.err == nil {
			shared.engine, shared.err = engine.Start(context.Background(), engine.Options{DataDir: shared.dir, MinFreeDisk: -1})
		}
	}
	if shared.err != nil {
		if e2e == "1" {
			t.Fatal(shared.err)
		}
		t.Skip(shared.err)
	}
	return shared.engine
}

// migrated returns a connection to an engine with the current schema and no rows.
func migrated(t *testing.T) *clickhouse.DB {
	t.Helper()
	e := startEngine(t)
	ctx := t.Context()
	if err := clickhouse.Migrate(ctx, e.DSN(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	db, err := clickhouse.Open(ctx, e.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, table := range show(t, db, "SELECT concat(database, '.', name) FROM system.tables WHERE database IN ('store', 'welfare') AND name != 'schema_version' AND engine LIKE '%MergeTree' AND total_rows > 0") {
		if err := db.Exec(ctx, "TRUNCATE TABLE "+table+" SYNC"); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

package api

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/engine"
)

func TestMain(m *testing.M) {
	engine.RunIfChild()
	m.Run() // its code is the process's
	if shared.stop != nil {
		shared.stop()
	}
}

// shared is the migrated engine of this package's tests, started by the first that needs it. The tests
// that write to it name what they write.
var shared struct {
	once sync.Once
	db   *clickhouse.DB
	stop func()
	err  error
}

// database returns the database. WELFAREHUB_E2E=0 skips the test, =1 requires an engine, unset runs it
// where one is installed.
func database(t *testing.T) *clickhouse.DB {
	t.Helper()
	e2e := os.Getenv("WELFAREHUB_E2E")
	if e2e == "0" {
		t.Skip("WELFAREHUB_E2E=0")
	}
	shared.once.Do(func() { shared.db, shared.stop, shared.err = startDatabase() })
	if errors.Is(shared.err, engine.ErrLibraryMissing) && e2e != "1" {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.db
}

func startDatabase() (*clickhouse.DB, func(), error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "api-test")
	if err != nil {
		return nil, nil, err
	}
	e, err := engine.Start(ctx, engine.Options{DataDir: dir, MinFreeDisk: -1})
	if err != nil {
		return nil, func() { _ = os.RemoveAll(dir) }, err
	}
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = e.Stop(ctx)
		_ = os.RemoveAll(dir)
	}
	if err := clickhouse.Migrate(ctx, e.DSN(), zap.NewNop()); err != nil {
		return nil, stop, err
	}
	db, err := clickhouse.Open(ctx, e.DSN())
	return db, stop, err
}

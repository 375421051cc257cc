package clickhouse_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/engine"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// TestMigrateSaysWhichGrantIsMissing migrates as users that each lack one of the grants of the runbook, and as one
// that has them all. The engine takes its users from a file, which is written anew by a start of ours only: a child
// that is killed comes back with the file as it is.
func TestMigrateSaysWhichGrantIsMissing(t *testing.T) {
	testkit.ClickHouse(t) // for its gate
	dir := t.TempDir()
	e, err := engine.Start(t.Context(), engine.Options{DataDir: dir, MinFreeDisk: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Error(err)
		}
	}()
	var users strings.Builder
	for lacks := range len(clickhouse.Grants) + 1 {
		fmt.Fprintf(&users, "<lacks%d><password/><networks><ip>127.0.0.1</ip></networks><profile>hub</profile><quota>default</quota><grants>", lacks)
		for i, g := range clickhouse.Grants {
			if i != lacks {
				fmt.Fprintf(&users, "<query>GRANT %s</query>", g)
			}
		}
		fmt.Fprintf(&users, "</grants></lacks%d>", lacks)
	}
	file := filepath.Join(dir, "clickhouse", "users.xml")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(raw), "<users>", "<users>"+users.String(), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	pid := e.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for e.PID() == pid {
		time.Sleep(time.Millisecond)
	}
	if err := e.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	hub, err := url.Parse(e.DSN())
	if err != nil {
		t.Fatal(err)
	}
	hub.Path = "/" // not welfare, which is dropped
	db, err := clickhouse.Open(t.Context(), hub.String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for lacks, grant := range append(clickhouse.Grants[:len(clickhouse.Grants):len(clickhouse.Grants)], "") {
		name := fmt.Sprintf("lacks%d", lacks)
		dsn := url.URL{Scheme: "clickhouse", User: url.UserPassword(name, ""), Host: e.NativeAddr()}
		err := clickhouse.Migrate(t.Context(), dsn.String(), zap.NewNop())
		switch {
		case grant == "" && err != nil:
			t.Errorf("with all grants: %v", err)
		case grant == "", grant == "SELECT ON system.tables": // a user sees its own tables there anyway
			if err != nil {
				t.Error(err)
			}
		case err == nil:
			t.Errorf("migrated without %s", grant)
		case !strings.HasSuffix(err.Error(), "GRANT "+grant+" TO "+name) || !strings.Contains(err.Error(), "Not enough privileges"):
			t.Errorf("without %s: %v", grant, err)
		}
		for _, q := range []string{"DROP DATABASE IF EXISTS store SYNC", "DROP DATABASE IF EXISTS welfare SYNC"} {
			if err := db.Exec(t.Context(), q); err != nil {
				t.Error(err)
			}
		}
	}
}

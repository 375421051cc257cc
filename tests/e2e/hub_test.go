// Package e2e runs the built binary as users get it.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// binary is the built hub. `make test` builds it; WELFAREHUB_E2E=1 requires it.
func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/welfarehub")
	if err != nil {
		t.Fatal(err)
	}
	gate := os.Getenv("WELFAREHUB_E2E")
	if gate == "0" {
		t.Skip("WELFAREHUB_E2E=0")
	}
	if _, err := os.Stat(path); err != nil {
		if gate == "1" {
			t.Fatalf("%v: run make build", err)
		}
		t.Skip("bin/welfarehub is not built: run make build")
	}
	return path
}

// addresses is the ready file.
type addresses struct {
	HTTP             string `json:"http"`
	Kafka            string `json:"kafka"`
	Registry         string `json:"registry"`
	ClickHouseNative string `json:"clickhouse_native"`
	ClickHouseHTTP   string `json:"clickhouse_http"`
	Data             string `json:"data"`
	PID              int    `json:"pid"`
}

// hub is a running `welfarehub up`.
type hub struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   *testkit.Output
	ready string
	addresses
	done chan error
}

// anyPorts makes every listener take a free port.
var anyPorts = []string{
	"--http", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--registry", "127.0.0.1:0", "--clickhouse-native", "127.0.0.1:0", "--clickhouse-http", "127.0.0.1:0",
}

// start runs up on a data folder and waits until it is ready.
func start(t *testing.T, data string, args ...string) *hub {
	t.Helper()
	h := &hub{t: t, out: &testkit.Output{}, ready: filepath.Join(t.TempDir(), "ready.json"), done: make(chan error, 1)}
	h.cmd = exec.Command(binary(t), append(append([]string{"up", "--data", data, "--ready-file", h.ready, "--log-level", "warn"}, anyPorts...), args...)...)
	h.cmd.Stdout, h.cmd.Stderr = h.out, h.out
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { h.done <- h.cmd.Wait() }()
	t.Cleanup(h.kill)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		raw, err := os.ReadFile(h.ready)
		if err == nil {
			if err := json.Unmarshal(raw, &h.addresses); err != nil {
				t.Fatal(err)
			}
			return h
		}
		select {
		case err := <-h.done:
			t.Fatalf("up ended before it was ready: %v\n%s", err, h.out)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("up is not ready after two minutes\n%s", h.out)
		}
	}
}

// kill ends the whole process tree at once.
func (h *hub) kill() {
	_ = syscall.Kill(-h.cmd.Process.Pid, syscall.SIGKILL)
	<-h.done
	h.done <- errors.New("killed")
	_ = os.Remove(h.ready)
}

// interrupt sends Ctrl-C and returns the exit code.
func (h *hub) interrupt() int {
	h.t.Helper()
	if err := h.cmd.Process.Signal(os.Interrupt); err != nil {
		h.t.Fatal(err)
	}
	return h.wait(time.Minute)
}

// wait waits for the end of up and returns the exit code.
func (h *hub) wait(patience time.Duration) int {
	h.t.Helper()
	select {
	case err := <-h.done:
		h.done <- err
		return testkit.ExitCode(err)
	case <-time.After(patience):
		h.t.Fatalf("up does not end in %s\n%s", patience, h.out)
	}
	return -1
}

// engine is the process id of the ClickHouse child; 0 where there is none.
func (h *hub) engine() int {
	h.t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, file := range stats {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid: the name may hold anything.
		fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		if fields[1] == strconv.Itoa(h.PID) && fields[0] != "Z" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	return 0
}

// db opens ClickHouse with the hub's own rights.
func (h *hub) db() *clickhouse.DB {
	h.t.Helper()
	db, err := clickhouse.Open(h.t.Context(), h.dsn())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = db.Close() })
	return db
}

// number runs a query that gives one number.
func number(t *testing.T, db *clickhouse.DB, query string) int64 {
	t.Helper()
	n, err := tryNumber(t.Context(), db, query)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func tryNumber(ctx context.Context, db *clickhouse.DB, query string) (int64, error) {
	var n int64
	err := db.Scan(ctx, "SELECT toInt64(("+query+"))", nil, &n)
	return n, err
}

// await waits until a query gives want. The engine may be away meanwhile.
func await(t *testing.T, db *clickhouse.DB, query string, want int64, patience time.Duration) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		got, err := tryNumber(t.Context(), db, query)
		if err == nil && got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %d after %s, want %d; %v", query, got, patience, want, err)
		}
	}
}

// awaitAll waits until so many records are read, settled and aggregated.
func awaitAll(t *testing.T, db *clickhouse.DB, records int) {
	t.Helper()
	await(t, db, "SELECT sum(read) FROM welfare.ledger", int64(records), 2*time.Minute)
	await(t, db, "SELECT count() FROM welfare.freshness WHERE aggregated_to < ledgered_to OR settled_to < ledgered_to", 0, time.Minute)
}

// run executes the binary and returns its output and exit code.
func run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary(t), args...).CombinedOutput()
	return string(out), testkit.ExitCode(err)
}

// dsn reaches ClickHouse with the hub's own rights.
func (h *hub) dsn() string {
	h.t.Helper()
	password, err := os.ReadFile(filepath.Join(h.Data, "clickhouse.password"))
	if err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("clickhouse://hub:%s@%s/", strings.TrimSpace(string(password)), h.ClickHouseNative)
}

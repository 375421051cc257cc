package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/goleak"
)

// TestMain makes this binary usable as an engine child, and as a parent that a test can kill.
func TestMain(m *testing.M) {
	RunIfChild()
	if dir := os.Getenv("ENGINE_TEST_PARENT"); dir != "" {
		parentProcess(dir)
	}
	goleak.VerifyTestMain(m)
}

// parentProcess starts an engine, prints its pid and address, and waits to be killed.
func parentProcess(dir string) {
	e, err := Start(context.Background(), Options{DataDir: dir})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("pid", e.PID(), e.NativeAddr())
	time.Sleep(time.Hour)
}

// needEngine skips a test where no engine is installed, unless WELFAREHUB_E2E=1 requires one.
func needEngine(t *testing.T) {
	t.Helper()
	_, err := findServer("", t.TempDir())
	switch e2e := os.Getenv("WELFAREHUB_E2E"); {
	case e2e == "0":
		t.Skip("WELFAREHUB_E2E=0")
	case err != nil && e2e == "1":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
}

func start(t *testing.T, opts Options) *Engine {
	t.Helper()
	needEngine(t)
	if opts.DataDir == "" {
		opts.DataDir = t.TempDir()
	}
	e, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func open(t *testing.T, dsn string) driver.Conn {
	t.Helper()
	opts, err := clickhouse.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := clickhouse.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func exec1(t *testing.T, conn driver.Conn, query string) {
	t.Helper()
	if err := conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func count(t *testing.T, conn driver.Conn, query string) uint64 {
	t.Helper()
	var n uint64
	if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// running tells whether a process executes; one that has ended and waits to be reaped does not.
func running(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestEngineAnswersOnBothPorts(t *testing.T) {
	e := start(t, Options{})
	for _, dsn := range []string{e.DSN(), e.HTTPDSN()} {
		conn := open(t, dsn)
		if n := count(t, conn, "SELECT count() FROM system.databases WHERE name = 'welfare'"); n != 1 {
			t.Errorf("database welfare is missing")
		}
		var user, zone string
		if err := conn.QueryRow(t.Context(), "SELECT currentUser(), serverTimezone()").Scan(&user, &zone); err != nil || user != UserHub || zone != "UTC" {
			t.Errorf("user %q, timezone %q, %v", user, zone, err)
		}
		for setting, want := range map[string]string{"async_insert": "0", "optimize_on_insert": "0"} {
			var got string
			if err := conn.QueryRow(t.Context(), "SELECT value FROM system.settings WHERE name = $1", setting).Scan(&got); err != nil || got != want {
				t.Errorf("setting %s is %q, want %q: %v", setting, got, want, err)
			}
		}
	}
	st, err := os.Stat(e.PasswordFile())
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", st.Mode(), err)
	}
}

func TestEngineListensEverywhereWhenAsked(t *testing.T) {
	e := start(t, Options{Native: "0.0.0.0:0", HTTP: "0.0.0.0:0"})
	if host, _, _ := net.SplitHostPort(e.NativeAddr()); host != "127.0.0.1" {
		t.Errorf("address to dial is %s", e.NativeAddr())
	}
	if n := count(t, open(t, e.PlannerDSN()), "SELECT count() FROM system.one"); n != 1 {
		t.Errorf("planner reads %d rows", n)
	}
}

func TestStopLeavesNoProcessAndKeepsData(t *testing.T) {
	dir := t.TempDir()
	e := start(t, Options{DataDir: dir})
	conn := open(t, e.DSN())
	exec1(t, conn, "CREATE TABLE welfare.kept (a UInt64) ENGINE = MergeTree ORDER BY a")
	exec1(t, conn, "INSERT INTO welfare.kept SELECT number FROM numbers(100000)")
	pid, password := e.PID(), e.DSN()
	begin := time.Now()
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("stop took %s", took)
	}
	if running(pid) {
		t.Errorf("process %d runs after stop", pid)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Errorf("second stop: %v", err)
	}
	// On the same addresses, so that clients find it again, and with the same password.
	again := start(t, Options{DataDir: dir, Native: e.NativeAddr(), HTTP: e.HTTPAddr()})
	if again.DSN() != password {
		t.Error("address or password changed over a restart")
	}
	if n := count(t, open(t, again.DSN()), "SELECT count() FROM welfare.kept"); n != 100000 {
		t.Errorf("%d rows after a restart", n)
	}
}

func TestCrashedEngineComesBackWithItsData(t *testing.T) {
	restarts := make(chan Restart, 1)
	e := start(t, Options{OnRestart: func(r Restart) { restarts <- r }})
	conn := open(t, e.DSN())
	exec1(t, conn, "CREATE TABLE welfare.kept (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 1000")
	insert := "INSERT INTO welfare.kept SETTINGS insert_deduplication_token = 'one' SELECT number FROM numbers(1000000)"
	exec1(t, conn, insert)
	native := e.NativeAddr()
	if err := syscall.Kill(e.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-restarts:
		if r.Cause != "signal: killed" || r.Attempts != 1 {
			t.Errorf("restart is %+v", r)
		}
		t.Logf("back after %s", r.Downtime)
	case <-time.After(30 * time.Second):
		t.Fatal("the engine did not come back")
	}
	if e.NativeAddr() != native || e.Restarts() != 1 {
		t.Errorf("address %s, before %s; %d restarts", e.NativeAddr(), native, e.Restarts())
	}
	conn = open(t, e.DSN())
	exec1(t, conn, insert) // the same token: dropped
	if n := count(t, conn, "SELECT count() FROM welfare.kept"); n != 1000000 {
		t.Errorf("%d rows after a crash", n)
	}
}

func TestChildDiesWithItsParent(t *testing.T) {
	needEngine(t)
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "ENGINE_TEST_PARENT="+dir)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var word, addr string
	var pid int
	if _, err := fmt.Fscan(out, &word, &pid, &addr); err != nil || word != "pid" {
		t.Fatalf("parent said %q: %v", word, err)
	}
	// While it lives, its data is refused to others.
	if _, err := Start(t.Context(), Options{DataDir: dir}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), strconv.Itoa(parent.Process.Pid)) {
		t.Errorf("second instance: %v", err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	// At once, on the same address: the start waits for the dying child.
	e := start(t, Options{DataDir: dir, Native: addr})
	if running(pid) {
		t.Errorf("child %d outlives its killed parent", pid)
	}
	if e.NativeAddr() != addr {
		t.Errorf("address is %s, want %s", e.NativeAddr(), addr)
	}
}

func TestStopWhileTheEngineIsFrozen(t *testing.T) {
	e := start(t, Options{StopTimeout: time.Second})
	pid := e.PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := e.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("stop took %s", took)
	}
	if running(pid) {
		t.Errorf("process %d runs after stop", pid)
	}
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	needEngine(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	write := func(name, content string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	up := func(path string, n int) string {
		for range n {
			path = filepath.Dir(path)
		}
		return path
	}
	// The header of a shared library for arm64: the class, data and machine fields are what counts.
	arm := make([]byte, 64)
	copy(arm, "\x7fELF\x02\x01\x01")
	arm[16], arm[18], arm[20] = 3, 183, 1
	for name, tt := range map[string]struct {
		opts Options
		env  string
		is   error
		text string
	}{
		"missing library":   {Options{Library: "/nowhere/libchdb.so"}, "", ErrLibraryMissing, "make engine"},
		"missing by env":    {Options{}, "/nowhere/clickhouse", ErrLibraryMissing, "WELFAREHUB_ENGINE names /nowhere/clickhouse"},
		"no library":        {Options{Library: write("libchdb.so", "text")}, "", ErrLibraryUnfit, "is damaged or no library"},
		"other machine":     {Options{Library: write("libchdb.so", string(arm))}, "", ErrLibraryUnfit, "is for linux/arm64"},
		"not a program":     {Options{Library: write("clickhouse", "text")}, "", ErrLibraryUnfit, "neither a library"},
		"port in use":       {Options{Native: busy.Addr().String()}, "", ErrPortInUse, "choose another address"},
		"HTTP port in use":  {Options{HTTP: busy.Addr().String()}, "", ErrPortInUse, "(HTTP)"},
		"two hosts":         {Options{Native: "127.0.0.1:0", HTTP: "127.0.0.2:0"}, "", nil, "must have the same host"},
		"unwritable folder": {Options{DataDir: "/proc/welfarehub"}, "", ErrDataDir, "choose a folder"},
		"file, not folder":  {Options{DataDir: write("data", "text")}, "", ErrDataDir, "not a directory"},
		"foreign folder":    {Options{DataDir: up(write("clickhouse/metadata", "x"), 2)}, "", ErrForeignData, "holds metadata but no welfarehub.json"},
		"foreign marker":    {Options{DataDir: up(write("clickhouse/welfarehub.json", `{"owner":"x"}`), 2)}, "", ErrForeignData, "is not of welfarehub's clickhouse"},
		"newer format":      {Options{DataDir: up(write("clickhouse/welfarehub.json", `{"owner":"welfarehub","part":"clickhouse","format":99}`), 2)}, "", ErrForeignData, "has format 99, this program knows format 1"},
		"full disk":         {Options{MinFreeDisk: 1 << 60}, "", ErrDiskFull, "MiB are needed"},
		"program that ends": {Options{Library: "/bin/false"}, "", ErrNotStarted, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.env != "" {
				t.Setenv(libraryEnv, tt.env)
			}
			if tt.opts.DataDir == "" {
				tt.opts.DataDir = t.TempDir()
			}
			e, err := Start(t.Context(), tt.opts)
			if err == nil {
				_ = e.Stop(t.Context())
				t.Fatal("it started")
			}
			if tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %q, want %v with %q on one line", err, tt.is, tt.text)
			}
			t.Log(err)
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	needEngine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, Options{DataDir: t.TempDir()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

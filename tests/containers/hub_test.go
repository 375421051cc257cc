package containers

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// envBinary names the hub to test; bin/welfarehub where it is not set.
const envBinary = "HUB_BINARY"

// binary is the built hub.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv(envBinary)
	if path == "" {
		path = "../../bin/welfarehub"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make build, or set %s", err, envBinary)
	}
	return path
}

// run runs a command to its end and returns its output, both streams, and its exit code; -1 where it did not exit.
func run(t *testing.T, stdin string, name string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute) // cleanups run it too
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), testkit.ExitCode(err)
}

// must is run, and the end of the test where the command fails.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, code := run(t, "", name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s", name, strings.Join(args, " "), code, out)
	}
	return out
}

// process is a hub command that runs until it is told to stop.
type process struct{ *testkit.Command }

// start starts the hub with arguments.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return &process{testkit.Start(t, exec.Command(binary(t), args...), "welfarehub "+args[0], 60, 0)}
}

// alive fails the test where the process has ended.
func (p *process) alive(t *testing.T) {
	t.Helper()
	if !p.Alive() {
		t.Fatalf("welfarehub %s ended: %v", p.Cmd.Args[1], p.Err())
	}
}

// stop tells the process to stop and wants exit code 0.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stop welfarehub %s: %v", p.Cmd.Args[1], err)
	}
	select {
	case <-p.Exited():
		if code := testkit.ExitCode(p.Err()); code != 0 {
			t.Errorf("welfarehub %s: exit code %d after SIGTERM", p.Cmd.Args[1], code)
		}
	case <-time.After(time.Minute):
		t.Errorf("welfarehub %s does not end in a minute after SIGTERM", p.Cmd.Args[1])
	}
}

// freePorts are ports of the loopback interface that nobody listens on now.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	ports := make([]string, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	return ports
}

// eventually waits until done says so. It ends the test where that is not so after limit, with done's last word.
func eventually(t *testing.T, what string, limit time.Duration, done func(ctx context.Context) (ok bool, word string)) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // a call to a frozen server hangs
		ok, word := done(ctx)
		cancel()
		if ok {
			return
		}
		if time.Since(begin) > limit {
			t.Fatalf("%s: not after %s; %s", what, limit, word)
		}
	}
}

func openDB(t *testing.T, dsn string) *clickhouse.DB {
	t.Helper()
	db, err := clickhouse.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// number runs a query that gives one number.
func number(ctx context.Context, db *clickhouse.DB, query string) (int64, error) {
	var n int64
	err := db.Scan(ctx, "SELECT toInt64(("+query+"))", nil, &n)
	return n, err
}

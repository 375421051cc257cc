package containers

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
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
	return string(out), exitCode(err)
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

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// process is a hub command that runs until it is told to stop. It ends with the test, however that ends.
type process struct {
	cmd    *exec.Cmd
	out    buffer
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start starts the hub with arguments. The thread that starts it stays until it ends, for the kernel kills a child with
// its parent's thread (Pdeathsig): so it goes when the test binary is killed.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary(t), args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		defer close(p.exited)
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.exited
		if t.Failed() {
			t.Logf("the last lines of welfarehub %s:\n%s", args[0], tail(p.out.String(), 60))
		}
	})
	return p
}

// alive fails the test where the process has ended.
func (p *process) alive(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
		t.Fatalf("welfarehub %s ended: %v", p.cmd.Args[1], p.err)
	default:
	}
}

// stop tells the process to stop and wants exit code 0.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stop welfarehub %s: %v", p.cmd.Args[1], err)
	}
	select {
	case <-p.exited:
		if code := exitCode(p.err); code != 0 {
			t.Errorf("welfarehub %s: exit code %d after SIGTERM", p.cmd.Args[1], code)
		}
	case <-time.After(time.Minute):
		t.Errorf("welfarehub %s does not end in a minute after SIGTERM", p.cmd.Args[1])
	}
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
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

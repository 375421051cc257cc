package torture

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a command of the hub that runs until it is ended. It ends with the test, however that ends.
type process struct {
	cmd    *exec.Cmd
	out    buffer
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

// buffer is a bytes.Buffer for several goroutines that keeps the end of what is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() > 1<<20 {
		b.b.Next(1 << 19)
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// clean is the environment without what our own variables mean to the hub.
func clean() []string {
	var out []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "WELFAREHUB_") || strings.HasPrefix(v, "WELFAREHUB_ENGINE=") {
			out = append(out, v)
		}
	}
	return out
}

// start starts the hub. The thread that starts it stays until it ends, for the kernel kills a child with its parent's
// thread: so it goes when the test binary is killed.
func start(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(hubBinary(t), args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Env = append(clean(), env...)
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
		p.kill()
		if t.Failed() {
			t.Logf("the last lines of welfarehub %s %s:\n%s", args[0], strings.Join(env, " "), tail(p.out.String(), 25))
		}
	})
	return p
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// assigned tells whether the loader was given partitions.
func (p *process) assigned() bool { return strings.Contains(p.out.String(), "partitions assigned") }

// killed tells whether the process was ended by SIGKILL.
func (p *process) killed() bool {
	var exit *exec.ExitError
	if p.alive() || !errors.As(p.err, &exit) {
		return false
	}
	st, ok := exit.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && st.Signal() == syscall.SIGKILL
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// stopped tells whether the process is stopped by a signal.
func (p *process) stopped() bool {
	raw, err := os.ReadFile("/proc/" + itoa(p.cmd.Process.Pid) + "/stat")
	if err != nil {
		return false
	}
	rest := string(raw[bytes.LastIndexByte(raw, ')')+1:])
	return strings.HasPrefix(strings.TrimSpace(rest), "T")
}

// end tells the process to stop, and returns its exit code.
func (p *process) end(patience time.Duration) int {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return exitCode(p.err)
	case <-time.After(patience):
		return -2
	}
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

// command runs the hub to its end.
func command(t testing.TB, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, hubBinary(t), args...)
	cmd.Env = clean()
	out, err := cmd.CombinedOutput()
	return string(out), exitCode(err)
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

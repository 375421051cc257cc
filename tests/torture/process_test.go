package torture

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// process is a command of the hub that runs until it is ended.
type process struct{ *testkit.Command }

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

// start starts the hub. Of what it writes the last MiB are kept.
func start(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(hubBinary(t), args...)
	cmd.Env = append(clean(), env...)
	return &process{testkit.Start(t, cmd, "welfarehub "+args[0]+" "+strings.Join(env, " "), 25, 1<<20)}
}

// assigned tells whether the loader was given partitions.
func (p *process) assigned() bool { return strings.Contains(p.Out.String(), "partitions assigned") }

// killed tells whether the process was ended by SIGKILL.
func (p *process) killed() bool {
	var exit *exec.ExitError
	if p.Alive() || !errors.As(p.Err(), &exit) {
		return false
	}
	st, ok := exit.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && st.Signal() == syscall.SIGKILL
}

// stopped tells whether the process is stopped by a signal.
func (p *process) stopped() bool {
	raw, err := os.ReadFile("/proc/" + itoa(p.Cmd.Process.Pid) + "/stat")
	if err != nil {
		return false
	}
	rest := string(raw[bytes.LastIndexByte(raw, ')')+1:])
	return strings.HasPrefix(strings.TrimSpace(rest), "T")
}

// end tells the process to stop, and returns its exit code.
func (p *process) end(patience time.Duration) int {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.Exited():
		return testkit.ExitCode(p.Err())
	case <-time.After(patience):
		return -2
	}
}

// command runs the hub to its end.
func command(t testing.TB, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, hubBinary(t), args...)
	cmd.Env = clean()
	out, err := cmd.CombinedOutput()
	return string(out), testkit.ExitCode(err)
}

package testkit

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/child"
)

// Command is a program that runs beside a test. It ends with the test, however that ends.
type Command struct {
	Cmd *exec.Cmd
	Out Output // what it writes, to either stream

	proc *child.Process
}

// Start starts cmd, which says its name and the last lines of its output where the test fails. keep limits Out.
func Start(t testing.TB, cmd *exec.Cmd, name string, lines, keep int) *Command {
	t.Helper()
	c := &Command{Cmd: cmd, Out: Output{Limit: keep}}
	cmd.Stdout, cmd.Stderr = &c.Out, &c.Out
	var err error
	if c.proc, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Kill()
		if t.Failed() {
			t.Logf("the last lines of %s:\n%s", name, LastLines(c.Out.String(), lines))
		}
	})
	return c
}

// Exited is closed when the program has ended.
func (c *Command) Exited() <-chan struct{} { return c.proc.Exited() }

// Err is how the program ended, as exec.Cmd.Wait says it. Ask for it when it has ended.
func (c *Command) Err() error { return c.proc.Err() }

// Alive tells whether the program has not ended.
func (c *Command) Alive() bool {
	select {
	case <-c.proc.Exited():
		return false
	default:
		return true
	}
}

// Signal sends a signal; it may have ended.
func (c *Command) Signal(s syscall.Signal) { _ = c.proc.Signal(s) }

// Kill ends the program at once.
func (c *Command) Kill() { _ = c.proc.Kill() } // it may have ended

// LastLines are the last lines of a text.
func LastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// Output collects what a process writes, for several goroutines. With a Limit, in bytes, it keeps about the end
// of it. The zero value is ready.
type Output struct {
	Limit int

	mu sync.Mutex
	b  bytes.Buffer
}

// Write never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Limit > 0 && o.b.Len() > o.Limit {
		o.b.Next(o.Limit / 2)
	}
	return o.b.Write(p)
}

// String is what was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// ExitCode is that of a command which ended with err; -1 where it did not run to its end.
func ExitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

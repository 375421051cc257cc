//go:build faults

package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Compiled tells whether this build has the faults.
const Compiled = true

// planned is one fault of HUB_FAULTS.
type planned struct {
	action  string
	passage int
	after   time.Duration
}

// state is what the environment asks for, and how often each point was passed.
var state = struct {
	mu     sync.Mutex
	faults map[string][]planned
	passed map[string]int
	offset time.Duration
}{passed: map[string]int{}}

func init() {
	var err error
	if state.faults, err = parse(os.Getenv("HUB_FAULTS")); err == nil && os.Getenv("HUB_CLOCK") != "" {
		state.offset, err = time.ParseDuration(os.Getenv("HUB_CLOCK"))
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: faults of the environment: %v", err))
	}
}

func parse(s string) (map[string][]planned, error) {
	out := map[string][]planned{}
	for one := range strings.SplitSeq(s, ",") {
		if one == "" {
			continue
		}
		action, rest, _ := strings.Cut(one, ":")
		point, rest, _ := strings.Cut(rest, ":")
		passage, after, _ := strings.Cut(rest, "+")
		f := planned{action: action}
		var err error
		if f.passage, err = strconv.Atoi(passage); err != nil {
			return nil, fmt.Errorf("fault %q is not action:point:passage: %w", one, err)
		}
		if after != "" {
			if f.after, err = time.ParseDuration(after); err != nil {
				return nil, fmt.Errorf("fault %q: %w", one, err)
			}
		}
		switch action {
		case "kill", "stop", "sleep":
		default:
			return nil, fmt.Errorf("fault %q: action is not kill, stop or sleep", one)
		}
		out[point] = append(out[point], f)
	}
	return out, nil
}

// At is a point where a fault can be: "when-what".
func At(when, what string) {
	point := when + "-" + what
	state.mu.Lock()
	state.passed[point]++
	n := state.passed[point]
	var due []planned
	for _, f := range state.faults[point] {
		if n == f.passage || f.action == "sleep" && n > f.passage {
			due = append(due, f)
		}
	}
	state.mu.Unlock()
	for _, f := range due {
		switch {
		case f.action == "sleep":
			time.Sleep(f.after)
		case f.after > 0:
			time.AfterFunc(f.after, f.do)
		default:
			f.do()
		}
	}
}

// do ends or stops the process. The thread that stops it may run on for a moment, so it waits: for longer
// than that, of which a process that is stopped knows nothing.
func (f planned) do() {
	if f.action == "kill" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	time.Sleep(20 * time.Millisecond)
}

// Now is the time, by a clock that a fault can move.
func Now() time.Time { return time.Now().Add(state.offset) }

// Package torture proves what docs/guarantees.md promises: it kills, stops, cuts off and starves the built binary at
// every step of its work, lets it come to its end, and compares all that is stored with what the simulator knows, and the
// books with one another by welfarehub reconcile.
//
//	go test ./tests/torture                                     a short run
//	WELFAREHUB_TORTURE=1 go test ./tests/torture -timeout 2h    the long one (make torture)
//	... -args -kills 1000 -seed 7 -results FILE                 more of it; a seed repeats the choices of a run
//
// The binary is built with the tag faults, see pkg/fault.
package torture

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/testkit"
)

const envTorture = "WELFAREHUB_TORTURE" // 0: not at all, 1: the long run, else the short one

var (
	killsWanted  = flag.Int("kills", 200, "kills of the long run, in all")
	seed         = flag.Uint64("seed", 0, "seed of all choices; 0: another one each time")
	resultsFile  = flag.String("results", "", "append a line for each run to this file")
	roundsWanted = flag.Int("rounds", 2, "runs of each fault of the long run that is not a kill")
)

func long() bool { return os.Getenv(envTorture) == "1" }

// built is the binary with faults.
var built struct {
	once sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) { testkit.Main(m) }

// hubBinary builds the hub with faults.
func hubBinary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.path, built.err = filepath.Abs("../../.cache/torture/welfarehub"); built.err == nil {
			built.err = build(built.path, "-tags", "faults")
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func build(path string, args ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, args...), "../../cmd/welfarehub")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the hub: %w\n%s", err, out)
	}
	return nil
}

// run is one run of a fault: what it is called, and its choices.
type run struct {
	test, fault string
	seed        uint64
	rnd         *rand.Rand
}

// runs calls f for n runs of a fault, each with choices of its own.
func runs(t *testing.T, fault string, n int, f func(t *testing.T, r run)) {
	t.Helper()
	base := *seed
	if base == 0 {
		base = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	name := fnv.New64a()
	_, _ = name.Write([]byte(fault))
	for i := range uint64(n) {
		s := base + i
		r := run{test: t.Name(), fault: fault, seed: s, rnd: rand.New(rand.NewPCG(s, name.Sum64()))}
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			t.Logf("%s: repeat with %s=1 go test ./tests/torture -run '%s' -args -kills 1 -rounds 1 -seed %d", fault, envTorture, r.test, s)
			f(t, r)
		})
	}
}

// between is a random number of [from, to].
func (r run) between(from, to int) int { return from + r.rnd.IntN(to-from+1) }

func (r run) duration(from, to time.Duration) time.Duration {
	return from + time.Duration(r.rnd.Int64N(int64(to-from)+1))
}

// gated skips where nothing is to be tortured, and what only the long run does.
func gated(t *testing.T, longOnly bool) {
	t.Helper()
	switch {
	case os.Getenv(envTorture) == "0":
		t.Skip(envTorture + "=0")
	case longOnly && !long():
		t.Skip("only in the long run: make torture")
	}
	t.Parallel()
}

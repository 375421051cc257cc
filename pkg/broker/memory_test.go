package broker

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestMemoryStaysFlat writes two million small records and reads from the kernel what the broker holds. It takes half a
// minute, so it runs only with WELFAREHUB_LONG=1.
func TestMemoryStaysFlat(t *testing.T) {
	if os.Getenv("WELFAREHUB_LONG") != "1" {
		t.Skip("set WELFAREHUB_LONG=1 to run it")
	}
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	for name, tt := range map[string]struct{ records, perBatch int }{
		"batches of 1000": {2_000_000, 1000},
		"batches of 10":   {200_000, 10},
		"single records":  {20_000, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := startProcess(t, dir, "", "BROKER_TEST_RETENTION="+strconv.Itoa(64<<20))
			topic(t, p.addr, TopicSpec{Name: "t"})
			idle := resident(t, p)
			var peak int64
			begin := time.Now()
			for range 10 {
				produce(t, p.addr, "t", tt.records/10, tt.perBatch, 100)
				peak = max(peak, resident(t, p))
			}
			took := time.Since(begin)
			addr := p.addr
			p.kill()
			begin = time.Now()
			p = startProcess(t, dir, addr, "BROKER_TEST_RETENTION="+strconv.Itoa(64<<20))
			restart := time.Since(begin)
			first, last := ends(t, addr, "t")
			t.Logf("idle %d MiB, peak %d MiB, %.0f records/s, kept [%d, %d), started after a kill in %s with %d MiB (peak %d MiB)",
				idle>>20, peak>>20, float64(tt.records)/took.Seconds(), first, last, restart.Round(time.Millisecond), resident(t, p)>>20, status(t, p, "VmHWM")>>20)
			if peak > 200<<20 {
				t.Errorf("the broker held %d MiB", peak>>20)
			}
		})
	}
}

func resident(t *testing.T, p *process) int64 { return status(t, p, "VmRSS") }

func status(t *testing.T, p *process, field string) int64 {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no %s", field)
	return 0
}

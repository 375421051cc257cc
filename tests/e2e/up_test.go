package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// simulated are the knobs of the traffic that the tests load.
var simulated = []string{
	"--duplicates", "0.05", "--invalid", "0.01", "--corrections", "0.02", "--revocations", "0.005", "--erasures", "0.0005", "--late", "0.05", "--seed", "7",
}

func TestOnceEqualsTheSimulatorsTruth(t *testing.T) {
	out, code := run(t, append(append([]string{"up", "--data", t.TempDir(), "--once", "20000", "--log-level", "warn"}, anyPorts...), simulated...)...)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	if !strings.Contains(out, "20000 messages in") {
		t.Errorf("unexpected output\n%s", out)
	}
}

func TestUpDrainsOnInterruptAndFindsItsDataAgain(t *testing.T) {
	data := t.TempDir()
	h := start(t, data, "--history", "3000", "--rate", "200")
	db := h.db()
	await(t, db, "SELECT sum(read) >= 70000 FROM welfare.ledger", 1, 2*time.Minute) // the ISTAT file alone is more
	await(t, db, "SELECT ifNull(max(population), 0) FROM welfare.supply_demand_full WHERE level = 'COUNTRY'", 58836166, 2*time.Minute)
	if got := number(t, db, "SELECT residents FROM welfare.population WHERE level = 'COMUNE' AND territory_code = '015146' LIMIT 1"); got != 1354196 {
		t.Errorf("Milano has %d residents", got)
	}
	resp, err := http.Get(h.HTTP + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("status %d, %v", resp.StatusCode, err)
	}
	before := number(t, db, "SELECT sum(loaded) FROM welfare.books")
	if code := h.interrupt(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, h.out)
	}
	if _, err := os.Stat(h.ready); !os.IsNotExist(err) {
		t.Error("the ready file is still there")
	}
	again := start(t, data, "--no-demo")
	if after := number(t, again.db(), "SELECT sum(loaded) FROM welfare.books"); after < before {
		t.Errorf("%d loaded after a restart, %d before", after, before)
	}
	// Without traffic the lag goes to zero, and then the figures are exact.
	await(t, again.db(), "SELECT count() FROM welfare.freshness WHERE ledgered_to < log_end OR aggregated_to < ledgered_to OR settled_to < ledgered_to", 0, 2*time.Minute)
	if got := number(t, again.db(), "SELECT ifNull(max(population), 0) FROM welfare.supply_demand_full WHERE level = 'COUNTRY'"); got != 58836166 {
		t.Errorf("Italy has %d residents in supply_demand", got)
	}
	await(t, again.db(), "SELECT sum(read) != sum(loaded) + sum(duplicate) + sum(rejected) FROM welfare.books", 0, time.Second)
}

func TestUpSaysWhatToDoAboutWhatItCannotUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "holiday.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	running := start(t, t.TempDir(), "--no-demo")
	// The header of a shared library for arm64.
	elf := make([]byte, 64)
	copy(elf, "\x7fELF\x02\x01\x01")
	copy(elf[16:], "\x03\x00\xb7\x00\x01")
	copy(elf[52:], "\x40\x00\x38\x00\x00\x00\x40")
	wrong := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(wrong, elf, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  string
		args []string
		want []string
	}{
		{"occupied port", "", []string{"--data", t.TempDir(), "--http", taken.Addr().String()}, []string{taken.Addr().String(), "--http"}},
		{"occupied Kafka port", "", []string{"--data", t.TempDir(), "--kafka", taken.Addr().String()}, []string{taken.Addr().String(), "--kafka"}},
		{"occupied ClickHouse port", "", []string{"--data", t.TempDir(), "--clickhouse-native", taken.Addr().String()}, []string{taken.Addr().String(), "--clickhouse-native"}},
		{"occupied registry port", "", []string{"--data", t.TempDir(), "--registry", taken.Addr().String()}, []string{taken.Addr().String(), "--registry"}},
		{"foreign folder", "", []string{"--data", foreign}, []string{foreign, "--data"}},
		{"a file for a folder", "", []string{"--data", file}, []string{file, "--data"}},
		{"second instance", "", []string{"--data", running.Data}, []string{running.Data}},
		{"second instance, same ports", "", []string{"--data", running.Data, "--http", strings.TrimPrefix(running.HTTP, "http://")}, []string{running.Data, "stop it"}},
		{"missing library", "WELFAREHUB_ENGINE=/nowhere/libchdb.so", []string{"--data", t.TempDir()}, []string{"make engine"}},
		{"wrong architecture", "WELFAREHUB_ENGINE=" + wrong, []string{"--data", t.TempDir()}, []string{"arm64"}},
		{"shares over 1", "", []string{"--data", t.TempDir(), "--invalid", "2"}, []string{"--invalid", "0 to 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // what starts all the same must not stay
			defer cancel()
			cmd := exec.CommandContext(ctx, binary(t), append(append([]string{"up", "--no-demo", "--log-level", "error"}, anyPorts...), c.args...)...)
			if c.env != "" {
				cmd.Env = append(os.Environ(), c.env)
			}
			raw, err := cmd.CombinedOutput()
			if testkit.ExitCode(err) == 0 || testkit.ExitCode(err) < 0 {
				t.Fatalf("exit %v\n%s", err, raw)
			}
			lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
			last := lines[len(lines)-1]
			if strings.HasPrefix(last, "Try: ") && len(lines) > 1 { // the hint after wrong usage
				last = lines[len(lines)-2]
			}
			if !strings.HasPrefix(last, "Error: ") {
				t.Errorf("the last line is no error: %s", last)
			}
			if strings.HasPrefix(c.name, "occupied") && len(lines) != 1 {
				t.Errorf("parts were started before the port was looked at:\n%s", raw)
			}
			for _, w := range c.want {
				if !strings.Contains(last, w) {
					t.Errorf("%q is not in: %s", w, last)
				}
			}
		})
	}
}

// TestSecondInterruptEndsAtOnce freezes ClickHouse, so that the drain cannot end.
func TestSecondInterruptEndsAtOnce(t *testing.T) {
	data := t.TempDir()
	h := start(t, data, "--no-demo")
	child := h.engine()
	if child == 0 {
		t.Fatal("up has no child")
	}
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
	}
	if code := h.wait(2 * time.Second); code != 130 {
		t.Errorf("exit code %d, want 130\n%s", code, h.out)
	}
	if again := start(t, data, "--no-demo"); again.interrupt() != 0 {
		t.Error("the next up does not end well")
	}
}

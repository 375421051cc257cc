package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	await(t, db, "SELECT population FROM welfare.supply_demand_full WHERE level = 'COUNTRY' LIMIT 1", 58836166, time.Minute)
	if got := number(t, db, "SELECT residents FROM welfare.population WHERE level = 'COMUNE' AND territory_code = '015146' LIMIT 1"); got != 1354196 {
		t.Errorf("Milano has %d residents", got)
	}
	resp, err := http.Get(h.HTTP + "/api/v1/status") //nolint:noctx // the test ends it
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
	await(t, again.db(), "SELECT sum(read) != sum(loaded) + sum(duplicate) + sum(rejected) FROM welfare.books", 0, time.Second)
}

func TestUpSaysWhatToDoAboutWhatItCannotUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed below
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
	wrong := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(wrong, []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\xb7\x00\x01\x00\x00\x00"), 0o600); err != nil {
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
		{"foreign folder", "", []string{"--data", foreign}, []string{foreign}},
		{"a file for a folder", "", []string{"--data", file}, []string{file, "--data"}},
		{"second instance", "", []string{"--data", running.Data}, []string{running.Data}},
		{"missing library", "WELFAREHUB_ENGINE=/nowhere/libchdb.so", []string{"--data", t.TempDir()}, []string{"make engine"}},
		{"wrong architecture", "WELFAREHUB_ENGINE=" + wrong, []string{"--data", t.TempDir()}, []string{"arm64"}},
		{"shares over 1", "", []string{"--data", t.TempDir(), "--invalid", "2"}, []string{"--invalid"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), binary(t), append(append([]string{"up", "--no-demo", "--log-level", "error"}, anyPorts...), c.args...)...)
			if c.env != "" {
				cmd.Env = append(os.Environ(), c.env)
			}
			raw, err := cmd.CombinedOutput()
			if exitCode(err) == 0 || exitCode(err) < 0 {
				t.Fatalf("exit %v\n%s", err, raw)
			}
			lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
			last := lines[len(lines)-1]
			if !strings.HasPrefix(last, "Error: ") {
				t.Errorf("the last line is no error: %s", last)
			}
			for _, w := range c.want {
				if !strings.Contains(last, w) {
					t.Errorf("%q is not in: %s", w, last)
				}
			}
		})
	}
}

// TestUpSurvivesKill kills the whole tree in the middle of a load, ten times, and compares with the truth.
func TestUpSurvivesKill(t *testing.T) {
	data := t.TempDir()
	truth := filepath.Join(t.TempDir(), "truth.json")
	const events, kills = 40000, 10
	var h *hub
	for n := range kills + 1 {
		h = start(t, data, "--no-demo", "--block-records", "500", "--flush-age", "50ms")
		if n == 0 {
			args := append([]string{"simulate", "--events", "40000", "--truth", truth, "--kafka-brokers", h.Kafka, "--registry-url", h.Registry}, simulated...)
			if out, code := run(t, args...); code != 0 {
				t.Fatalf("simulate: exit code %d\n%s", code, out)
			}
		}
		if n < kills {
			time.Sleep(time.Duration(150+n*97%700) * time.Millisecond)
			h.kill()
		}
	}
	db := h.db()
	await(t, db, "SELECT sum(read) FROM welfare.ledger", events, 2*time.Minute)
	await(t, db, "SELECT count() FROM welfare.freshness WHERE aggregated_to < ledgered_to", 0, time.Minute)
	compareBooks(t, db, truth)
	out, code := run(t, "reconcile", "--kafka-brokers", h.Kafka, "--clickhouse-dsn", h.dsn())
	if code != 0 {
		t.Errorf("reconcile: exit code %d\n%s", code, out)
	}
}

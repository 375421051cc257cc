package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// jdbc is the class path of ClickHouse's JDBC driver, for the java on PATH.
func jdbc(t *testing.T) string {
	t.Helper()
	lib, err := filepath.Abs("../../.cache/jdbc/lib")
	if err != nil {
		t.Fatal(err)
	}
	// A source file is run by java only where the compiler is.
	_, noJDK := exec.LookPath("javac")
	_, noJars := os.Stat(lib)
	if noJDK == nil && noJars == nil {
		return filepath.Join(lib, "*")
	}
	const need = "the JDBC test needs a JDK 17 or newer, and the driver: run tests/jdbc/install.sh"
	if os.Getenv("WELFAREHUB_E2E") == "1" {
		t.Fatal(need)
	}
	t.Skip(need)
	return ""
}

// decision is what ../jdbc/Planner.java looks for. It is of the last evening of May in UTC, of June in Rome.
const decision = `{"eventId":"0190a5c0-0000-7000-8000-00000000000a","source":"urn:welfare:test:jdbc","sourceRecordId":"decision-1","recordVersion":1,` +
	`"occurredAt":"2024-05-31T22:30:00.123Z","recordedAt":"2024-06-01T08:00:00Z","orgCode":"c_f205","pseudonym":"PSEUDONYM","keyEpoch":1,` +
	`"comuneCode":"015146","requestId":"request-1","benefitId":"benefit-1","inpsCode":"A1.16","nomenclatureCode":"3.INF.01","userArea":"OLDER_PEOPLE",` +
	`"atsCode":"ats-1","decision":"GRANTED","character":"PERIODIC","takenInCharge":true,"startDate":"2024-06-01","months":6,"monthlyAmount":"101.20",` +
	`"hoursPerMonth":"12.500"}`

// TestPlannerByJDBC publishes one event and waits for it as planner, and reads it by JDBC as planner.
func TestPlannerByJDBC(t *testing.T) {
	classes := jdbc(t)
	h := start(t, t.TempDir(), "--no-demo")
	file := filepath.Join(t.TempDir(), "decision.jsonl")
	line := strings.Replace(decision, "PSEUDONYM", strings.Repeat("ab", 32), 1) + "\n"
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	planner := "clickhouse://planner@" + h.ClickHouseNative + "/"
	if out, code := run(t, "publish", "--wait", "--type", "BenefitDecided", "--kafka-brokers", h.Kafka, "--registry-url", h.Registry, "--clickhouse-dsn", planner, file); code != 0 {
		t.Fatalf("publish: exit code %d\n%s", code, out)
	}
	awaitAll(t, h.db(), 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "java", "-Duser.timezone=America/New_York", "-cp", classes, "../jdbc/Planner.java", strings.TrimPrefix(h.ClickHouseHTTP, "http://"))
	cmd.Stderr = &errs
	if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%v\n%s%s", err, out, &errs)
	}
}

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// python is an interpreter that has the clients of tests/python/requirements.txt.
func python(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"../../.cache/python/bin/python", "python3"} {
		if exec.CommandContext(t.Context(), p, "-c", "import confluent_kafka, fastavro, clickhouse_connect, kafka").Run() == nil {
			return p
		}
	}
	if os.Getenv("WELFAREHUB_E2E") == "1" {
		t.Fatal("no Python with the clients of tests/python/requirements.txt: run .ci/tools.sh")
	}
	t.Skip("no Python with the clients of tests/python/requirements.txt: run .ci/tools.sh")
	return ""
}

// TestOutsideClients publishes with confluent-kafka and fastavro, reads back with clickhouse-connect as
// planner, reads outcomes and dead letters with confluent-kafka and kafka-python, and asks the registry
// by Confluent's client.
func TestOutsideClients(t *testing.T) {
	py := python(t)
	h := start(t, t.TempDir(), "--no-demo")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, py, "../python/contract.py", h.ready, "../../schemas/avro", "3.INF.01")
	cmd.Stderr = &errs
	if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%v\n%s%s", err, out, &errs)
	}
}

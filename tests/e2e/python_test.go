package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// python is an interpreter that has the clients of tests/python/requirements.txt.
func python(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"../../.cache/python/bin/python", "python3"} {
		if exec.CommandContext(t.Context(), p, "-c", "import confluent_kafka, fastavro, clickhouse_connect").Run() == nil {
			return p
		}
	}
	if os.Getenv("WELFAREHUB_E2E") == "1" {
		t.Fatal("no Python with the clients of tests/python/requirements.txt: run .ci/tools.sh")
	}
	t.Skip("no Python with the clients of tests/python/requirements.txt: run .ci/tools.sh")
	return ""
}

// TestOutsideClients publishes with confluent-kafka and fastavro and reads back with clickhouse-connect.
func TestOutsideClients(t *testing.T) {
	py := python(t)
	h := start(t, t.TempDir(), "--no-demo")
	out, err := exec.CommandContext(t.Context(), py, "../python/contract.py", h.ready, "../../schemas/avro", "3.INF.01").CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "ok") {
		t.Errorf("%v\n%s", err, out)
	}
}

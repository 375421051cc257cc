package registry

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// python finds an interpreter with Confluent's client. WELFAREHUB_E2E=0 skips the test, =1 requires the
// client, unset runs the test where the client is installed.
func python(t *testing.T) string {
	t.Helper()
	e2e := os.Getenv("WELFAREHUB_E2E")
	if e2e == "0" {
		t.Skip("WELFAREHUB_E2E=0")
	}
	for _, p := range []string{"../../.cache/python/bin/python", "python3"} {
		if exec.CommandContext(t.Context(), p, "-c", "import confluent_kafka.schema_registry.avro").Run() == nil {
			return p
		}
	}
	const missing = "no Python with the packages of tests/python/requirements.txt: run .ci/tools.sh"
	if e2e == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// TestConfluentsOwnClient lets Confluent's Python client judge the server.
func TestConfluentsOwnClient(t *testing.T) {
	py := python(t)
	b := startBroker(t)
	s := b.serve(0)
	defer s.Close()
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	out, err := exec.CommandContext(t.Context(), py, "testdata/confluent_client.py", web.URL, "../../schemas/avro").CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "ok") {
		t.Errorf("%v\n%s", err, out)
	}
}

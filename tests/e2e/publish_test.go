package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"
)

// TestPublishThroughTheHub publishes a good and a bad file, and waits until they are loaded.
func TestPublishThroughTheHub(t *testing.T) {
	dir := t.TempDir()
	if out, code := run(t, "simulate", "--events", "3000", "--duplicates", "0", "--invalid", "0", "--out", dir, "--format", "jsonl"); code != 0 {
		t.Fatalf("simulate: exit code %d\n%s", code, out)
	}
	good := filepath.Join(dir, "welfare.demand.request.jsonl")
	raw, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	events := bytes.Count(raw, []byte("\n"))

	h := start(t, t.TempDir(), "--no-demo")
	h.nothingPublished()
	publish := func(file string) (string, int) {
		return run(t, "publish", "--wait", "--type", "ServiceRequested", "--kafka-brokers", h.Kafka, "--registry-url", h.Registry, "--clickhouse-dsn", h.dsn(), file)
	}
	out, code := publish(good)
	if code != 0 || !strings.Contains(out, fmt.Sprintf("%d loaded, 0 duplicate, 0 rejected", events)) {
		t.Errorf("exit code %d\n%s", code, out)
	}
	db := h.db()
	if got := number(t, db, "SELECT count() FROM welfare.service_requested"); got != int64(events) {
		t.Errorf("%d rows, want %d", got, events)
	}
	out, code = publish(good)
	if code != 0 || !strings.Contains(out, fmt.Sprintf("0 loaded, %d duplicate, 0 rejected", events)) {
		t.Errorf("the same file again: exit code %d\n%s", code, out)
	}

	// The second record gets a codice fiscale for a pseudonym, the third a comune of five digits.
	lines := bytes.SplitN(raw, []byte("\n"), 5)[:4]
	const secret, comune = "RSSMRA85T10A562S", "15146"
	lines[1] = replaceField(t, lines[1], "pseudonym", secret)
	lines[2] = replaceField(t, lines[2], "comuneCode", comune)
	bad := filepath.Join(dir, "bad.jsonl")
	if err := os.WriteFile(bad, append(bytes.Join(lines, []byte("\n")), '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code = publish(bad)
	if code != 1 {
		t.Errorf("bad file: exit code %d\n%s", code, out)
	}
	for _, want := range []string{"bad.jsonl:2: E10", "bad.jsonl:2: E11", "bad.jsonl:3: E04", "4 records", "2 records with problems"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	for _, never := range []string{secret, `"` + comune, " " + comune} {
		if strings.Contains(out, never) {
			t.Errorf("a value is in\n%s", out)
		}
	}
}

// replaceField gives a member of a JSON line another text.
func replaceField(t *testing.T, line []byte, field, value string) []byte {
	t.Helper()
	name := []byte(`"` + field + `":"`)
	before, after, ok := bytes.Cut(line, name)
	if !ok {
		t.Fatalf("no %s in the line", field)
	}
	_, after, _ = bytes.Cut(after, []byte(`"`))
	return bytes.Join([][]byte{before, name, []byte(value + `"`), after}, nil)
}

// nothingPublished checks that every topic of the hub is empty, but the registry's.
func (h *hub) nothingPublished() {
	h.t.Helper()
	client := &kafka.Client{Addr: kafka.TCP(h.Kafka)}
	meta, err := client.Metadata(h.t.Context(), &kafka.MetadataRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	offsets := map[string][]kafka.OffsetRequest{}
	for _, topic := range meta.Topics {
		if !strings.HasPrefix(topic.Name, "welfare.") {
			continue
		}
		for _, p := range topic.Partitions {
			offsets[topic.Name] = append(offsets[topic.Name], kafka.LastOffsetOf(p.ID))
		}
	}
	if len(offsets) != 33 {
		h.t.Errorf("%d topics of welfare, want 16, their dead letters and the outcomes", len(offsets))
	}
	ends, err := client.ListOffsets(h.t.Context(), &kafka.ListOffsetsRequest{Topics: offsets})
	if err != nil {
		h.t.Fatal(err)
	}
	for topic, partitions := range ends.Topics {
		for _, p := range partitions {
			if p.Error != nil || p.LastOffset != 0 {
				h.t.Errorf("%s/%d ends at %d (%v) without a demo", topic, p.Partition, p.LastOffset, p.Error)
			}
		}
	}
}

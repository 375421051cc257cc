package metrics

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of metrics in docs/OPERATIONS.md")

const (
	docsPath = "../../docs/OPERATIONS.md"
	begin    = "<!-- metrics: made by go test ./pkg/metrics -run Document -update -->\n"
	end      = "<!-- end of metrics -->\n"
)

// TestMetricsDocument fails where the table in docs/OPERATIONS.md is not what the catalogue says:
// go test ./pkg/metrics -run Document -update
func TestMetricsDocument(t *testing.T) {
	raw, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/OPERATIONS.md lacks the marks of the table")
	}
	want := document()
	if *update && table != want {
		if err := os.WriteFile(docsPath, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		table = want
	}
	if table != want {
		t.Error("docs/OPERATIONS.md has drifted: go test ./pkg/metrics -run Document -update")
	}
}

func document() string {
	var b strings.Builder
	b.WriteString("| metric | kind, labels | from | meaning | what to do |\n|---|---|---|---|---|\n")
	for _, m := range Catalogue {
		labels := ""
		for _, l := range m.Labels {
			labels += " `" + l + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s%s | %s | %s | %s |\n", m.Name, m.Kind, labels, m.Where, m.Meaning, m.Do)
	}
	return b.String()
}

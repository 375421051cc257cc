package torture

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// result is what came of one run. Lines of it are the file that -results names.
type result struct {
	Fault       string    `json:"fault"`
	Seed        uint64    `json:"seed"`
	Kills       int       `json:"kills"`
	Events      int       `json:"events"`
	Lost        int       `json:"lost"`
	Doubled     int       `json:"doubled"`
	Cells       int       `json:"cells"`
	Differences int       `json:"differences"` // to the truth, of all kinds
	Reconcile   int       `json:"reconcile"`   // its exit code
	Seconds     float64   `json:"seconds"`
	Note        string    `json:"note,omitempty"`
	Commit      string    `json:"commit"`
	At          time.Time `json:"at"`
}

var recordMu sync.Mutex

// record appends a result to the results file.
func record(t *testing.T, r result) {
	t.Helper()
	if *resultsFile == "" {
		return
	}
	recordMu.Lock()
	defer recordMu.Unlock()
	r.At, r.Commit = time.Now().UTC().Truncate(time.Second), commit()
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(*resultsFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(append(raw, '\n')); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// commit is what was tested.
var commit = sync.OnceValue(func() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
})

const (
	guarantees = "../../docs/guarantees.md"
	kept       = "testdata/results.jsonl" // of the run that docs/guarantees.md shows
	tableBegin = "<!-- torture-report: made by make torture-report, do not edit -->"
	tableEnd   = "<!-- end of torture-report -->"
)

var update = flag.Bool("update", false, "remake the table of docs/guarantees.md from its results")

// TestGuaranteesTable holds the table of docs/guarantees.md against the results of the run that it is made of.
// make torture-report remakes it.
func TestGuaranteesTable(t *testing.T) {
	raw, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	want, err := table(raw)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(guarantees)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(doc), tableBegin)
	got, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks the marks of the table", guarantees)
	}
	if strings.TrimSpace(got) == strings.TrimSpace(want) {
		return
	}
	if !*update {
		t.Fatalf("the table of %s is not that of %s: run make torture-report", guarantees, kept)
	}
	if err := os.WriteFile(guarantees, []byte(before+tableBegin+"\n"+want+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// table is the results by fault.
func table(raw []byte) (string, error) {
	type line struct {
		result
		runs, balanced int
		longest        float64
	}
	lines := map[string]*line{}
	all := line{}
	commits := map[string]bool{}
	var first, last time.Time
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var r result
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", fmt.Errorf("read %s: %w", kept, err)
		}
		if lines[r.Fault] == nil {
			lines[r.Fault] = &line{}
		}
		for _, l := range []*line{lines[r.Fault], &all} {
			l.runs++
			l.Kills += r.Kills
			l.Events += r.Events
			l.Lost += r.Lost
			l.Doubled += r.Doubled
			l.Cells += r.Cells
			l.Differences += r.Differences
			if r.Reconcile == 0 {
				l.balanced++
			}
			l.longest = max(l.longest, r.Seconds)
		}
		commits[r.Commit] = true
		if first.IsZero() || r.At.Before(first) {
			first = r.At
		}
		if r.At.After(last) {
			last = r.At
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s UTC, commit %s: %d runs.\n\n", first.Format("2006-01-02 15:04"), last.Format("15:04"), strings.Join(slices.Sorted(maps.Keys(commits)), ", "), all.runs)
	b.WriteString("| fault | runs | kills | events | lost | doubled | differing cells | other differences | `reconcile` at zero | longest run |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	show := func(name string, l *line) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d of %d | %.0f s |\n",
			name, l.runs, l.Kills, l.Events, l.Lost, l.Doubled, l.Cells, l.Differences-l.Cells, l.balanced, l.runs, l.longest)
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		show(name, lines[name])
	}
	show("**all**", &all)
	return b.String(), nil
}

// TestGuaranteesNameTests looks for each test that docs/guarantees.md names.
func TestGuaranteesNameTests(t *testing.T) {
	doc, err := os.ReadFile(guarantees)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "-C", "../..", "grep", "-hoE", `^func Test[A-Za-z0-9_]+\(`, "--", "*_test.go").Output()
	if err != nil {
		t.Skipf("this is no git work tree: %v", err)
	}
	names := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(doc), -1)
	if len(names) < 15 {
		t.Errorf("%s names %d tests only", guarantees, len(names))
	}
	for _, name := range names {
		if !strings.Contains(string(out), "func "+name+"(") {
			t.Errorf("%s names %s, which is no test", guarantees, name)
		}
	}
}

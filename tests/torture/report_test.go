package torture

import (
	"encoding/json"
	"os"
	"os/exec"
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

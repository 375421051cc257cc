package docs

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// checkExpression checks that a query names only metrics and labels that there are, and values that labels can have.
func checkExpression(t *testing.T, where, expr string) {
	t.Helper()
	used := regexp.MustCompile(`welfarehub_\w+(\{[^}]*\})?`).FindAllString(expr, -1)
	if len(used) == 0 {
		t.Errorf("%s: %q names no metric of the hub", where, expr)
	}
	var labels []string
	for _, use := range used {
		name, selector, _ := strings.Cut(strings.TrimSuffix(use, "}"), "{")
		i := slices.IndexFunc(metrics.Catalogue, func(m metrics.Metric) bool {
			if m.Kind != metrics.Histogram {
				return m.Name == name
			}
			return slices.Contains([]string{m.Name + "_bucket", m.Name + "_sum", m.Name + "_count"}, name)
		})
		if i < 0 {
			t.Errorf("%s: there is no metric %s", where, name)
			continue
		}
		m := metrics.Catalogue[i]
		labels = append(append(labels, m.Labels...), "le")
		for _, s := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`).FindAllStringSubmatch(selector, -1) {
			if !slices.Contains(m.Labels, s[1]) {
				t.Errorf("%s: %s has no label %s", where, name, s[1])
			}
			for value := range strings.SplitSeq(s[2], "|") {
				if !slices.Contains(labelValues(s[1]), value) {
					t.Errorf("%s: %s=%q cannot be", where, s[1], value)
				}
			}
		}
	}
	for _, by := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(by[1], ",") {
			if label = strings.TrimSpace(label); !slices.Contains(labels, label) {
				t.Errorf("%s: no metric of it has label %s", where, label)
			}
		}
	}
}

// labelValues are the values of the labels that alerts select by.
func labelValues(label string) []string {
	switch label {
	case "end":
		return []string{"loaded", "duplicate", "rejected"}
	case "step":
		return slices.Concat(metrics.LoadSteps, metrics.AggregateSteps, metrics.AggregateFailures)
	case "of":
		return metrics.Looks
	case "code":
		var out []string
		for _, r := range validate.Rules() {
			out = append(out, string(r.Code))
		}
		return out
	}
	return nil
}

// TestAlertsCanFireAndHaveARunbook reads the alerts as Prometheus would.
func TestAlertsCanFireAndHaveARunbook(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	const runbook = "https://github.com/welfarehub/welfarehub/blob/main/docs/OPERATIONS.md#"
	headings := anchors(documents(t)["docs/OPERATIONS.md"])
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] || r.Annotations["summary"] == "" || !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) {
				t.Errorf("%s: named twice, or without a summary or a severity", r.Alert)
			}
			seen[r.Alert] = true
			checkExpression(t, r.Alert, r.Expr)
			anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], runbook)
			if !ok || !headings[anchor] {
				t.Errorf("%s: no heading of the runbook has the anchor %q; there are %v", r.Alert, r.Annotations["runbook_url"], slices.Sorted(maps.Keys(headings)))
			}
		}
	}
	if len(seen) == 0 || len(seen) > 12 {
		t.Errorf("%d alerts", len(seen))
	}
}

// TestDashboardShowsMetricsThatThereAre reads the dashboard as Grafana would.
func TestDashboardShowsMetricsThatThereAre(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "deploy/grafana/pipeline.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title, UID string
		Panels     []struct {
			ID      int
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H == 0 {
			t.Errorf("panel %d %q: its id is taken, or it has no title, no query or no place", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			checkExpression(t, p.Title, target.Expr)
		}
	}
	if board.Title == "" || board.UID == "" || len(ids) < 10 {
		t.Errorf("board %q has %d panels", board.Title, len(ids))
	}
}

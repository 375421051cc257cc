package metrics

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// full is a registry with all that a process can measure, each label tried with all values and a wrong one.
func full(t *testing.T) *Registry {
	t.Helper()
	r := New("v1")
	l, a, w := r.Load(), r.Aggregate(), r.Watch(2)
	for _, topic := range append(event.Topics(), "RSSMRA85T10A562S") {
		l.Block(topic, 3, 2, 1, 1, map[string]int64{"E11": 1, "RSSMRA85T10A562S": 1})
		l.Filter(topic, 1, 1)
		l.Lost(topic, 2)
		l.WithoutRows(topic)
	}
	for _, step := range append(slices.Clone(LoadSteps), "RSSMRA85T10A562S") {
		l.Retry(step)
	}
	l.Decided(time.Second)
	l.Inserted(time.Second)
	l.Generation(3)
	a.Cycle(1, 2, 3, 4, 5)
	for _, step := range append(slices.Clone(AggregateSteps), "RSSMRA85T10A562S") {
		a.Step(step, time.Second)
		a.Failed(step)
	}
	lags := map[Place]Lag{{"RSSMRA85T10A562S", 0}: {Records: 1}}
	for _, topic := range event.Topics() {
		lags[Place{topic, 1}] = Lag{Records: 2, Oldest: time.Now().Add(-time.Minute), Aggregate: 1}
	}
	w.SetLags(lags)
	w.SetSources([]Source{
		{"urn:a", 1, time.Now()}, {"urn:b", 7, time.Now()}, {"urn:c", 9, time.Now()}, {"urn:RSSMRA85T10A562S", 99, time.Now()}, {"RSSmra 85T10-A562S", 98, time.Now()},
	})
	w.Looked("kafka")
	return r
}

func gather(t *testing.T, r *Registry) map[string][]string {
	t.Helper()
	families, err := r.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			out[f.GetName()] = append(out[f.GetName()], strings.Join(labels, ",")+fmt.Sprintf(" %.0f", value))
		}
	}
	return out
}

func TestTheCatalogueIsWhatIsExported(t *testing.T) {
	got := gather(t, full(t))
	for _, m := range Catalogue {
		if got[m.Name] == nil {
			t.Errorf("%s is not exported", m.Name)
		}
	}
	for name := range got {
		ours := slices.ContainsFunc(Catalogue, func(m Metric) bool { return m.Name == name })
		if !ours && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s is not in the catalogue", name)
		}
	}
}

func TestNamesFollowPrometheus(t *testing.T) {
	form := regexp.MustCompile(`^welfarehub_[a-z_]+$`)
	units := []string{"_seconds", "_bytes", "_records", "_partitions", "_ids", "_info"}
	seen := map[string]bool{}
	for _, m := range Catalogue {
		if !form.MatchString(m.Name) || seen[m.Name] {
			t.Errorf("%s: not a name, or given twice", m.Name)
		}
		seen[m.Name] = true
		if (m.Kind == Counter) != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s", m.Name, m.Kind)
		}
		if m.Kind != Counter && !slices.ContainsFunc(units, func(u string) bool { return strings.HasSuffix(m.Name, u) }) {
			t.Errorf("%s names no unit", m.Name)
		}
		if m.Meaning == "" || m.Where == "" {
			t.Errorf("%s is not explained", m.Name)
		}
	}
}

func TestLabelsAreClosed(t *testing.T) {
	got := gather(t, full(t))
	series := 0
	for name, list := range got {
		series += len(list)
		for _, labels := range list {
			if strings.Contains(strings.ToUpper(labels), "RSS") {
				t.Errorf("%s{%s}", name, labels)
			}
		}
	}
	if series > 700 {
		t.Errorf("%d series", series)
	}
	want := []string{"source=other", "source=urn:b", "source=urn:c"}
	var sources []string
	for _, s := range got["welfarehub_source_silence_seconds"] {
		sources = append(sources, strings.Fields(s)[0])
	}
	if !slices.Equal(sources, want) {
		t.Errorf("sources %v, want %v", sources, want)
	}
}

// TestLagGrowsWhileNothingIsRead: nobody calls anything between two scrapes.
func TestLagGrowsWhileNothingIsRead(t *testing.T) {
	r := New("v1")
	w := r.Watch(0)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w.now = func() time.Time { return now }
	topic := event.Topics()[0]
	w.SetLags(map[Place]Lag{{topic, 0}: {Records: 5, Oldest: now.Add(-10 * time.Second)}, {topic, 1}: {}})
	value := func() []string { return gather(t, r)["welfarehub_lag_seconds"] }
	if got, want := value(), []string{"partition=0,topic=" + topic + " 10", "partition=1,topic=" + topic + " 0"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	now = now.Add(time.Hour)
	if got, want := value()[0], "partition=0,topic="+topic+" 3610"; got != want {
		t.Errorf("an hour later: %s, want %s", got, want)
	}
}

func TestNothingIsMeasuredByNone(t *testing.T) {
	var l *Load
	l.Block("", 1, 1, 1, 1, nil)
	l.Filter("", 1, 1)
	l.Decided(1)
	l.Inserted(1)
	l.Retry("")
	l.Lost("", 1)
	l.WithoutRows("")
	l.Generation(1)
	l.Left()
	var a *Aggregate
	a.Cycle(1, 1, 1, 1, 1)
	a.Step("", 1)
	a.Failed("")
	var w *Watch
	w.Asks("")
	w.Looked("")
	w.SetLags(nil)
	w.SetSources(nil)
}

func TestRegistriesAreApart(t *testing.T) {
	New("v1").Load()
	New("v1").Load()
	if families, err := prometheus.DefaultGatherer.Gather(); err != nil {
		t.Error(err)
	} else {
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "welfarehub_") {
				t.Errorf("%s is in the global registry", f.GetName())
			}
		}
	}
}

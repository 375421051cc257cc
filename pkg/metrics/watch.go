package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// Place is a partition of a topic.
type Place struct {
	Topic     string
	Partition int
}

// Lag is how far the hub is behind in one partition.
type Lag struct {
	Records   int64     // not in the ledger
	Oldest    time.Time // timestamp of the first of them; zero where there is none, or it is not known
	Aggregate int64     // in the ledger and not in the aggregates
}

// Source is when the hub last took an event of a source.
type Source struct {
	Name   string
	Events uint64
	Last   time.Time
}

// Looks are the values of label of: what may be looked at.
var Looks = []string{"kafka", "ledger", "sources"}

// Watch is how far the hub is behind, as computed at each scrape: ages go on growing while nothing can be
// read. A nil Watch keeps nothing.
type Watch struct {
	topics closed
	limit  int
	now    func() time.Time

	records, seconds, aggregate, silence, looked *prometheus.Desc

	mu      sync.Mutex
	lags    map[Place]Lag
	sources []Source // those named, and other
	looks   map[string]time.Time
}

// Watch registers the metrics of lag and freshness, with so many sources by name. Call it once.
func (r *Registry) Watch(sources int) *Watch {
	w := &Watch{
		topics: closedList(event.Topics()...), limit: max(0, sources), now: time.Now, looks: map[string]time.Time{},
		records: desc("welfarehub_lag_records"), seconds: desc("welfarehub_lag_seconds"), aggregate: desc("welfarehub_lag_aggregate_records"),
		silence: desc("welfarehub_source_silence_seconds"), looked: desc("welfarehub_watch_last_look_timestamp_seconds"),
	}
	r.reg.MustRegister(w)
	return w
}

// Asks says what will be looked at.
func (w *Watch) Asks(looks ...string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, of := range looks {
		w.looks[of] = time.Time{}
	}
}

// Looked says that a part was read now.
func (w *Watch) Looked(of string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks[of] = w.now()
}

// SetLags replaces the lags of all partitions.
func (w *Watch) SetLags(lags map[Place]Lag) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lags = map[Place]Lag{}
	for p, l := range lags {
		if w.topics[p.Topic] {
			w.lags[p] = l
		}
	}
}

// SetSources replaces the sources. Those with the most events keep their names; one that holds a codice
// fiscale never does.
func (w *Watch) SetSources(sources []Source) {
	if w == nil {
		return
	}
	sources = slices.Clone(sources)
	slices.SortFunc(sources, func(a, b Source) int { return cmp.Or(cmp.Compare(b.Events, a.Events), cmp.Compare(a.Name, b.Name)) })
	var named []Source
	rest := Source{Name: other}
	for _, s := range sources {
		if len(named) < w.limit && s.Name != other && !privacy.ContainsCFRaw([]byte(s.Name)) {
			named = append(named, s)
			continue
		}
		if s.Last.After(rest.Last) {
			rest.Last = s.Last
		}
	}
	if !rest.Last.IsZero() {
		named = append(named, rest)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources = named
}

// Describe is prometheus.Collector.
func (w *Watch) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{w.records, w.seconds, w.aggregate, w.silence, w.looked} {
		ch <- d
	}
}

// Collect is prometheus.Collector.
func (w *Watch) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	age := func(t time.Time) float64 { return max(0, now.Sub(t).Seconds()) }
	for p, l := range w.lags {
		partition := strconv.Itoa(p.Partition)
		gauge(w.records, float64(l.Records), p.Topic, partition)
		gauge(w.aggregate, float64(l.Aggregate), p.Topic, partition)
		late := 0.0
		if l.Records > 0 && !l.Oldest.IsZero() {
			late = age(l.Oldest)
		}
		gauge(w.seconds, late, p.Topic, partition)
	}
	for _, s := range w.sources {
		gauge(w.silence, age(s.Last), s.Name)
	}
	for _, of := range Looks {
		t, asked := w.looks[of]
		if !asked {
			continue
		}
		at := 0.0
		if !t.IsZero() {
			at = float64(t.UnixMilli()) / 1000
		}
		gauge(w.looked, at, of)
	}
}

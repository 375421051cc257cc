// Package metrics names what the hub measures, for operators who scrape it with Prometheus. It promises few
// series: every label is from a closed list, or bounded by configuration, and no label, name or help text
// ever holds what an event says, save the names of sources.
package metrics

import (
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Registry has the metrics of one process.
type Registry struct{ reg *prometheus.Registry }

// New returns a registry with the collectors of Go and the process.
func New(version string) *Registry {
	r := &Registry{prometheus.NewRegistry()}
	r.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.gauge("welfarehub_build_info").WithLabelValues(version).Set(1)
	return r
}

// Gatherer gives what is measured now.
func (r *Registry) Gatherer() prometheus.Gatherer { return r.reg }

// Handler answers a scrape, in Prometheus' text format or in OpenMetrics.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4})
}

// metric finds an entry of the catalogue.
func metric(name string, kind Kind) *Metric {
	i := slices.IndexFunc(Catalogue, func(m Metric) bool { return m.Name == name && m.Kind == kind })
	if i < 0 {
		panic("BUG: no " + string(kind) + " " + name + " in the catalogue")
	}
	return &Catalogue[i]
}

func (r *Registry) counter(name string) *prometheus.CounterVec {
	m := metric(name, Counter)
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.Name, Help: m.Meaning}, m.Labels)
	r.reg.MustRegister(v)
	return v
}

func (r *Registry) gauge(name string) *prometheus.GaugeVec {
	m := metric(name, Gauge)
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: m.Name, Help: m.Meaning}, m.Labels)
	r.reg.MustRegister(v)
	return v
}

func (r *Registry) histogram(name string) *prometheus.HistogramVec {
	m := metric(name, Histogram)
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.Name, Help: m.Meaning, Buckets: m.buckets}, m.Labels)
	r.reg.MustRegister(v)
	return v
}

// desc describes a gauge that is computed when it is scraped.
func desc(name string) *prometheus.Desc {
	m := metric(name, Gauge)
	return prometheus.NewDesc(m.Name, m.Meaning, m.Labels, nil)
}

// other stands for whatever is not on a closed list.
const other = "other"

// closed is a list of values that a label may have.
type closed map[string]bool

func closedList(values ...string) closed {
	c := closed{}
	for _, v := range values {
		c[v] = true
	}
	return c
}

// of keeps a value that is on the list.
func (c closed) of(v string) string {
	if c[v] {
		return v
	}
	return other
}

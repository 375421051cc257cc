package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Aggregate is what the aggregator measures. A nil Aggregate measures nothing.
type Aggregate struct {
	steps, failed                               closed
	took                                        *prometheus.HistogramVec
	failures                                    *prometheus.CounterVec
	last                                        prometheus.Gauge
	records, groups, healed, superseded, erased prometheus.Counter
}

// Values of label step of the aggregator.
var (
	AggregateSteps    = []string{"plan", "settle", "erase", "touch", "insert", "sweep", "purge"}
	AggregateFailures = []string{"cycle", "sweep", "purge"}
)

// Aggregate registers the aggregator's metrics. Call it once.
func (r *Registry) Aggregate() *Aggregate {
	m := &Aggregate{
		steps: closedList(AggregateSteps...), failed: closedList(AggregateFailures...),
		took: r.histogram("welfarehub_aggregate_step_duration_seconds"), failures: r.counter("welfarehub_aggregate_failures_total"),
		last:       r.gauge("welfarehub_aggregate_last_cycle_timestamp_seconds").WithLabelValues(),
		records:    r.counter("welfarehub_aggregate_records_total").WithLabelValues(),
		groups:     r.counter("welfarehub_aggregate_groups_total").WithLabelValues(),
		healed:     r.counter("welfarehub_aggregate_healed_facts_total").WithLabelValues(),
		superseded: r.counter("welfarehub_aggregate_superseded_records_total").WithLabelValues(),
		erased:     r.counter("welfarehub_aggregate_erased_rows_total").WithLabelValues(),
	}
	for _, step := range AggregateSteps {
		m.took.WithLabelValues(step)
	}
	for _, step := range AggregateFailures {
		m.failures.WithLabelValues(step)
	}
	return m
}

// Cycle is a cycle that succeeded, whether it had something to do or not.
func (m *Aggregate) Cycle(records, groups, healed, superseded, erased uint64) {
	if m == nil {
		return
	}
	m.last.SetToCurrentTime()
	m.records.Add(float64(records))
	m.groups.Add(float64(groups))
	m.healed.Add(float64(healed))
	m.superseded.Add(float64(superseded))
	m.erased.Add(float64(erased))
}

// Step is the time that a step took, one of AggregateSteps.
func (m *Aggregate) Step(step string, took time.Duration) {
	if m != nil {
		m.took.WithLabelValues(m.steps.of(step)).Observe(took.Seconds())
	}
}

// Failed is a failure, of one of AggregateFailures.
func (m *Aggregate) Failed(step string) {
	if m != nil {
		m.failures.WithLabelValues(m.failed.of(step)).Inc()
	}
}

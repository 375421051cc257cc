package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// Load is what a loader measures. A nil Load measures nothing.
type Load struct {
	topics, codes, steps               closed
	ends, rejects, gone, lost, retries *prometheus.CounterVec
	withoutRows                        *prometheus.CounterVec
	generations                        prometheus.Counter
	block, decide, insert              prometheus.Observer
	partitions                         prometheus.Gauge
	filterBytes, filterIDs             *prometheus.GaugeVec
}

// Values of label end.
const (
	endLoaded    = "loaded"
	endDuplicate = "duplicate"
	endRejected  = "rejected"
)

// LoadSteps are the values of label step of the loader's retries.
var LoadSteps = []string{
	"position", "tail", "heal", "start", "learn", "gather", "refetch", "restore", "fetch", "decide", "resolve", "claim", "insert", "again", "verify", "tell", "settle",
}

// Load registers the loader's metrics. Call it once.
func (r *Registry) Load() *Load {
	m := &Load{
		topics: closedList(event.Topics()...), codes: closed{}, steps: closedList(LoadSteps...),
		ends: r.counter("welfarehub_load_records_total"), rejects: r.counter("welfarehub_load_rejects_total"),
		gone: r.counter("welfarehub_load_erased_on_arrival_total"), lost: r.counter("welfarehub_load_lost_records_total"),
		withoutRows: r.counter("welfarehub_load_blocks_without_rows_total"),
		retries:     r.counter("welfarehub_load_retries_total"), generations: r.counter("welfarehub_load_generations_total").WithLabelValues(),
		block:       r.histogram("welfarehub_load_block_records").WithLabelValues(),
		decide:      r.histogram("welfarehub_load_decide_duration_seconds").WithLabelValues(),
		insert:      r.histogram("welfarehub_load_insert_duration_seconds").WithLabelValues(),
		partitions:  r.gauge("welfarehub_load_assigned_partitions").WithLabelValues(),
		filterBytes: r.gauge("welfarehub_load_filter_bytes"), filterIDs: r.gauge("welfarehub_load_filter_ids"),
	}
	for _, rule := range validate.Rules() {
		if rule.Code.Rejects() {
			m.codes[string(rule.Code)] = true
		}
	}
	for _, topic := range event.Topics() { // so that a rate sees the first record
		for _, end := range []string{endLoaded, endDuplicate, endRejected} {
			m.ends.WithLabelValues(topic, end)
		}
		m.rejects.WithLabelValues(topic, string(validate.E11))
		m.lost.WithLabelValues(topic)
		m.withoutRows.WithLabelValues(topic)
	}
	for _, step := range LoadSteps {
		m.retries.WithLabelValues(step)
	}
	return m
}

// Block is a block that is stored: records by end, rejects by first code, and how many of the loaded were
// erased before they came.
func (m *Load) Block(topic string, loaded, duplicate, rejected, erased int64, rejects map[string]int64) {
	if m == nil {
		return
	}
	topic = m.topics.of(topic)
	m.ends.WithLabelValues(topic, endLoaded).Add(float64(loaded))
	m.ends.WithLabelValues(topic, endDuplicate).Add(float64(duplicate))
	m.ends.WithLabelValues(topic, endRejected).Add(float64(rejected))
	for code, n := range rejects {
		m.rejects.WithLabelValues(topic, m.codes.of(code)).Add(float64(n))
	}
	if erased > 0 {
		m.gone.WithLabelValues(topic).Add(float64(erased))
	}
	m.block.Observe(float64(loaded + duplicate + rejected))
}

// Filter is the size of the filter of a topic.
func (m *Load) Filter(topic string, bytes, ids int) {
	if m == nil {
		return
	}
	topic = m.topics.of(topic)
	m.filterBytes.WithLabelValues(topic).Set(float64(bytes))
	m.filterIDs.WithLabelValues(topic).Set(float64(ids))
}

// Decided is the time that a decision took.
func (m *Load) Decided(d time.Duration) {
	if m != nil {
		m.decide.Observe(d.Seconds())
	}
}

// Inserted is the time that a successful insert took.
func (m *Load) Inserted(d time.Duration) {
	if m != nil {
		m.insert.Observe(d.Seconds())
	}
}

// Retry is an attempt of a step, one of LoadSteps, that failed and is made again.
func (m *Load) Retry(step string) {
	if m != nil {
		m.retries.WithLabelValues(m.steps.of(step)).Inc()
	}
}

// Lost are offsets that retention took.
func (m *Load) Lost(topic string, records int64) {
	if m != nil {
		m.lost.WithLabelValues(m.topics.of(topic)).Add(float64(max(0, records)))
	}
}

// WithoutRows is a block that ClickHouse acknowledged, and of which it has no row.
func (m *Load) WithoutRows(topic string) {
	if m != nil {
		m.withoutRows.WithLabelValues(m.topics.of(topic)).Inc()
	}
}

// Generation is an assignment of partitions.
func (m *Load) Generation(partitions int) {
	if m != nil {
		m.generations.Inc()
		m.partitions.Set(float64(partitions))
	}
}

// Left says that this instance is in no group now.
func (m *Load) Left() {
	if m != nil {
		m.partitions.Set(0)
	}
}

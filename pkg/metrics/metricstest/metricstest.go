// Package metricstest reads what a registry measures, for tests of whoever measures.
package metricstest

import (
	"testing"

	"github.com/welfarehub/welfarehub/pkg/metrics"
)

// Values are the metrics of a registry by name and label values, with spaces between: of gauges and counters
// the value, of histograms the sum.
func Values(t testing.TB, r *metrics.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return out
}

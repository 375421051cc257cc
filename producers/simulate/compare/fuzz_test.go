package compare

import (
	"testing"
	"time"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// FuzzOutcomes decodes any message of the topic of outcomes.
func FuzzOutcomes(f *testing.F) {
	id := "018f5a1e-7c3b-4d2a-9e61-0d7c35b1a2f4"
	raw, err := avro.Marshal(event.OutcomesReportedSchema, event.OutcomesReported{
		Source: "urn:welfare:c_f205:csi", Topic: "welfare.demand.request", Partition: 3, DecidedAt: time.UnixMilli(1_700_000_000_000).UTC(),
		Outcomes: []event.Outcome{
			{EventID: &id, Outcome: "LOADED", Codes: []string{}, Flags: []string{"W03"}, Offset: 9},
			{Outcome: "REJECTED", Codes: []string{"P04"}, Flags: []string{}, Offset: 10},
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(event.AppendFrame(nil, 17), raw...))
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, value []byte) {
		report, err := decodeOutcomes(value)
		if err == nil && len(report.Outcomes) > len(value) {
			t.Errorf("%d outcomes of %d bytes", len(report.Outcomes), len(value))
		}
	})
}

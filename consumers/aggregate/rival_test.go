package aggregate

import (
	"testing"
	"time"
)

func TestARivalLeadsAsLongAsItGoesOn(t *testing.T) {
	start := time.Now()
	var r rival
	for i, step := range []struct {
		after time.Duration
		cycle uint64
		by    int64
		own   bool
		leads bool
	}{
		{0, 7, 70, false, false},              // of an earlier life
		{time.Second, 8, 80, true, false},     // our own
		{2 * time.Second, 9, 90, false, true}, // a rival's
		{3 * time.Second, 9, 90, false, true},
		{5 * time.Second, 9, 90, false, false}, // it is late
		{6 * time.Second, 10, 100, true, false},
		{7 * time.Second, 11, -1, false, false}, // rows were restored: no rival does that
		{10 * time.Second, 12, 120, false, true},
		{15 * time.Second, 13, 130, false, true}, // its cycles are long
		{24 * time.Second, 13, 130, false, true},
		{25 * time.Second, 13, 130, false, false},
	} {
		if got := r.leads(&books{cycle: step.cycle, by: step.by}, step.own, start.Add(step.after)); got != step.leads {
			t.Errorf("step %d: leads %v, want %v", i, got, step.leads)
		}
	}
}

package aggregate

import "time"

// measure counts a cycle that succeeded.
func (a *Aggregator) measure(s *Stats) {
	m := a.opts.Metrics
	m.Cycle(s.Records, uint64(s.Groups), s.Healed, uint64(s.Superseded), uint64(s.Erased))
	if s.Cycle == 0 {
		return
	}
	m.Step("plan", s.Steps.Plan)
	m.Step("settle", s.Steps.Settle)
	m.Step("erase", s.Steps.Erase)
	m.Step("touch", s.Steps.Touch)
	m.Step("insert", s.Steps.Insert)
}

// timed measures a step beside the cycles, where it succeeds.
func (a *Aggregator) timed(step string, f func() error) error {
	start := time.Now()
	err := f()
	if err == nil {
		a.opts.Metrics.Step(step, time.Since(start))
	}
	return err
}

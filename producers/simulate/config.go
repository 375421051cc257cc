package simulate

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/model"
)

// Config says what to simulate. Rates are shares of all messages, 0 to 1.
type Config struct {
	Seed      uint64
	Start     time.Time      // of the simulated clock
	Step      time.Duration  // mean simulated time between messages; 0 with Count: 24 months in all
	Count     int            // messages in all; 0: no end
	SchemaIDs map[string]int // schema id by topic, for the Confluent frame; nil: the number of the event

	Duplicates  float64 // sent again: the same event, or its content once more under the same id
	Corrections float64 // a higher version of a record; some out of order, some in conflict (W08)
	Revocations float64 // some before their record, some lifted again
	Late        float64 // facts of 30 to 700 days ago
	Invalid     float64 // each violation in turn
	Erasures    float64 // each concerns one subject
	Unmapped    float64 // facts with an unknown comune or service code

	Territories bool            // publish the comuni and their population too
	MaxOpen     int             // open cases kept; 0: 50,000. Beyond it the oldest are hurried on
	MaxValue    int             // limit of a value (P06); 0: no oversized message is made
	Truth       bool            // keep every row for Truth; takes memory
	Reference   model.Reference // what Truth counts by; zero: what ships with the release
}

// DefaultRates returns the shares of disturbances that the demo uses.
func DefaultRates() Config {
	return Config{Duplicates: 0.01, Corrections: 0.02, Revocations: 0.003, Late: 0.02, Invalid: 0.005, Erasures: 0.0005, Unmapped: 0.003}
}

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	return c.ValidateAs(func(knob string) string { return "rate of " + knob })
}

// ValidateAs is Validate for a caller whose users know the rates by other names.
func (c Config) ValidateAs(name func(knob string) string) error {
	var errs []error
	var parts []string
	sum := 0.0
	for _, r := range []struct {
		knob string
		rate float64
		part bool // of the disturbances, which exclude one another
	}{
		{"duplicates", c.Duplicates, true},
		{"corrections", c.Corrections, true},
		{"revocations", c.Revocations, true},
		{"invalid", c.Invalid, true},
		{"erasures", c.Erasures, true},
		{"late", c.Late, false},
		{"unmapped", c.Unmapped, false},
	} {
		if math.IsNaN(r.rate) || r.rate < 0 || r.rate > 1 {
			errs = append(errs, fmt.Errorf("%s: got %v, limits 0 to 1", name(r.knob), r.rate))
		} else if r.part {
			sum += r.rate
		}
		if r.part {
			parts = append(parts, name(r.knob))
		}
	}
	if sum > 0.9 {
		errs = append(errs, fmt.Errorf("%s: got %v in all, limit 0.9", strings.Join(parts, ", "), sum))
	}
	if c.Start.Year() < 1992 || c.Start.Year() > 2190 {
		errs = append(errs, fmt.Errorf("start: got year %d, limits 1992 to 2190", c.Start.Year()))
	}
	if c.Step < 0 || c.Count < 0 || c.MaxOpen < 0 || c.MaxValue < 0 {
		errs = append(errs, errors.New("step, count, open cases and value limit: negative"))
	}
	return errors.Join(errs...)
}

package validate

import (
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Bounds of business dates (E14).
const (
	firstDate   = 631152000000      // 1990-01-01T00:00:00Z
	aheadMonths = 24                // after occurredAt
	surelyNear  = 730 * dayMillis   // no longer than 24 months, whichever they are
	firstMillis = -2208988800000    // 1900-01-01T00:00:00Z
	lastMillis  = 7289654400000 - 1 // the last millisecond of 2200
)

// TimestampInRange tells whether milliseconds since 1970 lie in the years 1900 to 2200 (P09). The decoder
// refuses others: most often they are in another unit.
func TimestampInRange(ms int64) bool { return firstMillis <= ms && ms <= lastMillis }

// DateInRange is TimestampInRange for days since 1970.
func DateInRange(days int64) bool {
	return firstMillis/dayMillis <= days && days <= lastMillis/dayMillis
}

// checkDates compares dates as midnight UTC.
func checkDates(p *plan, in *input) {
	occurred := in.row.Vals[event.OccurredAt].Int
	for _, i := range p.dates {
		v := &in.row.Vals[i]
		if v.Null {
			continue
		}
		f, ms := &p.t.Fields[i], v.Int
		if f.Kind == event.Date {
			ms *= dayMillis
		}
		switch {
		case ms < firstDate:
			in.reject(E14, f.Name, f.Name+" is before 1990; is the century or the unit right?")
		case ms > occurred+surelyNear && ms > time.UnixMilli(occurred).UTC().AddDate(0, aheadMonths, 0).UnixMilli():
			in.reject(E14, f.Name, f.Name+" is more than 24 months after occurredAt; is the year right? An end that is not known yet is null where the field allows it")
		}
	}
}

func checkValidity(p *plan, in *input) {
	from, to := &in.row.Vals[p.validFrom], &in.row.Vals[p.validTo]
	if !to.Null && to.Int <= from.Int {
		in.reject(E23, "validTo", "validTo is not after validFrom; it is the first day that is no longer valid, null where the end is open")
	}
}

func checkPeriod(p *plan, in *input) {
	vals := in.row.Vals
	switch p.t.No {
	case benefitNo:
		start, end := &vals[event.BenefitDecidedStartDate], &vals[event.BenefitDecidedEndDate]
		if !start.Null && !end.Null && end.Int < start.Int {
			in.reject(E31, "endDate", "endDate is before startDate; it is the last day of the benefit")
		}
	case deliveryNo:
		if vals[event.ServiceDeliveredPeriodEnd].Int < vals[event.ServiceDeliveredPeriodStart].Int {
			in.reject(E31, "periodEnd", "periodEnd is before periodStart; it is the last day of the period")
		}
	}
}

var (
	benefitNo  = event.ByName("BenefitDecided").No
	deliveryNo = event.ByName("ServiceDelivered").No
)

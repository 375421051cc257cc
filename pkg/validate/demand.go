package validate

import "github.com/welfarehub/welfarehub/pkg/event"

var (
	granted     = symbol("BenefitDecided", "decision", "GRANTED")
	renewed     = symbol("BenefitDecided", "decision", "RENEWED")
	periodic    = symbol("BenefitDecided", "character", "PERIODIC")
	oneOff      = symbol("BenefitDecided", "character", "ONE_OFF")
	testISEE    = symbol("BenefitDecided", "meansTest", "ISEE")
	testOther   = symbol("BenefitDecided", "meansTest", "OTHER_MEANS")
	testNone    = symbol("BenefitDecided", "meansTest", "NONE")
	changeEnter = symbol("WaitingListChanged", "change", "ENTER")
	changeLeave = symbol("WaitingListChanged", "change", "LEAVE")
)

func checkBenefit(_ *plan, in *input) {
	vals := in.row.Vals
	months := &vals[event.BenefitDecidedMonths]
	if !months.Null && (months.Int < 1 || months.Int > 12) {
		in.reject(E30, "months", "months is out of its range, 1 to 12; a longer benefit is renewed")
	}
	if !in.symbolIs(event.BenefitDecidedDecision, granted) && !in.symbolIs(event.BenefitDecidedDecision, renewed) {
		return
	}
	start, monthly, once := &vals[event.BenefitDecidedStartDate], &vals[event.BenefitDecidedMonthlyAmount], &vals[event.BenefitDecidedOneOffAmount]
	switch {
	case in.symbolIs(event.BenefitDecidedCharacter, periodic):
		if start.Null {
			in.reject(E30, "startDate", "startDate is missing; a periodic benefit has its first day")
		}
		if months.Null && monthly.Null {
			in.reject(E30, "months", "months and monthlyAmount are both missing; a periodic benefit has at least one of them")
		}
		if !once.Null {
			in.reject(E30, "oneOffAmount", "oneOffAmount is there; a periodic benefit has none")
		}
	case in.symbolIs(event.BenefitDecidedCharacter, oneOff):
		if start.Null {
			in.reject(E30, "startDate", "startDate is missing; a one-off benefit has the day of payment there")
		}
		if !months.Null {
			in.reject(E30, "months", "months is there; a one-off benefit has none")
		}
		if !monthly.Null {
			in.reject(E30, "monthlyAmount", "monthlyAmount is there; a one-off benefit has none")
		}
		if once.Null {
			in.reject(E30, "oneOffAmount", "oneOffAmount is missing; a one-off benefit has it")
		}
	case !vals[event.BenefitDecidedCharacter].Unknown:
		in.reject(E30, "character", "character is UNKNOWN; a benefit that is granted or renewed is PERIODIC or ONE_OFF")
	}
}

func checkQuotas(_ *plan, in *input) {
	vals := in.row.Vals
	sum := vals[event.ServiceDeliveredQuotaEnte].Int + vals[event.ServiceDeliveredQuotaUtente].Int + vals[event.ServiceDeliveredQuotaSsn].Int
	if sum != vals[event.ServiceDeliveredAmountTotal].Int {
		in.reject(E32, "amountTotal", "quotaEnte, quotaUtente and quotaSsn do not sum to amountTotal; they must to the cent")
	}
}

func checkISEE(p *plan, in *input) {
	band := &in.row.Vals[p.iseeBand]
	if in.symbolIs(p.meansTest, testISEE) && band.Int == unknown && !band.Unknown {
		in.reject(E33, "iseeBand", "iseeBand is UNKNOWN, but the means test is ISEE; send the band, or NOT_PRESENTED")
	}
}

func flagThreshold(p *plan, in *input) {
	if !in.row.Vals[event.BenefitDecidedIseeThreshold].Null && (in.symbolIs(p.meansTest, testOther) || in.symbolIs(p.meansTest, testNone)) {
		in.flag(FlagW34)
	}
}

func checkLeaveReason(_ *plan, in *input) {
	reason := &in.row.Vals[event.WaitingListChangedLeaveReason]
	has := reason.Int != unknown || reason.Unknown
	switch {
	case in.symbolIs(event.WaitingListChangedChange, changeLeave) && !has:
		in.reject(E40, "leaveReason", "leaveReason is UNKNOWN; a LEAVE says why, for example PLACED or WITHDRAWN")
	case in.symbolIs(event.WaitingListChangedChange, changeEnter) && has:
		in.reject(E40, "leaveReason", "leaveReason is there; an ENTER carries UNKNOWN")
	}
}

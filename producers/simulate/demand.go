package simulate

import (
	"container/heap"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// stage is what happens next in a case.
type stage uint8

const (
	assess stage = iota
	enter
	enterSecond // the list of another offer too; being placed ends both
	leave
	grant
	deliver
	end
)

// openCase is a request on its way: one person, one service.
type openCase struct {
	due     int64
	number  uint64
	person  uint64
	comune  int32 // of residence
	offer   int32 // -1: none
	second  int32 // offer of the second list
	kind    int16
	stage   stage
	months  int8 // deliveries left
	unknown bool // residence outside the list
}

// caseHeap keeps cases by when they are due; of one instant, in the order of their requests.
type caseHeap []openCase

func (h caseHeap) Len() int { return len(h) }
func (h caseHeap) Less(a, b int) bool {
	return h[a].due < h[b].due || h[a].due == h[b].due && h[a].number < h[b].number
}
func (h caseHeap) Swap(a, b int)      { h[a], h[b] = h[b], h[a] }
func (h *caseHeap) Push(x any)        { *h = append(*h, x.(openCase)) }
func (h *caseHeap) Pop() any          { old := *h; c := old[len(old)-1]; *h = old[:len(old)-1]; return c }
func (h caseHeap) due(now int64) bool { return len(h) > 0 && h[0].due <= now }

const personsPerComune = 1 << 24

// newCase draws a person and what they need.
func (s *Simulator) newCase() openCase {
	ci := s.anyComune()
	c := openCase{comune: int32(ci), offer: -1, kind: int16(s.rng.IntN(len(kinds)))}
	if open := s.comuni[ci].offers; len(open) > 0 && s.rng.IntN(10) != 0 {
		c.offer = int32(open[s.rng.IntN(len(open))])
		c.kind = int16(s.offers[c.offer].kind)
	}
	c.person = uint64(ci)*personsPerComune + uint64(s.rng.IntN(s.comuni[ci].total))
	c.unknown = s.rng.Float64() < s.cfg.Unmapped
	return c
}

// openCase registers a request. With too many cases open, the oldest is hurried on instead.
func (s *Simulator) openCase() *event.Row {
	if len(s.cases) >= s.cfg.MaxOpen {
		return s.progress()
	}
	c := s.newCase()
	r := s.request(&c)
	c.due = s.at + s.days(1, 40)
	heap.Push(&s.cases, c)
	return r
}

func (s *Simulator) days(from, to int64) int64 {
	return from*dayMs + s.rng.Int64N((to-from)*dayMs)
}

// progress takes the case that is due first one step on.
func (s *Simulator) progress() *event.Row {
	c := &s.cases[0]
	s.at = min(s.now, c.due)
	closed := false
	var r *event.Row
	switch c.stage {
	case assess:
		outcome := [...]string{"ELIGIBLE", "ELIGIBLE", "ELIGIBLE", "ELIGIBLE", "ELIGIBLE", "ELIGIBLE", "PARTIAL", "NOT_ELIGIBLE", "NOT_ELIGIBLE", "WITHDRAWN"}[s.rng.IntN(10)]
		r = s.assessment(c, outcome)
		closed = outcome == "NOT_ELIGIBLE" || outcome == "WITHDRAWN"
		c.stage = grant
		if c.offer >= 0 && kinds[c.kind].waits {
			c.stage = enter
		}
		c.due += s.days(0, 5)
	case enter:
		r = s.waiting(c, c.offer, "")
		c.stage, c.due = leave, c.due+s.days(5, 200)
		if open := s.comuni[c.comune].offers; c.number%6 == 0 && len(open) > 1 {
			c.second = int32(open[s.rng.IntN(len(open))])
			if c.second != c.offer {
				c.stage, c.due = enterSecond, s.at+dayMs
			}
		}
	case enterSecond:
		r = s.waiting(c, c.second, "")
		c.stage, c.due = leave, c.due+s.days(5, 200)
	case leave:
		reason := "PLACED"
		if s.rng.IntN(5) == 0 {
			reason = [...]string{"WITHDRAWN", "MOVED", "DECEASED", "NOT_ELIGIBLE", "EXPIRED"}[s.rng.IntN(5)]
		}
		r = s.waiting(c, c.offer, reason)
		closed = reason != "PLACED"
		c.stage, c.due = grant, c.due+s.days(0, 6)
		if !closed {
			s.offers[c.offer].occupied++
		}
	case grant:
		r = s.benefit(c, "GRANTED")
		c.months = 1
		if !kinds[c.kind].oneOff {
			c.months = int8(1 + s.rng.IntN(12))
		}
		c.stage, c.due = deliver, c.due+s.days(25, 35)
	case deliver:
		r = s.delivery(c, c.person%3 == 0)
		c.months--
		if c.months <= 0 {
			c.stage = end
			closed = kinds[c.kind].oneOff
		}
		c.due += s.days(28, 33)
	default:
		r = s.benefit(c, "ENDED")
		closed = true
		if c.offer >= 0 && kinds[c.kind].waits {
			s.offers[c.offer].occupied = max(0, s.offers[c.offer].occupied-1)
		}
	}
	if closed {
		heap.Pop(&s.cases)
	} else {
		heap.Fix(&s.cases, 0)
	}
	return r
}

// about fills in the subject of a case.
func (s *Simulator) about(r *event.Row, c *openCase) {
	code := s.comuni[c.comune].code
	if c.unknown {
		code = [...][]byte{[]byte("999999"), []byte("999998"), []byte("013256"), []byte("000001")}[c.person%4]
	}
	k := &kinds[c.kind]
	youngest, _ := ages(k.ages[0])
	_, oldest := ages(k.ages[1])
	s.subject(r, c.person, code, int(youngest), int(oldest), demand)
}

// code is the nomenclature code of a case: not in the list, where its residence is not.
func (c *openCase) code() []byte {
	if c.unknown && c.person%3 == 0 {
		return []byte("ZZ.99")
	}
	return []byte(kinds[c.kind].code)
}

func (s *Simulator) request(c *openCase) *event.Row {
	co, k := &s.comuni[c.comune], &kinds[c.kind]
	r := s.begin("ServiceRequested", co.source, co.org, "PR-")
	c.number = s.counters[r.Type.No]
	s.about(r, c)
	set(r, event.ServiceRequestedRequestID, s.numbered("PR-", c.number))
	set(r, event.ServiceRequestedNomenclatureCode, c.code())
	if k.inps != "" {
		set(r, event.ServiceRequestedInpsCode, []byte(k.inps))
	}
	if c.offer >= 0 {
		set(r, event.ServiceRequestedServiceID, s.offers[c.offer].id)
	}
	symbol(r, event.ServiceRequestedUserArea, k.area)
	set(r, event.ServiceRequestedAtsCode, co.ats)
	s.anySymbol(r, event.ServiceRequestedChannel)
	r.SetInt(event.ServiceRequestedUrgent, int64(s.rng.IntN(12)/11))
	r.SetInt(event.ServiceRequestedRequestedAt, s.at)
	return r
}

func (s *Simulator) assessment(c *openCase, outcome string) *event.Row {
	co, k := &s.comuni[c.comune], &kinds[c.kind]
	source := co.source
	if c.number%5 == 0 {
		source = co.district // the district assesses for its comuni
	}
	r := s.begin("NeedAssessed", source, co.org, "VAL-")
	if c.number%5 == 0 {
		set(r, event.NeedAssessedRequestSource, co.source)
	} else if c.number%2 == 0 {
		// Requests and assessments share protocol numbers: a revocation may name one of the two.
		set(r, event.SourceRecordID, s.numbered("PR-", c.number))
	}
	s.about(r, c)
	set(r, event.NeedAssessedRequestID, s.numbered("PR-", c.number))
	symbol(r, event.NeedAssessedOutcome, outcome)
	symbol(r, event.NeedAssessedMeansTest, "ISEE")
	if k.area == "OLDER_PEOPLE" {
		set(r, event.NeedAssessedTool, []byte("SVAMA"))
	}
	r.SetInt(event.NeedAssessedNeedLevel, s.rng.Int64N(101))
	if outcome == "NOT_ELIGIBLE" {
		set(r, event.NeedAssessedRefusalReason, []byte("requisiti non presenti"))
	}
	if c.number%7 == 0 {
		set(r, event.NeedAssessedSensitive, s.text(func(b []byte) []byte { return s.appendHex(b, 32) }))
	}
	r.SetInt(event.NeedAssessedAssessedAt, s.at)
	return r
}

// waiting enters the list of an offer, or leaves it for a reason. Some providers keep the list themselves.
func (s *Simulator) waiting(c *openCase, offer int32, reason string) *event.Row {
	o, co := &s.offers[max(offer, 0)], &s.comuni[c.comune]
	source := co.source
	if c.number%4 == 1 {
		source = co.provider
	}
	r := s.begin("WaitingListChanged", source, co.org, "LA-")
	s.about(r, c)
	set(r, event.WaitingListChangedRequestID, s.numbered("PR-", c.number))
	if c.number%4 == 1 {
		set(r, event.WaitingListChangedRequestSource, co.source)
	}
	set(r, event.WaitingListChangedServiceID, o.id)
	symbol(r, event.WaitingListChangedChange, "ENTER")
	if reason != "" {
		symbol(r, event.WaitingListChangedChange, "LEAVE")
		symbol(r, event.WaitingListChangedLeaveReason, reason)
	} else {
		r.SetInt(event.WaitingListChangedPriority, 1+s.rng.Int64N(200))
	}
	r.SetInt(event.WaitingListChangedChangedAt, s.at)
	return r
}

func (s *Simulator) benefit(c *openCase, decision string) *event.Row {
	co, k := &s.comuni[c.comune], &kinds[c.kind]
	r := s.begin("BenefitDecided", co.source, co.org, "DET-")
	s.about(r, c)
	set(r, event.BenefitDecidedRequestID, s.numbered("PR-", c.number))
	set(r, event.BenefitDecidedBenefitID, s.numbered("PSA-", c.number))
	inps := k.inps
	if inps == "" {
		inps = "Z9.99"
	}
	set(r, event.BenefitDecidedInpsCode, []byte(inps))
	set(r, event.BenefitDecidedNomenclatureCode, c.code())
	if c.offer >= 0 {
		set(r, event.BenefitDecidedServiceID, s.offers[c.offer].id)
	}
	symbol(r, event.BenefitDecidedUserArea, k.area)
	set(r, event.BenefitDecidedAtsCode, co.ats)
	symbol(r, event.BenefitDecidedDecision, decision)
	r.SetInt(event.BenefitDecidedTakenInCharge, 1)
	symbol(r, event.BenefitDecidedMeansTest, "ISEE")
	r.SetInt(event.BenefitDecidedIseeThreshold, 2_500_000)
	r.SetInt(event.BenefitDecidedStartDate, day(s.at)+1)
	if k.oneOff {
		symbol(r, event.BenefitDecidedCharacter, "ONE_OFF")
		r.SetInt(event.BenefitDecidedOneOffAmount, k.monthly)
		return r
	}
	symbol(r, event.BenefitDecidedCharacter, "PERIODIC")
	r.SetInt(event.BenefitDecidedMonths, 12)
	r.SetInt(event.BenefitDecidedMonthlyAmount, k.monthly)
	if k.unit == "HOUR_WEEK" {
		r.SetInt(event.BenefitDecidedHoursPerMonth, 16_000)
	}
	if decision == "ENDED" {
		set(r, event.BenefitDecidedEndReason, []byte("progetto concluso"))
		r.SetInt(event.BenefitDecidedEndDate, day(s.at)+1)
	}
	return r
}

// delivery reports a month of service: by the comune, or by the provider under its own source.
func (s *Simulator) delivery(c *openCase, byProvider bool) *event.Row {
	co, k := &s.comuni[c.comune], &kinds[c.kind]
	source := co.source
	if byProvider {
		source = co.provider
	}
	r := s.begin("ServiceDelivered", source, co.org, "ER-")
	s.about(r, c)
	set(r, event.ServiceDeliveredBenefitID, s.numbered("PSA-", c.number))
	if byProvider {
		set(r, event.ServiceDeliveredBenefitSource, co.source)
	}
	if c.offer >= 0 {
		set(r, event.ServiceDeliveredServiceID, s.offers[c.offer].id)
	}
	to := day(s.at)
	r.SetInt(event.ServiceDeliveredPeriodStart, to-29)
	r.SetInt(event.ServiceDeliveredPeriodEnd, to)
	symbol(r, event.ServiceDeliveredUnit, k.unit)
	planned := 1000 * (4 + s.rng.Int64N(20))
	r.SetInt(event.ServiceDeliveredUnitsPlanned, planned)
	r.SetInt(event.ServiceDeliveredUnitsDelivered, planned-250*s.rng.Int64N(9))
	s.amounts(r, k.monthly+s.rng.Int64N(5000))
	return r
}

// amounts splits a total so that the parts add up to the cent.
func (s *Simulator) amounts(r *event.Row, total int64) {
	user := total * s.rng.Int64N(40) / 100
	ssn := (total - user) * s.rng.Int64N(3) / 10
	r.SetInt(event.ServiceDeliveredAmountTotal, total)
	r.SetInt(event.ServiceDeliveredQuotaEnte, total-user-ssn)
	r.SetInt(event.ServiceDeliveredQuotaUtente, user)
	r.SetInt(event.ServiceDeliveredQuotaSsn, ssn)
}

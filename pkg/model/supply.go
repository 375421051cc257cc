package model

import (
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // Europe/Rome, also where the machine has no zone files

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Unmapped is the territory or nomenclature code of what has no known one.
const Unmapped = "UNMAPPED"

// Key is the key of a row of welfare.supply_demand.
type Key struct {
	Level        string `json:"level"` // COMUNE, PROVINCE, REGION, COUNTRY
	Territory    string `json:"territory_code"`
	Nomenclature string `json:"nomenclature_code"`
	UserArea     string `json:"user_area"`
	PeriodStart  string `json:"period_start"` // first day of the month, 2006-01-02
	Unit         string `json:"unit"`         // of delivered_units; "" in rows of the other measures
}

// Measures of a row. Capacity, Occupied and DeliveredUnits are in thousandths, Amount in cents.
type Measures struct {
	Capacity       int64 `json:"capacity"`
	Occupied       int64 `json:"occupied"`
	Requests       int64 `json:"requests"`
	Granted        int64 `json:"granted"`
	Refused        int64 `json:"refused"`
	Waiting        int64 `json:"waiting"`
	DeliveredUnits int64 `json:"delivered_units"`
	Amount         int64 `json:"amount"`
}

// SupplyDemandRow is one row of welfare.supply_demand.
type SupplyDemandRow struct {
	Key
	Measures
	Population *int64 `json:"population"` // nil: NULL
}

// service is what a record is about.
type service struct{ nomenclature, area string }

// month counts months since year 0.
type month int

// supply carries one computation of the view.
type supply struct {
	*resolved
	rome     *time.Location
	now      int64 // horizon, milliseconds
	last     month // of now
	cells    map[Key]*Measures
	regions  map[string]string    // known comuni and their regions
	offers   map[recordID][]State // by (source, serviceId), oldest state first
	requests map[recordID]State   // by (source, requestId), the one that gives the service
	benefits map[recordID]State   // by (source, benefitId), likewise
}

// SupplyDemand returns all rows of welfare.supply_demand, in the order of their keys.
func (m *Model) SupplyDemand() []SupplyDemandRow {
	if !m.any {
		return nil
	}
	c := m.newSupply()
	c.flows()
	c.waiting()
	c.capacity()
	population := c.population()
	var out []SupplyDemandRow
	for _, k := range sortedKeys(c.cells, compareKeys) {
		if *c.cells[k] == (Measures{}) {
			continue
		}
		r := SupplyDemandRow{Key: k, Measures: *c.cells[k]}
		if n, ok := population[PopulationKey{k.Level, k.Territory, k.PeriodStart}]; ok {
			r.Population = &n
		}
		out = append(out, r)
	}
	return out
}

func compareKeys(a, b Key) int {
	return cmpAll(strings.Compare(a.Level, b.Level), strings.Compare(a.Territory, b.Territory),
		strings.Compare(a.Nomenclature, b.Nomenclature), strings.Compare(a.UserArea, b.UserArea),
		strings.Compare(a.PeriodStart, b.PeriodStart), strings.Compare(a.Unit, b.Unit))
}

func (m *Model) newSupply() *supply {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		panic("BUG: embedded zone Europe/Rome: " + err.Error())
	}
	c := &supply{
		resolved: m.resolve(), rome: rome, now: m.horizon, cells: map[Key]*Measures{},
		offers: map[recordID][]State{}, requests: map[recordID]State{}, benefits: map[recordID]State{},
	}
	c.last = c.monthOf(c.now)
	c.regions = c.territories()
	for _, s := range c.current(event.ByName("ServiceOfferPublished")) {
		k := recordID{s.Row.Str(event.Source), s.Row.Str(event.ServiceOfferPublishedServiceID)}
		c.offers[k] = append(c.offers[k], s)
	}
	for _, states := range c.offers {
		slices.SortFunc(states, byOccurrence)
	}
	first := func(into map[recordID]State, t string, idField int) {
		for _, s := range c.current(event.ByName(t)) {
			k := recordID{s.Row.Str(event.Source), s.Row.Str(idField)}
			if old, ok := into[k]; !ok || byOccurrence(s, old) < 0 {
				into[k] = s
			}
		}
	}
	first(c.requests, "ServiceRequested", event.ServiceRequestedRequestID)
	first(c.benefits, "BenefitDecided", event.BenefitDecidedBenefitID)
	return c
}

// byOccurrence orders records of one source.
func byOccurrence(a, b State) int {
	return cmpAll(cmpInt(a.Row.Vals[event.OccurredAt].Int, b.Row.Vals[event.OccurredAt].Int),
		strings.Compare(a.Row.Str(event.SourceRecordID), b.Row.Str(event.SourceRecordID)))
}

// flows counts what belongs to the month of its date.
func (c *supply) flows() {
	for _, s := range c.current(event.ByName("ServiceRequested")) {
		c.add(s.Row.Str(event.ServiceRequestedComuneCode), requestService(s), c.monthOf(s.Row.Vals[event.ServiceRequestedRequestedAt].Int), "",
			Measures{Requests: 1})
	}
	for _, s := range c.current(event.ByName("NeedAssessed")) {
		if !s.Row.Is(event.NeedAssessedOutcome, "NOT_ELIGIBLE") {
			continue
		}
		sv := c.serviceOfRequest(owner(s, event.NeedAssessedRequestSource, event.NeedAssessedRequestID))
		c.add(s.Row.Str(event.NeedAssessedComuneCode), sv, c.monthOf(s.Row.Vals[event.NeedAssessedAssessedAt].Int), "", Measures{Refused: 1})
	}
	for _, s := range c.current(event.ByName("BenefitDecided")) {
		if s.Row.Is(event.BenefitDecidedDecision, "GRANTED") {
			c.add(s.Row.Str(event.BenefitDecidedComuneCode), benefitService(s), c.monthOf(s.Row.Vals[event.OccurredAt].Int), "", Measures{Granted: 1})
		}
	}
	for _, s := range c.current(event.ByName("ServiceDelivered")) {
		comune := s.Row.Str(event.ServiceDeliveredComuneCode)
		at := monthOfDate(s.Row.Vals[event.ServiceDeliveredPeriodStart].Int)
		var sv service
		if b, ok := c.benefits[owner(s, event.ServiceDeliveredBenefitSource, event.ServiceDeliveredBenefitID)]; ok {
			sv = benefitService(b)
		} else if sv, ok = c.serviceOfOffer(s, event.ServiceDeliveredServiceID); !ok {
			sv = unmappedService
		}
		c.add(comune, sv, at, s.Row.Symbol(event.ServiceDeliveredUnit), Measures{DeliveredUnits: s.Row.Vals[event.ServiceDeliveredUnitsDelivered].Int})
		c.add(comune, sv, at, "", Measures{Amount: s.Row.Vals[event.ServiceDeliveredAmountTotal].Int})
	}
}

// waiting counts who is on a list at the end of each month.
func (c *supply) waiting() {
	type list struct {
		request recordID
		service string
	}
	lists := map[list][]State{}
	placed := map[recordID][]State{}
	for _, s := range c.current(event.ByName("WaitingListChanged")) {
		if s.Row.Is(event.WaitingListChangedChange, "UNKNOWN") {
			continue
		}
		l := list{owner(s, event.WaitingListChangedRequestSource, event.WaitingListChangedRequestID), s.Row.Str(event.WaitingListChangedServiceID)}
		lists[l] = append(lists[l], s)
		if s.Row.Is(event.WaitingListChangedChange, "LEAVE") && s.Row.Is(event.WaitingListChangedLeaveReason, "PLACED") {
			placed[l.request] = append(placed[l.request], s)
		}
	}
	for l, own := range lists {
		timeline := slices.Clone(own)
		for _, p := range placed[l.request] {
			if p.Row.Str(event.WaitingListChangedServiceID) != l.service {
				timeline = append(timeline, p)
			}
		}
		slices.SortFunc(timeline, byChange)
		for i, s := range timeline {
			if !s.Row.Is(event.WaitingListChangedChange, "ENTER") {
				continue
			}
			sv, ok := c.serviceOfOffer(s, event.WaitingListChangedServiceID)
			if !ok {
				sv = c.serviceOfRequest(l.request)
			}
			from := s.Row.Vals[event.WaitingListChangedChangedAt].Int
			for at := c.monthOf(from); at <= c.last; at++ {
				t := c.lastInstant(at)
				if i+1 < len(timeline) && timeline[i+1].Row.Vals[event.WaitingListChangedChangedAt].Int <= t {
					break
				}
				if from <= t {
					c.add(s.Row.Str(event.WaitingListChangedComuneCode), sv, at, "", Measures{Waiting: 1})
				}
			}
		}
	}
}

// byChange orders a timeline. ENTER (1) comes before LEAVE (2) in the symbols, as it does here.
func byChange(a, b State) int {
	return cmpAll(
		cmpInt(a.Row.Vals[event.WaitingListChangedChangedAt].Int, b.Row.Vals[event.WaitingListChangedChangedAt].Int),
		cmpInt(a.Row.Vals[event.WaitingListChangedChange].Int, b.Row.Vals[event.WaitingListChangedChange].Int),
		strings.Compare(a.Row.Str(event.SourceRecordID), b.Row.Str(event.SourceRecordID)),
		strings.Compare(a.Row.Str(event.Source), b.Row.Str(event.Source)))
}

// capacity sums the places and beds of the offers that are open at the end of each month.
func (c *supply) capacity() {
	changes := map[recordID]map[string][]State{} // by offer and unit
	for _, s := range c.current(event.ByName("CapacityChanged")) {
		unit := s.Row.Symbol(event.CapacityChangedUnit)
		if unit != "PLACE" && unit != "BED" {
			continue
		}
		offer := recordID{s.Row.Str(event.Source), s.Row.Str(event.CapacityChangedServiceID)}
		if changes[offer] == nil {
			changes[offer] = map[string][]State{}
		}
		changes[offer][unit] = append(changes[offer][unit], s)
	}
	for offer, units := range changes {
		for _, states := range units {
			slices.SortFunc(states, func(a, b State) int {
				return cmpAll(cmpInt(a.Row.Vals[event.CapacityChangedEffectiveFrom].Int, b.Row.Vals[event.CapacityChangedEffectiveFrom].Int), byOccurrence(a, b))
			})
			for at := c.monthOf(states[0].Row.Vals[event.CapacityChangedEffectiveFrom].Int); at <= c.last; at++ {
				t := c.lastInstant(at)
				now := lastUpTo(states, t, event.CapacityChangedEffectiveFrom)
				comune, sv, open := c.offerAt(offer, t)
				if now != nil && open {
					c.add(comune, sv, at, "", Measures{
						Capacity: now.Row.Vals[event.CapacityChangedOperational].Int, Occupied: now.Row.Vals[event.CapacityChangedOccupied].Int,
					})
				}
			}
		}
	}
}

// offerAt says where the capacity of an offer counts at instant t, if it does.
func (c *supply) offerAt(offer recordID, t int64) (comune string, sv service, open bool) {
	states := c.offers[offer]
	if len(states) == 0 {
		return Unmapped, unmappedService, true
	}
	s := lastUpTo(states, t, event.OccurredAt)
	if s == nil || !s.Row.Is(event.ServiceOfferPublishedStatus, "OPEN") {
		return "", service{}, false
	}
	day := time.UnixMilli(t).In(c.rome).Format(time.DateOnly)
	to := s.Row.Vals[event.ServiceOfferPublishedValidTo]
	open = s.Row.Time(event.ServiceOfferPublishedValidFrom).Format(time.DateOnly) <= day &&
		(to.Null || day < s.Row.Time(event.ServiceOfferPublishedValidTo).Format(time.DateOnly))
	return s.Row.Str(event.ServiceOfferPublishedComuneCode), offerService(*s), open
}

// lastUpTo returns the last of the ordered states whose time field is at or before t, or nil.
func lastUpTo(states []State, t int64, field int) *State {
	for i := len(states) - 1; i >= 0; i-- {
		if states[i].Row.Vals[field].Int <= t {
			return &states[i]
		}
	}
	return nil
}

var unmappedService = service{Unmapped, "UNKNOWN"}

func requestService(s State) service {
	return service{s.Row.Str(event.ServiceRequestedNomenclatureCode), s.Row.Symbol(event.ServiceRequestedUserArea)}
}

func benefitService(s State) service {
	return service{s.Row.Str(event.BenefitDecidedNomenclatureCode), s.Row.Symbol(event.BenefitDecidedUserArea)}
}

func offerService(s State) service {
	return service{s.Row.Str(event.ServiceOfferPublishedNomenclatureCode), s.Row.Symbol(event.ServiceOfferPublishedUserArea)}
}

// owner names the request or benefit that a record is about: in the source that it names, else its own.
func owner(s State, sourceField, idField int) recordID {
	if s.Row.Vals[sourceField].Null {
		sourceField = event.Source
	}
	return recordID{s.Row.Str(sourceField), s.Row.Str(idField)}
}

func (c *supply) serviceOfRequest(id recordID) service {
	if s, ok := c.requests[id]; ok {
		return requestService(s)
	}
	return unmappedService
}

func (c *supply) serviceOfOffer(s State, idField int) (service, bool) {
	states := c.offers[recordID{s.Row.Str(event.Source), s.Row.Str(idField)}]
	if s.Row.Vals[idField].Null || len(states) == 0 {
		return unmappedService, false
	}
	return offerService(states[len(states)-1]), true
}

// add puts measures into the cells of a comune, its province, its region and the country.
func (c *supply) add(comune string, sv service, at month, unit string, by Measures) {
	if at > c.last {
		return
	}
	if !c.m.ref.KnownNomenclature(sv.nomenclature) {
		sv.nomenclature = Unmapped
	}
	for _, tr := range c.levels(comune) {
		k := Key{tr.level, tr.code, sv.nomenclature, sv.area, at.start(), unit}
		m := c.cells[k]
		if m == nil {
			m = &Measures{}
			c.cells[k] = m
		}
		m.Capacity += by.Capacity
		m.Occupied += by.Occupied
		m.Requests += by.Requests
		m.Granted += by.Granted
		m.Refused += by.Refused
		m.Waiting += by.Waiting
		m.DeliveredUnits += by.DeliveredUnits
		m.Amount += by.Amount
	}
}

func (c *supply) monthOf(ms int64) month {
	t := time.UnixMilli(ms).In(c.rome)
	return month(t.Year()*12 + int(t.Month()) - 1)
}

func monthOfDate(days int64) month {
	t := time.Unix(days*86400, 0).UTC()
	return month(t.Year()*12 + int(t.Month()) - 1)
}

// lastInstant is when the stocks of a month are taken, in milliseconds.
func (c *supply) lastInstant(at month) int64 {
	if at == c.last {
		return c.now
	}
	return time.Date(int(at+1)/12, time.Month(int(at+1)%12+1), 1, 0, 0, 0, 0, c.rome).UnixMilli() - 1
}

func (at month) start() string {
	return time.Date(int(at)/12, time.Month(int(at)%12+1), 1, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
}

package simulate

import (
	"github.com/welfarehub/welfarehub/pkg/event"
)

// kinds are the services in play, with the places that Italy has of them in round figures.
var kinds = [...]kind{
	{code: "3.INF.01", inps: "A3.03", area: "FAMILY_MINORS", unit: "PLACE", name: "Asilo nido", ages: [2]int{0, 0}, per1000: 280, waits: true, monthly: 45_000},
	{code: "1.EDU.01", inps: "A2.02", area: "FAMILY_MINORS", unit: "HOUR_WEEK", name: "Sostegno socio-educativo", ages: [2]int{2, 4}, per1000: 6, monthly: 32_000},
	{code: "1.SUP.02", inps: "A2.12", area: "FAMILY_MINORS", unit: "MEAL", name: "Mensa scolastica", ages: [2]int{2, 3}, per1000: 40, monthly: 9_000},
	{code: "1.DOM.01", inps: "A2.07", area: "OLDER_PEOPLE", unit: "VISIT", name: "Assistenza domiciliare", ages: [2]int{6, 6}, per1000: 9, waits: true, monthly: 38_000},
	{code: "3.RES.01", inps: "A3.02", area: "OLDER_PEOPLE", unit: "BED", name: "Residenza per anziani", ages: [2]int{6, 6}, per1000: 16, waits: true, monthly: 165_000},
	{code: "3.DIU.02", inps: "A3.01", area: "DISABILITY", unit: "PLACE", name: "Centro diurno disabili", ages: [2]int{5, 5}, per1000: 0.7, waits: true, monthly: 98_000},
	{code: "2.RED.01", inps: "A1.04", area: "POVERTY_ADULTS", unit: "HOUSEHOLD", name: "Integrazione del reddito", ages: [2]int{5, 5}, per1000: 3, monthly: 60_000, oneOff: true},
	{code: "3.ALL.01", inps: "A1.05", area: "POVERTY_ADULTS", unit: "BED", name: "Accoglienza abitativa", ages: [2]int{5, 5}, per1000: 0.5, waits: true, monthly: 52_000},
}

func (s *Simulator) offer(i int, status string) *event.Row {
	o := &s.offers[i]
	c, k := &s.comuni[o.comune], &kinds[o.kind]
	r := s.begin("ServiceOfferPublished", c.source, c.org, "OFF-")
	set(r, event.ServiceOfferPublishedServiceID, o.id)
	set(r, event.ServiceOfferPublishedName, s.text(func(b []byte) []byte { return append(append(append(b, k.name...), ' '), o.id...) }))
	set(r, event.ServiceOfferPublishedNomenclatureCode, []byte(k.code))
	if k.inps != "" {
		set(r, event.ServiceOfferPublishedInpsCode, []byte(k.inps))
	}
	symbol(r, event.ServiceOfferPublishedUserArea, k.area)
	set(r, event.ServiceOfferPublishedProviderCode, s.numbered("PRV", uint64(10000+i)))
	r.SetInt(event.ServiceOfferPublishedProviderKind, 1+int64(i%4))
	set(r, event.ServiceOfferPublishedComuneCode, c.code)
	set(r, event.ServiceOfferPublishedAtsCode, c.ats)
	symbol(r, event.ServiceOfferPublishedStatus, status)
	youngest, _ := ages(k.ages[0])
	_, oldest := ages(k.ages[1])
	r.SetInt(event.ServiceOfferPublishedAgeMin, youngest)
	r.SetInt(event.ServiceOfferPublishedAgeMax, oldest)
	r.SetInt(event.ServiceOfferPublishedValidFrom, day(s.at)-s.rng.Int64N(900))
	if i%9 == 0 {
		r.SetInt(event.ServiceOfferPublishedValidTo, day(s.at)+30+s.rng.Int64N(600))
	}
	if i%2 == 0 {
		r.Vals[event.ServiceOfferPublishedLat] = event.Value{Float: 37 + 9*s.rng.Float64()}
		r.Vals[event.ServiceOfferPublishedLon] = event.Value{Float: 7 + 11*s.rng.Float64()}
	}
	return r
}

// capacity reports the places of an offer as they are.
func (s *Simulator) capacity(i int) *event.Row {
	o := &s.offers[i]
	c, k := &s.comuni[o.comune], &kinds[o.kind]
	r := s.begin("CapacityChanged", c.source, c.org, "CAP-")
	set(r, event.CapacityChangedServiceID, o.id)
	symbol(r, event.CapacityChangedUnit, k.unit)
	r.SetInt(event.CapacityChangedAuthorised, (o.size+o.size/8)*1000)
	r.SetInt(event.CapacityChangedFunded, (o.size-o.size/10)*1000)
	r.SetInt(event.CapacityChangedOperational, o.size*1000)
	r.SetInt(event.CapacityChangedOccupied, o.occupied*1000)
	r.SetInt(event.CapacityChangedEffectiveFrom, s.at)
	accepts := "YES"
	if o.occupied >= o.size {
		accepts = "WAITLIST"
	}
	symbol(r, event.CapacityChangedAcceptsReferrals, accepts)
	return r
}

// staff reports the social workers of an offer.
func (s *Simulator) staff(i int) *event.Row {
	r := s.capacity(i)
	symbol(r, event.CapacityChangedUnit, "FTE")
	set(r, event.CapacityChangedProfession, []byte([...]string{"ASSISTENTE_SOCIALE", "EDUCATORE", "OSS"}[i%3]))
	for _, f := range []int{event.CapacityChangedAuthorised, event.CapacityChangedFunded, event.CapacityChangedOperational, event.CapacityChangedOccupied} {
		r.SetInt(f, r.Vals[f].Int/1000*125) // one for each eight places
	}
	return r
}

// moveCapacity changes the places of a published offer, or the staff.
func (s *Simulator) moveCapacity() *event.Row {
	i := s.order[s.rng.IntN(s.next)]
	o := &s.offers[i]
	switch s.rng.IntN(6) {
	case 0:
		return s.staff(i)
	case 1:
		o.size = max(5, o.size+s.rng.Int64N(21)-9)
	default:
		o.occupied = max(0, min(o.size+s.rng.Int64N(3), o.occupied+s.rng.Int64N(9)-3))
	}
	return s.capacity(i)
}

// moveOffer suspends or closes an offer, or opens it again.
func (s *Simulator) moveOffer() *event.Row {
	i := s.order[s.rng.IntN(s.next)]
	o := &s.offers[i]
	o.open = !o.open
	switch {
	case o.open:
		return s.offer(i, "OPEN")
	case i%3 == 0:
		return s.offer(i, "CLOSED")
	}
	return s.offer(i, "SUSPENDED")
}

var istat = []byte("urn:welfare:istat:popolazione")

func (s *Simulator) territory(c *comune) *event.Row {
	r := s.begin("TerritoryUpserted", istat, []byte("ISTAT"), "T-")
	symbol(r, event.TerritoryUpsertedLevel, "COMUNE")
	set(r, event.TerritoryUpsertedTerritoryCode, c.code)
	set(r, event.TerritoryUpsertedName, []byte(c.name))
	set(r, event.TerritoryUpsertedParentCode, c.code[:3])
	set(r, event.TerritoryUpsertedAtsCode, c.ats)
	set(r, event.TerritoryUpsertedCadastralCode, c.org)
	r.SetInt(event.TerritoryUpsertedValidFrom, day(s.at)-365)
	return r
}

// population reports the residents of a comune in an age band, or in all with -1, of 1 January 2023.
func (s *Simulator) population(c *comune, band int) *event.Row {
	r := s.begin("PopulationReported", istat, []byte("ISTAT"), "POP-")
	set(r, event.PopulationReportedTerritoryCode, c.code)
	r.SetInt(event.PopulationReportedReferenceDate, 19358)
	r.SetInt(event.PopulationReportedAgeTo, 100)
	r.SetInt(event.PopulationReportedResidents, int64(c.total))
	if band >= 0 {
		from, to := ages(band)
		r.SetInt(event.PopulationReportedAgeFrom, from)
		r.SetInt(event.PopulationReportedAgeTo, to)
		r.SetInt(event.PopulationReportedResidents, int64(c.ages[band]))
	}
	return r
}

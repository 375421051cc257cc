package aggregate

import (
	"cmp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // Europe/Rome, also where the machine has no zone files
)

// fact is a row of store.facts. Times are milliseconds, dates days since 1970, decimals thousandths.
type fact struct {
	grp, rec          id
	no                uint8
	partition         uint32
	offset            uint64
	version           int64
	occurred, instant int64
	sourceRecord      string
	*labels
	kind      uint8
	offer     id     // of the offer that it names; zero: none
	serviceID uint64 // hash of serviceId
	a, b      int64
	from, to  int32
}

// labels are what many facts have in common; they are not changed.
type labels struct {
	source, unit string
	comune       string // empty: none
	service      service
}

// Values of fact.kind.
const (
	kindOpen = 1 // of an offer

	kindNotEligible = 1 // of an assessment

	kindEnter  = 1 // of a wait
	kindPlaced = 3

	kindGranted = 1 // of a benefit
)

// cell is a cell of store.contrib, less its group.
type cell struct {
	comune, nomenclature, area string
	month                      uint16 // 12 * year + month - 1
	unit                       string
}

// measures of a cell; capacity, occupied, delivered and amount in thousandths.
type measures struct {
	requests, granted, refused, waiting   int64
	capacity, occupied, delivered, amount int64
	residents, mark                       int64
}

func (m *measures) add(o measures, sign int64) {
	m.requests += sign * o.requests
	m.granted += sign * o.granted
	m.refused += sign * o.refused
	m.waiting += sign * o.waiting
	m.capacity += sign * o.capacity
	m.occupied += sign * o.occupied
	m.delivered += sign * o.delivered
	m.amount += sign * o.amount
	m.residents += sign * o.residents
	m.mark += sign * o.mark
}

// cells of one group. The zero value of a measure and no cell at all mean the same.
type cells map[cell]measures

func (c cells) add(k cell, m measures, sign int64) {
	sum := c[k]
	sum.add(m, sign)
	c[k] = sum
}

// Areas that mark rows which are no cells of the view, and a service that is not found.
const (
	areaBooks      = "#books"
	areaPopulation = "#population"
	areaService    = "#service"
)

var unmapped = service{"UNMAPPED", "UNKNOWN"}

// counter computes what groups add to the cells. docs/decisions/0003-supply-demand-semantics.md says
// what each measure means; its points are named by their number.
type counter struct {
	now      int64 // horizon, milliseconds
	today    int32 // day of now in Rome
	services func(offer id) (service, bool)
	rome     *time.Location
}

func newCounter(now int64, services func(id) (service, bool)) *counter {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		panic("BUG: time zones are embedded: " + err.Error())
	}
	c := &counter{now: now, services: services, rome: rome}
	c.today = c.dayOf(now)
	return c
}

// count returns what a group adds, of its facts in force.
func (c *counter) count(facts []fact) cells {
	out := cells{}
	own := given(facts)
	var waits, offers, places, beds, reports []*fact
	for i := range facts {
		f := &facts[i]
		switch f.no {
		case 1:
			offers = append(offers, f)
		case 2:
			if f.instant <= c.now && f.unit == "PLACE" {
				places = append(places, f)
			}
			if f.instant <= c.now && f.unit == "BED" {
				beds = append(beds, f)
			}
		case 3:
			out.add(c.flow(f, f.service), measures{requests: 1}, 1)
		case 4:
			if f.kind == kindNotEligible {
				out.add(c.flow(f, orUnmapped(own)), measures{refused: 1}, 1)
			}
		case 5:
			if f.kind != 0 {
				waits = append(waits, f)
			}
		case 6:
			if f.kind == kindGranted {
				out.add(c.flow(f, f.service), measures{granted: 1}, 1)
			}
		case 7:
			of := own
			if of == nil {
				of = c.offered(f)
			}
			k := cell{f.comune, orUnmapped(of).nomenclature, orUnmapped(of).area, monthOfDay(f.from), f.unit}
			out.add(k, measures{delivered: f.a}, 1)
			k.unit = ""
			out.add(k, measures{amount: f.b}, 1)
		case population:
			if f.comune != "" {
				reports = append(reports, f)
			}
		}
	}
	c.waiting(out, waits, own)
	c.capacity(out, offers, places, beds)
	residents(out, reports)
	return out
}

// given is the service of the request or of the benefit, whose record is the lowest (occurredAt,
// sourceRecordId) of those with its id; nil where there is none (9).
func given(facts []fact) *service {
	var best *fact
	for i := range facts {
		f := &facts[i]
		if (f.no == 3 || f.no == 6) && (best == nil || byOccurrence(f, best) < 0) {
			best = f
		}
	}
	if best == nil {
		return nil
	}
	return &best.service
}

func byOccurrence(a, b *fact) int {
	return cmp.Or(cmp.Compare(a.occurred, b.occurred), strings.Compare(a.sourceRecord, b.sourceRecord))
}

func orUnmapped(s *service) service {
	if s == nil {
		return unmapped
	}
	return *s
}

// offered is the service of the offer that a fact names, or nil.
func (c *counter) offered(f *fact) *service {
	if f.offer == (id{}) {
		return nil
	}
	if s, ok := c.services(f.offer); ok {
		return &s
	}
	return nil
}

func (c *counter) flow(f *fact, of service) cell {
	return cell{f.comune, of.nomenclature, of.area, c.monthOf(f.instant), ""}
}

// waiting adds one at each ENTER and takes it at the next row of its timeline, which has the rows of
// the same serviceId and every LEAVE for PLACED (11).
func (c *counter) waiting(out cells, waits []*fact, own *service) {
	slices.SortFunc(waits, func(a, b *fact) int {
		return cmp.Or(cmp.Compare(a.instant, b.instant), cmp.Compare(min(a.kind, 2), min(b.kind, 2)),
			strings.Compare(a.sourceRecord, b.sourceRecord), strings.Compare(a.source, b.source))
	})
	for i, w := range waits {
		if w.kind != kindEnter || w.instant > c.now {
			continue
		}
		of := c.offered(w)
		if of == nil {
			of = own
		}
		k := c.flow(w, orUnmapped(of))
		out.add(k, measures{waiting: 1}, 1)
		for _, next := range waits[i+1:] {
			if next.serviceID != w.serviceID && next.kind != kindPlaced {
				continue
			}
			if next.instant <= c.now {
				k.month = c.monthOf(next.instant)
				out.add(k, measures{waiting: 1}, -1)
			}
			break
		}
	}
}

// capacity adds, in each month in which something changes, what stands at its end less what stood
// before (12).
func (c *counter) capacity(out cells, offers, places, beds []*fact) {
	slices.SortFunc(offers, byOccurrence)
	if n := len(offers); n > 0 {
		s := offers[n-1].service
		out.add(cell{nomenclature: s.nomenclature, area: areaService, unit: s.area}, measures{mark: 1}, 1)
	}
	if len(places) == 0 && len(beds) == 0 {
		return
	}
	for _, states := range [][]*fact{places, beds} {
		slices.SortFunc(states, func(a, b *fact) int { return cmp.Or(cmp.Compare(a.instant, b.instant), byOccurrence(a, b)) })
	}
	var months []uint16
	for _, f := range offers {
		if f.occurred <= c.now {
			months = append(months, c.monthOf(f.occurred))
		}
		for _, day := range []int32{f.from, f.to} {
			if day <= c.today {
				months = append(months, monthOfDay(day))
			}
		}
	}
	for _, f := range slices.Concat(places, beds) {
		months = append(months, c.monthOf(f.instant))
	}
	slices.Sort(months)
	var before cell
	var stood measures
	var offer, place, bed int // how many of each are in the past of t
	for _, month := range slices.Compact(months) {
		t := min(c.now, c.lastInstant(month))
		day := c.dayOf(t)
		for offer < len(offers) && offers[offer].occurred <= t {
			offer++
		}
		for place < len(places) && places[place].instant <= t {
			place++
		}
		for bed < len(beds) && beds[bed].instant <= t {
			bed++
		}
		k, counts := cell{nomenclature: unmapped.nomenclature, area: unmapped.area}, true
		if len(offers) > 0 {
			counts = false
			if offer > 0 {
				o := offers[offer-1]
				k = cell{comune: o.comune, nomenclature: o.service.nomenclature, area: o.service.area}
				counts = o.kind == kindOpen && o.from <= day && day < o.to
			}
		}
		var stands measures
		if counts && place > 0 {
			stands.capacity, stands.occupied = places[place-1].a, places[place-1].b
		}
		if counts && bed > 0 {
			stands.capacity += beds[bed-1].a
			stands.occupied += beds[bed-1].b
		}
		before.month, k.month = month, month
		out.add(before, stood, -1)
		out.add(k, stands, 1)
		before, stood = k, stands
	}
}

// band is a part of the residents of a comune: sex as in fact.kind, and ages.
type band struct {
	sex      uint8
	from, to int64
}

// residents adds the steps of the population of a comune: the value of the newest reference date that
// has one, of the lowest source (17).
func residents(out cells, facts []*fact) {
	type report struct {
		day    int32
		source string
	}
	reports := map[report]map[band]*fact{}
	for _, f := range facts {
		r := report{f.from, f.source}
		if reports[r] == nil {
			reports[r] = map[band]*fact{}
		}
		b := band{f.kind, f.b / 1000 / 1000, f.b / 1000 % 1000}
		if old := reports[r][b]; old == nil || cmp.Or(cmp.Compare(old.version, f.version), strings.Compare(f.sourceRecord, old.sourceRecord)) < 0 {
			reports[r][b] = f
		}
	}
	order := make([]report, 0, len(reports))
	for r := range reports {
		order = append(order, r)
	}
	slices.SortFunc(order, func(a, b report) int { return cmp.Or(cmp.Compare(a.day, b.day), strings.Compare(a.source, b.source)) })
	var last, valueOf int64
	var day int32
	var month uint16
	known := false
	flush := func() {
		k := cell{comune: facts[0].comune, area: areaPopulation, month: month}
		out.add(k, measures{residents: valueOf - last}, 1)
		last = valueOf
	}
	for _, r := range order {
		n, ok := total(reports[r])
		if !ok || known && r.day == day {
			continue // of one day the lowest source that has a value
		}
		if known && monthOfDay(r.day) != month {
			flush()
		}
		if !known {
			out.add(cell{comune: facts[0].comune, area: areaPopulation, month: monthOfDay(r.day)}, measures{mark: 1}, 1)
		}
		known, day, month, valueOf = true, r.day, monthOfDay(r.day), n
	}
	if known {
		flush()
	}
}

// total is the value of one report: the record of unknown sex over all ages, else both sexes.
func total(of map[band]*fact) (int64, bool) {
	if f := of[band{0, 0, 100}]; f != nil {
		return f.a / 1000, true
	}
	m, okM := ofSex(of, 1)
	f, okF := ofSex(of, 2)
	return m + f, okM && okF
}

// ofSex is the record of a sex over all ages, else the sum of bands that follow one another without
// gap or overlap.
func ofSex(of map[band]*fact, sex uint8) (int64, bool) {
	if f := of[band{sex, 0, 100}]; f != nil {
		return f.a / 1000, true
	}
	var bands []band
	var sum int64
	for b, f := range of {
		if b.sex == sex {
			bands = append(bands, b)
			sum += f.a / 1000
		}
	}
	slices.SortFunc(bands, func(a, b band) int { return cmp.Compare(a.from, b.from) })
	next := int64(0)
	for _, b := range bands {
		if b.from != next {
			return 0, false
		}
		next = b.to + 1
	}
	return sum, next == 101
}

func (c *counter) monthOf(ms int64) uint16 {
	y, m, _ := time.UnixMilli(ms).In(c.rome).Date()
	return uint16(12*y + int(m) - 1)
}

func (c *counter) dayOf(ms int64) int32 {
	y, m, d := time.UnixMilli(ms).In(c.rome).Date()
	return int32(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

func monthOfDay(day int32) uint16 {
	y, m, _ := time.Unix(int64(day)*86400, 0).UTC().Date()
	return uint16(12*y + int(m) - 1)
}

// lastInstant is the millisecond before the next month begins in Rome.
func (c *counter) lastInstant(month uint16) int64 {
	return time.Date(int(month)/12, time.Month(int(month)%12+2), 1, 0, 0, 0, 0, c.rome).UnixMilli() - 1
}

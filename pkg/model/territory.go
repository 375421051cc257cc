package model

import (
	"slices"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/event"
)

type territory struct{ level, code string }

// levels names the four territories in which something in a comune counts.
func (c *supply) levels(comune string) [4]territory {
	region, known := c.regions[comune]
	if !known {
		return [4]territory{{"COMUNE", Unmapped}, {"PROVINCE", Unmapped}, {"REGION", Unmapped}, {"COUNTRY", "IT"}}
	}
	return [4]territory{{"COMUNE", comune}, {"PROVINCE", comune[:3]}, {"REGION", region}, {"COUNTRY", "IT"}}
}

// territories returns the known comuni and their regions: the shipped ones, and those that were published.
func (c *supply) territories() map[string]string {
	out := map[string]string{}
	parents := map[string]string{} // regions themselves, and provinces, to their region
	for comune, region := range c.m.ref.Regions {
		out[comune], parents[comune[:3]], parents[region] = region, region, region
	}
	newest := map[string]State{}
	for _, s := range c.current(event.ByName("TerritoryUpserted")) {
		code := s.Row.Str(event.TerritoryUpsertedTerritoryCode)
		if !s.Row.Is(event.TerritoryUpsertedLevel, "COMUNE") || !sixDigits(code) {
			continue
		}
		if old, ok := newest[code]; !ok || byPublication(old, s) < 0 {
			newest[code] = s
		}
	}
	for code, s := range newest {
		if _, shipped := out[code]; shipped || reserved(code) {
			continue
		}
		out[code] = Unmapped
		if region, ok := parents[s.Row.Str(event.TerritoryUpsertedParentCode)]; ok {
			out[code] = region
		}
	}
	return out
}

func byPublication(a, b State) int {
	return cmpAll(cmpInt(a.Row.Vals[event.OccurredAt].Int, b.Row.Vals[event.OccurredAt].Int),
		strings.Compare(a.Row.Str(event.Source), b.Row.Str(event.Source)),
		strings.Compare(a.Row.Str(event.SourceRecordID), b.Row.Str(event.SourceRecordID)))
}

func reserved(comune string) bool { return comune == "999999" || comune == "999998" }

func sixDigits(s string) bool {
	return len(s) == 6 && strings.Trim(s, "0123456789") == ""
}

// PopulationKey is the key of a row of welfare.population.
type PopulationKey struct{ Level, Territory, PeriodStart string }

// Population returns the residents of every territory in every month from its first known figure to
// the horizon. Where there is no entry, nothing is known.
func (m *Model) Population() map[PopulationKey]int64 {
	if !m.any {
		return nil
	}
	return m.newSupply().population()
}

// report names what one source reports of a comune at a date; band what it may say of it.
type (
	report struct {
		date   int64
		source string
	}
	band struct {
		sex      string
		from, to int64
	}
)

func (c *supply) population() map[PopulationKey]int64 {
	reports := map[string]map[report]map[band]State{}
	for _, s := range c.current(event.ByName("PopulationReported")) {
		comune := s.Row.Str(event.PopulationReportedTerritoryCode)
		if !sixDigits(comune) {
			continue
		}
		r := report{s.Row.Vals[event.PopulationReportedReferenceDate].Int, s.Row.Str(event.Source)}
		b := band{s.Row.Symbol(event.PopulationReportedSex), s.Row.Vals[event.PopulationReportedAgeFrom].Int, s.Row.Vals[event.PopulationReportedAgeTo].Int}
		if reports[comune] == nil {
			reports[comune] = map[report]map[band]State{}
		}
		if reports[comune][r] == nil {
			reports[comune][r] = map[band]State{}
		}
		old, ok := reports[comune][r][b]
		// Current is in the order of sourceRecordId, so the lowest of equal versions stays.
		if !ok || s.Row.Vals[event.RecordVersion].Int > old.Row.Vals[event.RecordVersion].Int {
			reports[comune][r][b] = s
		}
	}
	out := map[PopulationKey]int64{}
	for comune, of := range reports {
		// Oldest date first, and of one date the lowest source last: each overrules those before it.
		order := sortedKeys(of, func(a, b report) int {
			return cmpAll(cmpInt(a.date, b.date), strings.Compare(b.source, a.source))
		})
		byMonth := map[month]int64{}
		for _, r := range order {
			if n, ok := residents(of[r]); ok {
				byMonth[monthOfDate(r.date)] = n
			}
		}
		if len(byMonth) == 0 {
			continue
		}
		var now int64
		for at := sortedKeys(byMonth, func(a, b month) int { return int(a - b) })[0]; at <= c.last; at++ {
			if n, ok := byMonth[at]; ok {
				now = n
			}
			for _, tr := range c.levels(comune) {
				out[PopulationKey{tr.level, tr.code, at.start()}] += now
			}
		}
	}
	return out
}

// residents adds a report up: the total, else men and women where both are complete.
func residents(bands map[band]State) (int64, bool) {
	if s, ok := bands[band{"UNKNOWN", 0, 100}]; ok {
		return s.Row.Vals[event.PopulationReportedResidents].Int, true
	}
	men, ok := ofSex(bands, "M")
	women, ok2 := ofSex(bands, "F")
	return men + women, ok && ok2
}

func ofSex(bands map[band]State, sex string) (int64, bool) {
	if s, ok := bands[band{sex, 0, 100}]; ok {
		return s.Row.Vals[event.PopulationReportedResidents].Int, true
	}
	order := sortedKeys(bands, func(a, b band) int { return cmpAll(cmpInt(a.from, b.from), cmpInt(a.to, b.to)) })
	order = slices.DeleteFunc(order, func(b band) bool { return b.sex != sex })
	var sum, next int64
	for _, b := range order {
		if b.from != next {
			return 0, false
		}
		sum, next = sum+bands[b].Row.Vals[event.PopulationReportedResidents].Int, b.to+1
	}
	return sum, next == 101
}

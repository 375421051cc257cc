package validate

import (
	"github.com/welfarehub/welfarehub/pkg/codes"
	"github.com/welfarehub/welfarehub/pkg/event"
)

func checkPopulation(_ *plan, in *input) {
	vals := in.row.Vals
	from, to := vals[event.PopulationReportedAgeFrom].Int, vals[event.PopulationReportedAgeTo].Int
	if from < 0 || from > to {
		in.reject(E50, "ageFrom", "ageFrom is below 0 or above ageTo")
	}
	if to > 100 {
		in.reject(E50, "ageTo", "ageTo is above 100; 100 means 100 and over")
	}
	if vals[event.PopulationReportedResidents].Int < 0 {
		in.reject(E50, "residents", "residents is below 0")
	}
}

func checkMissing(_ *plan, in *input) {
	if in.row.Vals[event.DeprivationObservedMissing].Int != 0 && in.row.Vals[event.DeprivationObservedDeprived].Int != 0 {
		in.reject(E60, "deprived", "deprived is true, but missing too; an item that was not observed is not deprived")
	}
}

func checkWeight(_ *plan, in *input) {
	if !(in.row.Vals[event.DeprivationObservedSampleWeight].Float > 0) { // so that NaN is refused too
		in.reject(E62, "sampleWeight", "sampleWeight is not above 0; without a sample it is 1")
	}
}

// kindOf is the kind of framework that an event refers to.
func kindOf(p *plan) string {
	if p.t.No == deprivationNo {
		return codes.Deprivation
	}
	return codes.Evaluation
}

var deprivationNo = event.ByName("DeprivationObserved").No

// framework returns the framework that the event names, or nil.
func (in *input) framework(p *plan) *codes.Framework {
	return in.lists.Framework(in.row.Vals[p.frameworkID].Bytes, in.row.Vals[p.frameworkVersion].Int)
}

// indicator returns the indicator that the event names, or nil where there is none of the event's kind.
func (in *input) indicator(p *plan) *codes.Indicator {
	f := in.framework(p)
	if f == nil || f.Kind != kindOf(p) {
		return nil
	}
	return f.Indicator(in.row.Vals[p.indicatorCode].Bytes)
}

func checkIndicator(p *plan, in *input) {
	if in.framework(p) == nil {
		in.flag(FlagW61)
		return
	}
	if in.indicator(p) == nil {
		in.reject(E61, "indicatorCode", "indicatorCode is not in this framework and version, or the framework is not one of "+kindOf(p)+"; see schemas/codes/frameworks.json")
	}
}

// symbolText is the symbol of an enum, or empty where it is newer than our schema.
func (in *input) symbolText(field int) (text string, known bool) {
	v := &in.row.Vals[field]
	if v.Unknown {
		return "", false
	}
	return in.row.Symbol(field), true
}

func checkUnitKind(p *plan, in *input) {
	ind := in.indicator(p)
	if ind == nil {
		return
	}
	if kind, known := in.symbolText(event.DeprivationObservedUnitKind); known && kind != ind.UnitKind {
		in.reject(E63, "unitKind", "unitKind does not match the indicator, which describes a "+ind.UnitKind)
	}
}

func checkLevel(p *plan, in *input) {
	ind := in.indicator(p)
	if ind == nil {
		return
	}
	if level, known := in.symbolText(event.IndicatorObservedLevel); known && level != ind.Level {
		in.reject(E64, "level", "level does not match the indicator, which is observed at level "+ind.Level)
	}
}

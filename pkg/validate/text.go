package validate

import (
	"fmt"
	"unicode/utf8"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// textLimit is the length of a text field, in Unicode code points (E12).
type textLimit struct {
	field    int
	min, max int
}

// textLimits are the limits of all text fields by name; the same name has the same limit in every event.
var textLimits = []struct {
	min, max int
	names    []string
}{
	{1, 200, []string{"source", "orgCode", "wave", "requestSource", "benefitSource", "revokedSource", "frameworkId", "indicatorCode"}},
	{1, 64, []string{
		"sourceRecordId", "serviceId", "benefitId", "activityId", "sessionId", "feedbackId", "inReplyTo", "instrumentId",
		"itemCode", "revokedSourceRecordId",
	}},
	{1, 32, []string{"requestId"}},
	{1, 16, []string{"atsCode", "territoryCode", "parentCode", "successorCodes"}},
	{0, 200, []string{
		"legalBasis", "traceparent", "name", "providerCode", "profession", "reason", "tool", "refusalReason", "endReason",
		"cluster", "classCode", "schoolYear", "unit", "revokedType",
	}},
	{0, 1000, []string{"text", "actionTaken"}},
}

// ownForm are the text fields whose form has a rule of its own, or is checked by cadastral.
var ownForm = []string{"eventId", "comuneCode", "inpsCode", "nomenclatureCode", "schoolCode", "cadastralCode"}

// pseudonymFields are the fields that hold a pseudonym in whatever event has them (E10).
var pseudonymFields = []string{"pseudonym", "householdPseudonym", "student", "respondent"}

func limitOfText(name string) (textLimit, bool) {
	for _, l := range textLimits {
		for _, n := range l.names {
			if n == name {
				return textLimit{min: l.min, max: l.max}, true
			}
		}
	}
	for _, n := range ownForm {
		if n == name {
			return textLimit{}, false
		}
	}
	panic("BUG: text field " + name + " has no limit")
}

// numberLimit is the range of a number (E12).
type numberLimit struct {
	field    int
	double   bool
	min, max float64
	what     string
}

// numberLimits are the ranges of numbers by name, where no rule of their own says more.
var numberLimits = []struct {
	name     string
	min, max float64
	what     string // how the range is told
}{
	{"keyEpoch", 1, 1 << 31, "1 or more"},
	{"frameworkVersion", 1, 1 << 31, "1 or more"},
	{"ageMin", 0, 1 << 31, "0 or more"},
	{"ageMax", 0, 1 << 31, "0 or more"},
	{"lat", -90, 90, "-90 to 90"},
	{"lon", -180, 180, "-180 to 180"},
	{"needLevel", 0, 100, "0 to 100"},
	{"minutes", 0, 1 << 31, "0 or more"},
	{"seats", 0, 1 << 31, "0 or more"},
	{"staff", 0, 1 << 31, "0 or more"},
	{"minutesPresent", 0, 1 << 31, "0 or more"},
	{"revokedUpToVersion", 0, 1 << 63, "0 or more"},
}

func limitOfNumber(name string) (numberLimit, bool) {
	for _, l := range numberLimits {
		if l.name == name {
			return numberLimit{min: l.min, max: l.max, what: l.what}, true
		}
	}
	return numberLimit{}, false
}

func checkLimits(p *plan, in *input) {
	vals := in.row.Vals
	for i := range p.texts {
		l := &p.texts[i]
		v := &vals[l.field]
		switch {
		case v.Null:
		case p.t.Fields[l.field].Kind == event.Strings:
			for _, s := range v.List {
				if !checkLength(p, in, l, s) {
					break
				}
			}
		default:
			checkLength(p, in, l, v.Bytes)
		}
	}
	for i := range p.numbers {
		l := &p.numbers[i]
		v := &vals[l.field]
		if v.Null {
			continue
		}
		n := float64(v.Int)
		if l.double {
			n = v.Float
		}
		if n < l.min || n > l.max {
			name := p.t.Fields[l.field].Name
			in.reject(E12, name, name+" is out of its range, "+l.what)
		}
	}
	switch p.t.No {
	case offerNo:
		low, high := &vals[event.ServiceOfferPublishedAgeMin], &vals[event.ServiceOfferPublishedAgeMax]
		if !low.Null && !high.Null && low.Int > high.Int {
			in.reject(E12, "ageMax", "ageMax is below ageMin; leave one null where there is no limit")
		}
	case territoryNo:
		if v := &vals[event.TerritoryUpsertedCadastralCode]; !v.Null && !isCadastral(v.Bytes) {
			in.reject(E12, "cadastralCode", "cadastralCode is not a capital letter and three digits, as F205; leave it null where there is none")
		}
	}
}

// Numbers of events with checks of their own.
var (
	offerNo     = event.ByName("ServiceOfferPublished").No
	territoryNo = event.ByName("TerritoryUpserted").No
)

// checkLength reports a text that is too short or too long. A character takes at least one byte, so most
// texts need no counting.
func checkLength(p *plan, in *input, l *textLimit, s []byte) bool {
	name := p.t.Fields[l.field].Name
	if len(s) < l.min {
		in.reject(E12, name, fmt.Sprintf("%s is empty; %d to %d characters are expected", name, l.min, l.max))
		return false
	}
	if len(s) > l.max {
		if n := utf8.RuneCount(s); n > l.max {
			in.reject(E12, name, fmt.Sprintf("%s has %d characters, the limit is %d; shorten it at the source", name, n, l.max))
			return false
		}
	}
	return true
}

func isCadastral(s []byte) bool {
	return len(s) == 4 && isUpper(s[0]) && allDigits(s[1:])
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func allDigits(s []byte) bool {
	for _, c := range s {
		if !isDigit(c) {
			return false
		}
	}
	return true
}

func checkComune(p *plan, in *input) {
	if s := in.row.Vals[p.comuneCode].Bytes; len(s) != 6 || !allDigits(s) {
		in.reject(E04, "comuneCode", "comuneCode is not an ISTAT code of 6 digits; is a leading zero lost? 999999 is abroad, 999998 no fixed residence")
	}
}

func checkPseudonyms(p *plan, in *input) {
	for _, i := range p.pseudonyms {
		if v := &in.row.Vals[i]; !v.Null && !privacy.IsPseudonym(v.Bytes) {
			name := p.t.Fields[i].Name
			in.reject(E10, name, name+" is not a pseudonym of 64 lower-case hexadecimal digits; make it at the edge, never send a personal code")
		}
	}
}

func checkINPS(p *plan, in *input) {
	v := &in.row.Vals[p.inpsCode]
	if v.Null {
		return
	}
	s := v.Bytes
	switch {
	case len(s) != 5 || !isUpper(s[0]) || !isDigit(s[1]) || s[2] != '.' || !allDigits(s[3:]):
		in.reject(E13, "inpsCode", "inpsCode is not a letter, a digit, a dot and two digits, as A1.16")
	case !in.lists.KnownINPS(s):
		in.flag(FlagW35)
	}
}

func checkNomenclature(p *plan, in *input) {
	s := in.row.Vals[p.nomenclatureCode].Bytes
	if !isNomenclature(s) {
		in.reject(E15, "nomenclatureCode", "nomenclatureCode is not 1 to 16 capital letters, digits and dots, the first no dot; the codes are in schemas/codes/nomenclature.csv")
		return
	}
	if !in.lists.KnownNomenclature(s) {
		in.flag(FlagW36)
	}
}

func isNomenclature(s []byte) bool {
	if len(s) < 1 || len(s) > 16 || s[0] == '.' {
		return false
	}
	for _, c := range s {
		if !isUpper(c) && !isDigit(c) && c != '.' {
			return false
		}
	}
	return true
}

func checkSchoolCode(p *plan, in *input) {
	s := in.row.Vals[p.schoolCode].Bytes
	ok := len(s) == 10 && isUpper(s[0]) && isUpper(s[1])
	for i := 2; ok && i < len(s); i++ {
		ok = isUpper(s[i]) || isDigit(s[i])
	}
	if !ok {
		in.reject(E70, "schoolCode", "schoolCode is not a codice meccanografico: two capital letters and eight capital letters or digits, as MIMM8EX00X")
	}
}

// TextLimits returns the least and most characters of each text field by name (E12). The caller owns the map.
func TextLimits() map[string][2]int {
	out := map[string][2]int{}
	for _, l := range textLimits {
		for _, n := range l.names {
			out[n] = [2]int{l.min, l.max}
		}
	}
	return out
}

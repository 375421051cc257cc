package validate

import (
	"cmp"
	"strconv"
)

// Code is the name of a rule: P (poison: the value cannot be read), E (the event is rejected) or
// W (accepted and flagged), and a number. The enum is closed; Rules says what each means.
type Code string

// Codes of poison: the value cannot be read. The loader and the decoder find them.
const (
	P01 Code = "P01" // null or empty value
	P02 Code = "P02" // wrong magic byte, or shorter than 6 bytes
	P03 Code = "P03" // unknown schema id
	P04 Code = "P04" // cannot be decoded
	P05 Code = "P05" // bytes left over
	P06 Code = "P06" // larger than max-value-bytes
	P07 Code = "P07" // invalid UTF-8
	P08 Code = "P08" // schema of another event than the topic's
	P09 Code = "P09" // time outside the years 1900 to 2200
)

// Codes of rejection: the event breaks a rule.
const (
	E01 Code = "E01" // eventId is no UUID
	E02 Code = "E02" // recordVersion below 1
	E03 Code = "E03" // occurredAt or recordedAt in the future
	E04 Code = "E04" // comuneCode is not 6 digits
	E07 Code = "E07" // an eventId again with another content (by the loader)
	E09 Code = "E09" // a CloudEvents header contradicts the value
	E10 Code = "E10" // pseudonym is not 64 hex digits
	E11 Code = "E11" // a codice fiscale
	E12 Code = "E12" // length, format or range of a field
	E13 Code = "E13" // form of inpsCode
	E14 Code = "E14" // business date out of bounds
	E15 Code = "E15" // form of nomenclatureCode
	E16 Code = "E16" // Kafka key
	E20 Code = "E20" // quantities of capacity
	E22 Code = "E22" // FTE and profession
	E23 Code = "E23" // validTo not after validFrom
	E30 Code = "E30" // periodic and one-off benefits
	E31 Code = "E31" // end before start
	E32 Code = "E32" // quotas do not sum to the total
	E33 Code = "E33" // means test ISEE without a band
	E40 Code = "E40" // reason of leaving a waiting list
	E50 Code = "E50" // ages and residents
	E60 Code = "E60" // missing and deprived
	E61 Code = "E61" // indicator that a known framework lacks
	E62 Code = "E62" // sample weight
	E63 Code = "E63" // unit of an item of deprivation
	E64 Code = "E64" // level of an indicator
	E70 Code = "E70" // form of schoolCode
	E72 Code = "E72" // scale or text of feedback
	E73 Code = "E73" // value outside the indicator's range
	E74 Code = "E74" // answer that answers nothing
	E81 Code = "E81" // revocation by another source
	E82 Code = "E82" // revocation of a control event
)

// Codes of flags that depend on the event alone. They are stored with the row, by FlagBits.
const (
	W03 Code = "W03" // occurredAt more than 10 years before recordedAt
	W21 Code = "W21" // more occupied than operational
	W24 Code = "W24" // closed, with people in it
	W34 Code = "W34" // ISEE threshold without ISEE test
	W35 Code = "W35" // unknown inpsCode
	W36 Code = "W36" // unknown nomenclatureCode
	W61 Code = "W61" // unknown framework
	W90 Code = "W90" // unknown enum symbol
)

// Codes of flags that depend on other events. They are not stored: the view welfare.flags has them.
const (
	W04 Code = "W04" // comune unknown, or not valid then
	W06 Code = "W06" // comune outside the ATS
	W08 Code = "W08" // the same record and version with another content
	W41 Code = "W41" // LEAVE without ENTER
	W42 Code = "W42" // benefit granted while still waiting
	W51 Code = "W51" // sexes or ages do not sum to the total
	W52 Code = "W52" // two sources of one population
	W71 Code = "W71" // longer present than the session lasted
	W75 Code = "W75" // attendance before its session began
)

// Number is the number of the code, by which codes are ordered.
func (c Code) Number() int {
	n, err := strconv.Atoi(string(c[1:]))
	if err != nil {
		panic("BUG: code " + string(c) + " has no number")
	}
	return n
}

// Rejects tells whether the code ends an event as rejected: E and P do, W does not.
func (c Code) Rejects() bool { return c[0] != 'W' }

// Compare orders codes by their numbers. Poison and rules never meet in one event (what cannot be read
// breaks no rule); where a list holds both, P comes before E, and E before W, of the same number.
func Compare(a, b Code) int {
	letters := map[byte]int{'P': 0, 'E': 1, 'W': 2}
	return cmp.Or(cmp.Compare(a.Number(), b.Number()), cmp.Compare(letters[a[0]], letters[b[0]]))
}

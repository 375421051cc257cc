package validate

import (
	"slices"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Decider is the part that finds a violation.
type Decider string

// Deciders.
const (
	ByRules   Decider = "rules"   // Check, from the event alone
	ByDecoder Decider = "decoder" // whoever decodes the value
	ByLoader  Decider = "loader"  // the loader, from earlier events of the topic
	ByView    Decider = "view"    // the view welfare.flags, from all events as of now
)

// Rule is one rule as it is told to people.
type Rule struct {
	Code   Code
	By     Decider
	Events []string // names of the events that it concerns; nil: all
	Text   string   // when an event breaks it
}

// Rules returns all rules in the order of their codes. The caller owns the slice.
func Rules() []Rule {
	out := make([]Rule, 0, len(registry))
	for i := range registry {
		r := &registry[i]
		rule := Rule{Code: r.code, By: r.by, Text: r.text}
		if r.on != nil || r.events != nil {
			for _, t := range event.Types {
				if r.concerns(t) {
					rule.Events = append(rule.Events, t.Name)
				}
			}
		}
		out = append(out, rule)
	}
	return out
}

// rule is an entry of the registry. A rule that Check finds has a check, but for a flag that is found
// together with a rejecting rule; then together names that.
type rule struct {
	code     Code
	by       Decider
	on       []string // concerns events with all of these fields
	events   []string // or these events; neither: all
	check    func(*plan, *input)
	together Code
	text     string
}

func (r *rule) concerns(t *event.Type) bool {
	if r.events != nil {
		return slices.Contains(r.events, t.Name)
	}
	for _, f := range r.on {
		if t.Field(f) < 0 {
			return false
		}
	}
	return true
}

var (
	capacityOnly = []string{"CapacityChanged"}
	feedbackOnly = []string{"FeedbackRecorded"}
	benefitOnly  = []string{"BenefitDecided"}
)

// registry has every code once, in the order of Compare; Check applies it in this order.
var registry = []rule{
	{code: P01, by: ByDecoder, text: "The value is null or empty."},
	{code: E01, by: ByRules, check: checkEventID, text: "`eventId` is no UUID in its form of 36 characters (either case)."},
	{code: P02, by: ByDecoder, text: "The value does not begin with the byte 0, or is shorter than 6 bytes."},
	{code: E02, by: ByRules, check: checkRecordVersion, text: "`recordVersion` is below 1."},
	{code: P03, by: ByDecoder, text: "The schema id is not in the registry."},
	{code: E03, by: ByRules, check: checkTimes, text: "`occurredAt` is more than 5 minutes after `recordedAt`, or `recordedAt` more than 5 minutes after the timestamp of the Kafka record (where it has one)."},
	{code: W03, by: ByRules, together: E03, text: "`occurredAt` is more than 10 years before `recordedAt`."},
	{code: P04, by: ByDecoder, text: "The value cannot be decoded with its schema, or its batch cannot be taken apart."},
	{code: E04, by: ByRules, on: []string{"comuneCode"}, check: checkComune, text: "`comuneCode` is not 6 digits."},
	{code: W04, by: ByView, on: []string{"comuneCode"}, text: "`comuneCode` is unknown, or not valid at `occurredAt`. It counts as unmapped."},
	{code: P05, by: ByDecoder, text: "Bytes are left over after the value."},
	{code: P06, by: ByDecoder, text: "The value is larger than `max-value-bytes`, or its batch than 256 MiB once decompressed."},
	{code: W06, by: ByView, on: []string{"comuneCode", "atsCode"}, text: "`atsCode` is not the social district of the comune, by the territories in force."},
	{code: P07, by: ByDecoder, text: "A text is not valid UTF-8."},
	{code: E07, by: ByLoader, text: "The same `source` and `eventId` came before on the topic with another content. A correction has a new `eventId` and a higher `recordVersion`."},
	{code: P08, by: ByDecoder, text: "The schema is that of another event than the topic's."},
	{code: W08, by: ByView, text: "The same record and version came with another content. Both are stored; the one with the lowest content hash is in force."},
	{code: P09, by: ByDecoder, text: "A time lies outside the years 1900 to 2200; most often it is in another unit."},
	{code: E09, by: ByRules, check: checkHeaders, text: "A header `ce_id`, `ce_source` or `ce_type` is there and differs from `eventId`, `source` or the name of the topic."},
	{code: E10, by: ByRules, events: eventsWithAny(pseudonymFields), check: checkPseudonyms, text: "`pseudonym`, `householdPseudonym`, `student` or `respondent`, where given, is not 64 lower-case hexadecimal digits."},
	{code: E11, by: ByRules, check: checkFence, text: "A text, the key, a header, or what should be encrypted holds a codice fiscale: its 16 characters in either case, with omocodia, also with spaces, dots or dashes inside, with the check letter right, not inside a longer run of letters or digits. Exempt are `eventId`, pseudonyms and `traceparent` that have their form. The dead letter carries no value, key or headers."},
	{code: E12, by: ByRules, check: checkLimits, text: "A text is shorter or longer than its limit, or a number out of its range: see [limits](#limits)."},
	{code: E13, by: ByRules, on: []string{"inpsCode"}, check: checkINPS, text: "`inpsCode`, where given, is not a capital letter, a digit, a dot and two digits."},
	{code: E14, by: ByRules, events: eventsWithDates(), check: checkDates, text: "A date or instant other than `occurredAt` and `recordedAt` is before 1990, or more than 24 months after `occurredAt`. Dates are taken as midnight UTC."},
	{code: E15, by: ByRules, on: []string{"nomenclatureCode"}, check: checkNomenclature, text: "`nomenclatureCode` is not 1 to 16 capital letters, digits and dots, the first no dot."},
	{code: E16, by: ByRules, check: checkKey, text: "The record has no key, or another key than the field that the catalogue names."},
	{code: E20, by: ByRules, events: capacityOnly, check: checkCapacity, text: "Not `authorised` ≥ `operational` ≥ 0, or `occupied` or `funded` below 0."},
	{code: W21, by: ByRules, events: capacityOnly, together: E20, text: "`occupied` is above `operational`: more people than places."},
	{code: E22, by: ByRules, events: capacityOnly, check: checkProfession, text: "`unit` is FTE without `profession`, or there is a `profession` and another unit. An empty text counts as not given."},
	{code: E23, by: ByRules, on: []string{"validFrom", "validTo"}, check: checkValidity, text: "`validTo` is not after `validFrom`."},
	{code: W24, by: ByRules, events: capacityOnly, together: E20, text: "`operational` is 0 (the offer is closed), but `occupied` is above 0. Such a row carries W21 too."},
	{code: E30, by: ByRules, events: benefitOnly, check: checkBenefit, text: "GRANTED or RENEWED and not so: PERIODIC has `startDate`, `months` or `monthlyAmount`, no `oneOffAmount`; ONE_OFF has `startDate` (the day of payment) and `oneOffAmount`, no `months`, no `monthlyAmount`; `character` is not UNKNOWN. With every decision: `months` outside 1 to 12."},
	{code: E31, by: ByRules, events: []string{"BenefitDecided", "ServiceDelivered"}, check: checkPeriod, text: "`endDate` is before `startDate`, or `periodEnd` before `periodStart`."},
	{code: E32, by: ByRules, on: []string{"amountTotal"}, check: checkQuotas, text: "`quotaEnte` + `quotaUtente` + `quotaSsn` is not `amountTotal`, to the cent."},
	{code: E33, by: ByRules, on: []string{"meansTest", "iseeBand"}, check: checkISEE, text: "`meansTest` is ISEE and `iseeBand` UNKNOWN."},
	{code: W34, by: ByRules, events: benefitOnly, check: flagThreshold, text: "`meansTest` is OTHER_MEANS or NONE and there is an `iseeThreshold`."},
	{code: W35, by: ByRules, on: []string{"inpsCode"}, together: E13, text: "`inpsCode` is well formed, but not in the list (`schemas/codes/inps.csv`)."},
	{code: W36, by: ByRules, on: []string{"nomenclatureCode"}, together: E15, text: "`nomenclatureCode` is well formed, but not in the nomenclature (`schemas/codes/nomenclature.csv`). It counts under UNMAPPED."},
	{code: E40, by: ByRules, events: []string{"WaitingListChanged"}, check: checkLeaveReason, text: "LEAVE with `leaveReason` UNKNOWN, or ENTER with another."},
	{code: W41, by: ByView, events: []string{"WaitingListChanged"}, text: "LEAVE without an ENTER of the same request (`requestSource` or else `source`, `requestId`)."},
	{code: W42, by: ByView, events: benefitOnly, text: "The benefit is GRANTED while its request is still waiting."},
	{code: E50, by: ByRules, events: []string{"PopulationReported"}, check: checkPopulation, text: "Not 0 ≤ `ageFrom` ≤ `ageTo` ≤ 100, or `residents` below 0."},
	{code: W51, by: ByView, events: []string{"PopulationReported"}, text: "The total does not equal the sexes, or the bands of ages, that are complete."},
	{code: W52, by: ByView, events: []string{"PopulationReported"}, text: "Several sources report the territory at that date."},
	{code: E60, by: ByRules, events: []string{"DeprivationObserved"}, check: checkMissing, text: "`missing` and `deprived` are both true."},
	{code: E61, by: ByRules, on: []string{"frameworkId"}, check: checkIndicator, text: "The framework is known in that version, but has no such `indicatorCode`, or is not one of the event's kind (deprivation or evaluation)."},
	{code: W61, by: ByRules, on: []string{"frameworkId"}, together: E61, text: "The framework is not known in that version (`schemas/codes/frameworks.json`)."},
	{code: E62, by: ByRules, events: []string{"DeprivationObserved"}, check: checkWeight, text: "`sampleWeight` is not above 0."},
	{code: E63, by: ByRules, events: []string{"DeprivationObserved"}, check: checkUnitKind, text: "`unitKind` is not that of the known indicator."},
	{code: E64, by: ByRules, events: []string{"IndicatorObserved"}, check: checkLevel, text: "`level` is not that of the known indicator."},
	{code: E70, by: ByRules, on: []string{"schoolCode"}, check: checkSchoolCode, text: "`schoolCode` is not two capital letters and eight capital letters or digits (codice meccanografico)."},
	{code: W71, by: ByView, events: []string{"AttendanceRecorded"}, text: "`minutesPresent` is above the minutes of the session."},
	{code: E72, by: ByRules, events: feedbackOnly, check: checkFeedback, text: "`likert`, where given, is outside 1 to 5. FROM_*: not exactly one of `likert` and `text`. TO_*: no `text`, or a `likert`. An empty text counts as not given."},
	{code: E73, by: ByRules, events: []string{"IndicatorObserved"}, check: checkRange, text: "`value` is outside the range of the known indicator, both ends included."},
	{code: E74, by: ByRules, events: feedbackOnly, check: checkReply, text: "TO_* with neither `inReplyTo` nor `actionTaken`. An empty text counts as not given."},
	{code: W75, by: ByView, events: []string{"AttendanceRecorded"}, text: "`occurredAt` is before the session (`source`, `sessionId`) starts."},
	{code: E81, by: ByRules, events: []string{"RecordRevoked"}, check: checkRevokedSource, text: "`revokedSource` is not the source of the revocation."},
	{code: E82, by: ByRules, events: []string{"RecordRevoked"}, check: checkRevokedType, text: "`revokedType` is RecordRevoked or SubjectErased."},
	{code: W90, by: ByRules, check: checkSymbols, text: "An enum holds a symbol that our schema does not know; it is read as UNKNOWN. A rule that asks whether the field is given takes it as given; no rule asks more of it."},
}

func eventsWithAny(fields []string) []string {
	var out []string
	for _, t := range event.Types {
		if slices.ContainsFunc(fields, func(f string) bool { return t.Field(f) >= 0 }) {
			out = append(out, t.Name)
		}
	}
	return out
}

func eventsWithDates() []string {
	var out []string
	for _, t := range event.Types {
		if slices.ContainsFunc(t.Fields[event.HeaderFields:], func(f event.Field) bool { return f.Kind == event.Date || f.Kind == event.Timestamp }) {
			out = append(out, t.Name)
		}
	}
	return out
}

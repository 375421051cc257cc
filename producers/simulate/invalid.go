package simulate

import (
	"bytes"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
)

// violation makes a message that the hub must reject with code. It spoils a valid row of an event
// (row) or the record made of it (wire).
type violation struct {
	code  string
	event string
	row   func(s *Simulator, r *event.Row)
	wire  func(s *Simulator, m *Message)
}

// cf is a codice fiscale of nobody, with a valid check letter.
const cf = "VRDGLI11C65F205W"

// violations has one or more of every E and P code that a message can earn by itself, and E07.
// P06 takes part only where Config.MaxValue is set.
var violations = [...]violation{
	{"E01", "ServiceRequested", func(_ *Simulator, r *event.Row) { r.Set(event.EventID, "domanda-1") }, nil},
	{"E02", "CapacityChanged", func(_ *Simulator, r *event.Row) { r.SetInt(event.RecordVersion, 0) }, nil},
	{"E03", "ServiceRequested", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.OccurredAt, r.Vals[event.RecordedAt].Int+360_000)
	}, nil},
	{"E04", "ServiceRequested", func(_ *Simulator, r *event.Row) { r.Set(event.ServiceRequestedComuneCode, "F205") }, nil},
	{"E04", "ServiceOfferPublished", func(_ *Simulator, r *event.Row) { r.Set(event.ServiceOfferPublishedComuneCode, "15146") }, nil},
	{"E07", "", nil, nil},
	{"E09", "ServiceRequested", nil, func(_ *Simulator, m *Message) { setHeader(m, "ce_id", "00000000-0000-7000-8000-000000000000") }},
	{"E09", "CapacityChanged", nil, func(_ *Simulator, m *Message) { setHeader(m, "ce_type", "welfare.supply.offer") }},
	{"E10", "BenefitDecided", func(_ *Simulator, r *event.Row) {
		r.Set(subjectPseudonym, strings.ToUpper(r.Str(subjectPseudonym)[:63])+"F")
	}, nil},
	{"E10", "AttendanceRecorded", func(_ *Simulator, r *event.Row) { r.Set(event.AttendanceRecordedStudent, "studente 7") }, nil},
	{"E11", "NeedAssessed", func(_ *Simulator, r *event.Row) { r.Set(event.NeedAssessedRefusalReason, "gia presentata da "+cf) }, nil},
	{"E11", "FeedbackRecorded", func(_ *Simulator, r *event.Row) { r.Set(event.FeedbackRecordedItemCode, strings.ToLower(cf)) }, nil},
	{"E12", "ServiceRequested", func(_ *Simulator, r *event.Row) {
		r.Set(event.ServiceRequestedRequestID, strings.Repeat("9", 33))
	}, nil},
	{"E12", "CapacityChanged", func(_ *Simulator, r *event.Row) { r.Set(event.SourceRecordID, strings.Repeat("9", 65)) }, nil},
	{"E13", "BenefitDecided", func(_ *Simulator, r *event.Row) { r.Set(event.BenefitDecidedInpsCode, "A116") }, nil},
	{"E14", "ServiceRequested", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.ServiceRequestedRequestedAt, r.Vals[event.OccurredAt].Int+3*365*dayMs)
	}, nil},
	{"E14", "CapacityChanged", func(_ *Simulator, r *event.Row) { r.SetInt(event.CapacityChangedEffectiveFrom, 0) }, nil},
	{"E15", "ServiceRequested", func(_ *Simulator, r *event.Row) { r.Set(event.ServiceRequestedNomenclatureCode, "nido!") }, nil},
	{"E16", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Key = []byte("altra") }},
	{"E16", "PopulationReported", nil, func(_ *Simulator, m *Message) { m.Key = nil }},
	{"E20", "CapacityChanged", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.CapacityChangedOperational, r.Vals[event.CapacityChangedAuthorised].Int+1)
	}, nil},
	{"E20", "CapacityChanged", func(_ *Simulator, r *event.Row) { r.SetInt(event.CapacityChangedOccupied, -1) }, nil},
	{"E22", "CapacityChanged", func(_ *Simulator, r *event.Row) {
		symbol(r, event.CapacityChangedUnit, "FTE")
		r.SetNull(event.CapacityChangedProfession)
	}, nil},
	{"E23", "ServiceOfferPublished", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.ServiceOfferPublishedValidTo, r.Vals[event.ServiceOfferPublishedValidFrom].Int)
	}, nil},
	{"E30", "BenefitDecided", func(_ *Simulator, r *event.Row) { r.SetNull(event.BenefitDecidedStartDate) }, nil},
	{"E30", "BenefitDecided", func(_ *Simulator, r *event.Row) { r.SetInt(event.BenefitDecidedMonths, 13) }, nil},
	{"E30", "BenefitDecided", func(_ *Simulator, r *event.Row) { symbol(r, event.BenefitDecidedCharacter, "ONE_OFF") }, nil},
	{"E31", "BenefitDecided", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.BenefitDecidedEndDate, r.Vals[event.BenefitDecidedStartDate].Int-1)
	}, nil},
	{"E32", "ServiceDelivered", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.ServiceDeliveredQuotaEnte, r.Vals[event.ServiceDeliveredQuotaEnte].Int+1)
	}, nil},
	{"E33", "BenefitDecided", func(_ *Simulator, r *event.Row) { r.SetInt(subjectIsee, 0) }, nil},
	{"E40", "WaitingListChanged", func(_ *Simulator, r *event.Row) { symbol(r, event.WaitingListChangedChange, "LEAVE") }, nil},
	{"E40", "WaitingListChanged", func(_ *Simulator, r *event.Row) {
		symbol(r, event.WaitingListChangedLeaveReason, "PLACED")
	}, nil},
	{"E50", "PopulationReported", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.PopulationReportedAgeFrom, r.Vals[event.PopulationReportedAgeTo].Int+1)
	}, nil},
	{"E50", "PopulationReported", func(_ *Simulator, r *event.Row) { r.SetInt(event.PopulationReportedResidents, -1) }, nil},
	{"E60", "DeprivationObserved", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.DeprivationObservedMissing, 1)
		r.SetInt(event.DeprivationObservedDeprived, 1)
	}, nil},
	{"E61", "DeprivationObserved", func(_ *Simulator, r *event.Row) { r.Set(event.DeprivationObservedIndicatorCode, "CD99") }, nil},
	{"E61", "IndicatorObserved", func(_ *Simulator, r *event.Row) { r.Set(event.IndicatorObservedIndicatorCode, "AS99") }, nil},
	{"E62", "DeprivationObserved", func(_ *Simulator, r *event.Row) {
		r.Vals[event.DeprivationObservedSampleWeight] = event.Value{}
	}, nil},
	{"E63", "DeprivationObserved", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.DeprivationObservedUnitKind, 3-r.Vals[event.DeprivationObservedUnitKind].Int)
	}, nil},
	{"E64", "IndicatorObserved", func(_ *Simulator, r *event.Row) {
		r.Set(event.IndicatorObservedIndicatorCode, "AS20") // of schools
		r.Vals[event.IndicatorObservedValue] = event.Value{Float: 1}
		symbol(r, event.IndicatorObservedLevel, "CLASS")
	}, nil},
	{"E70", "ActivitySessionHeld", func(_ *Simulator, r *event.Row) { r.Set(event.ActivitySessionHeldSchoolCode, "MI1") }, nil},
	{"E72", "FeedbackRecorded", func(_ *Simulator, r *event.Row) {
		symbol(r, event.FeedbackRecordedDirection, "FROM_STUDENT")
		r.SetInt(event.FeedbackRecordedLikert, 3)
		r.Set(event.FeedbackRecordedText, "bene")
	}, nil},
	{"E72", "FeedbackRecorded", func(_ *Simulator, r *event.Row) {
		symbol(r, event.FeedbackRecordedDirection, "TO_SCHOOL")
		r.SetNull(event.FeedbackRecordedLikert)
		r.SetNull(event.FeedbackRecordedText)
		r.Set(event.FeedbackRecordedActionTaken, "avviato un laboratorio")
	}, nil},
	{"E73", "IndicatorObserved", func(_ *Simulator, r *event.Row) {
		r.Vals[event.IndicatorObservedValue] = event.Value{Float: 1001}
	}, nil},
	{"E74", "FeedbackRecorded", func(_ *Simulator, r *event.Row) {
		symbol(r, event.FeedbackRecordedDirection, "TO_STUDENT")
		r.SetNull(event.FeedbackRecordedLikert)
		r.SetNull(event.FeedbackRecordedInReplyTo)
		r.SetNull(event.FeedbackRecordedActionTaken)
		r.Set(event.FeedbackRecordedText, "grazie")
	}, nil},
	{"E81", "RecordRevoked", func(_ *Simulator, r *event.Row) { r.Set(event.RecordRevokedRevokedSource, "urn:welfare:altri:sociale") }, nil},
	{"E82", "RecordRevoked", func(_ *Simulator, r *event.Row) { r.Set(event.RecordRevokedRevokedType, "SubjectErased") }, nil},
	{"P01", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Value = nil }},
	{"P01", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Value = []byte{} }},
	{"P02", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Value[0] = '{' }},
	{"P02", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Value = m.Value[:event.FrameSize] }},
	{"P03", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Value = reframe(m.Value, 1<<30) }},
	{"P04", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Value = m.Value[:len(m.Value)/2] }},
	{"P05", "ServiceRequested", nil, func(_ *Simulator, m *Message) { m.Value = append(m.Value, 0) }},
	{"P06", "FeedbackRecorded", nil, func(s *Simulator, m *Message) {
		m.Value = append(m.Value, bytes.Repeat([]byte{' '}, s.cfg.MaxValue)...)
	}},
	{"P07", "ServiceOfferPublished", func(_ *Simulator, r *event.Row) { r.Set(event.ServiceOfferPublishedName, "Nido \xff\xfe") }, nil},
	{"P08", "ServiceRequested", nil, func(s *Simulator, m *Message) {
		r := event.NewRow(event.ByName("CapacityChanged"))
		m.Value = r.AppendAvro(event.AppendFrame(nil, s.ids[r.Type.Topic]))
	}},
	{"P09", "ServiceRequested", func(_ *Simulator, r *event.Row) {
		r.SetInt(event.ServiceRequestedRequestedAt, 10_413_792_000_000) // in the year 2300
	}, nil},
}

// invalid makes the next violation. Its event is a new one, so it is neither duplicate nor conflict; but for E07.
func (s *Simulator) invalid() Message {
	v := &violations[s.mutation%len(violations)]
	s.mutation++
	if v.code == "P06" && s.cfg.MaxValue == 0 {
		v = &violations[s.mutation%len(violations)]
		s.mutation++
	}
	want := Expected{End: model.Rejected, Codes: []string{v.code}}
	if v.code == "E07" {
		r := s.ring[s.rng.IntN(len(s.ring))].Clone()
		r.SetInt(event.RecordedAt, s.now)
		s.alter(r)
		return s.finish(r, want)
	}
	s.at = s.now
	r := s.sample(v.event)
	if v.row != nil {
		v.row(s, r)
	}
	m := s.finish(r, want)
	if v.wire != nil {
		v.wire(s, &m)
	}
	if strings.HasPrefix(v.code, "P") {
		m.Row = nil
	}
	return m
}

func setHeader(m *Message, key, value string) {
	for i := range m.Headers {
		if m.Headers[i].Key == key {
			m.Headers[i].Value = []byte(value)
		}
	}
}

// reframe replaces the schema id of a value.
func reframe(value []byte, id int) []byte {
	return append(event.AppendFrame(nil, id), value[event.FrameSize:]...)
}

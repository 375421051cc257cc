package simulate

import (
	"fmt"

	"github.com/welfarehub/welfarehub/pkg/codes"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
)

// lateFact makes a fact of long ago: mostly a request, whose case then goes on from there.
func (s *Simulator) lateFact() *event.Row {
	if s.next == 0 {
		return s.nextFact()
	}
	switch s.rng.IntN(10) {
	case 0:
		return s.capacity(s.order[s.rng.IntN(s.next)])
	case 1:
		return s.indicator()
	case 2:
		return s.feedback()
	case 3:
		return s.sample("ServiceDelivered") // of a benefit that nobody reported
	}
	return s.openCase()
}

// sample makes a valid row of any event about entities of its own.
func (s *Simulator) sample(name string) *event.Row {
	c := s.newCase()
	c.number = 9_000_000_000 + uint64(s.sent)
	switch name {
	case "ServiceOfferPublished":
		return s.offer(s.order[s.rng.IntN(len(s.order))], "OPEN")
	case "CapacityChanged":
		return s.capacity(s.order[s.rng.IntN(len(s.order))])
	case "ServiceRequested":
		return s.request(&c)
	case "NeedAssessed":
		return s.assessment(&c, "NOT_ELIGIBLE")
	case "WaitingListChanged":
		return s.waiting(&c, c.offer, "")
	case "BenefitDecided":
		c.kind = 0
		return s.benefit(&c, "GRANTED")
	case "ServiceDelivered":
		return s.delivery(&c, false)
	case "TerritoryUpserted":
		return s.territory(&s.comuni[c.comune])
	case "PopulationReported":
		return s.population(&s.comuni[c.comune], int(c.person%uint64(codes.Bands)))
	case "DeprivationObserved":
		return s.deprivation()
	case "ActivitySessionHeld":
		return s.session()
	case "AttendanceRecorded":
		return s.attendance()
	case "IndicatorObserved":
		return s.indicator()
	case "FeedbackRecorded":
		return s.feedback()
	case "RecordRevoked":
		return s.revoke(s.ring[s.rng.IntN(len(s.ring))])
	case "SubjectErased":
		return s.erase(surveySource, s.pseudonym(c.person, demand), "DEMAND")
	}
	panic("BUG: no sample of " + name)
}

// duplicate sends an event again, as it was or recorded anew.
func (s *Simulator) duplicate() Message {
	r := s.ring[s.rng.IntN(len(s.ring))]
	if s.rng.IntN(2) == 0 {
		r = r.Clone()
		r.SetInt(event.RecordedAt, s.now)
	}
	return s.finish(r, Expected{End: model.Duplicate})
}

// renew makes a clone an event of its own.
func (s *Simulator) renew(r *event.Row) *event.Row {
	r = r.Clone()
	r.Set(event.EventID, string(s.uuid()))
	r.SetInt(event.RecordedAt, s.now)
	return r
}

// correction sends another version of a record.
func (s *Simulator) correction() Message {
	i := s.rng.IntN(len(s.ring))
	r := s.renew(s.ring[i])
	version := r.Vals[event.RecordVersion].Int
	switch s.rng.IntN(20) {
	case 0: // another content of the same version: W08
		s.alter(r)
	case 1: // the same once more under a new id: changes nothing
	case 2: // two corrections in the wrong order
		s.alter(r)
		r.SetInt(event.RecordVersion, version+1)
		s.held = append(s.held, r)
		r = s.renew(r)
		s.alter(r)
		r.SetInt(event.RecordVersion, version+2)
		s.ring[i] = r
	default:
		s.alter(r)
		r.SetInt(event.RecordVersion, version+1)
		s.ring[i] = r
	}
	return s.finish(r, Expected{End: model.Loaded})
}

// alter changes the content of a row that owns its memory, so that it stays valid and keeps its key.
func (s *Simulator) alter(r *event.Row) {
	add := func(i int, n int64) { r.SetInt(i, r.Vals[i].Int+n) }
	if r.Type.Family == event.FamilyDemand && s.rng.IntN(4) == 0 {
		r.Set(subjectComune, string(s.comuni[s.anyComune()].code)) // moves what it counts for
	}
	switch r.Type.Name {
	case "ServiceOfferPublished":
		r.Set(event.ServiceOfferPublishedName, r.Str(event.ServiceOfferPublishedName)[:10]+fmt.Sprint(" sede ", s.sent))
	case "CapacityChanged":
		add(event.CapacityChangedOccupied, 1000)
	case "ServiceRequested":
		r.SetInt(event.ServiceRequestedUrgent, 1-r.Vals[event.ServiceRequestedUrgent].Int)
	case "NeedAssessed":
		add(event.NeedAssessedAssessedAt, -60_000)
		if s.rng.IntN(3) == 0 {
			symbol(r, event.NeedAssessedOutcome, "ELIGIBLE")
		}
	case "WaitingListChanged":
		add(event.WaitingListChangedChangedAt, -60_000)
	case "BenefitDecided":
		add(event.BenefitDecidedIseeThreshold, 100)
	case "ServiceDelivered":
		add(event.ServiceDeliveredUnitsDelivered, 250)
		add(event.ServiceDeliveredAmountTotal, 100)
		add(event.ServiceDeliveredQuotaEnte, 100)
	case "TerritoryUpserted":
		r.Set(event.TerritoryUpsertedName, fmt.Sprint("Comune ", s.sent))
	case "PopulationReported":
		add(event.PopulationReportedResidents, 1)
	case "DeprivationObserved":
		r.Vals[event.DeprivationObservedSampleWeight].Float += 0.125
	case "ActivitySessionHeld":
		add(event.ActivitySessionHeldSeats, 1)
	case "AttendanceRecorded":
		status := "PRESENT"
		if r.Is(event.AttendanceRecordedStatus, status) {
			status = "EXCUSED"
		}
		symbol(r, event.AttendanceRecordedStatus, status)
		r.SetNull(event.AttendanceRecordedMinutesPresent)
	case "IndicatorObserved":
		add(event.IndicatorObservedObservedAt, -1)
	case "FeedbackRecorded":
		add(event.FeedbackRecordedSubmittedAt, -1000)
	default:
		panic("BUG: no way to alter " + r.Type.Name)
	}
}

// revocation hides a record that was sent, or one that comes next, or lifts the last revocation.
func (s *Simulator) revocation() Message {
	r := s.ring[s.rng.IntN(len(s.ring))]
	s.at = s.now
	switch s.rng.IntN(8) {
	case 0:
		if s.revoked != nil {
			lift := s.renew(s.revoked)
			lift.SetInt(event.RecordVersion, lift.Vals[event.RecordVersion].Int+1)
			lift.SetInt(event.RecordRevokedRevokedUpToVersion, 0)
			s.revoked = nil
			return s.finish(lift, Expected{End: model.Loaded})
		}
	case 1:
		r = s.sample("ServiceDelivered").Clone()
		s.held = append(s.held, r)
	}
	v := s.revoke(r)
	s.revoked = v.Clone()
	return s.finish(v, Expected{End: model.Loaded})
}

// revoke makes the revocation of a row that owns its memory.
func (s *Simulator) revoke(of *event.Row) *event.Row {
	r := s.begin("RecordRevoked", of.Vals[event.Source].Bytes, of.Vals[event.OrgCode].Bytes, "REV-")
	set(r, event.RecordRevokedRevokedSource, of.Vals[event.Source].Bytes)
	set(r, event.RecordRevokedRevokedSourceRecordID, of.Vals[event.SourceRecordID].Bytes)
	r.SetInt(event.RecordRevokedRevokedUpToVersion, of.Vals[event.RecordVersion].Int)
	s.anySymbol(r, event.RecordRevokedReason)
	if s.rng.IntN(2) == 0 {
		set(r, event.RecordRevokedRevokedType, []byte(of.Type.Name))
	}
	return r
}

// erasure erases a subject of one of the records sent; half of the time another fact about the
// subject, from before, comes after it.
func (s *Simulator) erasure() Message {
	for range 16 {
		r := s.ring[s.rng.IntN(len(s.ring))]
		if r.Type.Subject < 0 || r.Type.Name == "FeedbackRecorded" || r.Vals[r.Type.Subject].Null {
			continue
		}
		if s.rng.IntN(2) == 0 {
			late := s.renew(r)
			late.Set(event.SourceRecordID, fmt.Sprint("TARDI-", s.sent))
			s.held = append(s.held, late)
		}
		scope := string(r.Type.Family)
		if s.rng.IntN(5) == 0 {
			scope = "ALL"
		}
		s.at = s.now
		return s.finish(s.erase(r.Vals[event.Source].Bytes, r.Vals[r.Type.Subject].Bytes, scope), Expected{End: model.Loaded})
	}
	return s.correction()
}

func (s *Simulator) erase(source, pseudonym []byte, scope string) *event.Row {
	of := string(pseudonym) // begin may overwrite it
	r := s.begin("SubjectErased", source, milan, "CAN-")
	r.Set(event.SubjectErasedPseudonym, of)
	r.SetInt(event.SubjectErasedKeyEpoch, 1)
	symbol(r, event.SubjectErasedScope, scope)
	s.anySymbol(r, event.SubjectErasedGround)
	r.SetInt(event.SubjectErasedRequestedAt, s.at)
	r.SetInt(event.SubjectErasedDueBy, s.at+30*dayMs)
	return r
}

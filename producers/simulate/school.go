package simulate

import (
	"fmt"
	"math"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// schoolState is one of eight schools of Milan, half of them treated, and its session under way.
type schoolState struct {
	code     []byte
	treated  bool
	students uint64 // number of the first; each school has studentsPerSchool

	sessionID  []byte
	startsAt   int64
	minutes    int64
	left       int // attendances still to be recorded
	feedbackID []byte
}

const studentsPerSchool = 240

func newSchools() []schoolState {
	out := make([]schoolState, 8)
	for i := range out {
		out[i] = schoolState{
			code: fmt.Appendf(nil, "MIMM8A%d00%c", i+1, 'A'+i), treated: i%2 == 0,
			students: 1<<48 + uint64(i)*studentsPerSchool,
		}
	}
	return out
}

var (
	schoolSource = []byte("urn:welfare:f205:doposcuola")
	surveySource = []byte("urn:welfare:f205:indagine")
	milan        = []byte("F205")
)

// session holds an after-school session; its attendances follow.
func (s *Simulator) session() *event.Row {
	i := s.rng.IntN(len(s.schools))
	sc := &s.schools[i]
	r := s.begin("ActivitySessionHeld", schoolSource, milan, "SES-")
	kind := 1 + s.rng.Int64N(8)
	set(r, event.ActivitySessionHeldSchoolCode, sc.code)
	set(r, event.ActivitySessionHeldActivityID, s.numbered("ATT-", uint64(i*10)+uint64(kind)))
	sc.sessionID = append(sc.sessionID[:0], r.Vals[event.SourceRecordID].Bytes...)
	set(r, event.ActivitySessionHeldSessionID, r.Vals[event.SourceRecordID].Bytes)
	r.SetInt(event.ActivitySessionHeldActivityKind, kind)
	sc.startsAt, sc.minutes = s.at, 60+30*s.rng.Int64N(3)
	r.SetInt(event.ActivitySessionHeldStartsAt, sc.startsAt)
	r.SetInt(event.ActivitySessionHeldMinutes, sc.minutes)
	r.SetInt(event.ActivitySessionHeldSeats, 24)
	r.SetInt(event.ActivitySessionHeldStaff, 1+s.rng.Int64N(3))
	sc.left, s.school = 10+s.rng.IntN(15), i
	if s.rng.IntN(25) == 0 {
		r.SetInt(event.ActivitySessionHeldCancelled, 1)
		sc.left, s.school = 0, -1
	}
	return r
}

// attendance records one student of the session under way, or of the last one.
func (s *Simulator) attendance() *event.Row {
	sc := &s.schools[max(s.school, 0)]
	sc.left--
	if sc.left <= 0 {
		s.school = -1
	}
	if sc.sessionID == nil {
		sc.sessionID, sc.minutes = []byte("SES-0"), 60
	}
	r := s.begin("AttendanceRecorded", schoolSource, milan, "PRE-")
	set(r, event.AttendanceRecordedStudent, s.pseudonym(sc.students+uint64(s.rng.IntN(studentsPerSchool)), school))
	r.SetInt(event.AttendanceRecordedKeyEpoch, 1)
	set(r, event.AttendanceRecordedSchoolCode, sc.code)
	set(r, event.AttendanceRecordedSessionID, s.text(func(b []byte) []byte { return append(b, sc.sessionID...) }))
	switch n := s.rng.IntN(20); {
	case n < 14:
		symbol(r, event.AttendanceRecordedStatus, "PRESENT")
		r.SetInt(event.AttendanceRecordedMinutesPresent, sc.minutes)
	case n < 16:
		symbol(r, event.AttendanceRecordedStatus, "LATE")
		r.SetInt(event.AttendanceRecordedMinutesPresent, sc.minutes-5-s.rng.Int64N(20))
	case n < 19:
		symbol(r, event.AttendanceRecordedStatus, "ABSENT")
	default:
		symbol(r, event.AttendanceRecordedStatus, "EXCUSED")
	}
	return r
}

// evaluation lists indicators of AS-1 with their level and range.
var evaluation = [...]struct {
	code, level, unit string
	from, to          float64
}{
	{"AS01", "STUDENT", "share", 0, 1},
	{"AS03", "STUDENT", "hours", 0, 200},
	{"AS04", "SCHOOL", "share", 0, 1},
	{"AS05", "STUDENT", "mark", 4, 10},
	{"AS06", "STUDENT", "mark", 4, 10},
	{"AS07", "STUDENT", "mark", 4, 10},
	{"AS08", "STUDENT", "level", 1, 5},
	{"AS09", "STUDENT", "level", 1, 5},
	{"AS13", "SCHOOL", "share", 0, 1},
	{"AS15", "STUDENT", "score", 1, 5},
	{"AS16", "STUDENT", "score", 1, 5},
	{"AS18", "CLASS", "score", 1, 5},
	{"AS19", "CLASS", "share", 0, 1},
	{"AS20", "SCHOOL", "EUR", 2, 40},
	{"AS21", "SCHOOL", "days", 0, 60},
}

func (s *Simulator) indicator() *event.Row {
	sc := &s.schools[s.rng.IntN(len(s.schools))]
	e := &evaluation[s.rng.IntN(len(evaluation))]
	r := s.begin("IndicatorObserved", schoolSource, milan, "IND-")
	set(r, event.IndicatorObservedFrameworkID, []byte("AS-1"))
	r.SetInt(event.IndicatorObservedFrameworkVersion, 1)
	set(r, event.IndicatorObservedIndicatorCode, []byte(e.code))
	symbol(r, event.IndicatorObservedLevel, e.level)
	set(r, event.IndicatorObservedSchoolCode, sc.code)
	if e.level != "SCHOOL" {
		set(r, event.IndicatorObservedClassCode, s.numbered("2", 0)[:1])
	}
	if e.level == "STUDENT" {
		set(r, event.IndicatorObservedStudent, s.pseudonym(sc.students+uint64(s.rng.IntN(studentsPerSchool)), school))
	}
	arm, better := "CONTROL", 0.0
	if sc.treated {
		arm, better = "TREATED", 0.1
	}
	symbol(r, event.IndicatorObservedArm, arm)
	at := time.UnixMilli(s.at).UTC()
	year := at.Year()
	if at.Month() < 9 {
		year--
	}
	period := "BASELINE"
	switch m := at.Month(); {
	case m >= 5 && m < 9:
		period = "ENDLINE"
	case m < 5:
		period = "MIDLINE"
	}
	if period == "BASELINE" {
		better = 0
	}
	symbol(r, event.IndicatorObservedPeriod, period)
	set(r, event.IndicatorObservedSchoolYear, fmt.Appendf(nil, "%d/%02d", year, (year+1)%100))
	share := min(1, 0.3+0.5*s.rng.Float64()+better)
	r.Vals[event.IndicatorObservedValue] = event.Value{Float: math.Round((e.from+(e.to-e.from)*share)*100) / 100}
	if e.unit == "share" {
		r.Vals[event.IndicatorObservedDenominator] = event.Value{Float: 20 + float64(s.rng.IntN(10))}
	}
	set(r, event.IndicatorObservedUnit, []byte(e.unit))
	r.SetInt(event.IndicatorObservedObservedAt, day(s.at))
	return r
}

// feedback comes from students and families, and goes back to them as an answer.
func (s *Simulator) feedback() *event.Row {
	sc := &s.schools[s.rng.IntN(len(s.schools))]
	r := s.begin("FeedbackRecorded", schoolSource, milan, "FB-")
	set(r, event.FeedbackRecordedFeedbackID, r.Vals[event.SourceRecordID].Bytes)
	set(r, event.FeedbackRecordedSchoolCode, sc.code)
	set(r, event.FeedbackRecordedInstrumentID, []byte("Q-2024"))
	set(r, event.FeedbackRecordedItemCode, s.numbered("D", 1+uint64(s.rng.IntN(12))))
	r.SetInt(event.FeedbackRecordedSubmittedAt, s.at)
	switch n := s.rng.IntN(10); {
	case n < 6 || sc.feedbackID == nil:
		symbol(r, event.FeedbackRecordedDirection, "FROM_STUDENT")
		r.SetInt(event.FeedbackRecordedLikert, 1+s.rng.Int64N(5))
		set(r, event.FeedbackRecordedRespondent, s.text(func(b []byte) []byte { return s.appendHex(b, 32) }))
	case n < 8:
		symbol(r, event.FeedbackRecordedDirection, "FROM_FAMILY")
		set(r, event.FeedbackRecordedText, []byte("Le attività del pomeriggio aiutano con i compiti."))
	default:
		symbol(r, event.FeedbackRecordedDirection, "TO_STUDENT")
		set(r, event.FeedbackRecordedInReplyTo, s.text(func(b []byte) []byte { return append(b, sc.feedbackID...) }))
		set(r, event.FeedbackRecordedText, []byte("Grazie, abbiamo spostato l'orario."))
		set(r, event.FeedbackRecordedActionTaken, []byte("orario spostato alle 15"))
		return r
	}
	sc.feedbackID = append(sc.feedbackID[:0], r.Vals[event.FeedbackRecordedFeedbackID].Bytes...)
	return r
}

// survey is the interview under way: one child, all items of a framework.
type survey struct {
	left, items int
	person      uint64
	comune      int
	poor        bool
	milan       bool // MI-CP-1, else EU-CD17
}

// milanItems are the items of MI-CP-1; the first four describe the household.
var milanItems = [...]string{"ECO1", "ECO2", "HOU1", "HOU2", "HEA1", "HEA2", "EDU1", "EDU2", "DIG1", "DIG2", "LEI1", "LEI2", "CAR1", "CAR2"}

// deprivation asks the next item of the interview, and begins another one at its end.
func (s *Simulator) deprivation() *event.Row {
	v := &s.survey
	if v.left == 0 {
		*v = survey{left: 17, comune: s.anyComune(), poor: s.rng.IntN(7) == 0}
		if s.rng.IntN(3) == 0 {
			v.left, v.milan, v.comune = len(milanItems), true, s.milan()
		}
		v.items = v.left
		v.person = uint64(v.comune)*personsPerComune + uint64(s.rng.IntN(s.comuni[v.comune].total))
	}
	item := v.items - v.left
	v.left--
	r := s.begin("DeprivationObserved", surveySource, milan, "DEP-")
	s.subject(r, v.person, s.comuni[v.comune].code, 1, 15, poverty)
	unit, framework := "CHILD", []byte("EU-CD17")
	code := s.text(func(b []byte) []byte { return append(b, 'C', 'D', byte('0'+(item+1)/10), byte('0'+(item+1)%10)) })
	if v.milan {
		framework, code = []byte("MI-CP-1"), []byte(milanItems[item])
	}
	if v.milan && item < 4 || !v.milan && item >= 12 {
		unit = "HOUSEHOLD"
	}
	symbol(r, event.DeprivationObservedUnitKind, unit)
	at := time.UnixMilli(s.at).UTC()
	set(r, event.DeprivationObservedWave, fmt.Appendf(nil, "%dH%d", at.Year(), (int(at.Month())+5)/6))
	set(r, event.DeprivationObservedFrameworkID, framework)
	r.SetInt(event.DeprivationObservedFrameworkVersion, 1)
	set(r, event.DeprivationObservedIndicatorCode, code)
	lacks := 12
	if v.poor {
		lacks = 2
	}
	if s.rng.IntN(60) == 0 {
		r.SetInt(event.DeprivationObservedMissing, 1)
	} else if s.rng.IntN(lacks) == 0 {
		r.SetInt(event.DeprivationObservedDeprived, 1)
	}
	r.Vals[event.DeprivationObservedSampleWeight] = event.Value{Float: 0.5 + float64(v.person%16)/8}
	set(r, event.DeprivationObservedCluster, s.numbered("PSU", v.person%40))
	r.SetInt(event.DeprivationObservedObservedAt, day(s.at))
	return r
}

// milan is the index of the comune of Milan.
func (s *Simulator) milan() int {
	for i := range s.comuni {
		if string(s.comuni[i].code) == "015146" {
			return i
		}
	}
	return 0
}

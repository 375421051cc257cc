package simulate

import (
	"strconv"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// begin empties the row of an event and fills its header: a new record by source, of the kind that
// prefix names. The text of the row before is lost.
func (s *Simulator) begin(name string, source []byte, org []byte, prefix string) *event.Row {
	t := event.ByName(name)
	r := s.rows[t.No]
	r.Reset()
	s.arena = s.arena[:0]
	s.counters[t.No]++
	n := s.counters[t.No]
	set(r, event.EventID, s.uuid())
	set(r, event.Source, source)
	set(r, event.SourceRecordID, s.numbered(prefix, n))
	r.SetInt(event.RecordVersion, 1)
	r.SetInt(event.OccurredAt, s.at)
	r.SetInt(event.RecordedAt, s.now)
	set(r, event.OrgCode, org)
	if n%64 == 0 {
		set(r, event.Traceparent, s.text(func(b []byte) []byte {
			b = append(b, "00-"...)
			b = s.appendHex(b, 16)
			b = append(b, '-')
			b = s.appendHex(b, 8)
			return append(b, "-01"...)
		}))
	}
	return r
}

func set(r *event.Row, i int, b []byte) { r.Vals[i] = event.Value{Bytes: b} }

// symbol sets an enum field by its symbol.
func symbol(r *event.Row, i int, name string) {
	for n, sym := range r.Type.Fields[i].Symbols {
		if sym == name {
			r.SetInt(i, int64(n))
			return
		}
	}
	panic("BUG: " + r.Type.Name + " has no symbol " + name)
}

// anySymbol sets an enum field to any symbol but UNKNOWN.
func (s *Simulator) anySymbol(r *event.Row, i int) {
	r.SetInt(i, 1+s.rng.Int64N(int64(len(r.Type.Fields[i].Symbols)-1)))
}

// text builds a text in the arena. What is there already stays valid.
func (s *Simulator) text(build func([]byte) []byte) []byte {
	from := len(s.arena)
	s.arena = build(s.arena)
	return s.arena[from:len(s.arena):len(s.arena)]
}

func (s *Simulator) numbered(prefix string, n uint64) []byte {
	from := len(s.arena)
	s.arena = strconv.AppendUint(append(s.arena, prefix...), n, 10)
	return s.arena[from:len(s.arena):len(s.arena)]
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// uuid is shaped as version 7: the simulated time, then random bits.
func (s *Simulator) uuid() []byte {
	var id [16]byte
	hi, lo := s.rng.Uint64(), s.rng.Uint64()
	for i := range 6 {
		id[i] = byte(s.now >> (40 - 8*i))
	}
	id[6], id[7] = 0x70|byte(hi>>8)&0x0f, byte(hi)
	for i := range 8 {
		id[8+i] = byte(lo >> (56 - 8*i))
	}
	id[8] = id[8]&0x3f | 0x80
	return s.text(func(b []byte) []byte { return event.AppendUUID(b, &id) })
}

// appendHex appends n random bytes in hexadecimal digits.
func (s *Simulator) appendHex(b []byte, n int) []byte {
	for range n / 8 {
		b = appendHex64(b, s.rng.Uint64())
	}
	return b
}

func appendHex64(b []byte, x uint64) []byte {
	const digits = "0123456789abcdef"
	for i := 60; i >= 0; i -= 4 {
		b = append(b, digits[x>>i&15])
	}
	return b
}

// purpose separates pseudonyms of one person.
type purpose uint64

const (
	demand purpose = iota + 1
	poverty
	school
)

// pseudonym stands for the keyed hash of a person under a purpose: 64 hexadecimal digits.
func (s *Simulator) pseudonym(person uint64, p purpose) []byte {
	x := person*4 + uint64(p) + s.cfg.Seed<<32
	return s.text(func(b []byte) []byte {
		for range 4 {
			x = mix(x)
			b = appendHex64(b, x)
		}
		return b
	})
}

// mix is the step of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Indexes of the subject, which comes first after the header wherever there is one.
const (
	subjectPseudonym = iota + event.HeaderFields
	subjectKeyEpoch
	subjectHousehold
	subjectBirthYear
	subjectSex
	subjectCitizenship
	subjectComune
	subjectIsee
)

// subject fills in who a fact is about. All but the comune follow from the person's number.
func (s *Simulator) subject(r *event.Row, person uint64, comune []byte, ageFrom, ageTo int, p purpose) {
	x := mix(person)
	set(r, subjectPseudonym, s.pseudonym(person, p))
	r.SetInt(subjectKeyEpoch, 1)
	if x%8 != 0 {
		set(r, subjectHousehold, s.pseudonym(person-person%3, p)) // the head of the household is one of its members
	}
	r.SetInt(subjectBirthYear, int64(2024-ageFrom)-int64(x>>8%uint64(ageTo-ageFrom+1)))
	r.SetInt(subjectSex, 1+int64(x>>16&1))
	r.SetInt(subjectCitizenship, 1)
	if x>>20%8 == 0 {
		r.SetInt(subjectCitizenship, 2+int64(x>>24%2))
	}
	set(r, subjectComune, comune)
	r.SetInt(subjectIsee, 1+int64(x>>32%9))
}

// day is the date of an instant, in days since 1970; dates are taken in UTC, which is a day of the record's own.
func day(ms int64) int64 { return time.UnixMilli(ms).UTC().Unix() / 86400 }

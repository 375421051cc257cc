package aggregate

import (
	"iter"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// readColumns are those of store.facts that a fact is made of.
const readColumns = `reinterpretAsFixedString(grp), reinterpretAsFixedString(rec), type, partition, offset, version,
		toUnixTimestamp64Milli(occurred_at), toUnixTimestamp64Milli(instant), toString(source), source_record_id, comune,
		toString(nomenclature), toString(area), kind, toString(unit), reinterpretAsFixedString(svc), sid,
		toInt64(a * 1000), toInt64(b * 1000), toInt32(valid_from), toInt32(valid_to), gone`

// factScanner reads rows of readColumns. Texts that facts have in common are in memory once.
type factScanner struct{ texts map[string]string }

func newFactScanner() *factScanner { return &factScanner{map[string]string{}} }

// maxTexts bounds what a scanner keeps.
const maxTexts = 1 << 16

func (s *factScanner) intern(text string) string {
	if one, ok := s.texts[text]; ok {
		return one
	}
	if len(s.texts) < maxTexts {
		s.texts[text] = text
	}
	return text
}

// scan reads a row, and tells whether it is a tombstone.
func (s *factScanner) scan(rows driver.Rows, f *fact) (gone bool, err error) {
	var tombstone uint8
	if err := rows.Scan(&f.grp, &f.rec, &f.no, &f.partition, &f.offset, &f.version, &f.occurred, &f.instant, &f.source, &f.sourceRecord, &f.comune,
		&f.service.nomenclature, &f.service.area, &f.kind, &f.unit, &f.offer, &f.serviceID, &f.a, &f.b, &f.from, &f.to, &tombstone); err != nil {
		return false, err
	}
	f.comune = s.intern(strings.TrimRight(f.comune, "\x00"))
	f.source, f.unit = s.intern(f.source), s.intern(f.unit)
	f.service.nomenclature, f.service.area = s.intern(f.service.nomenclature), s.intern(f.service.area)
	return tombstone == 1, nil
}

// UnmarshalBinary takes the bytes of a FixedString.
func (i *id) UnmarshalBinary(b []byte) error {
	*i = id{}
	copy(i[:], b)
	return nil
}

// eachGroup are the facts of each group; they come sorted by group.
func eachGroup(facts []fact) iter.Seq[[]fact] {
	return func(yield func([]fact) bool) {
		for len(facts) > 0 {
			n := 1
			for n < len(facts) && facts[n].grp == facts[0].grp {
				n++
			}
			if !yield(facts[:n:n]) {
				return
			}
			facts = facts[n:]
		}
	}
}

// sortByGroup returns facts in the order of their groups.
func sortByGroup(facts []fact) []fact {
	order := make([]int32, len(facts))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(x, y int32) int { return facts[x].grp.compare(facts[y].grp) })
	out := make([]fact, len(facts))
	for i, j := range order {
		out[i] = facts[j]
	}
	return out
}

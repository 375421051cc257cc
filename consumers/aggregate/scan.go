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

// factScanner reads rows of readColumns. Labels are in memory once.
type factScanner struct {
	labels map[labels]*labels
	next   labels
}

func newFactScanner() *factScanner { return &factScanner{labels: map[labels]*labels{}} }

// maxLabels bounds what a scanner keeps.
const maxLabels = 1 << 16

func (s *factScanner) intern() *labels {
	if one, ok := s.labels[s.next]; ok {
		return one
	}
	one := s.next
	if len(s.labels) < maxLabels {
		s.labels[one] = &one
	}
	return &one
}

// scan reads a row, and tells whether it is a tombstone.
func (s *factScanner) scan(rows driver.Rows, f *fact) (gone bool, err error) {
	var tombstone uint8
	if err := rows.Scan(&f.grp, &f.rec, &f.no, &f.partition, &f.offset, &f.version, &f.occurred, &f.instant, &s.next.source, &f.sourceRecord, &s.next.comune,
		&s.next.service.nomenclature, &s.next.service.area, &f.kind, &s.next.unit, &f.offer, &f.serviceID, &f.a, &f.b, &f.from, &f.to, &tombstone); err != nil {
		return false, err
	}
	s.next.comune = strings.TrimRight(s.next.comune, "\x00")
	f.labels = s.intern()
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

// sortByGroup brings facts into the order of their groups.
func sortByGroup(facts []fact) {
	order := make([]int32, len(facts)) // which fact comes to each place; then -1 where it is there
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(x, y int32) int { return facts[x].grp.compare(facts[y].grp) })
	for i := range order {
		if order[i] < 0 {
			continue
		}
		first := facts[i]
		at := int32(i)
		for from := order[at]; from != int32(i); from = order[at] {
			facts[at], order[at] = facts[from], -1
			at = from
		}
		facts[at], order[at] = first, -1
	}
}

package publish

import (
	"cmp"
	"slices"
	"sync"
)

// Partition is a partition of a topic.
type Partition struct {
	Topic string
	No    int
}

// Range is [From, To) of a partition.
type Range struct{ From, To int64 }

// Positions are the offsets that Kafka gave to what was published, as ranges. Others publish too, so a
// partition may have many; where this publisher is alone it has one. Safe for concurrent use.
type Positions struct {
	mu    sync.Mutex
	parts map[Partition][]Range
}

// add notes offset as published. Offsets of a partition come in order, save after a retry.
func (p *Positions) add(part Partition, offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parts == nil {
		p.parts = map[Partition][]Range{}
	}
	r := p.parts[part]
	if n := len(r); n > 0 && r[n-1].To == offset {
		r[n-1].To++
		return
	}
	p.parts[part] = append(r, Range{offset, offset + 1})
}

// Partitions are those that were published to, in order.
func (p *Positions) Partitions() []Partition {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Partition, 0, len(p.parts))
	for part := range p.parts {
		out = append(out, part)
	}
	slices.SortFunc(out, func(a, b Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.No, b.No))
	})
	return out
}

// Ranges are the offsets of one partition, in order. The caller owns the slice.
func (p *Positions) Ranges(part Partition) []Range {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(p.parts[part])
	slices.SortFunc(out, func(a, b Range) int { return cmp.Compare(a.From, b.From) })
	return out
}

// Bounds are the first offset of a partition and the one after the last.
func (p *Positions) Bounds(part Partition) Range {
	r := p.Ranges(part)
	if len(r) == 0 {
		return Range{}
	}
	return Range{r[0].From, r[len(r)-1].To}
}

// contains tells whether one of the sorted ranges holds offset.
func contains(ranges []Range, offset int64) bool {
	i, _ := slices.BinarySearchFunc(ranges, offset, func(r Range, o int64) int {
		if r.To <= o {
			return -1
		}
		return 1
	})
	return i < len(ranges) && ranges[i].From <= offset
}

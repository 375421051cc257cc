// Package dedup answers, in memory, whether an event may have been stored before, so that the loader
// asks ClickHouse only about the few that may. It never says "new" of an id that was added.
package dedup

import "encoding/binary"

// Filter is a blocked Bloom filter that grows: 16 bits per id, about 0.1 % false positives, two bytes
// of memory per id (up to twice that just after it grew). The zero value is empty and ready. Ids must
// be hashes (event.IDHash): their bits are used as they are. Not safe for concurrent use.
type Filter struct {
	segments []segment
	n        int
}

// segment holds up to limit ids. Each id sets eight bits within one 64-byte block.
type segment struct {
	blocks [][8]uint64
	n      int
	limit  int
}

const (
	firstLimit = 1 << 16 // ids of the first segment: 128 KiB
	lastLimit  = 1 << 25 // ids of the largest segments: 64 MiB each
	perBlock   = 32      // ids per 512-bit block: 16 bits each
)

// Len is the number of ids added, repeats that the filter took for known not counted.
func (f *Filter) Len() int { return f.n }

// Bytes is the memory of the filter.
func (f *Filter) Bytes() int {
	total := 0
	for i := range f.segments {
		total += len(f.segments[i].blocks) * 64
	}
	return total
}

// Has tells whether id may have been added.
func (f *Filter) Has(id *[16]byte) bool {
	block := binary.LittleEndian.Uint64(id[:8])
	bits := binary.LittleEndian.Uint64(id[8:])
	for i := range f.segments {
		if f.segments[i].has(block, bits) {
			return true
		}
	}
	return false
}

// TestAndAdd adds id and tells whether it may have been added before.
func (f *Filter) TestAndAdd(id *[16]byte) bool {
	if f.Has(id) {
		return true
	}
	block := binary.LittleEndian.Uint64(id[:8])
	bits := binary.LittleEndian.Uint64(id[8:])
	last := len(f.segments) - 1
	if last < 0 || f.segments[last].n >= f.segments[last].limit {
		limit := firstLimit
		if last >= 0 {
			limit = min(2*f.segments[last].limit, lastLimit)
		}
		f.segments = append(f.segments, segment{blocks: make([][8]uint64, limit/perBlock), limit: limit})
		last++
	}
	f.segments[last].add(block, bits)
	f.n++
	return false
}

// mask is the bit that an id sets in one of the eight words of its block: byte word of bits names it.
func mask(bits uint64, word int) uint64 {
	return 1 << ((bits >> (word * 8)) & 63)
}

func (s *segment) has(block, bits uint64) bool {
	b := &s.blocks[block&uint64(len(s.blocks)-1)]
	for w := range b {
		if b[w]&mask(bits, w) == 0 {
			return false
		}
	}
	return true
}

func (s *segment) add(block, bits uint64) {
	b := &s.blocks[block&uint64(len(s.blocks)-1)]
	for w := range b {
		b[w] |= mask(bits, w)
	}
	s.n++
}

package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

func id(n int) *[16]byte {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	sum := sha256.Sum256(b[:])
	return (*[16]byte)(sum[:16])
}

func TestFilterNeverForgets(t *testing.T) {
	const n = 300_000 // over several segments
	var f Filter
	false1 := 0
	for i := range n {
		if f.TestAndAdd(id(i)) {
			false1++
		}
	}
	for i := range n {
		if !f.Has(id(i)) {
			t.Fatalf("the filter does not have id %d, which was added", i)
		}
		if !f.TestAndAdd(id(i)) {
			t.Fatalf("id %d is taken for new after it was added", i)
		}
	}
	if f.Len() != n-false1 {
		t.Errorf("Len %d, want %d", f.Len(), n-false1)
	}
	unknown := 0
	for i := n; i < 2*n; i++ {
		block, bits := binary.LittleEndian.Uint64(id(i)[:8]), binary.LittleEndian.Uint64(id(i)[8:])
		for s := range f.segments {
			if f.segments[s].has(block, bits) {
				unknown++
				break
			}
		}
	}
	if rate := float64(unknown) / n; rate > 0.01 {
		t.Errorf("%.4f of unknown ids are taken for known", rate)
	}
	if perID := float64(f.Bytes()) / n; perID > 5 {
		t.Errorf("%.1f bytes per id", perID)
	}
}

func BenchmarkFilterTestAndAdd(b *testing.B) {
	var f Filter
	ids := make([][16]byte, 1<<16)
	for i := range ids {
		ids[i] = *id(i)
	}
	n := 0
	for b.Loop() {
		k := ids[n&(1<<16-1)]
		binary.LittleEndian.PutUint32(k[4:], uint32(n>>16))
		f.TestAndAdd(&k)
		n++
	}
}

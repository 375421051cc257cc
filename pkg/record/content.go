package record

import "github.com/welfarehub/welfarehub/pkg/event"

// SameContent tells whether the event in Row, of which v is the verdict, says what is stored under its id: a
// content hash, and the version of the event's schema at which it was made. What an older release stored is
// compared by what it knew. Where a newer one stored it, and the event may have what we cannot read, we
// cannot tell: it is no conflict.
func (r *Reader) SameContent(h *event.Hasher, v *Verdict, stored [32]byte, version int) bool {
	if version > r.t.Version && v.Newer {
		return true
	}
	return h.SumAt(r.Row, min(version, r.t.Version)) == stored
}

package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
)

// ParseUUID reads the canonical form of a UUID, 36 characters, in either case.
func ParseUUID(s []byte) (id [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	var digits [32]byte
	copy(digits[0:], s[0:8])
	copy(digits[8:], s[9:13])
	copy(digits[12:], s[14:18])
	copy(digits[16:], s[19:23])
	copy(digits[20:], s[24:36])
	_, err := hex.Decode(id[:], digits[:])
	return id, err == nil
}

// AppendUUID appends the text of a UUID in its canonical form, in lower case.
func AppendUUID(dst []byte, id *[16]byte) []byte {
	dst = append(hex.AppendEncode(dst, id[:4]), '-')
	dst = append(hex.AppendEncode(dst, id[4:6]), '-')
	dst = append(hex.AppendEncode(dst, id[6:8]), '-')
	dst = append(hex.AppendEncode(dst, id[8:10]), '-')
	return hex.AppendEncode(dst, id[10:])
}

// IDHash is the key of the identity (topic, source, eventId): the first 16 bytes of SHA-256 over
// topic, 0, source, 0 and the 16 bytes of the UUID. Sixteen bytes of a cryptographic hash make a
// chance collision among 10^12 events less likely than 10^-14, so the hub takes equal hashes as equal
// identities.
func IDHash(dst *[16]byte, topic string, source []byte, eventID [16]byte) {
	var stack [256]byte
	buf := append(stack[:0], topic...)
	buf = append(buf, 0)
	buf = append(buf, source...)
	buf = append(buf, 0)
	buf = append(buf, eventID[:]...)
	sum := sha256.Sum256(buf)
	copy(dst[:], sum[:])
}

// Hasher computes content hashes, reusing its buffer. Not safe for concurrent use.
type Hasher struct{ buf []byte }

// Sum is the SHA-256 of the content of the event: every field that differs from its default, in the
// order of their names, save eventId (the key under which contents are compared), recordedAt and
// traceparent. A field that the schema gains later, with a default, so leaves the hash of events
// that do not carry it as it was. It is stored with Type.Version, at which it was made.
func (h *Hasher) Sum(r *Row) [32]byte { return h.SumAt(r, r.Type.Version) }

// SumAt is the Sum that a program at an earlier version of the event's schema makes: without the fields
// that came later, and with UNKNOWN for symbols that did. Fields that were renamed keep their new name.
func (h *Hasher) SumAt(r *Row, version int) [32]byte {
	b := h.buf[:0]
	for _, i := range r.Type.byNameOrder {
		if i == EventID || i == RecordedAt || i == Traceparent {
			continue
		}
		f, v := &r.Type.Fields[i], &r.Vals[i]
		if v.Null || f.Since > version || f.HasDef && isDefault(f, v) {
			continue
		}
		b = append(b, f.Name...)
		b = append(b, 0)
		switch f.Kind {
		case String, UUID, Bytes:
			b = binary.AppendUvarint(b, uint64(len(v.Bytes)))
			b = append(b, v.Bytes...)
		case Double:
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float))
		case Enum:
			s := f.Symbols[v.Int]
			if f.symbolSince[v.Int] > version {
				s = f.Symbols[0]
			}
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		case Strings:
			b = binary.AppendUvarint(b, uint64(len(v.List)))
			for _, s := range v.List {
				b = binary.AppendUvarint(b, uint64(len(s)))
				b = append(b, s...)
			}
		default:
			b = binary.AppendVarint(b, v.Int)
		}
	}
	h.buf = b
	return sha256.Sum256(b)
}

func isDefault(f *Field, v *Value) bool {
	if f.Default.Null {
		return v.Null
	}
	switch f.Kind {
	case Double:
		return v.Float == f.Default.Float
	case Strings:
		return len(v.List) == 0
	case Bool, Enum:
		return v.Int == f.Default.Int
	}
	return false
}

// ContentHash is Hasher.Sum for callers off the hot path.
func (r *Row) ContentHash() [32]byte {
	var h Hasher
	return h.Sum(r)
}

package event

import (
	"strconv"
	"strings"
	"time"
)

// Value is one leaf value of an event. Which member holds it depends on the Kind of its field.
type Value struct {
	Null    bool     // null in the union
	Unknown bool     // Enum: the writer's symbol is not in our schema and was read as UNKNOWN (flag W90)
	Int     int64    // Enum, Bool, Int, Long, Date, Timestamp, Decimal
	Float   float64  // Double
	Bytes   []byte   // String, UUID, Bytes
	List    [][]byte // Strings
}

// Row is one event, its values in the order of Type.Fields. Byte slices of a decoded row alias the
// message that it was decoded from: they are valid while that message is, and a caller who keeps
// them longer copies them. Reset and reuse a Row to decode without allocation.
type Row struct {
	Type *Type
	Vals []Value
}

// NewRow returns an empty row of type t: every nullable field null, all else zero.
func NewRow(t *Type) *Row {
	r := &Row{Type: t, Vals: make([]Value, len(t.Fields))}
	r.Reset()
	return r
}

// Reset empties the row for its next use and drops its references.
func (r *Row) Reset() {
	for i := range r.Vals {
		v := &r.Vals[i]
		list := v.List
		for j := range list {
			list[j] = nil
		}
		*v = Value{Null: r.Type.Fields[i].Nullable, List: list[:0]}
	}
}

// Str returns a String or UUID field as text; a null one is empty. It allocates: not for the hot path.
func (r *Row) Str(i int) string { return string(r.Vals[i].Bytes) }

// Symbol returns the symbol of an Enum field.
func (r *Row) Symbol(i int) string { return r.Type.Fields[i].Symbols[r.Vals[i].Int] }

// Is tells whether an Enum field has the given symbol. A symbol read as UNKNOWN is UNKNOWN.
func (r *Row) Is(i int, symbol string) bool { return r.Symbol(i) == symbol }

// Time returns a Timestamp or Date field as a time in UTC.
func (r *Row) Time(i int) time.Time {
	if r.Type.Fields[i].Kind == Date {
		return time.Unix(r.Vals[i].Int*86400, 0).UTC()
	}
	return time.UnixMilli(r.Vals[i].Int).UTC()
}

// Set puts text into a String, UUID or Bytes field.
func (r *Row) Set(i int, s string) { r.Vals[i] = Value{Bytes: []byte(s)} }

// SetInt puts a number into an Enum, Bool, Int, Long, Date, Timestamp or Decimal (unscaled) field.
func (r *Row) SetInt(i int, n int64) { r.Vals[i] = Value{Int: n} }

// SetNull makes a nullable field null.
func (r *Row) SetNull(i int) { r.Vals[i] = Value{Null: true} }

// Clone returns a row that shares no memory with r.
func (r *Row) Clone() *Row {
	out := &Row{Type: r.Type, Vals: make([]Value, len(r.Vals))}
	for i, v := range r.Vals {
		if v.Bytes != nil {
			v.Bytes = append([]byte{}, v.Bytes...)
		}
		if v.List != nil {
			list := make([][]byte, len(v.List))
			for j, b := range v.List {
				list[j] = append([]byte{}, b...)
			}
			v.List = list
		}
		out.Vals[i] = v
	}
	return out
}

// AppendDecimal appends unscaled/10^scale in plain decimal notation, for example 101.23.
func AppendDecimal(dst []byte, unscaled int64, scale int) []byte {
	if scale == 0 {
		return strconv.AppendInt(dst, unscaled, 10)
	}
	if unscaled < 0 {
		dst = append(dst, '-')
	}
	u := uint64(unscaled)
	if unscaled < 0 {
		u = -u
	}
	s := strconv.FormatUint(u, 10)
	if len(s) <= scale {
		s = strings.Repeat("0", scale+1-len(s)) + s
	}
	dst = append(dst, s[:len(s)-scale]...)
	dst = append(dst, '.')
	return append(dst, s[len(s)-scale:]...)
}

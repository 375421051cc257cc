package record

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// Stored reads the rows of a storage table back into events: the inverse of Columns. It promises that the
// event of a loaded row has the content that was loaded, so that its hash can be made again; what an erasure
// took out is null. Not safe for concurrent use.
type Stored struct {
	Row *event.Row // the event of the last Fill

	cells []stored
}

// stored is a column as it is scanned: where there is a null, the pointer is nil.
type stored struct {
	field   *event.Field
	text    *string
	number  *int64
	decimal *float64
	list    []string
}

// NewStored returns a reader of the storage table of t.
func NewStored(t *event.Type) *Stored {
	s := &Stored{Row: event.NewRow(t), cells: make([]stored, len(t.Fields))}
	for i := range t.Fields {
		s.cells[i].field = &t.Fields[i]
	}
	return s
}

// Select is the list of expressions whose values Dest takes, in the order of the fields.
func (s *Stored) Select() string {
	parts := make([]string, len(s.cells))
	for i := range s.cells {
		f := s.cells[i].field
		column := "`" + f.Column + "`"
		switch f.Kind {
		case event.Enum, event.Bool, event.Int, event.Long, event.Date:
			parts[i] = "CAST(" + column + ", 'Nullable(Int64)')"
			if f.Kind == event.Enum {
				parts[i] = "CAST(CAST(" + column + ", 'Nullable(Int8)'), 'Nullable(Int64)')"
			}
			if f.Kind == event.Date {
				parts[i] = "CAST(toInt32(" + column + "), 'Nullable(Int64)')"
			}
		case event.Timestamp:
			parts[i] = "CAST(toUnixTimestamp64Milli(" + column + "), 'Nullable(Int64)')"
		case event.Decimal:
			parts[i] = fmt.Sprintf("CAST(%s * %d, 'Nullable(Int64)')", column, int64(math.Pow10(f.Scale)))
		case event.Double:
			parts[i] = "CAST(" + column + ", 'Nullable(Float64)')"
		case event.Strings:
			parts[i] = column
		default:
			parts[i] = "CAST(" + column + ", 'Nullable(String)')"
		}
	}
	return strings.Join(parts, ", ")
}

// Dest are the places to scan a row into.
func (s *Stored) Dest() []any {
	out := make([]any, len(s.cells))
	for i := range s.cells {
		c := &s.cells[i]
		switch c.field.Kind {
		case event.Enum, event.Bool, event.Int, event.Long, event.Date, event.Timestamp, event.Decimal:
			out[i] = &c.number
		case event.Double:
			out[i] = &c.decimal
		case event.Strings:
			out[i] = &c.list
		default:
			out[i] = &c.text
		}
	}
	return out
}

// Fill puts what was scanned into Row. It tells whether each value is one that its field can have: a number
// may be none of an enum's.
func (s *Stored) Fill() (whole bool) {
	whole = true
	for i := range s.cells {
		c, v := &s.cells[i], &s.Row.Vals[i]
		f := c.field
		*v = event.Value{List: v.List[:0]}
		switch f.Kind {
		case event.Enum, event.Bool, event.Int, event.Long, event.Date, event.Timestamp, event.Decimal:
			if v.Null = c.number == nil; !v.Null {
				v.Int = *c.number
			}
			if f.Kind == event.Enum && (v.Int < 0 || v.Int >= int64(len(f.Symbols))) {
				v.Int, whole = 0, false
			}
		case event.Double:
			if v.Null = c.decimal == nil; !v.Null {
				v.Float = *c.decimal
			}
		case event.Strings:
			for _, item := range c.list {
				v.List = append(v.List, []byte(item))
			}
		default:
			if v.Null = c.text == nil; v.Null {
				break
			}
			switch {
			case clickhouse.IsPseudonym(*f):
				var raw [32]byte
				copy(raw[:], *c.text) // zero bytes at its end may have been cut
				v.Bytes = hex.AppendEncode(nil, raw[:])
			case f.Name == "comuneCode":
				v.Bytes = bytes.TrimRight([]byte(*c.text), "\x00")
			default:
				v.Bytes = []byte(*c.text)
			}
		}
		if v.Null && !f.Nullable {
			whole = false
		}
	}
	return whole
}

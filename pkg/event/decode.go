package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/hamba/avro/v2"
)

// ErrOtherEvent says that a writer schema describes another event than the topic's (code P08).
var ErrOtherEvent = errors.New("schema of another event")

// DecodeError says why a value cannot be read. Code is P04 (cannot be decoded), P05 (bytes left over),
// P07 (invalid UTF-8) or P09 (time out of range); it never holds the value.
type DecodeError struct {
	Code    string
	Field   string // dotted path; empty where no field is to blame
	Problem string
}

func (e *DecodeError) Error() string {
	if e.Field == "" {
		return e.Code + ": " + e.Problem
	}
	return e.Code + ": field " + e.Field + ": " + e.Problem
}

// Bounds of Timestamp and Date values (code P09), inclusive and exclusive: years 1900 to 2200.
const (
	minMillis = -2208988800000 // 1900-01-01T00:00:00Z
	maxMillis = 7289654400000  // 2201-01-01T00:00:00Z
	dayMillis = 86400000
)

// Decoder reads values written with one schema into rows of one type, by Avro's schema resolution:
// fields matched by name or by our alias, unknown ones skipped, missing ones set to their default, numbers
// promoted, unknown enum symbols read as UNKNOWN. A logical type that means something else than ours does
// not resolve, though its bytes would. It is safe for concurrent use.
type Decoder struct {
	typ      *Type
	ops      []op
	defaults []int // fields that the writer lacks
	unknown  bool  // the writer has fields that we lack
	records  map[*avro.RecordSchema]*skipped
}

// op reads one value of the writer. dst is the field to set, or -1 to skip it.
type op struct {
	read     reader
	dst      int
	narrow   bool     // a number of 32 bits
	symbols  []int64  // enum: reader's index of each writer symbol, -1 unknown
	branches []op     // union: one op per branch; array and map: the item
	record   *skipped // record that is skipped
	size     int      // fixed: bytes
	divide   int64    // timestamp: writer's units per millisecond, 0 or 1: milliseconds
	problem  string   // of a branch that cannot be read
}

// skipped is a record that we lack. It may hold itself.
type skipped struct{ fields []op }

type reader uint8

const (
	readNull reader = iota
	readBool
	readLong
	readFloat
	readDouble
	readBytes
	readFixed
	readEnum
	readUnion
	readArray
	readMap
	readRecord
	readRefused // a branch of a union that does not resolve: an error where it comes
)

// Decode reads data, an Avro value without frame, into row, which it resets first. The row's bytes
// alias data. On error the row holds the fields read so far. All errors are *DecodeError.
func (d *Decoder) Decode(data []byte, row *Row) error {
	row.Reset()
	for _, i := range d.defaults {
		f := &d.typ.Fields[i]
		v := &row.Vals[i]
		v.Null, v.Int, v.Float = f.Default.Null, f.Default.Int, f.Default.Float
	}
	r := input{data: data, row: row, budget: emptyItems + itemsPerByte*len(data)}
	for i := range d.ops {
		if err := r.run(&d.ops[i]); err != nil {
			return err
		}
	}
	if r.pos != len(data) {
		return &DecodeError{Code: "P05", Problem: fmt.Sprintf("%d bytes left over after the value", len(data)-r.pos)}
	}
	return nil
}

// A value that we skip may hold items that take no byte, nested, so that a few bytes name more of them than
// anyone can count through; and a schema that holds itself, nested without end. What is allowed is more than
// any sender needs.
const (
	emptyItems   = 4096 // items and fields of skipped records, besides
	itemsPerByte = 8    // as many for each byte of the value
	maxDepth     = 256  // nested values
)

// input is the state of one decoding. It stays on the stack.
type input struct {
	data   []byte
	pos    int
	row    *Row
	budget int // items and fields that may still come
	depth  int
}

func (r *input) fail(o *op, problem string) error {
	e := &DecodeError{Code: "P04", Problem: problem}
	if o.dst >= 0 {
		e.Field = r.row.Type.Fields[o.dst].Path
	}
	return e
}

func (r *input) long() (int64, bool) {
	u, n := binary.Uvarint(r.data[r.pos:])
	if n <= 0 {
		return 0, false
	}
	r.pos += n
	return int64(u>>1) ^ -int64(u&1), true
}

// int reads an Avro int: five bytes at most.
func (r *input) int() (int64, bool) {
	at := r.pos
	n, ok := r.long()
	return n, ok && r.pos-at <= binary.MaxVarintLen32 && n == int64(int32(n))
}

func (r *input) take(n int64) ([]byte, bool) {
	if n < 0 || n > int64(len(r.data)-r.pos) {
		return nil, false
	}
	b := r.data[r.pos : r.pos+int(n) : r.pos+int(n)]
	r.pos += int(n)
	return b, true
}

func (r *input) run(o *op) error {
	switch o.read {
	case readRefused:
		return r.fail(o, o.problem)
	case readNull:
		if o.dst >= 0 {
			r.row.Vals[o.dst].Null = true
		}
	case readBool:
		b, ok := r.take(1)
		if !ok || b[0] > 1 {
			return r.fail(o, "not a boolean")
		}
		r.setInt(o, int64(b[0]))
	case readLong:
		if o.narrow {
			n, ok := r.int()
			if !ok {
				return r.fail(o, "cut short, or a number that does not fit 32 bits")
			}
			return r.number(o, n)
		}
		n, ok := r.long()
		if !ok {
			return r.fail(o, "cut short or overlong number")
		}
		return r.number(o, n)
	case readFloat, readDouble:
		return r.float(o)
	case readBytes:
		n, ok := r.long()
		if !ok {
			return r.fail(o, "cut short or overlong length")
		}
		b, ok := r.take(n)
		if !ok {
			return r.fail(o, "length is negative or beyond the end of the value")
		}
		if o.dst >= 0 {
			return r.bytes(o, b)
		}
	case readFixed:
		b, ok := r.take(int64(o.size))
		if !ok {
			return r.fail(o, "cut short")
		}
		if o.dst >= 0 {
			return r.bytes(o, b)
		}
	case readEnum:
		n, ok := r.int()
		if !ok || n < 0 || n >= int64(len(o.symbols)) {
			return r.fail(o, "enum index out of range")
		}
		if o.dst >= 0 {
			v := &r.row.Vals[o.dst]
			v.Null, v.Int = false, o.symbols[n]
			if v.Int < 0 {
				v.Int, v.Unknown = 0, true
			}
		}
	case readUnion:
		n, ok := r.long()
		if !ok || n < 0 || n >= int64(len(o.branches)) {
			return r.fail(o, "union index out of range")
		}
		return r.run(&o.branches[n])
	case readArray, readMap, readRecord:
		if r.depth++; r.depth > maxDepth {
			return r.fail(o, fmt.Sprintf("nests deeper than %d", maxDepth))
		}
		defer func() { r.depth-- }()
		if o.read != readRecord {
			return r.blocks(o)
		}
		if !r.spend(int64(len(o.record.fields))) {
			return r.fail(o, tooMany)
		}
		for i := range o.record.fields {
			if err := r.run(&o.record.fields[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// tooMany is the problem of a value that spend refuses.
const tooMany = "more items than the value has bytes"

// spend takes n items off the budget; false where that is too many.
func (r *input) spend(n int64) bool {
	if n > int64(r.budget) {
		return false
	}
	r.budget -= int(n)
	return true
}

func (r *input) setInt(o *op, n int64) {
	if o.dst >= 0 {
		v := &r.row.Vals[o.dst]
		v.Null, v.Int = false, n
	}
}

func (r *input) number(o *op, n int64) error {
	if o.dst < 0 {
		return nil
	}
	f := &r.row.Type.Fields[o.dst]
	switch f.Kind {
	case Date:
		if n < minMillis/dayMillis || n >= maxMillis/dayMillis {
			return r.outOfRange(f)
		}
	case Timestamp:
		if o.divide > 1 {
			n = floorDiv(n, o.divide)
		}
		if n < minMillis || n >= maxMillis {
			return r.outOfRange(f)
		}
	case Double:
		r.row.Vals[o.dst].Null, r.row.Vals[o.dst].Float = false, float64(n)
		return nil
	}
	r.setInt(o, n)
	return nil
}

func (r *input) outOfRange(f *Field) error {
	return &DecodeError{Code: "P09", Field: f.Path, Problem: "time outside the years 1900 to 2200; is the unit right?"}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (r *input) float(o *op) error {
	size := int64(8)
	if o.read == readFloat {
		size = 4
	}
	b, ok := r.take(size)
	if !ok {
		return r.fail(o, "cut short")
	}
	if o.dst < 0 {
		return nil
	}
	var x float64
	if o.read == readFloat {
		x = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	} else {
		x = math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return r.fail(o, "not a finite number")
	}
	v := &r.row.Vals[o.dst]
	v.Null, v.Float = false, x
	return nil
}

func (r *input) bytes(o *op, b []byte) error {
	f, v := &r.row.Type.Fields[o.dst], &r.row.Vals[o.dst]
	switch f.Kind {
	case String, UUID:
		if !utf8.Valid(b) {
			return &DecodeError{Code: "P07", Field: f.Path, Problem: "text is not valid UTF-8"}
		}
	case Decimal:
		if len(b) == 0 {
			return r.fail(o, "decimal without a byte") // not a zero
		}
		n, ok := decimal(b)
		if !ok || n >= pow10[f.Precision] || n <= -pow10[f.Precision] {
			return r.fail(o, fmt.Sprintf("decimal has more than %d digits", f.Precision))
		}
		v.Null, v.Int = false, n
		return nil
	}
	v.Null, v.Bytes = false, b
	return nil
}

// decimal reads a big-endian two's complement number of a byte or more; overlong forms of small numbers are fine.
func decimal(b []byte) (int64, bool) {
	fill := byte(int8(b[0]) >> 7)
	for len(b) > 8 {
		if b[0] != fill || (b[1]^fill)&0x80 != 0 {
			return 0, false
		}
		b = b[1:]
	}
	n := int64(int8(fill))
	for _, c := range b {
		n = n<<8 | int64(c)
	}
	return n, true
}

var pow10 = func() (p [19]int64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

// blocks reads the blocks of an array or a map. A hostile count ends at the end of the data, for each item
// takes at least one byte; those that take none end with the budget. A block that gives its size must have
// it, else a reader that jumps over the block would read another value than we do.
func (r *input) blocks(o *op) error {
	if o.dst >= 0 {
		v := &r.row.Vals[o.dst]
		v.Null, v.List = false, v.List[:0]
	}
	for {
		n, ok := r.long()
		if !ok {
			return r.fail(o, "cut short or overlong block count")
		}
		if n == 0 {
			return nil
		}
		end := -1
		if n < 0 {
			if n == math.MinInt64 {
				return r.fail(o, "block count out of range")
			}
			n = -n
			size, ok := r.long()
			if !ok || size < 0 || size > int64(len(r.data)-r.pos) {
				return r.fail(o, "block size is negative or beyond the end of the value")
			}
			end = r.pos + int(size)
		}
		if !r.spend(n) {
			return r.fail(o, tooMany)
		}
		for range n {
			if err := r.item(o); err != nil {
				return err
			}
		}
		if end >= 0 && r.pos != end {
			return r.fail(o, "block has another size than it says")
		}
	}
}

// item reads one item of an array or a map.
func (r *input) item(o *op) error {
	if o.read == readMap {
		size, ok := r.long()
		if !ok {
			return r.fail(o, "cut short")
		}
		if _, ok := r.take(size); !ok {
			return r.fail(o, "key beyond the end of the value")
		}
	}
	if o.dst < 0 {
		return r.run(&o.branches[0])
	}
	size, ok := r.long()
	if !ok {
		return r.fail(o, "cut short")
	}
	b, ok := r.take(size)
	if !ok {
		return r.fail(o, "length is negative or beyond the end of the value")
	}
	if !utf8.Valid(b) {
		return &DecodeError{Code: "P07", Field: r.row.Type.Fields[o.dst].Path, Problem: "text is not valid UTF-8"}
	}
	v := &r.row.Vals[o.dst]
	v.List = append(v.List, b)
	return nil
}

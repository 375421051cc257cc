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
// fields matched by name, unknown ones skipped, missing ones set to their default, numbers promoted,
// unknown enum symbols read as UNKNOWN. It is safe for concurrent use.
type Decoder struct {
	typ      *Type
	ops      []op
	defaults []int // fields that the writer lacks
}

// op reads one value of the writer. dst is the field to set, or -1 to skip it.
type op struct {
	read     reader
	dst      int
	symbols  []int64 // enum: reader's index of each writer symbol, -1 unknown
	branches []op    // union: one op per branch; array and map: the item
	fields   []op    // record that is skipped
	size     int     // fixed: bytes
	divide   int64   // timestamp: writer's units per millisecond, 0 or 1: milliseconds
}

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
)

// NewDecoder prepares to read values of schema writer as events of type t. It fails with ErrOtherEvent
// where the schema names another record, and with an error that says which field cannot be resolved.
func NewDecoder(t *Type, writer avro.Schema) (*Decoder, error) {
	rec, ok := writer.(*avro.RecordSchema)
	if !ok || rec.FullName() != t.Schema.(*avro.RecordSchema).FullName() {
		return nil, fmt.Errorf("%w: want %s", ErrOtherEvent, t.Name)
	}
	d := &Decoder{typ: t}
	seen := make([]bool, len(t.Fields))
	ops, err := d.compileRecord("", rec, seen)
	if err != nil {
		return nil, err
	}
	d.ops = ops
	for i, ok := range seen {
		if ok {
			continue
		}
		if !t.Fields[i].HasDef {
			return nil, fmt.Errorf("resolve schema of %s: field %s is missing and has no default", t.Name, t.Fields[i].Path)
		}
		d.defaults = append(d.defaults, i)
	}
	return d, nil
}

func (d *Decoder) compileRecord(prefix string, rec *avro.RecordSchema, seen []bool) ([]op, error) {
	var ops []op
	for _, f := range rec.Fields() {
		path := prefix + f.Name()
		if sub, ok := f.Type().(*avro.RecordSchema); ok && d.hasPrefix(path+".") {
			more, err := d.compileRecord(path+".", sub, seen)
			if err != nil {
				return nil, err
			}
			ops = append(ops, more...)
			continue
		}
		dst := -1
		for i := range d.typ.Fields {
			if d.typ.Fields[i].Path == path {
				dst = i
			}
		}
		if dst >= 0 {
			seen[dst] = true
		}
		o, err := d.compile(f.Type(), dst, 0)
		if err != nil {
			return nil, fmt.Errorf("resolve schema of %s: field %s: %w", d.typ.Name, path, err)
		}
		ops = append(ops, o)
	}
	return ops, nil
}

func (d *Decoder) hasPrefix(p string) bool {
	for i := range d.typ.Fields {
		if len(d.typ.Fields[i].Path) > len(p) && d.typ.Fields[i].Path[:len(p)] == p {
			return true
		}
	}
	return false
}

// maxSchemaDepth bounds recursion over writer schemas, which come from outside.
const maxSchemaDepth = 32

func (d *Decoder) compile(s avro.Schema, dst, depth int) (op, error) {
	if depth > maxSchemaDepth {
		return op{}, fmt.Errorf("schema nests deeper than %d", maxSchemaDepth)
	}
	o := op{dst: dst}
	var kind Kind
	if dst >= 0 {
		kind = d.typ.Fields[dst].Kind
	}
	mismatch := func(what string) (op, error) {
		return op{}, fmt.Errorf("the writer's %s does not resolve to our type", what)
	}
	switch v := s.(type) {
	case *avro.RefSchema:
		return d.compile(v.Schema(), dst, depth+1)
	case *avro.NullSchema:
		o.read = readNull
		if dst >= 0 && !d.typ.Fields[dst].Nullable {
			o.dst = -2 // a null here cannot be read: an error at run time, if this branch of a union comes
		}
		return o, nil
	case *avro.UnionSchema:
		o.read = readUnion
		for _, b := range v.Types() {
			bo, err := d.compile(b, dst, depth+1)
			if err != nil {
				return o, err
			}
			o.branches = append(o.branches, bo)
		}
		return o, nil
	case *avro.EnumSchema:
		o.read = readEnum
		if dst >= 0 && kind != Enum {
			return mismatch("enum " + v.Name())
		}
		for _, sym := range v.Symbols() {
			at := int64(-1)
			if dst >= 0 {
				for i, ours := range d.typ.Fields[dst].Symbols {
					if ours == sym {
						at = int64(i)
					}
				}
			}
			o.symbols = append(o.symbols, at)
		}
		return o, nil
	case *avro.ArraySchema:
		o.read = readArray
		itemDst := -1
		if dst >= 0 {
			if kind != Strings || v.Items().Type() != avro.String {
				return mismatch("array")
			}
			itemDst = dst
		}
		item, err := d.compile(v.Items(), -1, depth+1)
		item.dst = itemDst
		o.branches = []op{item}
		return o, err
	case *avro.MapSchema:
		o.read = readMap
		if dst >= 0 {
			return mismatch("map")
		}
		item, err := d.compile(v.Values(), -1, depth+1)
		o.branches = []op{item}
		return o, err
	case *avro.RecordSchema:
		o.read = readRecord
		if dst >= 0 {
			return mismatch("record " + v.Name())
		}
		for _, f := range v.Fields() {
			fo, err := d.compile(f.Type(), -1, depth+1)
			if err != nil {
				return o, err
			}
			o.fields = append(o.fields, fo)
		}
		return o, nil
	case *avro.FixedSchema:
		o.read, o.size = readFixed, v.Size()
		if dst >= 0 && !(kind == Bytes || kind == Decimal && d.sameScale(dst, v.Logical())) {
			return mismatch("fixed")
		}
		return o, nil
	case *avro.PrimitiveSchema:
		return d.compilePrimitive(v, o, kind)
	}
	return mismatch(string(s.Type()))
}

func (d *Decoder) sameScale(dst int, l avro.LogicalSchema) bool {
	dec, ok := l.(*avro.DecimalLogicalSchema)
	return ok && dec.Scale() == d.typ.Fields[dst].Scale
}

func (d *Decoder) compilePrimitive(v *avro.PrimitiveSchema, o op, kind Kind) (op, error) {
	fits := true
	switch v.Type() {
	case avro.Boolean:
		o.read, fits = readBool, kind == Bool
	case avro.Int, avro.Long:
		o.read = readLong
		switch kind {
		case Int, Date:
			fits = v.Type() == avro.Int
		case Long, Double:
		case Timestamp:
			if l := v.Logical(); l != nil && l.Type() == avro.TimestampMicros {
				o.divide = 1000
			}
		default:
			fits = false
		}
	case avro.Float:
		o.read, fits = readFloat, kind == Double
	case avro.Double:
		o.read, fits = readDouble, kind == Double
	case avro.String, avro.Bytes:
		o.read = readBytes
		switch kind {
		case String, UUID, Bytes:
		case Decimal:
			fits = v.Type() == avro.Bytes && d.sameScale(o.dst, v.Logical())
		default:
			fits = false
		}
	case avro.Null:
		o.read = readNull
		return o, nil
	}
	if o.dst >= 0 && !fits {
		return op{}, fmt.Errorf("the writer's %s does not resolve to our type", v.Type())
	}
	return o, nil
}

// Decode reads data, an Avro value without frame, into row, which it resets first. The row's bytes
// alias data. On error the row holds the fields read so far. All errors are *DecodeError.
func (d *Decoder) Decode(data []byte, row *Row) error {
	row.Reset()
	for _, i := range d.defaults {
		f := &d.typ.Fields[i]
		v := &row.Vals[i]
		v.Null, v.Int, v.Float = f.Default.Null, f.Default.Int, f.Default.Float
	}
	r := input{data: data, row: row}
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

// input is the state of one decoding. It stays on the stack.
type input struct {
	data []byte
	pos  int
	row  *Row
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
	case readNull:
		if o.dst == -2 {
			return r.fail(o, "null where a value is required")
		}
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
		n, ok := r.long()
		if !ok {
			return r.fail(o, "cut short or overlong number")
		}
		if o.dst >= 0 {
			return r.number(o, n)
		}
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
		n, ok := r.long()
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
	case readArray, readMap:
		return r.blocks(o)
	case readRecord:
		for i := range o.fields {
			if err := r.run(&o.fields[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *input) setInt(o *op, n int64) {
	if o.dst >= 0 {
		v := &r.row.Vals[o.dst]
		v.Null, v.Int = false, n
	}
}

func (r *input) number(o *op, n int64) error {
	f := &r.row.Type.Fields[o.dst]
	switch f.Kind {
	case Int:
		if n < math.MinInt32 || n > math.MaxInt32 {
			return r.fail(o, "number does not fit 32 bits")
		}
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

// decimal reads a big-endian two's complement number; overlong forms of small numbers are fine.
func decimal(b []byte) (int64, bool) {
	if len(b) == 0 {
		return 0, true
	}
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

// blocks reads the blocks of an array or a map. Each item takes at least one byte (strings, the only
// items that are kept, always do), so a hostile count ends at the end of the data; items that can be
// empty are bounded by the length of the data instead.
func (r *input) blocks(o *op) error {
	item := &o.branches[0]
	if o.dst >= 0 {
		v := &r.row.Vals[o.dst]
		v.Null, v.List = false, v.List[:0]
	}
	left := int64(len(r.data)) + 1
	for {
		n, ok := r.long()
		if !ok {
			return r.fail(o, "cut short or overlong block count")
		}
		if n == 0 {
			return nil
		}
		if n < 0 {
			if n == math.MinInt64 {
				return r.fail(o, "block count out of range")
			}
			n = -n
			if size, ok := r.long(); !ok || size < 0 || size > int64(len(r.data)-r.pos) {
				return r.fail(o, "block size is negative or beyond the end of the value")
			}
		}
		if n > left {
			return r.fail(o, "more items than the value has bytes")
		}
		left -= n
		for range n {
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
				if err := r.run(item); err != nil {
					return err
				}
				continue
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
		}
	}
}

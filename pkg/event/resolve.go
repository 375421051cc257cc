package event

import (
	"fmt"
	"slices"

	"github.com/hamba/avro/v2"
)

// NewDecoder prepares to read values of schema writer as events of type t. It fails with ErrOtherEvent
// where the schema names another record, and with an error that says which field cannot be resolved.
func NewDecoder(t *Type, writer avro.Schema) (*Decoder, error) {
	ours := t.Schema.(*avro.RecordSchema)
	rec, ok := writer.(*avro.RecordSchema)
	if !ok || rec.FullName() != ours.FullName() && !slices.Contains(ours.Aliases(), rec.FullName()) {
		return nil, fmt.Errorf("%w: want %s", ErrOtherEvent, t.Name)
	}
	d := &Decoder{typ: t, records: map[*avro.RecordSchema]*skipped{}}
	seen := make([]bool, len(t.Fields))
	ops, err := d.compileRecord("", rec, ours, seen)
	if err != nil {
		return nil, err
	}
	d.ops, d.records = ops, nil
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

// SkipsFields tells whether the writer's schema has fields that ours lacks: a newer release may know them.
func (d *Decoder) SkipsFields() bool { return d.unknown }

func (d *Decoder) compileRecord(prefix string, writer, ours *avro.RecordSchema, seen []bool) ([]op, error) {
	var ops []op
	for _, f := range writer.Fields() {
		typ, dst := deref(f.Type()), -1
		our := readerField(ours, writer, f.Name())
		if our == nil {
			d.unknown = true
		} else {
			path := prefix + our.Name()
			if sub, ok := our.Type().(*avro.RecordSchema); ok {
				rec, ok := typ.(*avro.RecordSchema)
				if !ok {
					return nil, fmt.Errorf("resolve schema of %s: field %s: the writer's %s does not resolve to our record", d.typ.Name, path, typ.Type())
				}
				more, err := d.compileRecord(path+".", rec, sub, seen)
				if err != nil {
					return nil, err
				}
				ops = append(ops, more...)
				continue
			}
			dst = slices.IndexFunc(d.typ.Fields, func(f Field) bool { return f.Path == path })
			seen[dst] = true
		}
		o, err := d.compile(typ, dst, 0)
		if err != nil {
			name := prefix + f.Name()
			if !PrintableName(f.Name()) { // it comes from outside
				name = prefix + "(not shown)"
			}
			return nil, fmt.Errorf("resolve schema of %s: field %s: %w", d.typ.Name, name, err)
		}
		ops = append(ops, o)
	}
	return ops, nil
}

// readerField is our field that a field of the writer is read into: the one of that name, else the one
// that has it for an alias, unless the writer has that one too; nil where there is none.
func readerField(ours, writer *avro.RecordSchema, name string) *avro.Field {
	has := func(r *avro.RecordSchema, name string) bool {
		return slices.ContainsFunc(r.Fields(), func(f *avro.Field) bool { return f.Name() == name })
	}
	for _, f := range ours.Fields() {
		if f.Name() == name {
			return f
		}
	}
	for _, f := range ours.Fields() {
		if at := slices.IndexFunc(f.Aliases(), func(a string) bool { return has(writer, a) }); at >= 0 && f.Aliases()[at] == name && !has(writer, f.Name()) {
			return f
		}
	}
	return nil
}

func deref(s avro.Schema) avro.Schema {
	if r, ok := s.(*avro.RefSchema); ok {
		return r.Schema()
	}
	return s
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
	switch v := deref(s).(type) {
	case *avro.NullSchema:
		o.read = readNull
		if dst >= 0 && !d.typ.Fields[dst].Nullable {
			o.read, o.problem = readRefused, "null where a value is required"
		}
		return o, nil
	case *avro.UnionSchema:
		return d.compileUnion(v, o, depth)
	case *avro.EnumSchema:
		o.read = readEnum
		if dst >= 0 && kind != Enum {
			return mismatch("enum")
		}
		for _, sym := range v.Symbols() {
			at := int64(-1)
			if dst >= 0 {
				at = int64(slices.Index(d.typ.Fields[dst].Symbols, sym))
			}
			o.symbols = append(o.symbols, at)
		}
		return o, nil
	case *avro.ArraySchema:
		o.read = readArray
		itemDst := -1
		if dst >= 0 {
			if kind != Strings || v.Items().Type() != avro.String || logical(v.Items()) != "" {
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
			return mismatch("record")
		}
		if o.record = d.records[v]; o.record != nil {
			return o, nil
		}
		o.record = &skipped{}
		d.records[v] = o.record
		for _, f := range v.Fields() {
			fo, err := d.compile(f.Type(), -1, depth+1)
			if err != nil {
				return o, err
			}
			o.record.fields = append(o.record.fields, fo)
		}
		return o, nil
	case *avro.FixedSchema:
		o.read, o.size = readFixed, v.Size()
		if dst >= 0 && !(kind == Bytes && v.Logical() == nil || kind == Decimal && d.sameScale(dst, v.Logical())) {
			return mismatch("fixed")
		}
		return o, nil
	case *avro.PrimitiveSchema:
		return d.compilePrimitive(v, o, kind)
	}
	return mismatch(string(s.Type()))
}

// compileUnion takes a branch that does not resolve for an error of the values that have it. A union of
// which no branch but null resolves is one of the schema.
func (d *Decoder) compileUnion(u *avro.UnionSchema, o op, depth int) (op, error) {
	o.read = readUnion
	var first error
	resolved := false
	for _, b := range u.Types() {
		bo, err := d.compile(b, o.dst, depth+1)
		switch {
		case err == nil:
			resolved = resolved || b.Type() != avro.Null
		case o.dst < 0:
			return o, err
		default:
			if first == nil {
				first = err
			}
			bo = op{read: readRefused, dst: o.dst, problem: err.Error()}
		}
		o.branches = append(o.branches, bo)
	}
	if !resolved && first != nil {
		return o, first
	}
	return o, nil
}

// logical is the logical type of a schema; empty where it has none that is known.
func logical(s avro.Schema) avro.LogicalType {
	if l, ok := s.(avro.LogicalTypeSchema); ok && l.Logical() != nil {
		return l.Logical().Type()
	}
	return ""
}

func (d *Decoder) sameScale(dst int, l avro.LogicalSchema) bool {
	dec, ok := l.(*avro.DecimalLogicalSchema)
	return ok && dec.Scale() == d.typ.Fields[dst].Scale
}

func (d *Decoder) compilePrimitive(v *avro.PrimitiveSchema, o op, kind Kind) (op, error) {
	means := logical(v)
	plain := means == ""
	fits := true
	switch v.Type() {
	case avro.Boolean:
		o.read, fits = readBool, kind == Bool
	case avro.Int, avro.Long:
		o.read, o.narrow = readLong, v.Type() == avro.Int
		switch kind {
		case Int:
			fits = o.narrow && plain
		case Date:
			fits = o.narrow && (plain || means == avro.Date)
		case Long, Double:
			fits = plain
		case Timestamp:
			fits = plain || means == avro.TimestampMillis || means == avro.TimestampMicros
			if means == avro.TimestampMicros {
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
		case String, UUID:
			fits = plain || means == avro.UUID
		case Bytes:
			fits = plain
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
		what := string(v.Type())
		if !plain {
			what += " (" + string(means) + ")"
		}
		return op{}, fmt.Errorf("the writer's %s does not resolve to our type", what)
	}
	return o, nil
}

package record

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// End is the end of a record; the numbers are those of _end in the storage tables.
type End uint8

// The ends of a record.
const (
	Loaded End = iota + 1
	Duplicate
	Rejected
)

func (e End) String() string { return [...]string{"", "LOADED", "DUPLICATE", "REJECTED"}[e] }

// Columns is the native block of a storage table: system columns and one column per field. It is
// reused from block to block; the engine casts text to LowCardinality and numbers to Enum8.
type Columns struct {
	partition, schemaID proto.ColUInt32
	Offset              proto.ColUInt64
	from, to            proto.ColUInt64
	End                 proto.ColInt8
	gone, hashVersion   proto.ColUInt8
	flags               proto.ColUInt16
	IDHash, ContentHash proto.ColFixedStr
	owner, epoch        proto.ColUInt64
	detail              proto.ColStr
	loadedAt            *proto.ColDateTime64
	fields              []column
	Input               proto.Input

	version uint8 // of the event's schema, at which content hashes are made
}

// column holds the values of one field.
type column interface {
	proto.ColInput
	Reset()
	put(v *event.Value)
}

// NewColumns returns an empty block for the storage table of t.
func NewColumns(t *event.Type) *Columns {
	c := &Columns{
		version: uint8(t.Version),
		IDHash:  proto.ColFixedStr{Size: 16}, ContentHash: proto.ColFixedStr{Size: 32},
		loadedAt: new(proto.ColDateTime64).WithPrecision(proto.PrecisionMilli).WithLocation(time.UTC),
	}
	c.Input = proto.Input{
		{Name: "_partition", Data: &c.partition},
		{Name: "_offset", Data: &c.Offset},
		{Name: "_from", Data: &c.from},
		{Name: "_to", Data: &c.to},
		{Name: "_end", Data: &c.End},
		{Name: "_gone", Data: &c.gone},
		{Name: "_schema_id", Data: &c.schemaID},
		{Name: "_flag_bits", Data: &c.flags},
		{Name: "_id_hash", Data: &c.IDHash},
		{Name: "_content_hash", Data: &c.ContentHash},
		{Name: "_hash_version", Data: &c.hashVersion},
		{Name: "_owner", Data: &c.owner},
		{Name: "_epoch", Data: &c.epoch},
		{Name: "_detail", Data: &c.detail},
		{Name: "_loaded_at", Data: c.loadedAt},
	}
	for i := range t.Fields {
		f := &t.Fields[i]
		col := newColumn(f)
		c.fields = append(c.fields, col)
		c.Input = append(c.Input, proto.InputColumn{Name: f.Column, Data: col})
	}
	return c
}

// Reset empties the block.
func (c *Columns) Reset() {
	c.Input.Reset()
}

// Rows is how many rows the block has.
func (c *Columns) Rows() int { return len(c.Offset) }

// Meta is what a row holds besides its event.
type Meta struct {
	Offset      int64
	End         End
	Gone        bool // of the event only occurredAt is stored
	SchemaID    int
	Flags       uint16
	IDHash      [16]byte
	ContentHash [32]byte
	Detail      []byte
}

// AppendRow adds one record. vals are the event's values, or nil for a record that is not loaded.
func (c *Columns) AppendRow(m *Meta, vals []event.Value) {
	c.Offset.Append(uint64(m.Offset))
	c.End.Append(int8(m.End))
	if m.Gone {
		c.gone.Append(1)
	} else {
		c.gone.Append(0)
	}
	c.schemaID.Append(uint32(m.SchemaID))
	c.flags.Append(m.Flags)
	c.IDHash.Append(m.IDHash[:])
	c.ContentHash.Append(m.ContentHash[:])
	c.hashVersion.Append(c.version)
	c.detail.AppendBytes(m.Detail)
	for i, col := range c.fields {
		if vals == nil || m.Gone && i != event.OccurredAt {
			col.put(&nothing)
			continue
		}
		col.put(&vals[i])
	}
}

// nothing is the value of every field of a record that is not loaded.
var nothing = event.Value{Null: true}

// Seal fills the columns that are the same for all rows of a block, in the rows added since the last Seal.
func (c *Columns) Seal(partition int, from, to int64, owner uint64, at time.Time) {
	for len(c.partition) < c.Rows() {
		c.partition.Append(uint32(partition))
		c.from.Append(uint64(from))
		c.to.Append(uint64(to))
		c.owner.Append(owner)
		c.epoch.Append(0)
		c.loadedAt.Append(at)
	}
}

// SetEpoch says in which life of the engine the block is stored. It comes after Seal, with the connection.
func (c *Columns) SetEpoch(epoch uint64) {
	for i := range c.epoch {
		c.epoch[i] = epoch
	}
}

func newColumn(f *event.Field) column {
	if f.Nullable {
		inner := newPlain(f)
		return &nullable{inner: inner}
	}
	return newPlain(f)
}

func newPlain(f *event.Field) column {
	switch f.Kind {
	case event.UUID:
		return &uuids{}
	case event.Enum:
		return &enums{}
	case event.Bool:
		return &bools{}
	case event.Int:
		return &ints{}
	case event.Long:
		return &longs{}
	case event.Double:
		return &doubles{}
	case event.Date:
		return &dates{}
	case event.Timestamp:
		return &timestamps{}
	case event.Decimal:
		return &decimals{scale: f.Scale, precision: f.Precision}
	case event.Strings:
		return &lists{ColArr: *new(proto.ColStr).Array()}
	}
	if clickhouse.IsPseudonym(*f) {
		return &pseudonyms{ColFixedStr: proto.ColFixedStr{Size: 32}}
	}
	if f.Name == "comuneCode" {
		return &comuni{ColFixedStr: proto.ColFixedStr{Size: 6}}
	}
	return &texts{}
}

// nullable adds the null map to a column. A null holds the zero value of the column beneath.
type nullable struct {
	nulls proto.ColUInt8
	inner column
}

func (c *nullable) Type() proto.ColumnType { return proto.ColumnTypeNullable.Sub(c.inner.Type()) }
func (c *nullable) Rows() int              { return len(c.nulls) }
func (c *nullable) Reset()                 { c.nulls.Reset(); c.inner.Reset() }

func (c *nullable) EncodeColumn(b *proto.Buffer) {
	c.nulls.EncodeColumn(b)
	c.inner.EncodeColumn(b)
}

func (c *nullable) WriteColumn(w *proto.Writer) {
	c.nulls.WriteColumn(w)
	c.inner.WriteColumn(w)
}

func (c *nullable) put(v *event.Value) {
	var null uint8
	if v.Null {
		null, v = 1, &nothing
	}
	c.nulls = append(c.nulls, null)
	c.inner.put(v)
}

type (
	uuids      struct{ proto.ColUUID }
	enums      struct{ proto.ColInt8 }
	bools      struct{ proto.ColBool }
	ints       struct{ proto.ColInt32 }
	longs      struct{ proto.ColInt64 }
	doubles    struct{ proto.ColFloat64 }
	dates      struct{ proto.ColDate32 }
	texts      struct{ proto.ColStr }
	pseudonyms struct{ proto.ColFixedStr }
	comuni     struct{ proto.ColFixedStr }
	lists      struct{ proto.ColArr[string] }
)

func (c *uuids) put(v *event.Value) {
	id, _ := event.ParseUUID(v.Bytes) // a loaded event has passed E01; the others are zero
	c.Append(id)
}

func (c *enums) put(v *event.Value)   { c.Append(int8(v.Int)) }
func (c *bools) put(v *event.Value)   { c.Append(v.Int != 0) }
func (c *ints) put(v *event.Value)    { c.Append(int32(v.Int)) }
func (c *longs) put(v *event.Value)   { c.Append(v.Int) }
func (c *doubles) put(v *event.Value) { c.Append(v.Float) }
func (c *texts) put(v *event.Value)   { c.AppendBytes(v.Bytes) }

// put appends the days themselves: proto.Date32 counts them from 1970 as Avro does.
func (c *dates) put(v *event.Value) { c.ColDate32 = append(c.ColDate32, proto.Date32(v.Int)) }

func (c *pseudonyms) put(v *event.Value) {
	var raw [32]byte
	if len(v.Bytes) == 64 {
		_, _ = hex.Decode(raw[:], v.Bytes) // a loaded event has passed E10
	}
	c.Append(raw[:])
}

func (c *comuni) put(v *event.Value) {
	var raw [6]byte
	copy(raw[:], v.Bytes)
	c.Append(raw[:])
}

func (c *lists) put(v *event.Value) {
	items := make([]string, len(v.List))
	for i, b := range v.List {
		items[i] = string(b)
	}
	c.Append(items)
}

// timestamps is DateTime64(3, 'UTC'), appended as milliseconds.
type timestamps struct{ proto.ColInt64 }

func (c *timestamps) Type() proto.ColumnType { return "DateTime64(3, 'UTC')" }
func (c *timestamps) put(v *event.Value)     { c.Append(v.Int) }

// decimals is Decimal64 of the field's scale, appended unscaled.
type decimals struct {
	proto.ColInt64
	precision, scale int
}

func (c *decimals) Type() proto.ColumnType {
	return proto.ColumnTypeDecimal.With(strconv.Itoa(c.precision), strconv.Itoa(c.scale))
}
func (c *decimals) put(v *event.Value) { c.Append(v.Int) }

package load

import (
	"encoding/hex"
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

// columns is the native block of a storage table: system columns and one column per field. It is
// reused from block to block; the engine casts text to LowCardinality and numbers to Enum8.
type columns struct {
	partition, schemaID proto.ColUInt32
	offset, from, to    proto.ColUInt64
	end                 proto.ColInt8
	gone, hashVersion   proto.ColUInt8
	flags               proto.ColUInt16
	idHash, contentHash proto.ColFixedStr
	owner               proto.ColUInt64
	detail              proto.ColStr
	loadedAt            *proto.ColDateTime64
	fields              []column
	input               proto.Input
}

// column holds the values of one field.
type column interface {
	proto.ColInput
	Reset()
	put(v *event.Value)
}

func newColumns(t *event.Type) *columns {
	c := &columns{
		idHash: proto.ColFixedStr{Size: 16}, contentHash: proto.ColFixedStr{Size: 32},
		loadedAt: new(proto.ColDateTime64).WithPrecision(proto.PrecisionMilli).WithLocation(time.UTC),
	}
	c.input = proto.Input{
		{Name: "_partition", Data: &c.partition},
		{Name: "_offset", Data: &c.offset},
		{Name: "_from", Data: &c.from},
		{Name: "_to", Data: &c.to},
		{Name: "_end", Data: &c.end},
		{Name: "_gone", Data: &c.gone},
		{Name: "_schema_id", Data: &c.schemaID},
		{Name: "_flag_bits", Data: &c.flags},
		{Name: "_id_hash", Data: &c.idHash},
		{Name: "_content_hash", Data: &c.contentHash},
		{Name: "_hash_version", Data: &c.hashVersion},
		{Name: "_owner", Data: &c.owner},
		{Name: "_detail", Data: &c.detail},
		{Name: "_loaded_at", Data: c.loadedAt},
	}
	for i := range t.Fields {
		f := &t.Fields[i]
		col := newColumn(f)
		c.fields = append(c.fields, col)
		c.input = append(c.input, proto.InputColumn{Name: f.Column, Data: col})
	}
	return c
}

func (c *columns) reset() {
	c.input.Reset()
}

func (c *columns) rows() int { return len(c.offset) }

// meta is what a row holds besides its event.
type meta struct {
	offset      int64
	end         End
	gone        bool // of the event only occurredAt is stored
	schemaID    int
	flags       uint16
	idHash      [16]byte
	contentHash [32]byte
	detail      []byte
}

// appendRow adds one record. vals are the event's values, or nil for a record that is not loaded.
func (c *columns) appendRow(m *meta, vals []event.Value) {
	c.offset.Append(uint64(m.offset))
	c.end.Append(int8(m.end))
	if m.gone {
		c.gone.Append(1)
	} else {
		c.gone.Append(0)
	}
	c.schemaID.Append(uint32(m.schemaID))
	c.flags.Append(m.flags)
	c.idHash.Append(m.idHash[:])
	c.contentHash.Append(m.contentHash[:])
	c.hashVersion.Append(event.HashVersion)
	c.detail.AppendBytes(m.detail)
	for i, col := range c.fields {
		if vals == nil || m.gone && i != event.OccurredAt {
			col.put(&nothing)
			continue
		}
		col.put(&vals[i])
	}
}

// nothing is the value of every field of a record that is not loaded.
var nothing = event.Value{Null: true}

// seal fills the columns that are the same for all rows of the block.
func (c *columns) seal(partition int, from, to int64, owner uint64, at time.Time) {
	for range c.rows() {
		c.partition.Append(uint32(partition))
		c.from.Append(uint64(from))
		c.to.Append(uint64(to))
		c.owner.Append(owner)
		c.loadedAt.Append(at)
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
	return proto.ColumnTypeDecimal.With(itoa(c.precision), itoa(c.scale))
}
func (c *decimals) put(v *event.Value) { c.Append(v.Int) }

package event

import (
	"encoding/binary"
	"math"
)

// FrameSize is the length of the Confluent wire format's prefix: magic byte 0, schema id.
const FrameSize = 5

// AppendFrame appends the Confluent prefix of a schema id to dst.
func AppendFrame(dst []byte, schemaID int) []byte {
	dst = append(dst, 0)
	return binary.BigEndian.AppendUint32(dst, uint32(schemaID))
}

// AppendAvro appends the row in Avro binary encoding under the current schema of its type. It trusts
// the row: values that its decoder would refuse are written as they are.
func (r *Row) AppendAvro(dst []byte) []byte {
	for i := range r.Vals {
		f, v := &r.Type.Fields[i], &r.Vals[i]
		if f.Nullable {
			if v.Null {
				dst = append(dst, 0)
				continue
			}
			dst = append(dst, 2)
		}
		switch f.Kind {
		case String, UUID, Bytes:
			dst = appendLong(dst, int64(len(v.Bytes)))
			dst = append(dst, v.Bytes...)
		case Enum, Int, Long, Date, Timestamp:
			dst = appendLong(dst, v.Int)
		case Bool:
			dst = append(dst, byte(v.Int))
		case Double:
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v.Float))
		case Decimal:
			dst = appendDecimalBytes(dst, v.Int)
		case Strings:
			if len(v.List) > 0 {
				dst = appendLong(dst, int64(len(v.List)))
				for _, s := range v.List {
					dst = appendLong(dst, int64(len(s)))
					dst = append(dst, s...)
				}
			}
			dst = append(dst, 0)
		}
	}
	return dst
}

// appendLong appends an Avro int or long: zigzag, then base 128.
func appendLong(dst []byte, n int64) []byte {
	return binary.AppendUvarint(dst, uint64(n<<1)^uint64(n>>63))
}

// appendDecimalBytes appends the shortest two's complement big-endian form with its length.
func appendDecimalBytes(dst []byte, n int64) []byte {
	size := 8
	for size > 1 && n<<(64-8*(size-1))>>(64-8*(size-1)) == n {
		size--
	}
	dst = append(dst, byte(size<<1))
	for i := size - 1; i >= 0; i-- {
		dst = append(dst, byte(n>>(8*i)))
	}
	return dst
}

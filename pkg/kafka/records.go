package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unsafe"

	"github.com/segmentio/kafka-go/compress"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Record is a record of a log. Its bytes alias memory of the Fetcher.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds since 1970; 0 or less: none
	Key       []byte
	Value     []byte
	Unread    Unread // not 0: there is such a record, and neither key, value nor headers of it can be had
	headers   []byte // as they were sent
	count     int32  // of headers
}

// Unread is why a record cannot be read though its batch is as the producer sent it.
type Unread uint8

// Reasons of Unread.
const (
	TooLarge Unread = iota + 1 // its batch has more than MaxBatch bytes once decompressed
	Broken                     // its batch cannot be decompressed, or not be taken apart
)

// RecordOf is a message as a record. It aliases the message's key and value.
func RecordOf(m *Message) Record {
	r := Record{Offset: m.Offset, Key: m.Key, Value: m.Value, Unread: m.Unread}
	if !m.Time.IsZero() {
		r.Timestamp = m.Time.UnixMilli()
	}
	headers := make([]event.Header, len(m.Headers))
	for i, h := range m.Headers {
		headers[i] = event.Header(h)
	}
	r.SetHeaders(headers)
	return r
}

// HeaderBytes are the headers as they were sent, with all that is in them.
func (r *Record) HeaderBytes() []byte { return r.headers }

// SetHeaders replaces the headers.
func (r *Record) SetHeaders(headers []event.Header) {
	r.headers, r.count = nil, int32(len(headers))
	for _, h := range headers {
		r.headers = binary.AppendVarint(r.headers, int64(len(h.Key)))
		r.headers = append(r.headers, h.Key...)
		if h.Value == nil {
			r.headers = binary.AppendVarint(r.headers, -1)
			continue
		}
		r.headers = binary.AppendVarint(r.headers, int64(len(h.Value)))
		r.headers = append(r.headers, h.Value...)
	}
}

// Headers appends the headers to dst. They alias the record.
func (r *Record) Headers(dst []event.Header) []event.Header {
	d := bytesReader{b: r.headers}
	for range r.count {
		key := d.bytes(int(d.varint()))
		var h event.Header
		if len(key) > 0 {
			h.Key = unsafe.String(&key[0], len(key)) // aliases the record, as the value does
		}
		if n := int(d.varint()); n >= 0 {
			h.Value = d.bytes(n)
		}
		if d.err != nil {
			return dst // they were checked when the record was read
		}
		dst = append(dst, h)
	}
	return dst
}

// ErrCorrupt says that a batch of the log cannot be read: its checksum or its lengths are wrong, or it is
// far larger than any broker takes.
var ErrCorrupt = errors.New("corrupt record batch")

// MaxBatch bounds the bytes of a batch once it is decompressed. A broker that takes batches of 1 MiB takes
// some of 1 GiB of zeros, compressed.
const MaxBatch = 256 << 20

// errTooLarge says that a batch has more than MaxBatch bytes.
var errTooLarge = errors.New("batch is too large")

const (
	batchHead      = 61 // bytes of a batch before its records
	attrCodec      = 7
	attrControl    = 1 << 5
	attrLogAppend  = 1 << 3
	attrInTransact = 1 << 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// abortedTransaction says that records of a producer from an offset on do not count, up to its marker.
type abortedTransaction struct{ producer, first int64 }

// recordBatches goes through the records of an answer.
type recordBatches struct {
	body    []byte // the answer
	raw     []byte // batches not begun
	records []byte // of the batch in work
	left    int32  // records of it
	count   int32  // records of it at its beginning
	unread  Unread // those that are left
	end     int64  // offset after the last batch begun
	skip    bool   // it does not count
	plain   bool   // records of raw were handed out as they lie there

	base, firstTime, maxTime int64
	appendTime               bool

	aborted []abortedTransaction // not come to yet
	dead    map[int64]bool       // producers whose transaction is of these
}

func newRecordBatches(raw []byte, aborted []abortedTransaction) recordBatches {
	return recordBatches{raw: raw, aborted: aborted}
}

func (b *recordBatches) empty() bool { return len(b.raw) == 0 && b.left == 0 }

// aliases tells whether what is left lies in a buffer.
func (b *recordBatches) aliases(buffer []byte) bool {
	return within(b.raw, buffer) || within(b.records, buffer)
}

func within(part, whole []byte) bool {
	if len(part) == 0 || len(whole) == 0 {
		return false
	}
	from, at := uintptr(unsafe.Pointer(&whole[0])), uintptr(unsafe.Pointer(&part[0]))
	return at >= from && at < from+uintptr(cap(whole))
}

// next reads the next record that counts. It is false when the answer has no more.
func (b *recordBatches) next(f *Fetcher, r *Record) (bool, error) {
	for b.left == 0 || b.skip {
		b.left, b.records = 0, nil
		more, err := b.begin(f)
		if !more || err != nil {
			return false, err
		}
	}
	if err := b.read(r); err != nil {
		return false, err
	}
	return true, nil
}

// begin takes the next batch. An answer may end in the middle of one: it comes whole with the next.
func (b *recordBatches) begin(f *Fetcher) (bool, error) {
	if len(b.raw) < batchHead {
		b.raw = nil
		return false, nil
	}
	base, size := int64(binary.BigEndian.Uint64(b.raw)), int(int32(binary.BigEndian.Uint32(b.raw[8:])))
	if size < batchHead-12 {
		return false, fmt.Errorf("%w: a batch of %d bytes", ErrCorrupt, size)
	}
	if len(b.raw)-12 < size {
		b.raw = nil
		return false, nil
	}
	batch := b.raw[:12+size]
	b.raw = b.raw[12+size:]
	if magic := batch[16]; magic != 2 {
		return false, fmt.Errorf("%w: a batch of format %d; the log was written by a Kafka before 0.11", ErrCorrupt, magic)
	}
	if crc32.Checksum(batch[21:], castagnoli) != binary.BigEndian.Uint32(batch[17:]) {
		return false, fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	attributes := binary.BigEndian.Uint16(batch[21:])
	b.base, b.end = base, base+int64(int32(binary.BigEndian.Uint32(batch[23:])))+1
	b.firstTime, b.maxTime = int64(binary.BigEndian.Uint64(batch[27:])), int64(binary.BigEndian.Uint64(batch[35:]))
	b.appendTime = attributes&attrLogAppend != 0
	producer := int64(binary.BigEndian.Uint64(batch[43:]))
	count := int32(binary.BigEndian.Uint32(batch[57:]))
	if count < 0 {
		return false, fmt.Errorf("%w: %d records", ErrCorrupt, count)
	}
	if b.skip = b.uncounted(attributes, producer, batch[batchHead:]); b.skip {
		return true, nil
	}
	b.records, b.left, b.count, b.unread = batch[batchHead:], count, count, 0
	codec := attributes & attrCodec
	b.plain = b.plain || codec == 0
	if codec != 0 {
		raw, err := f.decompress(compress.Compression(codec), b.records)
		switch {
		case errors.Is(err, errTooLarge):
			b.unread = TooLarge
		case err != nil:
			b.unread = Broken // the checksum is right: it was sent so
		}
		b.records = raw
	}
	return true, nil
}

// uncounted tells whether a batch is a marker, or of an aborted transaction.
func (b *recordBatches) uncounted(attributes uint16, producer int64, records []byte) bool {
	for i := 0; i < len(b.aborted); { // those that begin up to here are in force
		if b.aborted[i].first >= b.end {
			i++
			continue
		}
		if b.dead == nil {
			b.dead = map[int64]bool{}
		}
		b.dead[b.aborted[i].producer] = true
		b.aborted = append(b.aborted[:i], b.aborted[i+1:]...)
	}
	if attributes&attrControl != 0 {
		if isAbort(records) {
			delete(b.dead, producer)
		}
		return true
	}
	return attributes&attrInTransact != 0 && b.dead[producer]
}

// isAbort tells whether a control batch ends an aborted transaction: its key is a version and a type.
func isAbort(records []byte) bool {
	d := bytesReader{b: records}
	d.varint()
	d.skip(1)
	d.varint()
	d.varint()
	key := d.bytes(int(d.varint()))
	return d.err == nil && len(key) >= 4 && binary.BigEndian.Uint16(key[2:]) == 0
}

// read reads one record of the batch in work.
func (b *recordBatches) read(r *Record) error {
	if b.unread != 0 {
		*r = Record{Offset: b.base + int64(b.count-b.left), Timestamp: b.maxTime, Unread: b.unread}
		if r.Offset >= b.end {
			return fmt.Errorf("%w: it has more records than offsets", ErrCorrupt)
		}
		b.left--
		return nil
	}
	d := bytesReader{b: b.records}
	body := bytesReader{b: d.bytes(int(d.varint()))}
	body.skip(1) // attributes
	r.Unread = 0
	r.Timestamp = b.firstTime + body.varint()
	if b.appendTime {
		r.Timestamp = b.maxTime
	}
	r.Offset = b.base + body.varint()
	r.Key, r.Value = body.nullable(), body.nullable()
	r.count = int32(body.varint())
	r.headers = body.b
	for range r.count {
		if body.bytes(int(body.varint())); body.err != nil {
			break
		}
		body.nullable()
	}
	if d.err != nil || body.err != nil || r.count < 0 {
		b.unread = Broken // so are those after it
		return b.read(r)
	}
	r.headers = r.headers[:len(r.headers)-len(body.b)]
	b.records = d.b
	b.left--
	return nil
}

// Batches of a topic are compressed about equally well. A bomb must not make room for the batches after it.
const (
	firstGrowth = 4
	maxGrowth   = 16
)

// decompress returns the records of a batch, in a buffer of f.
func (f *Fetcher) decompress(codec compress.Compression, packed []byte) ([]byte, error) {
	c := codec.Codec()
	if c == nil {
		return nil, fmt.Errorf("%w: compression %d", ErrCorrupt, codec)
	}
	src := c.NewReader(bytes.NewReader(packed))
	defer src.Close()
	// With room beyond what the last batch took, for a full buffer is not known to be the end.
	out := f.buffer(max(int(f.growth*float64(len(packed)))*9/8, 4<<10))
	out = out[:cap(out)]
	n := 0
	for {
		m, err := src.Read(out[n:])
		n += m
		switch {
		case errors.Is(err, io.EOF):
			f.growth = min(float64(n)/float64(max(len(packed), 1)), maxGrowth)
			return out[:n], nil
		case err != nil:
			return nil, fmt.Errorf("%w: decompress %s: %w", ErrCorrupt, c.Name(), err)
		case n > MaxBatch:
			return nil, errTooLarge
		case n == len(out):
			larger := f.buffer(2 * len(out))
			copy(larger, out)
			f.giveBack(out)
			out = larger[:cap(larger)]
		}
	}
}

// bytesReader reads numbers and bytes; the first fault stays.
type bytesReader struct {
	b   []byte
	err error
}

func (d *bytesReader) bytes(n int) []byte {
	if n < 0 || n > len(d.b) || d.err != nil {
		d.err = io.ErrUnexpectedEOF
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *bytesReader) skip(n int) { d.bytes(n) }

func (d *bytesReader) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *bytesReader) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *bytesReader) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// varint reads a zigzag number of up to ten bytes.
func (d *bytesReader) varint() int64 {
	if len(d.b) > 0 && d.b[0] < 0x80 && d.err == nil { // most are short
		u := uint64(d.b[0])
		d.b = d.b[1:]
		return int64(u>>1) ^ -int64(u&1)
	}
	v, n := binary.Varint(d.b)
	if n <= 0 || d.err != nil {
		d.err = io.ErrUnexpectedEOF
		return 0
	}
	d.b = d.b[n:]
	return v
}

// nullable reads bytes after their length; -1 says null.
func (d *bytesReader) nullable() []byte {
	n := d.varint()
	if n < 0 {
		return nil
	}
	return d.bytes(int(n))
}

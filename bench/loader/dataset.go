//go:build linux

package main

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/codes"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// requested is the event that all contestants load.
var requested = event.ByName("ServiceRequested")

// dataset is a log of ServiceRequested. The same seed gives the same events.
type dataset struct {
	seed       uint64
	events     int     // records in all
	duplicates float64 // share of them that repeat an earlier event, any earlier one with the same chance
	partitions int
}

// distinct is how many events the first n records hold.
func (d *dataset) distinct(n int) int { return int(math.Ceil(float64(n) * (1 - d.duplicates))) }

// event is the number of the event that record i holds.
func (d *dataset) event(i int) (number int, fresh bool) {
	known := d.distinct(i)
	if d.distinct(i+1) > known {
		return known, true
	}
	return rand.New(rand.NewPCG(d.seed, uint64(i)|1<<63)).IntN(known), false
}

// maker makes events by number. Not safe for concurrent use.
type maker struct {
	seed  uint64
	rng   *rand.PCG
	rand  *rand.Rand
	lists *codes.Lists
	row   *event.Row
	buf   []byte
}

func newMaker(seed uint64) *maker {
	pcg := rand.NewPCG(seed, 0)
	return &maker{seed: seed, rng: pcg, rand: rand.New(pcg), lists: codes.Default(), row: event.NewRow(requested)}
}

// text appends to the buffer of the row and returns what was appended.
func (m *maker) text(format string, args ...any) event.Value {
	from := len(m.buf)
	m.buf = fmt.Appendf(m.buf, format, args...)
	return event.Value{Bytes: m.buf[from:len(m.buf):len(m.buf)]}
}

// hex appends 16 digits for each x.
func (m *maker) hex(xs ...uint64) event.Value {
	from := len(m.buf)
	for _, x := range xs {
		m.buf = hex.AppendEncode(m.buf, binary.BigEndian.AppendUint64(nil, x))
	}
	return event.Value{Bytes: m.buf[from:len(m.buf):len(m.buf)]}
}

// pseudonym stands for a person: the same one for the same number.
func (m *maker) pseudonym(person uint64) event.Value {
	r := rand.NewPCG(m.seed, person|1<<62)
	return m.hex(r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64())
}

// make returns event number j, valid until the next call: two million persons, all comuni, two years.
func (m *maker) make(j int) *event.Row {
	m.rng.Seed(m.seed, uint64(j))
	m.buf = m.buf[:0]
	m.row.Reset()
	r, vals := m.rand, m.row.Vals
	comuni, services, benefits := m.lists.Comuni(), m.lists.Nomenclature(), m.lists.INPS()
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() + r.Int64N(730*24*3600*1000)
	place := r.IntN(len(comuni))
	ats := place / 13 // about 600 districts, each with a system of its own
	person := r.Uint64N(2_000_000)
	long := func(i int, n int64) { vals[i] = event.Value{Int: n} }
	symbol := func(i int) { long(i, 1+r.Int64N(int64(len(requested.Fields[i].Symbols)-1))) }

	id := m.hex(r.Uint64()&^0xf000|0x7000, r.Uint64()&^(0xc<<60)|0x8<<60).Bytes
	vals[event.EventID] = m.text("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:])
	vals[event.Source] = m.text("urn:welfare:ats%03d:si", ats)
	vals[event.SourceRecordID] = m.text("P%07d", j)
	long(event.RecordVersion, 1)
	long(event.OccurredAt, at)
	long(event.RecordedAt, at+r.Int64N(3*3600*1000))
	vals[event.OrgCode] = m.text("ats%03d", ats)
	if r.IntN(4) == 0 {
		vals[event.LegalBasis] = m.text("ART6E")
	}
	vals[event.ServiceRequestedPseudonym] = m.pseudonym(person)
	long(event.ServiceRequestedKeyEpoch, 1)
	if r.IntN(16) == 0 {
		vals[event.ServiceRequestedHouseholdPseudonym] = m.pseudonym(person / 3)
	}
	long(event.ServiceRequestedBirthYear, 1930+int64(person%94))
	long(event.ServiceRequestedSex, 1+int64(person%2))
	symbol(event.ServiceRequestedCitizenship)
	vals[event.ServiceRequestedComuneCode] = event.Value{Bytes: []byte(comuni[place].Code)}
	symbol(event.ServiceRequestedIseeBand)
	vals[event.ServiceRequestedRequestID] = m.text("R%07d", j)
	vals[event.ServiceRequestedNomenclatureCode] = event.Value{Bytes: []byte(services[r.IntN(len(services))].Code)}
	if r.IntN(4) == 0 {
		vals[event.ServiceRequestedInpsCode] = event.Value{Bytes: []byte(benefits[r.IntN(len(benefits))])}
	}
	if r.IntN(10) < 7 {
		vals[event.ServiceRequestedServiceID] = m.text("OFF-%05d", r.IntN(30_000))
	}
	symbol(event.ServiceRequestedUserArea)
	vals[event.ServiceRequestedAtsCode] = m.text("A%03d", ats)
	symbol(event.ServiceRequestedChannel)
	long(event.ServiceRequestedUrgent, r.Int64N(12)/11)
	long(event.ServiceRequestedRequestedAt, at)
	return m.row
}

// message is the Kafka record of a row, in memory of its own.
func message(row *event.Row, schemaID int) kafka.Message {
	key, value, headers := event.Message(row.Clone(), schemaID)
	out := kafka.Message{Topic: row.Type.Topic, Key: key, Value: value, Headers: make([]kafka.Header, len(headers))}
	for i, h := range headers {
		out.Headers[i] = kafka.Header(h)
	}
	return out
}

// sums are what a table must hold: rows, and an order-free sum over the digests of their values.
type sums struct {
	rows uint64
	sum  uint64
}

func (s *sums) add(digest uint64) { s.rows++; s.sum += digest }

// expected is what was published: all records, and each event once.
type expected struct {
	records, distinct sums
	bytes             int64 // of the values
}

// publish sends records from to to-1, in the Kafka records of the contract, and returns what they hold.
func (d *dataset) publish(ctx context.Context, w *kafka.Writer, schemaID, from, to int) (expected, error) {
	const chunk, workers = 2000, 4
	var (
		mu    sync.Mutex
		total expected
		first error
		next  = from
		wg    sync.WaitGroup
	)
	for range workers {
		wg.Go(func() {
			m := newMaker(d.seed)
			var own expected
			var text []byte
			msgs := make([]kafka.Message, 0, chunk)
			for {
				mu.Lock()
				begin := next
				next = min(begin+chunk, to)
				end, stop := next, first != nil
				mu.Unlock()
				if begin >= end || stop {
					break
				}
				msgs = msgs[:0]
				for i := begin; i < end; i++ {
					number, fresh := d.event(i)
					row := m.make(number)
					text = appendCanonical(text[:0], row)
					digest := digestOf(text)
					own.records.add(digest)
					if fresh {
						own.distinct.add(digest)
					}
					msgs = append(msgs, message(row, schemaID))
					own.bytes += int64(len(msgs[len(msgs)-1].Value))
				}
				if err := w.WriteMessages(ctx, msgs...); err != nil {
					mu.Lock()
					first = fmt.Errorf("publish records from %d: %w", begin, err)
					mu.Unlock()
				}
			}
			mu.Lock()
			total.records = sums{total.records.rows + own.records.rows, total.records.sum + own.records.sum}
			total.distinct = sums{total.distinct.rows + own.distinct.rows, total.distinct.sum + own.distinct.sum}
			total.bytes += own.bytes
			mu.Unlock()
		})
	}
	wg.Wait()
	return total, first
}

// appendCanonical appends all values of a row as text, the same that canonicalSQL makes of a stored row.
func appendCanonical(dst []byte, row *event.Row) []byte {
	for i := range row.Vals {
		v, f := &row.Vals[i], &row.Type.Fields[i]
		switch {
		case v.Null:
			dst = append(dst, `\N`...)
		case f.Kind == event.Enum:
			dst = append(dst, f.Symbols[v.Int]...)
		case f.Kind == event.String || f.Kind == event.UUID:
			dst = append(dst, v.Bytes...)
		default:
			dst = strconv.AppendInt(dst, v.Int, 10)
		}
		dst = append(dst, '|')
	}
	return dst
}

// digestOf is halfMD5 of ClickHouse.
func digestOf(text []byte) uint64 {
	sum := md5.Sum(text)
	return binary.BigEndian.Uint64(sum[:8])
}

// canonicalSQL is the expression for what appendCanonical makes. bytes: pseudonyms are stored as bytes, not as digits.
func canonicalSQL(bytes bool) string {
	parts := make([]string, len(requested.Fields))
	for i := range requested.Fields {
		f := &requested.Fields[i]
		text := "toString(" + f.Column + ")"
		switch {
		case f.Kind == event.Timestamp:
			text = "toString(toUnixTimestamp64Milli(" + f.Column + "))"
		case f.Kind == event.Bool:
			text = "toString(toUInt8(" + f.Column + "))"
		case isPseudonym(f) && bytes:
			text = "lower(hex(" + f.Column + "))"
		}
		if f.Nullable {
			text = `ifNull(` + text + `, '\\N')`
		}
		parts[i] = text + ", '|'"
	}
	return "concat(" + strings.Join(parts, ", ") + ")"
}

func isPseudonym(f *event.Field) bool {
	return f.Name == "pseudonym" || f.Name == "householdPseudonym"
}

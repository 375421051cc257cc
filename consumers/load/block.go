package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/welfarehub/welfarehub/pkg/dedup"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// topic is what the partitions of one topic share in this process.
type topic struct {
	*event.Type
	l *Loader

	turns turns                // of blocks, from the look-up of ids to the insert
	ahead chan *record.Columns // see columns
	large chan struct{}        // of large blocks in work, see grow

	household int     // index of householdPseudonym; -1 where the event has none
	resolving decoder // of the block that has the turn: it does not wait for the next one's decision

	mu      sync.Mutex // guards all below
	filter  dedup.Filter
	rebuilt bool          // the filter has all ids that were stored before this instance began
	known   map[int]int64 // by partition: up to where the filter has the ids that others stored
	tailed  time.Time     // when they were read
	shared  atomic.Bool   // other instances have partitions of the topic

	deciding decoder // of the block that is decided
}

// decoder reads the records of a topic, one at a time.
type decoder struct {
	reader *record.Reader
	row    *event.Row // of the reader: that of the last record
	hasher event.Hasher
	names  map[string]string // sources, see name
}

func newDecoder(t *event.Type, opt *Options) decoder {
	r := record.NewReader(t, opt.Schemas, opt.MaxValueBytes)
	return decoder{reader: r, row: r.Row, names: map[string]string{}}
}

func newTopic(t *event.Type, l *Loader) *topic {
	out := &topic{
		Type: t, l: l, known: map[int]int64{}, ahead: make(chan *record.Columns, blocksAhead), large: make(chan struct{}, largeBlocks),
		household: t.Field("householdPseudonym"), deciding: newDecoder(t, &l.opt), resolving: newDecoder(t, &l.opt),
	}
	for range blocksAhead {
		out.ahead <- nil // made when they are used
	}
	return out
}

// block is a decided block: one end for each record.
type block struct {
	p    position
	c    claim
	at   time.Time // of the decision
	recs []wkafka.Record
	ends []ended
	gone int64 // of the loaded, those of subjects that were erased before
}

// ended is the end of one record, with what its outcome and letter need.
type ended struct {
	end      record.End
	flags    uint16
	newer    bool // see record.Verdict
	hasID    bool // id is the eventId
	schemaID int32
	id       [16]byte
	source   string // empty where it could not be read
	eventID  string // of a reject; empty where it could not be read
	why      *record.Rejection
}

// copyOf is the detail of a duplicate.
type copyOf struct {
	Source      string `json:"source"`
	EventID     string `json:"event_id"`
	OfPartition int    `json:"of_partition"`
	OfOffset    int64  `json:"of_offset"`
}

// append is mustJSON into dst, without its cost where no character needs an escape: a replay is all duplicates.
func (c *copyOf) append(dst []byte) []byte {
	if !plainJSON(c.Source) || !plainJSON(c.EventID) {
		return append(dst, mustJSON(c)...)
	}
	dst = append(append(dst, `{"source":"`...), c.Source...)
	dst = append(append(dst, `","event_id":"`...), c.EventID...)
	dst = strconv.AppendInt(append(dst, `","of_partition":`...), int64(c.OfPartition), 10)
	dst = strconv.AppendInt(append(dst, `,"of_offset":`...), c.OfOffset, 10)
	return append(dst, '}')
}

// plainJSON tells whether encoding/json writes s as it is.
func plainJSON(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// deferred is a record whose id may be known: its end waits for the exact look-up.
type deferred struct {
	at      int // index in recs
	id      [16]byte
	content [32]byte
	newer   bool // see record.Verdict
}

// decide reads each record and gives an end to those whose ids were never seen; waiting are the others.
// It fills cols with the rows of the block, and takes its turn (step 2). An error is an outage: nothing
// was stored, the block is decided again.
func (t *topic) decide(ctx context.Context, p position, c claim, recs []wkafka.Record, cols *record.Columns) (*block, []deferred, *turn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.rebuilt {
		if err := t.l.store.loadIDs(ctx, t.Type, &t.filter, 0); err != nil {
			return nil, nil, nil, err
		}
		t.rebuilt = true
	}
	if err := t.tail(ctx); err != nil {
		return nil, nil, nil, err
	}
	if t.Subject >= 0 && t.Family != event.FamilyControl {
		if err := t.l.erasures.refresh(ctx, t.l.store, t.l.opt.refresh); err != nil {
			return nil, nil, nil, err
		}
	}
	b := &block{p: p, c: c, at: t.l.store.clock.now().Truncate(time.Millisecond), recs: recs, ends: make([]ended, len(recs))}
	cols.Reset()
	var waiting []deferred
	from := &t.deciding
	for i := range recs {
		end, err := from.read(ctx, &recs[i])
		if err != nil {
			return nil, nil, nil, err
		}
		b.ends[i] = end
		if end.why != nil {
			reject(b, i, cols)
			continue
		}
		d := deferred{at: i, content: from.hasher.Sum(from.row), newer: end.newer}
		event.IDHash(&d.id, t.Topic, from.row.Vals[event.Source].Bytes, end.id)
		if t.filter.TestAndAdd(&d.id) {
			waiting = append(waiting, d)
			continue
		}
		t.accept(b, &d, from.row, cols)
	}
	return b, waiting, t.turns.take(), nil
}

// read decodes and validates one record into d.row.
func (d *decoder) read(ctx context.Context, m *wkafka.Record) (ended, error) {
	v, err := d.reader.ReadRecord(ctx, m)
	e := ended{end: record.Loaded, flags: v.Flags, newer: v.Newer, schemaID: int32(v.SchemaID), why: v.Why}
	switch {
	case v.Why != nil:
		e.end, e.source, e.eventID = record.Rejected, v.Source, v.EventID
	case err == nil:
		e.id, e.hasID = event.ParseUUID(d.row.Vals[event.EventID].Bytes)
		e.source = d.name(d.row.Vals[event.Source].Bytes)
	}
	return e, err
}

// name returns a source as a string, which it makes once for each of the sources of late.
func (d *decoder) name(source []byte) string {
	if s, ok := d.names[string(source)]; ok {
		return s
	}
	if len(d.names) >= 10_000 {
		clear(d.names) // whoever invents sources must not fill the memory
	}
	s := string(source)
	d.names[s] = s
	return s
}

// text is the event's id as it is told: that of a reject as it was sent, in lower case.
func (e *ended) text() string {
	if e.hasID {
		return string(event.AppendUUID(nil, &e.id))
	}
	return e.eventID
}

// accept adds the row of an event. Where its subject is erased it is loaded, its id and content
// hash stay known, and it still moves the horizon; the rest is not stored.
func (t *topic) accept(b *block, d *deferred, row *event.Row, cols *record.Columns) {
	e := &b.ends[d.at]
	gone := t.erase(row)
	if gone {
		b.gone++
	}
	cols.AppendRow(&record.Meta{
		Offset: b.recs[d.at].Offset, End: record.Loaded, Gone: gone, SchemaID: int(e.schemaID), Flags: e.flags, IDHash: d.id, ContentHash: d.content,
	}, row.Vals)
}

// reject adds the row of a rejected record.
func reject(b *block, i int, cols *record.Columns) {
	e := &b.ends[i]
	why := e.why
	if b.recs[i].Unread == 0 {
		sum := sha256.Sum256(b.recs[i].Value)
		why.ValueHash = hex.EncodeToString(sum[:])
	}
	if e.source != "" {
		why.Source = &e.source
	}
	if id := e.text(); id != "" {
		why.EventID = &id
	}
	cols.AppendRow(&record.Meta{Offset: b.recs[i].Offset, End: record.Rejected, SchemaID: int(e.schemaID), Detail: mustJSON(why)}, nil)
}

// mustJSON encodes a detail, whose types always encode.
func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("BUG: detail does not encode: " + err.Error())
	}
	return raw
}

// ids are those of deferred records.
func ids(waiting []deferred) [][16]byte {
	out := make([][16]byte, len(waiting))
	for i := range waiting {
		out[i] = waiting[i].id
	}
	return out
}

// resolve ends the records whose id may be known, in the order of their offsets: an id stored before the
// block, as first has it, or earlier in it, makes a duplicate, or E07 where the content differs. It seals
// the block's columns. The caller has the turn; an error cannot be helped by trying again.
func (t *topic) resolve(ctx context.Context, b *block, waiting []deferred, first map[[16]byte]known, cols *record.Columns) error {
	wanted := make(map[[16]byte]bool, len(waiting))
	for i := range waiting {
		wanted[waiting[i].id] = true
	}
	for row := 0; row < cols.Rows() && len(waiting) > 0; row++ {
		id := [16]byte(cols.IDHash.Row(row))
		if wanted[id] && cols.End[row] == int8(record.Loaded) {
			first[id] = known{b.p.partition, int64(cols.Offset[row]), [32]byte(cols.ContentHash.Row(row)), t.Version}
		}
	}
	var detail []byte
	for i := range waiting {
		d := &waiting[i]
		e := &b.ends[d.at]
		k, seen := first[d.id]
		same := false
		if seen {
			var err error
			if same, err = t.sameContent(ctx, b, d, k); err != nil {
				return err
			}
		}
		switch {
		case !seen:
			end, err := t.resolving.read(ctx, &b.recs[d.at])
			if err != nil {
				return err
			}
			b.ends[d.at] = end
			t.accept(b, d, t.resolving.row, cols)
			first[d.id] = known{b.p.partition, b.recs[d.at].Offset, d.content, t.Version}
		case same:
			e.end = record.Duplicate
			detail = (&copyOf{e.source, e.text(), k.partition, k.offset}).append(detail[:0])
			cols.AppendRow(&record.Meta{Offset: b.recs[d.at].Offset, End: record.Duplicate, SchemaID: int(e.schemaID), Detail: detail}, nil)
		default:
			e.end, e.flags = record.Rejected, 0
			e.why = &record.Rejection{
				Code: "E07", Codes: []string{"E07"}, Field: "eventId",
				Message:     fmt.Sprintf("eventId was published before, at partition %d offset %d, with another content; a correction has a new eventId and a higher recordVersion", k.partition, k.offset),
				OfPartition: &k.partition, OfOffset: &k.offset, OfHash: hex.EncodeToString(k.content[:]), Hash: hex.EncodeToString(d.content[:]),
			}
			reject(b, d.at, cols)
		}
	}
	cols.Seal(b.p.partition, b.c.from, b.c.to, t.l.owner, b.at)
	return nil
}

// sameContent tells whether a record says what is stored under its id. A release that lacks a field hashes
// without it, so what one release stored and another reads is compared by what both know. Where the newer one
// stored it, and the record may have fields that we cannot read, we cannot tell: it is no conflict.
func (t *topic) sameContent(ctx context.Context, b *block, d *deferred, k known) (bool, error) {
	switch {
	case k.content == d.content:
		return true, nil
	case k.version == t.Version:
		return false, nil
	case k.version > t.Version:
		return d.newer, nil
	}
	if _, err := t.resolving.read(ctx, &b.recs[d.at]); err != nil {
		return false, err
	}
	return t.resolving.hasher.SumAt(t.resolving.row, k.version) == k.content, nil
}

// counts sums the ends of the block.
func (b *block) counts() Counts {
	c := Counts{Read: int64(len(b.ends))}
	for i := range b.ends {
		switch b.ends[i].end {
		case record.Loaded:
			c.Loaded++
		case record.Duplicate:
			c.Duplicate++
		case record.Rejected:
			c.Rejected++
		}
	}
	return c
}

package replay

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// place is a position of the topic.
type place struct {
	partition int
	offset    int64
}

// part is the replay of one partition at work.
type part struct {
	r       *runner
	p       *Partition
	t       *event.Type
	reader  *record.Reader
	match   matcher
	booked  int64    // the ledger's end when the partition was begun
	restore *restore // nil: a dry run, or a copy
	hasher  event.Hasher

	// Where store.ids has lost what it knew: the ids given back so far, and how many rows each block lacks.
	lost     map[[16]byte]place
	deficits map[int64]int64
}

// matcher is the part of a selection that each record is compared with.
type matcher struct {
	since, until   time.Time
	keyHash        string
	source, record string
	schemaID       int
}

func newMatcher(s *Selection) matcher {
	return matcher{s.Since, s.Until, s.KeyHash, s.Source, s.Record, s.SchemaID}
}

// HashKey is how a selection names a key.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// frame compares what can be seen without decoding.
func (m *matcher) frame(msg *wkafka.Message) bool {
	switch {
	case !m.since.IsZero() && msg.Time.Before(m.since), !m.until.IsZero() && !msg.Time.Before(m.until):
		return false
	case msg.Unread != 0 && (m.keyHash != "" || m.schemaID != 0):
		return false // it has neither that anybody could know
	case m.keyHash != "" && HashKey(string(msg.Key)) != m.keyHash:
		return false
	case m.schemaID != 0:
		return len(msg.Value) > event.FrameSize && msg.Value[0] == 0 && int(int32(binary.BigEndian.Uint32(msg.Value[1:]))) == m.schemaID
	}
	return true
}

func (m *matcher) decodes() bool { return m.source != "" || m.record != "" }

func (m *matcher) event(row *event.Row) bool {
	return (m.source == "" || row.Str(event.Source) == m.source) && (m.record == "" || row.Str(event.SourceRecordID) == m.record)
}

// run replays the records of a scan.
func (p *part) run(ctx context.Context, scan *wkafka.Scan) error {
	for {
		recs, err := scan.Next(ctx, p.r.opt.ChunkRecords, chunkBytes)
		if err != nil {
			return err
		}
		next := scan.At()
		if len(recs) > 0 {
			if err := p.chunk(ctx, recs, next); err != nil {
				return err
			}
		} else if err := p.book(ctx, &Counts{}, next); err != nil {
			return err
		}
		if len(recs) == 0 {
			return nil
		}
		p.r.progress(p.p)
		if err := p.r.pace.Wait(ctx, len(recs)); err != nil {
			return err
		}
	}
}

// chunk replays some records. next is where the partition goes on.
func (p *part) chunk(ctx context.Context, recs []wkafka.Message, next int64) error {
	selected := recs[:0]
	for i := range recs {
		ok, err := p.selects(ctx, &recs[i])
		if err != nil {
			return err
		}
		if ok {
			selected = append(selected, recs[i])
		}
	}
	counts := &Counts{Read: uint64(len(selected)), Codes: map[string]uint64{}}
	switch {
	case len(selected) == 0:
	case p.r.sink != nil:
		n, err := p.r.sink.write(ctx, p, selected)
		if err != nil {
			return err
		}
		counts.Copied = uint64(n)
	default:
		if err := p.decide(ctx, selected, counts); err != nil {
			return err
		}
	}
	if err := p.r.opt.Step("decide"); err != nil {
		return err
	}
	if p.restore != nil {
		if err := p.restore.flush(ctx); err != nil {
			return err
		}
	}
	if err := p.r.opt.Step("restore"); err != nil {
		return err
	}
	if err := p.book(ctx, counts, next); err != nil {
		return err
	}
	if err := p.r.opt.Step("book"); err != nil {
		return err
	}
	if p.restore != nil {
		return p.restore.clear(ctx)
	}
	return nil
}

// book adds a chunk to the audit.
func (p *part) book(ctx context.Context, c *Counts, next int64) error {
	p.p.add(c)
	p.p.position = next
	return p.r.audit(ctx, p.p)
}

func (p *part) selects(ctx context.Context, m *wkafka.Message) (bool, error) {
	if !p.match.frame(m) {
		return false, nil
	}
	if !p.match.decodes() {
		return true, nil
	}
	v, err := p.reader.Read(ctx, m)
	return err == nil && v.Decoded && p.match.event(p.reader.Row), err
}

// missing is a record without a row, whose end the books must say.
type missing struct {
	m       *wkafka.Message
	verdict record.Verdict
	id      [16]byte
	content [32]byte
}

// decide gives each record its place in the counts, and hands the rows to be restored to p.restore.
func (p *part) decide(ctx context.Context, recs []wkafka.Message, counts *Counts) error {
	from, to := recs[0].Offset, recs[len(recs)-1].Offset+1
	b, n := p.r.books, p.p.Partition
	// Rows before erased positions, for the eraser books a position before it removes the row.
	rows, err := b.rows(ctx, p.t, n, from, to)
	if err != nil {
		return err
	}
	gone, err := b.gone(ctx, p.t, n, from, to)
	if err != nil {
		return err
	}
	var open []missing
	for i := range recs {
		m := &recs[i]
		row, there := rows[m.Offset]
		switch {
		case gone.erased[m.Offset] || there && row.gone:
			counts.Erased++
		case gone.superseded[m.Offset]:
			counts.Superseded++
		case there && row.end == record.Duplicate:
			counts.Duplicate++
		case there && row.end == record.Rejected:
			counts.Rejected++
			counts.Codes[row.code]++
		case there && p.restore != nil && p.restore.done[m.Offset]:
			counts.Restored++ // by the run that was cut off
		case there:
			counts.Present++
		case m.Offset >= p.booked:
			counts.Pending++
		default:
			open = append(open, missing{m: m})
		}
	}
	if len(open) == 0 {
		return nil
	}
	return p.decideMissing(ctx, open, counts)
}

// decideMissing finds out what the records without a row were.
func (p *part) decideMissing(ctx context.Context, open []missing, counts *Counts) error {
	b, n := p.r.books, p.p.Partition
	blocks, err := b.blocks(ctx, p.p.Topic, n, open[0].m.Offset, open[len(open)-1].m.Offset+1)
	if err != nil {
		return err
	}
	var ids [][16]byte
	var subjects []string
	for i := range open {
		o := &open[i]
		if o.verdict, err = p.reader.Read(ctx, o.m); err != nil {
			return err
		}
		if !o.verdict.Decoded {
			continue
		}
		row := p.reader.Row
		eventID, _ := event.ParseUUID(row.Vals[event.EventID].Bytes)
		event.IDHash(&o.id, p.t.Topic, row.Vals[event.Source].Bytes, eventID)
		o.content = p.hasher.Sum(row)
		ids = append(ids, o.id)
		for _, at := range []int{p.t.Subject, p.t.Field("householdPseudonym")} {
			if at >= 0 && isPseudonym(row.Vals[at].Bytes) {
				subjects = append(subjects, row.Str(at))
			}
		}
	}
	stored, err := b.ids(ctx, p.t, ids)
	if err != nil {
		return err
	}
	erasures, err := b.erasures(ctx, p.t, subjects)
	if err != nil {
		return err
	}
	for i := range open {
		o := &open[i]
		here := place{n, o.m.Offset}
		blk, ok := blocks.of(o.m.Offset)
		switch {
		case !ok:
			counts.Pending++ // a gap of the ledger, which reconcile reports
			continue
		case o.m.Unread != 0: // a reject for whoever reads it, whatever the registry has
			counts.Rejected++
			counts.Codes[o.verdict.Why.Code]++
			continue
		case !o.verdict.Decoded:
			counts.Unknown++
			continue
		}
		at := stored[o.id]
		if first, again := p.lost[o.id]; again {
			at = append(at, known{first, o.content, p.t.Version})
		}
		switch k, found := first(at, here); {
		case found && k.place == here:
		case found:
			if _, err := p.reader.Read(ctx, o.m); err != nil { // the row was overwritten since
				return err
			}
			if p.reader.SameContent(&p.hasher, &o.verdict, k.content, k.version) {
				counts.Duplicate++
				continue
			}
			counts.Rejected++
			counts.Codes["E07"]++
			continue
		case o.verdict.Why != nil:
			counts.Rejected++
			counts.Codes[o.verdict.Why.Code]++
			continue
		default:
			// No id is known, so store.ids has lost some, or the record was no loaded one. The block says.
			left, ok := p.deficits[blk.from]
			if !ok {
				if left, err = b.deficit(ctx, p.t, n, blk); err != nil {
					return err
				}
			}
			if left <= 0 {
				p.deficits[blk.from] = left
				counts.Unknown++
				continue
			}
			p.deficits[blk.from] = left - 1
			p.lost[o.id] = here
		}
		if err := p.store(ctx, o, blk, erasures, counts); err != nil {
			return err
		}
	}
	return nil
}

// store counts a loaded record whose row is missing, and hands its row to p.restore.
func (p *part) store(ctx context.Context, o *missing, blk ledgerBlock, erasures map[string]int64, counts *Counts) error {
	if _, err := p.reader.Read(ctx, o.m); err != nil { // the row was overwritten since
		return err
	}
	row := p.reader.Row
	occurred := row.Vals[event.OccurredAt].Int
	holds := func(field int) bool {
		if field < 0 || row.Vals[field].Null {
			return false
		}
		upTo, ok := erasures[row.Str(field)]
		return ok && occurred <= upTo
	}
	erased := holds(p.t.Subject) && p.t.Family != event.FamilyControl
	if household := p.t.Field("householdPseudonym"); !erased && holds(household) {
		row.SetNull(household)
	}
	if erased {
		counts.Erased++
	} else {
		counts.Restored++
	}
	if p.restore == nil {
		return nil
	}
	p.restore.add(&record.Meta{
		Offset: o.m.Offset, End: record.Loaded, Gone: erased, SchemaID: o.verdict.SchemaID, Flags: o.verdict.Flags, IDHash: o.id, ContentHash: o.content,
	}, row, blk)
	return nil
}

// first is where an id was loaded, seen from a position: there, else at the lowest.
func first(at []known, here place) (known, bool) {
	var out known
	for i, k := range at {
		if k.place == here {
			return k, true
		}
		if i == 0 || k.partition < out.partition || k.partition == out.partition && k.offset < out.offset {
			out = k
		}
	}
	return out, len(at) > 0
}

// isPseudonym tells the form of pseudonyms: 64 hexadecimal digits, lower case.
func isPseudonym(b []byte) bool {
	if len(b) != 64 {
		return false
	}
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

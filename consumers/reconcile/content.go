package reconcile

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// idChunk bounds the offsets whose ids are held at once.
const idChunk = 1_000_000

// contents hashes the rows of one partition again.
type contents struct {
	*check
	o         *Options
	partition uint32
	window    bounds

	stored    *record.Stored
	hasher    event.Hasher
	household int // index of householdPseudonym; -1: the event has none
	erased    *erasedSubjects
}

func (o *Options) contents(c *check, partition uint32, window bounds) *contents {
	return &contents{
		check: c, o: o, partition: partition, window: window, stored: record.NewStored(c.t), household: c.t.Field("householdPseudonym"),
		erased: &erasedSubjects{c: c},
	}
}

// run finds the rows whose columns do not have the content that the row says was loaded, or whose hashes
// are not those of the known id.
func (c *contents) run(ctx context.Context, p *Partition) error {
	if c.window.from >= c.window.to {
		return nil
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	bad, err := c.hash(ctx, fmt.Sprintf("_offset >= %d AND _offset < %d", c.window.from, c.window.to), &p.Contents.Hashed)
	if err != nil {
		return err
	}
	// Rows may have been erased, or emptied, since the erasures were read: those that do not fit are read again.
	c.erased = &erasedSubjects{c: c.check}
	slices.Sort(bad)
	r := ranges{}
	for chunk := range slices.Chunk(bad, 5000) {
		again, err := c.hash(ctx, "_offset IN ("+strings.ReplaceAll(strings.Trim(fmt.Sprint(chunk), "[]"), " ", ", ")+")", nil)
		if err != nil {
			return err
		}
		slices.Sort(again)
		for _, offset := range slices.Compact(again) {
			r.add(offset)
		}
	}
	c.report(KindContent, r, "")
	return c.compareWithIDs(ctx)
}

// report adds findings for the ranges.
func (c *contents) report(kind Kind, r ranges, detail string) {
	for _, s := range r.list {
		c.find(kind, c.partition, s.from, s.to, s.n, strings.Trim(s.detail()+"; "+detail, "; "))
	}
}

// hash makes the hashes of loaded rows again, and returns the offsets of those that differ.
func (c *contents) hash(ctx context.Context, where string, n *uint64) (bad []uint64, err error) {
	var offset uint64
	var version uint8
	var content, id string
	err = c.each(ctx, fmt.Sprintf(`SELECT _offset, _hash_version, toString(_content_hash), toString(_id_hash), %s FROM store.%s
WHERE _partition = %d AND _end = 'loaded' AND _gone = 0 AND %s`, c.stored.Select(), c.t.Table, c.partition, where), nil, func() error {
		if n != nil {
			*n++
		}
		fits, err := c.fits(ctx, int(version), pad(content, 32), pad(id, 16))
		if err == nil && !fits {
			bad = append(bad, offset)
		}
		return err
	}, append([]any{&offset, &version, &content, &id}, c.stored.Dest()...)...)
	if err != nil {
		return nil, fmt.Errorf("hash rows of %s/%d again: %w", c.t.Topic, c.partition, err)
	}
	return bad, nil
}

// pad gives back the zero bytes at the end of a fixed string.
func pad(s string, n int) string {
	return s + strings.Repeat("\x00", max(0, n-len(s)))
}

// fits tells whether the row that was scanned has the content and the id of its hashes. A household that
// is null may be one that an erasure took out: then the content is that with an erased subject in its place.
func (c *contents) fits(ctx context.Context, version int, content, id string) (bool, error) {
	row := c.stored.Row
	if !c.stored.Fill() || idHash(c.t, row) != id {
		return false, nil
	}
	sum := c.hasher.SumAt(row, version)
	if string(sum[:]) == content {
		return true, nil
	}
	if c.household < 0 || !row.Vals[c.household].Null {
		return false, nil
	}
	subjects, err := c.erased.list(ctx)
	if err != nil {
		return false, err
	}
	for _, s := range subjects {
		if s.upTo < row.Vals[event.OccurredAt].Int {
			continue
		}
		row.Set(c.household, s.pseudonym)
		if sum = c.hasher.SumAt(row, version); string(sum[:]) == content {
			return true, nil
		}
	}
	return false, nil
}

func idHash(t *event.Type, row *event.Row) string {
	var out [16]byte
	id, _ := event.ParseUUID(row.Vals[event.EventID].Bytes)
	event.IDHash(&out, t.Topic, row.Vals[event.Source].Bytes, id)
	return string(out[:])
}

// erasedSubjects are the erasures of the family of an event, read when they are first asked for.
type erasedSubjects struct {
	c    *check
	read bool
	all  []erasedSubject
}

// erasedSubject is a pseudonym, and up to when in milliseconds its events are erased.
type erasedSubject struct {
	pseudonym string
	upTo      int64
}

func (e *erasedSubjects) list(ctx context.Context) ([]erasedSubject, error) {
	if e.read {
		return e.all, nil
	}
	var raw string
	var upTo int64
	err := e.c.each(ctx, "SELECT toString(pseudonym), toUnixTimestamp64Milli(max(requested_at)) FROM store.erasures WHERE family = {family:String} GROUP BY pseudonym",
		[]any{clickhouse.Named("family", string(e.c.t.Family))}, func() error {
			e.all = append(e.all, erasedSubject{hex.EncodeToString([]byte(pad(raw, 32))), upTo})
			return nil
		}, &raw, &upTo)
	if err != nil {
		return nil, fmt.Errorf("read erasures: %w", err)
	}
	e.read = true
	return e.all, nil
}

// holds tells whether what a subject did at an instant is erased.
func (e *erasedSubjects) holds(ctx context.Context, pseudonym string, occurred int64) (bool, error) {
	all, err := e.list(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(s erasedSubject) bool { return s.pseudonym == pseudonym && occurred <= s.upTo }), nil
}

// compareWithIDs finds rows whose hashes were changed together with their columns: store.ids has them as
// they were loaded. It compares checksums first, for they nearly always are equal.
func (c *contents) compareWithIDs(ctx context.Context) error {
	args := func(from, to uint64) []any {
		return []any{
			clickhouse.Named("partition", c.partition), clickhouse.Named("from", from), clickhouse.Named("to", to),
			clickhouse.Named("type", uint8(c.t.No)), clickhouse.Named("topic", c.t.Topic),
		}
	}
	const notErased = ` NOT IN (SELECT offset FROM store.erased WHERE topic = {topic:String} AND partition = {partition:UInt32})`
	rows := ` FROM store.` + c.t.Table + ` WHERE _partition = {partition:UInt32} AND _offset >= {from:UInt64} AND _offset < {to:UInt64} AND _end = 'loaded' AND _offset` + notErased
	ids := ` FROM store.ids WHERE type = {type:UInt8} AND partition = {partition:UInt32} AND offset >= {from:UInt64} AND offset < {to:UInt64}`
	var ofRows, ofIDs uint64
	err := c.each(ctx, `SELECT (SELECT groupBitXor(sipHash64(_id_hash, _content_hash))`+rows+`), (SELECT groupBitXor(sipHash64(id_hash, content_hash))`+ids+` AND offset`+notErased+`)`,
		args(c.window.from, c.window.to), func() error { return nil }, &ofRows, &ofIDs)
	if err != nil {
		return fmt.Errorf("compare rows of %s/%d with ids: %w", c.t.Topic, c.partition, err)
	}
	if ofRows == ofIDs {
		return nil
	}
	r := ranges{}
	for from := c.window.from; from < c.window.to; from += idChunk {
		var offset uint64
		err := c.each(ctx, `SELECT DISTINCT _offset`+rows+` AND _offset IN (SELECT offset`+ids+`)
  AND (_offset, _id_hash, _content_hash) NOT IN (SELECT offset, id_hash, content_hash`+ids+`) ORDER BY _offset`,
			args(from, min(c.window.to, from+idChunk)), func() error {
				r.add(offset)
				return nil
			}, &offset)
		if err != nil {
			return fmt.Errorf("compare rows of %s/%d with ids: %w", c.t.Topic, c.partition, err)
		}
	}
	c.report(KindContent, r, "the hashes are not those of the known id")
	return nil
}

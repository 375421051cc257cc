package reconcile

import (
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// maxLocated bounds how many blocks of a topic are searched for single positions; what is wrong in
// further ones is given by the range of the block.
const maxLocated = 200

// maxRanges bounds the ranges that one search reports; the last one holds the rest.
const maxRanges = 100

// settings let the queries take long, for the books of a topic may be large, and spill to disk early.
var settings = clickhouse.Settings{
	"max_execution_time": 3600, "max_bytes_before_external_group_by": 128 << 20, "max_bytes_before_external_sort": 128 << 20,
}

// check reconciles one topic within ClickHouse.
type check struct {
	db         driver.Conn
	t          *event.Type
	partitions map[uint32]*Partition
	findings   []Finding

	blocks []block
}

// block is a range of the ledger and the rows that name it as theirs.
type block struct {
	partition uint32
	from, to  uint64

	entries                           uint64 // in the ledger; 1 unless something is wrong
	read, loaded, duplicate, rejected uint64 // sums over the entries
	most                              uint64 // the highest read of the entries

	rows, positions                         uint64
	loadedRows, duplicateRows, rejectedRows uint64
	strays, first, last                     uint64 // rows outside their own range; lowest and highest offset
}

func (b *block) before(o *block) bool {
	if b.partition != o.partition {
		return b.partition < o.partition
	}
	if b.from != o.from {
		return b.from < o.from
	}
	return b.to < o.to
}

// run takes the steps in the order in which the hub writes backwards, so that a loader or an eraser at
// work meanwhile makes no finding: the ledger first, rows of later blocks being left out; then the rows;
// then the erased positions, which are written before their rows are removed.
func (c *check) run(ctx context.Context) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"read the ledger", c.readLedger},
		{"read rows by block", c.readRows},
		{"compare blocks", c.compareBlocks},
		{"compare ids", c.compareIDs},
		{"read erased and superseded", c.readGone},
		{"look for copies", c.findCopies},
		{"read rejects", c.readRejects},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// each calls take after scanning each row of a query into dest.
func (c *check) each(ctx context.Context, query string, args []any, take func() error, dest ...any) error {
	rows, err := c.db.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if err := take(); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (c *check) find(kind Kind, partition uint32, from, to, records uint64, detail string) {
	f := Finding{kind, c.t.Topic, partition, from, to, records, detail}
	for _, g := range c.findings {
		if f.samePlace(g) {
			return
		}
	}
	c.findings = append(c.findings, f)
}

func (c *check) partition(n uint32) *Partition {
	p := c.partitions[n]
	if p == nil {
		p = &Partition{Topic: c.t.Topic, Partition: n}
		c.partitions[n] = p
	}
	return p
}

func (c *check) topicArg() []any { return []any{clickhouse.Named("topic", c.t.Topic)} }

// readLedger fills blocks and the sums of the partitions, and finds gaps and overlaps.
func (c *check) readLedger(ctx context.Context) error {
	var b block
	var p *Partition
	err := c.each(ctx, `SELECT partition, from_offset, to_offset, count(), sum(read), sum(loaded), sum(duplicate), sum(rejected), max(read)
FROM store.ledger WHERE topic = {topic:String} GROUP BY partition, from_offset, to_offset ORDER BY partition, from_offset, to_offset`,
		c.topicArg(), func() error {
			c.blocks = append(c.blocks, b)
			if p == nil || p.Partition != b.partition {
				p = c.partition(b.partition)
				p.From, p.To = b.from, b.from
			}
			c.addToLedger(p, &b)
			return nil
		}, &b.partition, &b.from, &b.to, &b.entries, &b.read, &b.loaded, &b.duplicate, &b.rejected, &b.most)
	return err
}

// addToLedger adds the next range, in the order of offsets, to the books of its partition.
func (c *check) addToLedger(p *Partition, b *block) {
	if b.from > p.To {
		c.find(KindGap, b.partition, p.To, b.from, b.from-p.To, "")
	}
	if end := min(b.to, p.To); b.from < end {
		c.find(KindOverlap, b.partition, b.from, end, end-b.from, "")
	}
	if b.entries > 1 {
		c.find(KindOverlap, b.partition, b.from, b.to, b.to-b.from, fmt.Sprintf("the ledger has the range %d times", b.entries))
	}
	if b.read != b.loaded+b.duplicate+b.rejected || b.from >= b.to || b.most > b.to-b.from {
		c.find(KindSums, b.partition, b.from, b.to, b.read, fmt.Sprintf("read %d, loaded %d, duplicate %d, rejected %d", b.read, b.loaded, b.duplicate, b.rejected))
	}
	p.Blocks += b.entries
	p.Read += b.read
	p.Loaded += b.loaded
	p.Duplicate += b.duplicate
	p.Rejected += b.rejected
	if b.to > b.from && b.to-b.from > b.most {
		p.Skipped += b.to - b.from - b.most
	}
	p.To = max(p.To, b.to)
}

// readRows adds to blocks what is stored of each, and finds rows of blocks that the ledger does not have.
// groupBitmap takes about two bytes a row.
func (c *check) readRows(ctx context.Context) error {
	i := 0
	var b block
	return c.each(ctx, `SELECT _partition, _from, _to, count(), toUInt64(groupBitmap(toUInt32(bitAnd(_offset - _from, 4294967295)))),
    countIf(_end = 'loaded'), countIf(_end = 'duplicate'), countIf(_end = 'rejected'), countIf(_offset < _from OR _offset >= _to), min(_offset), max(_offset)
FROM store.`+c.t.Table+` GROUP BY _partition, _from, _to ORDER BY _partition, _from, _to`,
		nil, func() error {
			for i < len(c.blocks) && c.blocks[i].before(&b) {
				i++
			}
			if b.strays > 0 {
				c.find(KindUnbooked, b.partition, b.first, b.last+1, b.strays, fmt.Sprintf("rows name the block [%d, %d), which does not hold them", b.from, b.to))
			}
			if i == len(c.blocks) || b.before(&c.blocks[i]) {
				c.partition(b.partition)
				c.find(KindUnbooked, b.partition, b.first, b.last+1, b.rows, fmt.Sprintf("the ledger has no range [%d, %d); a loader that takes the partition over completes a block that was cut off", b.from, b.to))
				return nil
			}
			at := &c.blocks[i]
			at.rows, at.positions = b.rows, b.positions
			at.loadedRows, at.duplicateRows, at.rejectedRows = b.loadedRows, b.duplicateRows, b.rejectedRows
			return nil
		}, &b.partition, &b.from, &b.to, &b.rows, &b.positions, &b.loadedRows, &b.duplicateRows, &b.rejectedRows, &b.strays, &b.first, &b.last)
}

// compareBlocks finds what the rows of each block lack, repeat, or have too much.
func (c *check) compareBlocks(ctx context.Context) error {
	var erased map[uint32][]uint64 // positions without a row because they were erased, sorted
	located := 0
	for i := range c.blocks {
		b := &c.blocks[i]
		if b.rows > b.positions {
			if err := c.locateRepeated(ctx, b.partition, b.from, b.to); err != nil {
				return err
			}
		}
		if b.positions > b.most {
			c.find(KindUnbooked, b.partition, b.from, b.to, b.positions-b.most, fmt.Sprintf("%d positions have rows, the ledger says %d were read", b.positions, b.most))
		}
		var gone []uint64
		if b.positions < b.most {
			if erased == nil {
				var err error
				if erased, err = c.erasedRows(ctx); err != nil {
					return err
				}
			}
			gone = between(erased[b.partition], b.from, b.to)
		}
		switch have := b.positions + uint64(len(gone)); {
		case have < b.most:
			located++
			if err := c.locateMissing(ctx, b, gone, b.most-have, located <= maxLocated); err != nil {
				return err
			}
		case b.entries == 1 && b.rows == b.positions && have == b.most &&
			(b.loaded != b.loadedRows+uint64(len(gone)) || b.duplicate != b.duplicateRows || b.rejected != b.rejectedRows):
			c.find(KindEnds, b.partition, b.from, b.to, b.read, fmt.Sprintf("loaded %d, duplicate %d, rejected %d in the ledger; %d, %d, %d by rows",
				b.loaded, b.duplicate, b.rejected, b.loadedRows+uint64(len(gone)), b.duplicateRows, b.rejectedRows))
		}
	}
	// Blocks with other bounds may hold the same position: only where ranges overlap.
	for _, f := range c.findings {
		if f.Kind == KindOverlap {
			if err := c.locateRepeated(ctx, f.Partition, f.From, f.To); err != nil {
				return err
			}
		}
	}
	return nil
}

// between returns the part of sorted that is in [from, to). It is not a copy.
func between(sorted []uint64, from, to uint64) []uint64 {
	i := sort.Search(len(sorted), func(i int) bool { return sorted[i] >= from })
	j := sort.Search(len(sorted), func(i int) bool { return sorted[i] >= to })
	return sorted[i:max(i, j)]
}

// erasedRows reads the positions whose rows were removed. Positions in store.erased that still have a row,
// because it is about to be removed or never had more than a mark, are left out.
func (c *check) erasedRows(ctx context.Context) (map[uint32][]uint64, error) {
	out := map[uint32][]uint64{}
	var partition uint32
	var offset uint64
	err := c.each(ctx, `SELECT DISTINCT partition, offset FROM store.erased
WHERE topic = {topic:String} AND (partition, offset) NOT IN (
    SELECT _partition, _offset FROM store.`+c.t.Table+` WHERE (_partition, _offset) IN (SELECT partition, offset FROM store.erased WHERE topic = {topic:String}))
ORDER BY partition, offset`,
		c.topicArg(), func() error {
			out[partition] = append(out[partition], offset)
			return nil
		}, &partition, &offset)
	if err != nil {
		return nil, fmt.Errorf("read erased positions: %w", err)
	}
	return out, nil
}

func (c *check) locateRepeated(ctx context.Context, partition uint32, from, to uint64) error {
	return c.locate(ctx, KindRepeated, partition, `SELECT _offset FROM store.`+c.t.Table+`
WHERE _partition = {partition:UInt32} AND _offset >= {from:UInt64} AND _offset < {to:UInt64} GROUP BY _offset HAVING count() > 1 ORDER BY _offset`, from, to)
}

// locate reports the offsets that a query gives, in their order, as ranges.
func (c *check) locate(ctx context.Context, kind Kind, partition uint32, query string, from, to uint64) error {
	var offset uint64
	r := ranges{}
	err := c.each(ctx, query, []any{
		clickhouse.Named("partition", partition), clickhouse.Named("from", from), clickhouse.Named("to", to), clickhouse.Named("type", uint8(c.t.No)),
		clickhouse.Named("topic", c.t.Topic),
	}, func() error {
		r.add(offset)
		return nil
	}, &offset)
	for _, s := range r.list {
		c.find(kind, partition, s.from, s.to, s.n, s.detail())
	}
	return err
}

// locateMissing reports the holes between the rows of a block, without those that erasures left. Where the
// broker skipped offsets, they cannot be told from holes: then the finding says how many are missing.
func (c *check) locateMissing(ctx context.Context, b *block, gone []uint64, missing uint64, search bool) error {
	if !search || b.to-b.from > b.most {
		detail := ""
		if b.to-b.from > b.most {
			detail = fmt.Sprintf("the range has %d offsets without a record, so they cannot be named", b.to-b.from-b.most)
		}
		c.find(KindMissing, b.partition, b.from, b.to, missing, detail)
		return nil
	}
	next, offset := b.from, uint64(0)
	r := ranges{}
	upTo := func(end uint64) {
		for ; next < end; next++ {
			if len(gone) > 0 && gone[0] == next {
				gone = gone[1:]
				continue
			}
			r.add(next)
		}
	}
	err := c.each(ctx, `SELECT DISTINCT _offset FROM store.`+c.t.Table+`
WHERE _partition = {partition:UInt32} AND _from = {from:UInt64} AND _to = {to:UInt64} AND _offset >= {from:UInt64} AND _offset < {to:UInt64} ORDER BY _offset`,
		[]any{clickhouse.Named("partition", b.partition), clickhouse.Named("from", b.from), clickhouse.Named("to", b.to)},
		func() error {
			upTo(offset)
			next = offset + 1
			return nil
		}, &offset)
	if err != nil {
		return err
	}
	upTo(b.to)
	for _, s := range r.list {
		c.find(KindMissing, b.partition, s.from, s.to, s.n, s.detail())
	}
	return nil
}

// span is a range of offsets of which n were found.
type span struct {
	from, to, n uint64
	whole       bool // all of its offsets were found
}

func (s span) detail() string {
	if s.whole {
		return ""
	}
	return "in several places of this range; fix the others first"
}

// ranges joins ascending offsets to spans.
type ranges struct{ list []span }

func (r *ranges) add(offset uint64) {
	if n := len(r.list); n > 0 {
		last := &r.list[n-1]
		if last.to == offset || n >= maxRanges {
			last.whole = last.whole && last.to == offset
			last.to, last.n = offset+1, last.n+1
			return
		}
	}
	r.list = append(r.list, span{offset, offset + 1, 1, true})
}

// compareIDs compares the known ids with the loaded records, up to the end of the ledger as it was read.
func (c *check) compareIDs(ctx context.Context) error {
	numbers, ends := []uint32{}, []uint64{}
	for n, p := range c.partitions {
		numbers, ends = append(numbers, n), append(ends, p.To)
	}
	if len(numbers) == 0 {
		numbers, ends = []uint32{0}, []uint64{0} // an array of no type cannot be bound
	}
	type known struct{ ids, positions uint64 }
	found := map[uint32]known{}
	var partition uint32
	var k known
	err := c.each(ctx, `SELECT partition, count(), groupBitmap(offset) FROM store.ids
WHERE type = {type:UInt8} AND offset < transform(partition, {partitions:Array(UInt32)}, {ends:Array(UInt64)}, toUInt64(0)) GROUP BY partition`,
		[]any{clickhouse.Named("type", uint8(c.t.No)), clickhouse.Named("partitions", numbers), clickhouse.Named("ends", ends)},
		func() error {
			found[partition] = k
			return nil
		}, &partition, &k.ids, &k.positions)
	if err != nil {
		return err
	}
	for n, p := range c.partitions {
		if k := found[n]; k.ids == p.Loaded && k.positions == k.ids {
			continue
		}
		for _, s := range []struct {
			kind  Kind
			query string
		}{
			{KindNoID, `SELECT DISTINCT _offset FROM store.` + c.t.Table + `
WHERE _partition = {partition:UInt32} AND _end = 'loaded' AND _offset >= {from:UInt64} AND _offset < {to:UInt64}
  AND _offset NOT IN (SELECT offset FROM store.ids WHERE type = {type:UInt8} AND partition = {partition:UInt32}) ORDER BY _offset`},
			{KindRepeatedID, `SELECT offset FROM store.ids WHERE type = {type:UInt8} AND partition = {partition:UInt32} AND offset >= {from:UInt64} AND offset < {to:UInt64}
GROUP BY offset HAVING count() > 1 ORDER BY offset`},
			{KindStrayID, `SELECT DISTINCT offset FROM store.ids WHERE type = {type:UInt8} AND partition = {partition:UInt32} AND offset >= {from:UInt64} AND offset < {to:UInt64}
  AND offset NOT IN (SELECT _offset FROM store.` + c.t.Table + ` WHERE _partition = {partition:UInt32} AND _end = 'loaded')
  AND offset NOT IN (SELECT offset FROM store.erased WHERE topic = {topic:String} AND partition = {partition:UInt32}) ORDER BY offset`},
		} {
			if err := c.locate(ctx, s.kind, n, s.query, p.From, p.To); err != nil {
				return fmt.Errorf("look for %s: %w", s.kind, err)
			}
		}
		if !slices.ContainsFunc(c.findings, func(f Finding) bool { return f.Partition == n }) {
			// It should have been located; it must not pass unseen.
			c.find(KindEnds, n, p.From, p.To, p.Loaded, fmt.Sprintf("%d loaded in the ledger, %d ids of %d positions", p.Loaded, found[n].ids, found[n].positions))
		}
	}
	return nil
}

// readGone reads how many of the loaded records are not in the rows any more.
func (c *check) readGone(ctx context.Context) error {
	var partition uint32
	var erased, superseded uint64
	err := c.each(ctx, `SELECT partition, toUInt64(erased), toUInt64(superseded) FROM welfare.books WHERE topic = {topic:String}`, c.topicArg(), func() error {
		if p := c.partitions[partition]; p != nil {
			p.Erased, p.Superseded = erased, superseded
		}
		return nil
	}, &partition, &erased, &superseded)
	for _, p := range c.partitions {
		p.Rows = int64(p.Loaded) - int64(p.Erased) - int64(p.Superseded)
	}
	return err
}

func (c *check) readRejects(ctx context.Context) error {
	var partition uint32
	var open, redriven, discarded uint64
	return c.each(ctx, `SELECT partition, countIf(state = 'open'), countIf(state = 'redriven'), countIf(state = 'discarded')
FROM welfare.rejected WHERE topic = {topic:String} GROUP BY partition`, c.topicArg(), func() error {
		if p := c.partitions[partition]; p != nil {
			p.OpenRejects, p.Redriven, p.Discarded = open, redriven, discarded
		}
		return nil
	}, &partition, &open, &redriven, &discarded)
}

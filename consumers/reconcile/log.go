package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// Records are read and compared in chunks of so many, which bounds the memory.
const (
	logRecords = 20_000
	logBytes   = 16 << 20
)

// maxNamed bounds the rows of a partition whose changed fields are named.
const maxNamed = 20

// logCheck compares the rows of one partition with the records of its log.
type logCheck struct {
	*contents
	reader  *record.Reader
	differ  []uint64 // offsets
	added   ranges
	missing ranges
	named   map[string][]uint64 // fields that differ, by name, at offsets
	looked  int
	copies  []loggedCopy // duplicates of the chunk
}

func (o *Options) logCheck(c *contents) *logCheck {
	return &logCheck{contents: c, reader: record.NewReader(c.t, o.Schemas, o.MaxValueBytes), named: map[string][]uint64{}}
}

// loggedCopy is a duplicate as the log has it.
type loggedCopy struct {
	offset   uint64
	id       string
	contents []string // its hash at each version of the event's schema
}

// storedRecord is what is stored of a record, its event as a hash.
type storedRecord struct {
	end         string
	gone        bool
	content, id string
	version     int
	schemaID    uint32
	valueHash   string // of a rejected one

	broken       bool     // the columns are no event
	columns      [32]byte // hash of the columns
	noHousehold  bool
	recorded     int64
	traceparent  string
	notTraceable bool
}

// run reads the log of the window again. What it does not hold any more is not looked at.
func (c *logCheck) run(ctx context.Context, p *Partition, log offsets) error {
	from, to := max(c.window.from, uint64(max(0, log.start))), min(c.window.to, uint64(max(0, log.end)))
	if from >= to {
		return nil
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	scan := wkafka.NewScan(c.o.Cluster, c.t.Topic, int(c.partition), int64(from), int64(to))
	defer scan.Close()
	for at := int64(from); ; {
		msgs, err := scan.Next(ctx, logRecords, logBytes)
		if err != nil {
			return err
		}
		next := scan.At()
		if len(msgs) == 0 {
			next = int64(to)
		}
		if err := c.chunk(ctx, msgs, at, next); err != nil {
			return fmt.Errorf("compare %s/%d with its log from offset %d: %w", c.t.Topic, c.partition, at, err)
		}
		p.Contents.Compared += uint64(len(msgs))
		if len(msgs) == 0 {
			break
		}
		at = next
		c.o.Progress(fmt.Sprintf("%s/%d", c.t.Topic, c.partition), at-int64(from), int64(to-from))
	}
	for _, name := range slices.Sorted(mapsKeys(c.named)) {
		for _, offset := range c.named[name] {
			c.find(KindDiffers, c.partition, offset, offset+1, 1, name)
		}
	}
	slices.Sort(c.differ)
	differ := ranges{}
	for _, offset := range c.differ {
		differ.add(offset)
	}
	c.report(KindDiffers, differ, "")
	c.report(KindAdded, c.added, "")
	for _, s := range c.missing.list {
		c.find(KindMissing, c.partition, s.from, s.to, s.n, strings.TrimPrefix(s.detail()+"; the log has them", "; "))
	}
	return nil
}

func mapsKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// chunk compares the records of [from, to) with the rows there.
func (c *logCheck) chunk(ctx context.Context, msgs []wkafka.Message, from, to int64) error {
	rows, err := c.rows(ctx, from, to)
	if err != nil {
		return err
	}
	gone, err := c.gone(ctx, from, to) // after the rows, for the eraser books a position before it removes the row
	if err != nil {
		return err
	}
	for i := range msgs {
		m := &msgs[i]
		row, ok := rows[m.Offset]
		delete(rows, m.Offset)
		switch {
		case gone[m.Offset]:
		case !ok:
			c.missing.add(uint64(m.Offset))
		default:
			if err := c.compare(ctx, m, row); err != nil {
				return err
			}
		}
	}
	if err := c.compareCopies(ctx); err != nil {
		return err
	}
	if len(rows) == 0 {
		return nil
	}
	// Rows without a record: none, or retention has taken their records in the meantime.
	first := to
	if len(msgs) > 0 {
		first = msgs[0].Offset
	}
	for _, offset := range slices.Sorted(func(yield func(int64) bool) {
		for o := range rows {
			if !yield(o) {
				return
			}
		}
	}) {
		if offset > first {
			c.added.add(uint64(offset))
			continue
		}
		logs, err := readLogs(ctx, c.o.Cluster, []*event.Type{c.t})
		if err != nil {
			return err
		}
		if log, ok := logs[place{c.t.Topic, c.partition}]; ok && offset >= log.start {
			c.added.add(uint64(offset))
		}
	}
	return nil
}

// rows reads what is stored of [from, to).
func (c *logCheck) rows(ctx context.Context, from, to int64) (map[int64]*storedRecord, error) {
	out := map[int64]*storedRecord{}
	var offset uint64
	var gone, version uint8
	var r storedRecord
	err := c.each(ctx, fmt.Sprintf(`SELECT _offset, toString(_end), _gone, _schema_id, _hash_version, toString(_content_hash), toString(_id_hash),
if(_end = 'rejected', JSONExtractString(_detail, 'value_hash'), ''), %s FROM store.%s
WHERE _partition = %d AND _offset >= %d AND _offset < %d`, c.stored.Select(), c.t.Table, c.partition, from, to), nil, func() error {
		row := r
		row.gone, row.version, row.content, row.id = gone == 1, int(version), pad(r.content, 32), pad(r.id, 16)
		if row.end == "loaded" && !row.gone {
			if !c.stored.Fill() || idHash(c.t, c.stored.Row) != row.id {
				row.broken = true
			} else {
				row.columns = c.hasher.SumAt(c.stored.Row, row.version)
				row.noHousehold = c.household >= 0 && c.stored.Row.Vals[c.household].Null
				row.recorded = c.stored.Row.Vals[event.RecordedAt].Int
				row.traceparent, row.notTraceable = c.stored.Row.Str(event.Traceparent), c.stored.Row.Vals[event.Traceparent].Null
			}
		}
		out[int64(offset)] = &row
		return nil
	}, append([]any{&offset, &r.end, &gone, &r.schemaID, &version, &r.content, &r.id, &r.valueHash}, c.stored.Dest()...)...)
	if err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	return out, nil
}

// gone reads the positions of [from, to) whose rows erasures removed, or will.
func (c *logCheck) gone(ctx context.Context, from, to int64) (map[int64]bool, error) {
	out := map[int64]bool{}
	var offset uint64
	err := c.each(ctx, `SELECT DISTINCT offset FROM store.erased WHERE topic = {topic:String} AND partition = {partition:UInt32} AND offset >= {from:UInt64} AND offset < {to:UInt64}`,
		[]any{clickhouse.Named("topic", c.t.Topic), clickhouse.Named("partition", c.partition), clickhouse.Named("from", from), clickhouse.Named("to", to)},
		func() error {
			out[int64(offset)] = true
			return nil
		}, &offset)
	if err != nil {
		return nil, fmt.Errorf("read erased positions: %w", err)
	}
	return out, nil
}

// compare compares one record with its row.
func (c *logCheck) compare(ctx context.Context, m *wkafka.Message, row *storedRecord) error {
	differs := func(what string) { c.differs(uint64(m.Offset), what) }
	if row.end == "rejected" {
		hash := "" // of a record that cannot be read
		if m.Unread == 0 {
			sum := sha256.Sum256(m.Value)
			hash = hex.EncodeToString(sum[:])
		}
		if hash != row.valueHash {
			differs("rejected, and the value in the log is another")
		}
		return nil
	}
	v, err := c.reader.Read(ctx, m)
	if err != nil {
		return err
	}
	if !v.Decoded {
		differs(row.end + ", and the value in the log cannot be read")
		return nil
	}
	log := c.reader.Row
	if row.end == "duplicate" {
		d := loggedCopy{offset: uint64(m.Offset), id: idHash(c.t, log)}
		for version := 1; version <= c.t.Version; version++ {
			sum := c.hasher.SumAt(log, version)
			d.contents = append(d.contents, string(sum[:]))
		}
		c.copies = append(c.copies, d)
		return nil
	}
	sum := c.hasher.SumAt(log, row.version)
	if string(sum[:]) != row.content || idHash(c.t, log) != row.id {
		differs(row.end + ", and the event in the log is another")
		return nil
	}
	if row.gone {
		return nil
	}
	recorded, trace := log.Vals[event.RecordedAt].Int, log.Vals[event.Traceparent]
	fits := !row.broken && row.columns == sum
	if !fits && !row.broken && row.noHousehold && !log.Vals[c.household].Null {
		erased, err := c.erased.holds(ctx, log.Str(c.household), log.Vals[event.OccurredAt].Int)
		if err != nil {
			return err
		}
		if !erased { // the erasure may be younger than what was read
			c.erased = &erasedSubjects{c: c.check}
			if erased, err = c.erased.holds(ctx, log.Str(c.household), log.Vals[event.OccurredAt].Int); err != nil {
				return err
			}
		}
		if erased {
			log.SetNull(c.household)
			sum = c.hasher.SumAt(log, row.version)
			fits = row.columns == sum
		}
	}
	switch {
	case !fits:
		fields, err := c.fields(ctx, m.Offset, log)
		if err != nil {
			return err
		}
		differs(fields)
	case row.recorded != recorded || row.traceparent != string(trace.Bytes) || row.notTraceable != trace.Null:
		differs("fields that differ: recordedAt or traceparent")
	case row.schemaID != uint32(v.SchemaID):
		differs("the schema id differs")
	}
	return nil
}

// differs notes a row that differs: what, for the first ones.
func (c *logCheck) differs(offset uint64, what string) {
	if c.looked < maxNamed {
		c.looked++
		c.named[what] = append(c.named[what], offset)
		return
	}
	c.differ = append(c.differ, offset)
}

// compareCopies looks for the event that each duplicate of the chunk is a copy of: its row does not have its
// hashes, but the known ids have those of the first.
func (c *logCheck) compareCopies(ctx context.Context) error {
	for chunk := range slices.Chunk(c.copies, 5000) {
		in := make([]string, len(chunk))
		for i := range chunk {
			in[i] = fmt.Sprintf("unhex('%x')", chunk[i].id)
		}
		known := map[string]bool{}
		var id, content string
		err := c.each(ctx, fmt.Sprintf("SELECT DISTINCT toString(id_hash), toString(content_hash) FROM store.ids WHERE type = %d AND id_hash IN (%s)", c.t.No, strings.Join(in, ", ")), nil, func() error {
			known[pad(id, 16)+pad(content, 32)] = true
			return nil
		}, &id, &content)
		if err != nil {
			return fmt.Errorf("look up ids of duplicates: %w", err)
		}
		for _, d := range chunk {
			if !slices.ContainsFunc(d.contents, func(content string) bool { return known[d.id+content] }) {
				c.differs(d.offset, "duplicate, and no event is known with this id and content")
			}
		}
	}
	c.copies = c.copies[:0]
	return nil
}

// fields names the fields of a row that differ from its record. It never tells a value.
func (c *logCheck) fields(ctx context.Context, offset int64, log *event.Row) (string, error) {
	if c.looked >= maxNamed {
		return "", nil
	}
	var names []string
	broken := false
	err := c.each(ctx, fmt.Sprintf("SELECT %s FROM store.%s WHERE _partition = %d AND _offset = %d LIMIT 1", c.stored.Select(), c.t.Table, c.partition, offset), nil, func() error {
		broken = !c.stored.Fill()
		for i := range c.t.Fields {
			if i == event.EventID {
				if idHash(c.t, c.stored.Row) != idHash(c.t, log) {
					names = append(names, "eventId or source")
				}
				continue
			}
			if !same(&c.stored.Row.Vals[i], &log.Vals[i]) {
				names = append(names, c.t.Fields[i].Name)
			}
		}
		return nil
	}, c.stored.Dest()...)
	if err != nil {
		return "", fmt.Errorf("read row: %w", err)
	}
	if broken {
		return "the columns are not of an event", nil
	}
	return "fields that differ: " + strings.Join(names, ", "), nil
}

func same(a, b *event.Value) bool {
	return a.Null == b.Null && a.Int == b.Int && a.Float == b.Float && string(a.Bytes) == string(b.Bytes) &&
		slices.EqualFunc(a.List, b.List, func(x, y []byte) bool { return string(x) == string(y) })
}

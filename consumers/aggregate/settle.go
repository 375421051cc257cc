package aggregate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/welfarehub/welfarehub/pkg/fault"
)

// settleOverlap is how long before a block another owner may have stored a copy that the block's owner
// could not see when it decided: far longer than any insert lasts.
const settleOverlap = 15 * time.Minute

// loser is a loaded event that another one with its identity takes the place of.
type loser struct {
	no                     uint8
	partition, ofPartition uint32
	offset, ofOffset       uint64
	hash, ofHash           string
}

// mark is what a tombstone needs to know of the row that it takes out.
type mark struct {
	no        uint8
	partition uint32
	offset    uint64
	version   int64
	hash      string
	grp, rec  id
}

// settle is step (c). Where more than one instance of the loader wrote a topic lately, it looks for
// ids of the new rows that were loaded at several positions. The lowest (partition, offset) stays.
func (a *Aggregator) settle(ctx context.Context, batch *batch, work *work) (int, error) {
	types, err := a.sharedTypes(ctx, batch)
	if err != nil {
		return 0, err
	}
	found := 0
	for _, no := range types {
		ranges := batch.ranges(no, "_partition", "_offset")
		if ranges == "" {
			continue
		}
		losers, err := a.losers(ctx, no, ranges)
		if err != nil {
			return found, err
		}
		for chunk := range slices.Chunk(losers, 1000) {
			if err := a.supersede(ctx, no, chunk, work); err != nil {
				return found, err
			}
		}
		found += len(losers)
	}
	out, err := a.opts.DB.PrepareBatch(ctx, "INSERT INTO store.settled (topic, partition, settled_to, settled_at)")
	if err != nil {
		return found, fmt.Errorf("insert into store.settled: %w", err)
	}
	now := fault.Now().UTC()
	for p, s := range batch.spans {
		if err := out.Append(typeOf(p.no).Topic, p.partition, s.to, now); err != nil {
			return found, fmt.Errorf("insert into store.settled: %w", err)
		}
	}
	if err := out.Send(); err != nil {
		return found, fmt.Errorf("insert into store.settled: %w", err)
	}
	return found, nil
}

// sharedTypes are the events that several owners wrote around the time of the batch.
func (a *Aggregator) sharedTypes(ctx context.Context, batch *batch) ([]uint8, error) {
	// The ledger has ClickHouse's time. Where that clock was set back since, blocks that came meanwhile look older.
	rows, err := a.query(ctx, fmt.Sprintf(`SELECT type FROM store.ledger
		WHERE loaded_at >= least(fromUnixTimestamp64Milli(%d, 'UTC'), now64(3)) - toIntervalMillisecond(%d)
		GROUP BY type HAVING uniqExact(owner) > 1 ORDER BY type`, batch.oldest, settleOverlap.Milliseconds()))
	if err != nil {
		return nil, fmt.Errorf("read owners in the ledger: %w", err)
	}
	defer rows.Close()
	var out []uint8
	for rows.Next() {
		var no uint8
		if err := rows.Scan(&no); err != nil {
			return nil, fmt.Errorf("read owners in the ledger: %w", err)
		}
		out = append(out, no)
	}
	return out, rows.Err()
}

// losers are the loaded events of the ranges, and those that they meet, of which the same id is loaded at a lower
// position.
func (a *Aggregator) losers(ctx context.Context, no uint8, ranges string) ([]loser, error) {
	rows, err := a.query(ctx, fmt.Sprintf(`
		SELECT toString(id_hash), at.1, at.2, at.3
		FROM
		(
			SELECT id_hash, arraySort(groupUniqArray((partition, offset, content_hash))) AS all
			FROM store.ids
			WHERE type = %d AND id_hash IN (SELECT _id_hash FROM store.%s WHERE %s AND _end = 'loaded')
			GROUP BY id_hash
			HAVING length(all) > 1
		)
		ARRAY JOIN all AS at`, no, typeOf(no).Table, ranges))
	if err != nil {
		return nil, fmt.Errorf("search %s for ids at several positions: %w", typeOf(no).Topic, err)
	}
	defer rows.Close()
	type copied struct {
		id        string
		partition uint32
		offset    uint64
		hash      string
	}
	var copies []copied
	for rows.Next() {
		var c copied
		if err := rows.Scan(&c.id, &c.partition, &c.offset, &c.hash); err != nil {
			return nil, fmt.Errorf("search %s for ids at several positions: %w", typeOf(no).Topic, err)
		}
		copies = append(copies, c)
	}
	if err := rows.Err(); err != nil || len(copies) == 0 {
		return nil, err
	}
	positions := make([]string, len(copies))
	for i, c := range copies {
		positions[i] = fmt.Sprintf("(%d, %d)", c.partition, c.offset)
	}
	strays, err := a.notLoaded(ctx, no, strings.Join(positions, ", "))
	if err != nil {
		return nil, err
	}
	var out []loser
	var best copied
	for _, c := range copies {
		switch {
		case strays[[2]uint64{uint64(c.partition), c.offset}]:
		case c.id != best.id:
			best = c
		default:
			out = append(out, loser{no: no, partition: c.partition, offset: c.offset, hash: c.hash, ofPartition: best.partition, ofOffset: best.offset, ofHash: best.hash})
		}
	}
	return out, nil
}

// notLoaded are those of the positions that are stored, and not as loaded. An id there is a stray: the insert of a
// former owner came to a block that was stored already, whose own rows gave no ids, and left its ids.
func (a *Aggregator) notLoaded(ctx context.Context, no uint8, positions string) (map[[2]uint64]bool, error) {
	t := typeOf(no)
	rows, err := a.query(ctx, fmt.Sprintf("SELECT _partition, _offset FROM store.%s WHERE _end != 'loaded' AND (_partition, _offset) IN (%s)", t.Table, positions))
	if err != nil {
		return nil, fmt.Errorf("search %s for ids without their event: %w", t.Topic, err)
	}
	defer rows.Close()
	out := map[[2]uint64]bool{}
	for rows.Next() {
		var partition uint32
		var offset uint64
		if err := rows.Scan(&partition, &offset); err != nil {
			return nil, fmt.Errorf("search %s for ids without their event: %w", t.Topic, err)
		}
		out[[2]uint64{uint64(partition), offset}] = true
	}
	return out, rows.Err()
}

// supersede books losers and marks their facts. All of it can be done twice.
func (a *Aggregator) supersede(ctx context.Context, no uint8, losers []loser, work *work) error {
	t := typeOf(no)
	positions := make([]string, len(losers))
	byPlace := map[[2]uint64]loser{}
	for i, l := range losers {
		positions[i] = fmt.Sprintf("(%d, %d)", l.partition, l.offset)
		byPlace[[2]uint64{uint64(l.partition), l.offset}] = l
	}
	list := strings.Join(positions, ", ")
	rows, err := a.query(ctx, fmt.Sprintf("SELECT DISTINCT _partition, _offset, toString(source), toString(event_id) FROM store.%s WHERE (_partition, _offset) IN (%s)", t.Table, list))
	if err != nil {
		return fmt.Errorf("read superseded rows of %s: %w", t.Topic, err)
	}
	defer rows.Close()
	out, err := a.opts.DB.PrepareBatch(ctx, "INSERT INTO store.superseded (topic, partition, offset, of_partition, of_offset, source, event_id, content_hash, of_content_hash, found_at)")
	if err != nil {
		return fmt.Errorf("insert into store.superseded: %w", err)
	}
	now := fault.Now().UTC()
	for rows.Next() {
		var partition uint32
		var offset uint64
		var source, eventID string
		if err := rows.Scan(&partition, &offset, &source, &eventID); err != nil {
			return fmt.Errorf("read superseded rows of %s: %w", t.Topic, err)
		}
		l := byPlace[[2]uint64{uint64(partition), offset}]
		if err := out.Append(t.Topic, partition, offset, l.ofPartition, l.ofOffset, source, eventID, l.hash, l.ofHash, now); err != nil {
			return fmt.Errorf("insert into store.superseded: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read superseded rows of %s: %w", t.Topic, err)
	}
	if err := out.Send(); err != nil {
		return fmt.Errorf("insert into store.superseded: %w", err)
	}
	if a.sources[no] == "" {
		return nil
	}
	marks, err := a.readMarks(ctx, fmt.Sprintf("SELECT %s FROM (%s) WHERE (partition, offset) IN (%s)", markColumns, a.sources[no], list))
	if err != nil {
		return err
	}
	return a.bury(ctx, marks, work)
}

const markColumns = "DISTINCT toUInt8(type) AS t, partition, offset, version, hash, reinterpretAsFixedString(grp) AS g, reinterpretAsFixedString(rec) AS r"

func (a *Aggregator) readMarks(ctx context.Context, query string) ([]mark, error) {
	rows, err := a.query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read facts to take out: %w", err)
	}
	defer rows.Close()
	var out []mark
	for rows.Next() {
		var m mark
		var g, r string
		if err := rows.Scan(&m.no, &m.partition, &m.offset, &m.version, &m.hash, &g, &r); err != nil {
			return nil, fmt.Errorf("read facts to take out: %w", err)
		}
		m.grp, m.rec = toID(g), toID(r)
		out = append(out, m)
	}
	return out, rows.Err()
}

// bury writes tombstones: a row of the same position with gone = 1, beside the fact that it takes out.
// Readers of facts so need no list of positions, and what was taken out stays out if a view gives it
// again. The groups and records concerned are added to the work. They are stored again each time, for the hash
// of equal rows is a token too, which a death of the engine may have left taken without them.
func (a *Aggregator) bury(ctx context.Context, marks []mark, work *work) error {
	if len(marks) == 0 {
		return nil
	}
	for _, target := range []struct {
		table      string
		revocation bool
	}{{"store.facts", false}, {"store.records", true}} {
		plain := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"insert_deduplicate": 0, "deduplicate_blocks_in_dependent_materialized_views": 0}))
		out, err := a.opts.DB.PrepareBatch(plain, "INSERT INTO "+target.table+" (grp, rec, type, partition, offset, gone, version, hash)")
		if err != nil {
			return fmt.Errorf("insert tombstones into %s: %w", target.table, err)
		}
		for _, m := range marks {
			if (m.no == revocation) != target.revocation {
				continue
			}
			if err := out.Append(m.grp.number(), m.rec.number(), m.no, m.partition, m.offset, uint8(1), m.version, m.hash); err != nil {
				return fmt.Errorf("insert tombstones into %s: %w", target.table, err)
			}
		}
		if out.Rows() == 0 {
			if err := out.Abort(); err != nil {
				return fmt.Errorf("insert tombstones into %s: %w", target.table, err)
			}
			continue
		}
		if err := out.Send(); err != nil {
			return fmt.Errorf("insert %d tombstones into %s: %w", out.Rows(), target.table, err)
		}
	}
	for _, m := range marks {
		work.records[m.rec] = true
		if m.no != revocation {
			work.add(m.grp, m.no)
		}
	}
	return nil
}

package aggregate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// An erasure goes in three steps, each of which can be done again, and none of which needs to know
// how far another got:
//
//	find    positions of the subject's rows into store.erased and store.erased_households, tombstones
//	        into store.facts; from here on no cell counts them (step d)
//	count   the cycle that takes the erasure brings the cells up to date (step f)
//	remove  the rows of all positions in store.erased whose erasure has been counted (step g); then
//	        the certificates
//
// and, much later, the bytes that the removed rows still take on the disk are purged.
//
// Rows are removed after the cells are right, not before, because a group is found by its rows.

// hit is a row that an erasure concerns: all of it, or its household_pseudonym.
type hit struct {
	no        uint8
	household bool
	partition uint32
	offset    uint64
	occurred  int64
	who       string // pseudonym, 32 bytes
	source    string // of the erasure
	eventID   string
}

// erase is step (d): new erasures against all rows, and new rows against all erasures. It returns the
// number of rows found. What the loader knew to be erased is not among them: it has no row.
func (a *Aggregator) erase(ctx context.Context, batch *batch, work *work) (int, error) {
	if !a.erasing {
		var any uint8
		if err := a.opts.DB.QueryRow(ctx, "SELECT count() > 0 FROM (SELECT 1 FROM store.subject_erased WHERE _end = 'loaded' LIMIT 1)").Scan(&any); err != nil {
			return 0, fmt.Errorf("read erasures: %w", err)
		}
		if any == 0 {
			return 0, nil
		}
		a.erasing = true
	}
	if batch.ranges(erasure, "_partition", "_offset") != "" {
		a.pending = true // certificates, also of those that meet no row
	}
	hits, err := a.candidates(ctx, batch)
	if err != nil || len(hits) == 0 {
		return 0, err
	}
	if hits, err = a.condemned(ctx, hits); err != nil || len(hits) == 0 {
		return 0, err
	}
	a.pending = true
	if err := a.bookHits(ctx, hits); err != nil {
		return 0, err
	}
	rows, positions := 0, map[uint8][]string{}
	for _, h := range hits {
		if h.household {
			continue
		}
		rows++
		if a.sources[h.no] != "" {
			positions[h.no] = append(positions[h.no], fmt.Sprintf("(%d, %d)", h.partition, h.offset))
		}
	}
	// All at once: each insert of tombstones costs as much as one of many.
	var selects []string
	for _, no := range sorted(positions) {
		for chunk := range slices.Chunk(positions[no], 5000) {
			selects = append(selects, fmt.Sprintf("SELECT %s FROM (%s) WHERE (partition, offset) IN (%s)", markColumns, a.sources[no], strings.Join(chunk, ", ")))
		}
	}
	if len(selects) == 0 {
		return rows, nil
	}
	marks, err := a.readMarks(ctx, strings.Join(selects, "\nUNION ALL\n"))
	if err != nil {
		return 0, err
	}
	return rows, a.bury(ctx, marks, work)
}

// candidates finds the rows of whom a new erasure names, by the tables' index of subjects, and the new
// rows of whom any erasure names. When they occurred is not looked at.
func (a *Aggregator) candidates(ctx context.Context, batch *batch) ([]hit, error) {
	erasures := batch.ranges(erasure, "_partition", "_offset")
	var selects []string
	for _, t := range event.Types {
		if t.Subject < 0 || t.Family == event.FamilyControl {
			continue
		}
		ranges := batch.ranges(uint8(t.No), "_partition", "_offset")
		columns := []string{t.Fields[t.Subject].Column}
		if t.Field("householdPseudonym") >= 0 {
			columns = append(columns, "household_pseudonym")
		}
		for i, column := range columns {
			rows := fmt.Sprintf("SELECT toUInt8(%d) AS no, toUInt8(%d) AS household, _partition, _offset, toUnixTimestamp64Milli(occurred_at) AS occurred, assumeNotNull(%s) AS who FROM store.%s WHERE _end = 'loaded' AND _gone = 0 AND ",
				t.No, i, column, t.Table)
			if erasures != "" {
				selects = append(selects, rows+fmt.Sprintf("%s IN (SELECT pseudonym FROM store.subject_erased WHERE _end = 'loaded' AND %s)", column, erasures))
			}
			if ranges != "" {
				selects = append(selects, rows+fmt.Sprintf("%s AND %s IN (SELECT pseudonym FROM store.erasures WHERE family = '%s')", ranges, column, t.Family))
			}
		}
	}
	if len(selects) == 0 {
		return nil, nil
	}
	rows, err := a.query(ctx, "SELECT DISTINCT no, household, _partition, _offset, occurred, who FROM ("+strings.Join(selects, "\nUNION ALL\n")+")")
	if err != nil {
		return nil, fmt.Errorf("search rows of erased subjects: %w", err)
	}
	defer rows.Close()
	var out []hit
	for rows.Next() {
		var h hit
		var household uint8
		if err := rows.Scan(&h.no, &household, &h.partition, &h.offset, &h.occurred, &h.who); err != nil {
			return nil, fmt.Errorf("search rows of erased subjects: %w", err)
		}
		h.household = household == 1
		out = append(out, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("search rows of erased subjects: %w", err)
	}
	return out, nil
}

// condemned keeps the hits that occurred up to the instant that an erasure of their family names, and
// says by which. Every accepted SubjectErased counts, in all its versions: what was deleted cannot be
// brought back. It reuses hits.
func (a *Aggregator) condemned(ctx context.Context, hits []hit) ([]hit, error) {
	type subject struct{ family, who string }
	type limit struct {
		upTo            int64
		source, eventID string
	}
	limits := map[subject]limit{}
	asked := map[string]bool{}
	var names []string
	for _, h := range hits {
		if !asked[h.who] {
			asked[h.who] = true
			names = append(names, fmt.Sprintf("unhex('%x')", h.who))
		}
	}
	for chunk := range slices.Chunk(names, 10_000) {
		rows, err := a.query(ctx, fmt.Sprintf(`SELECT pseudonym, arrayJoin(if(scope = 'ALL', ['DEMAND', 'POVERTY', 'SCHOOL'], [toString(scope)])) AS family,
			toUnixTimestamp64Milli(max(requested_at)), argMax(toString(source), (requested_at, event_id)), argMax(toString(event_id), (requested_at, event_id))
			FROM store.subject_erased WHERE _end = 'loaded' AND pseudonym IN (%s) GROUP BY pseudonym, family`, strings.Join(chunk, ", ")))
		if err != nil {
			return nil, fmt.Errorf("read erasures: %w", err)
		}
		for rows.Next() {
			var s subject
			var l limit
			if err := rows.Scan(&s.who, &s.family, &l.upTo, &l.source, &l.eventID); err != nil {
				_ = rows.Close()
				return nil, fmt.Errorf("read erasures: %w", err)
			}
			limits[s] = l
		}
		err = rows.Err()
		_ = rows.Close()
		if err != nil {
			return nil, fmt.Errorf("read erasures: %w", err)
		}
	}
	out := hits[:0]
	for _, h := range hits {
		l, ok := limits[subject{string(typeOf(h.no).Family), h.who}]
		if ok && h.occurred <= l.upTo {
			h.source, h.eventID = l.source, l.eventID
			out = append(out, h)
		}
	}
	return out, nil
}

// bookHits writes the positions of hits. It can be done twice.
func (a *Aggregator) bookHits(ctx context.Context, hits []hit) error {
	now := time.Now().UTC()
	for _, book := range []struct {
		table     string
		household bool
	}{{"store.erased", false}, {"store.erased_households", true}} {
		out, err := a.opts.DB.PrepareBatch(ctx, "INSERT INTO "+book.table+" (topic, partition, offset, source, event_id, erased_at)")
		if err != nil {
			return fmt.Errorf("insert into %s: %w", book.table, err)
		}
		for _, h := range hits {
			if h.household != book.household {
				continue
			}
			if err := out.Append(typeOf(h.no).Topic, h.partition, h.offset, h.source, h.eventID, now); err != nil {
				return fmt.Errorf("insert into %s: %w", book.table, err)
			}
		}
		if out.Rows() == 0 {
			_ = out.Abort()
			continue
		}
		if err := out.Send(); err != nil {
			return fmt.Errorf("insert %d positions into %s: %w", out.Rows(), book.table, err)
		}
	}
	return nil
}

// sweep is step (g). It removes the rows of the positions in store.erased whose erasure is counted,
// empties the households, and writes the certificates that are missing or no longer true.
func (a *Aggregator) sweep(ctx context.Context, aggregated map[place]uint64) error {
	if !a.sweepAll && (!a.pending || time.Since(a.sweptAt) < a.opts.SweepEvery) {
		return nil
	}
	counted := fmt.Sprintf("(source, event_id) IN (SELECT toString(source), event_id FROM store.subject_erased WHERE _end = 'loaded' AND _offset < %s)",
		strings.ReplaceAll(lookUp(ofType(aggregated, erasure), func(v uint64) uint64 { return v }), "bitShiftLeft(toUInt64(type), 32) + partition",
			fmt.Sprintf("bitShiftLeft(toUInt64(%d), 32) + _partition", erasure)))
	for _, t := range event.Types {
		if t.Subject < 0 || t.Family == event.FamilyControl {
			continue
		}
		no := uint8(t.No)
		below := "offset < " + strings.ReplaceAll(lookUp(ofType(aggregated, no), func(v uint64) uint64 { return v }),
			"toUInt64(type)", fmt.Sprintf("toUInt64(%d)", no))
		erased := fmt.Sprintf("SELECT partition, offset FROM store.erased WHERE topic = %s AND source != '' AND %s AND %s", quote(t.Topic), counted, below)
		if a.sources[no] != "" {
			err := a.remove(ctx, removal{
				table: "store.facts", verb: "DELETE FROM store.facts", partition: "partition", offset: "offset",
				only: fmt.Sprintf("type = %d AND gone = 0", no), at: erased,
			})
			if err != nil {
				return err
			}
		}
		table := "store." + t.Table
		err := a.remove(ctx, removal{table: table, verb: "DELETE FROM " + table, partition: "_partition", offset: "_offset", only: "_end = 'loaded'", at: erased})
		if err != nil {
			return err
		}
		if err := a.opts.fail("sweep " + t.Table); err != nil {
			return err
		}
		if t.Field("householdPseudonym") < 0 {
			continue
		}
		err = a.remove(ctx, removal{
			table: table, verb: "ALTER TABLE " + table + " UPDATE household_pseudonym = NULL", partition: "_partition", offset: "_offset",
			only: "household_pseudonym IS NOT NULL", at: "SELECT partition, offset FROM store.erased_households WHERE topic = " + quote(t.Topic),
		})
		if err != nil {
			return err
		}
	}
	if err := a.certify(ctx, counted); err != nil {
		return err
	}
	a.sweepAll, a.pending, a.sweptAt = false, false, time.Now()
	return nil
}

func ofType(m map[place]uint64, no uint8) map[place]uint64 {
	out := map[place]uint64{}
	for p, v := range m {
		if p.no == no {
			out[p] = v
		}
	}
	return out
}

// removal is a mutation of the rows of a table at certain positions.
type removal struct {
	table, verb       string
	partition, offset string // columns of the position
	only              string // predicate of the rows that the mutation may meet at all
	at                string // query of positions
}

// removeChunk is how many positions a mutation names.
const removeChunk = 20_000

// remove runs the mutation on the positions that are still there, named one by one: a mutation whose
// condition has a subquery within a subquery never ends on the engine of 26.7. With none to do it runs
// none, for an empty one costs as much.
func (a *Aggregator) remove(ctx context.Context, r removal) error {
	rows, err := a.query(ctx, fmt.Sprintf("SELECT DISTINCT %[1]s, %[2]s FROM %[3]s WHERE %[4]s AND (%[1]s, %[2]s) IN (%[5]s)", r.partition, r.offset, r.table, r.only, r.at))
	if err != nil {
		return fmt.Errorf("search %s for erased rows: %w", r.table, err)
	}
	defer rows.Close()
	var positions []string
	for rows.Next() {
		var partition uint32
		var offset uint64
		if err := rows.Scan(&partition, &offset); err != nil {
			return fmt.Errorf("search %s for erased rows: %w", r.table, err)
		}
		positions = append(positions, fmt.Sprintf("(%d, %d)", partition, offset))
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("search %s for erased rows: %w", r.table, err)
	}
	for chunk := range slices.Chunk(positions, removeChunk) {
		start := time.Now()
		query := fmt.Sprintf("%s WHERE %s AND (%s, %s) IN (%s) SETTINGS mutations_sync = 1, lightweight_deletes_sync = 1",
			r.verb, r.only, r.partition, r.offset, strings.Join(chunk, ", "))
		if err := a.exec(ctx, query); err != nil {
			return fmt.Errorf("remove %d erased rows of %s: %w", len(chunk), r.table, err)
		}
		a.log.Debug("aggregate: erased", zap.String("table", r.table), zap.Int("rows", len(chunk)), zap.Duration("took", time.Since(start)))
	}
	return nil
}

// certify writes a certificate for each erasure that is counted and each table of its scope, where
// there is none or its rows have become more.
func (a *Aggregator) certify(ctx context.Context, counted string) error {
	var tables []string
	for _, t := range event.Types {
		if t.Subject >= 0 && t.Family != event.FamilyControl {
			tables = append(tables, fmt.Sprintf("(%s, %s, '%s')", quote(t.Topic), quote(t.Table), t.Family))
		}
	}
	query := fmt.Sprintf(`INSERT INTO store.certificates (source, event_id, pseudonym_sha256, scope, requested_at, applied_at, table, rows)
		SELECT e.source, e.event_id, lower(hex(SHA256(lower(hex(e.pseudonym))))), e.scope, e.requested_at, now64(3, 'UTC'), e.place.2, n.rows
		FROM
		(
			SELECT toString(source) AS source, event_id, any(pseudonym) AS pseudonym, any(toString(scope)) AS scope, any(requested_at) AS requested_at,
				arrayJoin([%s]) AS place
			FROM store.subject_erased WHERE _end = 'loaded' AND %s
			GROUP BY source, event_id
		) AS e
		LEFT JOIN
		(
			SELECT source, event_id, toString(topic) AS topic, uniqExact(kind, partition, offset) AS rows FROM
			(
				SELECT 0 AS kind, source, event_id, topic, partition, offset FROM store.erased WHERE source != ''
				UNION ALL
				SELECT 1, source, event_id, topic, partition, offset FROM store.erased_households
			)
			GROUP BY source, event_id, topic
		) AS n ON n.source = e.source AND n.event_id = e.event_id AND n.topic = e.place.1
		LEFT JOIN (SELECT source, event_id, toString(table) AS name, argMax(rows, applied_at) AS rows, 1 AS there FROM store.certificates GROUP BY source, event_id, name) AS c
			ON c.source = e.source AND c.event_id = e.event_id AND c.name = e.place.2
		WHERE e.scope IN ('ALL', e.place.3) AND (c.there = 0 OR c.rows != n.rows)`, strings.Join(tables, ", "), strings.ReplaceAll(counted, "(source, event_id) IN", "(toString(source), event_id) IN"))
	if err := a.exec(ctx, query); err != nil {
		return fmt.Errorf("write certificates of erasure: %w", err)
	}
	return nil
}

// purge takes the bytes of removed rows off the disk, of all tables with a certificate that waits for
// it. It rewrites the parts that hold such rows, however large: so seldom.
func (a *Aggregator) purge(ctx context.Context) error {
	rows, err := a.query(ctx, "SELECT DISTINCT toString(table) FROM welfare.erasures WHERE purged_at IS NULL ORDER BY 1")
	if err != nil {
		return fmt.Errorf("read certificates of erasure: %w", err)
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return fmt.Errorf("read certificates of erasure: %w", err)
		}
		tables = append(tables, table)
	}
	if err := rows.Err(); err != nil || len(tables) == 0 {
		return err
	}
	start := time.Now().UTC()
	for _, table := range append([]string{"facts"}, tables...) {
		if err := a.exec(ctx, "ALTER TABLE store."+table+" APPLY DELETED MASK SETTINGS mutations_sync = 1"); err != nil {
			return fmt.Errorf("purge store.%s: %w", table, err)
		}
	}
	out, err := a.opts.DB.PrepareBatch(ctx, "INSERT INTO store.purges (table, started_at, purged_at)")
	if err != nil {
		return fmt.Errorf("insert into store.purges: %w", err)
	}
	for _, table := range tables {
		if err := out.Append(table, start, time.Now().UTC()); err != nil {
			return fmt.Errorf("insert into store.purges: %w", err)
		}
	}
	if err := out.Send(); err != nil {
		return fmt.Errorf("insert into store.purges: %w", err)
	}
	a.log.Info("aggregate: bytes of erased rows purged", zap.Strings("tables", tables), zap.Duration("took", time.Since(start)))
	return nil
}

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
// Rows are removed after the cells are right, not before, because a group is found by its rows.

// limits gives, of the erasures in question, the instant up to which events of a family are erased.
// Every accepted SubjectErased counts, in all its versions: what was deleted cannot be brought back.
func limits(family event.Family, where string) string {
	return fmt.Sprintf(`SELECT pseudonym, max(requested_at) AS up_to, argMax((toString(source), event_id), (requested_at, event_id)) AS by
		FROM store.subject_erased WHERE _end = 'loaded' AND scope IN ('ALL', '%s') AND %s GROUP BY pseudonym`, family, where)
}

// hit is a row that an erasure concerns.
type hit struct {
	partition uint32
	offset    uint64
	source    string
	eventID   string
}

// erase is step (d): new erasures against all rows, and new rows against all erasures.
func (a *Aggregator) erase(ctx context.Context, batch *batch, work *work) (int, error) {
	var any uint8
	if err := a.opts.DB.QueryRow(ctx, "SELECT count() > 0 FROM (SELECT 1 FROM store.subject_erased WHERE _end = 'loaded' LIMIT 1)").Scan(&any); err != nil {
		return 0, fmt.Errorf("read erasures: %w", err)
	}
	if any == 0 {
		return 0, nil
	}
	erasures := batch.ranges(erasure, "_partition", "_offset")
	found := 0
	for _, t := range event.Types {
		if t.Subject < 0 || t.Family == event.FamilyControl {
			continue
		}
		ranges := batch.ranges(uint8(t.No), "_partition", "_offset")
		if erasures == "" && ranges == "" {
			continue
		}
		n, err := a.eraseFrom(ctx, t, t.Fields[t.Subject].Column, "store.erased", erasures, ranges, work)
		if err != nil {
			return found, err
		}
		found += n
		if t.Field("householdPseudonym") >= 0 {
			m, err := a.eraseFrom(ctx, t, "household_pseudonym", "store.erased_households", erasures, ranges, nil)
			if err != nil {
				return found, err
			}
			n += m
		}
		if n > 0 {
			a.pending = true
		}
	}
	if erasures != "" {
		a.pending = true // certificates, also of those that met no row
	}
	return found, nil
}

func (a *Aggregator) eraseFrom(ctx context.Context, t *event.Type, column, book, erasures, ranges string, work *work) (int, error) {
	// Of each row: is it of a subject whom a new erasure names, or is it new and its subject erased?
	var concerned []string
	if erasures != "" {
		concerned = append(concerned, fmt.Sprintf("(%s IN (SELECT pseudonym FROM store.subject_erased WHERE _end = 'loaded' AND %s))", column, erasures))
	}
	if ranges != "" {
		concerned = append(concerned, ranges)
	}
	rowsOf := fmt.Sprintf("store.%s WHERE _end = 'loaded' AND _gone = 0 AND %s IS NOT NULL AND (%s)", t.Table, column, strings.Join(concerned, " OR "))
	query := fmt.Sprintf(`SELECT DISTINCT t._partition, t._offset, l.by.1, toString(l.by.2)
		FROM (SELECT _partition, _offset, occurred_at, assumeNotNull(%s) AS who FROM %s) AS t
		INNER JOIN (%s) AS l ON l.pseudonym = t.who
		WHERE t.occurred_at <= l.up_to`, column, rowsOf,
		limits(t.Family, fmt.Sprintf("pseudonym IN (SELECT assumeNotNull(%s) FROM %s)", column, rowsOf)))
	rows, err := a.query(ctx, query)
	if err != nil {
		return 0, fmt.Errorf("search %s for erased subjects: %w", t.Topic, err)
	}
	defer rows.Close()
	var hits []hit
	for rows.Next() {
		var h hit
		if err := rows.Scan(&h.partition, &h.offset, &h.source, &h.eventID); err != nil {
			return 0, fmt.Errorf("search %s for erased subjects: %w", t.Topic, err)
		}
		hits = append(hits, h)
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("search %s for erased subjects: %w", t.Topic, err)
	}
	if len(hits) == 0 {
		return 0, nil
	}
	out, err := a.opts.DB.PrepareBatch(ctx, "INSERT INTO "+book+" (topic, partition, offset, source, event_id, erased_at)")
	if err != nil {
		return 0, fmt.Errorf("insert into %s: %w", book, err)
	}
	now := time.Now().UTC()
	for _, h := range hits {
		if err := out.Append(t.Topic, h.partition, h.offset, h.source, h.eventID, now); err != nil {
			return 0, fmt.Errorf("insert into %s: %w", book, err)
		}
	}
	if err := out.Send(); err != nil {
		return 0, fmt.Errorf("insert %d positions of %s into %s: %w", len(hits), t.Topic, book, err)
	}
	source := a.sources[uint8(t.No)]
	if work == nil || source == "" {
		return len(hits), nil
	}
	for len(hits) > 0 {
		n := min(len(hits), 5000)
		positions := make([]string, n)
		for i, h := range hits[:n] {
			positions[i] = fmt.Sprintf("(%d, %d)", h.partition, h.offset)
		}
		marks, err := a.readMarks(ctx, fmt.Sprintf("SELECT %s FROM (%s) WHERE (partition, offset) IN (%s)", markColumns, source, strings.Join(positions, ", ")))
		if err != nil {
			return 0, err
		}
		if err := a.bury(ctx, marks, work); err != nil {
			return 0, err
		}
		hits = hits[n:]
		if len(hits) == 0 {
			return len(marks), nil
		}
	}
	return 0, nil
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
	query := fmt.Sprintf(`INSERT INTO welfare.erasures (source, event_id, pseudonym_sha256, scope, requested_at, applied_at, table, rows)
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
		LEFT JOIN (SELECT source, event_id, toString(table) AS name, argMax(rows, applied_at) AS rows, 1 AS there FROM welfare.erasures GROUP BY source, event_id, name) AS c
			ON c.source = e.source AND c.event_id = e.event_id AND c.name = e.place.2
		WHERE e.scope IN ('ALL', e.place.3) AND (c.there = 0 OR c.rows != n.rows)`, strings.Join(tables, ", "), strings.ReplaceAll(counted, "(source, event_id) IN", "(toString(source), event_id) IN"))
	if err := a.exec(ctx, query); err != nil {
		return fmt.Errorf("write certificates of erasure: %w", err)
	}
	return nil
}

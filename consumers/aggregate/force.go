package aggregate

import (
	"cmp"
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
)

// scope is what a computation looks at.
type scope struct {
	wanted   string     // predicate on grp: groups to compute
	read     string     // predicate on grp: those, and the offers that they name; empty: as wanted
	snapshot string     // predicate on (type, partition, offset)
	touched  *ext.Table // the table that the predicates read; nil: none
	table    string     // of the contributions that are stored
}

func (s *scope) tables(more ...*ext.Table) clickhouse.QueryOption {
	if s.touched != nil {
		more = append(more, s.touched)
	}
	return clickhouse.WithExternalTable(more...)
}

// service is what an offer is: nomenclature code and area of users.
type service struct{ nomenclature, area string }

// position is where a version of a record stands.
type position struct {
	rec       id
	partition uint32
	offset    uint64
}

// deadPositions are those that are not in force: corrected, revoked, erased or superseded.
type deadPositions []position

func (d deadPositions) table() (*ext.Table, error) {
	t, err := ext.NewTable("dead", ext.Column("rec", "FixedString(16)"), ext.Column("partition", "UInt32"), ext.Column("offset", "UInt64"))
	if err != nil {
		return nil, fmt.Errorf("make table of positions: %w", err)
	}
	for _, p := range d {
		if err := t.Append(p.rec[:], p.partition, p.offset); err != nil {
			return nil, fmt.Errorf("append to table of positions: %w", err)
		}
	}
	return t, nil
}

// version is one of several versions of a record, or of the claims on it.
type version struct {
	rec        id
	partition  uint32
	offset     uint64
	gone       bool
	version    int64
	hash       string
	revocation id
	upTo       int64
}

// before orders versions as they rank: the highest, of equal ones that of the lowest content hash, of
// the same content the lowest position.
func (v *version) before(o *version) int {
	return cmp.Or(cmp.Compare(o.version, v.version), cmp.Compare(v.hash, o.hash),
		cmp.Compare(v.partition, o.partition), cmp.Compare(v.offset, o.offset))
}

func (v *version) position() position { return position{v.rec, v.partition, v.offset} }

// dead looks at the records of the groups in scope, wherever their versions stand. Only those of which
// there is more than one row are read: a lone row is in force.
func (a *Aggregator) dead(ctx context.Context, s scope) (deadPositions, error) {
	read := s.read
	if read == "" {
		read = s.wanted
	}
	versions, err := a.versions(ctx, fmt.Sprintf("rec IN (SELECT rec FROM store.facts WHERE %s)", read), 2, s, s.tables())
	if err != nil {
		return nil, err
	}
	return a.outOfForce(ctx, s, versions)
}

// outOfForce are those of all versions of records, and claims on them, that are not in force.
func (a *Aggregator) outOfForce(ctx context.Context, s scope, versions []version) (deadPositions, error) {
	claims := map[id]bool{}
	for i := range versions {
		if versions[i].revocation != (id{}) {
			claims[versions[i].revocation] = true
		}
	}
	inForce := map[position]bool{} // of the revocations
	if len(claims) > 0 {
		recs, err := idTable("recs", claims)
		if err != nil {
			return nil, err
		}
		own, err := a.versions(ctx, "rec IN (SELECT reinterpretAsUInt128(id) FROM recs) AND revocation = 0", 1, s, clickhouse.WithExternalTable(recs))
		if err != nil {
			return nil, err
		}
		forEachRecord(own, func(of []version) {
			if best := alive(of); best != nil {
				inForce[best.position()] = true
			}
		})
	}
	var out deadPositions
	forEachRecord(versions, func(of []version) {
		var upTo int64
		for i := range of {
			if r := of[i].revocation; r != (id{}) && inForce[position{r, of[i].partition, of[i].offset}] {
				upTo = max(upTo, of[i].upTo)
			}
		}
		best := alive(of)
		if best != nil && best.version <= upTo {
			best = nil
		}
		for i := range of {
			if v := &of[i]; v.revocation == (id{}) && (best == nil || v.position() != best.position()) {
				out = append(out, v.position())
			}
		}
	})
	return out, nil
}

// alive returns the version that ranks first among the rows of a record that are not taken out, or nil.
func alive(of []version) *version {
	buried := map[position]bool{}
	for i := range of {
		if of[i].gone {
			buried[of[i].position()] = true
		}
	}
	var best *version
	for i := range of {
		v := &of[i]
		if v.revocation == (id{}) && !buried[v.position()] && (best == nil || v.before(best) < 0) {
			best = v
		}
	}
	return best
}

// versions reads the rows of records that have at least so many. A revocation has a row of its own for
// each target: they are the same position.
func (a *Aggregator) versions(ctx context.Context, where string, least int, s scope, tables clickhouse.QueryOption) ([]version, error) {
	cond := fmt.Sprintf("%s AND %s", where, s.snapshot)
	if least > 1 { // counting first is far cheaper: nearly all records have one row
		cond = fmt.Sprintf("rec IN (SELECT rec FROM store.records WHERE %s GROUP BY rec HAVING count() >= %d) AND %s", cond, least, s.snapshot)
	}
	rows, err := a.query(ctx, `SELECT reinterpretAsFixedString(rec), partition, offset, gone, version, hash, reinterpretAsFixedString(revocation), up_to
		FROM store.records WHERE `+cond+` ORDER BY rec`, tables)
	if err != nil {
		return nil, fmt.Errorf("read versions of records: %w", err)
	}
	defer rows.Close()
	var out []version
	for rows.Next() {
		var v version
		var rec, revocation string
		var gone uint8
		if err := rows.Scan(&rec, &v.partition, &v.offset, &gone, &v.version, &v.hash, &revocation, &v.upTo); err != nil {
			return nil, fmt.Errorf("read versions of records: %w", err)
		}
		v.rec, v.revocation, v.gone = toID(rec), toID(revocation), gone == 1
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read versions of records: %w", err)
	}
	return out, nil
}

// forEachRecord calls do with the rows of each record; they come sorted by record.
func forEachRecord(versions []version, do func([]version)) {
	for len(versions) > 0 {
		n := 1
		for n < len(versions) && versions[n].rec == versions[0].rec {
			n++
		}
		do(versions[:n])
		versions = versions[n:]
	}
}

// services returns what the offers in scope are: the service of the latest record in force, not as-of.
func (a *Aggregator) services(ctx context.Context, s scope, dead deadPositions) (map[id]service, error) {
	read := s.read
	if read == "" {
		read = s.wanted
	}
	table, err := dead.table()
	if err != nil {
		return nil, err
	}
	return a.readServices(ctx, fmt.Sprintf(`SELECT reinterpretAsFixedString(grp), argMax(toString(nomenclature), (occurred_at, source_record_id)),
		argMax(toString(area), (occurred_at, source_record_id))
		FROM store.facts WHERE %s AND type = %d AND gone = 0 AND %s
		AND (rec, partition, offset) NOT IN (SELECT reinterpretAsUInt128(rec), partition, offset FROM dead)
		GROUP BY grp`, read, offer, s.snapshot), s.tables(table))
}

// storedServices returns what the offers in scope were when they were last computed.
func (a *Aggregator) storedServices(ctx context.Context, s scope) (map[id]service, error) {
	return a.readServices(ctx, fmt.Sprintf(`SELECT reinterpretAsFixedString(grp), toString(nomenclature), toString(unit)
		FROM %s WHERE %s AND area = '#service' GROUP BY grp, nomenclature, unit HAVING sum(mark) > 0`, s.table, s.wanted), s.tables())
}

func (a *Aggregator) readServices(ctx context.Context, query string, tables clickhouse.QueryOption) (map[id]service, error) {
	rows, err := a.query(ctx, query, tables)
	if err != nil {
		return nil, fmt.Errorf("read services of offers: %w", err)
	}
	defer rows.Close()
	out := map[id]service{}
	for rows.Next() {
		var g string
		var of service
		if err := rows.Scan(&g, &of.nomenclature, &of.area); err != nil {
			return nil, fmt.Errorf("read services of offers: %w", err)
		}
		out[toID(g)] = of
	}
	return out, rows.Err()
}

package ddl

import (
	"fmt"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// view is a view with typed, commented columns. It reads with the rights of who made it, so that
// planners need rights on database welfare only.
type view struct {
	name    string
	doc     string
	columns [][3]string // name, type, comment; none: as the query gives them
	query   string
}

func (v *view) create() string {
	var cols string
	if len(v.columns) > 0 {
		var lines []string
		for _, c := range v.columns {
			lines = append(lines, fmt.Sprintf("    `%s` %s COMMENT %s", c[0], c[1], quote(c[2])))
		}
		cols = " (\n" + strings.Join(lines, ",\n") + "\n)"
	}
	return fmt.Sprintf("CREATE OR REPLACE VIEW %s%s\nDEFINER = CURRENT_USER SQL SECURITY DEFINER\nAS %s\nCOMMENT %s",
		v.name, cols, strings.TrimSpace(v.query), quote(v.doc))
}

func (m *migration) view(v view) {
	m.add(v.create(), "DROP VIEW IF EXISTS "+v.name+" SYNC")
}

func publicFile() string {
	m := &migration{}
	m.view(erasuresAhead)
	for _, t := range event.Types {
		m.view(hidden(t))
		if t.Field("householdPseudonym") >= 0 {
			m.view(households(t))
		}
		m.view(live(t))
	}
	m.view(revocationsInForce)
	for _, t := range event.Types {
		m.view(replaced(t))
		m.view(public(t))
		m.view(current(t))
	}
	for _, v := range bookViews() {
		m.view(v)
	}
	for _, v := range flagViews() {
		m.view(v)
	}
	m.view(freshnessView)
	m.view(sourcesView())
	return m.text(`The public views. Each event has welfare.<table>, its rows with values as in the event, and
welfare.<table>_current, its records in force. Below them, in store: <table>_hidden (positions that no reader
may see), <table>_live (the others), <table>_replaced (positions of the live that are not in force).
Rows are left out by NOT IN over a small set of positions: an argMin over all rows would cost a hundred times as much.
This comes after the migration of the aggregates, whose store.aggregated and store.erased_households it reads.`)
}

// erasuresAhead: the aggregator puts what an erasure concerns into store.erased before it counts itself
// ahead of it; only pairs of which it has not seen one half must be looked for by each reader.
var erasuresAhead = view{
	name: "store.erasures_ahead",
	doc:  "Erasures that the aggregator has not come to.",
	columns: [][3]string{
		{"family", "LowCardinality(String)", "DEMAND, POVERTY or SCHOOL."},
		{"pseudonym", "FixedString(32)", "Pseudonym, as bytes."},
		{"requested_at", instant, "Instant of the request."},
	},
	query: `
SELECT family, pseudonym, requested_at
FROM store.erasures
WHERE offset >= (` + bounds("welfare.control.erasure") + `)[partition]`,
}

// bounds selects how far the aggregator is, a map from the partitions of a topic; 0 where it is not.
func bounds(topic string) string {
	return fmt.Sprintf("SELECT mapFromArrays(groupArray(partition), groupArray(toUInt64(aggregated_to))) FROM store.aggregated WHERE topic = '%s'", topic)
}

var positionColumns = [][3]string{{"partition", "UInt32", "Partition."}, {"offset", "UInt64", "Offset."}}

// erasable tells the types whose rows an erasure removes.
func erasable(t *event.Type) bool { return t.Subject >= 0 && t.Family != event.FamilyControl }

// concerned selects positions of rows whose column holds an erased pseudonym, where the aggregator has
// not found them yet: new erasures against all rows, and new rows against all erasures. Without new
// ones, next to nothing is read. The instants come from a map and not by a join, for a query over many
// of these views cannot afford a hash table for each; the map is searched for the few rows that pass IN.
func concerned(t *event.Type, column string) string {
	return fmt.Sprintf(`SELECT _partition AS partition, _offset AS offset FROM store.%[1]s
WHERE _end = 'loaded' AND %[2]s IN (SELECT pseudonym FROM store.erasures_ahead WHERE family = '%[3]s')
    AND occurred_at <= (%[5]s)[assumeNotNull(%[2]s)]
UNION ALL
SELECT _partition AS partition, _offset AS offset FROM store.%[1]s
WHERE _end = 'loaded' AND _offset >= (%[4]s)[_partition] AND %[2]s IN (SELECT pseudonym FROM store.erasures WHERE family = '%[3]s')
    AND occurred_at <= (%[5]s)[assumeNotNull(%[2]s)]`, t.Table, column, t.Family, bounds(t.Topic),
		fmt.Sprintf("SELECT mapFromArrays(groupArray(pseudonym), groupArray(up_to)) FROM (SELECT pseudonym, max(requested_at) AS up_to FROM store.erasures WHERE family = '%s' GROUP BY pseudonym)", t.Family))
}

// visibleRows are the rows of a storage table that readers may see, with every stored column.
func visibleRows(t *event.Type) string {
	return fmt.Sprintf("store.%[1]s WHERE _end = 'loaded' AND _gone = 0 AND (_partition, _offset) NOT IN (SELECT partition, offset FROM store.%[1]s_hidden)", t.Table)
}

// repeated are the hashes of records that occur more than once, over one narrow column.
func repeated(t *event.Type) string {
	return fmt.Sprintf("SELECT _record FROM store.%s WHERE _end = 'loaded' AND _gone = 0 GROUP BY _record HAVING count() > 1", t.Table)
}

func hidden(t *event.Type) view {
	q := fmt.Sprintf("SELECT partition, offset FROM store.superseded WHERE topic = '%s'", t.Topic)
	doc := "Positions of loaded rows that no reader may see: superseded."
	if erasable(t) {
		q += fmt.Sprintf("\nUNION ALL\nSELECT partition, offset FROM store.erased WHERE topic = '%s'\nUNION ALL\n%s", t.Topic, concerned(t, t.Fields[t.Subject].Column))
		doc = "Positions of loaded rows that no reader may see: superseded, or of a subject with an erasure in force, whether or not it is applied."
	}
	return view{name: "store." + t.Table + "_hidden", doc: doc, columns: positionColumns, query: q}
}

func households(t *event.Type) view {
	return view{
		name: "store." + t.Table + "_households", columns: positionColumns,
		doc:   "Positions of rows whose household_pseudonym is that of an erased subject.",
		query: fmt.Sprintf("SELECT partition, offset FROM store.erased_households WHERE topic = '%s'\nUNION ALL\n%s", t.Topic, concerned(t, "household_pseudonym")),
	}
}

func live(t *event.Type) view {
	columns := "*"
	if t.Field("householdPseudonym") >= 0 {
		columns = fmt.Sprintf("* REPLACE (if((_partition, _offset) IN (SELECT partition, offset FROM store.%s_households), NULL, household_pseudonym) AS household_pseudonym)", t.Table)
	}
	return view{
		name:  "store." + t.Table + "_live",
		doc:   "Loaded rows that readers may see, as they are stored. household_pseudonym is NULL where it was erased.",
		query: fmt.Sprintf("SELECT %s, _record FROM %s", columns, visibleRows(t)),
	}
}

var revocationsInForce = view{
	name: "store.revocations_in_force",
	doc:  "Records whose versions up to up_to are revoked: of each revocation its highest version.",
	columns: [][3]string{
		{"source", "String", "Source of the revoked record."},
		{"source_record_id", "String", "The revoked record."},
		{"type", "String", "Name of the one event concerned; empty: all but RecordRevoked and SubjectErased."},
		{"up_to", "Int64", "Highest version revoked."},
	},
	query: fmt.Sprintf(`
SELECT target_source AS source, target_id AS source_record_id, type, upper AS up_to
FROM (
    SELECT source AS by, source_record_id AS id, revoked_source AS target_source, revoked_source_record_id AS target_id,
        ifNull(revoked_type, '') AS type, revoked_up_to_version AS upper
    FROM %s
    ORDER BY record_version DESC, _content_hash, _partition, _offset
    LIMIT 1 BY by, id
)
WHERE upper > 0`, visibleRows(event.ByName("RecordRevoked"))),
}

// replaced looks at names and versions of those records only that occur more than once or were ever
// revoked; which those are, one narrow column tells.
func replaced(t *event.Type) view {
	versions := "row_number() OVER (PARTITION BY source, source_record_id ORDER BY record_version DESC, _content_hash, _partition, _offset) AS place"
	if t.Family == event.FamilyControl {
		return view{
			name: "store." + t.Table + "_replaced", columns: positionColumns,
			doc: "Positions of live rows that are not in force: of a record, all but its highest version.",
			query: fmt.Sprintf(`
SELECT _partition AS partition, _offset AS offset
FROM (
    SELECT _partition, _offset, %s
    FROM %s AND _record IN (%s)
)
WHERE place > 1`, versions, visibleRows(t), repeated(t)),
		}
	}
	return view{
		name: "store." + t.Table + "_replaced", columns: positionColumns,
		doc: "Positions of live rows that are not in force: of a record, all but its highest version, and those revoked.",
		query: fmt.Sprintf(`
SELECT r._partition AS partition, r._offset AS offset
FROM (
    SELECT _partition, _offset, toString(source) AS source, source_record_id, record_version, %s
    FROM %s
        AND (_record IN (%s)
            OR _record IN (SELECT cityHash64(revoked_source, revoked_source_record_id) FROM store.record_revoked WHERE _end = 'loaded'))
) AS r
LEFT JOIN (
    SELECT source, source_record_id, max(store.revocations_in_force.up_to) AS up_to FROM store.revocations_in_force WHERE type IN ('', '%s')
    GROUP BY source, source_record_id
) AS v ON r.source = v.source AND r.source_record_id = v.source_record_id
WHERE r.place > 1 OR r.record_version <= v.up_to`, versions, visibleRows(t), repeated(t), t.Name),
	}
}

// publicColumns are the columns of welfare.<table>, and the expressions that give them.
func publicColumns(t *event.Type) (columns [][3]string, exprs string) {
	flags := make([]string, len(clickhouse.Flags))
	for i, f := range clickhouse.Flags {
		flags[i] = "'" + f + "'"
	}
	columns = [][3]string{
		{"_topic", "LowCardinality(String)", "Topic of the event."},
		{"_partition", "UInt32", "Partition of the event."},
		{"_offset", "UInt64", "Offset of the event."},
		{"_schema_id", "UInt32", "Schema id that it was written with."},
		{"_flags", "Array(LowCardinality(String))", "Warnings that depend on the event alone; the others are in welfare.flags."},
		{"_loaded_at", instant, "When the hub took it."},
	}
	lines := []string{
		"toLowCardinality('" + t.Topic + "') AS _topic", "_partition", "_offset", "_schema_id",
		"CAST(arrayMap(b -> [" + strings.Join(flags, ", ") + "][b + 1], bitPositionsToArray(_flag_bits)) AS Array(LowCardinality(String))) AS _flags",
		"_loaded_at",
	}
	for _, f := range t.Fields {
		e := clickhouse.PublicExpr(f)
		if e != f.Column {
			e += " AS " + f.Column
		}
		lines = append(lines, e)
		columns = append(columns, [3]string{f.Column, clickhouse.PublicType(f), f.Doc})
	}
	return columns, "    " + strings.Join(lines, ",\n    ")
}

func public(t *event.Type) view {
	columns, exprs := publicColumns(t)
	return view{
		name: "welfare." + t.Table, columns: columns,
		doc: fmt.Sprintf("%s All accepted events, every version; %s_current has the records in force.", docOf(t), t.Table),
		query: fmt.Sprintf(`
SELECT
%s
FROM store.%s_live`, exprs, t.Table),
	}
}

func current(t *event.Type) view {
	columns, exprs := publicColumns(t)
	return view{
		name: "welfare." + t.Table + "_current", columns: columns,
		doc: docOf(t) + " The records in force: of each (source, source_record_id) its highest version, unless revoked.",
		query: fmt.Sprintf(`
SELECT
%s
FROM store.%[2]s_live
WHERE (_partition, _offset) NOT IN (SELECT partition, offset FROM store.%[2]s_replaced)`, exprs, t.Table),
	}
}

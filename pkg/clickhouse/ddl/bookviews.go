package ddl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// union joins one SELECT per type.
func union(types []*event.Type, one func(*event.Type) string) string {
	var parts []string
	for _, t := range types {
		parts = append(parts, strings.TrimSpace(one(t)))
	}
	return strings.Join(parts, "\nUNION ALL\n")
}

// bookViews are the books of the loader as the public sees them.
func bookViews() []view {
	return []view{ledgerView, rejectedView(), duplicatesView(), booksView, conflictsView(), erasuresView}
}

var ledgerView = view{
	name: "welfare.ledger",
	doc:  "What was read: one row per block. The ranges of a partition neither overlap nor leave gaps; read = loaded + duplicate + rejected.",
	columns: [][3]string{
		{"topic", "LowCardinality(String)", "Topic."},
		{"partition", "UInt32", "Partition."},
		{"from_offset", "UInt64", "First offset of the block."},
		{"to_offset", "UInt64", "End of the block, exclusive."},
		{"read", "UInt64", "Records read."},
		{"loaded", "UInt64", "Of them loaded."},
		{"duplicate", "UInt64", "Of them duplicates."},
		{"rejected", "UInt64", "Of them rejected."},
		{"loaded_at", instant, "When the block was decided."},
	},
	query: "SELECT topic, partition, from_offset, to_offset, read, loaded, duplicate, rejected, loaded_at FROM store.ledger",
}

var erasuresView = view{
	name: "welfare.erasures",
	doc:  "Certificates of erasure (GDPR art. 17): one row per erasure and table.",
	columns: append(slices.Clone(certificateColumns),
		[3]string{"purged_at", "Nullable(" + instant + ")", "When the bytes were off the disk as well, save in parts that ClickHouse keeps for 8 minutes after it replaced them. NULL: not yet."}),
	query: `
SELECT c.source, c.event_id, c.pseudonym_sha256, c.scope, c.requested_at, c.applied_at, c.table, c.rows, if(p.purged_at = 0, NULL, p.purged_at) AS purged_at
FROM (
    SELECT source, event_id, table, argMax(k.pseudonym_sha256, k.applied_at) AS pseudonym_sha256, argMax(k.scope, k.applied_at) AS scope,
        argMax(k.requested_at, k.applied_at) AS requested_at, argMax(k.rows, k.applied_at) AS rows, max(k.applied_at) AS applied_at
    FROM store.certificates AS k GROUP BY source, event_id, table
) AS c
ASOF LEFT JOIN store.purges AS p ON p.table = c.table AND p.started_at >= c.applied_at
SETTINGS join_use_nulls = 0`,
}

func rejectedView() view {
	return view{
		name: "welfare.rejected",
		doc:  "Rejected events and why; never a value. What became of them is in state.",
		columns: [][3]string{
			{"topic", "LowCardinality(String)", "Topic."},
			{"partition", "UInt32", "Partition."},
			{"offset", "UInt64", "Offset."},
			{"event_type", "LowCardinality(String)", "Name of the event, by topic."},
			{"source", "Nullable(String)", "Source; NULL where it could not be read, or holds a codice fiscale."},
			{"event_id", "Nullable(String)", "Id of the event as sent; NULL where it could not be read, or holds a codice fiscale."},
			{"code", "LowCardinality(String)", "First code violated."},
			{"codes", "Array(LowCardinality(String))", "All codes violated (E, P), in their order."},
			{"field", "LowCardinality(String)", "Field of the first code; empty where no field is to blame."},
			{"message", "String", "What is wrong and what to do."},
			{"schema_id", "UInt32", "Schema id of the frame; 0 where it could not be read."},
			{"value_hash", "String", "SHA-256 of the value as sent, 64 lower-case hexadecimal digits."},
			{"rejected_at", instant, "When."},
			{"state", "LowCardinality(String)", "open, redriven or discarded."},
			{"new_partition", "Nullable(UInt32)", "Partition where it was published again."},
			{"new_offset", "Nullable(UInt64)", "Offset where it was published again."},
		},
		query: fmt.Sprintf(`
SELECT r.topic AS topic, r.partition AS partition, r.offset AS offset, event_type,
    d.source AS source, d.event_id AS event_id, d.code AS code, d.codes AS codes, d.field AS field, d.message AS message,
    schema_id, d.value_hash AS value_hash, rejected_at, if(s.state = '', 'open', s.state) AS state, s.new_partition AS new_partition, s.new_offset AS new_offset
FROM (
    SELECT topic, event_type, _partition AS partition, _offset AS offset, _schema_id AS schema_id, _loaded_at AS rejected_at,
        JSONExtract(_detail, 'Tuple(source Nullable(String), event_id Nullable(String), code String, codes Array(String), field String, message String, value_hash String)') AS d
    FROM (
%s
    )
) AS r
LEFT JOIN (
    SELECT topic, partition, offset, toString(argMax(d.state, at)) AS state, tupleElement(argMax(tuple(d.new_partition), at), 1) AS new_partition,
        tupleElement(argMax(tuple(d.new_offset), at), 1) AS new_offset
    FROM store.dispositions AS d GROUP BY topic, partition, offset
) AS s ON r.topic = s.topic AND r.partition = s.partition AND r.offset = s.offset`, ended("rejected")),
	}
}

// ended selects the rows of all topics with that end.
func ended(end string) string {
	return union(event.Types, func(t *event.Type) string {
		return fmt.Sprintf("SELECT '%s' AS topic, '%s' AS event_type, _partition, _offset, _schema_id, _loaded_at, _detail FROM store.%s WHERE _end = '%s'",
			t.Topic, t.Name, t.Table, end)
	})
}

func duplicatesView() view {
	return view{
		name: "welfare.duplicates",
		doc:  "Copies of events that were loaded before.",
		columns: [][3]string{
			{"topic", "LowCardinality(String)", "Topic of the copy."},
			{"partition", "UInt32", "Partition of the copy."},
			{"offset", "UInt64", "Offset of the copy."},
			{"source", "String", "Source of the event."},
			{"event_id", "UUID", "Id of the event."},
			{"of_topic", "LowCardinality(String)", "Topic of the event that was loaded."},
			{"of_partition", "UInt32", "Its partition."},
			{"of_offset", "UInt64", "Its offset."},
			{"found_at", instant, "When."},
		},
		query: fmt.Sprintf(`
SELECT topic, _partition AS partition, _offset AS offset, d.source AS source, toUUIDOrZero(d.event_id) AS event_id,
    topic AS of_topic, d.of_partition AS of_partition, d.of_offset AS of_offset, _loaded_at AS found_at
FROM (
    SELECT topic, _partition, _offset, _loaded_at,
        JSONExtract(_detail, 'Tuple(source String, event_id String, of_partition UInt32, of_offset UInt64)') AS d
    FROM (
%s
    )
)`, ended("duplicate")),
	}
}

var booksView = view{
	name: "welfare.books",
	doc:  "The books of each partition: read = loaded + duplicate + rejected, rows = loaded - erased - superseded.",
	columns: [][3]string{
		{"topic", "LowCardinality(String)", "Topic."},
		{"partition", "UInt32", "Partition."},
		{"read", "UInt64", "Records read."},
		{"loaded", "UInt64", "Of them loaded."},
		{"duplicate", "UInt64", "Of them duplicates."},
		{"rejected", "UInt64", "Of them rejected."},
		{"erased", "UInt64", "Of the loaded, those removed, or never stored, for their subject is erased."},
		{"superseded", "UInt64", "Of the loaded and not erased, those that lost against a copy or a conflicting event in another partition."},
		{"rows", "Int64", "Rows of the event table."},
	},
	query: `
SELECT topic, partition, sum(r) AS read, sum(l) AS loaded, sum(d) AS duplicate, sum(j) AS rejected, sum(e) AS erased, sum(s) AS superseded,
    toInt64(loaded) - toInt64(erased) - toInt64(superseded) AS rows
FROM (
    SELECT topic, partition, read AS r, store.ledger.loaded AS l, store.ledger.duplicate AS d, store.ledger.rejected AS j, 0 AS e, 0 AS s FROM store.ledger
    UNION ALL
    SELECT topic, partition, 0, 0, 0, 0, uniqExact(offset), 0 FROM store.erased GROUP BY topic, partition
    UNION ALL
    SELECT topic, partition, 0, 0, 0, 0, 0, uniqExact(offset) FROM store.superseded
    WHERE (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM store.erased) GROUP BY topic, partition
)
GROUP BY topic, partition`,
}

func conflictsView() view {
	e07 := fmt.Sprintf(`
SELECT 'E07' AS kind, event_type, d.source AS source, d.event_id AS id, CAST(NULL AS Nullable(Int64)) AS record_version, topic,
    d.of_partition AS winner_partition, d.of_offset AS winner_offset, d.of_hash AS winner_hash,
    _partition AS loser_partition, _offset AS loser_offset, d.hash AS loser_hash
FROM (
    SELECT topic, event_type, _partition, _offset,
        JSONExtract(_detail, 'Tuple(source String, event_id String, codes Array(String), of_partition UInt32, of_offset UInt64, of_hash String, hash String)') AS d
    FROM (
%s
    )
)
WHERE has(d.codes, 'E07')
UNION ALL
SELECT 'E07', transform(topic, [%s], [%s], ''), source, toString(event_id), CAST(NULL AS Nullable(Int64)), topic,
    of_partition, of_offset, lower(hex(of_content_hash)), partition, offset, lower(hex(content_hash))
FROM (SELECT DISTINCT topic, partition, offset, of_partition, of_offset, source, event_id, content_hash, of_content_hash FROM store.superseded)
WHERE content_hash != of_content_hash
UNION ALL
`, ended("rejected"), list(event.Types, func(t *event.Type) string { return t.Topic }), list(event.Types, func(t *event.Type) string { return t.Name }))
	w08 := union(event.Types, func(t *event.Type) string {
		return fmt.Sprintf(`
SELECT 'W08', '%s', source, source_record_id, CAST(record_version AS Nullable(Int64)), '%s',
    winner.2, winner.3, lower(hex(winner.1)), row.2, row.3, lower(hex(row.1))
FROM (%s)
ARRAY JOIN arrayFilter(r -> r.1 != winner.1, rows) AS row`, t.Name, t.Topic, contested(t))
	})
	return view{
		name: "welfare.conflicts",
		doc:  "Contradictions between sources' own events. E07: one event id, two contents. W08: one version of a record, two contents; the winner is its state.",
		columns: [][3]string{
			{"kind", "LowCardinality(String)", "E07 or W08."},
			{"event_type", "LowCardinality(String)", "Name of the event."},
			{"source", "String", "Source of both."},
			{"id", "String", "E07: event id. W08: source record id."},
			{"record_version", "Nullable(Int64)", "W08: the version that has two contents."},
			{"winner_topic", "LowCardinality(String)", "Topic of the one that stands."},
			{"winner_partition", "UInt32", "Its partition."},
			{"winner_offset", "UInt64", "Its offset."},
			{"winner_hash", "String", "SHA-256 of its content."},
			{"loser_topic", "LowCardinality(String)", "Topic of the other."},
			{"loser_partition", "UInt32", "Its partition."},
			{"loser_offset", "UInt64", "Its offset."},
			{"loser_hash", "String", "SHA-256 of its content."},
		},
		query: `
SELECT kind, event_type, source, id, record_version, topic AS winner_topic, winner_partition, winner_offset, winner_hash,
    topic AS loser_topic, loser_partition, loser_offset, loser_hash
FROM (` + e07 + w08 + "\n)",
	}
}

// contested selects the versions of records that have two contents: (source, source_record_id,
// record_version, rows, winner), a row being (content hash, partition, offset).
func contested(t *event.Type) string {
	return fmt.Sprintf(`
    SELECT source, source_record_id, record_version, groupArray(tuple(_content_hash, _partition, _offset)) AS rows, arrayMin(rows) AS winner
    FROM %s AND _record IN (%s)
    GROUP BY source, source_record_id, record_version, _hash_version
    HAVING uniqExact(_content_hash) > 1
`, visibleRows(t), repeated(t))
}

// list is the literals of all types.
func list(types []*event.Type, of func(*event.Type) string) string {
	var out []string
	for _, t := range types {
		out = append(out, quote(of(t)))
	}
	return strings.Join(out, ", ")
}

var freshnessView = view{
	name: "welfare.freshness",
	doc:  "How far the hub is, by partition: nothing lags where the four offsets are equal.",
	columns: [][3]string{
		{"topic", "LowCardinality(String)", "Topic."},
		{"partition", "UInt32", "Partition."},
		{"log_end", "UInt64", "End of the log, as last seen."},
		{"ledgered_to", "UInt64", "Loaded up to here: every record before it has its end."},
		{"settled_to", "UInt64", "Searched for races and erasures up to here."},
		{"aggregated_to", "UInt64", "In the aggregates up to here."},
		{"as_of", instant, "When the end of the log was seen."},
	},
	query: `
SELECT topic, partition, greatest(max(l), max(g)) AS log_end, max(g) AS ledgered_to, max(s) AS settled_to, max(a) AS aggregated_to, max(at) AS as_of
FROM (
    SELECT topic, partition, argMax(store.log_end.log_end, store.log_end.as_of) AS l, 0 AS g, 0 AS s, 0 AS a, max(store.log_end.as_of) AS at
    FROM store.log_end GROUP BY topic, partition
    UNION ALL
    SELECT topic, partition, 0, max(to_offset), 0, 0, toDateTime64(0, 3, 'UTC') FROM store.ledger GROUP BY topic, partition
    UNION ALL
    SELECT topic, partition, 0, 0, max(store.settled.settled_to), 0, toDateTime64(0, 3, 'UTC') FROM store.settled GROUP BY topic, partition
    UNION ALL
    SELECT topic, partition, 0, 0, 0, max(store.aggregated.aggregated_to), toDateTime64(0, 3, 'UTC') FROM store.aggregated GROUP BY topic, partition
)
GROUP BY topic, partition`,
}

func sourcesView() view {
	return view{
		name: "welfare.sources",
		doc:  "When the hub last took an event of each source, by topic. It reads two columns of every row: ask it seldom.",
		columns: [][3]string{
			{"topic", "LowCardinality(String)", "Topic."},
			{"source", "LowCardinality(String)", "Source, as in the events."},
			{"events", "UInt64", "Its events that are stored, in all versions."},
			{"last_loaded_at", instant, "When the hub took the last of them."},
		},
		query: union(event.Types, func(t *event.Type) string {
			return fmt.Sprintf("SELECT toLowCardinality('%s') AS topic, source, count() AS events, max(_loaded_at) AS last_loaded_at FROM store.%s WHERE _end = 'loaded' AND _gone = 0 GROUP BY source", t.Topic, t.Table)
		}),
	}
}

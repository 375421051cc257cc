package ddl

import (
	"fmt"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// sortKeys are the sorting keys of the storage tables: what planners filter by first, then time.
var sortKeys = map[string][2]string{
	"ServiceOfferPublished": {"service_id", "occurred_at"},
	"CapacityChanged":       {"service_id", "effective_from"},
	"ServiceRequested":      {"comune_code", "requested_at"},
	"NeedAssessed":          {"comune_code", "assessed_at"},
	"WaitingListChanged":    {"comune_code", "changed_at"},
	"BenefitDecided":        {"comune_code", "occurred_at"},
	"ServiceDelivered":      {"comune_code", "period_start"},
	"TerritoryUpserted":     {"territory_code", "occurred_at"},
	"PopulationReported":    {"territory_code", "reference_date"},
	"DeprivationObserved":   {"comune_code", "observed_at"},
	"ActivitySessionHeld":   {"school_code", "starts_at"},
	"AttendanceRecorded":    {"school_code", "session_id"},
	"IndicatorObserved":     {"school_code", "observed_at"},
	"FeedbackRecorded":      {"school_code", "submitted_at"},
	"RecordRevoked":         {"revoked_source", "revoked_source_record_id"},
	"SubjectErased":         {"pseudonym", "requested_at"},
}

// dedupWindow is how many blocks a table remembers by their token. A block is done again only by who
// takes over its partition, so thousands are ample.
const dedupWindow = "non_replicated_deduplication_window = 10000"

// tableSettings: parts stay compact up to 256 MiB, for a file per column and block costs more than it gives.
const tableSettings = dedupWindow + ", min_bytes_for_wide_part = 268435456"

func storeFile() string {
	m := &migration{}
	m.add("CREATE DATABASE IF NOT EXISTS store", "") // it holds the version table: it stays
	m.add("CREATE DATABASE IF NOT EXISTS welfare", "")
	for _, t := range event.Types {
		m.add(storeTable(t), "DROP TABLE IF EXISTS store."+t.Table+" SYNC")
	}
	for _, b := range books {
		m.add(b.create(), "DROP TABLE IF EXISTS "+b.name+" SYNC")
	}
	m.add(engineTable, "DROP TABLE IF EXISTS store.engine SYNC")
	for _, t := range event.Types {
		for _, v := range feeds(t) {
			m.add(v.create(t), "DROP VIEW IF EXISTS store."+t.Table+"_to_"+v.to+" SYNC")
		}
	}
	return m.text(`Storage. One table per topic with one row per record read: loaded, duplicate or rejected. A block of
records is one insert with a deduplication token; the views below book it from the same insert.
Tables are not partitioned, so that a block lands in one part: the token is kept per table partition.
Every statement can be repeated, for ClickHouse has no transaction to undo half a migration.`)
}

// engineTable holds no more than the process of the engine does: of the rows of one key the first stays, and none
// is written to the disk.
const engineTable = `CREATE TABLE IF NOT EXISTS store.engine (
    one UInt8 COMMENT 'Always 1.',
    epoch UInt64 COMMENT 'A random number: of those that are inserted in a life of the engine the first.'
) ENGINE = Join(ANY, LEFT, one)
SETTINGS persistent = 0
COMMENT 'Which life of the engine this is. Whoever finds it empty, after a start of the engine, inserts a number. Tokens of inserts hold for one life: never truncate or detach it.'`

func storeTable(t *event.Type) string {
	key := sortKeys[t.Name]
	var lines []string
	for _, c := range clickhouse.SystemColumns {
		lines = append(lines, column(c.Name, c.Type, c.Codec, c.Doc))
	}
	for _, f := range t.Fields {
		lines = append(lines, column(f.Column, clickhouse.StorageType(f), codec(f, key), f.Doc))
	}
	lines = append(lines,
		fmt.Sprintf("    `_record` UInt64 MATERIALIZED %s COMMENT %s CODEC(NONE)", clickhouse.RecordHash,
			quote("Groups the versions of a record; computed here, so no block carries it.")),
		"    INDEX offsets _offset TYPE minmax GRANULARITY 1",
		"    INDEX ends _end TYPE set(3) GRANULARITY 1")
	if t.Subject >= 0 {
		lines = append(lines, fmt.Sprintf("    INDEX subjects %s TYPE bloom_filter(0.01) GRANULARITY 1", t.Fields[t.Subject].Column))
	}
	if t.Field("householdPseudonym") >= 0 {
		lines = append(lines, "    INDEX households household_pseudonym TYPE bloom_filter(0.01) GRANULARITY 1")
	}
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS store.%s (\n%s\n) ENGINE = MergeTree\nORDER BY (%s, %s)\nSETTINGS %s\nCOMMENT %s",
		t.Table, strings.Join(lines, ",\n"), key[0], key[1], tableSettings,
		quote(fmt.Sprintf("Records read from %s, one row each, with their end. %s", t.Topic, docOf(t))))
}

// codec compresses what gains from it: text, and times that the sorting key puts in order. Hashes and
// pseudonyms do not compress; the rest takes the server's default.
func codec(f event.Field, key [2]string) string {
	switch {
	case clickhouse.IsPseudonym(f):
		return ""
	case f.Kind == event.UUID:
		return "NONE"
	case f.Column == key[1] && (f.Kind == event.Timestamp || f.Kind == event.Date):
		return "Delta, ZSTD(1)"
	case f.Kind == event.String || f.Kind == event.Timestamp || f.Kind == event.Strings:
		return "ZSTD(1)"
	}
	return ""
}

func docOf(t *event.Type) string {
	if d, ok := t.Schema.(interface{ Doc() string }); ok {
		return d.Doc()
	}
	return ""
}

// feed is a materialized view from a storage table into a book.
type feed struct{ to, query string }

func (v *feed) create(t *event.Type) string {
	return fmt.Sprintf("CREATE MATERIALIZED VIEW IF NOT EXISTS store.%s_to_%s TO store.%s AS\n%s", t.Table, v.to, v.to, v.query)
}

func feeds(t *event.Type) []feed {
	out := []feed{
		{"ids", fmt.Sprintf(`SELECT toUInt8(%d) AS type, _id_hash AS id_hash, _partition AS partition, _offset AS offset,
    _content_hash AS content_hash, _hash_version AS hash_version, _owner AS owner
FROM store.%s WHERE _end = 'loaded'`, t.No, t.Table)},
		{"ledger", fmt.Sprintf(`SELECT toUInt8(%d) AS type, %s AS topic, _partition AS partition, _from AS from_offset, _to AS to_offset,
    count() AS read, countIf(_end = 'loaded') AS loaded, countIf(_end = 'duplicate') AS duplicate,
    countIf(_end = 'rejected') AS rejected, countIf(_gone = 1) AS gone,
    maxIf(occurred_at, _end = 'loaded') AS max_occurred_at, any(_owner) AS owner, max(_loaded_at) AS loaded_at
FROM store.%s GROUP BY _partition, _from, _to`, t.No, quote(t.Topic), t.Table)},
	}
	if erasable(t) {
		out = append(out, feed{"erased", fmt.Sprintf(`SELECT %s AS topic, _partition AS partition, _offset AS offset, '' AS source,
    toUUID('00000000-0000-0000-0000-000000000000') AS event_id, _loaded_at AS erased_at
FROM store.%s WHERE _gone = 1`, quote(t.Topic), t.Table)})
	}
	if t.Name == "SubjectErased" {
		out = append(out, feed{"erasures", `SELECT family, pseudonym, requested_at, _partition AS partition, _offset AS offset
FROM store.subject_erased
ARRAY JOIN multiIf(scope = 'ALL', ['DEMAND', 'POVERTY', 'SCHOOL'], scope = 'UNKNOWN', [], [toString(scope)]) AS family
WHERE _end = 'loaded'`})
	}
	return out
}

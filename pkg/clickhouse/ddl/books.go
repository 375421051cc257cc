package ddl

import (
	"fmt"
	"strings"
)

// book is a table that is not of one event.
type book struct {
	name    string
	doc     string
	columns [][3]string // name, type and codec, comment
	engine  string
	order   string
	more    string // further clauses before SETTINGS
	granule int
	index   string // one more line among the columns
}

func (b *book) create() string {
	var lines []string
	for _, c := range b.columns {
		lines = append(lines, fmt.Sprintf("    %s %s COMMENT %s", c[0], c[1], quote(c[2])))
	}
	if b.index != "" {
		lines = append(lines, "    "+b.index)
	}
	settings := dedupWindow
	if b.granule > 0 {
		settings += fmt.Sprintf(", index_granularity = %d", b.granule)
	}
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (\n%s\n) ENGINE = %s\n%sORDER BY (%s)\nSETTINGS %s\nCOMMENT %s",
		b.name, strings.Join(lines, ",\n"), b.engine, b.more, b.order, settings, quote(b.doc))
}

const instant = "DateTime64(3, 'UTC')"

var (
	topicColumn     = [3]string{"topic", "LowCardinality(String)", "Topic."}
	partitionColumn = [3]string{"partition", "UInt32", "Partition of the topic."}
)

// books are the tables beside those of the events. Those that are Replacing may repeat a row until
// merged: whoever reads them takes max, argMax, IN or uniqExact, never a plain count.
var books = []book{
	{
		name: "store.ids", doc: "Ids of all loaded events, kept also when their rows are erased: hashes only. Fed by views.",
		columns: [][3]string{
			{"type", "UInt8", "Number of the event in the catalogue."},
			{"id_hash", "FixedString(16)", "Hash of (topic, source, eventId)."},
			{"partition", "UInt32", "Partition where it was loaded."},
			{"offset", "UInt64", "Offset where it was loaded."},
			{"content_hash", "FixedString(32)", "SHA-256 of the content."},
			{"hash_version", "UInt8", "Version of the content hash."},
			{"owner", "UInt64", "Instance of the loader that stored it."},
		},
		engine: "MergeTree", order: "id_hash", more: "PARTITION BY type\n", granule: 1024,
	},
	{
		name: "store.ledger", doc: "One row per block loaded. Fed by views.",
		columns: [][3]string{
			{"type", "UInt8", "Number of the event in the catalogue."},
			topicColumn, partitionColumn,
			{"from_offset", "UInt64", "First offset of the block."},
			{"to_offset", "UInt64", "End of the block, exclusive."},
			{"read", "UInt64", "Records read."},
			{"loaded", "UInt64", "Of them loaded."},
			{"duplicate", "UInt64", "Of them duplicates."},
			{"rejected", "UInt64", "Of them rejected."},
			{"gone", "UInt64", "Of the loaded, those whose subject was erased when they came."},
			{"max_occurred_at", instant, "Highest occurredAt of the loaded; 1970 where there is none."},
			{"owner", "UInt64", "Instance of the loader that stored it."},
			{"loaded_at", instant, "When the hub decided."},
		},
		engine: "MergeTree", order: "topic, partition, from_offset", granule: 256,
		index: "INDEX times loaded_at TYPE minmax GRANULARITY 1",
	},
	{
		name: "store.superseded", doc: "Loaded events that lost against a copy or a conflicting event that raced in another partition. Their rows stay, hidden by the views.",
		columns: [][3]string{
			topicColumn,
			{"partition", "UInt32", "Partition of the loser."},
			{"offset", "UInt64", "Offset of the loser."},
			{"of_partition", "UInt32", "Partition of the winner: the lowest (partition, offset)."},
			{"of_offset", "UInt64", "Offset of the winner."},
			{"source", "String", "Source of the event."},
			{"event_id", "UUID", "Id of the event."},
			{"content_hash", "FixedString(32)", "Content of the loser. Other than the winner's: a conflict (E07)."},
			{"of_content_hash", "FixedString(32)", "Content of the winner."},
			{"found_at", instant, "When it was settled."},
		},
		engine: "ReplacingMergeTree(found_at)", order: "topic, partition, offset",
	},
	{
		name: "store.erased", doc: "Positions of loaded events whose rows are not stored, for their subject is erased: by the eraser, and by views for those that came later.",
		columns: [][3]string{
			topicColumn, partitionColumn,
			{"offset", "UInt64", "Offset of the event."},
			{"source", "String", "Source of the erasure; empty where the event came after it."},
			{"event_id", "UUID", "Id of the erasure; zero where the event came after it."},
			{"erased_at", instant, "When the row was removed, or not stored."},
		},
		engine: "ReplacingMergeTree(erased_at)", order: "topic, partition, offset",
	},
	{
		name: "store.erasures",
		doc:  "Pseudonyms to erase, by family of events: what occurred up to requested_at. Nothing lifts an erasure, and each version of one counts, for what it removed cannot come back. A scope UNKNOWN is of no family. Fed by a view.",
		columns: [][3]string{
			{"family", "LowCardinality(String)", "DEMAND, POVERTY or SCHOOL."},
			{"pseudonym", "FixedString(32)", "Pseudonym, as bytes."},
			{"requested_at", instant, "Instant of the request."},
			{"partition", "UInt32", "Partition of the SubjectErased event."},
			{"offset", "UInt64", "Offset of the SubjectErased event."},
		},
		engine: "MergeTree", order: "family, pseudonym",
	},
	{
		name: "store.settled", doc: "How far the ledger was searched for races between partitions and for rows of erased subjects. The highest settled_to counts.",
		columns: [][3]string{
			topicColumn, partitionColumn,
			{"settled_to", "UInt64", "End of what is settled, exclusive."},
			{"settled_at", instant, "When."},
		},
		engine: "ReplacingMergeTree(settled_to)", order: "topic, partition",
	},
	{
		name: "store.log_end", doc: "Ends of the logs, as the loader saw them last.",
		columns: [][3]string{
			topicColumn, partitionColumn,
			{"log_end", "UInt64", "Offset that the next record will have."},
			{"as_of", instant, "When."},
		},
		engine: "ReplacingMergeTree(as_of)", order: "topic, partition",
	},
	{
		name: "store.dispositions", doc: "What became of rejected events. The latest row of a position counts; none: open.",
		columns: [][3]string{
			topicColumn, partitionColumn,
			{"offset", "UInt64", "Offset of the rejected event."},
			{"state", "Enum8('open' = 0, 'redriven' = 1, 'discarded' = 2)", "State of the reject."},
			{"new_partition", "Nullable(UInt32)", "Partition where it was published again."},
			{"new_offset", "Nullable(UInt64)", "Offset where it was published again."},
			{"by", "String", "Who decided."},
			{"why", "String", "Why."},
			{"at", instant, "When."},
		},
		engine: "ReplacingMergeTree(at)", order: "topic, partition, offset",
	},
	{
		name: "store.comuni", doc: "Comuni that ship with the release (schemas/codes/comuni.csv), replaced as a whole at start.",
		columns: [][3]string{
			{"code", "FixedString(6)", "ISTAT code."},
			{"name", "String", "Name."},
			{"province", "LowCardinality(String)", "First three digits of the code."},
			{"region", "LowCardinality(String)", "ISTAT code of the region, two digits."},
		},
		engine: "ReplacingMergeTree", order: "code",
	},
	{
		name: "store.certificates", doc: "Certificates of erasure, one row per erasure and table; the latest counts. See welfare.erasures.",
		columns: certificateColumns,
		engine:  "ReplacingMergeTree(applied_at)", order: "source, event_id, table",
	},
	{
		name: "store.purges", doc: "When the bytes of removed rows were taken off the disk.",
		columns: [][3]string{
			{"table", "LowCardinality(String)", "Event table, without its database; store.facts is purged before it."},
			{"started_at", instant, "Begin: what was removed before it is gone at the end."},
			{"purged_at", instant, "End."},
		},
		engine: "MergeTree", order: "table, started_at",
	},
	{
		name: "welfare.replays", doc: "Replays, one row per replay and partition: what was read again, by whom and why. The ledger is not touched by them. Of a row that repeats until merged the latest updated_at counts: read it with FINAL.",
		columns: [][3]string{
			{"id", "UUID", "Id of the replay."},
			{"who", "String", "Who asked for it."},
			{"why", "String", "Why."},
			{"what", "String", "What was selected, as JSON; of a key its SHA-256."},
			{"target", "String", "What was done with it: restore, or topic: or file: and the name of where it was copied to."},
			topicColumn, partitionColumn,
			{"from_offset", "UInt64", "First offset read."},
			{"to_offset", "UInt64", "End of the range, exclusive: the end of the log when the replay began, or what was asked for."},
			{"position", "UInt64", "Done up to here, exclusive."},
			{"started_at", instant, "Begin."},
			{"updated_at", instant, "Last progress."},
			{"finished_at", "Nullable(" + instant + ")", "End; NULL while it runs, or when it was cut off."},
			{"read", "UInt64", "Records read again that were selected. Where rows are restored it is the sum of the columns that follow; where they are copied, copied is all that follows."},
			{"present", "UInt64", "Of them loaded, with their row in place."},
			{"restored", "UInt64", "Of them loaded, with a row that was missing and is stored again."},
			{"duplicate", "UInt64", "Of them duplicates."},
			{"rejected", "UInt64", "Of them rejected."},
			{"erased", "UInt64", "Of them loaded and erased."},
			{"superseded", "UInt64", "Of them loaded, and taken out by a copy in another partition."},
			{"pending", "UInt64", "Of them not loaded yet: the loader has not come to them."},
			{"unknown", "UInt64", "Of them such whose row is missing while nothing says that they were loaded, or that cannot be decoded any more."},
			{"copied", "UInt64", "Records copied to the target."},
			{"codes", "Map(LowCardinality(String), UInt64)", "The rejected by their first code."},
		},
		engine: "ReplacingMergeTree(updated_at)", order: "id, topic, partition",
	},
}

var certificateColumns = [][3]string{
	{"source", "String", "Source of the SubjectErased event."},
	{"event_id", "UUID", "Id of the SubjectErased event."},
	{"pseudonym_sha256", "String", "SHA-256 of the pseudonym, 64 lower-case hexadecimal digits."},
	{"scope", "LowCardinality(String)", "ALL, SCHOOL, POVERTY, DEMAND or UNKNOWN."},
	{"requested_at", instant, "Instant of the request."},
	{"applied_at", instant, "From when no query finds the rows in the table."},
	{"table", "LowCardinality(String)", "Event table, without its database."},
	{"rows", "UInt64", "Rows removed, or for household_pseudonym emptied."},
}

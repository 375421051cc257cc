package clickhouse

import (
	"fmt"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Column is one column of a storage table.
type Column struct {
	Name  string
	Type  string // ClickHouse type
	Codec string // codec list; empty: the server's default
	Doc   string // comment
}

// SystemColumns come first in every storage table store.<table>, which has one row per record read.
// Callers must not change them.
var SystemColumns = []Column{
	{"_partition", "UInt32", "", "Partition of the record in the topic."},
	{"_offset", "UInt64", "", "Offset of the record in its partition."},
	{"_from", "UInt64", "", "First offset of the block that the record was loaded with."},
	{"_to", "UInt64", "", "End of that block, exclusive."},
	{"_end", "Enum8('loaded' = 1, 'duplicate' = 2, 'rejected' = 3)", "", "End of the record. Only loaded rows have the columns of the event."},
	{"_gone", "UInt8", "", "1: the subject was erased when the record came; of the columns of the event only occurred_at is kept."},
	{"_schema_id", "UInt32", "", "Schema id of the frame; 0 where it could not be read."},
	{"_flag_bits", "UInt16", "", "Warnings of the event alone, bit i is flag i of welfarehub's list; see welfare.<table>._flags."},
	{"_id_hash", "FixedString(16)", "NONE", "Hash of (topic, source, eventId); zero where rejected."},
	{"_content_hash", "FixedString(32)", "NONE", "SHA-256 of the content; zero where rejected."},
	{"_hash_version", "UInt8", "", "Version of the content hash: hashes compare only within one."},
	{"_owner", "UInt64", "", "Instance of the loader that stored the block."},
	{"_epoch", "UInt64", "", "Life of the engine in which the block was stored, see store.engine; 0 where a replay stored the row again."},
	{"_detail", "String", "ZSTD(1)", "JSON. Duplicate: source, event_id, of_partition, of_offset. Rejected: code, codes, field, message, source, event_id, value_hash; for E07 also of_partition, of_offset, of_hash, hash. Never a value."},
	{"_loaded_at", "DateTime64(3, 'UTC')", "", "When the hub decided."},
}

// RecordHash is the expression of the column _record: it groups the versions of a record. Equal hashes
// of different records are possible; whoever groups by it compares the names as well.
const RecordHash = "cityHash64(source, source_record_id)"

// IsPseudonym tells the fields that are stored as the 32 bytes of their 64 hexadecimal digits.
func IsPseudonym(f event.Field) bool {
	switch f.Name {
	case "pseudonym", "householdPseudonym", "student", "respondent":
		return true
	}
	return false
}

// lowCardinality are the fields of few values, stored as a dictionary.
var lowCardinality = map[string]bool{
	"source": true, "orgCode": true, "legalBasis": true, "nomenclatureCode": true, "inpsCode": true, "atsCode": true,
}

// StorageType is the ClickHouse type of a field in a storage table.
func StorageType(f event.Field) string {
	switch f.Kind {
	case event.String:
		switch {
		case IsPseudonym(f):
			return nullable(f, "FixedString(32)")
		case f.Name == "comuneCode":
			return nullable(f, "FixedString(6)")
		case lowCardinality[f.Name]:
			return "LowCardinality(" + nullable(f, "String") + ")"
		}
		return nullable(f, "String")
	case event.Enum:
		parts := make([]string, len(f.Symbols))
		for i, s := range f.Symbols {
			parts[i] = fmt.Sprintf("'%s' = %d", s, i)
		}
		return nullable(f, "Enum8("+strings.Join(parts, ", ")+")")
	case event.Bytes:
		return nullable(f, "String")
	case event.Strings:
		return "Array(String)"
	case event.Decimal:
		return nullable(f, fmt.Sprintf("Decimal(%d, %d)", f.Precision, f.Scale))
	}
	return nullable(f, map[event.Kind]string{
		event.UUID: "UUID", event.Bool: "Bool", event.Int: "Int32", event.Long: "Int64", event.Double: "Float64",
		event.Date: "Date32", event.Timestamp: "DateTime64(3, 'UTC')",
	}[f.Kind])
}

// PublicExpr is the expression by which welfare.<table> gives the value of a field as in the event.
// Enum8 and LowCardinality stay: clients read them as text. The cast of comune_code keeps the primary
// key usable for its predicates (tried).
func PublicExpr(f event.Field) string {
	switch {
	case IsPseudonym(f):
		return "lower(hex(" + f.Column + "))"
	case f.Name == "comuneCode":
		return "CAST(" + f.Column + " AS " + nullable(f, "String") + ")"
	}
	return f.Column
}

// PublicType is the type of PublicExpr.
func PublicType(f event.Field) string {
	if IsPseudonym(f) || f.Name == "comuneCode" {
		return nullable(f, "String")
	}
	return StorageType(f)
}

func nullable(f event.Field, typ string) string {
	if f.Nullable {
		return "Nullable(" + typ + ")"
	}
	return typ
}

// Flags are the warnings that depend on an event alone; bit i of _flag_bits is Flags[i].
var Flags = []string{"W03", "W21", "W24", "W34", "W35", "W36", "W61", "W90"}

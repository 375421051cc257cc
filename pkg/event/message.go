package event

import (
	"strconv"
)

// Header is a header of a Kafka record. It has the members of the Kafka client's own type, so that
// one converts into the other; this package knows no client.
type Header struct {
	Key   string
	Value []byte
}

// Message builds the Kafka record of an event: its key, its value in the Confluent frame of schemaID,
// and its CloudEvents headers (binary mode). The record goes to Type.Topic. The key and the headers
// of text alias the row: they are valid while the row's values are.
func Message(row *Row, schemaID int) (key, value []byte, headers []Header) {
	t := row.Type
	value = row.AppendAvro(AppendFrame(make([]byte, 0, 512), schemaID))
	headers = make([]Header, 0, 9)
	headers = append(headers,
		Header{"content-type", []byte("application/avro")},
		Header{"ce_specversion", []byte("1.0")},
		Header{"ce_id", row.Vals[EventID].Bytes},
		Header{"ce_source", row.Vals[Source].Bytes},
		Header{"ce_type", []byte(t.Topic)},
		Header{"ce_subject", row.Vals[SourceRecordID].Bytes},
		Header{"ce_time", row.Time(OccurredAt).AppendFormat(make([]byte, 0, len(rfc3339Milli)), rfc3339Milli)},
		Header{"ce_dataschema", strconv.AppendInt([]byte("/schemas/ids/"), int64(schemaID), 10)},
	)
	if tp := row.Vals[Traceparent]; !tp.Null {
		headers = append(headers, Header{"traceparent", tp.Bytes})
	}
	return row.Vals[t.Key].Bytes, value, headers
}

// Package record reads the records of the events' topics as the hub judges them: Kafka record to event, or
// to the reason why it is rejected, and event to the columns of its storage table. It promises that whoever
// reads a record with the same schemas and limits comes to the same verdict. It reads no books: what was
// sent before, and who is erased, is for its callers.
package record

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// Reader reads the records of one topic. Not safe for concurrent use.
type Reader struct {
	Row *event.Row // the event of the last Read, where it could be decoded; it aliases the message

	t             *event.Type
	decoders      decoders
	maxValueBytes int
	check         *validate.Validator
	res           validate.Result
	headers       []event.Header
}

// NewReader returns a reader of the topic of t. A value of more than maxValueBytes is P06.
func NewReader(t *event.Type, schemas SchemaSource, maxValueBytes int) *Reader {
	return &Reader{Row: event.NewRow(t), t: t, decoders: decoders{src: schemas}, maxValueBytes: maxValueBytes, check: validate.New()}
}

// Verdict is what a record is by itself.
type Verdict struct {
	SchemaID int        // of the frame; 0 where it could not be read
	Flags    uint16     // warnings of the event alone
	Source   string     // empty where it could not be read, or must not be told
	EventID  string     // the same
	Decoded  bool       // Reader.Row has the event
	Newer    bool       // the event may say what a newer release reads and we do not: a field, or a symbol
	Why      *Rejection // nil: valid
}

// Rejection is why a record was rejected. It holds no value of the record.
type Rejection struct {
	Code        string   `json:"code"`
	Codes       []string `json:"codes"`
	Field       string   `json:"field"`
	Message     string   `json:"message"`
	Source      *string  `json:"source"`
	EventID     *string  `json:"event_id"`
	ValueHash   string   `json:"value_hash"`
	OfPartition *int     `json:"of_partition,omitempty"`
	OfOffset    *int64   `json:"of_offset,omitempty"`
	OfHash      string   `json:"of_hash,omitempty"`
	Hash        string   `json:"hash,omitempty"`
}

// Read decodes and validates one message. An error is an outage of the registry.
func (r *Reader) Read(ctx context.Context, m *wkafka.Message) (Verdict, error) {
	rec := wkafka.RecordOf(m)
	v, err := r.ReadRecord(ctx, &rec)
	if err == nil && v.Decoded && v.Why == nil {
		v.Source, v.EventID = r.Row.Str(event.Source), strings.ToLower(r.Row.Str(event.EventID))
	}
	return v, err
}

// ReadRecord is Read without an allocation for a valid event, whose Source and EventID it leaves to the row.
func (r *Reader) ReadRecord(ctx context.Context, m *wkafka.Record) (Verdict, error) {
	var v Verdict
	poison := func(code, field, message string) (Verdict, error) {
		v.Why = &Rejection{Code: code, Codes: []string{code}, Field: field, Message: message}
		return v, nil
	}
	switch m.Unread {
	case wkafka.TooLarge:
		return poison("P06", "", fmt.Sprintf("the batch of the record has more than %d bytes once decompressed; send smaller batches", wkafka.MaxBatch))
	case wkafka.Broken:
		return poison("P04", "", "the batch of the record cannot be decompressed or taken apart; is the producer's compression sound?")
	}
	if len(m.Value) == 0 {
		return poison("P01", "", "value is null or empty; a record is annulled by a RecordRevoked event, not by a tombstone")
	}
	if len(m.Value) < event.FrameSize+1 || m.Value[0] != 0 {
		return poison("P02", "", "value does not begin with the Confluent frame: byte 0, four bytes of schema id; is the serializer's wire format Confluent?")
	}
	v.SchemaID = int(int32(binary.BigEndian.Uint32(m.Value[1:])))
	if len(m.Value) > r.maxValueBytes {
		return poison("P06", "", fmt.Sprintf("value has %d bytes, the limit is %d (max-value-bytes)", len(m.Value), r.maxValueBytes))
	}
	schema, found, err := r.decoders.get(ctx, r.t, v.SchemaID)
	if err != nil {
		return v, err
	}
	if !found {
		return poison("P03", "", fmt.Sprintf("schema id %d is not in the registry; register the schema before publishing", v.SchemaID))
	}
	if schema.dec == nil {
		return poison(schema.code, "", schema.problem)
	}
	if err := schema.dec.Decode(m.Value[event.FrameSize:], r.Row); err != nil {
		var d *event.DecodeError
		if !errors.As(err, &d) {
			return v, err
		}
		return poison(d.Code, d.Field, d.Problem)
	}
	v.Decoded = true
	r.headers = m.Headers(r.headers[:0])
	r.check.Check(r.Row, validate.Meta{Key: m.Key, Timestamp: m.Timestamp, Headers: r.headers}, &r.res)
	v.Flags = r.res.Flags
	v.Newer = schema.dec.SkipsFields() || v.Flags&validate.FlagW90 != 0
	if r.res.OK() {
		return v, nil
	}
	first := r.res.Violations[0]
	v.Why = &Rejection{Code: string(first.Code), Codes: r.res.Codes(), Field: first.Field, Message: first.Message}
	v.Source, v.EventID = identifier(r.Row.Str(event.Source), 200), identifier(strings.ToLower(r.Row.Str(event.EventID)), 64)
	return v, nil
}

// identifier is an identifier of a rejected event as it may be told: not one that is overlong or holds a
// codice fiscale.
func identifier(s string, limit int) string {
	if len(s) > limit || privacy.ContainsCF([]byte(s)) {
		return ""
	}
	return s
}

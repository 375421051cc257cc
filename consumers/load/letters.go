package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/hamba/avro/v2"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// DeadLetterSuffix makes the topic of dead letters from a topic.
const DeadLetterSuffix = ".dlq"

// truncatedBytes is what is kept of a value that is too large for the dead letters.
const truncatedBytes = 64 << 10

// letter is the dead letter of a rejected record: its original key, value and headers, and wh_* headers
// that say why. Where a codice fiscale is in any of them, it carries none of the original.
func letter(b *block, i, maxBytes int) kafka.Message {
	m, e := &b.recs[i], &b.ends[i]
	out := kafka.Message{Topic: b.p.topic + DeadLetterSuffix, Key: m.Key, Value: m.Value, Headers: m.Headers}
	sum := sha256.Sum256(m.Value)
	wh := []kafka.Header{
		{Key: "wh_code", Value: []byte(e.why.Code)},
		{Key: "wh_codes", Value: []byte(strings.Join(e.why.Codes, ","))},
		{Key: "wh_message", Value: []byte(e.why.Message)},
		{Key: "wh_topic", Value: []byte(b.p.topic)},
		{Key: "wh_partition", Value: []byte(strconv.Itoa(b.p.partition))},
		{Key: "wh_offset", Value: strconv.AppendInt(nil, m.Offset, 10)},
		{Key: "wh_value_sha256", Value: []byte(hex.EncodeToString(sum[:]))},
		{Key: "wh_rejected_at", Value: []byte(b.at.Format("2006-01-02T15:04:05.000Z"))},
	}
	if e.why.Field != "" {
		wh = append(wh, kafka.Header{Key: "wh_field", Value: []byte(e.why.Field)})
	}
	if e.schemaID > 0 {
		wh = append(wh, kafka.Header{Key: "wh_schema_id", Value: []byte(strconv.Itoa(e.schemaID))})
	}
	switch {
	case holdsCF(m) || slices.Contains(e.why.Codes, "E11"):
		out.Key, out.Value, out.Headers = nil, nil, nil
	case len(m.Key)+len(m.Value) > maxBytes:
		out.Value = m.Value[:min(len(m.Value), truncatedBytes)]
		wh = append(wh, kafka.Header{Key: "wh_truncated", Value: []byte("true")})
		if len(m.Key) > truncatedBytes {
			out.Key = nil
		}
	}
	out.Headers = append(append([]kafka.Header{}, out.Headers...), wh...)
	return out
}

// holdsCF scans all bytes of a record for a codice fiscale.
func holdsCF(m *kafka.Message) bool {
	if privacy.ContainsCFRaw(m.Value) || privacy.ContainsCFRaw(m.Key) {
		return true
	}
	for _, h := range m.Headers {
		if privacy.ContainsCFRaw(h.Value) || privacy.ContainsCF([]byte(h.Key)) {
			return true
		}
	}
	return false
}

// outcomesPerMessage bounds an OutcomesReported message.
const outcomesPerMessage = 5000

// outcomes are the messages that tell the sources of the block what became of their events. The same
// stored block gives the same messages, byte for byte.
func outcomes(b *block, schemaID int) ([]kafka.Message, error) {
	bySource := map[string][]event.Outcome{}
	for i := range b.ends {
		e := &b.ends[i]
		source := e.source
		if source == "" {
			source = "unknown"
		}
		o := event.Outcome{Outcome: event.OutcomeKind(e.end.String()), Offset: b.recs[i].Offset, Codes: []string{}, Flags: []string{}}
		if e.eventID != "" {
			o.EventID = &e.eventID
		}
		if e.why != nil {
			o.Codes = e.why.Codes
		}
		if e.end == record.Loaded {
			o.Flags = validate.FlagNames(e.flags)
		}
		bySource[source] = append(bySource[source], o)
	}
	sources := make([]string, 0, len(bySource))
	for s := range bySource {
		sources = append(sources, s)
	}
	sort.Strings(sources)
	var out []kafka.Message
	for _, s := range sources {
		for list := bySource[s]; len(list) > 0; {
			n := min(len(list), outcomesPerMessage)
			report := event.OutcomesReported{Source: s, Topic: b.p.topic, Partition: b.p.partition, DecidedAt: b.at, Outcomes: list[:n]}
			value, err := avro.Marshal(event.OutcomesReportedSchema, report)
			if err != nil {
				return nil, fmt.Errorf("encode outcomes: %w", err)
			}
			out = append(out, kafka.Message{
				Topic: event.TopicOutcome, Key: []byte(s), Value: append(event.AppendFrame(nil, schemaID), value...),
				Headers: []kafka.Header{{Key: "content-type", Value: []byte("application/avro")}},
			})
			list = list[n:]
		}
	}
	return out, nil
}

// messages are all that a block has to tell: letters, then outcomes.
func (b *block) messages(maxLetter, outcomeSchemaID int) ([]kafka.Message, error) {
	var out []kafka.Message
	for i := range b.ends {
		if b.ends[i].end == record.Rejected {
			out = append(out, letter(b, i, maxLetter))
		}
	}
	told, err := outcomes(b, outcomeSchemaID)
	return append(out, told...), err
}

// restore makes a block from its stored ends and its records, read again, as the owner that stored it
// told it or would have. A record of the block that is no longer stored was loaded and then erased.
// The caller holds t.mu.
func (t *topic) restore(ctx context.Context, p position, c claim, recs []kafka.Message, stored map[int64]storedEnd) (*block, error) {
	b := &block{p: p, c: c, recs: recs, ends: make([]ended, len(recs))}
	for i := range recs {
		now, err := t.read(ctx, &recs[i])
		if err != nil {
			return nil, err
		}
		e := ended{end: record.Loaded, flags: now.flags, schemaID: now.schemaID, source: now.source, eventID: now.eventID}
		if s, ok := stored[recs[i].Offset]; ok {
			b.at, e.end, e.flags = s.loadedAt, s.end, s.flags
			if s.end == record.Rejected {
				e.why = &record.Rejection{}
				if err := json.Unmarshal([]byte(s.detail), e.why); err != nil {
					return nil, fmt.Errorf("read the stored reason of %s/%d offset %d: %w", p.topic, p.partition, recs[i].Offset, err)
				}
				e.source, e.eventID = deref(e.why.Source), deref(e.why.EventID)
			}
		}
		b.ends[i] = e
	}
	return b, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

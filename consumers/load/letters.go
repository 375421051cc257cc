package load

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// DeadLetterSuffix makes the topic of dead letters from a topic.
const DeadLetterSuffix = ".dlq"

// truncatedBytes is what is kept of a value, key or headers that are too large for the dead letters.
const truncatedBytes = 64 << 10

// letter is the dead letter of a rejected record: its original key, value and headers, and wh_* headers
// that say why. Where a codice fiscale is in any of them, it carries none of the original. One that would not
// fit is cut: to the first truncatedBytes of its value, and without a key or headers that are longer.
func letter(b *block, i, maxBytes int) kafka.Message {
	m, e := &b.recs[i], &b.ends[i]
	out := kafka.Message{Topic: b.p.topic + DeadLetterSuffix, Key: m.Key, Value: m.Value}
	for _, h := range m.Headers(nil) {
		out.Headers = append(out.Headers, kafka.Header(h))
	}
	sum := sha256.Sum256(m.Value)
	wh := []kafka.Header{
		{Key: "wh_code", Value: []byte(e.why.Code)},
		{Key: "wh_codes", Value: []byte(strings.Join(e.why.Codes, ","))},
		{Key: "wh_message", Value: []byte(e.why.Message)},
		{Key: "wh_topic", Value: []byte(b.p.topic)},
		{Key: "wh_partition", Value: []byte(strconv.Itoa(b.p.partition))},
		{Key: "wh_offset", Value: strconv.AppendInt(nil, m.Offset, 10)},
		{Key: "wh_rejected_at", Value: []byte(b.at.Format("2006-01-02T15:04:05.000Z"))},
	}
	if m.Unread == 0 {
		wh = append(wh, kafka.Header{Key: "wh_value_sha256", Value: []byte(hex.EncodeToString(sum[:]))})
	} else {
		wh = append(wh, kafka.Header{Key: "wh_truncated", Value: []byte("true")})
	}
	if e.why.Field != "" {
		wh = append(wh, kafka.Header{Key: "wh_field", Value: []byte(e.why.Field)})
	}
	if e.schemaID > 0 {
		wh = append(wh, kafka.Header{Key: "wh_schema_id", Value: []byte(strconv.Itoa(int(e.schemaID)))})
	}
	switch {
	case holdsCF(m) || slices.Contains(e.why.Codes, "E11"):
		out.Key, out.Value, out.Headers = nil, nil, nil
	case len(m.Key)+len(m.Value)+len(m.HeaderBytes()) > maxBytes:
		out.Value = m.Value[:min(len(m.Value), truncatedBytes)]
		wh = append(wh, kafka.Header{Key: "wh_truncated", Value: []byte("true")})
		if len(m.Key) > truncatedBytes {
			out.Key = nil
		}
		if len(m.HeaderBytes()) > truncatedBytes {
			out.Headers = nil
		}
	}
	out.Headers = append(out.Headers, wh...)
	return out
}

// holdsCF scans all bytes of a record for a codice fiscale.
func holdsCF(m *wkafka.Record) bool {
	if privacy.ContainsCFRaw(m.Value) || privacy.ContainsCFRaw(m.Key) {
		return true
	}
	for _, h := range m.Headers(nil) {
		if privacy.ContainsCFRaw(h.Value) || privacy.ContainsCF([]byte(h.Key)) {
			return true
		}
	}
	return false
}

// outcomesPerMessage bounds an OutcomesReported message.
const outcomesPerMessage = 5000

// outcomes are the messages that tell the sources of the block what became of their events. The same
// stored block gives the same messages, byte for byte. They are encoded by hand (OutcomesReported, which
// the test compares): one for each event would cost more than all the rest otherwise.
func outcomes(b *block, schemaID int) []kafka.Message {
	type report struct {
		source string
		items  [][]byte // encoded outcomes, of outcomesPerMessage each
		n      int      // in the last of items
		counts []int
	}
	index := map[string]int{}
	var reports []report
	last := -1
	for i := range b.ends {
		e := &b.ends[i]
		source := e.source
		if source == "" {
			source = "unknown"
		}
		if last < 0 || reports[last].source != source {
			at, known := index[source]
			if !known {
				at = len(reports)
				index[source] = at
				reports = append(reports, report{source: source, n: outcomesPerMessage})
			}
			last = at
		}
		r := &reports[last]
		if r.n == outcomesPerMessage {
			r.items, r.counts, r.n = append(r.items, make([]byte, 0, 64*min(len(b.ends)-i, outcomesPerMessage))), append(r.counts, 0), 0
		}
		k := len(r.items) - 1
		r.items[k] = appendOutcome(r.items[k], e, b.recs[i].Offset)
		r.n++
		r.counts[k] = r.n
	}
	slices.SortFunc(reports, func(x, y report) int { return strings.Compare(x.source, y.source) })
	var out []kafka.Message
	for _, r := range reports {
		for k, items := range r.items {
			v := event.AppendFrame(make([]byte, 0, len(items)+len(r.source)+len(b.p.topic)+40), schemaID)
			v = appendText(appendText(v, r.source), b.p.topic)
			v = binary.AppendVarint(binary.AppendVarint(v, int64(b.p.partition)), b.at.UnixMilli())
			v = append(binary.AppendVarint(v, int64(r.counts[k])), items...)
			v = append(v, 0) // no more of the array
			out = append(out, kafka.Message{
				Topic: event.TopicOutcome, Key: []byte(r.source), Value: v,
				Headers: []kafka.Header{{Key: "content-type", Value: []byte("application/avro")}},
			})
		}
	}
	return out
}

// appendOutcome appends an Outcome in Avro. The numbers of ends are those of OutcomeKind.
func appendOutcome(dst []byte, e *ended, offset int64) []byte {
	switch {
	case e.hasID:
		dst = append(dst, 2, 72) // the second branch, 36 characters
		dst = event.AppendUUID(dst, &e.id)
	case e.eventID != "":
		dst = appendText(append(dst, 2), e.eventID)
	default:
		dst = append(dst, 0)
	}
	dst = binary.AppendVarint(dst, int64(e.end))
	var codes, flags []string
	if e.why != nil {
		codes = e.why.Codes
	}
	if e.end == record.Loaded && e.flags != 0 {
		flags = validate.FlagNames(e.flags)
	}
	dst = appendTexts(appendTexts(dst, codes), flags)
	return binary.AppendVarint(dst, offset)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendVarint(dst, int64(len(s))), s...)
}

func appendTexts(dst []byte, list []string) []byte {
	if len(list) > 0 {
		dst = binary.AppendVarint(dst, int64(len(list)))
		for _, s := range list {
			dst = appendText(dst, s)
		}
	}
	return append(dst, 0)
}

// messages are all that a block has to tell: letters, then outcomes.
func (b *block) messages(maxLetter, outcomeSchemaID int) []kafka.Message {
	var out []kafka.Message
	for i := range b.ends {
		if b.ends[i].end == record.Rejected {
			out = append(out, letter(b, i, maxLetter))
		}
	}
	return append(out, outcomes(b, outcomeSchemaID)...)
}

// restore makes a block from its stored ends and its records, read again, as the owner that stored it
// told it or would have. A record of the block that is no longer stored was loaded and then erased.
// The caller holds t.mu.
func (t *topic) restore(ctx context.Context, p position, c claim, recs []wkafka.Record, stored map[int64]storedEnd) (*block, error) {
	b := &block{p: p, c: c, recs: recs, ends: make([]ended, len(recs))}
	for i := range recs {
		now, err := t.read(ctx, &recs[i])
		if err != nil {
			return nil, err
		}
		e := ended{end: record.Loaded, flags: now.flags, schemaID: now.schemaID, source: now.source, eventID: now.eventID, id: now.id, hasID: now.hasID}
		if s, ok := stored[recs[i].Offset]; ok {
			b.at, e.end, e.flags = s.loadedAt, s.end, s.flags
			if s.end == record.Rejected {
				e.why = &record.Rejection{}
				if err := json.Unmarshal([]byte(s.detail), e.why); err != nil {
					return nil, fmt.Errorf("read the stored reason of %s/%d offset %d: %w", p.topic, p.partition, recs[i].Offset, err)
				}
				e.source, e.eventID, e.hasID = deref(e.why.Source), deref(e.why.EventID), false
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

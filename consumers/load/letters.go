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

// An OutcomesReported message has so many outcomes at most, and so many bytes, about.
const (
	outcomesPerMessage = 5000
	outcomesBytes      = 512 << 10
)

// outcomes are the messages that tell the sources of the block what became of their events. The same
// stored block gives the same messages, byte for byte. They are encoded by hand (OutcomesReported, which
// the test compares): one for each event would cost more than all the rest otherwise.
func outcomes(b *block, schemaID int) []kafka.Message {
	type report struct {
		source string
		n      int // outcomes of the source
		first  int // of them in order
	}
	index := map[string]int{}
	var reports []report
	of := make([]int32, len(b.ends)) // the report of each
	for i := range b.ends {
		source := b.ends[i].source
		if source == "" {
			source = "unknown"
		}
		at := len(reports)
		if i > 0 && reports[of[i-1]].source == source {
			at = int(of[i-1])
		} else if known, ok := index[source]; ok {
			at = known
		} else {
			index[source] = at
			reports = append(reports, report{source: source})
		}
		of[i] = int32(at)
		reports[at].n++
	}
	order := make([]int32, len(b.ends)) // by report, then by offset
	next := make([]int, len(reports))
	for r, first := 0, 0; r < len(reports); r++ {
		reports[r].first, next[r] = first, first
		first += reports[r].n
	}
	for i, r := range of {
		order[next[r]] = int32(i)
		next[r]++
	}
	slices.SortFunc(reports, func(x, y report) int { return strings.Compare(x.source, y.source) })
	var out []kafka.Message
	var items []byte
	for _, r := range reports {
		for mine := order[r.first : r.first+r.n]; len(mine) > 0; {
			items = items[:0]
			n := 0
			for ; n < min(len(mine), outcomesPerMessage) && len(items) < outcomesBytes; n++ {
				i := mine[n]
				items = appendOutcome(items, &b.ends[i], b.recs[i].Offset)
			}
			mine = mine[n:]
			v := event.AppendFrame(make([]byte, 0, len(items)+len(r.source)+len(b.p.topic)+40), schemaID)
			v = appendText(appendText(v, r.source), b.p.topic)
			v = binary.AppendVarint(binary.AppendVarint(v, int64(b.p.partition)), b.at.UnixMilli())
			v = append(binary.AppendVarint(v, int64(n)), items...)
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

// letters are the dead letters of a block.
func (b *block) letters(maxLetter int) []kafka.Message {
	var out []kafka.Message
	for i := range b.ends {
		if b.ends[i].end == record.Rejected {
			out = append(out, letter(b, i, maxLetter))
		}
	}
	return out
}

// restore makes a block from its stored ends and its records, read again, as the owner that stored it
// told it or would have. A record of the block that is no longer stored was loaded and then erased.
// The caller holds t.mu.
func (t *topic) restore(ctx context.Context, p position, c claim, recs []wkafka.Record, stored map[int64]storedEnd) (*block, error) {
	b := &block{p: p, c: c, recs: recs, ends: make([]ended, len(recs))}
	for i := range recs {
		now, err := t.deciding.read(ctx, &recs[i])
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

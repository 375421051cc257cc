package deadletter

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// Shown is a dead letter as it may be shown: pseudonyms are shortened, free texts and whatever holds a codice
// fiscale are replaced.
type Shown struct {
	Reject
	Key     string  `json:"key"`
	Headers []Named `json:"headers"`
	Bytes   int     `json:"value_bytes"`
	Fields  []Named `json:"fields,omitempty"` // in the order of the schema; none where the value cannot be decoded
	Note    string  `json:"note,omitempty"`
}

// Named is a header or a field.
type Named struct{ Name, Value string }

// Show reads the dead letter of a position.
func (d *Desk) Show(ctx context.Context, p Position) (*Shown, error) {
	l, err := d.Letter(ctx, p)
	if err != nil {
		return nil, err
	}
	t := event.ByTopic(p.Topic)
	out := &Shown{Reject: l.Reject, Key: maskKey(t, l.Key), Bytes: len(l.Value)}
	for _, h := range l.Headers {
		out.Headers = append(out.Headers, Named{mask(h.Key), mask(string(h.Value))})
	}
	switch {
	case l.Withheld():
		out.Note = withheldMessage
		return out, nil
	case l.Cut():
		out.Note = cutMessage
		if len(l.Value) == 0 {
			return out, nil // nothing of it could be read
		}
	}
	r := d.judge().reader(p.Topic)
	v, err := r.Read(ctx, l.now())
	if err != nil {
		return nil, err
	}
	if !v.Decoded {
		out.Note = strings.TrimPrefix(out.Note+"; the value cannot be decoded: "+v.Why.Message, "; ")
		return out, nil
	}
	out.Fields = maskRow(r.Row)
	return out, nil
}

// freeTexts are the fields that people write what they like into.
var freeTexts = map[string]bool{
	"text": true, "actionTaken": true, "reason": true, "refusalReason": true, "endReason": true, "name": true, "legalBasis": true, "profession": true, "tool": true,
}

// maskRow is the fields of an event, masked.
func maskRow(row *event.Row) []Named {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(row.AppendJSON(nil), &values); err != nil {
		return []Named{{"(the event)", "cannot be shown"}} // a value that is no JSON, such as text that is not UTF-8
	}
	out := make([]Named, 0, len(row.Type.Fields))
	for i, f := range row.Type.Fields {
		v := &row.Vals[i]
		text := strings.Trim(string(values[f.Name]), `"`)
		switch {
		case v.Null:
			text = "null"
		case clickhouse.IsPseudonym(f):
			text = maskPseudonym(string(v.Bytes))
		case f.Kind == event.Strings || f.Kind == event.Bytes:
			text = mask(text)
		case f.Kind != event.String:
		case freeTexts[f.Name]:
			text = length(string(v.Bytes))
		default:
			text = mask(string(v.Bytes))
		}
		out = append(out, Named{f.Name, text})
	}
	return out
}

func maskKey(t *event.Type, key []byte) string {
	if len(key) == 0 {
		return ""
	}
	if clickhouse.IsPseudonym(t.Fields[t.Key]) {
		return maskPseudonym(string(key))
	}
	return mask(string(key))
}

// maskPseudonym keeps eight digits. What is no pseudonym, in the place of one, may be anything.
func maskPseudonym(s string) string {
	if isPseudonym(s) {
		return s[:8] + "…"
	}
	return length(s)
}

// mask is text that should hold no personal data, shown unless it seems to.
func mask(s string) string {
	switch {
	case privacy.ContainsCFRaw([]byte(s)):
		return "(holds a codice fiscale)"
	case isPseudonym(s):
		return maskPseudonym(s)
	case !utf8.ValidString(s) || utf8.RuneCountInString(s) > 200:
		return length(s)
	}
	return s
}

func length(s string) string {
	if !utf8.ValidString(s) {
		return fmt.Sprintf("(%d bytes)", len(s))
	}
	return fmt.Sprintf("(%d characters)", utf8.RuneCountInString(s))
}

func isPseudonym(s string) bool {
	if len(s) != 64 {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}

// exported is a line of an export. Bytes are in base64.
type exported struct {
	Reject
	Key     []byte           `json:"key"`
	Value   []byte           `json:"value"`
	Headers []exportedHeader `json:"headers"`
	Note    string           `json:"note,omitempty"`
}

type exportedHeader struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Export writes the letters of a selection as JSON lines, with key, value and header values in base64 as they
// are: not masked. It returns how many, and how many rejects of the selection have no letter left.
func (d *Desk) Export(ctx context.Context, s Selection, w io.Writer) (written int, without uint64, err error) {
	enc := json.NewEncoder(w)
	without, err = d.letters(ctx, s, func(letters []Letter) error {
		for i := range letters {
			l := &letters[i]
			line := exported{Reject: l.Reject, Key: l.Key, Value: l.Value, Headers: []exportedHeader{}}
			for _, h := range l.Headers {
				line.Headers = append(line.Headers, exportedHeader{h.Key, h.Value})
			}
			switch {
			case l.Withheld():
				line.Note = withheldMessage
			case l.Cut():
				line.Note = cutMessage
			}
			if err := enc.Encode(line); err != nil {
				return fmt.Errorf("write export: %w", err)
			}
			written++
		}
		return nil
	})
	return written, without, err
}

package publish

import (
	"errors"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// lookup finds the text of a column of the record at hand.
type lookup func(column string) string

// raw is the text that the value takes from a record, before what is done to it.
func (v *Value) raw(get lookup) string {
	switch {
	case v.Const != nil:
		return *v.Const
	case v.Column != "":
		return get(v.Column)
	}
	// A template with an empty column is empty as a whole: half an identifier would be the same for
	// many records.
	var b strings.Builder
	for _, p := range v.parts {
		b.WriteString(p.text)
		if p.column == "" {
			continue
		}
		text := strings.TrimSpace(get(p.column))
		if text == "" {
			return ""
		}
		b.WriteString(text)
	}
	return b.String()
}

// set puts text, changed as the value says, into field i of row.
func (v *Value) set(row *event.Row, i int, text string) *event.FieldError {
	f := &row.Type.Fields[i]
	if v.Const == nil {
		text = strings.TrimSpace(text)
	}
	if text == "" && v.Default != nil {
		text = *v.Default
	}
	if v.Map != nil {
		to, ok := v.Map[text]
		switch {
		case ok:
			text = to
		case v.Otherwise != nil:
			text = *v.Otherwise
		default:
			return &event.FieldError{Field: f.Name, Problem: "the value is not in the map of the mapping", Limit: "one of its keys, or otherwise"}
		}
	}
	if text != "" && len(text) < v.Pad {
		text = strings.Repeat("0", v.Pad-len(text)) + text
	}
	if v.DecimalComma {
		text = strings.Replace(strings.ReplaceAll(text, ".", ""), ",", ".", 1)
	}
	if text != "" && v.layout != "" {
		t, err := time.ParseInLocation(v.layout, text, v.zone)
		if err != nil {
			return &event.FieldError{Field: f.Name, Problem: "not a date or time of the mapping's format", Limit: v.Format}
		}
		if f.Kind == event.Date {
			text = t.Format(time.DateOnly)
		} else {
			text = t.Format(time.RFC3339)
		}
	}
	return setText(row, i, text)
}

// setText is event.SetText with its error's own type.
func setText(row *event.Row, i int, text string) *event.FieldError {
	err := event.SetText(row, i, text)
	var fe *event.FieldError
	if err != nil && !errors.As(err, &fe) {
		fe = &event.FieldError{Field: row.Type.Fields[i].Name, Problem: err.Error()}
	}
	return fe
}

package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
)

func schemaDoc(t *event.Type) string { return t.Schema.(*avro.RecordSchema).Doc() }

// outcomes documents the hub's answer, which has a nested array and so no flat fields.
func outcomes(b *bytes.Buffer, c *catalogue) {
	fmt.Fprintf(b, "## %s\n\n*esiti.* %s\n\n", c.outcomes.Name(), c.outcomes.Doc())
	fmt.Fprintf(b, "Topic `%s`, key `source`. The hub writes it; bodies read those of their own source. Every event has exactly one outcome.\n\n", event.TopicOutcome)
	b.WriteString("| field | Avro type | meaning |\n|---|---|---|\n")
	outcomeRows(b, "", c.outcomes)
}

func outcomeRows(b *bytes.Buffer, prefix string, r *avro.RecordSchema) {
	for _, f := range r.Fields() {
		name := prefix + f.Name()
		s := f.Type()
		doc := f.Doc()
		if e, ok := s.(*avro.EnumSchema); ok {
			doc += " Symbols: `" + strings.Join(e.Symbols(), "`, `") + "`."
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, shortType(s), doc)
		if a, ok := s.(*avro.ArraySchema); ok {
			if inner, ok := a.Items().(*avro.RecordSchema); ok {
				outcomeRows(b, name+"[].", inner)
			}
		}
	}
}

func shortType(s avro.Schema) string {
	switch v := s.(type) {
	case *avro.UnionSchema:
		return shortType(v.Types()[1]) + " or null"
	case *avro.ArraySchema:
		if v.Items().Type() == avro.Record {
			return "array of record"
		}
		return "array of " + shortType(v.Items())
	case *avro.PrimitiveSchema:
		if l := v.Logical(); l != nil {
			return fmt.Sprintf("%s (%s)", v.Type(), l.Type())
		}
	}
	return string(s.Type())
}

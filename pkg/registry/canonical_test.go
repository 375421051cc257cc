package registry

import (
	"testing"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// The expected texts are those of Schema.toString of Avro for Java 1.11, by its source.
func TestCanonicalIsTheTextThatAvroForJavaPrints(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"primitive", ` {"type": "string"} `, `"string"`},
		{"primitive with logical type", `{"logicalType":"uuid","type":"string"}`, `{"type":"string","logicalType":"uuid"}`},
		{"nested type", `{"type":{"type":"long","logicalType":"timestamp-millis"}}`, `{"type":"long","logicalType":"timestamp-millis"}`},
		{
			"order of members", `{"fields":[{"default":null,"doc":"d","type":["null","int"],"name":"a"}],"name":"R","doc":"r","namespace":"x.y","type":"record"}`,
			`{"type":"record","name":"R","namespace":"x.y","doc":"r","fields":[{"name":"a","type":["null","int"],"doc":"d","default":null}]}`,
		},
		{"full name is split", `{"type":"fixed","name":"x.y.F","size":4}`, `{"type":"fixed","name":"F","namespace":"x.y","size":4}`},
		{
			"namespace is inherited", `{"type":"record","name":"x.A","fields":[{"name":"b","type":{"type":"enum","name":"B","namespace":"x","symbols":["U"],"default":"U"}},{"name":"c","type":"x.B"},{"name":"d","type":{"type":"map","values":"B"}}]}`,
			`{"type":"record","name":"A","namespace":"x","fields":[{"name":"b","type":{"type":"enum","name":"B","symbols":["U"],"default":"U"}},{"name":"c","type":"B"},{"name":"d","type":{"type":"map","values":"B"}}]}`,
		},
		{
			"null namespace inside another", `{"type":"record","name":"x.A","fields":[{"name":"b","type":{"type":"fixed","name":"B","namespace":"","size":1}}]}`,
			`{"type":"record","name":"A","namespace":"x","fields":[{"name":"b","type":{"type":"fixed","name":"B","namespace":"","size":1}}]}`,
		},
		{
			"order, aliases, properties", `{"type":"record","name":"A","aliases":["Old","q.Older"],"z":1,"namespace":"q","fields":[{"name":"f","order":"ascending","aliases":["g"],"type":"int","pii":true},{"name":"h","order":"ignore","type":"int","aliases":[]}]}`,
			`{"type":"record","name":"A","namespace":"q","fields":[{"name":"f","type":"int","aliases":["g"],"pii":true},{"name":"h","type":"int","order":"ignore"}],"z":1,"aliases":["Old","Older"]}`,
		},
		{"text is not escaped", `{"type":"enum","name":"E","symbols":["A"],"doc":"<é & \u00e8>"}`, `{"type":"enum","name":"E","doc":"<é & è>","symbols":["A"]}`},
		{
			"union", `[ "null" , {"type":"array","items":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}} ]`,
			`["null",{"type":"array","items":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]`,
		},
	} {
		got, err := canonical(c.in, false)
		if err != nil || got != c.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.name, got, err, c.want)
			continue
		}
		if again, err := canonical(got, false); err != nil || again != got {
			t.Errorf("%s: canonical of canonical is %s, %v", c.name, again, err)
		}
	}
}

func TestCanonicalRefusesWhatIsNoSchema(t *testing.T) {
	for _, in := range []string{``, `string`, `{"type":"record","name":"A"}`, `{"name":"A"}`, `3`, `"int" "int"`, `{"type":"array"}`, `{"type":"record","fields":[]}`} {
		if got, err := canonical(in, false); err == nil {
			t.Errorf("canonical(%s) = %s, want an error", in, got)
		}
	}
}

// The same schema, in its own text and in ours, must be one schema to every reader.
func TestCanonicalKeepsTheMeaningOfTheHubsSchemas(t *testing.T) {
	for _, typ := range event.Types {
		text, err := canonical(typ.Raw, false)
		if err != nil {
			t.Fatalf("%s: %v", typ.Name, err)
		}
		s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
		if err != nil {
			t.Fatalf("%s: %v", typ.Name, err)
		}
		if s.String() != typ.Schema.String() {
			t.Errorf("%s means something else in its canonical text", typ.Name)
		}
		normal, err := canonical(typ.Raw, true)
		if err != nil {
			t.Fatalf("%s: %v", typ.Name, err)
		}
		if back, err := canonical(normal, false); err != nil || back != text {
			t.Errorf("%s: normalized text does not lead back: %v", typ.Name, err)
		}
	}
}

func TestInlineWritesReferencesIntoASchema(t *testing.T) {
	money := `{"type":"record","name":"Money","namespace":"ref","fields":[{"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR"]}}]}`
	line := `{"type":"record","name":"Line","namespace":"ref","fields":[{"name":"price","type":"Money"}]}`
	order := `{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"c","type":"ref.Currency"},{"name":"total","type":"ref.Money"},{"name":"lines","type":{"type":"array","items":"ref.Line"}}]}`
	got, err := inline(order, []string{money, line})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"record","name":"Order","namespace":"shop","fields":[` +
		`{"name":"c","type":{"type":"enum","name":"Currency","namespace":"ref","symbols":["EUR"]}},` +
		`{"name":"total","type":{"type":"record","name":"Money","namespace":"ref","fields":[{"name":"currency","type":"Currency"}]}},` +
		`{"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","namespace":"ref","fields":[{"name":"price","type":"Money"}]}}}]}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	a, err := parseAvro(order, []string{money, line})
	if err != nil {
		t.Fatal(err)
	}
	b, err := parseAvro(got, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := incompatible(Full, a, b); d != nil {
		t.Errorf("inlined schema differs: %v", d)
	}
}

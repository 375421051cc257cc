package registry

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/welfarehub/welfarehub/schemas"
)

func TestCurrentSchemasGoTogetherWithTheReleased(t *testing.T) {
	problems, err := Check(schemas.Avro, schemas.Released)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

func TestCheckFindsWhatWouldBreak(t *testing.T) {
	record := func(fields string) string {
		return `{"type":"record","name":"E","namespace":"n","fields":[{"name":"id","type":"string"}` + fields + `]}`
	}
	for _, c := range []struct{ name, now, then, want string }{
		{"the same", record(``), record(``), ""},
		{"field with default", record(`,{"name":"x","type":["null","int"],"default":null}`), record(``), ""},
		{"more digits", record(`,{"name":"m","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2},"default":"\u0000"}`), record(`,{"name":"m","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2},"default":"\u0000"}`), ""},
		{"field without default", record(`,{"name":"x","type":"int"}`), record(``), `field "x" at path "/fields/1" in the new schema has no default`},
		{"field taken away", record(``), record(`,{"name":"x","type":"int"}`), `field "x" at path "/fields/1" in the old schema has no default`},
		{"wider type", record(`,{"name":"x","type":"long"}`), record(`,{"name":"x","type":"int"}`), `type int at path "/fields/1/type" in the old schema does not match the type long`},
		{"symbol without default", record(`,{"name":"x","type":{"type":"enum","name":"S","symbols":["A","B"]}}`), record(`,{"name":"x","type":{"type":"enum","name":"S","symbols":["A"]}}`), "missing the enum symbols B"},
		{"symbol with default", record(`,{"name":"x","type":{"type":"enum","name":"S","symbols":["A","B"],"default":"A"}}`), record(`,{"name":"x","type":{"type":"enum","name":"S","symbols":["A"],"default":"A"}}`), ""},
		{"renamed", strings.Replace(record(``), `"E"`, `"F"`, 1), record(``), "name n.F"},
		{"scale", record(`,{"name":"m","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":3}}`), record(`,{"name":"m","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}`), "field m is a decimal of scale 3, and was a decimal of scale 2"},
		{"unit of time, in a union", record(`,{"name":"t","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null}`), record(`,{"name":"t","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null}`), "field t is a timestamp-micros"},
		{"logical type taken away", record(`,{"name":"t","type":{"type":"array","items":"int"}}`), record(`,{"name":"t","type":{"type":"array","items":{"type":"int","logicalType":"date"}}}`), "field t is a plain int, and was a date"},
		{"union branch", record(`,{"name":"x","type":["null","int","string"],"default":null}`), record(`,{"name":"x","type":["null","int"],"default":null}`), "missing a type of the new schema: string"},
		{"not a schema", `{`, record(``), "not a valid schema"},
	} {
		file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
		problems, err := Check(fstest.MapFS{"avro/E.avsc": file(c.now)}, fstest.MapFS{"released/E/v1.avsc": file(c.then)})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := fmt.Sprint(problems)
		if c.want == "" && len(problems) > 0 || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s, want %q", c.name, got, c.want)
		}
	}
}

func TestCheckLooksAtAllReleasedVersionsAndEvents(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	problems, err := Check(
		fstest.MapFS{"avro/A.avsc": file(`"int"`), "avro/New.avsc": file(`"int"`)},
		fstest.MapFS{"released/A/v10.avsc": file(`"string"`), "released/A/v2.avsc": file(`"int"`), "released/A/v1.avsc": file(`"long"`), "released/Gone/v1.avsc": file(`"int"`)},
	)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.Event+" "+p.Version)
	}
	if s := fmt.Sprint(got); s != "[A v1 A v10 A v10 New  Gone ]" {
		t.Errorf("got %s: %v", s, problems)
	}
}

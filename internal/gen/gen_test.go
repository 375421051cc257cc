package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	"go.yaml.in/yaml/v3"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// TestGeneratedFilesAreCurrent fails where a schema, a note or a generator changed and the files that
// follow from them were not written again.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
		if err != nil {
			t.Errorf("%s: %v; run: %s", name, err, command)
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what schemas/avro say, from line %d on; run: %s", name, firstDifference(got, want), command)
		}
	}
}

func firstDifference(a, b []byte) int {
	la, lb := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	for i := range la {
		if i >= len(lb) || !bytes.Equal(la[i], lb[i]) {
			return i + 1
		}
	}
	return len(la) + 1
}

// node is a value of a YAML document with the path to it, for checks that say where.
type node struct {
	t    *testing.T
	path string
	v    any
}

func (n node) at(key string) node {
	n.t.Helper()
	m, ok := n.v.(map[string]any)
	if !ok {
		n.t.Fatalf("%s is a %T, not a map", n.path, n.v)
	}
	v, ok := m[key]
	if !ok {
		n.t.Fatalf("%s has no %q", n.path, key)
	}
	return node{n.t, n.path + "/" + key, v}
}

func (n node) keys() []string {
	var out []string
	for k := range n.v.(map[string]any) {
		out = append(out, k)
	}
	return out
}

func (n node) str() string {
	n.t.Helper()
	s, ok := n.v.(string)
	if !ok || s == "" {
		n.t.Fatalf("%s is %T, not a text", n.path, n.v)
	}
	return s
}

// resolve follows a local reference.
func (n node) resolve(root node) node {
	n.t.Helper()
	ref := n.at("$ref").str()
	rest, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		n.t.Fatalf("%s: reference %s is not local", n.path, ref)
	}
	out := root
	for p := range strings.SplitSeq(rest, "/") {
		out = out.at(p)
	}
	return out
}

// TestAsyncAPIDocumentIsWhole checks the structure that AsyncAPI 3.0 demands, that every reference
// leads somewhere, and that each payload is the schema of the catalogue.
func TestAsyncAPIDocumentIsWhole(t *testing.T) {
	cat, err := load()
	if err != nil {
		t.Fatal(err)
	}
	text, err := asyncAPI(cat)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	root := node{t, "#", v}
	if got := root.at("asyncapi").str(); got != "3.0.0" {
		t.Fatalf("asyncapi is %s", got)
	}
	root.at("info").at("title").str()
	root.at("info").at("version").str()
	for _, s := range root.at("servers").keys() {
		root.at("servers").at(s).at("host").str()
		root.at("servers").at(s).at("protocol").str()
	}
	everyReference(root, root)

	channels, messages := root.at("channels"), root.at("components").at("messages")
	if got, want := len(channels.keys()), len(event.Types)+2; got != want {
		t.Errorf("%d channels, want %d", got, want)
	}
	used := map[string]bool{}
	for _, name := range root.at("operations").keys() {
		op := root.at("operations").at(name)
		if a := op.at("action").str(); a != "send" && a != "receive" {
			t.Errorf("operation %s has action %s", name, a)
		}
		used[op.at("channel").at("$ref").str()] = true
		ch := op.at("channel").resolve(root)
		for i, m := range op.at("messages").v.([]any) {
			ref := node{t, fmt.Sprintf("%s/messages/%d", op.path, i), m}
			if !strings.HasPrefix(ref.at("$ref").str(), ch.path+"/messages/") {
				t.Errorf("%s: a message that is not of its channel", ref.path)
			}
		}
	}
	for _, name := range channels.keys() {
		if !used["#/channels/"+name] {
			t.Errorf("channel %s has no operation", name)
		}
	}
	for _, e := range event.Types {
		ch := channels.at(e.Name)
		if ch.at("address").str() != e.Topic || ch.at("bindings").at("kafka").at("topic").str() != e.Topic {
			t.Errorf("channel %s is not on topic %s", e.Name, e.Topic)
		}
		m := ch.at("messages").at(e.Name).resolve(root)
		if m.path != messages.at(e.Name).path {
			t.Errorf("channel %s carries %s", e.Name, m.path)
		}
		m.at("bindings").at("kafka").at("key").at("type").str()
		checkPayload(m.at("payload").resolve(root), e.Schema)
	}
	checkPayload(messages.at(cat.outcomes.Name()).at("payload").resolve(root), cat.outcomes)
}

func everyReference(n, root node) {
	n.t.Helper()
	switch v := n.v.(type) {
	case map[string]any:
		if _, ok := v["$ref"]; ok {
			n.resolve(root)
			return
		}
		for k := range v {
			everyReference(n.at(k), root)
		}
	case []any:
		for i, e := range v {
			everyReference(node{n.t, fmt.Sprintf("%s/%d", n.path, i), e}, root)
		}
	}
}

func checkPayload(n node, want avro.Schema) {
	n.t.Helper()
	if f := n.at("schemaFormat").str(); f != "application/vnd.apache.avro;version=1.9.0" {
		n.t.Errorf("%s has format %s", n.path, f)
	}
	text, err := jsonText(n.at("schema").v)
	if err != nil {
		n.t.Fatalf("%s: %v", n.path, err)
	}
	got, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err != nil {
		n.t.Fatalf("%s: %v", n.path, err)
	}
	if got.Fingerprint() != want.Fingerprint() {
		n.t.Errorf("%s is not the schema of the catalogue", n.path)
	}
}

func TestEventsDocumentNamesEveryField(t *testing.T) {
	cat, err := load()
	if err != nil {
		t.Fatal(err)
	}
	text, err := markdown(cat)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range event.Types {
		_, section, ok := strings.Cut(string(text), "\n## "+e.Name+"\n")
		if !ok {
			t.Errorf("no section on %s", e.Name)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		if !strings.Contains(section, "- A record of its own: ") || !strings.Contains(section, notes[e.Name].italian) {
			t.Errorf("%s: no Italian name, or no word on records", e.Name)
		}
		for _, i := range part(e, "") {
			f := &e.Fields[i]
			if !strings.Contains(section, "| `"+f.Name+"` | "+avroType(f)+" | `"+f.Column+"` | "+clickhouseType(f)+" |") {
				t.Errorf("%s: no row on %s", e.Name, f.Name)
			}
		}
	}
}

// TestDocumentedColumnsAreThoseOfTheTables compares the types of docs/events.md with those of the
// public views.
func TestDocumentedColumnsAreThoseOfTheTables(t *testing.T) {
	detail := regexp.MustCompile(`LowCardinality\((.*)\)|(Enum8)\(.*?\)`)
	for _, e := range event.Types {
		for i := range e.Fields {
			f := &e.Fields[i]
			if got, want := clickhouseType(f), detail.ReplaceAllString(clickhouse.PublicType(*f), "$1$2"); got != want {
				t.Errorf("%s.%s is documented as %s, the view has %s", e.Name, f.Name, got, want)
			}
		}
	}
}

func TestGoNames(t *testing.T) {
	for in, want := range map[string]string{"requestId": "RequestID", "eventId": "EventID", "lat": "Lat", "inpsCode": "InpsCode", "ageMin": "AgeMin"} {
		if got := goName(in); got != want {
			t.Errorf("goName(%s) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"NON_EU": "NonEu", "M": "M", "ISEE_0": "Isee0", "ART17_REQUEST": "Art17Request"} {
		if got := symbolName(in); got != want {
			t.Errorf("symbolName(%s) = %s, want %s", in, got, want)
		}
	}
}

func jsonText(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

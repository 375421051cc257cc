package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

const (
	userV1 = `{"type":"record","name":"User","namespace":"t","fields":[{"name":"id","type":"int"}]}`
	userV2 = `{"type":"record","name":"User","namespace":"t","fields":[{"name":"id","type":"int"},{"name":"note","type":["null","string"],"default":null}]}`
	userV3 = `{"type":"record","name":"User","namespace":"t","fields":[{"name":"id","type":"int"},{"name":"age","type":"int"}]}` // no default
	other  = `{"type":"record","name":"Other","fields":[{"name":"u","type":"string"}]}`
	spaced = `{ "fields" : [ {"type":{"type":"int"},"name":"id"} ], "namespace":"t", "name":"User", "type":"record" }`
)

// step is a request with the answer that it must get. want is JSON; a want that starts with ~ is a text
// that the body contains.
type step struct {
	method, path, body string
	status             int
	want               string
}

func errorBody(code int, message string) string {
	return string(marshal(map[string]any{"error_code": code, "message": message}))
}

func run(t *testing.T, h http.Handler, steps []step) {
	t.Helper()
	for i, s := range steps {
		status, body := ask(t, h, s.method, s.path, s.body)
		ok := status == s.status
		if text, contains := strings.CutPrefix(s.want, "~"); contains {
			ok = ok && strings.Contains(body, text)
		} else {
			var got, want any
			if err := json.Unmarshal([]byte(s.want), &want); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			_ = json.Unmarshal([]byte(body), &got)
			ok = ok && reflect.DeepEqual(got, want)
		}
		if !ok {
			t.Errorf("step %d: %s %s %s\n got %d %s\nwant %d %s", i, s.method, s.path, s.body, status, body, s.status, s.want)
		}
	}
}

func versionJSON(subject string, version, id int, schema string) string {
	return string(marshal(versionAnswer{Subject: subject, Version: version, ID: id, Schema: schema}))
}

func TestRegisterAndRead(t *testing.T) {
	h := testServer(t, newMemoryLog()).Handler()
	run(t, h, []step{
		{"GET", "/", "", 200, `{}`},
		{"GET", "/schemas/types", "", 200, `["AVRO"]`},
		{"GET", "/contexts", "", 200, `["."]`},
		{"GET", "/v1/metadata/id", "", 200, `~"clusters"`},
		{"GET", "/subjects", "", 200, `[]`},
		{"POST", "/subjects/a-value/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"POST", "/subjects/a-value/versions", schemaBody(spaced), 200, `{"id":1}`},
		{"POST", "/subjects/a-value/versions?normalize=true", schemaBody(spaced), 200, `{"id":1}`},
		{"POST", "/subjects/b-value/versions", schemaBody(other), 200, `{"id":2}`},
		{"POST", "/subjects/c-value/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"POST", "/subjects/a-value/versions", schemaBody(userV2), 200, `{"id":3}`},
		{"GET", "/subjects", "", 200, `["a-value","b-value","c-value"]`},
		{"GET", "/subjects/", "", 200, `["a-value","b-value","c-value"]`},
		{"GET", "/subjects?subjectPrefix=b", "", 200, `["b-value"]`},
		{"GET", "/subjects?offset=1&limit=1", "", 200, `["b-value"]`},
		{"GET", "/subjects/a-value/versions", "", 200, `[1,2]`},
		{"GET", "/subjects/a-value/versions/1", "", 200, versionJSON("a-value", 1, 1, userV1)},
		{"GET", "/subjects/:.:a-value/versions/1", "", 200, versionJSON("a-value", 1, 1, userV1)},
		{"GET", "/subjects/a-value/versions/latest", "", 200, versionJSON("a-value", 2, 3, userV2)},
		{"GET", "/subjects/a-value/versions/-1", "", 200, versionJSON("a-value", 2, 3, userV2)},
		{"GET", "/subjects/a-value/versions/2/schema", "", 200, userV2},
		{"GET", "/subjects/a-value/versions/2/referencedby", "", 200, `[]`},
		{"GET", "/schemas/ids/1", "", 200, string(marshal(map[string]string{"schema": userV1}))},
		{"GET", "/schemas/ids/1?fetchMaxId=true", "", 200, `~"maxId":3`},
		{"GET", "/schemas/ids/1/schema", "", 200, userV1},
		{"GET", "/schemas/ids/1/subjects", "", 200, `["a-value","c-value"]`},
		{"GET", "/schemas/ids/1/versions", "", 200, `[{"subject":"a-value","version":1},{"subject":"c-value","version":1}]`},
		{"GET", "/schemas?latestOnly=true&subjectPrefix=a", "", 200, "[" + versionJSON("a-value", 2, 3, userV2) + "]"},
		{"POST", "/subjects/a-value", schemaBody(spaced), 200, versionJSON("a-value", 1, 1, userV1)},
	})
}

func TestErrorsAreConfluents(t *testing.T) {
	h := testServer(t, newMemoryLog()).Handler()
	run(t, h, []step{
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"GET", "/subjects/none/versions", "", 404, errorBody(40401, "Subject 'none' not found.")},
		{"GET", "/subjects/none/versions/1", "", 404, errorBody(40401, "Subject 'none' not found.")},
		{"DELETE", "/subjects/none", "", 404, errorBody(40401, "Subject 'none' not found.")},
		{"DELETE", "/subjects/none/versions/1", "", 404, errorBody(40401, "Subject 'none' not found.")},
		{"POST", "/subjects/none", schemaBody(userV1), 404, errorBody(40401, "Subject 'none' not found.")},
		{"GET", "/subjects/a/versions/7", "", 404, errorBody(40402, "Version 7 not found.")},
		{"DELETE", "/subjects/a/versions/7", "", 404, errorBody(40402, "Version 7 not found.")},
		{"GET", "/schemas/ids/9", "", 404, errorBody(40403, "Schema 9 not found")},
		{"GET", "/schemas/ids/9/subjects", "", 404, errorBody(40403, "Schema 9 not found")},
		{"POST", "/subjects/a", schemaBody(other), 404, errorBody(40403, "Schema not found")},
		{"DELETE", "/subjects/a?permanent=true", "", 404, errorBody(40405, "Subject 'a' was not deleted first before being permanently deleted")},
		{"DELETE", "/subjects/a/versions/1?permanent=true", "", 404, errorBody(40407, "Subject 'a' Version 1 was not deleted first before being permanently deleted")},
		{"GET", "/config/a", "", 404, errorBody(40408, "Subject 'a' does not have subject-level compatibility configured")},
		{"GET", "/mode/a", "", 404, errorBody(40409, "Subject 'a' does not have subject-level mode configured")},
		{"DELETE", "/config/a", "", 404, errorBody(40401, "Subject 'a' not found.")},
		{"DELETE", "/mode/a", "", 404, errorBody(40401, "Subject 'a' not found.")},
		{"POST", "/subjects/a/versions", schemaBody(`{"type":"record","name":"X","fields":[{"name":"a","type":"nothing"}]}`), 422, `~"error_code":42201`},
		{"POST", "/subjects/a/versions", schemaBody(`{"type":"record","name":"X","fields":[{"name":"a","type":"int","default":"x"}]}`), 422, `~"error_code":42201`},
		{"POST", "/subjects/a/versions", schemaBody(`{not json`), 422, `~"error_code":42201`},
		{"POST", "/subjects/a/versions", schemaBody(` `), 422, errorBody(42201, "Empty schema")},
		{"POST", "/subjects/a/versions", `{}`, 422, errorBody(42201, "Empty schema")},
		{"POST", "/subjects/a/versions", `{"schema":"\"int\"","schemaType":"PROTOBUF"}`, 422, `~"error_code":42201`},
		{"POST", "/subjects/a/versions", `{"schema":"\"int\"","metadata":{"properties":{}}}`, 422, `~"error_code":42201`},
		{"POST", "/subjects/a/versions", `{"schema":"\"int\"","references":[{"name":"x","subject":"gone","version":1}]}`, 422, `~No schema reference found`},
		{"GET", "/subjects/a/versions/0", "", 422, `~"error_code":42202`},
		{"GET", "/subjects/a/versions/first", "", 422, `~"error_code":42202`},
		{"GET", "/subjects/a/versions/2147483648", "", 422, `~"error_code":42202`},
		{"PUT", "/config", `{"compatibility":"SOME"}`, 422, `~"error_code":42203`},
		{"PUT", "/config/a", `{}`, 422, `~"error_code":42203`},
		{"PUT", "/mode", `{"mode":"SLOW"}`, 422, `~"error_code":42204`},
		{"PUT", "/mode/a", `{"mode":"READONLY_OVERRIDE"}`, 422, `~"error_code":42204`},
		{"PUT", "/mode/a", `{"mode":"IMPORT"}`, 422, errorBody(42205, "Cannot import since found existing subjects")},
		{"POST", "/subjects/a/versions", `{"schema":"\"int\"","id":77}`, 422, errorBody(42205, "Subject a is not in import mode")},
		{"POST", "/subjects/__GLOBAL/versions", schemaBody(userV1), 422, `~"error_code":42208`},
		{"POST", "/subjects/x%0ay/versions", schemaBody(userV1), 422, `~"error_code":42208`},
		{"POST", "/subjects/a/versions", `{"schema":3}`, 400, `~"error_code":400`},
		{"POST", "/subjects/a/versions", `{"schema":`, 400, `~"error_code":400`},
		{"GET", "/nothing", "", 404, errorBody(404, "HTTP 404 Not Found")},
		{"GET", "/schemas/ids/x", "", 404, errorBody(404, "HTTP 404 Not Found")},
		{"PUT", "/subjects", "", 405, errorBody(405, "HTTP 405 Method Not Allowed")},
	})
}

func TestCompatibility(t *testing.T) {
	h := testServer(t, newMemoryLog()).Handler()
	const test = "/compatibility/subjects/a/versions"
	missing := `The field \"age\" at path \"/fields/1\" in the new schema has no default value and is missing in the old schema`
	run(t, h, []step{
		{"GET", "/config", "", 200, `{"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"GET", "/config/a?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"POST", test + "/latest", schemaBody(userV1), 200, `{"is_compatible":true}`},
		{"POST", test, schemaBody(userV1), 200, `{"is_compatible":true}`},
		{"POST", test + "/1", schemaBody(userV1), 404, `~40401`},
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"POST", test + "/2", schemaBody(userV1), 404, `~40402`},
		{"POST", test + "/latest", schemaBody(userV2), 200, `{"is_compatible":true}`},
		{"POST", test + "/latest", schemaBody(userV3), 200, `{"is_compatible":false}`},
		{"POST", test + "/1?verbose=true", schemaBody(userV3), 200, `~` + missing},
		{"POST", test + "?verbose=true", schemaBody(userV3), 200, `~{oldSchemaVersion: 1}`},
		{"POST", "/subjects/a/versions", schemaBody(userV3), 409, `~` + missing},
		{"POST", "/subjects/a/versions", schemaBody(userV3), 409, `~"error_code":409`},
		// a writer may add the field when only old readers count
		{"PUT", "/config/a", `{"compatibility":"forward"}`, 200, `{"compatibility":"FORWARD"}`},
		{"GET", "/config/a", "", 200, `{"compatibilityLevel":"FORWARD"}`},
		{"POST", "/subjects/a/versions", schemaBody(userV3), 200, `{"id":2}`},
		{"PUT", "/config/a", `{"compatibility":"BACKWARD"}`, 200, `{"compatibility":"BACKWARD"}`},
		{"POST", "/subjects/a/versions", schemaBody(strings.Replace(userV1, `"int"`, `"long"`, 1)), 200, `{"id":3}`},
		{
			"POST", "/subjects/a/versions", schemaBody(strings.Replace(userV1, `"int"`, `"string"`, 1)), 409,
			`~The type string at path \"/fields/0/type\" in the new schema does not match the type long in the old schema`,
		},
		{"PUT", "/config/a", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`},
		{"POST", "/subjects/a/versions", schemaBody(`"int"`), 200, `{"id":4}`},
		{"DELETE", "/config/a", "", 200, `{"compatibilityLevel":"NONE"}`},
		{"GET", "/config/a", "", 404, `~40408`},
		{"PUT", "/config", `{"compatibility":"BACKWARD"}`, 200, `{"compatibility":"BACKWARD"}`},
		{"GET", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`},
		{"POST", test, schemaBody(userV3), 200, `{"is_compatible":false}`},
		{"DELETE", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`},
		{"GET", "/config", "", 200, `{"compatibilityLevel":"FULL_TRANSITIVE"}`},
	})
}

// A field that comes, goes and comes back with another type is compatible step by step only.
func TestTransitiveLevelsLookAtAllVersions(t *testing.T) {
	field := func(typ, def string) string {
		return fmt.Sprintf(`{"type":"record","name":"R","fields":[{"name":"k","type":"int"},{"name":"f","type":%s,"default":%s}]}`, typ, def)
	}
	without := `{"type":"record","name":"R","fields":[{"name":"k","type":"int"}]}`
	for level, status := range map[Level]int{Backward: 200, Forward: 200, Full: 200, None: 200, BackwardTransitive: 409, ForwardTransitive: 409, FullTransitive: 409} {
		h := testServer(t, newMemoryLog()).Handler()
		run(t, h, []step{
			{"PUT", "/config", `{"compatibility":"` + string(level) + `"}`, 200, `~` + string(level)},
			{"POST", "/subjects/a/versions", schemaBody(field(`"string"`, `""`)), 200, `{"id":1}`},
			{"POST", "/subjects/a/versions", schemaBody(without), 200, `{"id":2}`},
			{"POST", "/subjects/a/versions", schemaBody(field(`"int"`, `0`)), status, `~`},
		})
	}
}

func TestDeletion(t *testing.T) {
	l := newMemoryLog()
	h := testServer(t, l).Handler()
	steps := []step{
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"POST", "/subjects/a/versions", schemaBody(userV2), 200, `{"id":2}`},
		{"PUT", "/config/a", `{"compatibility":"NONE"}`, 200, `~NONE`},
		{"DELETE", "/subjects/a/versions/1", "", 200, `1`},
		{"DELETE", "/subjects/a/versions/1", "", 404, errorBody(40406, "Subject 'a' Version 1 was soft deleted.Set permanent=true to delete permanently")},
		{"GET", "/subjects/a/versions", "", 200, `[2]`},
		{"GET", "/subjects/a/versions?deleted=true", "", 200, `[1,2]`},
		{"GET", "/subjects/a/versions?deletedOnly=true", "", 200, `[1]`},
		{"GET", "/subjects/a/versions/1", "", 404, `~40402`},
		{"GET", "/subjects/a/versions/1?deleted=true", "", 200, versionJSON("a", 1, 1, userV1)},
		{"GET", "/schemas/ids/1", "", 200, `~schema`},
		{"GET", "/schemas/ids/1/versions", "", 200, `[]`},
		{"GET", "/schemas/ids/1/versions?deleted=true", "", 200, `[{"subject":"a","version":1}]`},
		{"POST", "/subjects/a", schemaBody(userV1), 404, `~40403`},
		{"POST", "/subjects/a?deleted=true", schemaBody(userV1), 200, versionJSON("a", 1, 1, userV1)},
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`}, // a new version of the same id
		{"GET", "/subjects/a/versions", "", 200, `[2,3]`},
		{"DELETE", "/subjects/a/versions/1?permanent=true", "", 200, `1`},
		{"GET", "/subjects/a/versions?deleted=true", "", 200, `[2,3]`},
		{"DELETE", "/subjects/a/versions/latest", "", 200, `3`},
		{"DELETE", "/subjects/a", "", 200, `[2]`},
		{"DELETE", "/subjects/a", "", 404, errorBody(40404, "Subject 'a' was soft deleted.Set permanent=true to delete permanently")},
		{"GET", "/config/a", "", 404, `~40408`},
		{"GET", "/subjects", "", 200, `[]`},
		{"GET", "/subjects?deleted=true", "", 200, `["a"]`},
		{"GET", "/subjects?deletedOnly=true", "", 200, `["a"]`},
		{"GET", "/subjects/a/versions", "", 404, `~40401`},
		{"DELETE", "/subjects/a?permanent=true", "", 200, `[2,3]`},
		{"GET", "/subjects?deleted=true", "", 200, `[]`},
		{"GET", "/schemas/ids/2", "", 404, `~40403`},
	}
	run(t, h, steps)
	// Ids are never given twice, also when compaction has dropped every trace of their schemas.
	again := testServer(t, l.compacted()).Handler()
	for _, h := range []http.Handler{again, h} {
		run(t, h, []step{
			{"POST", "/subjects/a/versions", schemaBody(userV2), 200, `{"id":3}`},
			{"GET", "/subjects/a/versions", "", 200, `[1]`},
		})
	}
}

func TestModes(t *testing.T) {
	h := testServer(t, newMemoryLog()).Handler()
	run(t, h, []step{
		{"GET", "/mode", "", 200, `{"mode":"READWRITE"}`},
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"PUT", "/mode/a", `{"mode":"readonly"}`, 200, `{"mode":"READONLY"}`},
		{"GET", "/mode/a", "", 200, `{"mode":"READONLY"}`},
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`}, // it is there already
		{"POST", "/subjects/a/versions", schemaBody(userV2), 422, errorBody(42205, "Subject a is in read-only mode")},
		{"DELETE", "/subjects/a", "", 422, `~42205`},
		{"DELETE", "/subjects/a/versions/1", "", 422, `~42205`},
		{"PUT", "/config/a", `{"compatibility":"NONE"}`, 422, `~42205`},
		{"DELETE", "/mode/a", "", 200, `{"mode":"READONLY"}`},
		{"GET", "/mode/a?defaultToGlobal=true", "", 200, `{"mode":"READWRITE"}`},
		{"PUT", "/mode", `{"mode":"READONLY_OVERRIDE"}`, 200, `{"mode":"READONLY_OVERRIDE"}`},
		{"PUT", "/mode/b", `{"mode":"READWRITE"}`, 200, `{"mode":"READWRITE"}`},
		{"POST", "/subjects/b/versions", schemaBody(userV1), 422, `~42205`},
		{"PUT", "/mode", `{"mode":"READWRITE"}`, 200, `{"mode":"READWRITE"}`},
		{"PUT", "/mode", `{"mode":"IMPORT"}`, 422, `~42205`},
		{"PUT", "/mode/m", `{"mode":"IMPORT"}`, 200, `{"mode":"IMPORT"}`},
		{"POST", "/subjects/m/versions", schemaBody(other), 422, errorBody(42205, "Subject m is not in read-write mode")},
		{"POST", "/subjects/m/versions", `{"schema":"\"long\"","id":1}`, 422, errorBody(42205, "Overwrite new schema with id 1 is not permitted.")},
		{"POST", "/subjects/m/versions", `{"schema":"\"long\"","id":40,"version":5}`, 200, `{"id":40}`},
		{"POST", "/subjects/m/versions", `{"schema":"\"int\"","id":39,"version":4}`, 200, `{"id":39}`},
		{"POST", "/subjects/m/versions", `{"schema":"\"bytes\"","id":38,"version":4}`, 422, `~42205`},
		{"GET", "/subjects/m/versions", "", 200, `[4,5]`},
		{"POST", "/subjects/c/versions", schemaBody(`"float"`), 200, `{"id":41}`},
		{"PUT", "/mode?force=True", `{"mode":"IMPORT"}`, 200, `{"mode":"IMPORT"}`},
		{"DELETE", "/mode", "", 200, `{"mode":"IMPORT"}`},
		{"GET", "/mode", "", 200, `{"mode":"READWRITE"}`},
	})
}

func TestReferences(t *testing.T) {
	h := testServer(t, newMemoryLog()).Handler()
	order := `{"type":"record","name":"Order","namespace":"t","fields":[{"name":"by","type":"t.User"}]}`
	stored := `{"type":"record","name":"Order","namespace":"t","fields":[{"name":"by","type":"User"}]}`
	spelled := `{"type":"record","name":"Order","namespace":"t","fields":[{"name":"by","type":` + strings.Replace(userV1, `,"namespace":"t"`, "", 1) + `}]}`
	with := func(schema string, version int) string {
		return string(marshal(request{Schema: schema, References: []Reference{{"t.User", "user", version}}}))
	}
	run(t, h, []step{
		{"POST", "/subjects/order/versions", schemaBody(order), 422, `~42201`},
		{"POST", "/subjects/user/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"POST", "/subjects/order/versions", with(order, 2), 422, `~42201`},
		{"POST", "/subjects/order/versions", with(order, -1), 200, `{"id":2}`},
		{"POST", "/subjects/order/versions", with(order, 1), 200, `{"id":2}`},
		{"POST", "/subjects/order/versions", schemaBody(spelled), 200, `{"id":2}`},
		{"GET", "/subjects/order/versions/1", "", 200, string(marshal(versionAnswer{"order", 1, 2, "", []Reference{{"t.User", "user", 1}}, stored}))},
		{"GET", "/schemas/ids/2", "", 200, string(marshal(schemaAnswer{References: []Reference{{"t.User", "user", 1}}, Schema: stored}))},
		{"GET", "/schemas/ids/2?format=resolved", "", 200, string(marshal(schemaAnswer{Schema: spelled}))},
		{"POST", "/subjects/order", with(order, 1), 200, `~"id":2`},
		{"POST", "/subjects/order", schemaBody(spelled), 200, `~"id":2`},
		{"GET", "/subjects/user/versions/1/referencedby", "", 200, `[2]`},
		{"DELETE", "/subjects/user", "", 422, errorBody(42206, "One or more references exist to the schema {magic=1,keytype=SCHEMA,subject=user,version=1}.")},
		{"DELETE", "/subjects/user/versions/1", "", 422, `~42206`},
		{"POST", "/subjects/user/versions", schemaBody(userV2), 200, `{"id":3}`},
		{"POST", "/subjects/order/versions", with(order, 2), 200, `{"id":4}`}, // another version of the reference is another schema
		{"PUT", "/config/user", `{"compatibility":"NONE"}`, 200, `~NONE`},
		{"POST", "/subjects/user/versions", schemaBody(strings.Replace(userV3, `"int"}]`, `"string"}]`, 1)), 200, `{"id":5}`},
		{"POST", "/subjects/order/versions", with(order, 3), 409, `~/fields/0/type/fields/1`},
		{"DELETE", "/subjects/order", "", 200, `[1,2]`},
		{"DELETE", "/subjects/user/versions/1", "", 200, `1`},
		{"GET", "/schemas/ids/2?format=resolved", "", 200, `~\"name\":\"id\"`}, // softly deleted schemas still serve old data
	})
}

func TestContentTypes(t *testing.T) {
	h := testServer(t, newMemoryLog()).Handler()
	for _, c := range []struct {
		accept, contentType string
		status              int
		answer              string
	}{
		{"", "", 200, typeV1},
		{"*/*", typeV1, 200, typeV1},
		{"application/json", "application/json; charset=utf-8", 200, typeJSON},
		{"application/vnd.schemaregistry.v1+json, application/vnd.schemaregistry+json, application/json", typeDefault, 200, typeV1},
		{"text/html, application/vnd.schemaregistry+json;q=0.9", typeJSON, 200, typeDefault},
		{"text/html", typeJSON, 406, typeV1},
		{"", "application/octet-stream", 200, typeV1},
		{"", "text/plain", 415, typeV1},
		{"", ";;", 415, typeV1},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/subjects/a/versions", strings.NewReader(schemaBody(userV1)))
		r.Header.Set("Accept", c.accept)
		r.Header.Set("Content-Type", c.contentType)
		h.ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get("Content-Type") != c.answer {
			t.Errorf("Accept %q, Content-Type %q: got %d %s, want %d %s", c.accept, c.contentType, w.Code, w.Header().Get("Content-Type"), c.status, c.answer)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	s, err := newServer(t.Context(), newMemoryLog(), Options{MaxBodyBytes: 300})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	deep := strings.Repeat(`{"type":"array","items":`, 250) + `"int"` + strings.Repeat(`}`, 250)
	run(t, s.Handler(), []step{
		{"POST", "/subjects/a/versions", schemaBody(strings.Repeat(" ", 300) + `"int"`), 413, `~"error_code":413`},
		{"POST", "/subjects/a/versions", schemaBody(`"int"`), 200, `{"id":1}`},
	})
	run(t, testServer(t, newMemoryLog()).Handler(), []step{{"POST", "/subjects/a/versions", schemaBody(deep), 422, `~nested too deeply`}})
}

// FuzzRegister sends arbitrary bodies to every route that takes one. Run it longer with
// go test -fuzz FuzzRegister ./pkg/registry.
func FuzzRegister(f *testing.F) {
	for _, s := range []string{userV1, userV2, userV3, other, spaced, `"int"`, `["null","int"]`, `{"type":"enum","name":"E","symbols":[]}`, `{"type":"fixed","name":"F","size":-1}`} {
		f.Add(schemaBody(s))
	}
	for _, s := range []string{``, `{}`, `[]`, `null`, `{"compatibility":"FULL"}`, `{"mode":"IMPORT"}`, `{"schema":"\"int\"","id":3,"version":2}`, `{"schema":"\"R\"","references":[{"name":"R","subject":"s","version":-1}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		l := newMemoryLog()
		s := testServer(t, l)
		h := s.Handler()
		for _, r := range [][2]string{
			{"POST", "/subjects/s/versions"},
			{"POST", "/subjects/s/versions?normalize=true"},
			{"POST", "/subjects/s"},
			{"POST", "/compatibility/subjects/s/versions?verbose=true"},
			{"PUT", "/config/s"},
			{"PUT", "/mode/s"},
			{"POST", "/subjects/s/versions"},
		} {
			status, answer := ask(t, h, r[0], r[1], body)
			if status >= 500 || !json.Valid([]byte(answer)) {
				t.Fatalf("%s %s: %d %s", r[0], r[1], status, answer)
			}
		}
		same(t, s, testServer(t, l.compacted()))
	})
}

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// same fails unless two servers would give the same answers for ever: all but the order of equal ids.
func same(t testing.TB, a, b *Server) {
	t.Helper()
	if x, y := dump(a), dump(b); x != y {
		t.Fatalf("servers differ:\n%s\n%s", x, y)
	}
}

func dump(s *Server) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	subjects := map[string][]schemaValue{}
	for name, vs := range s.state.subjects {
		for _, v := range vs {
			var out schemaValue
			_ = json.Unmarshal(v.record(v.deleted).value, &out)
			subjects[name] = append(subjects[name], out)
		}
	}
	return string(marshal(map[string]any{"levels": s.state.levels, "modes": s.state.modes, "subjects": subjects, "max": s.state.maxID, "ids": len(s.state.byID), "texts": len(s.state.byText)}))
}

// A real registry reads these bytes: they are its own format, member by member.
func TestRecordsAreConfluents(t *testing.T) {
	l := newMemoryLog()
	h := testServer(t, l).Handler()
	run(t, h, []step{
		{"POST", "/subjects/a/versions", schemaBody(`"int"`), 200, `{"id":1}`},
		{"POST", "/subjects/b/versions", string(marshal(request{Schema: `"long"`, References: []Reference{{"x", "a", 1}}})), 200, `{"id":2}`},
		{"PUT", "/config/a", `{"compatibility":"NONE"}`, 200, `~`},
		{"PUT", "/mode/a", `{"mode":"READWRITE"}`, 200, `~`},
		{"PUT", "/mode", `{"mode":"READWRITE"}`, 200, `~`},
		{"DELETE", "/subjects/b/versions/1", "", 200, `1`},
		{"DELETE", "/subjects/b/versions/1?permanent=true", "", 200, `1`},
		{"DELETE", "/subjects/a", "", 200, `[1]`},
	})
	want := []string{
		`{"keytype":"CONFIG","subject":null,"magic":0} {"compatibilityLevel":"FULL_TRANSITIVE"}`,
		`{"keytype":"SCHEMA","subject":"a","version":1,"magic":1} {"subject":"a","version":1,"id":1,"schema":"\"int\"","deleted":false}`,
		`{"keytype":"SCHEMA","subject":"b","version":1,"magic":1} {"subject":"b","version":1,"id":2,"references":[{"name":"x","subject":"a","version":1}],"schema":"\"long\"","deleted":false}`,
		`{"keytype":"CONFIG","subject":"a","magic":0} {"compatibilityLevel":"NONE"}`,
		`{"keytype":"MODE","subject":"a","magic":0} {"mode":"READWRITE"}`,
		`{"keytype":"MODE","subject":null,"magic":0} {"mode":"READWRITE"}`,
		`{"keytype":"SCHEMA","subject":"b","version":1,"magic":1} {"subject":"b","version":1,"id":2,"references":[{"name":"x","subject":"a","version":1}],"schema":"\"long\"","deleted":true}`,
		`{"keytype":"NOOP","magic":0} {"maxId":2}`,
		`{"keytype":"SCHEMA","subject":"b","version":1,"magic":1} null`,
		`{"keytype":"DELETE_SUBJECT","subject":"a","magic":0} {"subject":"a","version":1}`,
		`{"keytype":"CONFIG","subject":"a","magic":0} null`,
		`{"keytype":"MODE","subject":"a","magic":0} null`,
	}
	for i, r := range l.recs {
		value := "null"
		if r.value != nil {
			value = string(r.value)
		}
		if got := string(r.key) + " " + value; i >= len(want) || got != want[i] {
			t.Errorf("record %d is\n%s, want\n%s", i, got, want[min(i, len(want)-1)])
		}
	}
}

// A log as Confluent's registry leaves it, with kinds and members that this one does not know.
func TestReplayOfAConfluentLog(t *testing.T) {
	rec := func(offset int64, key, value string) logged {
		r := logged{record{key: []byte(key)}, offset}
		if value != "" {
			r.value = []byte(value)
		}
		return r
	}
	l := newMemoryLog(
		rec(0, `{"keytype":"NOOP","magic":0}`, ""),
		rec(3, `{"keytype":"CONFIG","subject":null,"magic":0}`, `{"alias":null,"normalize":false,"compatibilityLevel":"BACKWARD"}`),
		rec(4, `{"keytype":"SCHEMA","subject":"a","version":1,"magic":0}`, `{"subject":"a","version":1,"id":7,"md5":"x","schema":"{ \"type\": \"string\" }","deleted":false}`),
		rec(5, `{"keytype":"SCHEMA","subject":"p","version":1,"magic":1}`, `{"subject":"p","version":1,"id":8,"schemaType":"PROTOBUF","metadata":{"tags":{}},"schema":"syntax = \"proto3\";","deleted":false}`),
		rec(6, `{"keytype":"CONTEXT","tenant":"default","context":"x","magic":0}`, `{"tenant":"default","context":"x"}`),
		rec(7, `not json`, `{}`),
		rec(8, `{"keytype":"SCHEMA","subject":"b","version":1,"magic":1}`, `{"subject":"b","version":1,"id":7,"schema":"\"int\"","deleted":false}`), // refused: id 7 is another's
		rec(9, `{"keytype":"MODE","subject":"q","magic":0}`, `{"mode":"FORWARD"}`),
		rec(10, `{"keytype":"DELETE_SUBJECT","subject":"a","magic":0}`, `{"subject":"a","version":1}`),
		rec(11, `{"keytype":"SCHEMA","subject":"a","version":2,"magic":1}`, `{"subject":"a","version":2,"id":9,"schema":"\"bytes\"","deleted":false}`),
	)
	run(t, testServer(t, l).Handler(), []step{
		{"GET", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`},
		{"GET", "/subjects", "", 200, `["a","p"]`},
		{"GET", "/subjects/a/versions?deleted=true", "", 200, `[1,2]`},
		{"GET", "/subjects/p/versions/1", "", 200, `{"subject":"p","version":1,"id":8,"schemaType":"PROTOBUF","schema":"syntax = \"proto3\";"}`},
		{"POST", "/subjects/c/versions", schemaBody(`"string"`), 200, `{"id":7}`},
		{"POST", "/subjects/c/versions", schemaBody(`"double"`), 409, `~`},
		{"POST", "/subjects/p/versions", schemaBody(`"double"`), 409, `~PROTOBUF`},
		{"POST", "/subjects/d/versions", schemaBody(`"double"`), 200, `{"id":10}`},
		{"DELETE", "/subjects/p/versions/1", "", 200, `1`},
	})
	last := l.recs[len(l.recs)-1]
	if want := `{"subject":"p","version":1,"id":8,"schemaType":"PROTOBUF","metadata":{"tags":{}},"schema":"syntax = \"proto3\";","deleted":true}`; string(last.value) != want {
		t.Errorf("deletion of another's record wrote %s, want %s", last.value, want)
	}
}

// TestRestartAndCompactionKeepEverything runs random commands, and compares the server with one that
// replays the log and one that replays what compaction leaves of it. Rerun a failure with
// WELFAREHUB_SEED=<seed> go test -run TestRestartAndCompaction ./pkg/registry.
func TestRestartAndCompactionKeepEverything(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("WELFAREHUB_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 20 {
		l := newMemoryLog()
		s := testServer(t, l)
		h := s.Handler()
		pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
		given := map[string]string{} // id → schema: an id means one schema for ever
		for range 60 {
			subject := pick("a", "b", "c")
			version := pick("1", "2", "3", "latest")
			permanent := pick("", "?permanent=true")
			switch rnd.IntN(8) {
			case 0, 1, 2:
				schema := pick(userV1, userV2, userV3, other, `"int"`, `"long"`)
				if status, id := ask(t, h, "POST", "/subjects/"+subject+"/versions", schemaBody(schema)); status == 200 {
					if before, ok := given[id]; ok && before != schema {
						t.Fatalf("seed %d round %d: %s is given to two schemas", seed, round, id)
					}
					given[id] = schema
				}
			case 3:
				ask(t, h, "DELETE", "/subjects/"+subject+permanent, "")
			case 4, 5:
				ask(t, h, "DELETE", "/subjects/"+subject+"/versions/"+version+permanent, "")
			case 6:
				ask(t, h, pick("PUT", "DELETE"), "/config/"+subject, `{"compatibility":"`+pick("NONE", "FULL")+`"}`)
			case 7:
				ask(t, h, pick("PUT", "DELETE"), "/mode/"+subject, `{"mode":"`+pick("READONLY", "READWRITE")+`"}`)
			}
			if rnd.IntN(10) == 0 {
				replayed, compacted := testServer(t, newMemoryLog(l.recs...)), testServer(t, l.compacted())
				if x, y := dump(s), dump(replayed); x != y {
					t.Fatalf("seed %d round %d: a restart differs:\n%s\n%s", seed, round, x, y)
				}
				if x, y := dump(s), dump(compacted); x != y {
					t.Fatalf("seed %d round %d: compaction differs:\n%s\n%s", seed, round, x, y)
				}
			}
		}
	}
}

// Two servers decide at the same moment. Whoever comes second in the log is refused by both, and decides
// again; compaction must not bring the refused record back.
func TestSecondWriterLosesARaceAndRepeats(t *testing.T) {
	for _, c := range []struct {
		name, subject, rival, mine string
		id                         int
	}{
		{"same id, another subject", "b", `"long"`, `"float"`, 3},
		{"same id and version", "a", `"long"`, `"float"`, 3},
		{"same version, another id", "a", `"long"`, `"int"`, 1},
		{"same schema", "a", `"float"`, `"float"`, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newMemoryLog()
			s := testServer(t, l)
			h := s.Handler()
			run(t, h, []step{
				{"PUT", "/config", `{"compatibility":"NONE"}`, 200, `~`},
				{"POST", "/subjects/x/versions", schemaBody(`"int"`), 200, `{"id":1}`},
			})
			raced := false
			l.beforeAppend = func() error {
				if raced {
					return nil
				}
				raced = true
				other := newState(None)
				for _, r := range l.recs {
					_ = other.apply(r.key, r.value)
				}
				_, recs, fault := other.register(c.subject, request{Schema: c.rival}, false)
				l.add(recs)
				if fault != nil {
					return fault
				}
				return nil
			}
			run(t, h, []step{
				{"POST", "/subjects/a/versions", schemaBody(c.mine), 200, fmt.Sprintf(`{"id":%d}`, c.id)},
				{"GET", fmt.Sprintf("/schemas/ids/%d/schema", c.id), "", 200, c.mine},
				{"GET", "/schemas/ids/2/schema", "", 200, c.rival},
				{"GET", "/subjects/" + c.subject + "/versions/1/schema", "", 200, c.rival},
			})
			same(t, s, testServer(t, newMemoryLog(l.recs...)))
			same(t, s, testServer(t, l.compacted()))
		})
	}
}

func TestFaultsOfTheLog(t *testing.T) {
	lost := errors.New("connection lost")
	l := newMemoryLog()
	s := testServer(t, l)
	s.opt.Timeout = 300 * time.Millisecond
	h := s.Handler()

	l.beforeAppend = func() error { return lost }
	run(t, h, []step{{"POST", "/subjects/a/versions", schemaBody(`"int"`), 500, `~50001`}})
	l.beforeAppend = nil

	l.afterAppend = func() error { return lost } // written, but the answer got lost
	run(t, h, []step{{"POST", "/subjects/a/versions", schemaBody(`"int"`), 500, `~it may have been made`}})
	l.afterAppend = nil
	run(t, h, []step{{"POST", "/subjects/a/versions", schemaBody(`"int"`), 200, `{"id":1}`}})

	attempts := 0
	l.beforeAppend = func() error {
		if attempts++; attempts < 3 {
			return fmt.Errorf("no leader: %w", errNotWritten)
		}
		return nil
	}
	s.opt.Timeout = time.Minute // the retries must have the time they need on a busy machine
	run(t, h, []step{{"POST", "/subjects/b/versions", schemaBody(`"long"`), 200, `{"id":2}`}})
	s.opt.Timeout = 300 * time.Millisecond
	l.beforeAppend = func() error { return errTooLarge }
	run(t, h, []step{{"POST", "/subjects/c/versions", schemaBody(`"float"`), 422, `~42209`}})
	l.beforeAppend = nil

	// While the end of the log is unknown, what is known is served, and nothing is said to be missing.
	l.beforeEnd = func() error { return lost }
	run(t, h, []step{
		{"GET", "/schemas/ids/1", "", 200, `~int`},
		{"GET", "/schemas/ids/9", "", 500, `~50001`},
		{"POST", "/subjects/c/versions", schemaBody(`"float"`), 500, `~50001`},
	})
	l.beforeEnd = nil

	// A log that lost records could give ids twice.
	l.mu.Lock()
	l.next = 1
	l.mu.Unlock()
	run(t, h, []step{
		{"GET", "/schemas/ids/1", "", 200, `~int`},
		{"POST", "/subjects/c/versions", schemaBody(`"float"`), 500, `~50001`},
	})
}

func TestClosedServerAnswersAtOnce(t *testing.T) {
	s := testServer(t, newMemoryLog())
	_ = s.Close()
	start := time.Now()
	run(t, s.Handler(), []step{{"POST", "/subjects/a/versions", schemaBody(`"int"`), 500, `~50001`}})
	if d := time.Since(start); d > time.Second {
		t.Errorf("the answer took %v", d)
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	l := newMemoryLog()
	l.beforeEnd = func() error { return errors.New("no broker") }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := newServer(ctx, l, Options{}); err == nil {
		t.Fatal("server started without its log")
	}
}

// FuzzApply feeds arbitrary records to the state machine: it must take or refuse them, never fall over.
func FuzzApply(f *testing.F) {
	f.Add(`{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}`, `{"subject":"a","version":1,"id":1,"schema":"\"int\""}`, true)
	f.Add(`{"keytype":"DELETE_SUBJECT","subject":"a","magic":0}`, `{"subject":"a","version":1}`, false)
	f.Add(`{"keytype":"CONFIG","subject":null}`, `{"compatibilityLevel":"FULL"}`, true)
	f.Add(`{"keytype":"NOOP"}`, `{"maxId":-1}`, true)
	f.Fuzz(func(t *testing.T, key, value string, tombstone bool) {
		st := newState(FullTransitive)
		for range 2 {
			_ = st.apply([]byte(key), []byte(value))
			for _, name := range st.subjectNames("", true, false) {
				if _, fault := st.version(name, latest, true); fault != nil {
					t.Fatal(fault)
				}
			}
			_, _, _ = st.register("z", request{Schema: `"int"`}, false)
		}
		if tombstone {
			_ = st.apply([]byte(key), nil)
		}
	})
}

package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// guarded is a registry behind a path prefix, basic authentication and TLS, that can be troubled.
type guarded struct {
	web     *httptest.Server
	trouble atomic.Pointer[func(http.ResponseWriter, *http.Request)]
	asked   atomic.Int64 // requests that met trouble
}

func newGuarded(t *testing.T, w *world) *guarded {
	t.Helper()
	s, err := registry.NewServer(t.Context(), registry.Options{Cluster: w.cluster, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	g := &guarded{}
	inner := http.StripPrefix("/apis/registry", s.Handler())
	g.web = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if f := g.trouble.Load(); f != nil {
			g.asked.Add(1)
			(*f)(rw, r)
			return
		}
		if user, password, _ := r.BasicAuth(); user != "hub" || password != "secret" {
			http.Error(rw, "who are you?", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(rw, r)
	}))
	t.Cleanup(g.web.Close)
	return g
}

// client is what --registry-url, --registry-user, --registry-password-file and --registry-ca make.
func (g *guarded) client(t *testing.T) *registry.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.web.Certificate().Raw})) {
		t.Fatal("no certificate")
	}
	c, err := registry.NewClient(registry.ClientOptions{
		URL: g.web.URL + "/apis/registry/", User: "hub", Password: "secret", Timeout: 500 * time.Millisecond, NegativeTTL: time.Millisecond,
		TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// setLevel sets the level of a subject.
func (g *guarded) setLevel(t *testing.T, subject, level string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, g.web.URL+"/apis/registry/config/"+subject, strings.NewReader(`{"compatibility":"`+level+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("hub", "secret")
	res, err := g.web.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("set level of %s: HTTP %d", subject, res.StatusCode)
	}
}

func register(t *testing.T, c *registry.Client, typ *event.Type, schema string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	id, err := c.Register(ctx, typ.SubjectName(), schema)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestLoadWaitsOutEachTroubleOfTheRegistry troubles the registry in all the ways that are none of the
// event's fault. The partition waits, and goes on; nothing is rejected meanwhile. Partitions whose schemas
// are known go on.
func TestLoadWaitsOutEachTroubleOfTheRegistry(t *testing.T) {
	w := newWorld(t, 1)
	g := newGuarded(t, w)
	c := g.client(t)
	known := event.ByName("SubjectErased")
	knownID := register(t, c, known, known.Raw)
	w.start(g.client(t), nil)
	publish := func(typ *event.Type, id, n int) {
		row := hubtest.Valid(typ, n)
		m := message(row, 0)
		_, m.Value, _ = event.Message(row, id)
		w.publish(m)
	}
	publish(known, knownID, 0)
	w.await(known.Topic, 1)
	answer := func(status int, body string) func(http.ResponseWriter, *http.Request) {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(status)
			_, _ = rw.Write([]byte(body))
		}
	}
	troubles := []struct {
		name string
		f    func(http.ResponseWriter, *http.Request)
	}{
		{"503", answer(503, "upstream")},
		{"429", answer(429, "slow down")},
		{"500 of the store", answer(500, `{"error_code":50001,"message":"store"}`)},
		{"404 of a proxy", answer(404, "<html>")},
		{"404 of another kind", answer(404, `{"error_code":40401,"message":"subject"}`)},
		{"password changed", answer(401, `{"error_code":401,"message":"Unauthorized"}`)},
		{"forbidden", answer(403, "")},
		{"a page of a portal", answer(200, "<html>log in</html>")},
		{"a redirect to itself", func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, r.URL.Path, http.StatusFound) }},
		{"no answer in time", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"connection cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"answer cut", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100")
			_, _ = rw.Write([]byte(`{"schema":`))
		}},
	}
	for i, trouble := range troubles {
		typ := event.Types[i]
		id := register(t, c, typ, typ.Raw)
		g.asked.Store(0)
		g.trouble.Store(&trouble.f)
		publish(typ, id, 1)
		publish(known, knownID, i+1)
		for end := time.Now().Add(30 * time.Second); g.asked.Load() < 2 && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		w.await(known.Topic, int64(i+2))
		if got := w.books(typ.Topic); got.Read != 0 {
			t.Errorf("%s: decided without the registry: %+v", trouble.name, got)
		}
		g.trouble.Store(nil)
		w.await(typ.Topic, 1)
		if got, want := w.books(typ.Topic), (Counts{1, 1, 0, 0}); got != want {
			t.Errorf("%s: %+v, want %+v", trouble.name, got, want)
		}
	}
}

// TestLoadResolvesSeveralSchemasOfABlock sends versions of one event in one batch, of a subject at BACKWARD:
// an int that became a long, a field that was renamed, one that was added, an id that nobody knows.
func TestLoadResolvesSeveralSchemasOfABlock(t *testing.T) {
	w := newWorld(t, 1)
	g := newGuarded(t, w)
	c := g.client(t)
	typ := event.ByName("RecordRevoked")
	change := func(raw string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(raw, pairs[i]) {
				t.Fatalf("the schema has no %s", pairs[i])
			}
			raw = strings.Replace(raw, pairs[i], pairs[i+1], 1)
		}
		return raw
	}
	narrow := change(typ.Raw, `"revokedUpToVersion", "type": "long"`, `"revokedUpToVersion", "type": "int"`)
	renamed := change(narrow, `"name": "revokedSourceRecordId"`, `"name": "revokedRecord"`)
	ours := change(typ.Raw, `"name": "revokedSourceRecordId"`, `"name": "revokedSourceRecordId", "aliases": ["revokedRecord"]`)
	g.setLevel(t, typ.SubjectName(), "BACKWARD")
	ids := []int{register(t, c, typ, renamed), register(t, c, typ, ours)}
	if ok, _, err := c.Compatible(t.Context(), typ.SubjectName(), narrow); err != nil || ok {
		t.Errorf("long back to int is compatible: %v, %v", ok, err)
	}
	next, err := typ.WithSchema(ours)
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Options{Cluster: w.cluster, Group: w.group, DSN: w.dsn, Schemas: c, OutcomeSchemaID: 17, FlushAge: 50 * time.Millisecond, SessionTimeout: 6 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	l.topics[typ.Topic] = newTopic(next, l)
	// The renamed one is written by hamba/avro from the same values.
	var msgs []kafka.Message
	for n := range 30 {
		row := hubtest.Valid(typ, n)
		row.SetInt(event.RecordRevokedRevokedUpToVersion, int64(n))
		m := message(row, 0)
		id := ids[n%2]
		if n%2 == 0 {
			var v map[string]any
			if err := avro.Unmarshal(typ.Schema, row.AppendAvro(nil), &v); err != nil {
				t.Fatal(err)
			}
			v["revokedRecord"], v["revokedUpToVersion"] = v["revokedSourceRecordId"], n
			old, err := avro.ParseWithCache(renamed, "", &avro.SchemaCache{})
			if err != nil {
				t.Fatal(err)
			}
			raw, err := avro.Marshal(old, v)
			if err != nil {
				t.Fatal(err)
			}
			m.Value = append(event.AppendFrame(nil, id), raw...)
		} else {
			_, m.Value, _ = event.Message(row, id)
		}
		if n%10 == 9 {
			m.Value = append(event.AppendFrame(nil, 4242), m.Value[event.FrameSize:]...)
		}
		msgs = append(msgs, m)
		if n%5 == 0 { // the same event under the other schema is a copy
			again := message(row, 0)
			_, again.Value, _ = event.Message(row, ids[1])
			msgs = append(msgs, again)
		}
	}
	w.publish(msgs...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	w.await(typ.Topic, int64(len(msgs)))
	if got, want := w.books(typ.Topic), (Counts{36, 27, 6, 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := w.count("uniqExact(_schema_id) FROM welfare.record_revoked"); n != 2 {
		t.Errorf("%d schema ids", n)
	}
	if n := w.count("countIf(revoked_up_to_version != toInt64(substring(source_record_id, 8)) OR empty(revoked_source_record_id)) FROM welfare.record_revoked"); n != 0 {
		t.Errorf("%d rows read otherwise than they were written", n)
	}
	if n := w.count("count() FROM welfare.rejected WHERE code = 'P03' AND schema_id = 4242"); n != 3 {
		t.Errorf("%d of an unknown id", n)
	}
}

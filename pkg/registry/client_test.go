package registry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// testClient is a client of a server behind the prefix /registry that asks for a password, and a count of requests.
func testClient(t *testing.T, s *Server) (*Client, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	inner := http.StripPrefix("/registry", s.Handler())
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		if user, password, _ := r.BasicAuth(); user != "hub" || password != "secret" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	tls := web.Client().Transport.(*http.Transport).TLSClientConfig
	c, err := NewClient(ClientOptions{URL: web.URL + "/registry/", User: "hub", Password: "secret", TLS: tls})
	if err != nil {
		t.Fatal(err)
	}
	return c, &n
}

func TestClientAndServer(t *testing.T) {
	ctx := t.Context()
	c, _ := testClient(t, testServer(t, newMemoryLog()))
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	const subject = "a/b value?" // escaped in the path
	if ok, _, err := c.Compatible(ctx, subject, userV1); !ok || err != nil {
		t.Errorf("Compatible with nothing: %t, %v", ok, err)
	}
	id, err := c.Register(ctx, subject, userV1)
	if id != 1 || err != nil {
		t.Fatalf("Register: %d, %v", id, err)
	}
	if got, err := c.Latest(ctx, subject); err != nil || got.ID != 1 || got.Version != 1 || got.Schema != userV1 || got.Subject != subject {
		t.Errorf("Latest: %+v, %v", got, err)
	}
	if got, err := c.Lookup(ctx, subject, spaced); err != nil || got.ID != 1 {
		t.Errorf("Lookup: %+v, %v", got, err)
	}
	if _, err := c.Lookup(ctx, subject, other); !IsNotFound(err) {
		t.Errorf("Lookup of another schema: %v", err)
	}
	ok, problems, err := c.Compatible(ctx, subject, userV3)
	if ok || err != nil || len(problems) == 0 || !strings.Contains(problems[0], "age") {
		t.Errorf("Compatible: %t, %v, %v", ok, problems, err)
	}
	_, err = c.Register(ctx, subject, userV3)
	var e *Error
	if !errors.As(err, &e) || e.HTTPStatus != 409 || e.Code != 409 || IsRetryable(err) || IsNotFound(err) {
		t.Errorf("Register of an incompatible schema: %v", err)
	}
	if _, err := c.Latest(ctx, "none"); !errors.As(err, &e) || e.Code != 40401 || IsNotFound(err) {
		t.Errorf("Latest of no subject: %v", err)
	}
}

func TestSchemaByIDKeepsAnswers(t *testing.T) {
	ctx := t.Context()
	c, n := testClient(t, testServer(t, newMemoryLog()))
	now := time.Now()
	c.now = func() time.Time { return now }
	for range 3 {
		if _, err := c.SchemaByID(ctx, 1); !IsNotFound(err) || IsRetryable(err) {
			t.Fatalf("unknown id: %v", err)
		}
	}
	if n.Load() != 1 {
		t.Errorf("an unknown id was asked for %d times, want once", n.Load())
	}
	if _, err := c.Register(ctx, "a", userV1); err != nil {
		t.Fatal(err)
	}
	now = now.Add(6 * time.Second)
	for range 3 {
		if text, err := c.SchemaByID(ctx, 1); err != nil || text != userV1 {
			t.Fatalf("%s, %v", text, err)
		}
	}
	if n.Load() != 3 {
		t.Errorf("got %d requests, want 3", n.Load())
	}
}

func TestSchemaByIDWritesReferencesIn(t *testing.T) {
	ctx := t.Context()
	c, _ := testClient(t, testServer(t, newMemoryLog()))
	if _, err := c.Register(ctx, "user", userV1); err != nil {
		t.Fatal(err)
	}
	id, err := c.Register(ctx, "order", `{"type":"record","name":"Order","namespace":"t","fields":[{"name":"by","type":"User"}]}`, Reference{"t.User", "user", 1})
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.SchemaByID(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseAvro(text, nil); err != nil {
		t.Errorf("%s: %v", text, err)
	}
}

// Only the registry's own word makes an id unknown; every trouble on the way may pass.
func TestTroubleIsNotAnUnknownSchema(t *testing.T) {
	answers := map[string]struct {
		status    int
		body      string
		notFound  bool
		retryable bool
	}{
		"registry's word":  {404, `{"error_code":40403,"message":"Schema 1 not found"}`, true, false},
		"wrong path":       {404, `<html>nothing here</html>`, false, false},
		"subject unknown":  {404, `{"error_code":40401,"message":"x"}`, false, false},
		"proxy":            {502, `bad gateway`, false, true},
		"store":            {500, `{"error_code":50001,"message":"x"}`, false, true},
		"too many":         {429, ``, false, true},
		"not JSON":         {200, `<html>`, false, true},
		"wrong password":   {401, `{"error_code":401,"message":"x"}`, false, false},
		"code, no 404":     {500, `{"error_code":40403,"message":"x"}`, false, true},
		"redirect to self": {302, ``, false, true},
	}
	for name, a := range answers {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", r.URL.Path)
			w.WriteHeader(a.status)
			_, _ = w.Write([]byte(a.body))
		}))
		c, err := NewClient(ClientOptions{URL: web.URL})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.SchemaByID(t.Context(), 1)
		if err == nil || IsNotFound(err) != a.notFound || IsRetryable(err) != a.retryable {
			t.Errorf("%s: %v: IsNotFound %t, IsRetryable %t", name, err, IsNotFound(err), IsRetryable(err))
		}
		web.Close()
		if _, err := c.SchemaByID(t.Context(), 2); IsNotFound(err) || !IsRetryable(err) {
			t.Errorf("nobody answers: %v", err)
		}
	}
}

func TestClientKeepsDeadlines(t *testing.T) {
	release := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer web.Close()
	defer close(release)
	c, err := NewClient(ClientOptions{URL: web.URL, Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); !errors.Is(err, context.DeadlineExceeded) || !IsRetryable(err) {
		t.Errorf("got %v, want a deadline", err)
	}
}

func TestClientOptionsAreChecked(t *testing.T) {
	for _, u := range []string{"", "localhost:8081", "ftp://host", "http://", "http://u:pass word@h"} {
		if _, err := NewClient(ClientOptions{URL: u}); err == nil {
			t.Errorf("URL %q is taken", u)
		} else if strings.Contains(err.Error(), "pass") {
			t.Errorf("error shows the password: %v", err)
		}
	}
	c, err := NewClient(ClientOptions{URL: "http://u:p@host:1/x/?q"})
	if err != nil || c.base.String() != "http://host:1/x" || c.user != "u" || c.password != "p" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestRegisterAllMayBeRepeated(t *testing.T) {
	s := testServer(t, newMemoryLog())
	c, _ := testClient(t, s)
	first, err := RegisterAll(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != len(event.Types)+1 || first[OutcomeSubject] == 0 {
		t.Errorf("registered %v", first)
	}
	for _, typ := range event.Types {
		text, err := c.SchemaByID(t.Context(), first[typ.SubjectName()])
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parseAvro(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := event.NewDecoder(typ, parsed); err != nil {
			t.Errorf("%s: %v", typ.Name, err)
		}
	}
	before := s.at()
	again, err := RegisterAll(t.Context(), c)
	if err != nil || len(again) != len(first) || s.at() != before {
		t.Errorf("again: %v, %v, %d records", again, err, s.at()-before)
	}
	for subject, id := range first {
		if again[subject] != id {
			t.Errorf("%s had id %d, has %d", subject, id, again[subject])
		}
	}
}

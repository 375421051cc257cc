package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// brokenDB answers every query as fail says.
type brokenDB struct {
	driver.Conn
	fail func(ctx context.Context) error
}

type brokenRow struct {
	driver.Row
	err error
}

func (r brokenRow) Scan(...any) error { return r.err }

func (b brokenDB) Query(ctx context.Context, _ string, _ ...any) (driver.Rows, error) {
	return nil, b.fail(ctx)
}

func (b brokenDB) QueryRow(ctx context.Context, _ string, _ ...any) driver.Row {
	return brokenRow{err: b.fail(ctx)}
}
func (b brokenDB) Exec(ctx context.Context, _ string, _ ...any) error { return b.fail(ctx) }

func broken(t *testing.T, fail func(ctx context.Context) error) (http.Handler, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	return New(Options{DB: brokenDB{fail: fail}, Logger: zap.New(core), Timeout: 50 * time.Millisecond}), logs
}

func refuses(context.Context) error { return errors.New("dial: connection refused") }

// problem checks that an answer is a problem, and returns it.
func problem(t *testing.T, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	if w.Header().Get("Content-Type") != "application/problem+json" || p.Status != w.Code || p.Type != typePrefix+p.Code ||
		p.Title == "" || p.Detail == "" || p.RequestID == "" || p.RequestID != w.Header().Get("X-Request-Id") {
		t.Errorf("not a whole problem: %s with headers %v", w.Body, w.Header())
	}
	return p
}

func TestBadParametersSayWhatIsAllowed(t *testing.T) {
	h, _ := broken(t, refuses)
	for _, c := range []struct{ query, parameter, detail string }{
		{"lvl=COMUNE", "lvl", "unknown parameter; the parameters are level, territory, service, user_area, from, to, limit, cursor, format"},
		{"offset=5", "offset", "unknown parameter; the parameters are"},
		{"%3Cscript%3E=1", "", "unknown parameter"},
		{"level=comune", "level", "allowed: COMUNE, PROVINCE, REGION, COUNTRY"},
		{"level=", "level", "allowed: COMUNE"},
		{"level=REGION&level=COMUNE", "level", "given 2 times, allowed once"},
		{"territory=1", "territory", "allowed: 6 digits (comune), 3 digits (province), 2 digits (region), IT, UNMAPPED"},
		{"territory=015146&territory=Milano", "territory", "allowed: 6 digits"},
		{"territory=0151460", "territory", "allowed"},
		{"territory=015146%0A", "territory", "allowed"},
		{"service=a1", "service", "allowed: 1 to 16 of A-Z, 0-9 and dot, UNMAPPED"},
		{"user_area=KIDS", "user_area", "allowed: UNKNOWN, FAMILY_MINORS"},
		{"from=2026", "from", "allowed: YYYY-MM, 1900-01 to 2199-12"},
		{"from=2026-13", "from", "allowed"},
		{"from=1899-12", "from", "allowed"},
		{"from=2026-02&to=2026-01", "to", "not before from"},
		{"limit=0", "limit", "allowed: 1 to 50000"},
		{"limit=50001", "limit", "allowed: 1 to 50000"},
		{"limit=1e3", "limit", "allowed: 1 to 50000"},
		{"cursor=x", "cursor", "allowed: the value in next of the page before"},
		{"cursor=" + strings.Repeat("A", 10000), "cursor", "allowed"},
		{"format=xml", "format", "allowed: json, csv"},
		{"from=%zz", "", "cannot be read"},
		{"a=1;b=2", "", "cannot be read"},
		{strings.Repeat("service=A&", 501), "service", "given 501 times, allowed 500 times"},
	} {
		w := get(t, h, "/api/v1/supply-demand?"+c.query)
		p := problem(t, w)
		if w.Code != http.StatusBadRequest || p.Code != CodeBadParameters || len(p.Errors) == 0 {
			t.Errorf("%.60s: %s", c.query, w.Body)
			continue
		}
		if e := p.Errors[0]; e.Parameter != c.parameter || !strings.Contains(e.Detail, c.detail) {
			t.Errorf("%.60s: got %+v", c.query, e)
		}
	}
	p := problem(t, get(t, h, "/api/v1/supply-demand?level=x&territory=y&zone=1&limit=-1"))
	if len(p.Errors) != 4 || p.Detail != "4 parameters are not valid; errors says what is allowed" {
		t.Errorf("all at once: %+v", p)
	}
	if p := problem(t, get(t, h, "/api/v1/status?topic=x")); p.Errors[0].Detail != "unknown parameter; there are none here" {
		t.Errorf("got %+v", p)
	}
}

func TestRefusedRequestsDoNotShowWhatWasSent(t *testing.T) {
	h, logs := broken(t, refuses)
	const secret = "RSSMRA85T10A562S"
	for _, target := range []string{"/api/v1/supply-demand?territory=" + secret, "/api/v1/supply-demand?" + secret + "=1", "/" + secret, "/api/v1/status?x=" + secret, "/api/v1/status?vrdgli-mmcsrfnlrb=1"} {
		for _, id := range []string{secret + "@", secret, "vrdgli-mmcsrfnlrb"} {
			w := get(t, h, target, "X-Request-Id", id)
			if all := w.Body.String() + w.Header().Get("X-Request-Id"); !strings.Contains(all, secret) && !strings.Contains(all, "mmcsrfnlrb") {
				continue
			}
			t.Errorf("%s: %s %s", target, w.Header(), w.Body)
		}
	}
	for _, e := range logs.All() {
		line, _ := json.Marshal(e.ContextMap())
		if all := e.Message + string(line); strings.Contains(all, secret) || strings.Contains(all, "mmcsrfnlrb") {
			t.Errorf("logged: %s %s", e.Message, line)
		}
	}
}

func TestUnknownPathsMethodsAndTypes(t *testing.T) {
	h, _ := broken(t, refuses)
	if w := get(t, h, "/api/v2/x"); w.Code != http.StatusNotFound || problem(t, w).Code != CodeNotFound || !strings.Contains(w.Body.String(), "/api/v1/status") {
		t.Error(w.Body)
	}
	for _, method := range []string{"POST", "OPTIONS", "DELETE", "BREW"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/api/v1/status", nil))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" || problem(t, w).Code != CodeMethodNotAllowed {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
	if w := get(t, h, "/api/v1/supply-demand", "Accept", "image/png"); w.Code != http.StatusNotAcceptable || problem(t, w).Code != CodeNotAcceptable {
		t.Error(w.Body)
	}
}

func TestFailuresOfClickHouseAreProblems(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	code := func(n int32) func(context.Context) error {
		return func(context.Context) error { return &clickhouse.Exception{Code: n, Message: "SELECT secret"} }
	}
	for name, c := range map[string]struct {
		fail   func(context.Context) error
		status int
		code   string
	}{
		"down":    {refuses, 503, CodeUnavailable},
		"hangs":   {hang, 504, CodeTimeout},
		"slow":    {code(159), 504, CodeTimeout},
		"memory":  {code(241), 422, CodeTooLarge},
		"rows":    {code(396), 422, CodeTooLarge},
		"missing": {code(60), 503, CodeUnavailable},
		"busy":    {code(202), 503, CodeUnavailable},
		"wrong":   {code(47), 500, CodeInternal},
		"panics":  {func(context.Context) error { panic("secret") }, 500, CodeInternal},
	} {
		h, logs := broken(t, c.fail)
		for _, target := range []string{"/api/v1/supply-demand", "/api/v1/status"} {
			w := get(t, h, target)
			p := problem(t, w)
			if w.Code != c.status || p.Code != c.code || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
			if (c.status == 503) != (w.Header().Get("Retry-After") != "") {
				t.Errorf("%s: Retry-After %q", name, w.Header().Get("Retry-After"))
			}
		}
		for _, e := range logs.All() {
			line, _ := json.Marshal(e.ContextMap())
			if delete(e.ContextMap(), "stack"); strings.Contains(e.Message, "secret") || strings.Contains(strings.ReplaceAll(string(line), "stack", ""), "SELECT secret") {
				t.Errorf("%s logs %s", name, line)
			}
		}
		if w := get(t, h, "/livez"); w.Code != http.StatusOK {
			t.Errorf("%s: livez %d", name, w.Code)
		}
		if w := get(t, h, "/readyz"); w.Code < 500 {
			t.Errorf("%s: readyz %d", name, w.Code)
		}
	}
}

func TestTooManyQueriesAreSentAway(t *testing.T) {
	a := &api{Options: Options{Timeout: 50 * time.Millisecond}, slots: make(chan struct{}, 1)}
	_, release, err := a.query(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := a.query(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	release()
	if _, release, err = a.query(t.Context()); err != nil {
		t.Fatal(err)
	}
	release()
	if p := problemOf(t.Context(), errBusy); p.Status != 503 {
		t.Errorf("got %+v", p)
	}
}

func TestIndexListsTheEndpoints(t *testing.T) {
	h, _ := broken(t, refuses)
	w := get(t, h, "/", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.Contains(w.Body.String(), `<html lang="it">`) || strings.Contains(w.Header().Get("Content-Security-Policy"), "unsafe") {
		t.Errorf("%v\n%s", w.Header(), w.Body)
	}
	for _, accept := range []string{"", "*/*", "application/json"} {
		w := get(t, h, "/", "Accept", accept)
		var doc indexDoc
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || len(doc.Endpoints) != 5 || len(doc.Endpoints[0].Parameters) != len(supplyDemandParameters) {
			t.Errorf("%q: %v %s", accept, err, w.Body)
		}
	}
}

func TestAnswersHaveAnIDLengthAndNoCORS(t *testing.T) {
	h, _ := broken(t, refuses)
	w := get(t, h, "/livez", "X-Request-Id", "abc-1", "Origin", "https://example.org")
	if w.Header().Get("X-Request-Id") != "abc-1" || w.Header().Get("Access-Control-Allow-Origin") != "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", w.Header())
	}
	if id := get(t, h, "/livez").Header().Get("X-Request-Id"); len(id) != 16 {
		t.Errorf("id %q", id)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	res, err := http.Head(server.URL + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK || res.ContentLength != int64(len("{\"status\":\"ok\"}\n")) {
		t.Errorf("HEAD: %d, length %d", res.StatusCode, res.ContentLength)
	}
}

func TestNegotiateTakesTheBestOffer(t *testing.T) {
	offers := []string{typeJSON, typeCSV}
	for accept, want := range map[string]string{
		"": typeJSON, "*/*": typeJSON, "text/*": typeCSV, "text/csv": typeCSV, "TEXT/CSV": typeCSV,
		"text/csv;q=0.5, application/json;q=0.4": typeCSV, "text/csv;q=0.4, application/json;q=0.5": typeJSON,
		"*/*;q=0.1, text/csv": typeCSV, "application/json;q=0, */*": typeCSV, "image/png": "", "text/csv;q=x": "", "nonsense": "", "*/*;q=0": "",
	} {
		got, err := negotiate(accept, offers)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v; want %q", accept, got, err, want)
		}
	}
}

// FuzzFilter says that no query panics, and that what passes has only known forms.
func FuzzFilter(f *testing.F) {
	f.Add("level=COMUNE&territory=015146&from=2026-01&limit=5")
	f.Add("cursor=" + key{"COMUNE", "015146", "A1", "MULTI", "2026-01-01", ""}.encode())
	f.Add("a;b=%&&==")
	f.Fuzz(func(t *testing.T, query string) {
		v, err := parseFilter(query)
		if err != nil {
			return
		}
		for _, s := range v.territories {
			if strings.ContainsAny(s, `'"\`) {
				t.Errorf("territory %q", s)
			}
		}
		v.statement(1)
	})
}

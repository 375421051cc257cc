package registry

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// FuzzRequest sends any request to a registry that has a schema: it is answered by JSON, by no fault of the
// server, and without a codice fiscale that it was given.
func FuzzRequest(f *testing.F) {
	for _, path := range []string{
		"/subjects", "/subjects?subjectPrefix=a&deleted=true", "/subjects/a/versions/latest", "/subjects/a/versions/-1/schema", "/subjects/a/versions/1/referencedby",
		"/subjects/ZZZQQQ00A00Z999G/versions", "/schemas/ids/1?format=resolved", "/schemas/ids/1/versions", "/schemas?offset=1&limit=-1&latestOnly=true",
		"/config/a?defaultToGlobal=true", "/mode", "/compatibility/subjects/a/versions/1?verbose=true", "/contexts", "/%2e%2e/x", "/subjects/a%2Fb/versions/99999999999999999999",
	} {
		for method := range uint8(4) {
			f.Add(method, path, "application/json", schemaBody(userV2))
		}
	}
	f.Add(uint8(2), "/config/a", typeV1, `{"compatibility":"ZZZQQQ00A00Z999G"}`)
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}
	f.Fuzz(func(t *testing.T, method uint8, path, contentType, body string) {
		target, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		s := testServer(t, newMemoryLog())
		h := s.Handler()
		if status, answer := ask(t, h, http.MethodPost, "/subjects/a/versions", schemaBody(userV1)); status != 200 {
			t.Fatal(status, answer)
		}
		r := &http.Request{
			Method: methods[int(method)%len(methods)], URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "registry", RequestURI: path,
			Header: http.Header{"Content-Type": {contentType}}, Body: http.NoBody, RemoteAddr: "127.0.0.1:1",
		}
		if body != "" {
			r.Body, r.ContentLength = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)).Body, int64(len(body))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(t.Context()))
		if w.Code >= 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if redirect := w.Code/100 == 3; !redirect && strings.Contains(w.Header().Get("Content-Type"), "json") && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code >= 400 && privacy.ContainsCFRaw(w.Body.Bytes()) {
			t.Fatalf("%d: the answer holds a codice fiscale", w.Code)
		}
	})
}

// FuzzAnsweredError takes what any server may answer in place of a registry.
func FuzzAnsweredError(f *testing.F) {
	f.Add(404, []byte(`{"error_code":40403,"message":"Schema not found"}`))
	f.Add(401, []byte("<html>"))
	f.Add(502, []byte(`{"error_code":"x"}`))
	f.Fuzz(func(t *testing.T, status int, raw []byte) {
		if err := answeredError(status, raw); err == nil || err.Error() == "" {
			t.Errorf("%d %q: %v", status, raw, err)
		}
	})
}

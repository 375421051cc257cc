package health

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestHandler(t *testing.T) {
	var why error
	o := Options{
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) }),
		Ready:   func(context.Context) error { return why }, Logger: zap.NewNop(),
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, c := range []struct {
		h              http.Handler
		method, target string
		why            error
		status         int
		body           string
	}{
		{Handler(o, nil), "GET", Live, errors.New("x"), 200, "ok"},
		{Handler(o, nil), "GET", Ready, nil, 200, "ready"},
		{Handler(o, nil), "GET", Ready, errors.New("host secret is away"), 503, "not ready"},
		{Handler(o, nil), "GET", Metrics, nil, 200, "up 1"},
		{Handler(o, nil), "GET", "/x", nil, 404, ""},
		{Handler(o, nil), "POST", Metrics, nil, 404, ""},
		{Handler(o, next), "GET", "/subjects", nil, 418, ""},
		{Handler(o, next), "POST", Live, nil, 418, ""},
		{Handler(o, next), "HEAD", Live, nil, 200, ""},
	} {
		why = c.why
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), c.method, c.target, nil))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.target, w.Code, w.Body, c.status, c.body)
		}
	}
}

package registry

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// memoryLog is a topic in memory, which several servers may share. Faults are called before the
// operation of their name, and fail it by their error.
type memoryLog struct {
	mu      sync.Mutex
	recs    []logged
	next    int64
	changed chan struct{}

	beforeAppend func() error
	beforeEnd    func() error
	afterAppend  func() error // the records are there, the caller hears of an error
}

func newMemoryLog(recs ...logged) *memoryLog {
	l := &memoryLog{changed: make(chan struct{}), recs: recs}
	for _, r := range recs {
		l.next = max(l.next, r.offset+1)
	}
	return l
}

func (l *memoryLog) close() {}

func (l *memoryLog) end(context.Context) (int64, error) {
	if l.beforeEnd != nil {
		if err := l.beforeEnd(); err != nil {
			return 0, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next, nil
}

func (l *memoryLog) append(_ context.Context, recs []record) (int64, error) {
	if l.beforeAppend != nil {
		if err := l.beforeAppend(); err != nil {
			return 0, err
		}
	}
	base := l.add(recs)
	if l.afterAppend != nil {
		return base, l.afterAppend()
	}
	return base, nil
}

func (l *memoryLog) add(recs []record) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	base := l.next
	for _, r := range recs {
		l.recs = append(l.recs, logged{r, l.next})
		l.next++
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return base
}

func (l *memoryLog) read(ctx context.Context, offset int64) ([]logged, int64, error) {
	for {
		l.mu.Lock()
		var out []logged
		for _, r := range l.recs {
			if r.offset >= offset {
				out = append(out, r)
			}
		}
		next, changed := l.next, l.changed
		l.mu.Unlock()
		if next > offset {
			return out, next, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, offset, ctx.Err()
		}
	}
}

// compacted is the log as compaction leaves it: the last record of each key, without tombstones.
func (l *memoryLog) compacted() *memoryLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := map[string]int64{}
	for _, r := range l.recs {
		last[string(r.key)] = r.offset
	}
	var out []logged
	for _, r := range l.recs {
		if last[string(r.key)] == r.offset && r.value != nil {
			out = append(out, r)
		}
	}
	c := newMemoryLog(out...)
	c.next = l.next
	return c
}

func testServer(t testing.TB, l topicLog) *Server {
	t.Helper()
	s, err := newServer(t.Context(), l, Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatalf("newServer: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// ask sends a request to a handler and returns status and body.
func ask(t testing.TB, h http.Handler, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", typeV1)
	}
	h.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

// schemaBody is the request that carries a schema.
func schemaBody(text string) string {
	var b bytes.Buffer
	b.WriteString(`{"schema":`)
	appendString(&b, text)
	b.WriteString(`}`)
	return b.String()
}

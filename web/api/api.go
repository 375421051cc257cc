// Package api answers planners' questions about supply and demand, and operators' about how far the hub
// has come, over HTTP. It promises exact decimals, a bound on the time, rows and memory of every answer,
// a problem+json that says what is allowed for every request it refuses, and no personal data: it reads
// counts and aggregates only.
package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/web/health"
)

// Options configure the API. Zero values take the defaults.
type Options struct {
	DB            driver.Conn   // ClickHouse, with at least SELECT on the database welfare; required
	Logger        *zap.Logger   // required
	Version       string        // of the program, shown by the index
	Metrics       http.Handler  // answers /metrics; nil: there is none
	Timeout       time.Duration // of an answer; 15 s
	MaxConcurrent int           // queries at once, the others wait a little and are then sent away; 8
	MaxMemory     int64         // bytes that ClickHouse may use for one query, half of it before it spills to disk; 256 MiB, as user planner may
}

// handler answers one request. Nothing is sent before it returns, so an answer is whole or a problem.
type handler func(ctx context.Context, r *http.Request) (*answer, error)

// answer is a whole response.
type answer struct {
	status int // 0: 200
	header http.Header
	body   []byte
}

// endpoint is one path that answers GET and HEAD.
type endpoint struct {
	path       string
	handle     handler
	it, en     string // what it is for
	parameters []parameter
	offers     []string // media types, the preferred one first
}

type api struct {
	Options
	endpoints []endpoint
	slots     chan struct{}
	unmapped  unmappedCache
}

// New returns the handler of the whole API.
func New(o Options) http.Handler {
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	if o.MaxConcurrent <= 0 {
		o.MaxConcurrent = 8
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = 256 << 20
	}
	a := &api{Options: o, slots: make(chan struct{}, o.MaxConcurrent)}
	a.endpoints = []endpoint{
		{
			path: "/api/v1/supply-demand", handle: a.supplyDemand, parameters: supplyDemandParameters, offers: []string{typeJSON, typeCSV},
			it: "Offerta e domanda di servizi per territorio, servizio, area di utenza e mese",
			en: "Supply and demand by territory, service, area of users and month",
		},
		{
			path: "/api/v1/status", handle: a.status, offers: []string{typeJSON},
			it: "Stato dei dati: conteggi, ritardo e aggiornamento di ogni topic",
			en: "State of the data: counts, lag and freshness of each topic",
		},
		{path: health.Live, handle: a.live, offers: []string{typeJSON}, it: "Il processo è vivo", en: "The process is alive"},
		{path: health.Ready, handle: a.ready, offers: []string{typeJSON}, it: "Il servizio può rispondere", en: "The service can answer"},
		{path: "/", handle: a.index, offers: []string{typeJSON, typeHTML}, it: "Questo elenco", en: "This list"},
	}
	mux := http.NewServeMux()
	for _, e := range a.endpoints {
		pattern := e.path
		if pattern == "/" {
			pattern = "/{$}"
		}
		mux.Handle(pattern, a.serve(e.path, only(e)))
	}
	mux.Handle("/", a.serve("unknown", a.notFound))
	if o.Metrics == nil {
		return mux
	}
	return health.WithMetrics(o.Metrics, mux)
}

// Server returns a server of h with the time limits that keep slow clients from holding connections. The
// caller sets Addr or serves a listener, and shuts it down.
func Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}

// only refuses the methods and parameters that an endpoint does not have.
func only(e endpoint) handler {
	return func(ctx context.Context, r *http.Request) (*answer, error) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return nil, &Problem{
				Status: http.StatusMethodNotAllowed, Code: CodeMethodNotAllowed, Detail: "the method must be GET or HEAD",
				header: http.Header{"Allow": {"GET, HEAD"}},
			}
		}
		return e.handle(ctx, r)
	}
}

func (a *api) notFound(context.Context, *http.Request) (*answer, error) {
	var paths []string
	for _, e := range a.endpoints {
		paths = append(paths, e.path)
	}
	if a.Metrics != nil {
		paths = append(paths, health.Metrics)
	}
	return nil, &Problem{Status: http.StatusNotFound, Code: CodeNotFound, Detail: "the paths are " + strings.Join(paths, ", ")}
}

// requestIDForm is what a caller may choose as the id of its request.
var requestIDForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// serve turns a handler into one of net/http: it gives the request an id and a deadline, catches panics,
// turns errors into problems, and logs the request without its query.
func (a *api) serve(route string, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		id := r.Header.Get("X-Request-Id")
		if !requestIDForm.MatchString(id) || privacy.ContainsCFRaw([]byte(id)) {
			id = newRequestID()
		}
		log := a.Logger.With(zap.String("request_id", id), zap.String("route", route))
		ctx, cancel := context.WithTimeout(r.Context(), a.Timeout)
		defer cancel()
		out, err := guarded(ctx, log, h, r)
		if err != nil {
			out = a.refuse(ctx, log, id, err)
		}
		header := w.Header()
		for k, v := range out.header {
			header[k] = v
		}
		secure(header)
		header.Set("X-Request-Id", id)
		header.Set("Content-Length", strconv.Itoa(len(out.body)))
		status := out.status
		if status == 0 {
			status = http.StatusOK
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, err = w.Write(out.body) // an error says that the client has gone
		}
		log.Debug("request answered", zap.String("method", knownMethod(r.Method)), zap.Int("status", status),
			zap.Int("bytes", len(out.body)), zap.Duration("took", time.Since(began)), zap.Bool("client_gone", err != nil))
	})
}

// knownMethod keeps what a client may invent out of the log.
func knownMethod(m string) string {
	if slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, m) {
		return m
	}
	return "other"
}

func newRequestID() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	return hex.EncodeToString(raw[:])
}

// secure sets what tells browsers to do nothing with an answer but show it. No Access-Control header is
// ever sent: pages of other origins cannot read answers.
func secure(h http.Header) {
	set := func(k, v string) {
		if h.Get(k) == "" {
			h.Set(k, v)
		}
	}
	set("Cache-Control", "no-store")
	set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	set("X-Content-Type-Options", "nosniff")
	set("X-Frame-Options", "DENY")
	set("Referrer-Policy", "no-referrer")
	set("Cross-Origin-Resource-Policy", "same-origin")
	set("Vary", "Accept")
}

// errPanic stands for a panic of a handler, which has been logged.
var errPanic = errors.New("the handler panicked")

func guarded(ctx context.Context, log *zap.Logger, h handler, r *http.Request) (out *answer, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		// The text of a runtime error has no data; any other panic might quote some.
		text := fmt.Sprintf("%T", p)
		if e, ok := p.(runtime.Error); ok {
			text = e.Error()
		}
		log.Error("handler panicked", zap.String("panic", text), zap.ByteString("stack", debug.Stack()))
		out, err = nil, errPanic
	}()
	return h(ctx, r)
}

// query bounds a query, and holds one of the slots until release is called.
func (a *api) query(ctx context.Context) (_ context.Context, release func(), _ error) {
	patience := time.NewTimer(2 * time.Second)
	defer patience.Stop()
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-patience.C:
		return nil, nil, errBusy
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"max_execution_time":                 int(a.Timeout/time.Second) + 1,
		"max_memory_usage":                   a.MaxMemory,
		"max_result_rows":                    maxLimit + 1,
		"result_overflow_mode":               "throw",
		"max_bytes_before_external_group_by": a.MaxMemory / 2,
		"max_bytes_before_external_sort":     a.MaxMemory / 2,
	}))
	return ctx, func() { <-a.slots }, nil
}

// errBusy says that all slots were taken for as long as a request waits.
var errBusy = errors.New("too many queries at once")

// live answers that the process is alive, whatever becomes of ClickHouse.
func (a *api) live(context.Context, *http.Request) (*answer, error) {
	return jsonAnswer(map[string]string{"status": "ok"})
}

// ready answers whether queries can be answered: ClickHouse is there and has the schema.
func (a *api) ready(ctx context.Context, _ *http.Request) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, view := range []string{"books", "freshness", "supply_demand"} {
		if err := a.DB.Exec(ctx, "SELECT 1 FROM welfare."+view+" LIMIT 0"); err != nil {
			return nil, fmt.Errorf("look at welfare.%s: %w", view, errors.Join(errNotReady, err))
		}
	}
	return jsonAnswer(map[string]string{"status": "ready"})
}

// errNotReady says that ClickHouse is away, or not migrated.
var errNotReady = errors.New("ClickHouse does not answer, or has not the schema yet; was welfarehub migrate run?")

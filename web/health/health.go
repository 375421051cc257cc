// Package health answers supervisors and Prometheus about a command that has no other API: whether the
// process lives, whether it can do its job, and what it measures. It promises to say nothing of any event.
package health

import (
	"context"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Options are what a command says of itself. All are required.
type Options struct {
	Metrics http.Handler                    // of the process
	Ready   func(ctx context.Context) error // whether the command can do its job
	Logger  *zap.Logger
}

// Paths that a Handler answers.
const (
	Live    = "/livez"
	Ready   = "/readyz"
	Metrics = "/metrics"
)

// Handler answers GET and HEAD at the three paths, and hands every other request to next; where that is
// nil it answers 404.
func Handler(o Options, next http.Handler) http.Handler {
	if next == nil {
		next = http.NotFoundHandler()
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+Live, plain(say(http.StatusOK, "ok")))
	mux.Handle("GET "+Ready, plain(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		if err := o.Ready(ctx); err != nil {
			o.Logger.Info("not ready", zap.Error(err)) // the reason is for the log: it may name servers
			say(http.StatusServiceUnavailable, "not ready")(w, r)
			return
		}
		say(http.StatusOK, "ready")(w, r)
	})))
	mux.Handle("/", next)
	return WithMetrics(o.Metrics, mux)
}

// WithMetrics answers GET and HEAD at /metrics, and hands every other request to next.
func WithMetrics(metrics, next http.Handler) http.Handler {
	metrics = plain(metrics)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == Metrics && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			metrics.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func say(status int, what string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"status":"` + what + `"}` + "\n")) // an error says that the client has gone
	}
}

// plain keeps answers out of caches and of pages.
func plain(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

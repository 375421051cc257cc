package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/web/api"
	"github.com/welfarehub/welfarehub/web/health"
)

// readyWhenMade is the readiness of a part that is made later.
type readyWhenMade struct {
	of atomic.Pointer[func(context.Context) error]
}

var errStarting = errors.New("the command is starting")

func (r *readyWhenMade) made(ready func(context.Context) error) { r.of.Store(&ready) }

// Ready is errStarting until the part is made.
func (r *readyWhenMade) Ready(ctx context.Context) error {
	if ready := r.of.Load(); ready != nil {
		return (*ready)(ctx)
	}
	return errStarting
}

// serveHealth serves health and metrics beside the command until stop is called. Without an address it
// serves nothing.
func serveHealth(cmd *cobra.Command, log *zap.Logger, addr string, o health.Options) (stop func(), err error) {
	if addr == "" {
		return func() {}, nil
	}
	ln, err := listen(cmd.Context(), addr, "--health")
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "health and metrics on http://%s\n", ln.Addr())
	srv := api.Server(health.Handler(o, nil))
	srv.ErrorLog = zap.NewStdLog(log.Named("health"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health and metrics are not served any more", zap.Error(err))
		}
	}()
	return func() {
		_ = srv.Close() // at the stop no scrape is worth a wait
		<-done
	}, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

// listeners are those of up itself; the broker and ClickHouse have their own.
type listeners struct{ api, registry net.Listener }

// endingPatience is how long up waits for an instance on the same data that is ending to give its ports up.
const endingPatience = 5 * time.Second

// listen opens what up listens on, and looks whether the broker's and ClickHouse's addresses are free, before anything
// is started: a taken one is known at once. Where the ports are those of an instance on the same data, that is the error.
func (h *hub) listen(ctx context.Context) error {
	for begin := time.Now(); ; {
		err := h.tryListen(ctx)
		if err == nil {
			h.onStop("listeners", func(context.Context) error { return h.listeners.close() })
			return nil
		}
		err = errors.Join(err, h.listeners.close())
		busy := h.dataInUse()
		if busy == nil {
			return err
		}
		if time.Since(begin) >= endingPatience {
			return busy
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (h *hub) tryListen(ctx context.Context) (err error) {
	if h.listeners.api, err = listen(ctx, h.f.http, "--http"); err != nil {
		return err
	}
	if h.f.external.registry.url == "" {
		if h.listeners.registry, err = listen(ctx, h.f.registry, "--registry"); err != nil {
			return err
		}
	}
	var others [][2]string
	if len(h.f.external.kafka.brokers) == 0 {
		others = append(others, [2]string{h.f.kafka, "--kafka"})
	}
	if h.f.external.ch.dsn == "" {
		others = append(others, [2]string{h.f.native, "--clickhouse-native"}, [2]string{h.f.chHTTP, "--clickhouse-http"})
	}
	var errs []error
	var taken []net.Listener // until all are known, so that two flags with one port are found
	for _, o := range others {
		ln, err := listen(ctx, o[0], o[1])
		if err != nil {
			errs = append(errs, err)
			break
		}
		taken = append(taken, ln)
	}
	for _, ln := range taken {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}

func (h *hub) dataInUse() error {
	for _, part := range []string{"kafka", "clickhouse"} {
		if err := datadir.InUse(filepath.Join(h.f.data, part)); err != nil {
			return err
		}
	}
	return nil
}

// close closes those that are not served yet; a server closes its own.
func (l *listeners) close() error {
	var errs []error
	for _, ln := range []net.Listener{l.api, l.registry} {
		if ln == nil {
			continue
		}
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	*l = listeners{}
	return errors.Join(errs...)
}

func listen(ctx context.Context, addr, flag string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; is it taken? choose another with %s, port 0 for a free one", addr, err, flag)
	}
	return ln, nil
}

package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/welfarehub/welfarehub/pkg/engine"
)

func newClickHouse() (*Server, error) {
	switch kind := os.Getenv(envClickHouse); kind {
	case "":
		return newEngine()
	case "container":
		return newClickHouseContainer()
	default:
		return nil, fmt.Errorf("%s is %q, want container or nothing", envClickHouse, kind)
	}
}

// embedded is the embedded engine.
type embedded struct {
	engine *engine.Engine
	dir    string
}

func newEngine() (*Server, error) {
	dir, err := os.MkdirTemp("", "testkit-clickhouse-")
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	e, err := engine.Start(context.Background(), engine.Options{DataDir: dir})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &Server{
		Addr: e.NativeAddr(), HTTP: e.HTTPAddr(), DSN: e.DSN(), PlannerDSN: e.PlannerDSN(),
		kind: "embedded engine", back: &embedded{e, dir},
	}, nil
}

// kill waits until the engine has noticed, so that a later start does not take the dead one for an answer.
func (e *embedded) kill() error {
	pid := e.engine.PID()
	if err := e.signal(syscall.SIGKILL); err != nil {
		return err
	}
	for begin := time.Now(); e.engine.PID() == pid; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			return errors.New("the engine survived a kill")
		}
	}
	return nil
}

func (e *embedded) start(ctx context.Context) error { return e.engine.Wait(ctx) }
func (e *embedded) pause() error                    { return e.signal(syscall.SIGSTOP) }
func (e *embedded) resume() error                   { return e.signal(syscall.SIGCONT) }
func (e *embedded) cut() error                      { return errUnsupported }
func (e *embedded) mend() error                     { return errUnsupported }

func (e *embedded) signal(sig syscall.Signal) error {
	pid := e.engine.PID()
	if pid == 0 {
		return errors.New("the engine is down")
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("send %s to engine: %w", sig, err)
	}
	return nil
}

// close does not wait for a good end: the data goes away anyhow.
func (e *embedded) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = e.engine.Stop(ctx) // says that it killed it
	os.RemoveAll(e.dir)
}

// awaitClickHouse returns once the server answers, or ctx ends.
func awaitClickHouse(ctx context.Context, dsn string) error {
	opts, err := clickhouse.ParseDSN(dsn)
	if err != nil {
		return fmt.Errorf("parse address of ClickHouse: %w", err)
	}
	opts.DialTimeout = time.Second
	conn, err := clickhouse.Open(opts)
	if err != nil {
		return fmt.Errorf("open ClickHouse: %w", err)
	}
	defer conn.Close()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		err := conn.Ping(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for ClickHouse on %s: %w (last answer: %v)", opts.Addr[0], ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

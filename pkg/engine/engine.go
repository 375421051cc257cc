// Package engine runs ClickHouse for a program that has no server: it starts the engine library as a child process
// of the own binary, and keeps it running. It promises that the engine answers when Start returns, comes back on the
// same addresses after a crash with all acknowledged data, and leaves no process behind, however the program ends.
//
// A program that uses it calls [RunIfChild] before anything else in main, and tests do so in TestMain.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// The users that every engine has. Their rights are in users.xml, see config.go.
const (
	// UserHub is the program's own user, with every right and a random password.
	UserHub = "hub"
	// UserPlanner reads database welfare, from this machine only, without a password.
	UserPlanner = "planner"
	// Database is the public database; it is there once Start returns.
	Database = "welfare"
)

// Options of Start. The zero value of each but DataDir is usable.
type Options struct {
	// Library is the engine library, or a clickhouse binary. Empty: WELFAREHUB_ENGINE, then the places that
	// deploy/engine/install.sh fills, then clickhouse on PATH.
	Library string
	// DataDir is the program's data folder. The engine owns clickhouse/ and clickhouse.password in it.
	DataDir string
	// Native and HTTP are addresses to listen on, 127.0.0.1:0 by default; port 0 takes a free one. Both have one host.
	Native, HTTP string
	// MemoryLimit caps what queries and merges may take, in bytes; 512 MiB by default. About 250 MiB come on top of
	// it: code pages and what the engine does not track.
	MemoryLimit int64
	// MinFreeDisk is the space that must be free at the start, in bytes; 1 GiB by default, negative for no check.
	MinFreeDisk int64
	// StartTimeout is how long the engine may take to answer, 60 s by default; loading large tables takes a while.
	StartTimeout time.Duration
	// StopTimeout is how long Stop waits for the engine to end by itself before it kills it, 20 s by default.
	StopTimeout time.Duration
	// Logger gets starts, stops and crashes. Never what the engine says of queries: that may hold values.
	Logger *zap.Logger
	// OnRestart is called after each crash, once the engine answers again. It must not block.
	OnRestart func(Restart)
}

// Restart tells of one crash that was survived.
type Restart struct {
	Cause    string        // how the child ended, as "signal: killed"
	Attempts int           // starts that it took
	Downtime time.Duration // from the end of the child to the first answer
}

func (o *Options) setDefaults() {
	if o.Native == "" {
		o.Native = "127.0.0.1:0"
	}
	if o.HTTP == "" {
		o.HTTP = "127.0.0.1:0"
	}
	if o.MemoryLimit == 0 {
		o.MemoryLimit = 512 << 20
	}
	if o.MinFreeDisk == 0 {
		o.MinFreeDisk = 1 << 30
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = time.Minute
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 20 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Engine is a running ClickHouse. Its methods may be called from any goroutine.
type Engine struct {
	opts     Options
	server   server
	data     *dataDir
	password string
	native   string
	http     string
	guard    *guard // of a library; nil for a clickhouse binary

	stop chan struct{} // closed by Stop
	done chan struct{} // closed when the supervisor has ended and no child is left

	mu       sync.Mutex
	pid      int // of the child; 0 between two of them
	restarts int
}

// Start checks everything that can be checked beforehand, starts the engine and returns once both addresses answer
// and database welfare is there. Cancelling ctx ends the attempt; it has no effect on a started engine, use Stop.
func Start(ctx context.Context, opts Options) (*Engine, error) {
	if os.Getenv(childEnv) != "" {
		return nil, errors.New("start engine: this process is an engine child; main must call engine.RunIfChild first")
	}
	opts.setDefaults()
	srv, err := findServer(opts.Library, opts.DataDir)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	data, err := openDataDir(ctx, opts.DataDir, opts.MinFreeDisk)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	e := &Engine{opts: opts, server: srv, data: data, stop: make(chan struct{}), done: make(chan struct{})}
	if e.password, err = data.loadPassword(); err != nil {
		data.Close()
		return nil, fmt.Errorf("start engine: %w", err)
	}
	// A free port can be taken by somebody else before the engine listens on it: then another one is tried.
	for try := 1; ; try++ {
		err = e.startOnce(ctx)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, errBindRace) || try == 3 {
			data.Close()
			return nil, fmt.Errorf("start engine: %w", err)
		}
	}
}

func (e *Engine) startOnce(ctx context.Context) error {
	host, native, http, err := listenOn(e.opts.Native, e.opts.HTTP)
	if err != nil {
		return err
	}
	http.Close() // the engine's own from here on
	dial := host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		dial = "127.0.0.1" // where we, and planner, reach an engine that listens everywhere
	}
	e.native, e.http = net.JoinHostPort(dial, port(native)), net.JoinHostPort(dial, port(http))
	backend := port(native)
	if e.server.library {
		if backend, err = freePort(host); err != nil {
			native.Close()
			return err
		}
		e.guard = startGuard(native, net.JoinHostPort(dial, backend), e.http, e.opts.Logger)
	} else {
		native.Close()
	}
	if err := e.data.writeConfig(configValues{
		Data: e.data.Path, Host: host, NativePort: backend, HTTPPort: port(http), MemoryLimit: e.opts.MemoryLimit, Password: e.password,
	}); err != nil {
		e.closeGuard()
		return err
	}
	e.done = make(chan struct{})
	first := make(chan error, 1)
	go e.supervise(ctx, first)
	if err := <-first; err != nil {
		<-e.done
		e.closeGuard()
		return err
	}
	return nil
}

// closeGuard is for a start that failed: no child is left, so nothing keeps the guard's connections.
func (e *Engine) closeGuard() {
	if e.guard != nil {
		e.guard.close()
		e.guard.wait()
		e.guard = nil
	}
}

// Stop asks the engine to end, waits until it has written what it holds, and kills it after StopTimeout or when ctx
// ends, whichever is first; killing loses no acknowledged data. A second Stop only waits.
func (e *Engine) Stop(ctx context.Context) error {
	e.mu.Lock()
	select {
	case <-e.stop:
	default:
		close(e.stop)
	}
	e.mu.Unlock()
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		e.signal(syscall.SIGKILL)
		<-e.done
		return fmt.Errorf("stop engine: killed: %w", ctx.Err())
	}
}

// NativeAddr is the host:port of the native protocol. It stays the same over crashes.
func (e *Engine) NativeAddr() string { return e.native }

// HTTPAddr is the host:port of the HTTP interface. It stays the same over crashes.
func (e *Engine) HTTPAddr() string { return e.http }

// DSN is the address of database welfare for user hub on the native protocol, with the password: do not log it.
func (e *Engine) DSN() string {
	return e.dsn("clickhouse", e.native, url.UserPassword(UserHub, e.password))
}

// HTTPDSN is as DSN, by HTTP.
func (e *Engine) HTTPDSN() string {
	return e.dsn("http", e.http, url.UserPassword(UserHub, e.password))
}

// PlannerDSN is the address of database welfare for planners; it holds no secret.
func (e *Engine) PlannerDSN() string { return e.dsn("clickhouse", e.native, url.User(UserPlanner)) }

func (e *Engine) dsn(scheme, addr string, user *url.Userinfo) string {
	return (&url.URL{Scheme: scheme, User: user, Host: addr, Path: "/" + Database}).String()
}

// PasswordFile is the file with hub's password.
func (e *Engine) PasswordFile() string { return filepath.Join(e.opts.DataDir, passwordFile) }

// PID is the process id of the child, 0 while it is being started again. For tests that break things.
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pid
}

// Restarts counts the crashes that were survived.
func (e *Engine) Restarts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.restarts
}

// Wait blocks until the engine answers, as after a crash, or ctx ends, or Stop was called.
func (e *Engine) Wait(ctx context.Context) error {
	for {
		err := e.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-e.stop:
			return errors.New("wait for engine: it was stopped")
		case <-ctx.Done():
			return fmt.Errorf("wait for engine on %s: %w (last answer: %w)", e.native, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (e *Engine) setPID(pid int) {
	e.mu.Lock()
	e.pid = pid
	e.mu.Unlock()
}

func (e *Engine) signal(sig syscall.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pid != 0 {
		_ = syscall.Kill(e.pid, sig) // it has ended already: nothing to do
	}
}

// listenOn takes both addresses, a free port where they say 0. The host is returned as it was given: a listener reports
// 0.0.0.0 as [::], which is no address where IPv6 is switched off.
func listenOn(nativeAddr, httpAddr string) (host string, native, http net.Listener, err error) {
	host, _, err = net.SplitHostPort(nativeAddr)
	if err != nil {
		return "", nil, nil, fmt.Errorf("native address %q is not host:port: %w", nativeAddr, err)
	}
	httpHost, _, err := net.SplitHostPort(httpAddr)
	if err != nil {
		return "", nil, nil, fmt.Errorf("HTTP address %q is not host:port: %w", httpAddr, err)
	}
	if host != httpHost {
		return "", nil, nil, fmt.Errorf("native address %s and HTTP address %s must have the same host", nativeAddr, httpAddr)
	}
	if native, err = listen("native", nativeAddr); err != nil {
		return "", nil, nil, err
	}
	if http, err = listen("HTTP", httpAddr); err != nil {
		native.Close()
		return "", nil, nil, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, native, http, nil
}

func freePort(host string) (string, error) {
	l, err := listen("engine", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return port(l), nil
}

func port(l net.Listener) string { return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) }

func listen(what, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w: another process listens on %s (%s); stop it, or choose another address (port 0 takes a free one)", ErrPortInUse, addr, what)
	case err != nil:
		return nil, fmt.Errorf("listen on %s address %s: %w", what, addr, err)
	}
	return l, nil
}

package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"go.uber.org/zap"
)

const (
	firstBackoff  = 200 * time.Millisecond
	longestPause  = 15 * time.Second
	healthyUptime = time.Minute // a child that lived this long starts the backoff over
)

// errBindRace: a port that was free a moment ago is not.
var errBindRace = errors.New("a free port was taken by another process")

// supervise runs the child until Stop, starting it again when it ends by itself. It sends the outcome of the first
// start on first, exactly once, and returns after a failed one. The goroutine keeps its thread, because the kernel kills
// the child when the *thread* that started it ends (Pdeathsig).
func (e *Engine) supervise(ctx context.Context, first chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	done := e.done
	defer close(done)

	log := e.opts.Logger
	begin := time.Now()
	child, err := e.spawn()
	if err == nil {
		err = e.awaitReady(ctx, child)
	}
	if err == nil {
		err = e.createDatabase(ctx)
	}
	if err != nil {
		child.kill()
		e.setPID(0)
		first <- err
		return
	}
	log.Info("engine started", zap.String("native", e.native), zap.String("http", e.http),
		zap.Int("pid", child.pid()), zap.Duration("took", time.Since(begin)))
	first <- nil
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.endUnlimited()
	}()
	defer func() { <-ended }() // Stop was called: there is no other way out of here

	pause := firstBackoff
	for {
		started := time.Now()
		select {
		case <-e.stop:
			e.shutDown(child)
			return
		case <-child.exited:
		}
		died := time.Now()
		e.setPID(0)
		cause := child.state()
		log.Error("engine crashed, starting it again", zap.String("cause", cause), zap.String("log", e.data.logFile()))
		if died.Sub(started) > healthyUptime {
			pause = firstBackoff
		}
		for attempts := 1; ; attempts++ {
			select {
			case <-e.stop:
				if e.guard != nil {
					e.guard.close()
					e.guard.wait()
				}
				e.data.Close()
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, longestPause)
			if child, err = e.spawn(); err == nil {
				err = e.awaitReady(context.Background(), child)
			}
			if err == nil {
				e.mu.Lock()
				e.restarts++
				e.mu.Unlock()
				r := Restart{Cause: cause, Attempts: attempts, Downtime: time.Since(died)}
				log.Info("engine is back", zap.Int("attempts", attempts), zap.Duration("downtime", r.Downtime))
				if e.opts.OnRestart != nil {
					e.opts.OnRestart(r)
				}
				break
			}
			child.kill()
			e.setPID(0)
			log.Error("engine did not come back", zap.Int("attempt", attempts), zap.Duration("next_try_in", pause), zap.Error(err))
		}
	}
}

func (e *Engine) shutDown(child *child) {
	begin := time.Now()
	log := e.opts.Logger
	defer e.data.Close()
	defer e.setPID(0)
	if e.guard != nil {
		// Without connections the engine ends at once.
		e.guard.close()
		defer e.guard.wait()
	}
	e.signal(syscall.SIGTERM)
	select {
	case <-child.exited:
		log.Info("engine stopped", zap.Duration("took", time.Since(begin)))
	case <-time.After(e.opts.StopTimeout):
		child.kill()
		log.Warn("engine killed, it did not stop in time", zap.Duration("waited", e.opts.StopTimeout))
	}
}

// child is one process of the engine. A nil child is one that could not be started.
type child struct {
	cmd    *exec.Cmd
	alive  io.Closer // our end of the pipe whose closing tells the child that we are gone
	exited chan struct{}
	logAt  int64 // where its output begins in the log file
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// state says how the child ended; only after exited.
func (c *child) state() string { return c.cmd.ProcessState.String() }

func (c *child) kill() {
	if c == nil {
		return
	}
	_ = c.cmd.Process.Kill() // it has ended already: nothing to do
	<-c.exited
}

func (e *Engine) spawn() (*child, error) {
	out, logAt, err := e.data.openLog()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe to engine: %w", err)
	}
	defer r.Close()
	cmd, err := e.server.command(e.data, e.http)
	if err != nil {
		w.Close()
		return nil, err
	}
	cmd.Dir = e.data.Path
	cmd.Env = append(os.Environ(), childEnv+"=1", "TZ=UTC")
	cmd.Stdout, cmd.Stderr = out, out
	// fd 3: end of file means that the parent is gone. fd 4: the child shares the lock, so that it outlives us.
	cmd.ExtraFiles = []*os.File{r, e.data.Lock}
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start engine process %s: %w", cmd.Path, err)
	}
	c := &child{cmd: cmd, alive: w, exited: make(chan struct{}), logAt: logAt}
	e.setPID(c.pid())
	go func() {
		_ = cmd.Wait() // the outcome is in ProcessState
		w.Close()
		close(c.exited)
	}()
	return c, nil
}

// awaitReady returns nil once the child answers user hub on both addresses.
func (e *Engine) awaitReady(ctx context.Context, c *child) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, e.opts.StartTimeout)
	defer cancel()
	for {
		err := e.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			return e.startError(c)
		case <-e.stop:
			return fmt.Errorf("%w: it was stopped before it answered", ErrNotStarted)
		case <-ctx.Done():
			return fmt.Errorf("%w: no answer on %s and %s in %s: %w: %w", ErrNotStarted, e.native, e.http, time.Since(begin).Round(time.Millisecond), ctx.Err(), err)
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// startError explains a child that ended before it answered. Its output is of the start only, so it holds no data.
func (e *Engine) startError(c *child) error {
	tail := e.data.logTail(c.logAt)
	if strings.Contains(tail, "Address already in use") {
		return fmt.Errorf("%w: %w", errBindRace, ErrPortInUse)
	}
	return fmt.Errorf("%w: process ended with %s: %s (all of it in %s)", ErrNotStarted, c.state(), lastLine(tail), e.data.logFile())
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" {
		return "it said nothing"
	}
	return last
}

// ping asks both addresses as user hub, so that another server on the same port does not pass for ours.
func (e *Engine) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := e.post(ctx, "SELECT 1"); err != nil {
		return err
	}
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr:        []string{e.native},
		Auth:        clickhouse.Auth{Username: UserHub, Password: e.password},
		DialTimeout: 2 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", e.native, err)
	}
	defer conn.Close()
	if err := conn.Ping(ctx); err != nil {
		return fmt.Errorf("ping %s: %w", e.native, err)
	}
	return nil
}

func (e *Engine) createDatabase(ctx context.Context) error {
	return e.post(ctx, "CREATE DATABASE IF NOT EXISTS "+Database)
}

func (e *Engine) post(ctx context.Context, query string) error {
	return postQuery(ctx, e.http, e.password, query)
}

// postQuery runs a statement without result as user hub.
func postQuery(ctx context.Context, addr, password, query string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/", strings.NewReader(query))
	if err != nil {
		return fmt.Errorf("ask http://%s: %w", addr, err)
	}
	req.Header.Set("X-ClickHouse-User", UserHub)
	req.Header.Set("X-ClickHouse-Key", password)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask http://%s: %w", addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return fmt.Errorf("read answer of http://%s: %w", addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask http://%s: status %d: %s", addr, resp.StatusCode, bytes.TrimSpace(body))
	}
	return nil
}

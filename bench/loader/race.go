//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/child"
)

// result is one run of one contestant.
type result struct {
	contestant string
	terms      string
	share      string // what differs between the runs of a question, as "10 % duplicates"
	records    int
	wall       time.Duration // from its start to the last acknowledged insert
	first      time.Duration // to the first
	firstCount int           // how many it had then
	best       float64       // records/s of a peer at the moment that suits it best; 0: records/wall
	settled    time.Duration // until the merges had settled
	cpu        cpu           // to the last acknowledged insert
	afterwards time.Duration // CPU of the engine, merges settled
	peak       int64         // bytes, of all its processes
	enginePeak int64
	held       int     // bytes that a filter holds
	busy       float64 // cores that others used before it began
}

// cpu is CPU time by part.
type cpu struct{ loader, engine, broker time.Duration }

func (r *result) rate() float64 {
	if r.best > 0 {
		return r.best
	}
	return float64(r.records) / r.wall.Seconds()
}

// running is the rate after the first insert; that of the whole where there was one insert only.
func (r *result) running() float64 {
	if r.firstCount == r.records {
		return r.rate()
	}
	return float64(r.records-r.firstCount) / (r.wall - r.first).Seconds()
}

// perMillion is CPU time in seconds for a million records.
func (r *result) perMillion(d time.Duration) float64 { return d.Seconds() / float64(r.records) * 1e6 }

// patience is how long a run may take.
const patience = 30 * time.Minute

// rival is a running contestant.
type rival struct {
	proc  *child.Process
	stdin io.WriteCloser
	done  chan struct{} // closed when it has said all
}

// said is a line of a contestant. ended: there are no more.
type said struct {
	who   int
	word  string
	n     int
	at    time.Time
	ended bool
}

func startContestant(s *spec, who int, lines chan<- said) (*rival, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	cmd := exec.CommandContext(context.Background(), self, contestantArgument) // it ends with its input
	cmd.Stderr = os.Stderr
	c := &rival{done: make(chan struct{})}
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	out, says := io.Pipe()
	cmd.Stdout = says
	if c.proc, err = child.Start(cmd); err != nil {
		return nil, fmt.Errorf("start contestant %s: %w", s.Kind, err)
	}
	go func() {
		<-c.proc.Exited() // all that it said was copied
		_ = says.Close()
	}()
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("tell contestant what to do: %w", err)
	}
	if _, err := c.stdin.Write(append(raw, '\n')); err != nil {
		return nil, fmt.Errorf("tell contestant what to do: %w", err)
	}
	go func() {
		for scan := bufio.NewScanner(out); scan.Scan(); {
			word, arg, _ := strings.Cut(scan.Text(), " ")
			n, _ := strconv.Atoi(arg) // "begin" has none
			lines <- said{who: who, word: word, n: n, at: time.Now()}
		}
		lines <- said{who: who, ended: true}
		close(c.done)
	}()
	return c, nil
}

// stop ends a contestant, by force where it does not end by itself.
func (c *rival) stop(lines <-chan said) {
	_ = c.stdin.Close()
	t := time.AfterFunc(20*time.Second, func() { _ = c.proc.Kill() })
	defer t.Stop()
	for {
		select {
		case <-lines:
			continue
		case <-c.done:
		}
		break
	}
	<-c.proc.Exited()
}

// prepare waits until the machine is quiet, and begins a result.
func (l *lab) prepare(ctx context.Context, r *result) error {
	if _, err := l.settle(ctx); err != nil {
		return err
	}
	r.busy = busyCores(2 * time.Second)
	if r.busy > 0.5 {
		fmt.Fprintf(os.Stderr, "warning: %.1f cores are busy before %s begins, its figures are not to be trusted\n", r.busy, r.contestant)
	}
	return resetPeak(l.engine.PID())
}

// race runs contestants side by side, once, until they have done so many records in all.
func (l *lab) race(ctx context.Context, r result, specs ...spec) (result, error) {
	return l.raceThen(ctx, r, func(time.Time) error { return nil }, specs...)
}

// raceThen is race, and does what is left before the contestants end.
func (l *lab) raceThen(ctx context.Context, r result, then func(began time.Time) error, specs ...spec) (result, error) {
	if err := l.prepare(ctx, &r); err != nil {
		return r, err
	}
	lines := make(chan said, 1024)
	before := l.cpu()
	began := time.Now()
	children := make([]*rival, len(specs))
	counts := make([]int, len(specs))
	defer func() {
		for _, c := range children {
			if c != nil {
				c.stop(lines)
			}
		}
	}()
	var err error
	for i := range specs {
		if children[i], err = startContestant(&specs[i], i, lines); err != nil {
			return r, err
		}
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	var preparing time.Duration
	for total := 0; total < r.records; {
		var s said
		select {
		case s = <-lines:
		case <-ctx.Done():
			return r, ctx.Err()
		case <-limit.C:
			return r, fmt.Errorf("%s has %d of %d records after %s", r.contestant, total, r.records, patience)
		}
		switch {
		case s.ended:
			return r, fmt.Errorf("%s ended with %d of %d records", r.contestant, total, r.records)
		case s.word == "begin":
			began, before = s.at, l.cpu()
			preparing, _ = child.Usage(children[s.who].proc.PID())
		case s.word == "bytes":
			r.held = s.n
		case s.word == "count":
			total += s.n - counts[s.who]
			counts[s.who] = s.n
			if r.first == 0 && total > 0 {
				r.first, r.firstCount = s.at.Sub(began), total
			}
			r.wall = s.at.Sub(began)
		}
	}
	r.cpu = l.cpu().since(before)
	for _, c := range children {
		used, peak := child.Usage(c.proc.PID())
		r.cpu.loader += used
		r.peak += peak
	}
	r.cpu.loader -= preparing
	if err := then(began); err != nil {
		return r, err
	}
	err = l.finish(ctx, &r, began, before)
	return r, err
}

// raceKafkaEngine runs the Kafka engine until its group has committed all records: it commits after each insert.
func (l *lab) raceKafkaEngine(ctx context.Context, r result, t *terms, partitions int) (result, error) {
	if err := l.prepare(ctx, &r); err != nil {
		return r, err
	}
	group := l.group("engine")
	before, began := l.cpu(), time.Now()
	defer func() { _ = l.stopKafkaEngine(context.WithoutCancel(ctx)) }()
	if err := l.startKafkaEngine(ctx, t, group, partitions); err != nil {
		return r, err
	}
	for last := 0; last < r.records; time.Sleep(10 * time.Millisecond) {
		n, err := l.committed(ctx, group, partitions)
		if err != nil {
			return r, err
		}
		if time.Since(began) > patience {
			return r, fmt.Errorf("%s has %d of %d records after %s", r.contestant, n, r.records, patience)
		}
		if n == last {
			continue
		}
		r.wall, last = time.Since(began), n
		if r.first == 0 {
			r.first, r.firstCount = r.wall, n
		}
		// The last, smaller block waits for more until the flush interval ends: what it had before counts too.
		if n >= r.records*6/10 {
			r.best = max(r.best, float64(n)/r.wall.Seconds())
		}
	}
	r.cpu = l.cpu().since(before)
	if err := l.stopKafkaEngine(ctx); err != nil {
		return r, err
	}
	err := l.finish(ctx, &r, began, before)
	return r, err
}

// finish adds what is known only when the merges have settled.
func (l *lab) finish(ctx context.Context, r *result, began time.Time, before cpu) error {
	at, err := l.settle(ctx)
	r.settled = max(at.Sub(began), r.wall)
	r.afterwards = l.cpu().since(before).engine
	_, r.enginePeak = child.Usage(l.engine.PID())
	return err
}

// cpu is what engine and broker have used so far.
func (l *lab) cpu() (c cpu) {
	c.engine, _ = child.Usage(l.engine.PID())
	c.broker, _ = child.Usage(l.kafka.PID())
	return c
}

func (c cpu) since(before cpu) cpu {
	return cpu{loader: c.loader - before.loader, engine: c.engine - before.engine, broker: c.broker - before.broker}
}

// resetPeak has the kernel forget the peak of a process.
func resetPeak(pid int) error {
	if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), "clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset peak memory of process %d: %w", pid, err)
	}
	return nil
}

// busyCores is how many cores were busy over a time in which nobody should work.
func busyCores(over time.Duration) float64 {
	idle := func() (n int64) {
		raw, err := os.ReadFile("/proc/stat")
		if err != nil {
			return 0
		}
		fields := strings.Fields(string(raw))
		for _, f := range fields[4:6] { // idle, and waiting for the disk
			v, _ := strconv.ParseInt(f, 10, 64) // the kernel writes numbers
			n += v
		}
		return n
	}
	before, began := idle(), time.Now()
	time.Sleep(over)
	free := float64(idle()-before) * child.Tick.Seconds() / time.Since(began).Seconds()
	return max(0, float64(cores())-free)
}

// progress is for whoever waits.
func (l *lab) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "  "+format+"\n", args...)
}

func (l *lab) tell(r *result) {
	l.progress("%s, %s, %s: %.0f thousand/s, %.2f s, settled after %.2f s", r.contestant, r.terms, r.share, r.rate()/1000, r.wall.Seconds(), r.settled.Seconds())
}

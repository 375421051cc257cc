package publish

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// How often progress is written: on a terminal one line is rewritten, else lines are added.
const (
	terminalEvery = 200 * time.Millisecond
	plainEvery    = 10 * time.Second
	tickEvery     = 256 // records between two looks at the clock
)

// progress writes how far a run is. It is used by one goroutine.
type progress struct {
	o       *Options
	report  *Report
	out     io.Writer
	started time.Time
	last    time.Time
	in      *input
	base    int // records before this file
	ticks   int
	width   int // of the line on the terminal
}

func newProgress(o *Options, report *Report) *progress {
	now := time.Now()
	return &progress{o: o, report: report, out: o.Progress, started: now, last: now}
}

// file starts the progress of a file.
func (p *progress) file(in *input) {
	p.in, p.base, p.started, p.ticks = in, p.report.Records, time.Now(), 0
}

// tick is called after each record.
func (p *progress) tick() {
	if p.ticks++; p.ticks%tickEvery != 0 {
		return
	}
	now := time.Now()
	every := plainEvery
	if p.o.Terminal {
		every = terminalEvery
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	p.show(progressLine(p.in.name, p.report.Records-p.base, p.report.Bad, p.in.read, p.in.size, now.Sub(p.started)))
}

// progressLine says how far a file is, how fast, and when it will be done if its size is known.
func progressLine(name string, records, bad int, read, size int64, elapsed time.Duration) string {
	seconds := elapsed.Seconds()
	s := fmt.Sprintf("%s: %d records, %.0f/s", name, records, float64(records)/max(seconds, 1e-3))
	if bad > 0 {
		s += fmt.Sprintf(", %d bad", bad)
	}
	if size > 0 && read > 0 {
		left := time.Duration(seconds * float64(size-min(read, size)) / float64(read) * float64(time.Second))
		s += fmt.Sprintf(", %d %%, %s left", min(read, size)*100/size, left.Round(time.Second))
	}
	return s
}

func (p *progress) show(line string) {
	if !p.o.Terminal {
		fmt.Fprintln(p.out, line)
		return
	}
	pad := strings.Repeat(" ", max(0, p.width-len(line)))
	fmt.Fprint(p.out, "\r"+line+pad)
	p.width = len(line)
}

// clear empties the line on the terminal, so that something else can be written there.
func (p *progress) clear() {
	if p.o.Terminal && p.width > 0 {
		fmt.Fprint(p.out, "\r"+strings.Repeat(" ", p.width)+"\r")
		p.width = 0
	}
}

func (p *progress) stop() { p.clear() }

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// How often progress is written: on a terminal one line is rewritten, else lines are added.
const (
	progressTerminal = 200 * time.Millisecond
	progressPlain    = 10 * time.Second
)

// progress shows how far a long run is, on the error output of its command.
type progress struct {
	out      io.Writer
	terminal bool
	began    time.Time
	last     time.Time
	width    int // of the line on the terminal
}

func newProgress(out io.Writer) *progress {
	now := time.Now()
	return &progress{out: out, terminal: isTerminal(out), began: now, last: now}
}

// show says what is at work, and how many of all offsets are done.
func (p *progress) show(what string, done, total int64) {
	now := time.Now()
	every := progressPlain
	if p.terminal {
		every = progressTerminal
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	line := progressLine(what, done, total, now.Sub(p.began))
	if !p.terminal {
		fmt.Fprintln(p.out, line)
		return
	}
	fmt.Fprint(p.out, "\r"+line+strings.Repeat(" ", max(0, p.width-len(line))))
	p.width = len(line)
}

// progressLine says how far, how fast, and when it will be done.
func progressLine(what string, done, total int64, elapsed time.Duration) string {
	rate := float64(done) / max(elapsed.Seconds(), 1e-3)
	s := fmt.Sprintf("%s: %d of %d offsets, %.0f/s", what, done, total, rate)
	if done > 0 && total > 0 {
		left := time.Duration(float64(total-done) / max(rate, 1e-9) * float64(time.Second))
		s += fmt.Sprintf(", %d %%, %s left", done*100/total, left.Round(time.Second))
	}
	return s
}

// stop empties the line on the terminal.
func (p *progress) stop() {
	if p.terminal && p.width > 0 {
		fmt.Fprint(p.out, "\r"+strings.Repeat(" ", p.width)+"\r")
		p.width = 0
	}
}

package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Run publishes the files of o, in their order, and returns when Kafka acknowledged all, or at the
// first thing that it cannot get past. A record with a problem sends none of its events; the others
// are sent. The error is nil only if every record was accepted and acknowledged (in a dry run:
// accepted); else it wraps ErrRejected, ErrTooManyErrors, ErrNotAcknowledged, the context's error, or
// says which file, mapping or option is at fault. The report is right in any case.
func Run(ctx context.Context, o Options) (report Report, err error) {
	report = Report{Events: map[string]int{}, Flags: map[string]int{}, Positions: &Positions{}}
	if err := o.Validate(); err != nil {
		return report, err
	}
	o.fill()
	start := time.Now()
	defer func() { report.Elapsed = time.Since(start) }()
	var m *Mapping
	if o.Mapping != "" {
		if m, err = LoadMapping(o.Mapping); err != nil {
			return report, err
		}
	}
	r := &run{o: &o, m: m, report: &report, progress: newProgress(&o, &report)}
	if !o.DryRun {
		r.sender = newSender(&o, &report)
		defer func() { err = errors.Join(err, r.sender.close()) }()
	}
	defer r.progress.stop()
	for _, name := range o.Files {
		if err := r.file(ctx, name); err != nil {
			return report, err
		}
	}
	if r.sender != nil {
		if err := r.sender.flush(ctx); err != nil {
			return report, err
		}
	}
	if report.Bad > 0 {
		return report, fmt.Errorf("%d of %d records: %w; correct them and publish again: what is there already ends as duplicate", report.Bad, report.Records, ErrRejected)
	}
	return report, nil
}

// run is the state of one Run.
type run struct {
	o        *Options
	m        *Mapping
	report   *Report
	sender   *sender // nil in a dry run
	progress *progress
	value    []byte   // reused, to measure an event
	flags    []string // warnings of the record at hand
}

func (r *run) file(ctx context.Context, name string) (err error) {
	in, err := open(name, r.o, r.m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	b, err := newBuilder(in, r.o, r.m)
	if err != nil {
		return err
	}
	r.progress.file(in)
	for {
		if ctx.Err() != nil {
			return fmt.Errorf("publish %s: %w after %d records; %d events are acknowledged, and what is published again ends as duplicate", name, context.Cause(ctx), r.report.Records, r.report.Published)
		}
		rec, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var lost *lineError
		if err != nil && !errors.As(err, &lost) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		r.report.Records++
		r.progress.tick()
		bad := false
		r.flags = r.flags[:0]
		found := func(p Problem) {
			bad = true
			r.progress.clear()
			r.o.OnProblem(p)
		}
		var rows []*event.Row
		if lost != nil {
			found(Problem{File: name, Line: lost.line, Code: CodeSyntax, Text: lost.text, Limit: lost.limit, Advice: "Correct the line"})
		} else {
			rows = b.build(rec, found)
			for _, row := range rows {
				r.check(name, rec.line, row, found)
			}
		}
		if bad {
			if r.report.Bad++; r.o.MaxErrors > 0 && r.report.Bad >= r.o.MaxErrors {
				return fmt.Errorf("publish %s: stopped after %d records: %w (the limit is %d bad records; raise it to see more); %d events were published", name, r.report.Records, ErrTooManyErrors, r.o.MaxErrors, r.report.Published)
			}
			continue
		}
		for _, code := range r.flags {
			r.report.Flags[code]++
		}
		for _, row := range rows {
			if err := r.send(ctx, row); err != nil {
				return err
			}
		}
	}
}

// check applies the hub's rules. Warnings are counted; they do not hold an event back.
func (r *run) check(file string, line int, row *event.Row, found func(Problem)) {
	t := row.Type
	if r.value = row.AppendAvro(r.value[:0]); len(r.value)+event.FrameSize > r.o.MaxValueBytes {
		found(Problem{File: file, Line: line, Event: t.Name, Code: "P06", Text: "the event is too large", Limit: fmt.Sprintf("at most %d bytes (max-value-bytes of the hub)", r.o.MaxValueBytes), Advice: "Shorten its texts"})
	}
	r.o.Check.Check(row, r.o.Now(), func(f Finding) {
		if f.warning() {
			r.flags = append(r.flags, f.Code)
			return
		}
		found(Problem{File: file, Line: line, Event: t.Name, Field: f.Field, Code: f.Code, Text: f.Message})
	})
}

func (r *run) send(ctx context.Context, row *event.Row) error {
	r.report.Events[row.Type.Name]++
	if r.sender == nil {
		return nil
	}
	id, err := r.sender.schemaID(ctx, row.Type)
	if err != nil {
		return err
	}
	key, value, headers := event.Message(row, id)
	return r.sender.add(ctx, row.Type.Topic, key, value, headers)
}

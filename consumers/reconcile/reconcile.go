// Package reconcile proves, for whoever runs the hub, that nothing published was lost or stored twice: it
// compares the logs in Kafka, the ledger, the stored rows, the known ids and the aggregates with one
// another. It changes nothing, and it names what does not fit as ranges of offsets.
package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// Verifier looks at the aggregates and at what they are made of.
type Verifier interface {
	// VerifyFacts compares the facts and records of the aggregation with the stored rows.
	VerifyFacts(ctx context.Context, found func(topic string, partition uint32, from, to, records uint64, detail string)) error
	// VerifyAll computes the cells again from the facts and counts those that differ from what is stored.
	VerifyAll(ctx context.Context) (differing uint64, err error)
}

// Options of Run.
type Options struct {
	DB       driver.Conn   // ClickHouse, with SELECT on the databases store and welfare; required
	Cluster  kafka.Cluster // without brokers the logs are not looked at
	Topics   []string      // of the catalogue; empty: all
	Verifier Verifier      // nil: the aggregates are not looked at
	Recheck  time.Duration // pause before what does not fit is looked at again; 0: 2 s, negative: never
	Logger   *zap.Logger   // nil: none

	Window        Window              // of what is looked at one by one
	Content       bool                // hash the rows of the window again
	Log           bool                // read the records of the window again, and compare them with the rows; needs Cluster and Schemas
	Letters       bool                // compare the dead letters with the rejects; needs Cluster
	Schemas       record.SchemaSource // needed for Log
	MaxValueBytes int                 // as the loader's; 1 MiB
	// Progress is told how many offsets of a part are done. Default: nobody is.
	Progress func(part string, done, total int64)
}

const defaultRecheck = 2 * time.Second

// Run reconciles the topics. The loader may be at work meanwhile: what does not fit must be seen twice,
// with a pause between, to be reported. An error means that it could not be found out, not that the books
// do not balance.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Recheck == 0 {
		o.Recheck = defaultRecheck
	}
	if o.MaxValueBytes == 0 {
		o.MaxValueBytes = 1 << 20
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	types, err := typesOf(o.Topics)
	if err != nil {
		return Report{}, err
	}
	report, err := pass(ctx, o, types)
	if err != nil {
		return report, err
	}
	if len(report.Findings) > 0 && o.Recheck > 0 {
		o.Logger.Info("books do not balance, looking again", zap.Int("findings", len(report.Findings)), zap.Duration("in", o.Recheck))
		if err := pause(ctx, o.Recheck); err != nil {
			return report, err
		}
		first := report.Findings
		if report, err = pass(ctx, o, types); err != nil {
			return report, err
		}
		report.Findings = slices.DeleteFunc(report.Findings, func(f Finding) bool { return !slices.ContainsFunc(first, f.samePlace) })
	}
	report.narrow(o.Window.Partition)
	if err := o.oneByOne(ctx, types, &report); err != nil {
		return report, err
	}
	if o.Verifier == nil {
		return report, nil
	}
	err = o.Verifier.VerifyFacts(ctx, func(topic string, partition uint32, from, to, records uint64, detail string) {
		report.Findings = append(report.Findings, Finding{KindFacts, topic, partition, from, to, records, detail})
	})
	if err != nil {
		return report, fmt.Errorf("verify facts: %w", err)
	}
	n, err := o.Verifier.VerifyAll(ctx)
	if err != nil {
		return report, fmt.Errorf("verify aggregates: %w", err)
	}
	report.Aggregates = &n
	if n > 0 {
		report.Findings = append(report.Findings, Finding{Kind: KindAggregates, Records: n, Detail: "cells of groups differ from their facts: report it: docs/OPERATIONS.md"})
	}
	return report, nil
}

// ErrUnknownTopic is returned by Run for a topic that is not of the catalogue; nothing was looked at.
var ErrUnknownTopic = errors.New("unknown topic")

func typesOf(topics []string) ([]*event.Type, error) {
	if len(topics) == 0 {
		return event.Types, nil
	}
	var out []*event.Type
	for _, name := range topics {
		t := event.ByTopic(name)
		if t == nil {
			return nil, fmt.Errorf("reconcile %s: %w: the topics are %v", name, ErrUnknownTopic, event.Topics())
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out, nil
}

// pass looks at everything once.
func pass(ctx context.Context, o Options, types []*event.Type) (Report, error) {
	r := Report{Partitions: []Partition{}, Findings: []Finding{}}
	for _, t := range types {
		c := &check{db: o.DB, t: t, partitions: map[uint32]*Partition{}}
		if err := c.run(ctx); err != nil {
			return r, fmt.Errorf("reconcile %s: %w", t.Topic, err)
		}
		for _, p := range c.partitions {
			r.Partitions = append(r.Partitions, *p)
		}
		r.Findings = append(r.Findings, c.findings...)
	}
	// The logs are read last, so that their ends are not before those of the ledger.
	if len(o.Cluster.Brokers) > 0 {
		logs, err := readLogs(ctx, o.Cluster, types)
		if err != nil {
			return r, err
		}
		r.compareLogs(logs)
	}
	slices.SortFunc(r.Partitions, func(a, b Partition) int {
		return cmp.Or(cmp.Compare(number(a.Topic), number(b.Topic)), cmp.Compare(a.Partition, b.Partition))
	})
	r.sort()
	return r, nil
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(number(a.Topic), number(b.Topic)), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.From, b.From), cmp.Compare(a.Kind, b.Kind))
	})
}

// narrow leaves one partition.
func (r *Report) narrow(partition *uint32) {
	if partition == nil {
		return
	}
	r.Partitions = slices.DeleteFunc(r.Partitions, func(p Partition) bool { return p.Partition != *partition })
	r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.Partition != *partition })
}

// oneByOne looks at what the books do not say: contents, the log and dead letters, within the window.
func (o *Options) oneByOne(ctx context.Context, types []*event.Type, r *Report) error {
	r.Hashed, r.Compared, r.Lettered = o.Content, o.Log, o.Letters
	logs := map[place]offsets{}
	if o.Log || o.Window.timed() {
		var err error
		if logs, err = readLogs(ctx, o.Cluster, types); err != nil {
			return err
		}
	}
	for _, t := range types {
		windows, err := o.windows(ctx, t, logs)
		if err != nil {
			return err
		}
		of := map[uint32]bounds{}
		for i := range r.Partitions {
			if p := &r.Partitions[i]; p.Topic == t.Topic && p.Blocks > 0 {
				b := windows.of(t.Topic, p.Partition, p.To)
				of[p.Partition], p.Contents.From, p.Contents.To = b, b.from, b.to
			}
		}
		if err := o.measure(ctx, t, of, r); err != nil {
			return err
		}
		// What the books say of the topic is known to c, so that no place is named twice.
		c := &check{db: o.DB, t: t}
		for _, f := range r.Findings {
			if f.Topic == t.Topic {
				c.findings = append(c.findings, f)
			}
		}
		known := len(c.findings)
		if err := o.look(ctx, c, of, logs, r); err != nil {
			return fmt.Errorf("reconcile %s: %w", t.Topic, err)
		}
		r.Findings = append(r.Findings, c.findings[known:]...)
	}
	r.sort()
	return nil
}

// look does what was asked for on one topic.
func (o *Options) look(ctx context.Context, c *check, of map[uint32]bounds, logs map[place]offsets, r *Report) error {
	for i := range r.Partitions {
		p := &r.Partitions[i]
		window, ok := of[p.Partition]
		if p.Topic != c.t.Topic || !ok {
			continue
		}
		if o.Content {
			if err := o.contents(c, p.Partition, window).run(ctx, p); err != nil {
				return err
			}
		}
		if log, there := logs[place{p.Topic, p.Partition}]; o.Log && there {
			if err := o.logCheck(o.contents(c, p.Partition, window)).run(ctx, p, log); err != nil {
				return err
			}
		}
	}
	if o.Letters && len(of) > 0 {
		return o.letterCheck(c, of).run(ctx, r)
	}
	return nil
}

// number orders topics as the catalogue does.
func number(topic string) int {
	if t := event.ByTopic(topic); t != nil {
		return t.No
	}
	return 0
}

// Package replay reads records of the log again, for whoever runs the hub: it stores rows again that were
// lost from ClickHouse, or copies records to another topic or a file. It promises that the ledger, the
// group's offsets and every row that is there stay as they are, so that a replay can be repeated, that a dry
// run counts what the real run will do, and that a run that was cut off can go on with the same counts.
//
// What becomes of a record is decided by the books, not by today's rules: a record that the books have as
// loaded, whose row is missing, and that is neither erased nor superseded, is stored again (restore.go says
// how). Everything else is only counted.
package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// Aggregates brings the aggregates in line with rows that were stored again: those of a topic's partition
// in [from, to).
type Aggregates interface {
	Recompute(ctx context.Context, topic string, partition int, from, to int64) error
}

// Selection is what to replay. Conditions that are not given select everything; those that are must all hold.
type Selection struct {
	Topics    []string  `json:"topics"`
	Partition *int      `json:"partition,omitempty"`
	From      *int64    `json:"from_offset,omitempty"`
	To        *int64    `json:"to_offset,omitempty"` // exclusive
	Since     time.Time `json:"since,omitzero"`      // of the Kafka timestamp
	Until     time.Time `json:"until,omitzero"`      // exclusive
	KeyHash   string    `json:"key_sha256,omitempty"`
	Source    string    `json:"source,omitempty"`
	Record    string    `json:"record,omitempty"` // sourceRecordId
	SchemaID  int       `json:"schema_id,omitempty"`
}

// Options of Run. The zero values of what is not required are sensible.
type Options struct {
	Cluster       wkafka.Cluster      // required
	DSN           string              // ClickHouse, native protocol; required
	Schemas       record.SchemaSource // required
	Aggregates    Aggregates          // nil: the aggregates are left to themselves
	Select        Selection
	DryRun        bool    // count only; nothing is written, not even the audit
	Resume        string  // id of a replay that was cut off, which goes on; Select and Target are its own then
	Who, Why      string  // for the audit; required unless DryRun
	Target        Target  // zero: store missing rows again
	Rate          float64 // records a second at most; 0: no limit
	MaxValueBytes int     // as the loader's; 1 MiB
	ChunkRecords  int     // records that are decided at once; 20,000
	Progress      func(Progress)
	Logger        *zap.Logger

	// Step is called after each step of a chunk: decide, fill, attach, restore, book. Its error cuts the
	// replay off there.
	Step func(step string) error
}

// Progress is how far a replay is.
type Progress struct {
	Topic       string
	Partition   int
	Done, Total int64 // offsets, of all partitions
	Counts      Counts
}

// Counts are the selected records by what became of them. Where rows are restored, Read is the sum of the
// others; where records are copied, there are Read and Copied only, and the rest was left out.
type Counts struct {
	Read       uint64            `json:"read"`
	Present    uint64            `json:"present"`    // loaded, and the row is there
	Restored   uint64            `json:"restored"`   // loaded, and the row was missing
	Duplicate  uint64            `json:"duplicate"`  //
	Rejected   uint64            `json:"rejected"`   //
	Erased     uint64            `json:"erased"`     // loaded, and the subject is erased
	Superseded uint64            `json:"superseded"` // loaded, and a copy elsewhere won
	Pending    uint64            `json:"pending"`    // the loader has not come to it
	Unknown    uint64            `json:"unknown"`    // see welfare.replays
	Copied     uint64            `json:"copied,omitempty"`
	Codes      map[string]uint64 `json:"codes,omitempty"` // the rejected by their first code
}

func (c *Counts) add(o *Counts) {
	c.Read += o.Read
	c.Present += o.Present
	c.Restored += o.Restored
	c.Duplicate += o.Duplicate
	c.Rejected += o.Rejected
	c.Erased += o.Erased
	c.Superseded += o.Superseded
	c.Pending += o.Pending
	c.Unknown += o.Unknown
	c.Copied += o.Copied
	for code, n := range o.Codes {
		if c.Codes == nil {
			c.Codes = map[string]uint64{}
		}
		c.Codes[code] += n
	}
}

// Report is what a replay did.
type Report struct {
	ID     string `json:"id,omitempty"` // of the audit; empty for a dry run
	DryRun bool   `json:"dry_run"`
	Counts
	Partitions []Partition `json:"partitions"`
}

// Partition is the part of a replay that one partition is.
type Partition struct {
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	From      int64  `json:"from_offset"`
	To        int64  `json:"to_offset"` // exclusive
	LogStart  int64  `json:"log_start"` // offset of the first record that is left
	Counts

	position int64 // done up to here
	started  time.Time
	finished bool
}

// Errors that a caller tells apart.
var (
	ErrSelection = errors.New("nothing can be replayed so")                  // wrong usage
	ErrLogStart  = errors.New("the log begins later")                        // retention took what was asked for
	ErrBusy      = errors.New("another replay stores rows of this table")    // or was cut off and must be resumed
	ErrNoReplay  = errors.New("welfare.replays has no unfinished replay so") // wrong id
)

// Validate checks what can be checked without a server.
func (o *Options) Validate() error {
	s := &o.Select
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrSelection}, args...)...)
	}
	if !o.DryRun && o.Resume == "" && o.Why == "" {
		return bad("say why, for the audit")
	}
	if o.Resume != "" {
		if _, err := uuid.Parse(o.Resume); err != nil {
			return bad("%q is not the id of a replay", o.Resume)
		}
		return nil
	}
	if len(s.Topics) == 0 {
		return bad("name a topic")
	}
	for _, t := range s.Topics {
		if event.ByTopic(t) == nil {
			return bad("%s is not a topic of events; they are %v", t, event.Topics())
		}
	}
	switch {
	case s.Partition == nil && (s.From != nil || s.To != nil):
		return bad("offsets are of one partition: name it")
	case s.Partition != nil && len(s.Topics) > 1:
		return bad("a partition is of one topic")
	case s.From != nil && s.To != nil && *s.From >= *s.To:
		return bad("the offsets %d to %d hold nothing", *s.From, *s.To)
	case !s.Since.IsZero() && !s.Until.IsZero() && !s.Since.Before(s.Until):
		return bad("the time from %s to %s holds nothing", s.Since.Format(time.RFC3339), s.Until.Format(time.RFC3339))
	}
	return o.Target.check(s)
}

func (o *Options) setDefaults() {
	if o.MaxValueBytes == 0 {
		o.MaxValueBytes = 1 << 20
	}
	if o.ChunkRecords == 0 {
		o.ChunkRecords = 20_000
	}
	if o.Rate > 0 {
		o.ChunkRecords = min(o.ChunkRecords, max(1, int(o.Rate/2)))
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Step == nil {
		o.Step = func(string) error { return nil }
	}
}

// chunkBytes bounds keys and values of what is decided at once.
const chunkBytes = 16 << 20

// runner is one replay at work.
type runner struct {
	opt    Options
	db     *clickhouse.DB
	books  *books
	report *Report
	sink   sink // nil: rows are restored
	pace   wkafka.Pace
	total  int64
}

// Run replays. Where it fails the report says how far it came; a replay that is no dry run can be resumed
// by Report.ID then.
func Run(ctx context.Context, o Options) (*Report, error) {
	report := &Report{DryRun: o.DryRun}
	if err := o.Validate(); err != nil {
		return report, err
	}
	o.setDefaults()
	db, err := clickhouse.Open(ctx, o.DSN)
	if err != nil {
		return report, err
	}
	defer db.Close()
	tr := o.Cluster.Transport()
	defer tr.CloseIdleConnections()
	r := &runner{opt: o, db: db, books: newBooks(db), report: report, pace: wkafka.Pace{PerSecond: o.Rate}}
	client := o.Cluster.Client(tr)
	if o.Resume != "" {
		err = r.resume(ctx, client)
	} else {
		err = r.plan(ctx, client)
	}
	if err != nil {
		return report, err
	}
	if r.sink, err = r.opt.Target.open(ctx, &r.opt, tr, client, o.Resume != "", r.report.Partitions); err != nil {
		return report, err
	}
	if !o.DryRun && o.Resume == "" {
		report.ID = uuid.NewString()
		for i := range report.Partitions {
			if err := r.audit(ctx, &report.Partitions[i]); err != nil {
				return report, err
			}
		}
	}
	for _, p := range report.Partitions {
		r.total += p.To - p.From
	}
	for i := range report.Partitions {
		if p := &report.Partitions[i]; !p.finished {
			if err = r.partition(ctx, p); err != nil {
				err = fmt.Errorf("replay %s/%d from offset %d: %w", p.Topic, p.Partition, p.position, err)
				break
			}
		}
	}
	report.Counts = Counts{}
	for i := range report.Partitions {
		report.add(&report.Partitions[i].Counts)
	}
	if r.sink != nil {
		err = errors.Join(err, r.sink.close())
	}
	return report, err
}

// plan bounds the replay by the logs as they are now.
func (r *runner) plan(ctx context.Context, client *kafka.Client) error {
	s := &r.opt.Select
	topics := slices.Compact(slices.Sorted(slices.Values(s.Topics)))
	for _, topic := range topics {
		bounds, err := wkafka.LogBounds(ctx, client, topic)
		if err != nil {
			return err
		}
		var since map[int]int64
		if !s.Since.IsZero() {
			if since, err = wkafka.OffsetsAt(ctx, client, topic, s.Since); err != nil {
				return err
			}
		}
		if s.Partition != nil {
			if _, ok := bounds[*s.Partition]; !ok {
				return fmt.Errorf("%w: %s has no partition %d; it has %d", ErrSelection, topic, *s.Partition, len(bounds))
			}
		}
		for _, n := range slices.Sorted(maps.Keys(bounds)) {
			if s.Partition != nil && n != *s.Partition {
				continue
			}
			b := bounds[n]
			p := Partition{Topic: topic, Partition: n, From: b.First, To: b.End, LogStart: b.First}
			if s.From != nil {
				if *s.From < b.First {
					return fmt.Errorf("%w: %s/%d was asked for from offset %d, and its first offset that is left is %d", ErrLogStart, topic, n, *s.From, b.First)
				}
				p.From = *s.From
			}
			if s.To != nil {
				p.To = min(p.To, *s.To)
			}
			// No record before the first that is not older is in the window. There is no such bound at its other
			// end, for timestamps need not ascend.
			if !s.Since.IsZero() {
				at, ok := since[n]
				if !ok {
					at = b.End
				}
				p.From = max(p.From, at)
			}
			p.To = max(p.From, p.To)
			p.position = p.From
			r.report.Partitions = append(r.report.Partitions, p)
		}
	}
	return nil
}

// partition replays one partition in chunks. Each is decided, stored and booked before the next is read.
func (r *runner) partition(ctx context.Context, p *Partition) error {
	t := event.ByTopic(p.Topic)
	part := &part{
		r: r, p: p, t: t, reader: record.NewReader(t, r.opt.Schemas, r.opt.MaxValueBytes), match: newMatcher(&r.opt.Select),
		lost: map[[16]byte]place{}, deficits: map[int64]int64{},
	}
	var err error
	if part.booked, err = r.books.ledgerEnd(ctx, p.Topic, p.Partition); err != nil {
		return err
	}
	if r.opt.Target == (Target{}) && !r.opt.DryRun {
		if part.restore, err = newRestore(ctx, r, t, p); err != nil {
			return err
		}
		defer part.restore.close()
		if r.opt.Resume != "" {
			if err := part.restore.takeUp(ctx); err != nil {
				return err
			}
		}
	}
	for p.position < p.To {
		end := p.To
		if part.restore != nil && part.restore.upTo > p.position {
			end = min(end, part.restore.upTo) // the chunk that was cut off, and no more
		}
		scan := wkafka.NewScan(r.opt.Cluster, p.Topic, p.Partition, p.position, end)
		err := part.run(ctx, scan)
		scan.Close()
		if err != nil {
			return err
		}
	}
	p.finished = true
	if part.restore != nil {
		if err := part.restore.drop(ctx); err != nil {
			return err
		}
	}
	if err := r.audit(ctx, p); err != nil {
		return err
	}
	r.progress(p)
	return nil
}

func (r *runner) progress(p *Partition) {
	out := Progress{Topic: p.Topic, Partition: p.Partition, Total: r.total}
	for i := range r.report.Partitions {
		q := &r.report.Partitions[i]
		out.Done += q.position - q.From
		out.Counts.add(&q.Counts)
	}
	r.opt.Progress(out)
}

// what is the selection as the audit has it.
func (r *runner) what() string {
	raw, err := json.Marshal(&r.opt.Select)
	if err != nil {
		panic("BUG: selection does not encode: " + err.Error())
	}
	return string(raw)
}

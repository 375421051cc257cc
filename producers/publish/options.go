// Package publish sends files of events to the hub: JSON lines and CSV, in the catalogue's own names
// or in those of a foreign file that a mapping explains. It promises that an event is sent only when
// it passed every check that the hub will make of it alone, that the same file sent twice counts once
// (an event without an id gets one that follows from its content), that memory does not grow with the
// file, and that no error shows a value.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/kafka"
)

// Formats of files.
const (
	CSV   = "csv"   // a line of names, then a record each
	JSONL = "jsonl" // a JSON object a line
)

// Sentinels that a caller turns into exit codes.
var (
	// ErrRejected: some records were not accepted; the others were published. Correct them and publish
	// the file again: what is there already ends as duplicate.
	ErrRejected = errors.New("records were not accepted")
	// ErrTooManyErrors: reading stopped at MaxErrors. Is the file what the type or the mapping says?
	ErrTooManyErrors = errors.New("too many errors")
	// ErrNotAcknowledged: Kafka did not acknowledge everything that was sent. Publish again when it
	// works: what did arrive ends as duplicate.
	ErrNotAcknowledged = errors.New("not acknowledged by Kafka")
)

// DefaultMaxErrors is how many bad records Run takes before it stops.
const DefaultMaxErrors = 100

// DefaultMaxValueBytes is the hub's limit on a record's value (P06) unless configured otherwise.
const DefaultMaxValueBytes = 1 << 20

// Options say what to publish, and where.
type Options struct {
	Files     []string          // paths; "-" is standard input; a name that ends in .gz is unpacked
	Format    string            // CSV or JSONL; empty: by the mapping, else by each file's extension
	Type      string            // event or topic of every record; empty: the column or member `event` or `type`
	Mapping   string            // path of a mapping, or the name of one that ships (Mappings); empty: none
	Delimiter rune              // of CSV; 0: by the mapping, else the likeliest of , ; tab |
	Defaults  map[string]string // text of fields that a record does not give, by Avro name
	DryRun    bool              // read and check only; Cluster and SchemaID are not used
	MaxErrors int               // bad records before Run stops; 0: DefaultMaxErrors; negative: no limit

	MaxValueBytes int                                                  // 0: DefaultMaxValueBytes
	Cluster       kafka.Cluster                                        // where to publish
	SchemaID      func(ctx context.Context, topic string) (int, error) // id of Type.Raw in the registry (a look-up of that text, not the subject's latest)
	Check         Checker                                              // nil: Rules
	Now           func() time.Time                                     // nil: time.Now
	Stdin         io.Reader                                            // nil: os.Stdin
	OnProblem     func(Problem)                                        // called for each problem as it is found; nil: none
	Progress      io.Writer                                            // where progress goes; nil: nowhere
	Terminal      bool                                                 // Progress is a terminal: rewrite one line
}

// Checker tells which rules of the hub an event breaks. It reports to found: rejects and warnings.
type Checker interface {
	// Check checks the row as if Kafka stamped its record with the time at. It keeps no part of row.
	Check(row *event.Row, at time.Time, found func(Finding))
}

// Finding is one rule that an event breaks. It never holds a value.
type Finding struct {
	Code    string // E… or P…: the event would be rejected; W…: stored with a flag
	Field   string // Avro name; empty where no single field is to blame
	Message string // what is wrong, what is allowed and what to do; empty for a warning
}

// warning tells whether the hub stores the event nevertheless.
func (f Finding) warning() bool { return f.Code != "" && f.Code[0] == 'W' }

// Codes of problems that the hub's rules do not know, for they end before there is an event.
const (
	CodeSyntax = "SYNTAX" // a line cannot be read as CSV or JSON
	CodeEvent  = "EVENT"  // no event, or an unknown one
	CodeField  = "FIELD"  // a field is unknown, missing, or not of its type
)

// Problem is one thing to correct in a file. It holds no value of the record.
type Problem struct {
	File   string // as given in Options.Files
	Line   int    // 1 is the first; 0: the file as a whole
	Event  string // name of the event; empty where unknown
	Field  string // Avro name, or the unknown name; empty where no single field is to blame
	Code   string // rule (E…, P…) or one of the codes above
	Text   string // what is wrong
	Limit  string // what is allowed; may be empty
	Advice string // what to do
}

// String is the line that a terminal shows.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	s += ": " + p.Code
	if p.Event != "" {
		s += " " + p.Event
	}
	if p.Field != "" {
		s += " " + p.Field
	}
	s += ": " + p.Text
	if p.Limit != "" {
		s += "; want " + p.Limit
	}
	if p.Advice != "" {
		s += ". " + p.Advice
	}
	return s
}

// Report says what became of the files. It is whole also where Run fails.
type Report struct {
	Records   int            // records read, good and bad
	Bad       int            // records with a problem; none of their events is sent
	Events    map[string]int // events that passed, by name
	Flags     map[string]int // warnings, by code
	Published int            // events that Kafka acknowledged
	Bytes     int64          // bytes of their values
	Positions *Positions     // where they are
	Elapsed   time.Duration
}

// Accepted is the number of events that passed.
func (r *Report) Accepted() int {
	n := 0
	for _, c := range r.Events {
		n += c
	}
	return n
}

// Validate reports every problem of the options at once.
func (o *Options) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(o.Files) == 0 {
		bad("no file: name at least one, or - for standard input")
	}
	if o.Format != "" && o.Format != CSV && o.Format != JSONL {
		bad("format: %q is unknown; want %s or %s", o.Format, CSV, JSONL)
	}
	if o.Type != "" && typeByName(o.Type) == nil {
		bad("type: no event or topic has that name; docs/events.md lists them")
	}
	if o.Type != "" && o.Mapping != "" {
		bad("type and mapping exclude one another: a mapping names its events")
	}
	for name, text := range o.Defaults {
		if err := checkDefault(name, text); err != nil {
			bad("default: %w", err)
		}
	}
	if !o.DryRun && len(o.Cluster.Brokers) == 0 {
		bad("brokers: none; name at least one, or use a dry run")
	}
	if !o.DryRun && o.SchemaID == nil {
		bad("no schema registry")
	}
	return errors.Join(errs...)
}

func checkDefault(name, text string) error {
	found := false
	for _, t := range event.Types {
		if i := t.Field(name); i >= 0 {
			found = true
			if err := event.SetText(event.NewRow(t), i, text); err == nil {
				return nil
			} else if i < event.HeaderFields {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("no event has a field %s", name)
	}
	return fmt.Errorf("field %s takes no such value in any event", name)
}

// fill sets what is not given.
func (o *Options) fill() {
	if o.MaxErrors == 0 {
		o.MaxErrors = DefaultMaxErrors
	}
	if o.MaxValueBytes == 0 {
		o.MaxValueBytes = DefaultMaxValueBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Stdin == nil {
		o.Stdin = os.Stdin
	}
	if o.Check == nil {
		o.Check = Rules()
	}
	if o.OnProblem == nil {
		o.OnProblem = func(Problem) {}
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
}

// typeByName finds an event by its name or its topic; nil: none.
func typeByName(s string) *event.Type {
	if t := event.ByName(s); t != nil {
		return t
	}
	return event.ByTopic(s)
}

// Package deadletter is the desk at which whoever runs the hub deals with rejected events: it lists them,
// shows a dead letter with personal data masked, tells which would pass today, publishes them again, and
// discards them. It promises that a letter is published again once, as a new offset whose end is decided as
// that of any other record, and that what was done, by whom and why is in store.dispositions.
//
// Where it stops between publishing a letter and writing that down, the next redrive publishes it again: the
// copy has the same eventId and ends as duplicate. What has no eventId does not pass the rules, so only a
// redrive that was told to send also what fails can leave a second copy, which is rejected like the first.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// Suffix makes the topic of dead letters from a topic.
const Suffix = ".dlq"

// Desk deals with rejected events. Each call needs DB, those that read letters the Cluster, and those that
// judge them Schemas.
type Desk struct {
	DB            *clickhouse.DB
	Cluster       wkafka.Cluster
	Schemas       record.SchemaSource
	MaxValueBytes int         // as the loader's; 0: 1 MiB
	Logger        *zap.Logger // nil: none

	// AfterPublish is called between the publication of letters and the writing down of it. Its error cuts
	// the redrive off there.
	AfterPublish func() error
}

func (d *Desk) maxValueBytes() int {
	if d.MaxValueBytes == 0 {
		return 1 << 20
	}
	return d.MaxValueBytes
}

func (d *Desk) log() *zap.Logger {
	if d.Logger == nil {
		return zap.NewNop()
	}
	return d.Logger
}

// Selection is which rejected events are meant. Conditions that are not given hold for all.
type Selection struct {
	Topics       []string
	Codes        []string  // any of the codes that were violated
	Source       string    //
	Since, Until time.Time // of the rejection; Until is exclusive
	State        string    // open, redriven or discarded
	At           *Position
	Limit        int // 0: none
}

// Position is where a rejected event is in its topic.
type Position struct {
	Topic     string
	Partition int
	Offset    int64
}

// ErrSelection is returned for a selection that cannot be meant.
var ErrSelection = errors.New("no such rejected events")

// ErrNoLetter says that no dead letter is there for a position.
var ErrNoLetter = errors.New("no dead letter")

// Validate checks what can be checked without a server.
func (s *Selection) Validate() error {
	for _, t := range s.Topics {
		if event.ByTopic(t) == nil {
			return fmt.Errorf("%w: %s is not a topic of events; they are %v", ErrSelection, t, event.Topics())
		}
	}
	switch s.State {
	case "", "open", "redriven", "discarded":
	default:
		return fmt.Errorf("%w: state %q is not open, redriven or discarded", ErrSelection, s.State)
	}
	if !s.Since.IsZero() && !s.Until.IsZero() && !s.Since.Before(s.Until) {
		return fmt.Errorf("%w: the time from %s to %s holds nothing", ErrSelection, s.Since.Format(time.RFC3339), s.Until.Format(time.RFC3339))
	}
	return nil
}

// where is the predicate on welfare.rejected.
func (s *Selection) where() (string, []any) {
	cond, args := []string{"1"}, []any{}
	add := func(c string, a ...any) { cond, args = append(cond, c), append(args, a...) }
	if len(s.Topics) > 0 {
		add("topic IN (?)", s.Topics)
	}
	if len(s.Codes) > 0 {
		any := make([]string, len(s.Codes))
		for i, code := range s.Codes {
			any[i] = "has(codes, ?)"
			args = append(args, code)
		}
		cond = append(cond, "("+strings.Join(any, " OR ")+")")
	}
	if s.Source != "" {
		add("source = ?", s.Source)
	}
	if !s.Since.IsZero() {
		add("rejected_at >= fromUnixTimestamp64Milli(?, 'UTC')", s.Since.UnixMilli())
	}
	if !s.Until.IsZero() {
		add("rejected_at < fromUnixTimestamp64Milli(?, 'UTC')", s.Until.UnixMilli())
	}
	if s.State != "" {
		add("state = ?", s.State)
	}
	if s.At != nil {
		add("topic = ? AND partition = ? AND offset = ?", s.At.Topic, uint32(s.At.Partition), uint64(s.At.Offset))
	}
	return strings.Join(cond, " AND "), args
}

// Reject is a rejected event, as welfare.rejected has it.
type Reject struct {
	Topic        string    `ch:"topic" json:"topic"`
	Partition    uint32    `ch:"partition" json:"partition"`
	Offset       uint64    `ch:"offset" json:"offset"`
	EventType    string    `ch:"event_type" json:"event_type"`
	Source       *string   `ch:"source" json:"source"`
	EventID      *string   `ch:"event_id" json:"event_id"`
	Code         string    `ch:"code" json:"code"`
	Codes        []string  `ch:"codes" json:"codes"`
	Field        string    `ch:"field" json:"field"`
	Message      string    `ch:"message" json:"message"`
	SchemaID     uint32    `ch:"schema_id" json:"schema_id"`
	RejectedAt   time.Time `ch:"rejected_at" json:"rejected_at"`
	State        string    `ch:"state" json:"state"`
	NewPartition *uint32   `ch:"new_partition" json:"new_partition,omitempty"`
	NewOffset    *uint64   `ch:"new_offset" json:"new_offset,omitempty"`
}

const rejectColumns = "topic, partition, offset, event_type, source, event_id, code, codes, field, message, schema_id, rejected_at, state, new_partition, new_offset"

// Position is where it is.
func (r *Reject) Position() Position { return Position{r.Topic, int(r.Partition), int64(r.Offset)} }

// List reads rejected events, the latest first.
func (d *Desk) List(ctx context.Context, s Selection) ([]Reject, error) {
	where, args := s.where()
	query := "SELECT " + rejectColumns + " FROM welfare.rejected WHERE " + where + " ORDER BY rejected_at DESC, topic, partition, offset"
	if s.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", s.Limit)
	}
	var out []Reject
	if err := d.DB.Select(ctx, &out, query, args...); err != nil {
		return nil, fmt.Errorf("read welfare.rejected: %w", err)
	}
	return out, nil
}

// Tally is how many rejected events share a topic, a first code and a state.
type Tally struct {
	Topic  string    `ch:"topic" json:"topic"`
	Code   string    `ch:"code" json:"code"`
	State  string    `ch:"state" json:"state"`
	Events uint64    `ch:"events" json:"events"`
	First  time.Time `ch:"first" json:"first"`
	Last   time.Time `ch:"last" json:"last"`
}

// Tallies counts rejected events.
func (d *Desk) Tallies(ctx context.Context, s Selection) ([]Tally, error) {
	where, args := s.where()
	var out []Tally
	err := d.DB.Select(ctx, &out, "SELECT topic, code, state, count() AS events, min(rejected_at) AS first, max(rejected_at) AS last FROM welfare.rejected WHERE "+
		where+" GROUP BY topic, code, state ORDER BY topic, code, state", args...)
	if err != nil {
		return nil, fmt.Errorf("count welfare.rejected: %w", err)
	}
	return out, nil
}

// Discard marks the open rejects of a selection as discarded, and returns how many. Their letters stay
// where they are until the retention of their topic takes them.
func (d *Desk) Discard(ctx context.Context, s Selection, who, why string, dryRun bool) (uint64, error) {
	s.State = "open"
	where, args := s.where()
	limit := ""
	if s.Limit > 0 {
		limit = fmt.Sprintf(" ORDER BY rejected_at, topic, partition, offset LIMIT %d", s.Limit)
	}
	selected := "SELECT topic, partition, offset FROM welfare.rejected WHERE " + where + limit
	var n uint64
	if err := d.DB.Scan(ctx, "SELECT count() FROM ("+selected+")", args, &n); err != nil {
		return 0, fmt.Errorf("count open rejects: %w", err)
	}
	if dryRun || n == 0 {
		return n, nil
	}
	err := d.DB.Exec(ctx, "INSERT INTO store.dispositions (topic, partition, offset, state, new_partition, new_offset, by, why, at) "+
		"SELECT topic, partition, offset, 'discarded', NULL, NULL, ?, ?, now64(3, 'UTC') FROM ("+selected+")", append([]any{who, why}, args...)...)
	if err != nil {
		return 0, fmt.Errorf("discard %d rejects: %w", n, err)
	}
	return n, nil
}

package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// ErrNotLoaded says that Wait ended before the hub had booked everything that was published, or some of it was
// rejected.
var ErrNotLoaded = errors.New("not all was loaded")

// Reject is an event that the hub rejected.
type Reject struct {
	Partition Partition
	Offset    int64
	Code      string
}

// Ledger answers what the loader has booked.
type Ledger interface {
	// Ends returns, of each partition of the topics that is booked at all, the offset up to which it is.
	Ends(ctx context.Context, topics []string) (map[Partition]int64, error)
	// Rejected calls found for each rejected offset of r, in order.
	Rejected(ctx context.Context, p Partition, r Range, found func(offset int64, code string)) error
	// Duplicates calls found for each offset of r that ended as a duplicate, in order.
	Duplicates(ctx context.Context, p Partition, r Range, found func(offset int64)) error
}

// maxRejects is how many rejects WaitReport lists.
const maxRejects = 100

// WaitReport says how the published events ended.
type WaitReport struct {
	Loaded, Duplicate, Rejected int
	Rejects                     []Reject // the first maxRejects
	Elapsed                     time.Duration
}

// WaitOptions are how Wait asks.
type WaitOptions struct {
	Every   time.Duration             // between two looks; 0: a quarter of a second
	OnState func(booked, total int64) // offsets booked of those published, after each look; nil: none
	Patient int                       // failed looks in a row before Wait gives up; 0: 20
}

// Wait blocks until the loader has booked every offset of pos, then tells how the events ended. The
// error wraps ErrNotLoaded where some were rejected or ctx ended first, and says which partition was
// behind. A partition is booked up to its ledger's end, for the ledger has no gaps.
func Wait(ctx context.Context, l Ledger, pos *Positions, o WaitOptions) (report WaitReport, err error) {
	if o.Every == 0 {
		o.Every = 250 * time.Millisecond
	}
	if o.Patient == 0 {
		o.Patient = 20
	}
	start := time.Now()
	defer func() { report.Elapsed = time.Since(start) }()
	parts := pos.Partitions()
	var topics []string
	for _, p := range parts {
		if len(topics) == 0 || topics[len(topics)-1] != p.Topic {
			topics = append(topics, p.Topic)
		}
	}
	timer := time.NewTicker(o.Every)
	defer timer.Stop()
	failed := 0
	behind := "no answer of the ledger yet"
	for len(parts) > 0 {
		ends, err := l.Ends(ctx, topics)
		if err != nil {
			if failed++; failed >= o.Patient || ctx.Err() != nil {
				return report, fmt.Errorf("wait for the loader: read the ledger: %w: %w", ErrNotLoaded, err)
			}
		} else {
			failed, behind = 0, ""
			var booked, total int64
			for _, p := range parts {
				b := pos.Bounds(p)
				end := min(max(ends[p], b.From), b.To)
				booked, total = booked+end-b.From, total+b.To-b.From
				if end < b.To && behind == "" {
					behind = fmt.Sprintf("%s partition %d is booked up to offset %d of %d", p.Topic, p.No, ends[p], b.To)
				}
			}
			if o.OnState != nil {
				o.OnState(booked, total)
			}
			if behind == "" {
				break
			}
		}
		select {
		case <-ctx.Done():
			return report, fmt.Errorf("wait for the loader: %w: %s; is a loader running (`welfarehub load`)?: %w", ErrNotLoaded, behind, context.Cause(ctx))
		case <-timer.C:
		}
	}
	for _, p := range parts {
		if err := count(ctx, l, pos, p, &report); err != nil {
			return report, fmt.Errorf("read how %s partition %d ended: %w", p.Topic, p.No, err)
		}
	}
	if report.Rejected > 0 {
		return report, fmt.Errorf("%d events rejected: %w; `welfarehub dlq list` shows them", report.Rejected, ErrNotLoaded)
	}
	return report, nil
}

func count(ctx context.Context, l Ledger, pos *Positions, p Partition, report *WaitReport) error {
	ranges, bounds := pos.Ranges(p), pos.Bounds(p)
	for _, r := range ranges {
		report.Loaded += int(r.To - r.From)
	}
	err := l.Rejected(ctx, p, bounds, func(offset int64, code string) {
		if !contains(ranges, offset) {
			return
		}
		report.Loaded, report.Rejected = report.Loaded-1, report.Rejected+1
		if len(report.Rejects) < maxRejects {
			report.Rejects = append(report.Rejects, Reject{p, offset, code})
		}
	})
	if err != nil {
		return err
	}
	return l.Duplicates(ctx, p, bounds, func(offset int64) {
		if contains(ranges, offset) {
			report.Loaded, report.Duplicate = report.Loaded-1, report.Duplicate+1
		}
	})
}

// Querier is the part of a clickhouse-go connection that a ledger needs.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (driver.Rows, error)
}

// NewLedger reads the ledger in ClickHouse.
func NewLedger(db Querier) Ledger { return clickhouseLedger{db} }

type clickhouseLedger struct{ db Querier }

const (
	endsQuery = `SELECT topic, toInt32(partition), toInt64(max(to_offset)) FROM welfare.ledger WHERE topic IN (?) GROUP BY topic, partition`

	rejectedQuery = `SELECT toInt64(offset), toString(code) FROM welfare.rejected WHERE topic = ? AND partition = ? AND offset >= ? AND offset < ? ORDER BY offset`

	duplicatesQuery = `SELECT DISTINCT toInt64(offset) AS o FROM welfare.duplicates WHERE topic = ? AND partition = ? AND offset >= ? AND offset < ? ORDER BY o`
)

func (c clickhouseLedger) Ends(ctx context.Context, topics []string) (map[Partition]int64, error) {
	out := map[Partition]int64{}
	rows, err := c.db.Query(ctx, endsQuery, topics)
	if err != nil {
		return nil, err
	}
	err = each(rows, func() error {
		var topic string
		var no int32
		var end int64
		if err := rows.Scan(&topic, &no, &end); err != nil {
			return err
		}
		out[Partition{topic, int(no)}] = end
		return nil
	})
	return out, err
}

func (c clickhouseLedger) Rejected(ctx context.Context, p Partition, r Range, found func(int64, string)) error {
	rows, err := c.db.Query(ctx, rejectedQuery, p.Topic, p.No, r.From, r.To)
	if err != nil {
		return err
	}
	return each(rows, func() error {
		var offset int64
		var code string
		if err := rows.Scan(&offset, &code); err != nil {
			return err
		}
		found(offset, code)
		return nil
	})
}

func (c clickhouseLedger) Duplicates(ctx context.Context, p Partition, r Range, found func(int64)) error {
	rows, err := c.db.Query(ctx, duplicatesQuery, p.Topic, p.No, r.From, r.To)
	if err != nil {
		return err
	}
	return each(rows, func() error {
		var offset int64
		if err := rows.Scan(&offset); err != nil {
			return err
		}
		found(offset)
		return nil
	})
}

func each(rows driver.Rows, row func() error) error {
	for rows.Next() {
		if err := row(); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

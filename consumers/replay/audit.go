package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

const insertReplay = `INSERT INTO welfare.replays (id, who, why, what, target, topic, partition, from_offset, to_offset, position, started_at, updated_at, finished_at,
	read, present, restored, duplicate, rejected, erased, superseded, pending, unknown, copied, codes)`

// audit writes how far a partition is. A dry run writes nothing.
func (r *runner) audit(ctx context.Context, p *Partition) error {
	if r.opt.DryRun {
		return nil
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	if p.started.IsZero() {
		p.started = now
	}
	var finished *time.Time
	if p.finished {
		finished = &now
	}
	codes := p.Codes
	if codes == nil {
		codes = map[string]uint64{}
	}
	out, err := r.db.Conn().PrepareBatch(plainInsert(ctx), insertReplay)
	if err != nil {
		return fmt.Errorf("insert into welfare.replays: %w", err)
	}
	defer func() { _ = out.Close() }()
	err = out.Append(r.report.ID, r.opt.Who, r.opt.Why, r.what(), r.opt.Target.String(), p.Topic, uint32(p.Partition), uint64(p.From), uint64(p.To), uint64(p.position),
		p.started, now, finished, p.Read, p.Present, p.Restored, p.Duplicate, p.Rejected, p.Erased, p.Superseded, p.Pending, p.Unknown, p.Copied, codes)
	if err == nil {
		err = out.Send()
	}
	if err != nil {
		return fmt.Errorf("insert into welfare.replays: %w", err)
	}
	return nil
}

// resume takes up a replay from its audit. It keeps the ends that the logs had when it began.
func (r *runner) resume(ctx context.Context, client *kafka.Client) error {
	var rows []struct {
		Who        string            `ch:"who"`
		Why        string            `ch:"why"`
		What       string            `ch:"what"`
		Target     string            `ch:"target"`
		Topic      string            `ch:"topic"`
		Partition  uint32            `ch:"partition"`
		From       uint64            `ch:"from_offset"`
		To         uint64            `ch:"to_offset"`
		Position   uint64            `ch:"position"`
		Started    time.Time         `ch:"started_at"`
		Finished   *time.Time        `ch:"finished_at"`
		Read       uint64            `ch:"read"`
		Present    uint64            `ch:"present"`
		Restored   uint64            `ch:"restored"`
		Duplicate  uint64            `ch:"duplicate"`
		Rejected   uint64            `ch:"rejected"`
		Erased     uint64            `ch:"erased"`
		Superseded uint64            `ch:"superseded"`
		Pending    uint64            `ch:"pending"`
		Unknown    uint64            `ch:"unknown"`
		Copied     uint64            `ch:"copied"`
		Codes      map[string]uint64 `ch:"codes"`
	}
	err := r.db.Select(ctx, &rows, `SELECT who, why, what, target, topic, partition, from_offset, to_offset, position, started_at, finished_at,
		read, present, restored, duplicate, rejected, erased, superseded, pending, unknown, copied, CAST(codes, 'Map(String, UInt64)') AS codes
		FROM welfare.replays FINAL WHERE id = ? ORDER BY topic, partition`, r.opt.Resume)
	if err != nil {
		return fmt.Errorf("read replay %s: %w", r.opt.Resume, err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("resume %s: %w", r.opt.Resume, ErrNoReplay)
	}
	r.report.ID = r.opt.Resume
	if err := json.Unmarshal([]byte(rows[0].What), &r.opt.Select); err != nil {
		return fmt.Errorf("read the selection of replay %s: %w", r.opt.Resume, err)
	}
	r.opt.Who, r.opt.Why = rows[0].Who, rows[0].Why
	if r.opt.Target, err = parseTarget(rows[0].Target); err != nil {
		return fmt.Errorf("read the target of replay %s: %w", r.opt.Resume, err)
	}
	unfinished := 0
	bounds := map[string]map[int]wkafka.Bounds{}
	for _, row := range rows {
		if bounds[row.Topic] == nil {
			if bounds[row.Topic], err = wkafka.LogBounds(ctx, client, row.Topic); err != nil {
				return err
			}
		}
		p := Partition{
			Topic: row.Topic, Partition: int(row.Partition), From: int64(row.From), To: int64(row.To), LogStart: bounds[row.Topic][int(row.Partition)].First,
			Counts: Counts{
				Read: row.Read, Present: row.Present, Restored: row.Restored, Duplicate: row.Duplicate, Rejected: row.Rejected, Erased: row.Erased,
				Superseded: row.Superseded, Pending: row.Pending, Unknown: row.Unknown, Copied: row.Copied, Codes: row.Codes,
			},
			position: int64(row.Position), started: row.Started, finished: row.Finished != nil,
		}
		if !p.finished {
			unfinished++
		}
		if !p.finished && p.position < p.LogStart {
			return fmt.Errorf("%w: replay %s stands at offset %d of %s/%d, and the first offset that is left is %d", ErrLogStart, r.opt.Resume, p.position, p.Topic, p.Partition, p.LogStart)
		}
		r.report.Partitions = append(r.report.Partitions, p)
	}
	if unfinished == 0 {
		return fmt.Errorf("resume %s, which is finished: %w", r.opt.Resume, ErrNoReplay)
	}
	return nil
}

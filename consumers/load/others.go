package load

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// What this instance knows of the others' work is refreshed before a block is decided, where it is older
// than Options.refresh. Nothing depends on it for exactness: a copy that was missed is superseded, and a
// row of an erased subject is removed, by consumers/aggregate. But a copy that could be known ends as a
// duplicate, and what could be known to be erased is never stored.

// tail adds to the filter the ids that other instances stored since the last look, in the topic's
// partitions that are not here. The caller holds t.mu.
func (t *topic) tail(ctx context.Context) error {
	if !t.shared.Load() || time.Since(t.tailed) < t.l.opt.refresh {
		return nil
	}
	began := time.Now()
	grown, err := t.l.store.grown(ctx, t.Type, t.known)
	if err != nil {
		return err
	}
	for partition, g := range grown {
		if g.others(t.l.owner) {
			if err := t.l.store.loadBlockIDs(ctx, t.Type, position{t.Topic, partition}, claim{g.from, g.to}, &t.filter); err != nil {
				return err
			}
		}
		t.known[partition] = g.to
	}
	t.tailed = began
	return nil
}

// growth is what a partition of the ledger gained: [from, to), and an owner of it.
type growth struct {
	from, to     int64
	least, great uint64 // lowest and highest owner
}

func (g growth) others(me uint64) bool { return g.least != me || g.great != me }

// grown reads what the ledger gained beyond known, an offset for each partition.
func (s *store) grown(ctx context.Context, t *event.Type, known map[int]int64) (map[int]growth, error) {
	where := "1"
	if len(known) > 0 {
		in, beyond := "", ""
		for p, at := range known {
			in += fmt.Sprintf("%d,", p)
			beyond += fmt.Sprintf(" OR partition = %d AND from_offset >= %d", p, at)
		}
		where = fmt.Sprintf("(partition NOT IN (%s)%s)", in[:len(in)-1], beyond)
	}
	var (
		partition    proto.ColUInt32
		from, to     proto.ColUInt64
		least, great proto.ColUInt64
	)
	out := map[int]growth{}
	err := s.do(ctx, ch.Query{
		Body: "SELECT partition, min(from_offset) AS from, max(to_offset) AS to, min(owner) AS least, max(owner) AS great FROM store.ledger WHERE topic = {topic:String} AND " +
			where + " GROUP BY partition",
		Parameters: ch.Parameters(map[string]any{"topic": t.Topic}),
		Result: proto.Results{
			{Name: "partition", Data: &partition},
			{Name: "from", Data: &from},
			{Name: "to", Data: &to},
			{Name: "least", Data: &least},
			{Name: "great", Data: &great},
		},
		OnResult: func(context.Context, proto.Block) error {
			for i := range partition {
				out[int(partition[i])] = growth{int64(from[i]), int64(to[i]), least[i], great[i]}
			}
			return nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("read what the ledger of %s gained: %w", t.Topic, err)
	}
	return out, nil
}

// erasures are the subjects that are erased, by family of events: the instant, in milliseconds, up to
// which what occurred is gone. It holds some 100 bytes for each erasure that ever was.
type erasures struct {
	mu   sync.RWMutex
	read time.Time
	seen map[int]int64 // by partition of the erasures' topic: the offset after the last one
	upTo map[event.Family]map[[32]byte]int64
}

// refresh reads the erasures that were stored since the last look, where that is older than age.
func (e *erasures) refresh(ctx context.Context, s *store, age time.Duration) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.read.IsZero() && time.Since(e.read) < age {
		return nil
	}
	began := time.Now()
	if e.upTo == nil {
		e.seen, e.upTo = map[int]int64{}, map[event.Family]map[[32]byte]int64{}
	}
	if err := s.erasures(ctx, e.seen, func(family event.Family, pseudonym [32]byte, upTo int64, partition int, offset int64) {
		of := e.upTo[family]
		if of == nil {
			of = map[[32]byte]int64{}
			e.upTo[family] = of
		}
		if at, ok := of[pseudonym]; !ok || upTo > at {
			of[pseudonym] = upTo
		}
		e.seen[partition] = max(e.seen[partition], offset+1)
	}); err != nil {
		return err
	}
	e.read = began
	return nil
}

// holds tells whether an event of a family about a pseudonym, 64 hexadecimal digits, that occurred at an
// instant in milliseconds is erased.
func (e *erasures) holds(family event.Family, pseudonym []byte, occurred int64) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	of := e.upTo[family]
	if len(of) == 0 || len(pseudonym) != 64 {
		return false
	}
	var key [32]byte
	if _, err := hex.Decode(key[:], pseudonym); err != nil {
		return false
	}
	upTo, ok := of[key]
	return ok && occurred <= upTo
}

// erasures calls found for each erasure of a family beyond seen, an offset for each partition.
func (s *store) erasures(ctx context.Context, seen map[int]int64, found func(family event.Family, pseudonym [32]byte, upTo int64, partition int, offset int64)) error {
	where := "1"
	for p, at := range seen {
		where += fmt.Sprintf(" AND NOT (partition = %d AND offset < %d)", p, at)
	}
	var (
		family    proto.ColStr
		pseudonym = proto.ColFixedStr{Size: 32}
		upTo      proto.ColInt64
		partition proto.ColUInt32
		offset    proto.ColUInt64
	)
	err := s.do(ctx, ch.Query{
		Body: "SELECT CAST(family, 'String') AS family, pseudonym, toUnixTimestamp64Milli(requested_at) AS up_to, partition, offset FROM store.erasures WHERE " + where,
		Result: proto.Results{
			{Name: "family", Data: &family},
			{Name: "pseudonym", Data: &pseudonym},
			{Name: "up_to", Data: &upTo},
			{Name: "partition", Data: &partition},
			{Name: "offset", Data: &offset},
		},
		OnResult: func(context.Context, proto.Block) error {
			for i := range offset {
				found(event.Family(family.Row(i)), [32]byte(pseudonym.Row(i)), upTo[i], int(partition[i]), int64(offset[i]))
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("read erasures: %w", err)
	}
	return nil
}

// erase takes out of an event what is known to be erased: all of it, or its household. It
// tells whether all of it is.
func (t *topic) erase(row *event.Row) bool {
	if t.Subject < 0 || t.Family == event.FamilyControl {
		return false
	}
	occurred := row.Vals[event.OccurredAt].Int
	if t.l.erasures.holds(t.Family, row.Vals[t.Subject].Bytes, occurred) {
		return true
	}
	if h := t.household; h >= 0 && t.l.erasures.holds(t.Family, row.Vals[h].Bytes, occurred) {
		row.SetNull(h)
	}
	return false
}

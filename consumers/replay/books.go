package replay

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// books reads what ClickHouse says of records.
type books struct{ db *clickhouse.DB }

func newBooks(db *clickhouse.DB) *books { return &books{db} }

// ledgerEnd is where the ledger of a partition ends; 0 where it has nothing.
func (b *books) ledgerEnd(ctx context.Context, topic string, partition int) (int64, error) {
	var end uint64
	err := b.db.Scan(ctx, "SELECT max(to_offset) FROM store.ledger WHERE topic = ? AND partition = ?", []any{topic, uint32(partition)}, &end)
	if err != nil {
		return 0, fmt.Errorf("read the ledger's end of %s/%d: %w", topic, partition, err)
	}
	return int64(end), nil
}

// storedRow is a row that is there.
type storedRow struct {
	end  record.End
	gone bool
	code string // of a rejected one
}

// rows reads the rows of a range by offset.
func (b *books) rows(ctx context.Context, t *event.Type, partition int, from, to int64) (map[int64]storedRow, error) {
	var found []struct {
		Offset uint64 `ch:"_offset"`
		End    int8   `ch:"end"`
		Gone   uint8  `ch:"_gone"`
		Code   string `ch:"code"`
	}
	err := b.db.Select(ctx, &found, "SELECT _offset, CAST(_end, 'Int8') AS end, _gone, if(_end = 'rejected', JSONExtractString(_detail, 'code'), '') AS code FROM store."+t.Table+
		" WHERE _partition = ? AND _offset >= ? AND _offset < ?", uint32(partition), uint64(from), uint64(to))
	if err != nil {
		return nil, fmt.Errorf("read rows of %s/%d: %w", t.Topic, partition, err)
	}
	out := make(map[int64]storedRow, len(found))
	for _, f := range found {
		out[int64(f.Offset)] = storedRow{record.End(f.End), f.Gone == 1, f.Code}
	}
	return out, nil
}

// gonePositions are the positions of a range whose rows later events took out.
type gonePositions struct{ erased, superseded map[int64]bool }

func (b *books) gone(ctx context.Context, t *event.Type, partition int, from, to int64) (gonePositions, error) {
	out := gonePositions{map[int64]bool{}, map[int64]bool{}}
	for table, into := range map[string]map[int64]bool{"store.erased": out.erased, "store.superseded": out.superseded} {
		var found []struct {
			Offset uint64 `ch:"offset"`
		}
		err := b.db.Select(ctx, &found, "SELECT DISTINCT offset FROM "+table+" WHERE topic = ? AND partition = ? AND offset >= ? AND offset < ?",
			t.Topic, uint32(partition), uint64(from), uint64(to))
		if err != nil {
			return out, fmt.Errorf("read %s of %s/%d: %w", table, t.Topic, partition, err)
		}
		for _, f := range found {
			into[int64(f.Offset)] = true
		}
	}
	return out, nil
}

// ledgerBlock is a block of the ledger.
type ledgerBlock struct {
	from, to int64
	loaded   uint64
	owner    uint64
	at       time.Time
}

type ledgerBlocks []ledgerBlock // in their order

func (l ledgerBlocks) of(offset int64) (ledgerBlock, bool) {
	i := sort.Search(len(l), func(i int) bool { return l[i].to > offset })
	if i == len(l) || l[i].from > offset {
		return ledgerBlock{}, false
	}
	return l[i], true
}

// blocks reads the blocks that meet a range.
func (b *books) blocks(ctx context.Context, topic string, partition int, from, to int64) (ledgerBlocks, error) {
	var found []struct {
		From   uint64    `ch:"from_offset"`
		To     uint64    `ch:"to_offset"`
		Loaded uint64    `ch:"loaded"`
		Owner  uint64    `ch:"owner"`
		At     time.Time `ch:"loaded_at"`
	}
	err := b.db.Select(ctx, &found, "SELECT from_offset, to_offset, loaded, owner, loaded_at FROM store.ledger WHERE topic = ? AND partition = ? AND to_offset > ? AND from_offset < ? ORDER BY from_offset",
		topic, uint32(partition), uint64(from), uint64(to))
	if err != nil {
		return nil, fmt.Errorf("read the ledger of %s/%d: %w", topic, partition, err)
	}
	var out ledgerBlocks
	for _, f := range found {
		out = append(out, ledgerBlock{int64(f.From), int64(f.To), f.Loaded, f.Owner, f.At})
	}
	return out, nil
}

// deficit is how many loaded records of a block have neither row nor id, and were not erased.
func (b *books) deficit(ctx context.Context, t *event.Type, partition int, blk ledgerBlock) (int64, error) {
	var n uint64
	p, from, to := uint32(partition), uint64(blk.from), uint64(blk.to)
	err := b.db.Scan(ctx, fmt.Sprintf(`SELECT uniqExact(at) FROM (
		SELECT _offset AS at FROM store.%s WHERE _partition = ? AND _offset >= ? AND _offset < ? AND _end = 'loaded'
		UNION ALL SELECT offset FROM store.ids WHERE type = %d AND partition = ? AND offset >= ? AND offset < ?
		UNION ALL SELECT offset FROM store.erased WHERE topic = ? AND partition = ? AND offset >= ? AND offset < ?)`, t.Table, t.No),
		[]any{p, from, to, p, from, to, t.Topic, p, from, to}, &n)
	if err != nil {
		return 0, fmt.Errorf("count what block %s/%d/%d lacks: %w", t.Topic, partition, blk.from, err)
	}
	return int64(blk.loaded) - int64(n), nil
}

// known is a position at which an id is known, and the content there.
type known struct {
	place
	content [32]byte
	version int // of the hash
}

// lookUpAtOnce is how many ids or pseudonyms a query names.
const lookUpAtOnce = 5000

// ids reads where ids are known.
func (b *books) ids(ctx context.Context, t *event.Type, ids [][16]byte) (map[[16]byte][]known, error) {
	out := map[[16]byte][]known{}
	for len(ids) > 0 {
		n := min(len(ids), lookUpAtOnce)
		var in strings.Builder
		for i, id := range ids[:n] {
			if i > 0 {
				in.WriteByte(',')
			}
			fmt.Fprintf(&in, "unhex('%x')", id)
		}
		ids = ids[n:]
		var found []struct {
			ID        string `ch:"id"`
			Content   string `ch:"content"`
			Version   uint8  `ch:"hash_version"`
			Partition uint32 `ch:"partition"`
			Offset    uint64 `ch:"offset"`
		}
		err := b.db.Select(ctx, &found, fmt.Sprintf("SELECT DISTINCT toString(id_hash) AS id, toString(content_hash) AS content, hash_version, partition, offset FROM store.ids WHERE type = %d AND id_hash IN (%s)", t.No, in.String()))
		if err != nil {
			return nil, fmt.Errorf("look up %d ids of %s: %w", n, t.Topic, err)
		}
		for _, f := range found {
			var id [16]byte
			k := known{place: place{int(f.Partition), int64(f.Offset)}, version: int(f.Version)}
			copy(id[:], f.ID)
			copy(k.content[:], f.Content)
			out[id] = append(out[id], k)
		}
	}
	return out, nil
}

// erasures reads up to when, in milliseconds, what is known of each of some subjects is erased.
func (b *books) erasures(ctx context.Context, t *event.Type, subjects []string) (map[string]int64, error) {
	out := map[string]int64{}
	if t.Family == event.FamilyControl {
		return out, nil
	}
	for len(subjects) > 0 {
		n := min(len(subjects), lookUpAtOnce)
		var found []struct {
			Who  string `ch:"who"`
			UpTo int64  `ch:"up_to"`
		}
		// The digits travel as a parameter; they are hexadecimal or match nothing.
		err := b.db.Select(ctx, &found, `SELECT lower(hex(pseudonym)) AS who, toUnixTimestamp64Milli(max(requested_at)) AS up_to FROM store.erasures
			WHERE family = ? AND pseudonym IN (SELECT toFixedString(unhex(arrayJoin(?)), 32)) GROUP BY pseudonym`, string(t.Family), subjects[:n])
		if err != nil {
			return nil, fmt.Errorf("read erasures of %s: %w", t.Family, err)
		}
		subjects = subjects[n:]
		for _, f := range found {
			out[f.Who] = f.UpTo
		}
	}
	return out, nil
}

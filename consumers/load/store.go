package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/dedup"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/fault"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// store is the loader's side of ClickHouse, over the native protocol. Every error is an outage to its
// callers: they wait and try again, for a block that cannot be stored must not be passed over.
type store struct {
	options ch.Options
	log     *zap.Logger
	pool    chan *ch.Client // idle connections
	clock   clock
}

// connections bounds the idle connections that are kept; more are opened when partitions need them.
const connections = 8

// queryTime bounds each query, so that a hanging server is noticed: a retried insert has the same token.
const queryTime = 2 * time.Minute

func newStore(dsn string, log *zap.Logger) (*store, error) {
	o, err := clickhouse.ParseDSN(dsn)
	if err != nil || len(o.Addr) == 0 {
		// The driver's error may quote the DSN, and so its password.
		return nil, errors.New("read ClickHouse address: want clickhouse://user:password@host:port/")
	}
	return &store{
		log:  log,
		pool: make(chan *ch.Client, connections),
		options: ch.Options{
			Address: o.Addr[0], Database: "store", User: o.Auth.Username, Password: o.Auth.Password,
			TLS: o.TLS, DialTimeout: 5 * time.Second, ClientName: "welfarehub-load", ReadTimeout: queryTime,
			Compression: ch.CompressionDisabled,
		},
	}, nil
}

func (s *store) close() {
	for {
		select {
		case c := <-s.pool:
			_ = c.Close()
		default:
			return
		}
	}
}

// do runs one query on a connection of its own.
func (s *store) do(ctx context.Context, q ch.Query) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	c, err := s.take(ctx)
	if err != nil {
		return err
	}
	return s.doOn(ctx, c, q)
}

// take returns an idle connection or a new one.
func (s *store) take(ctx context.Context) (*ch.Client, error) {
	select {
	case c := <-s.pool:
		return c, nil
	default:
		return ch.Dial(ctx, s.options)
	}
}

// give puts a connection among the idle ones.
func (s *store) give(c *ch.Client) {
	select {
	case s.pool <- c:
	default:
		_ = c.Close()
	}
}

// doOn runs a query on c, and gives c back if it can be used again.
func (s *store) doOn(ctx context.Context, c *ch.Client, q ch.Query) error {
	err := c.Do(ctx, q)
	if c.IsClosed() {
		return err
	}
	if err != nil && !ch.IsException(err) {
		_ = c.Close()
		return err
	}
	s.give(c)
	return err
}

// atomicInsert are the settings under which an insert of one block is one part, known by its token.
func atomicInsert(token string) []ch.Setting {
	return []ch.Setting{
		{Key: "async_insert", Value: "0"},
		{Key: "insert_deduplicate", Value: "1", Important: true},
		{Key: "insert_deduplication_token", Value: token, Important: true},
		{Key: "deduplicate_blocks_in_dependent_materialized_views", Value: "1", Important: true},
		{Key: "materialized_views_ignore_errors", Value: "0"},
		{Key: "optimize_on_insert", Value: "0"},
		{Key: "max_threads", Value: "1"}, // a token is known by the number of chunks too
		{Key: "max_insert_threads", Value: "1"},
		{Key: "max_block_size", Value: "16777216"},
		{Key: "max_insert_block_size", Value: "16777216"},
		{Key: "min_insert_block_size_rows", Value: "16777216"},
		{Key: "min_insert_block_size_bytes", Value: "17179869184"},
	}
}

// ledgerEnd is the offset after the last block of the ledger; -1 where the ledger has none.
func (s *store) ledgerEnd(ctx context.Context, p position) (int64, error) {
	var end proto.ColInt64
	err := s.do(ctx, ch.Query{
		Body:       "SELECT if(count() = 0, -1, toInt64(max(to_offset))) AS end FROM store.ledger WHERE topic = {topic:String} AND partition = {partition:UInt32}",
		Parameters: ch.Parameters(map[string]any{"topic": p.topic, "partition": p.partition}),
		Result:     proto.Results{{Name: "end", Data: &end}},
	})
	if err != nil || len(end) == 0 {
		return 0, fmt.Errorf("read the ledger's end of %s/%d: %w", p.topic, p.partition, errors.Join(err))
	}
	return end[0], nil
}

// tail is the last block of a partition: one whose views were left behind the table, beyond the ledger's
// end, else the ledger's last; not pending where there is none.
func (s *store) tail(ctx context.Context, t *event.Type, p position, end int64) (claim, error) {
	var from, to proto.ColInt64
	result := proto.Results{{Name: "from", Data: &from}, {Name: "to", Data: &to}}
	err := s.do(ctx, ch.Query{
		Body: "SELECT toInt64(_from) AS from, toInt64(_to) AS to FROM store." + t.Table +
			" WHERE _partition = {partition:UInt32} AND _offset >= {end:UInt64} ORDER BY from LIMIT 1",
		Parameters: ch.Parameters(map[string]any{"partition": p.partition, "end": max(end, 0)}), Result: result,
	})
	if err == nil && len(from) == 0 {
		err = s.do(ctx, ch.Query{
			Body: "SELECT toInt64(from_offset) AS from, toInt64(to_offset) AS to FROM store.ledger WHERE topic = {topic:String} AND partition = {partition:UInt32} " +
				"ORDER BY from_offset DESC LIMIT 1",
			Parameters: ch.Parameters(map[string]any{"topic": p.topic, "partition": p.partition}), Result: result,
		})
	}
	if err != nil {
		return claim{}, fmt.Errorf("look for the last block of %s/%d: %w", p.topic, p.partition, err)
	}
	if len(from) == 0 {
		return claim{}, nil
	}
	return claim{from[0], to[0]}, nil
}

// storedEnd is one stored row of a block.
type storedEnd struct {
	end      record.End
	flags    uint16
	detail   string
	loadedAt time.Time
}

// block reads back the ends of a block by offset; empty where it is not stored.
func (s *store) block(ctx context.Context, t *event.Type, p position, c claim) (map[int64]storedEnd, error) {
	out := map[int64]storedEnd{}
	var (
		offset proto.ColUInt64
		end    proto.ColInt8
		flags  proto.ColUInt16
		detail proto.ColStr
		at     proto.ColInt64
	)
	err := s.do(ctx, ch.Query{
		Body: "SELECT _offset, CAST(_end, 'Int8') AS end, _flag_bits, _detail, toUnixTimestamp64Milli(_loaded_at) AS at FROM store." + t.Table +
			" WHERE _partition = {partition:UInt32} AND _offset >= {from:UInt64} AND _offset < {to:UInt64}",
		Parameters: ch.Parameters(map[string]any{"partition": p.partition, "from": c.from, "to": c.to}),
		Result: proto.Results{
			{Name: "_offset", Data: &offset},
			{Name: "end", Data: &end},
			{Name: "_flag_bits", Data: &flags},
			{Name: "_detail", Data: &detail},
			{Name: "at", Data: &at},
		},
		OnResult: func(context.Context, proto.Block) error {
			for i := range offset {
				out[int64(offset[i])] = storedEnd{record.End(end[i]), flags[i], detail.Row(i), time.UnixMilli(at[i]).UTC()}
			}
			return nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("read back block %s: %w", blockName(p, c), err)
	}
	return out, nil
}

// known is where an id was stored first, and with which content.
type known struct {
	partition int
	offset    int64
	content   [32]byte
	version   int // of the schema at which content was made
}

// lookup finds which of ids are stored. Of several positions of one id the lowest counts.
func (s *store) lookup(ctx context.Context, t *event.Type, ids [][16]byte) (map[[16]byte]known, error) {
	out := make(map[[16]byte]known, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	wanted := proto.ColFixedStr{Size: 16}
	for i := range ids {
		wanted.Append(ids[i][:])
	}
	var (
		id, content = proto.ColFixedStr{Size: 16}, proto.ColFixedStr{Size: 32}
		partition   proto.ColUInt32
		offset      proto.ColUInt64
		version     proto.ColUInt8
	)
	err := s.do(ctx, ch.Query{
		Body:          fmt.Sprintf("SELECT id_hash, content_hash, hash_version, partition, offset FROM store.ids WHERE type = %d AND id_hash IN (SELECT id FROM wanted)", t.No),
		ExternalTable: "wanted", ExternalData: []proto.InputColumn{{Name: "id", Data: &wanted}},
		Result: proto.Results{
			{Name: "id_hash", Data: &id}, {Name: "content_hash", Data: &content}, {Name: "hash_version", Data: &version}, {Name: "partition", Data: &partition}, {Name: "offset", Data: &offset},
		},
		OnResult: func(context.Context, proto.Block) error {
			for i := range offset {
				key, at := [16]byte(id.Row(i)), known{int(partition[i]), int64(offset[i]), [32]byte(content.Row(i)), int(version[i])}
				if old, ok := out[key]; !ok || at.partition < old.partition || at.partition == old.partition && at.offset < old.offset {
					out[key] = at
				}
			}
			return nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("look up %d ids of %s: %w", len(ids), t.Topic, err)
	}
	return out, nil
}

// loadIDs adds the stored ids of t to the filter: all of them, or those that other instances stored.
func (s *store) loadIDs(ctx context.Context, t *event.Type, f *dedup.Filter, notOwner uint64) error {
	id := proto.ColFixedStr{Size: 16}
	err := s.do(ctx, ch.Query{
		Body:       fmt.Sprintf("SELECT id_hash FROM store.ids WHERE type = %d AND owner != {owner:UInt64}", t.No),
		Parameters: ch.Parameters(map[string]any{"owner": notOwner}),
		Result:     proto.Results{{Name: "id_hash", Data: &id}},
		OnResult: func(context.Context, proto.Block) error {
			fault.At("during", "rebuild")
			for i := range id.Rows() {
				key := [16]byte(id.Row(i))
				f.TestAndAdd(&key)
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("read the known ids of %s: %w", t.Topic, err)
	}
	return nil
}

// loadBlockIDs adds the ids of a stored block to the filter.
func (s *store) loadBlockIDs(ctx context.Context, t *event.Type, p position, c claim, f *dedup.Filter) error {
	id := proto.ColFixedStr{Size: 16}
	err := s.do(ctx, ch.Query{
		Body: "SELECT _id_hash FROM store." + t.Table +
			" WHERE _partition = {partition:UInt32} AND _offset >= {from:UInt64} AND _offset < {to:UInt64} AND _end = 'loaded'",
		Parameters: ch.Parameters(map[string]any{"partition": p.partition, "from": c.from, "to": c.to}),
		Result:     proto.Results{{Name: "_id_hash", Data: &id}},
		OnResult: func(context.Context, proto.Block) error {
			for i := range id.Rows() {
				key := [16]byte(id.Row(i))
				f.TestAndAdd(&key)
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("read the ids of block %s: %w", blockName(p, c), err)
	}
	return nil
}

// putLogEnds records the ends of the logs.
func (s *store) putLogEnds(ctx context.Context, ends map[position]int64) error {
	var (
		topic     proto.ColStr
		partition proto.ColUInt32
		end       proto.ColUInt64
		at        = new(proto.ColDateTime64).WithPrecision(proto.PrecisionMilli).WithLocation(time.UTC)
	)
	now := s.clock.now()
	for p, e := range ends {
		topic.Append(p.topic)
		partition.Append(uint32(p.partition))
		end.Append(uint64(e))
		at.Append(now)
	}
	input := proto.Input{{Name: "topic", Data: &topic}, {Name: "partition", Data: &partition}, {Name: "log_end", Data: &end}, {Name: "as_of", Data: at}}
	if err := s.do(ctx, ch.Query{Body: input.Into("log_end"), Input: input, Settings: []ch.Setting{{Key: "async_insert", Value: "0"}}}); err != nil {
		return fmt.Errorf("write %d log ends: %w", len(ends), err)
	}
	return nil
}

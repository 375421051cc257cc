package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// connection is one that lives now: whatever it sends is lost if the engine dies from here on. So it knows in
// which life of the engine that is.
type connection struct {
	s     *store
	c     *ch.Client // nil once it was used for an insert
	epoch uint64
}

// connect returns a connection that is known to live.
func (s *store) connect(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c, err := s.take(ctx)
		if err != nil {
			return nil, err
		}
		epoch, err := epochOf(ctx, c)
		if err == nil {
			return &connection{s, c, epoch}, nil
		}
		_ = c.Close() // perhaps an idle one that died
		if ctx.Err() != nil || ch.IsException(err) {
			return nil, err
		}
	}
}

// epochOf is the epoch of the process that c leads to.
func epochOf(ctx context.Context, c *ch.Client) (uint64, error) {
	return clickhouse.EpochBy(func() (uint64, error) {
		var epoch proto.ColUInt64
		err := c.Do(ctx, ch.Query{Body: clickhouse.ReadEpoch, Result: proto.Results{{Name: "epoch", Data: &epoch}}})
		if err != nil || len(epoch) == 0 {
			return 0, err
		}
		return epoch[0], nil
	}, func(statement string) error { return c.Do(ctx, ch.Query{Body: statement}) })
}

// release gives the connection back, where it was not used.
func (c *connection) release() {
	if c.c != nil {
		c.s.give(c.c)
		c.c = nil
	}
}

// do runs a query. After an error the connection is of no use.
func (c *connection) do(ctx context.Context, q ch.Query) error {
	if c.c == nil {
		return errConnectionUsed
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	err := c.c.Do(ctx, q)
	if err != nil {
		_ = c.c.Close()
		c.c = nil
	}
	return err
}

var errConnectionUsed = errors.New("the connection was used for an insert already")

// insert stores a block: all of its rows, or, where its token is known, none. It can be called once.
func (c *connection) insert(ctx context.Context, t *event.Type, p position, b claim, cols *record.Columns) error {
	if c.c == nil {
		return errConnectionUsed
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	client := c.c
	c.c = nil
	cols.SetEpoch(c.epoch)
	if err := c.s.doOn(ctx, client, ch.Query{Body: cols.Input.Into(t.Table), Input: cols.Input, Settings: atomicInsert(token(p, b, c.epoch))}); err != nil {
		return fmt.Errorf("insert %d rows of block %s: %w", cols.Rows(), blockName(p, b), err)
	}
	return nil
}

// token names a block by where it begins: of all that begin there in one life of the engine one is stored.
func token(p position, c claim, epoch uint64) string {
	return fmt.Sprintf("%s/%x", blockName(p, c), epoch)
}

// blockName is how errors and tokens name a block.
func blockName(p position, c claim) string {
	return fmt.Sprintf("%s/%d/%d", p.topic, p.partition, c.from)
}

// ownership is who an insert was acknowledged to.
type ownership uint8

const (
	nobody ownership = iota // no row is stored, and none was erased
	another
	mine
)

// owns tells whose block is stored at c.from, where owner decided one at an instant: as the ledger has it, or, if
// it is doubted that rows were stored at all, as the rows say.
func (s *store) owns(ctx context.Context, t *event.Type, p position, c claim, owner uint64, decided time.Time, doubted bool) (ownership, error) {
	args := map[string]any{
		"topic": p.topic, "partition": p.partition, "from": c.from, "to": c.to, "owner": owner, "decided": decided.UnixMilli(),
	}
	ask := func(body string) (all, own uint64, err error) {
		var n, m proto.ColUInt64
		err = s.do(ctx, ch.Query{Body: body, Parameters: ch.Parameters(args), Result: proto.Results{{Name: "n", Data: &n}, {Name: "mine", Data: &m}}})
		if err != nil || len(n) == 0 {
			return 0, 0, fmt.Errorf("read whose block %s is: %w", blockName(p, c), errors.Join(err))
		}
		return n[0], m[0], nil
	}
	if doubted {
		n, own, err := ask("SELECT count() AS n, countIf(_to = {to:UInt64} AND _owner = {owner:UInt64} AND _loaded_at = fromUnixTimestamp64Milli({decided:Int64}, 'UTC')) AS mine FROM store." +
			t.Table + " WHERE _partition = {partition:UInt32} AND _offset >= {from:UInt64} AND _from = {from:UInt64}")
		switch {
		case err != nil:
			return nobody, err
		case own > 0:
			return mine, nil
		case n > 0:
			return another, nil
		}
		if erased, err := s.allErased(ctx, p, c); err != nil || !erased {
			return nobody, err
		}
	}
	_, own, err := ask("SELECT count() AS n, countIf(to_offset = {to:UInt64} AND owner = {owner:UInt64} AND loaded_at = fromUnixTimestamp64Milli({decided:Int64}, 'UTC')) AS mine " +
		"FROM store.ledger WHERE topic = {topic:String} AND partition = {partition:UInt32} AND from_offset = {from:UInt64}")
	if err != nil || own == 0 {
		return another, err
	}
	return mine, nil
}

// allErased tells, of a block of which no row is stored, whether that is because each was erased.
func (s *store) allErased(ctx context.Context, p position, c claim) (bool, error) {
	var n proto.ColUInt64
	err := s.do(ctx, ch.Query{
		Body: "SELECT toUInt64(ifNull(read > 0 AND read <= erased, 0)) AS n FROM (SELECT (SELECT max(read) FROM store.ledger WHERE topic = {topic:String} AND partition = {partition:UInt32} AND from_offset = {from:UInt64}) AS read, " +
			"(SELECT uniqExact(offset) FROM store.erased WHERE topic = {topic:String} AND partition = {partition:UInt32} AND offset >= {from:UInt64} AND offset < {to:UInt64}) AS erased)",
		Parameters: ch.Parameters(map[string]any{"topic": p.topic, "partition": p.partition, "from": c.from, "to": c.to}),
		Result:     proto.Results{{Name: "n", Data: &n}},
	})
	if err != nil || len(n) == 0 {
		return false, fmt.Errorf("read whether block %s was erased: %w", blockName(p, c), errors.Join(err))
	}
	return n[0] > 0, nil
}

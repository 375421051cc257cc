package load

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// healing is the completion of the views of one stored block, all of it over one connection: what it finds
// missing can be filled by nobody without a token that its own fill respects, as long as the engine lives.
type healing struct {
	*connection
	t *event.Type
	p position
	c claim
}

// healTries bounds the tokens that are tried in one heal. Each is taken only where a fill failed, or was done.
const healTries = 20

var errNotHealed = errors.New("rows are missing still")

// heal completes the views of a stored block. It finds none of it where no row is stored, though the ledger
// counts some that were not erased.
func (s *store) heal(ctx context.Context, t *event.Type, p position, c claim) (found bool, err error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return false, fmt.Errorf("complete the views of block %s: %w", blockName(p, c), err)
	}
	defer conn.release()
	h := &healing{conn, t, p, c}
	rows, epoch, err := h.stored(ctx)
	if err != nil {
		return false, fmt.Errorf("complete the views of block %s: %w", blockName(p, c), err)
	}
	if rows == 0 {
		return s.allErased(ctx, p, c)
	}
	if err := h.run(ctx, epoch); err != nil {
		return true, fmt.Errorf("complete the views of block %s: %w", blockName(p, c), err)
	}
	return true, nil
}

// run looks which views lack rows, and fills those, until none does. In the life of the engine in which the block
// was stored that insert may be at work still, or another with its token come. So there the rows are inserted again
// under it first: the table drops them, each view takes them, or has taken its token. What is missing then has
// a token that was taken without rows. In a later life nothing of that is left, and the token may be forgotten.
func (h *healing) run(ctx context.Context, epoch uint64) error {
	views, err := h.views(ctx)
	if err != nil {
		return err
	}
	again := epoch == h.epoch
	for try := 1; try <= healTries; {
		var lacking []view
		for _, v := range views {
			n, err := h.lacks(ctx, v)
			if err != nil {
				return err
			}
			if n > 0 {
				lacking = append(lacking, v)
			}
		}
		if len(lacking) == 0 {
			return nil
		}
		if again {
			again = false
			if err := h.insertAgain(ctx, epoch); err != nil {
				return err
			}
			continue
		}
		for _, v := range lacking {
			h.s.log.Warn("rows of a stored block are missing in a book, adding them", zap.String("block", blockName(h.p, h.c)), zap.String("book", v.book))
			if err := h.fill(ctx, v, fmt.Sprintf("%s/heal/%d", token(h.p, h.c, epoch), try)); err != nil {
				return err
			}
		}
		try++
	}
	return errNotHealed
}

const ofBlock = "_partition = {partition:UInt32} AND _offset >= {from:UInt64} AND _offset < {to:UInt64}"

// ask runs a query about the block.
func (h *healing) ask(ctx context.Context, body string, result proto.Result, settings ...ch.Setting) error {
	return h.do(ctx, ch.Query{
		Body: body, Result: result, Settings: settings,
		Parameters: ch.Parameters(map[string]any{"partition": h.p.partition, "from": h.c.from, "to": h.c.to}),
	})
}

// stored counts the rows of the block, and reads in which life of the engine they were inserted: 0 where replays
// stored all of them.
func (h *healing) stored(ctx context.Context) (rows, epoch uint64, err error) {
	var n, e proto.ColUInt64
	err = h.ask(ctx, "SELECT count() AS n, max(_epoch) AS epoch FROM store."+h.t.Table+" WHERE "+ofBlock, proto.Results{{Name: "n", Data: &n}, {Name: "epoch", Data: &e}})
	if err != nil || len(n) == 0 {
		return 0, 0, fmt.Errorf("read its rows: %w", errors.Join(err))
	}
	return n[0], e[0], nil
}

// insertAgain inserts the stored rows under their token.
func (h *healing) insertAgain(ctx context.Context, epoch uint64) error {
	err := h.ask(ctx, "INSERT INTO store."+h.t.Table+" SELECT * FROM store."+h.t.Table+" WHERE "+ofBlock+" ORDER BY _offset", nil, atomicInsert(token(h.p, h.c, epoch))...)
	if err != nil {
		return fmt.Errorf("insert its rows again: %w", err)
	}
	return nil
}

// view is what a materialized view makes of the rows of the block.
type view struct {
	book string // table in store that it feeds
	rows string // SELECT
	keys string // columns by which its rows are told apart, the one by which the book is sorted first
}

// missing is the condition on the view's rows that the book has not.
func (v view) missing() string {
	first, _, _ := strings.Cut(v.keys, ",")
	return fmt.Sprintf("(%[1]s) NOT IN (SELECT %[1]s FROM store.%[2]s WHERE %[3]s IN (SELECT %[3]s FROM (%[4]s)))", v.keys, v.book, first, v.rows)
}

// views reads the views on the table of the block from the engine: what they select is what they feed.
func (h *healing) views(ctx context.Context) ([]view, error) {
	var name, text proto.ColStr
	var out []view
	prefix := h.t.Table + "_to_"
	from := regexp.MustCompile(`\bFROM store\.` + h.t.Table + `\b`)
	err := h.do(ctx, ch.Query{
		Body:       "SELECT name, as_select FROM system.tables WHERE database = 'store' AND engine = 'MaterializedView' AND startsWith(name, {prefix:String}) ORDER BY name",
		Parameters: ch.Parameters(map[string]any{"prefix": prefix}),
		Result:     proto.Results{{Name: "name", Data: &name}, {Name: "as_select", Data: &text}},
		OnResult: func(context.Context, proto.Block) error {
			for i := range name.Rows() {
				book := strings.TrimPrefix(name.Row(i), prefix)
				rows := from.ReplaceAllLiteralString(text.Row(i), "FROM (SELECT * FROM store."+h.t.Table+" WHERE "+ofBlock+")")
				out = append(out, view{book, rows, clickhouse.BookKeys[book]})
			}
			return nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("read the views: %w", err)
	}
	for _, book := range []string{"ids", "ledger"} {
		if !slices.ContainsFunc(out, func(v view) bool { return v.book == book }) {
			return nil, fmt.Errorf("view store.%s%s: %w", prefix, book, errNoView)
		}
	}
	for _, v := range out {
		if v.keys == "" {
			return nil, fmt.Errorf("view store.%s%s: %w", prefix, v.book, errNoView)
		}
	}
	return out, nil
}

var errNoView = errors.New("the schema is not of this release, or a right on store is missing")

// lacks counts the rows that a view should have fed and the book has not.
func (h *healing) lacks(ctx context.Context, v view) (uint64, error) {
	var n proto.ColUInt64
	err := h.ask(ctx, "SELECT count() AS n FROM ("+v.rows+") WHERE "+v.missing(), proto.Results{{Name: "n", Data: &n}})
	if err != nil || len(n) == 0 {
		return 0, fmt.Errorf("look what store.%s lacks: %w", v.book, errors.Join(err))
	}
	return n[0], nil
}

// fill adds them.
func (h *healing) fill(ctx context.Context, v view, token string) error {
	var columns proto.Results
	if err := h.ask(ctx, "DESCRIBE TABLE ("+v.rows+")", columns.Auto()); err != nil {
		return fmt.Errorf("read the columns of store.%s: %w", v.book, err)
	}
	names, ok := columns[0].Data.(*proto.ColStr)
	if !ok {
		return fmt.Errorf("read the columns of store.%s: %w", v.book, errNoView)
	}
	list := "`" + strings.Join(all(names), "`, `") + "`"
	err := h.ask(ctx, fmt.Sprintf("INSERT INTO store.%s (%s) SELECT %s FROM (%s) WHERE %s ORDER BY %s", v.book, list, list, v.rows, v.missing(), v.keys), nil, atomicInsert(token)...)
	if err != nil {
		return fmt.Errorf("add what store.%s lacks: %w", v.book, err)
	}
	return nil
}

func all(c *proto.ColStr) []string {
	out := make([]string, c.Rows())
	for i := range out {
		out[i] = c.Row(i)
	}
	return out
}

package replay

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/clickhouse-go/v2"

	wclickhouse "github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// restore stores rows again. An insert into a storage table would feed the views on it, and so book its
// rows in the ledger a second time; its token cannot prevent that, for with the block's own token the table
// would drop the rows too. So rows go into a table beside, store.restore_<table>, and from there as one part
// into the storage table (ATTACH PARTITION ... FROM), which feeds no view. What the views feed, save the
// ledger, is then completed by their own SELECTs, where it is missing. A restored row names the block, the
// instance and the instant that the ledger has for it, so it is the row that was lost.
//
// The table beside is also what keeps two replays from restoring one table at once, for it can be made only
// once, and what tells a resumed replay which rows it had stored itself: the steps of a chunk are fill,
// attach, complete, book, empty, and each can be done again.
type restore struct {
	r      *runner
	t      *event.Type
	p      *Partition
	cols   *record.Columns
	client *ch.Client
	made   bool
	feeds  []feed

	first, last int64          // of the rows in cols
	done        map[int64]bool // rows that the run that was cut off had attached; they count as restored
	upTo        int64          // end of its chunk
}

// beside is the name of the table beside.
func (r *restore) beside() string { return "store.restore_" + r.t.Table }

func newRestore(ctx context.Context, run *runner, t *event.Type, p *Partition) (*restore, error) {
	o, err := clickhouse.ParseDSN(run.opt.DSN)
	if err != nil || len(o.Addr) == 0 {
		return nil, errors.New("read ClickHouse address: want clickhouse://user:password@host:port/")
	}
	client, err := ch.Dial(ctx, ch.Options{
		Address: o.Addr[0], Database: "store", User: o.Auth.Username, Password: o.Auth.Password, TLS: o.TLS, ClientName: "welfarehub-replay",
		Compression: ch.CompressionDisabled,
	})
	if err != nil {
		return nil, fmt.Errorf("connect to ClickHouse: %w", err)
	}
	return &restore{r: run, t: t, p: p, cols: record.NewColumns(t), client: client, first: -1}, nil
}

func (r *restore) close() { _ = r.client.Close() }

// plainInsert stores whatever comes: the same rows may be lost, and restored, more than once.
func plainInsert(ctx context.Context) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplicate": 0, "deduplicate_blocks_in_dependent_materialized_views": 0, "materialized_views_ignore_errors": 0, "async_insert": 0,
	}))
}

// owner returns the id of the replay whose table beside there is; empty where there is none.
func (r *restore) owner(ctx context.Context) (string, error) {
	var n uint64
	var comment string
	err := r.r.db.Scan(ctx, "SELECT count(), any(comment) FROM system.tables WHERE database = 'store' AND name = ?", []any{"restore_" + r.t.Table}, &n, &comment)
	if err != nil || n == 0 {
		return "", err
	}
	return strings.TrimPrefix(comment, "replay "), nil
}

// takeUp looks at what a run that was cut off left in the table beside: where its rows were attached, the
// rest of the chunk is done again, and they count as restored.
func (r *restore) takeUp(ctx context.Context) error {
	id, err := r.owner(ctx)
	if err != nil {
		return fmt.Errorf("look for %s: %w", r.beside(), err)
	}
	if id == "" {
		return nil
	}
	if id != r.r.report.ID {
		return r.busy(id)
	}
	r.made = true
	var staged []struct {
		Partition uint32 `ch:"_partition"`
		Offset    uint64 `ch:"_offset"`
		There     uint8  `ch:"there"`
	}
	err = r.r.db.Select(ctx, &staged, fmt.Sprintf(`SELECT _partition, _offset, (_partition, _offset) IN (SELECT _partition, _offset FROM store.%[1]s
		WHERE (_partition, _offset) IN (SELECT _partition, _offset FROM %[2]s)) AS there FROM %[2]s`, r.t.Table, r.beside()))
	if err != nil {
		return fmt.Errorf("read %s: %w", r.beside(), err)
	}
	attached := map[int64]bool{}
	lowest := r.p.To
	for _, s := range staged {
		if int(s.Partition) == r.p.Partition && int64(s.Offset) >= r.p.position && s.There == 1 {
			attached[int64(s.Offset)] = true
			lowest = min(lowest, int64(s.Offset))
			r.upTo = max(r.upTo, int64(s.Offset)+1)
		}
	}
	if len(attached) == 0 {
		return r.empty(ctx)
	}
	r.done = attached
	if err := r.complete(ctx); err != nil {
		return err
	}
	return r.recompute(ctx, lowest, r.upTo)
}

func (r *restore) busy(id string) error {
	return fmt.Errorf("%w: %s is of replay %s; wait for its end, or, where it was cut off, go on with --resume %s", ErrBusy, r.beside(), id, id)
}

// add adds the row of an event to the chunk.
func (r *restore) add(m *record.Meta, row *event.Row, blk ledgerBlock) {
	if r.first < 0 {
		r.first = m.Offset
	}
	r.last = m.Offset
	r.cols.AppendRow(m, row.Vals)
	r.cols.Seal(r.p.Partition, blk.from, blk.to, blk.owner, blk.at)
}

// flush stores the rows of the chunk. It does nothing where there are none.
func (r *restore) flush(ctx context.Context) error {
	if r.cols.Rows() == 0 {
		return nil
	}
	if err := r.make(ctx); err != nil {
		return err
	}
	if err := r.empty(ctx); err != nil {
		return err
	}
	err := r.client.Do(ctx, ch.Query{Body: r.cols.Input.Into("restore_" + r.t.Table), Input: r.cols.Input, Settings: []ch.Setting{
		{Key: "async_insert", Value: "0"},
		{Key: "insert_deduplicate", Value: "0"},
		{Key: "max_insert_block_size", Value: "16777216"},
		{Key: "min_insert_block_size_rows", Value: "16777216"},
		{Key: "min_insert_block_size_bytes", Value: "17179869184"},
		{Key: "optimize_on_insert", Value: "0"},
	}})
	if err != nil {
		return fmt.Errorf("insert %d rows into %s: %w", r.cols.Rows(), r.beside(), err)
	}
	if err := r.r.opt.Step("fill"); err != nil {
		return err
	}
	if err := r.r.db.Exec(ctx, fmt.Sprintf("ALTER TABLE store.%s ATTACH PARTITION tuple() FROM %s", r.t.Table, r.beside())); err != nil {
		return fmt.Errorf("attach %d rows to store.%s: %w", r.cols.Rows(), r.t.Table, err)
	}
	if err := r.r.opt.Step("attach"); err != nil {
		return err
	}
	if err := r.complete(ctx); err != nil {
		return err
	}
	if err := r.recompute(ctx, r.first, r.last+1); err != nil {
		return err
	}
	r.cols.Reset()
	r.first = -1
	return nil
}

func (r *restore) recompute(ctx context.Context, from, to int64) error {
	if r.r.opt.Aggregates == nil {
		return nil
	}
	return r.r.opt.Aggregates.Recompute(ctx, r.t.Topic, r.p.Partition, from, to)
}

// clear ends a chunk that is booked.
func (r *restore) clear(ctx context.Context) error {
	if !r.made || r.p.position < r.upTo {
		return nil
	}
	r.done = nil
	return r.empty(ctx)
}

func (r *restore) make(ctx context.Context) error {
	if r.made {
		return nil
	}
	err := r.r.db.Exec(ctx, fmt.Sprintf("CREATE TABLE %s AS store.%s COMMENT 'replay %s'", r.beside(), r.t.Table, r.r.report.ID))
	if err != nil {
		if id, e := r.owner(ctx); e == nil && id != "" {
			return r.busy(id)
		}
		return fmt.Errorf("create %s: %w", r.beside(), err)
	}
	r.made = true
	return nil
}

func (r *restore) empty(ctx context.Context) error {
	if err := r.r.db.Exec(ctx, "TRUNCATE TABLE "+r.beside()+" SYNC"); err != nil {
		return fmt.Errorf("empty %s: %w", r.beside(), err)
	}
	return nil
}

// drop ends the work on a partition.
func (r *restore) drop(ctx context.Context) error {
	if !r.made {
		return nil
	}
	if err := r.r.db.Exec(ctx, "DROP TABLE IF EXISTS "+r.beside()+" SYNC"); err != nil {
		return fmt.Errorf("drop %s: %w", r.beside(), err)
	}
	r.made = false
	return nil
}

// keys are the columns by which the rows of a book are told apart, the one by which it is sorted first. A
// book that has no keys is not completed.
var keys = map[string]string{
	"ids":      wclickhouse.BookKeys["ids"],
	"facts":    "grp, rec, type, partition, offset",
	"records":  "rec, type, partition, offset, revocation",
	"erased":   wclickhouse.BookKeys["erased"],
	"erasures": wclickhouse.BookKeys["erasures"],
	"ledger":   "",
}

// feed is the SELECT by which a view makes rows of a book of the rows of a storage table.
type feed struct{ book, query, columns string }

// loadFeeds reads the views on the storage table.
func (r *restore) loadFeeds(ctx context.Context) error {
	if r.feeds != nil {
		return nil
	}
	var views []struct {
		Name   string `ch:"name"`
		Create string `ch:"create_table_query"`
		Select string `ch:"as_select"`
	}
	err := r.r.db.Select(ctx, &views, `SELECT name, create_table_query, as_select FROM system.tables
		WHERE database = 'store' AND (engine = 'MaterializedView' OR match(name, '^(facts|records)_of_')) AND match(as_select, ?) ORDER BY name`, `FROM store\.`+r.t.Table+`\b`)
	if err != nil {
		return fmt.Errorf("read the views on store.%s: %w", r.t.Table, err)
	}
	for _, v := range views {
		m := viewTarget.FindStringSubmatch(v.Create)
		if m == nil {
			m = factsView.FindStringSubmatch(v.Name) // by which the aggregation feeds them
		}
		if m == nil {
			return fmt.Errorf("view %s has no table that it feeds: %w", v.Name, errView)
		}
		key, known := keys[m[1]]
		if !known {
			return fmt.Errorf("view %s feeds store.%s, which a replay does not know: %w", v.Name, m[1], errView)
		}
		if key == "" {
			continue
		}
		f := feed{book: m[1], query: strings.ReplaceAll(v.Select, "store."+r.t.Table, r.beside())}
		columns, err := r.columnsOf(ctx, f.query)
		if err != nil {
			return fmt.Errorf("read the columns of view %s: %w", v.Name, err)
		}
		f.columns = "`" + strings.Join(columns, "`, `") + "`"
		r.feeds = append(r.feeds, f)
	}
	if len(r.feeds) == 0 {
		return fmt.Errorf("store.%s has no views; is the schema migrated?: %w", r.t.Table, errView)
	}
	return nil
}

func (r *restore) columnsOf(ctx context.Context, query string) ([]string, error) {
	rows, err := r.r.db.Conn().Query(ctx, query+" LIMIT 0")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns := rows.Columns()
	for rows.Next() { // none
	}
	return columns, rows.Err()
}

var (
	viewTarget = regexp.MustCompile(` TO store\.(\w+)`)
	factsView  = regexp.MustCompile(`^(facts|records)_of_`)
	errView    = errors.New("the schema is not of this release")
)

// complete adds to the books what the rows in the table beside would have fed, where it is missing.
func (r *restore) complete(ctx context.Context) error {
	if err := r.loadFeeds(ctx); err != nil {
		return err
	}
	for _, f := range r.feeds {
		key := keys[f.book]
		sorted, _, _ := strings.Cut(key, ",")
		query := fmt.Sprintf("INSERT INTO store.%[1]s (%[2]s) SELECT %[2]s FROM (%[3]s) WHERE (%[4]s) NOT IN (SELECT %[4]s FROM store.%[1]s WHERE %[5]s IN (SELECT %[5]s FROM (%[3]s)))",
			f.book, f.columns, f.query, key, sorted)
		if err := r.r.db.Exec(plainInsert(ctx), query); err != nil {
			return fmt.Errorf("complete store.%s for rows of store.%s: %w", f.book, r.t.Table, err)
		}
	}
	return nil
}

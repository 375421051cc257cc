// Package clickhouse connects the hub to ClickHouse and brings its schema up to date. Loaders,
// aggregates and commands use it; it knows how fields are stored, not what they mean. It promises that
// no call hangs without end. A server's error may quote what it was sent: log its code, not its text,
// where values are sent.
package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Deadlines of every call. A caller's context may be shorter, and so may be what the server allows the user.
const (
	dialTimeout = 5 * time.Second
	queryTime   = 2 * time.Minute
	driverAdds  = 5 * time.Second // the driver asks for a max_execution_time of the context's deadline and this
)

// DB is a pool of connections over the native protocol. It is safe for concurrent use.
type DB struct {
	conn     driver.Conn
	patience time.Duration // deadline of a call
}

// Open connects to the server of dsn, clickhouse://user:password@host:port/, and asks it for an answer.
// The default database is store. The caller closes the DB.
func Open(ctx context.Context, dsn string) (*DB, error) {
	o, err := options(dsn)
	if err != nil {
		return nil, err
	}
	conn, err := clickhouse.Open(o)
	if err != nil {
		return nil, fmt.Errorf("open ClickHouse at %s: %w", o.Addr[0], err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := conn.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("reach ClickHouse at %s (is it the native port?): %w", o.Addr[0], err), conn.Close())
	}
	patience, err := patienceOf(ctx, conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read limits of the user at ClickHouse at %s: %w", o.Addr[0], err), conn.Close())
	}
	return &DB{conn: conn, patience: patience}, nil
}

// patienceOf is how long a call may take: 2 minutes, or less where the server gives the user less. A user with
// constraints, as planner is, is refused a query that asks for more.
func patienceOf(ctx context.Context, conn driver.Conn) (time.Duration, error) {
	// Without a deadline, because the driver would send it in place of what is asked here.
	plain, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	var seconds float64
	if err := conn.QueryRow(plain, "SELECT toFloat64(getSetting('max_execution_time'))").Scan(&seconds); err != nil {
		return 0, err
	}
	if seconds == 0 {
		return queryTime, nil
	}
	limit := time.Duration(seconds * float64(time.Second))
	return min(queryTime, max(limit-driverAdds, time.Second)), nil
}

func options(dsn string) (*clickhouse.Options, error) {
	o, err := clickhouse.ParseDSN(dsn)
	if err != nil || len(o.Addr) == 0 {
		// The driver's error may quote the DSN, and so its password.
		return nil, errors.New("read ClickHouse address: want clickhouse://user:password@host:port/")
	}
	if o.Auth.Database == "" {
		o.Auth.Database = "default" // store may not be there yet; every statement names its database
	}
	o.DialTimeout, o.ReadTimeout = dialTimeout, queryTime
	o.MaxOpenConns, o.MaxIdleConns, o.ConnMaxLifetime = 8, 4, time.Hour
	if o.Settings == nil {
		o.Settings = clickhouse.Settings{}
	}
	for name, value := range settings {
		o.Settings[name] = value
	}
	return o, nil
}

// settings of every query. An insert must be stored, with its views, when it returns. The driver itself
// sends max_execution_time, from the context's deadline.
var settings = clickhouse.Settings{
	"async_insert":       0,
	"insert_deduplicate": 1,
	"deduplicate_blocks_in_dependent_materialized_views": 1,
	"materialized_views_ignore_errors":                   0,
	"optimize_on_insert":                                 0,
}

// Conn is the driver's connection pool, for batches and whatever else DB does not have.
func (db *DB) Conn() driver.Conn { return db.conn }

// Close closes all connections.
func (db *DB) Close() error { return db.conn.Close() }

// Exec runs one statement without a result.
func (db *DB) Exec(ctx context.Context, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	return db.conn.Exec(ctx, query, args...)
}

// Select reads all rows of a query into dest, a pointer to a slice of structs with ch tags.
func (db *DB) Select(ctx context.Context, dest any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	return db.conn.Select(ctx, dest, query, args...)
}

// Scan reads the one row of a query into dest. No row is sql.ErrNoRows.
func (db *DB) Scan(ctx context.Context, query string, args []any, dest ...any) error {
	ctx, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	return db.conn.QueryRow(ctx, query, args...).Scan(dest...)
}

// InsertOnce returns a context under which an insert is one part, known by its token: repeated with the
// same token it changes nothing, whatever its rows, and completes views that a crash left behind.
//
// The server knows an insert by its token and by the number of chunks that the rows came in, even when it
// squashes them into one part (tried: the same token over one chunk and over two is stored twice). So a
// block must come as one native block, or from one SELECT with ORDER BY: under these settings the sort of
// a single thread gives one chunk of up to 16 million rows. An unsorted SELECT, or one of several
// threads, may come in any number.
func InsertOnce(ctx context.Context, token string) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplication_token":  token,
		"max_threads":                 1,
		"max_insert_threads":          1,
		"max_block_size":              oneBlock,
		"max_insert_block_size":       oneBlock,
		"min_insert_block_size_rows":  oneBlock,
		"min_insert_block_size_bytes": 1 << 34,
	}))
}

// oneBlock is more rows than a block ever has.
const oneBlock = 1 << 24

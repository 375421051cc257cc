package clickhouse

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/schemas"
)

// versionTable is where goose keeps which migrations were applied.
const versionTable = "store.schema_version"

// Migrate brings the databases store and welfare to the version of this program. It may run again at
// any time, also after one that was cut off: every statement can be repeated. It loads the reference lists
// of this program too.
func Migrate(ctx context.Context, dsn string, log *zap.Logger) error {
	return migrate(ctx, dsn, log, func(p *goose.Provider) ([]*goose.MigrationResult, error) { return p.Up(ctx) }, loadReference)
}

// MigrateDown goes back to an earlier version; 0 removes all tables and their data. The two databases
// stay, with the table of versions.
func MigrateDown(ctx context.Context, dsn string, version int64, log *zap.Logger) error {
	return migrate(ctx, dsn, log, func(p *goose.Provider) ([]*goose.MigrationResult, error) { return p.DownTo(ctx, version) }, nil)
}

func migrate(ctx context.Context, dsn string, log *zap.Logger, run func(*goose.Provider) ([]*goose.MigrationResult, error), after func(context.Context, *sql.DB) error) (err error) {
	o, err := options(dsn)
	if err != nil {
		return err
	}
	o.Settings["allow_experimental_analyzer"] = 1
	db := clickhouse.OpenDB(o)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := createStore(ctx, db); err != nil {
		return explain(ctx, db, err)
	}
	versions, err := database.NewStore(database.DialectClickHouse, versionTable)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	files, err := fs.Sub(schemas.ClickHouse, "clickhouse")
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	p, err := goose.NewProvider("", db, files, goose.WithStore(versions), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	done, err := run(p)
	for _, m := range done {
		log.Info("migrated", zap.String("file", m.Source.Path), zap.String("direction", m.Direction), zap.Duration("took", m.Duration))
	}
	if err != nil {
		return fmt.Errorf("migrate ClickHouse at %s: %w", o.Addr[0], explain(ctx, db, err))
	}
	if after == nil {
		return nil
	}
	if err := after(ctx, db); err != nil {
		return explain(ctx, db, err)
	}
	return nil
}

// createStore makes the database of the version table, which the first migration would be too late for.
func createStore(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if _, err := db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS store"); err != nil {
		return fmt.Errorf("create database store: %w", err)
	}
	return nil
}

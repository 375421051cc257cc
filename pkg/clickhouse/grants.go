package clickhouse

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/pressly/goose/v3/database"
)

// Grants are the rights of the user that migrates, loads and aggregates, in the words of GRANT. CREATE and DROP are
// spelled out, because the server answers whether a user has them only by their parts.
var Grants = []string{
	"SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE ON store.*",
	"SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE ON welfare.*",
	"SELECT ON system.tables",
	"TABLE ENGINE ON MergeTree",
	"TABLE ENGINE ON ReplacingMergeTree",
	"TABLE ENGINE ON SummingMergeTree",
	"TABLE ENGINE ON Join",
}

// codeAccessDenied: ACCESS_DENIED.
const codeAccessDenied = 497

// explain adds to the error of a migration what rights the user lacks, where that may be its cause.
func explain(ctx context.Context, db *sql.DB, err error) error {
	// The driver closes a connection on which the server refused something, and goose, which holds on to one, then
	// reports the closed connection. It does so where it makes the table of versions.
	if errors.Is(err, sql.ErrConnDone) {
		if cause := createVersions(ctx, db); cause != nil {
			err = cause
		}
	}
	if code, _ := ServerCode(err); code != codeAccessDenied {
		return err
	}
	lacks, user := missingGrants(ctx, db)
	if len(lacks) == 0 {
		return err
	}
	return fmt.Errorf("%w; the user lacks rights, and needs: GRANT %s TO %s", err, strings.Join(lacks, "; GRANT "), user)
}

// createVersions makes the table of versions as goose does.
func createVersions(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	versions, err := database.NewStore(database.DialectClickHouse, versionTable)
	if err != nil {
		return err
	}
	if err := versions.CreateVersionTable(ctx, db); err != nil {
		return fmt.Errorf("create version table: %w", err)
	}
	return nil
}

// missingGrants asks the server which of Grants the user lacks. A server that cannot tell, being too old for CHECK
// GRANT, gives none.
func missingGrants(ctx context.Context, db *sql.DB) (lacks []string, user string) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if err := db.QueryRowContext(ctx, "SELECT currentUser()").Scan(&user); err != nil {
		return nil, ""
	}
	for _, g := range Grants {
		var has uint8
		if err := db.QueryRowContext(ctx, "CHECK GRANT "+g).Scan(&has); err == nil && has == 0 {
			lacks = append(lacks, g)
		}
	}
	return lacks, user
}

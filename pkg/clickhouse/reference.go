package clickhouse

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/welfarehub/welfarehub/pkg/codes"
)

// loadReference puts the code lists of this release where views read them. A list is replaced as a whole,
// by an exchange of tables, so that no reader meets half of one.
func loadReference(ctx context.Context, db *sql.DB) error {
	lists := codes.Default()
	var comuni, services [][]any
	for _, c := range lists.Comuni() {
		comuni = append(comuni, []any{c.Code, c.Name, c.Code[:3], c.Region})
	}
	for _, s := range lists.Nomenclature() {
		services = append(services, []any{s.Code})
	}
	if err := replaceTable(ctx, db, "store.comuni", "code, name, province, region", comuni); err != nil {
		return err
	}
	return replaceTable(ctx, db, "store.reference_nomenclature", "code", services)
}

func replaceTable(ctx context.Context, db *sql.DB, table, columns string, rows [][]any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("replace reference list %s: %w", table, err)
		}
	}()
	next := table + "_next"
	for _, q := range []string{"DROP TABLE IF EXISTS " + next + " SYNC", "CREATE TABLE " + next + " AS " + table} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	tx, err := db.BeginTx(ctx, nil) // a batch, to this driver
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	insert, err := tx.PrepareContext(ctx, "INSERT INTO "+next+" ("+columns+")")
	if err != nil {
		return err
	}
	defer insert.Close()
	for _, r := range rows {
		if _, err := insert.ExecContext(ctx, r...); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, q := range []string{"EXCHANGE TABLES " + table + " AND " + next, "DROP TABLE " + next + " SYNC"} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

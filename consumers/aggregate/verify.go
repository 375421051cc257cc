package aggregate

import (
	"context"
	"fmt"
)

// verifySlices is in how many parts VerifyAll looks at the groups, which bounds its memory.
const verifySlices = 16

// VerifyAll computes the contributions of all groups again, from the facts up to the aggregated
// positions, and compares them with what is stored. It returns the number of cells of groups that
// differ: 0 unless something is wrong. A cycle in the meantime makes it begin again.
func (a *Aggregator) VerifyAll(ctx context.Context) (differing uint64, err error) {
	for range 10 {
		books, err := a.readBooks(ctx)
		if err != nil {
			return 0, err
		}
		differing = 0
		for i := range verifySlices {
			n, err := a.verifySlice(ctx, books, i)
			if err != nil {
				return 0, err
			}
			differing += n
		}
		after, err := a.readBooks(ctx)
		if err != nil {
			return 0, err
		}
		if after.cycle == books.cycle {
			return differing, nil
		}
	}
	return 0, fmt.Errorf("compare store.contrib with facts: cycles came in between ten times: is the aggregator stopped?")
}

func (a *Aggregator) verifySlice(ctx context.Context, books *books, i int) (uint64, error) {
	// The highest four bits of grp.
	wanted := fmt.Sprintf("(grp >= bitShiftLeft(toUInt128(%d), 124) AND grp <= bitOr(bitShiftLeft(toUInt128(%d), 124), bitShiftLeft(toUInt128(1), 124) - 1))", i, i)
	read := fmt.Sprintf("(%s OR grp IN (SELECT svc FROM store.facts WHERE %s AND svc != 0))", wanted, wanted)
	query, err := a.render("difference", params{
		Wanted: wanted, Read: read, Snapshot: below(books.positions), Now: books.now, Population: true,
	})
	if err != nil {
		return 0, err
	}
	var n uint64
	rows, err := a.query(ctx, "SELECT count() FROM ("+query+")")
	if err != nil {
		return 0, fmt.Errorf("compare store.contrib with facts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			return 0, fmt.Errorf("compare store.contrib with facts: %w", err)
		}
	}
	return n, rows.Err()
}

package aggregate

import (
	"context"
	"fmt"
	"math/big"
)

// verifyFacts is how many facts VerifyAll looks at in one query, about, which bounds its memory.
const verifyFacts = 300_000

// VerifyAll computes the contributions of all groups again, from the facts up to the aggregated
// positions, and compares them with what is stored. It returns the number of cells of groups that
// differ: 0 unless something is wrong. A cycle in the meantime makes it begin again.
func (a *Aggregator) VerifyAll(ctx context.Context) (differing uint64, err error) {
	return a.verify(ctx, liveTable)
}

func (a *Aggregator) verify(ctx context.Context, table string) (differing uint64, err error) {
	for range 10 {
		books, err := a.readBooks(ctx, table)
		if err != nil {
			return 0, err
		}
		var facts uint64
		if err := a.opts.DB.QueryRow(ctx, "SELECT count() FROM store.facts").Scan(&facts); err != nil {
			return 0, fmt.Errorf("count facts: %w", err)
		}
		differing = 0
		slices := 1 + int64(facts/verifyFacts)
		for i := range slices {
			n, err := a.verifySlice(ctx, books, i, slices)
			if err != nil {
				return 0, err
			}
			differing += n
		}
		after, err := a.readBooks(ctx, table)
		if err != nil {
			return 0, err
		}
		if after.cycle == books.cycle && after.generation == books.generation {
			return differing, nil
		}
	}
	return 0, fmt.Errorf("compare %s with facts: cycles came in between ten times: is the aggregator stopped?", table)
}

// verifySlice compares the i-th of n equal ranges of grp.
func (a *Aggregator) verifySlice(ctx context.Context, books *books, i, n int64) (uint64, error) {
	bound := func(i int64) *big.Int {
		b := new(big.Int).Lsh(big.NewInt(i), 128)
		return b.Div(b, big.NewInt(n))
	}
	last := bound(i + 1)
	wanted := fmt.Sprintf("(grp >= toUInt128('%s') AND grp <= toUInt128('%s'))", bound(i), last.Sub(last, big.NewInt(1)))
	read := fmt.Sprintf("(%s OR grp IN (SELECT svc FROM store.facts WHERE %s AND svc != 0))", wanted, wanted)
	var differing uint64
	err := a.difference(ctx, scope{wanted: wanted, read: read, snapshot: below(books.positions), table: books.table}, books.now, func(id, cell, measures) error {
		differing++
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("compare store.contrib with facts: %w", err)
	}
	return differing, nil
}

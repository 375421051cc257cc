package aggregate

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSortByGroupKeepsEveryFact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 60 {
		facts := make([]fact, n)
		for i := range facts {
			facts[i].grp[rnd.IntN(16)] = byte(rnd.IntN(5))
			facts[i].offset = uint64(i)
		}
		sortByGroup(facts)
		if !slices.IsSortedFunc(facts, func(x, y fact) int { return x.grp.compare(y.grp) }) {
			t.Fatalf("%d facts are not in order", n)
		}
		seen := map[uint64]bool{}
		for i := range facts {
			seen[facts[i].offset] = true
		}
		if len(seen) != n {
			t.Fatalf("%d of %d facts are left", len(seen), n)
		}
	}
}

package load

import "testing"

// mutants are ways to get the protocol wrong. A schedule below 10,000 shows each.
var mutants = []string{
	positionFromTheGroup,
	"token with the end too",
	"token of each attempt",
	"not verified",
	"not healed",
	"healed ids not learned",
	"topic not gathered",
	"topic not alone",
	"turns in any order",
	"filter not rebuilt",
	"settled without a mark",
	"always clean",
	"tail by the ledger only",
	"told before the insert",
	"settled before it is told",
	"refusals not heard",
	"insert again without a claim",
	"decided again after a failed insert",
	"connection after the claim",
	"first insert over any connection",
	withoutEpochs,
	"token without the epoch",
	"epoch of the takeover",
	"claimed again after a failed insert",
	"taken over after each failed insert",
	"retried and not healed",
	"healed without a look",
	"healed without the token",
	"healed by a token of now",
	"healed by one token",
	"healed over any connection",
	"old blocks healed by their token",
	"ledger believed",
	"lost blocks passed over",
}

const withoutEpochs = "as it was without epochs"

const positionFromTheGroup = "position from the group, settled before the insert"

// TestProtocolMutantsAreCaught shows that the schedules find faults: each of the mutants.
func TestProtocolMutantsAreCaught(t *testing.T) {
	const limit = 100_000
	for _, m := range mutants {
		t.Run(m, func(t *testing.T) {
			for seed := uint64(1); seed <= limit; seed++ {
				if _, err := runSchedule(seed, m); err != nil {
					t.Logf("schedule %d: %v", seed, err)
					return
				}
			}
			t.Errorf("%d schedules did not find it", limit)
		})
	}
}

package e2e

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/producers/simulate"
	"github.com/welfarehub/welfarehub/producers/simulate/compare"
)

// readTruth reads a --truth file of the simulator.
func readTruth(t *testing.T, file string) simulate.Truth {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var truth simulate.Truth
	if err := json.Unmarshal(raw, &truth); err != nil {
		t.Fatal(err)
	}
	if len(truth.Topics) == 0 || len(truth.SupplyDemand) == 0 {
		t.Fatalf("%s says nothing", file)
	}
	return truth
}

// compareTruth compares all that is stored with a truth.
func compareTruth(t *testing.T, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	report, err := compare.Stored(t.Context(), db, truth)
	if err != nil {
		t.Fatal(err)
	}
	const shown = 20
	for _, line := range report.Lines[:min(len(report.Lines), shown)] {
		t.Error(line)
	}
	if n := len(report.Lines); n > shown {
		t.Errorf("%d differences to the truth", n)
	}
}

// cells is every row of supply_demand as text, sorted.
func cells(t *testing.T, db *clickhouse.DB) []string {
	t.Helper()
	out, err := compare.Cells(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// differ shows the first lines that only one of two sorted lists has.
func differ(t *testing.T, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	const shown = 10
	for _, side := range []struct {
		name    string
		of, not []string
	}{{"not expected", got, want}, {"missing", want, got}} {
		n := 0
		for _, line := range side.of {
			if _, ok := slices.BinarySearch(side.not, line); !ok {
				if n++; n <= shown {
					t.Errorf("%s: %s", side.name, line)
				}
			}
		}
		t.Errorf("%d of %d cells are %s", n, len(side.of), side.name)
	}
}

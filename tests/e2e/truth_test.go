package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/producers/simulate"
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

// compareTruth compares books, rejects by code, records in force and every cell with a truth.
func compareTruth(t *testing.T, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	compareBooks(t, db, truth)
	compareCurrent(t, db, truth)
	compareCells(t, cells(t, db), truth)
}

func compareBooks(t *testing.T, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	for topic, want := range truth.Topics {
		rejected := 0
		for code, n := range want.Rejected {
			rejected += n
			var got uint64
			if err := db.Scan(t.Context(), "SELECT count() FROM welfare.rejected WHERE topic = ? AND code = ?", []any{topic, code}, &got); err != nil {
				t.Fatal(err)
			}
			if int(got) != n {
				t.Errorf("%s: %d rejected by %s, want %d", topic, got, code, n)
			}
		}
		var read, loaded, duplicate, refused, erased, superseded uint64
		const q = "SELECT sum(read), sum(loaded), sum(duplicate), sum(rejected), sum(erased), sum(superseded) FROM welfare.books WHERE topic = ?"
		if err := db.Scan(t.Context(), q, []any{topic}, &read, &loaded, &duplicate, &refused, &erased, &superseded); err != nil {
			t.Fatal(err)
		}
		// Copies that raced in two partitions are loaded, then superseded.
		if int(read) != want.Sent || int(loaded-superseded) != want.Loaded || int(duplicate+superseded) != want.Duplicate || int(refused) != rejected || int(erased) != want.Erased {
			t.Errorf("%s: read %d, loaded %d, duplicate %d, rejected %d, erased %d, superseded %d; want %+v", topic, read, loaded, duplicate, refused, erased, superseded, want)
		}
	}
}

// compareCurrent compares the records in force by number and by the sum of their contents.
func compareCurrent(t *testing.T, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	for _, typ := range event.Types {
		want, sent := truth.Topics[typ.Topic]
		if !sent {
			continue
		}
		q := fmt.Sprintf("SELECT count(), sum(reinterpretAsUInt64(reverse(substring(_content_hash, 1, 8)))) FROM store.%[1]s WHERE _end = 'loaded' AND (_partition, _offset) IN (SELECT _partition, _offset FROM welfare.%[1]s_current)", typ.Table)
		var n, sum uint64
		if err := db.Scan(t.Context(), q, nil, &n, &sum); err != nil {
			t.Fatal(err)
		}
		if int(n) != want.Current || sum != want.Checksum {
			t.Errorf("%s_current: %d records, checksum %016x; want %d, %016x", typ.Table, n, sum, want.Current, want.Checksum)
		}
	}
}

// cells is every row of supply_demand as text, sorted.
func cells(t *testing.T, db *clickhouse.DB) []string {
	t.Helper()
	rows, err := db.Conn().Query(t.Context(), `SELECT level, territory_code, nomenclature_code, user_area, toString(period_start), unit,
		toInt64(capacity * 1000), toInt64(occupied * 1000), toInt64(requests), toInt64(granted), toInt64(refused), toInt64(waiting),
		toInt64(delivered_units * 1000), toInt64(amount * 100), population FROM welfare.supply_demand`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var r model.SupplyDemandRow
		if err := rows.Scan(&r.Level, &r.Territory, &r.Nomenclature, &r.UserArea, &r.PeriodStart, &r.Unit, &r.Capacity, &r.Occupied,
			&r.Requests, &r.Granted, &r.Refused, &r.Waiting, &r.DeliveredUnits, &r.Amount, &r.Population); err != nil {
			t.Fatal(err)
		}
		out = append(out, cell(r))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func cell(r model.SupplyDemandRow) string {
	population := "NULL"
	if r.Population != nil {
		population = fmt.Sprint(*r.Population)
	}
	return fmt.Sprintf("%+v %+v population %s", r.Key, r.Measures, population)
}

func compareCells(t *testing.T, got []string, truth simulate.Truth) {
	t.Helper()
	want := make([]string, len(truth.SupplyDemand))
	for i, r := range truth.SupplyDemand {
		want[i] = cell(r)
	}
	slices.Sort(want)
	differ(t, got, want)
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

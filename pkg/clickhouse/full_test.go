package clickhouse_test

import "testing"

// TestSupplyDemandFullHasWhereNothingIsOffered gives the views three comuni: of Milano all is known, in Roma people
// live and nothing is offered or asked for, and of Agliè no population is known.
func TestSupplyDemandFullHasWhereNothingIsOffered(t *testing.T) {
	db := migrated(t)
	for _, q := range []string{
		"INSERT INTO store.comuni (code, name, province, region) VALUES ('015146', 'Milano', '015', '03'), ('058091', 'Roma', '058', '12'), ('001001', 'Agliè', '001', '01')",
		"INSERT INTO store.reference_nomenclature VALUES ('K1'), ('K2')",
		"INSERT INTO store.contrib (grp, nomenclature, area, mark) SELECT 0, 'now', '#books', toUnixTimestamp64Milli(toDateTime64('2026-02-10 12:00:00', 3, 'Europe/Rome'))",
		"INSERT INTO store.contrib (grp, comune, area, month, residents, mark) VALUES (1, '015146', '#population', 2026 * 12, 1000, 1), (2, '058091', '#population', 2026 * 12, 500, 1)",
		`INSERT INTO store.contrib (grp, comune, nomenclature, area, month, unit, requests, capacity, delivered) VALUES
			(3, '015146', 'K1', 'DISABILITY', 2026 * 12, '', 2, 10, 0), (4, '015146', 'K1', 'DISABILITY', 2026 * 12, 'HOUR_WEEK', 0, 0, 5),
			(5, '001001', 'K1', 'DISABILITY', 2026 * 12, '', 1, 0, 0)`,
	} {
		if err := db.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	const row = "concat(territory_code, ' ', period_start, ' ', nomenclature_code, ' ', unit, '|', requests, '|', capacity, '|', delivered_units, '|', ifNull(toString(population), 'NULL'))"
	expect(t, db, "SELECT "+row+" AS r FROM welfare.supply_demand_full WHERE level = 'COMUNE' ORDER BY r",
		"001001 2026-01-01 K1 |1|0|0|NULL",
		"015146 2026-01-01 K1 HOUR_WEEK|0|0|5|1000",
		"015146 2026-01-01 K1 |2|10|0|1000",
		"015146 2026-02-01 K1 |0|10|0|1000",
		"058091 2026-01-01 K1 |0|0|0|500",
		"058091 2026-02-01 K1 |0|0|0|500",
	)
	// K2 is offered nowhere, so it is in no row.
	expect(t, db, "SELECT DISTINCT nomenclature_code FROM welfare.supply_demand_full", "K1")
	// Of supply_demand nothing is missing, and nothing counts twice.
	expect(t, db, "SELECT "+row+" FROM (SELECT * FROM welfare.supply_demand EXCEPT SELECT * FROM welfare.supply_demand_full)")
	expect(t, db, `SELECT concat(level, ' ', sum(requests), ' ', sum(delivered_units), ' ', sumIf(capacity, period_start = '2026-02-01'), ' ',
		count() - uniqExact(territory_code, nomenclature_code, user_area, period_start, unit)) FROM welfare.supply_demand_full GROUP BY level ORDER BY level`,
		"COMUNE 3 5 10 0", "COUNTRY 3 5 10 0", "PROVINCE 3 5 10 0", "REGION 3 5 10 0")
	// The service's places per resident, also where there are none: what the view is for.
	expect(t, db, "SELECT concat(territory_code, ' ', round(1000 * capacity / population, 1)) AS r FROM welfare.supply_demand_full WHERE level = 'REGION' AND unit = '' AND period_start = '2026-02-01' ORDER BY r", "03 10", "12 0")
}

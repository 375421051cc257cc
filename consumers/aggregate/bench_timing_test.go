package aggregate

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// fill stores n events as one block each of offers, capacity, requests, assessments, waits, benefits
// and deliveries, numbered from start, over 500 offers, 3 comuni, 50 services and two years.
func (h *hub) fill(start, n int) {
	h.t.Helper()
	instant := "toDateTime64('2024-06-01 00:00:00', 3, 'UTC') + toIntervalMinute((cityHash64(number) % 1000000))"
	subject := fmt.Sprintf("'a' AS source, toString(number) AS source_record_id, 1 AS record_version, %s AS occurred_at, SHA256(toString(number %% 100000)) AS pseudonym, ['015146','015002','058091'][number %% 3 + 1] AS comune_code", instant)
	type part struct {
		no      uint8
		share   int // of 100
		columns string
	}
	for _, p := range []part{
		{1, 1, "'a' AS source, toString(number) AS source_record_id, 1 AS record_version, toDateTime64('2024-01-01 00:00:00', 3, 'UTC') AS occurred_at, toString(number % 500) AS service_id, 'K' || toString(number % 50) AS nomenclature_code, 'OPEN' AS status, toDate32('2020-01-01') AS valid_from, ['015146','015002','058091'][number % 3 + 1] AS comune_code"},
		{2, 9, fmt.Sprintf("'a' AS source, toString(number) AS source_record_id, 1 AS record_version, %s AS occurred_at, toString(number %% 500) AS service_id, 'PLACE' AS unit, occurred_at AS effective_from, number %% 40 AS operational, number %% 20 AS occupied", instant)},
		{3, 25, subject + ", 'q' || toString(number) AS request_id, 'K' || toString(number % 50) AS nomenclature_code, occurred_at AS requested_at"},
		{4, 15, subject + ", 'q' || toString(number) AS request_id, 'NOT_ELIGIBLE' AS outcome, occurred_at AS assessed_at"},
		{5, 20, subject + ", 'q' || toString(intDiv(number, 2)) AS request_id, toString(number % 500) AS service_id, if(number % 2 = 0, 'ENTER', 'LEAVE') AS change, occurred_at AS changed_at"},
		{6, 15, subject + ", 'q' || toString(number) AS request_id, 'b' || toString(number) AS benefit_id, 'K' || toString(number % 50) AS nomenclature_code, 'GRANTED' AS decision"},
		{7, 15, subject + ", 'b' || toString(number) AS benefit_id, toDate32(occurred_at) AS period_start, 'PLACE' AS unit, 3 AS units_delivered, 10 AS amount_total"},
	} {
		rows := max(1, n*p.share/100)
		first := start * p.share / 100
		pl := place{p.no, 0}
		from := h.next[pl]
		to := from + uint64(rows)
		h.next[pl] = to
		var names string
		for _, c := range splitAliases(p.columns) {
			names += ", " + c
		}
		h.exec(fmt.Sprintf(`INSERT INTO store.%s (_partition, _offset, _from, _to, _end, _id_hash, _content_hash, _owner%s)
			SELECT 0, %d + number - %d, %d, %d, 'loaded', substring(SHA256(toString((%d, number))), 1, 16), SHA256(toString((%d, number))), 1%s
			FROM (SELECT number, %s FROM numbers(%d, %d)) SETTINGS min_insert_block_size_rows = 10000000, min_insert_block_size_bytes = 0, max_block_size = 10000000, max_insert_threads = 1, async_insert = 0`,
			typeOf(p.no).Table, names, from, first, from, to, p.no, p.no, names, p.columns, first, rows))
	}
}

// splitAliases returns the names that a list of expressions gives.
func splitAliases(list string) []string {
	var out []string
	depth, start := 0, 0
	for i := 0; i <= len(list); i++ {
		if i == len(list) || list[i] == ',' && depth == 0 {
			one := list[start:i]
			for j := len(one) - 4; j >= 0; j-- {
				if one[j:j+4] == " AS " {
					out = append(out, one[j+4:])
					break
				}
			}
			start = i + 1
			continue
		}
		switch list[i] {
		case '(', '[':
			depth++
		case ')', ']':
			depth--
		}
	}
	return out
}

// BenchmarkCycle measures a cycle of 500 new events, and of 200,000, on facts of different size, and
// what a planner waits for.
//
//	go test ./consumers/aggregate -run xxx -bench Cycle -benchtime 1x
func BenchmarkCycle(b *testing.B) {
	for _, facts := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("facts=%d", facts), func(b *testing.B) {
			h := newHub(b)
			a := h.aggregator(Options{MaxRecords: 200_000, HealAfter: time.Minute})
			cycle := func() Stats {
				s, err := a.Cycle(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				return s
			}
			at := 0
			for at < facts {
				n := min(200_000, facts-at)
				h.fill(at, n)
				at += n
				s := cycle()
				b.Logf("bulk: %d records, %d groups in %s %+v, parts %d", s.Records, s.Groups, s.Took, s.Steps, h.number("SELECT count() FROM system.parts WHERE database = 'store' AND table = 'contrib' AND active"))
			}
			b.ResetTimer()
			for range b.N {
				var sum, most time.Duration
				for range 10 {
					h.fill(at, 500)
					at += 500
					s := cycle()
					sum += s.Took
					most = max(most, s.Took)
					b.Logf("500: %s %+v", s.Took, s.Steps)
				}
				b.ReportMetric(float64(sum.Milliseconds())/10, "ms/cycle500")
				b.ReportMetric(float64(most.Milliseconds()), "ms-max/cycle500")
			}
			b.StopTimer()
			for _, q := range []string{
				"SELECT count() FROM welfare.supply_demand",
				"SELECT count() FROM welfare.supply_demand WHERE level = 'REGION' AND period_start = '2025-06-01'",
				"SELECT count() FROM welfare.supply_demand WHERE level = 'COMUNE' AND territory_code = '015146'",
				"SELECT count() FROM welfare.population",
			} {
				best := time.Hour
				for range 3 {
					s := time.Now()
					h.number(q)
					best = min(best, time.Since(s))
				}
				b.Logf("%s: %s", q, best)
			}
		})
	}
}

package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// book says what became of the records of a topic, and which of them are in force, by number and by the sum of their
// contents.
type book struct {
	Sent, Loaded, Duplicate, Rejected, Erased, Current int
	Checksum                                           uint64
}

// compareBooks compares the books, the codes of the rejects and the records in force with the truth.
func compareBooks(t *testing.T, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	wantCodes := map[string]int{}
	for topic, want := range truth.Topics {
		w := book{Sent: want.Sent, Loaded: want.Loaded, Duplicate: want.Duplicate, Erased: want.Erased, Current: want.Current, Checksum: want.Checksum}
		for code, n := range want.Rejected {
			w.Rejected += n
			wantCodes[topic+" "+code] = n
		}
		var read, loaded, duplicate, rejected, erased, superseded, current, checksum uint64
		scan(t, db, "SELECT sum(read), sum(loaded), sum(duplicate), sum(rejected), sum(erased), sum(superseded) FROM welfare.books WHERE topic = '"+topic+"'",
			&read, &loaded, &duplicate, &rejected, &erased, &superseded)
		scan(t, db, fmt.Sprintf("SELECT count(), sum(reinterpretAsUInt64(reverse(substring(_content_hash, 1, 8)))) FROM store.%[1]s WHERE _end = 'loaded' AND (_partition, _offset) IN (SELECT _partition, _offset FROM welfare.%[1]s_current)", event.ByTopic(topic).Table),
			&current, &checksum)
		// Copies that raced in two partitions are loaded, then superseded.
		if got := (book{int(read), int(loaded - superseded), int(duplicate + superseded), int(rejected), int(erased), int(current), checksum}); got != w {
			t.Errorf("%s: %+v, want %+v", topic, got, w)
		}
	}
	codes := map[string]int{}
	rows, err := db.Conn().Query(t.Context(), "SELECT topic, code, count() FROM welfare.rejected GROUP BY topic, code")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var topic, code string
		var n uint64
		if err := rows.Scan(&topic, &code, &n); err != nil {
			t.Fatal(err)
		}
		codes[topic+" "+code] = int(n)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(codes, wantCodes) {
		t.Errorf("rejects by topic and code: %v\nwant %v", codes, wantCodes)
	}
}

func scan(t *testing.T, db *clickhouse.DB, query string, dest ...any) {
	t.Helper()
	if err := db.Scan(t.Context(), query, nil, dest...); err != nil {
		t.Fatal(err)
	}
}

// compareCells compares every cell of supply_demand with the truth.
func compareCells(t *testing.T, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	rows, err := db.Conn().Query(t.Context(), `SELECT level, territory_code, nomenclature_code, user_area, toString(period_start), unit,
		toInt64(capacity * 1000), toInt64(occupied * 1000), toInt64(requests), toInt64(granted), toInt64(refused), toInt64(waiting),
		toInt64(delivered_units * 1000), toInt64(amount * 100), population FROM welfare.supply_demand`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	text := func(r model.SupplyDemandRow) string { raw, _ := json.Marshal(r); return string(raw) }
	left := map[string]int{} // cells that only one side has: +1 for the truth, -1 for the view
	for _, r := range truth.SupplyDemand {
		left[text(r)]++
	}
	for rows.Next() {
		var r model.SupplyDemandRow
		if err := rows.Scan(&r.Level, &r.Territory, &r.Nomenclature, &r.UserArea, &r.PeriodStart, &r.Unit, &r.Capacity, &r.Occupied,
			&r.Requests, &r.Granted, &r.Refused, &r.Waiting, &r.DeliveredUnits, &r.Amount, &r.Population); err != nil {
			t.Fatal(err)
		}
		left[text(r)]--
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(left, func(_ string, n int) bool { return n == 0 })
	for i, cell := range slices.Sorted(maps.Keys(left)) {
		if i == 20 {
			t.Errorf("and more: %d differences, %d cells in the truth", len(left), len(truth.SupplyDemand))
			break
		}
		t.Errorf("cell %s: %+d (more in the truth: +, in the view: -)", cell, left[cell])
	}
}

// compareTold reads the dead letters and outcomes and compares them with the books. Both may be repeated, never changed:
// so each record is taken once, and what is said again of it must be the same.
func compareTold(t *testing.T, broker string, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	letters, wantLetters := map[string]int{}, map[string]int{}
	for topic, want := range truth.Topics {
		for code, n := range want.Rejected {
			wantLetters[topic+" "+code] += n
		}
		seen := map[string]bool{}
		for _, m := range readAll(t, broker, topic+".dlq") {
			h := map[string]string{}
			for _, x := range m.Headers {
				h[x.Key] = string(x.Value)
			}
			if at := h["wh_partition"] + "/" + h["wh_offset"]; !seen[at] {
				seen[at] = true
				letters[topic+" "+h["wh_code"]]++
			}
		}
	}
	if !maps.Equal(letters, wantLetters) {
		t.Errorf("dead letters by topic and code: %v\nwant %v", letters, wantLetters)
	}

	told := map[string]string{} // outcome and codes by position
	ends := map[string]int{}    // by topic and outcome
	for _, m := range readAll(t, broker, event.TopicOutcome) {
		var report event.OutcomesReported
		if err := avro.Unmarshal(event.OutcomesReportedSchema, m.Value[5:], &report); err != nil {
			t.Fatalf("outcomes at offset %d: %v", m.Offset, err)
		}
		for _, o := range report.Outcomes {
			at, what := fmt.Sprintf("%s/%d/%d", report.Topic, report.Partition, o.Offset), string(o.Outcome)+" "+strings.Join(o.Codes, ",")
			if before, ok := told[at]; !ok {
				told[at] = what
				ends[report.Topic+" "+string(o.Outcome)]++
			} else if before != what {
				t.Errorf("outcome of %s: %s, then %s", at, before, what)
			}
		}
	}
	wantEnds := map[string]int{}
	for topic := range truth.Topics {
		var loaded, duplicate, rejected uint64
		scan(t, db, "SELECT sum(loaded), sum(duplicate), sum(rejected) FROM welfare.books WHERE topic = '"+topic+"'", &loaded, &duplicate, &rejected)
		for end, n := range map[string]uint64{"LOADED": loaded, "DUPLICATE": duplicate, "REJECTED": rejected} {
			if n > 0 {
				wantEnds[topic+" "+end] = int(n)
			}
		}
	}
	if !maps.Equal(ends, wantEnds) {
		t.Errorf("outcomes by topic and end: %v\nthe books have %v", ends, wantEnds)
	}
}

// readAll reads all that a topic of one partition holds.
func readAll(t *testing.T, broker, topic string) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := (&kafka.Dialer{Timeout: 10 * time.Second}).DialLeader(ctx, "tcp", broker, topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	first, end, err := conn.ReadOffsets()
	conn.Close()
	if err != nil {
		t.Fatal(err)
	}
	if first == end {
		return nil
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{broker}, Topic: topic, MaxWait: 100 * time.Millisecond})
	defer r.Close()
	var out []kafka.Message
	for {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			t.Fatalf("read %s, which ends at %d: %v after %d messages", topic, end, err, len(out))
		}
		out = append(out, m)
		if m.Offset >= end-1 {
			return out
		}
	}
}

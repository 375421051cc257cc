// Package compare holds what the hub made of simulated messages against the simulator's truth, for up --once
// and for tests. It promises to look at everything that the truth speaks of: the books and the codes of
// rejects of every topic, the records in force by number and content, every cell of supply_demand, and
// every dead letter and outcome.
package compare

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// Report is what differs from a truth. Its zero value says that nothing does.
type Report struct {
	Lost    int      // messages that the ledger lacks, and accepted events that are not stored
	Doubled int      // messages that the ledger has more than once, and accepted events that are stored more than once
	Cells   int      // cells of supply_demand that are not what they should be
	Lines   []string // each difference
}

func (r *Report) add(format string, args ...any) {
	r.Lines = append(r.Lines, fmt.Sprintf(format, args...))
}

// gap books a difference between two numbers of records as lost or doubled.
func (r *Report) gap(got, want int) {
	r.Lost += max(0, want-got)
	r.Doubled += max(0, got-want)
}

// Stored compares all that is in ClickHouse with a truth.
func Stored(ctx context.Context, db *clickhouse.DB, truth simulate.Truth) (Report, error) {
	var r Report
	for _, one := range []func(context.Context, *clickhouse.DB, simulate.Truth, *Report) error{books, codes, current, repeated, cells} {
		if err := one(ctx, db, truth, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Book is the sums of welfare.books of one topic.
type Book struct{ Read, Loaded, Duplicate, Rejected, Erased, Superseded int }

// Books reads the books by topic.
func Books(ctx context.Context, db *clickhouse.DB) (map[string]Book, error) {
	rows, err := db.Conn().Query(ctx, "SELECT topic, sum(read), sum(loaded), sum(duplicate), sum(rejected), sum(erased), sum(superseded) FROM welfare.books GROUP BY topic")
	if err != nil {
		return nil, fmt.Errorf("read the books: %w", err)
	}
	defer rows.Close()
	out := map[string]Book{}
	for rows.Next() {
		var topic string
		var n [6]uint64
		if err := rows.Scan(&topic, &n[0], &n[1], &n[2], &n[3], &n[4], &n[5]); err != nil {
			return nil, fmt.Errorf("read the books: %w", err)
		}
		out[topic] = Book{int(n[0]), int(n[1]), int(n[2]), int(n[3]), int(n[4]), int(n[5])}
	}
	return out, rows.Err()
}

// books compares the ends of all messages by topic. Copies that raced in two partitions are loaded, then
// superseded: they count as duplicates.
func books(ctx context.Context, db *clickhouse.DB, truth simulate.Truth, r *Report) error {
	got, err := Books(ctx, db)
	if err != nil {
		return err
	}
	for _, topic := range slices.Sorted(maps.Keys(got)) {
		if _, ok := truth.Topics[topic]; !ok {
			r.add("%s: %+v, and nothing was sent", topic, got[topic])
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(truth.Topics)) {
		b, want := got[topic], truth.Topics[topic]
		rejected := 0
		for _, n := range want.Rejected {
			rejected += n
		}
		if b.Read != b.Loaded+b.Duplicate+b.Rejected {
			r.add("%s: the ends do not sum to what was read: %+v", topic, b)
		}
		settled := b
		settled.Loaded -= b.Superseded
		settled.Duplicate += b.Superseded
		settled.Superseded = 0
		if w := (Book{want.Sent, want.Loaded, want.Duplicate, rejected, want.Erased, 0}); settled != w {
			r.add("%s: %+v, want %+v", topic, b, w)
		}
		r.gap(b.Read, want.Sent)
		r.gap(settled.Loaded, want.Loaded)
	}
	return nil
}

// codes compares the rejects by topic and code.
func codes(ctx context.Context, db *clickhouse.DB, truth simulate.Truth, r *Report) error {
	want := map[string]int{}
	for topic, t := range truth.Topics {
		for code, n := range t.Rejected {
			want[topic+" "+code] = n
		}
	}
	got, err := counts(ctx, db, "SELECT concat(topic, ' ', code) AS k, count() FROM welfare.rejected GROUP BY k")
	if err != nil {
		return fmt.Errorf("read the rejects: %w", err)
	}
	r.counts("rejected", got, want)
	return nil
}

// counts runs a query for numbers by name.
func counts(ctx context.Context, db *clickhouse.DB, query string) (map[string]int, error) {
	rows, err := db.Conn().Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var k string
		var n uint64
		if err := rows.Scan(&k, &n); err != nil {
			return nil, err
		}
		out[k] = int(n)
	}
	return out, rows.Err()
}

func (r *Report) counts(what string, got, want map[string]int) {
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if got[k] != want[k] {
			r.add("%s: %d %s, want %d", k, got[k], what, want[k])
		}
	}
}

// current compares the records in force by number and by an order-free checksum of their contents.
func current(ctx context.Context, db *clickhouse.DB, truth simulate.Truth, r *Report) error {
	for _, t := range event.Types {
		want, sent := truth.Topics[t.Topic]
		if !sent {
			continue
		}
		var n, sum uint64
		q := fmt.Sprintf("SELECT count(), sum(reinterpretAsUInt64(reverse(substring(_content_hash, 1, 8)))) FROM store.%[1]s WHERE _end = 'loaded' AND (_partition, _offset) IN (SELECT _partition, _offset FROM welfare.%[1]s_current)", t.Table)
		if err := db.Scan(ctx, q, nil, &n, &sum); err != nil {
			return fmt.Errorf("read %s_current: %w", t.Table, err)
		}
		if int(n) != want.Current || sum != want.Checksum {
			r.add("%s_current: %d records, checksum %016x; want %d, %016x", t.Table, n, sum, want.Current, want.Checksum)
		}
	}
	return nil
}

// repeated looks for events that a reader of welfare sees more than once.
func repeated(ctx context.Context, db *clickhouse.DB, _ simulate.Truth, r *Report) error {
	more := 0
	for _, t := range event.Types {
		var rows, ids uint64
		if err := db.Scan(ctx, "SELECT count(), uniqExact(source, event_id) FROM welfare."+t.Table, nil, &rows, &ids); err != nil {
			return fmt.Errorf("count ids of %s: %w", t.Table, err)
		}
		if rows != ids {
			more += int(rows - ids)
			r.add("%s: %d rows of %d events", t.Table, rows, ids)
		}
	}
	r.Doubled = max(r.Doubled, more) // the books may know of them
	return nil
}

// cell is the measures of a cell, comparable.
type cell struct {
	model.Measures
	population string
}

func newCell(m model.Measures, population *int64) cell {
	if population == nil {
		return cell{m, "NULL"}
	}
	return cell{m, fmt.Sprint(*population)}
}

// Cells reads every cell of supply_demand as text, sorted.
func Cells(ctx context.Context, db *clickhouse.DB) ([]string, error) {
	all, err := readCells(ctx, db)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(all))
	for k, c := range all {
		out = append(out, fmt.Sprintf("%s: %+v", cellName(k), c))
	}
	slices.Sort(out)
	return out, nil
}

func readCells(ctx context.Context, db *clickhouse.DB) (map[model.Key]cell, error) {
	rows, err := db.Conn().Query(ctx, `SELECT level, territory_code, nomenclature_code, user_area, toString(period_start), unit,
	toInt64(capacity * 1000), toInt64(occupied * 1000), toInt64(requests), toInt64(granted), toInt64(refused), toInt64(waiting),
	toInt64(delivered_units * 1000), toInt64(amount * 100), population FROM welfare.supply_demand`)
	if err != nil {
		return nil, fmt.Errorf("read supply_demand: %w", err)
	}
	defer rows.Close()
	out := map[model.Key]cell{}
	for rows.Next() {
		var k model.Key
		var m model.Measures
		var population *int64
		if err := rows.Scan(&k.Level, &k.Territory, &k.Nomenclature, &k.UserArea, &k.PeriodStart, &k.Unit,
			&m.Capacity, &m.Occupied, &m.Requests, &m.Granted, &m.Refused, &m.Waiting, &m.DeliveredUnits, &m.Amount, &population); err != nil {
			return nil, fmt.Errorf("read supply_demand: %w", err)
		}
		if _, twice := out[k]; twice {
			return nil, fmt.Errorf("read supply_demand: cell %s is there twice", cellName(k))
		}
		out[k] = newCell(m, population)
	}
	return out, rows.Err()
}

func cells(ctx context.Context, db *clickhouse.DB, truth simulate.Truth, r *Report) error {
	got, err := readCells(ctx, db)
	if err != nil {
		return err
	}
	for _, row := range truth.SupplyDemand {
		c, ok := got[row.Key]
		if want := newCell(row.Measures, row.Population); !ok || c != want {
			r.Cells++
			r.add("%s: %+v, want %+v", cellName(row.Key), c, want)
		}
		delete(got, row.Key)
	}
	for _, k := range slices.SortedFunc(maps.Keys(got), func(a, b model.Key) int { return strings.Compare(cellName(a), cellName(b)) }) {
		r.Cells++
		r.add("%s: %+v, want no row", cellName(k), got[k])
	}
	return nil
}

func cellName(k model.Key) string {
	return strings.Join([]string{k.Level, k.Territory, k.Nomenclature, k.UserArea, k.PeriodStart, k.Unit}, " ")
}

package aggregate

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// hub is an engine with the current schema, and the reference model of what it should show.
type hub struct {
	t     testing.TB
	db    driver.Conn
	model *model.Model
	next  map[place]uint64 // next offset
	owner uint64
}

// regions are the comuni that the tests' list knows; the nomenclature knows the codes that start with K.
var regions = map[string]string{"015146": "03", "015002": "03", "058091": "12"}

func known(code string) bool { return strings.HasPrefix(code, "K") }

// newHub returns an empty hub.
func newHub(t testing.TB) *hub {
	t.Helper()
	return newHubOn(t, testkit.ClickHouse(t).DSN)
}

// newHubOn returns an empty hub on a ClickHouse.
func newHubOn(t testing.TB, dsn string) *hub {
	t.Helper()
	db := hubtest.EmptyStore(t, dsn)
	h := &hub{
		t: t, db: db.Conn(), next: map[place]uint64{}, owner: 1,
		model: model.New(model.Reference{Regions: regions, KnownNomenclature: known}),
	}
	for code, region := range regions {
		h.exec(fmt.Sprintf("INSERT INTO store.comuni (code, name, province, region) VALUES ('%s', 'x', '%s', '%s')", code, code[:3], region))
	}
	h.exec("INSERT INTO store.reference_nomenclature SELECT 'K' || toString(number) FROM numbers(100)")
	return h
}

func (h *hub) exec(query string) {
	h.t.Helper()
	if err := h.db.Exec(context.Background(), query); err != nil {
		h.t.Fatalf("%s: %v", query, err)
	}
}

func (h *hub) number(query string) uint64 {
	h.t.Helper()
	var n uint64
	if err := h.db.QueryRow(context.Background(), "SELECT toUInt64(n) FROM (SELECT ("+query+") AS n)").Scan(&n); err != nil {
		h.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// load stores rows as one block of a partition, as the loader does, and tells the model. Gone rows are
// those that the loader knew to be of an erased subject.
func (h *hub) load(partition uint32, rows ...*event.Row) uint64 {
	return h.loadGone(partition, nil, rows...)
}

func (h *hub) loadGone(partition uint32, gone func(*event.Row) bool, rows ...*event.Row) uint64 {
	h.t.Helper()
	t := rows[0].Type
	p := place{uint8(t.No), partition}
	from := h.next[p]
	to := from + uint64(len(rows))
	ends := make([]string, len(rows))
	for i, r := range rows {
		ends[i] = string(h.model.Apply(model.Record{Topic: t.Topic, Partition: int(partition), Offset: int64(from) + int64(i), Row: r}))
	}
	h.store(p, from, ends, gone, rows...)
	h.next[p] = to
	return from
}

// store inserts one block into store.<table>.
func (h *hub) store(p place, from uint64, ends []string, gone func(*event.Row) bool, rows ...*event.Row) {
	h.t.Helper()
	t := rows[0].Type
	to := from + uint64(len(rows))
	columns := []string{"_partition", "_offset", "_from", "_to", "_end", "_gone", "_id_hash", "_content_hash", "_hash_version", "_owner", "_loaded_at"}
	for _, f := range t.Fields {
		columns = append(columns, f.Column)
	}
	ctx := clickhouse.InsertOnce(context.Background(), fmt.Sprintf("%s/%d/%d-%d", t.Topic, p.partition, from, to))
	batch, err := h.db.PrepareBatch(ctx, fmt.Sprintf("INSERT INTO store.%s (%s)", t.Table, strings.Join(columns, ", ")))
	if err != nil {
		h.t.Fatal(err)
	}
	var hasher event.Hasher
	for i, r := range rows {
		content := hasher.Sum(r)
		uuid, _ := event.ParseUUID(r.Vals[event.EventID].Bytes)
		var idHash [16]byte
		event.IDHash(&idHash, t.Topic, r.Vals[event.Source].Bytes, uuid)
		out := ends[i] == "loaded"
		isGone := out && gone != nil && gone(r)
		if ends[i] == "rejected" {
			content, idHash = [32]byte{}, [16]byte{}
		}
		vals := []any{p.partition, from + uint64(i), from, to, ends[i], isGone, string(idHash[:]), string(content[:]), uint8(1), h.owner, time.Now().UTC()}
		if !out || isGone {
			r = blank(t)
		}
		for j, f := range t.Fields {
			vals = append(vals, columnValue(f, r, j))
		}
		for j, v := range vals {
			if b, ok := v.(bool); ok && j == 5 {
				vals[j] = uint8(0)
				if b {
					vals[j] = uint8(1)
				}
			}
		}
		if err := batch.Append(vals...); err != nil {
			h.t.Fatalf("append %s: %v", t.Name, err)
		}
	}
	if err := batch.Send(); err != nil {
		h.t.Fatalf("insert %s: %v", t.Name, err)
	}
}

func blank(t *event.Type) *event.Row {
	r := event.NewRow(t)
	r.Set(event.EventID, "00000000-0000-0000-0000-000000000000")
	return r
}

func columnValue(f event.Field, r *event.Row, i int) any {
	v := r.Vals[i]
	if v.Null {
		return nil
	}
	switch f.Kind {
	case event.String, event.UUID, event.Bytes:
		if clickhouse.IsPseudonym(f) {
			raw, _ := hex.DecodeString(string(v.Bytes))
			return string(append(raw, make([]byte, 32-len(raw))...))
		}
		if f.Name == "comuneCode" {
			return string(append(append([]byte{}, v.Bytes...), make([]byte, 6-len(v.Bytes))...))
		}
		return string(v.Bytes)
	case event.Enum:
		return f.Symbols[v.Int]
	case event.Bool:
		return v.Int == 1
	case event.Int:
		return int32(v.Int)
	case event.Double:
		return v.Float
	case event.Date, event.Timestamp:
		return r.Time(i)
	case event.Decimal:
		return decimal.New(v.Int, -int32(f.Scale))
	case event.Strings:
		out := []string{}
		for _, b := range v.List {
			out = append(out, string(b))
		}
		return out
	}
	return v.Int
}

// aggregator returns an aggregator with no patience for missing facts.
func (h *hub) aggregator(o Options) *Aggregator {
	o.DB = h.db
	if o.HealAfter == 0 {
		o.HealAfter = 100 * time.Millisecond
	}
	return New(o)
}

// drain runs cycles until nothing is new.
func (h *hub) drain(a *Aggregator) {
	h.t.Helper()
	for {
		stats, err := a.Cycle(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		if stats.Cycle == 0 {
			return
		}
	}
}

// line is a row as text, to compare and to print.
func line(k model.Key, m model.Measures, population *int64) string {
	p := "-"
	if population != nil {
		p = fmt.Sprint(*population)
	}
	return fmt.Sprintf("%s %s %s %s %s %q cap=%d occ=%d req=%d gra=%d ref=%d wai=%d del=%d amo=%d pop=%s", k.Level, k.Territory, k.Nomenclature,
		k.UserArea, k.PeriodStart, k.Unit, m.Capacity, m.Occupied, m.Requests, m.Granted, m.Refused, m.Waiting, m.DeliveredUnits, m.Amount, p)
}

func (h *hub) expected() []string {
	var out []string
	for _, r := range h.model.SupplyDemand() {
		out = append(out, line(r.Key, r.Measures, r.Population))
	}
	slices.Sort(out)
	return out
}

func (h *hub) shown() []string {
	h.t.Helper()
	rows, err := h.db.Query(context.Background(), `SELECT level, territory_code, nomenclature_code, user_area, toString(period_start), unit,
		toInt64(capacity * 1000), toInt64(occupied * 1000), requests, granted, refused, waiting, toInt64(delivered_units * 1000), toInt64(amount * 100), population
		FROM welfare.supply_demand`)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var k model.Key
		var m model.Measures
		var population *int64
		if err := rows.Scan(&k.Level, &k.Territory, &k.Nomenclature, &k.UserArea, &k.PeriodStart, &k.Unit,
			&m.Capacity, &m.Occupied, &m.Requests, &m.Granted, &m.Refused, &m.Waiting, &m.DeliveredUnits, &m.Amount, &population); err != nil {
			h.t.Fatal(err)
		}
		out = append(out, line(k, m, population))
	}
	if err := rows.Err(); err != nil {
		h.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// agree fails where the view differs from the model, and shows how.
func (h *hub) agree(when string) {
	h.t.Helper()
	want, got := h.expected(), h.shown()
	if slices.Equal(want, got) {
		return
	}
	shown := 0
	for _, l := range want {
		if _, ok := slices.BinarySearch(got, l); !ok && shown < 12 {
			h.t.Errorf("%s: missing %s", when, l)
			shown++
		}
	}
	shown = 0
	for _, l := range got {
		if _, ok := slices.BinarySearch(want, l); !ok && shown < 12 {
			h.t.Errorf("%s: not expected %s", when, l)
			shown++
		}
	}
	h.t.FailNow()
}

func (h *hub) verify(a *Aggregator, when string) {
	h.t.Helper()
	n, err := a.VerifyAll(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	if n != 0 {
		h.t.Fatalf("%s: VerifyAll finds %d differing cells, want 0", when, n)
	}
}

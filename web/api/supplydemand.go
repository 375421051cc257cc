package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// row is a row of welfare.supply_demand. Numbers are texts of digits, as ClickHouse writes them: no float
// is in between.
type row struct {
	Level        string       `json:"level"`
	Territory    string       `json:"territory_code"`
	Nomenclature string       `json:"nomenclature_code"`
	Area         string       `json:"user_area"`
	Period       string       `json:"period_start"`
	Unit         string       `json:"unit"`
	Capacity     json.Number  `json:"capacity"`
	Occupied     json.Number  `json:"occupied"`
	Requests     json.Number  `json:"requests"`
	Granted      json.Number  `json:"granted"`
	Refused      json.Number  `json:"refused"`
	Waiting      json.Number  `json:"waiting"`
	Delivered    json.Number  `json:"delivered_units"`
	Amount       json.Number  `json:"amount"`
	Population   *json.Number `json:"population"`
	UpdatedAt    time.Time    `json:"updated_at"`
}

// columns are the names of a row's columns, in the order of CSV.
var columns = []string{
	"level", "territory_code", "nomenclature_code", "user_area", "period_start", "unit", "capacity", "occupied", "requests",
	"granted", "refused", "waiting", "delivered_units", "amount", "population", "updated_at",
}

// selection reads rows in the order of key. The conditions that a filter adds are below; their values are
// parameters of the query, never part of its text.
const selection = `SELECT
    toString(t.level), toString(t.territory_code), toString(t.nomenclature_code), toString(t.user_area), toString(t.period_start), toString(t.unit),
    toString(t.capacity), toString(t.occupied), toString(t.requests), toString(t.granted), toString(t.refused), toString(t.waiting),
    toString(t.delivered_units), toString(t.amount), CAST(t.population, 'Nullable(String)'), t.updated_at
FROM welfare.supply_demand AS t
WHERE {limit:UInt32} > 0`

const ordering = `
ORDER BY toString(t.level), t.territory_code, t.nomenclature_code, t.user_area, t.period_start, t.unit
LIMIT {limit:UInt32}`

// statement is the query of a filter with its parameters. It asks for one row more than limit.
func (f *filter) statement(limit int) (query string, args []any) {
	query, args = selection, []any{clickhouse.Named("limit", limit+1)}
	where := func(condition, name string, value any) {
		query += "\n  AND " + condition
		args = append(args, clickhouse.Named(name, value))
	}
	if f.level != "" {
		where("t.level = {level:String}", "level", f.level)
	}
	if len(f.territories) > 0 {
		where("t.territory_code IN {territories:Array(String)}", "territories", f.territories)
	}
	if len(f.services) > 0 {
		where("t.nomenclature_code IN {services:Array(String)}", "services", f.services)
	}
	if len(f.areas) > 0 {
		where("t.user_area IN {areas:Array(String)}", "areas", f.areas)
	}
	if f.from != "" {
		where("t.period_start >= {from:Date32}", "from", f.from)
	}
	if f.to != "" {
		where("t.period_start <= {to:Date32}", "to", f.to)
	}
	if k := f.after; k != nil {
		query += `
  AND (toString(t.level), t.territory_code, t.nomenclature_code, t.user_area, t.period_start, t.unit)
    > ({k1:String}, {k2:String}, {k3:String}, {k4:String}, {k5:Date32}, {k6:String})`
		for i, v := range []string{k.Level, k.Territory, k.Nomenclature, k.Area, k.Period, k.Unit} {
			args = append(args, clickhouse.Named("k"+strconv.Itoa(i+1), v))
		}
	}
	return query + ordering, args
}

// watermark says up to where the aggregates have come. Exact is true where nothing published is missing.
type watermark struct {
	AsOf  *time.Time `json:"as_of"` // when the log that was looked at longest ago was looked at; null: none was
	Lag   int64      `json:"lag"`   // records in the logs that the aggregates lack
	Exact bool       `json:"exact"`
}

// page is an answer of supply-demand as JSON.
type page struct {
	Data      []row     `json:"data"`
	Watermark watermark `json:"watermark"`
	Next      *string   `json:"next"` // path and query of the next page; null: this is the last
}

func (a *api) supplyDemand(ctx context.Context, r *http.Request) (*answer, error) {
	f, err := parseFilter(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	media := map[string]string{"json": typeJSON, "csv": typeCSV}[f.format]
	if media == "" {
		if media, err = negotiate(r.Header.Get("Accept"), []string{typeJSON, typeCSV}); err != nil {
			return nil, err
		}
	}
	limit := f.limit
	switch {
	case limit > 0:
	case media == typeCSV:
		limit = maxLimit
	default:
		limit = defaultLimit
	}
	p, err := a.page(ctx, f, limit)
	if err != nil {
		return nil, err
	}
	if p.Next != nil {
		next := "/api/v1/supply-demand?" + *p.Next
		p.Next = &next
	}
	out, err := encodePage(p, media)
	if err == nil && p.Next != nil {
		out.header.Set("Link", "<"+*p.Next+`>; rel="next"`)
	}
	return out, err
}

// page reads one page. Its Next is the query of the next page.
func (a *api) page(ctx context.Context, f *filter, limit int) (*page, error) {
	ctx, release, err := a.query(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	// The watermark is read first: the rows have at least what it says.
	p := &page{Data: []row{}}
	if p.Watermark, err = a.watermark(ctx); err != nil {
		return nil, err
	}
	query, args := f.statement(limit)
	rows, err := a.DB.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read supply_demand: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var x row
		var population *string
		if err := rows.Scan(&x.Level, &x.Territory, &x.Nomenclature, &x.Area, &x.Period, &x.Unit,
			(*string)(&x.Capacity), (*string)(&x.Occupied), (*string)(&x.Requests), (*string)(&x.Granted), (*string)(&x.Refused), (*string)(&x.Waiting),
			(*string)(&x.Delivered), (*string)(&x.Amount), &population, &x.UpdatedAt); err != nil {
			return nil, fmt.Errorf("read a row of supply_demand: %w", err)
		}
		if population != nil {
			n := json.Number(*population)
			x.Population = &n
		}
		x.UpdatedAt = x.UpdatedAt.UTC()
		p.Data = append(p.Data, x)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read rows of supply_demand: %w", err)
	}
	if len(p.Data) > limit {
		p.Data = p.Data[:limit]
		last := p.Data[limit-1]
		f.raw.Set("cursor", key{last.Level, last.Territory, last.Nomenclature, last.Area, last.Period, last.Unit}.encode())
		next := f.raw.Encode()
		p.Next = &next
	}
	return p, nil
}

func (a *api) watermark(ctx context.Context) (watermark, error) {
	var w watermark
	var n uint64
	var asOf time.Time
	err := a.DB.QueryRow(ctx, `SELECT count(), min(as_of), sum(greatest(toInt64(log_end) - toInt64(ifNull(aggregated_to, 0)), 0)) FROM welfare.freshness`).Scan(&n, &asOf, &w.Lag)
	if err != nil {
		return w, fmt.Errorf("read freshness: %w", err)
	}
	if n > 0 {
		asOf = asOf.UTC()
		w.AsOf, w.Exact = &asOf, w.Lag == 0
	}
	return w, nil
}

func encodePage(p *page, media string) (*answer, error) {
	if media == typeJSON {
		return jsonAnswer(p)
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.UseCRLF = true // RFC 4180
	if err := w.Write(columns); err != nil {
		return nil, err
	}
	for _, x := range p.Data {
		population := ""
		if x.Population != nil {
			population = x.Population.String()
		}
		if err := w.Write([]string{
			x.Level, x.Territory, x.Nomenclature, x.Area, x.Period, x.Unit, x.Capacity.String(), x.Occupied.String(), x.Requests.String(),
			x.Granted.String(), x.Refused.String(), x.Waiting.String(), x.Delivered.String(), x.Amount.String(), population, x.UpdatedAt.Format(time.RFC3339Nano),
		}); err != nil {
			return nil, err
		}
	}
	w.Flush()
	header := http.Header{}
	header.Set("Content-Type", "text/csv; charset=utf-8; header=present")
	header.Set("Content-Disposition", `attachment; filename="supply-demand.csv"`)
	header.Set("Welfarehub-Lag", strconv.FormatInt(p.Watermark.Lag, 10))
	if p.Watermark.AsOf != nil {
		header.Set("Welfarehub-As-Of", p.Watermark.AsOf.Format(time.RFC3339Nano))
	}
	return &answer{header: header, body: b.Bytes()}, w.Error()
}

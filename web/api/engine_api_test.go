package api

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
)

// month is the number of a month in store.contrib.
func month(year, month int) int { return 12*year + month - 1 }

// fill stores the contributions that the tests read: Milano and Roma in two months, an unknown comune,
// an amount that no float64 holds, and the books.
func fill(t *testing.T, db *clickhouse.DB) {
	t.Helper()
	for _, q := range []string{
		"TRUNCATE TABLE store.contrib", "TRUNCATE TABLE store.comuni", "TRUNCATE TABLE store.reference_nomenclature",
		"TRUNCATE TABLE store.ledger", "TRUNCATE TABLE store.log_end", "TRUNCATE TABLE store.settled",
		"INSERT INTO store.comuni VALUES ('015146', 'Milano', '015', '03'), ('058091', 'Roma', '058', '12')",
		"INSERT INTO store.reference_nomenclature VALUES ('A1.03'), ('B2')",
		fmt.Sprintf(`INSERT INTO store.contrib (grp, comune, nomenclature, area, month, unit, requests, granted, refused, waiting, capacity, occupied, delivered, amount, residents, mark, updated_at) VALUES
(1, '015146', 'A1.03', 'FAMILY_MINORS', %[1]d, '', 3, 1, 0, 2, 10.5, 4, 0, 900719925474099.01, 0, 0, '2026-02-01 10:00:00.123'),
(2, '015146', 'A1.03', 'FAMILY_MINORS', %[2]d, '', 1, 0, 1, -1, 0, 0, 0, 0, 0, 0, '2026-02-02 10:00:00'),
(2, '015146', 'A1.03', 'FAMILY_MINORS', %[2]d, 'MEAL', 0, 0, 0, 0, 0, 0, 0.125, 0, 0, 0, '2026-02-02 10:00:00'),
(3, '058091', 'B2', 'MULTI', %[2]d, '', 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, '2026-02-02 10:00:00'),
(4, '000000', 'Z9', 'UNKNOWN', %[2]d, '', 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, '2026-02-02 10:00:00'),
(5, '015146', '', '#population', %[1]d, '', 0, 0, 0, 0, 0, 0, 0, 0, 1354196, 1, '2026-02-02 10:00:00'),
(0, '', 'now', '#books', 0, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, toUnixTimestamp64Milli(toDateTime64('2026-02-15 10:00:00', 3, 'UTC')), '2026-02-02 10:00:00'),
(0, '', 'welfare.demand.request', '#books', 0, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, '2026-02-02 10:00:00')`, month(2026, 1), month(2026, 2)),
		`INSERT INTO store.ledger VALUES (3, 'welfare.demand.request', 0, 0, 7, 7, 5, 1, 1, 0, '2026-02-01 00:00:00', 1, '2026-02-02 09:00:00'),
(3, 'welfare.demand.request', 0, 7, 10, 3, 3, 0, 0, 0, '2026-02-01 00:00:00', 1, '2026-02-02 10:00:00.5')`,
		"INSERT INTO store.log_end VALUES ('welfare.demand.request', 0, 12, '2026-02-02 10:00:01')",
		"INSERT INTO store.settled VALUES ('welfare.demand.request', 0, 9, '2026-02-02 10:00:00')",
	} {
		if err := db.Exec(t.Context(), q); err != nil {
			t.Fatalf("%.80s: %v", q, err)
		}
	}
}

func get(t *testing.T, h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// filled is the API as the planner runs it, who has the fewest rights and the narrowest limits.
func filled(t *testing.T) http.Handler {
	t.Helper()
	hub, planner := database(t)
	fill(t, hub)
	return New(Options{DB: planner, Logger: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))})
}

// rowsOf gives the rows of an answer as "level territory service area period unit requests" lines.
func rowsOf(t *testing.T, w *httptest.ResponseRecorder) (lines []string, p page) {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Data {
		lines = append(lines, strings.Join([]string{r.Level, r.Territory, r.Nomenclature, r.Area, r.Period, r.Unit, r.Requests.String()}, " "))
	}
	return lines, p
}

func TestSupplyDemandNumbersAreExact(t *testing.T) {
	h := filled(t)
	w := get(t, h, "/api/v1/supply-demand?level=COMUNE&territory=015146&from=2026-01&to=2026-02")
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %s", got)
	}
	const want = `{"data":[` +
		`{"level":"COMUNE","territory_code":"015146","nomenclature_code":"A1.03","user_area":"FAMILY_MINORS","period_start":"2026-01-01","unit":"","capacity":10.5,"occupied":4,"requests":3,"granted":1,"refused":0,"waiting":2,"delivered_units":0,"amount":900719925474099.01,"population":1354196,"updated_at":"2026-02-01T10:00:00.123Z"},` +
		`{"level":"COMUNE","territory_code":"015146","nomenclature_code":"A1.03","user_area":"FAMILY_MINORS","period_start":"2026-02-01","unit":"","capacity":10.5,"occupied":4,"requests":1,"granted":0,"refused":1,"waiting":1,"delivered_units":0,"amount":0,"population":1354196,"updated_at":"2026-02-02T10:00:00Z"},` +
		`{"level":"COMUNE","territory_code":"015146","nomenclature_code":"A1.03","user_area":"FAMILY_MINORS","period_start":"2026-02-01","unit":"MEAL","capacity":0,"occupied":0,"requests":0,"granted":0,"refused":0,"waiting":0,"delivered_units":0.125,"amount":0,"population":1354196,"updated_at":"2026-02-02T10:00:00Z"}` +
		`],"watermark":{"as_of":"2026-02-02T10:00:01Z","lag":2,"exact":false},"next":null}` + "\n"
	if got := w.Body.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if w = get(t, h, "/api/v1/supply-demand?level=COMUNE&territory=058091"); !strings.Contains(w.Body.String(), `"population":null`) {
		t.Errorf("where no population is known: %s", w.Body)
	}
}

func TestSupplyDemandFilters(t *testing.T) {
	h := filled(t)
	for query, want := range map[string]string{
		"level=REGION&from=2026-02":                            "REGION 03 A1.03 FAMILY_MINORS 2026-02-01  1|REGION 03 A1.03 FAMILY_MINORS 2026-02-01 MEAL 0|REGION 12 B2 MULTI 2026-02-01  5|REGION UNMAPPED UNMAPPED UNKNOWN 2026-02-01  2",
		"territory=058091&territory=UNMAPPED&level=COMUNE":     "COMUNE 058091 B2 MULTI 2026-02-01  5|COMUNE UNMAPPED UNMAPPED UNKNOWN 2026-02-01  2",
		"service=B2&service=UNMAPPED&level=COUNTRY":            "COUNTRY IT B2 MULTI 2026-02-01  5|COUNTRY IT UNMAPPED UNKNOWN 2026-02-01  2",
		"user_area=MULTI":                                      "COMUNE 058091 B2 MULTI 2026-02-01  5|COUNTRY IT B2 MULTI 2026-02-01  5|PROVINCE 058 B2 MULTI 2026-02-01  5|REGION 12 B2 MULTI 2026-02-01  5",
		"level=COUNTRY&to=2026-01":                             "COUNTRY IT A1.03 FAMILY_MINORS 2026-01-01  3",
		"level=COUNTRY&from=2030-01":                           "",
		"level=PROVINCE&territory=015&from=2026-01&to=2026-01": "PROVINCE 015 A1.03 FAMILY_MINORS 2026-01-01  3",
	} {
		got, _ := rowsOf(t, get(t, h, "/api/v1/supply-demand?"+query))
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("%s\n got %s\nwant %s", query, s, want)
		}
	}
}

func TestPagesGiveEachRowOnce(t *testing.T) {
	h := filled(t)
	all, _ := rowsOf(t, get(t, h, "/api/v1/supply-demand"))
	for _, limit := range []int{3, len(all), len(all) + 1} {
		var got []string
		next := fmt.Sprintf("/api/v1/supply-demand?limit=%d", limit)
		for next != "" {
			w := get(t, h, next)
			lines, p := rowsOf(t, w)
			got = append(got, lines...)
			next = ""
			if p.Next != nil {
				next = *p.Next
				if want := "<" + next + `>; rel="next"`; w.Header().Get("Link") != want {
					t.Errorf("Link %s, want %s", w.Header().Get("Link"), want)
				}
			}
		}
		if strings.Join(got, "\n") != strings.Join(all, "\n") {
			t.Errorf("limit %d gives %d rows, want %d", limit, len(got), len(all))
		}
	}
}

func TestSupplyDemandAsCSV(t *testing.T) {
	h := filled(t)
	for _, w := range []*httptest.ResponseRecorder{
		get(t, h, "/api/v1/supply-demand?format=csv&territory=015146&to=2026-01"),
		get(t, h, "/api/v1/supply-demand?territory=015146&to=2026-01", "Accept", "text/csv"),
	} {
		if got := w.Header().Get("Content-Type"); got != "text/csv; charset=utf-8; header=present" {
			t.Errorf("Content-Type %s", got)
		}
		if w.Header().Get("Welfarehub-Lag") != "2" || w.Header().Get("Welfarehub-As-Of") != "2026-02-02T10:00:01Z" {
			t.Errorf("headers %v", w.Header())
		}
		want := strings.Join(columns, ",") + "\r\nCOMUNE,015146,A1.03,FAMILY_MINORS,2026-01-01,,10.5,4,3,1,0,2,0,900719925474099.01,1354196,2026-02-01T10:00:00.123Z\r\n"
		if got := w.Body.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	w := get(t, h, "/api/v1/supply-demand?format=csv&limit=1")
	if records, err := csv.NewReader(w.Body).ReadAll(); err != nil || len(records) != 2 || !strings.Contains(w.Header().Get("Link"), "cursor=") {
		t.Errorf("a page of CSV: %d records, Link %s, %v", len(records), w.Header().Get("Link"), err)
	}
}

func TestStatusShowsBooksLagAndUnmapped(t *testing.T) {
	h := filled(t)
	w := get(t, h, "/api/v1/status")
	if w.Code != http.StatusOK {
		t.Fatal(w.Body)
	}
	var s statusPage
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Topics) != 16 {
		t.Errorf("%d topics", len(s.Topics))
	}
	r := s.Topics[2]
	if r.Topic != "welfare.demand.request" || r.Event != "ServiceRequested" || r.counts != (counts{Read: 10, Loaded: 8, Duplicate: 1, Rejected: 1, Rows: 8}) {
		t.Errorf("got %+v", r)
	}
	p := r.progress
	if p.LogEnd != 12 || p.LedgeredTo != 10 || p.SettledTo != 9 || p.AggregatedTo != 10 || p.Lag != 2 || p.UpToDate || p.LastLoadedAt.Format("15:04:05.0") != "10:00:00.5" || p.AsOf == nil || *p.AgeSeconds <= 0 {
		t.Errorf("got %+v", p)
	}
	if len(r.Partitions) != 1 || r.Partitions[0].Lag != 2 || s.Overall.Read != 10 || s.Overall.Lag != 2 || s.Overall.UpToDate {
		t.Errorf("got %+v and %+v", r.Partitions, s.Overall)
	}
	if e := s.Topics[0]; !e.UpToDate || e.LastLoadedAt != nil || e.AsOf != nil || e.Partitions == nil {
		t.Errorf("a topic without records: %+v", e)
	}
	u := s.Unmapped
	if u == nil || u.Service["requests"].Total != "11" || u.Service["requests"].Unmapped != "2" || u.Territory["requests"].Unmapped != "2" ||
		u.Service["amount"].Total != "900719925474099.01" || *u.Service["granted"].Share != 0 || *u.Service["refused"].Share != 0 {
		t.Errorf("unmapped: %+v", u)
	}
}

func TestReadyOnlyWithTheSchema(t *testing.T) {
	h := filled(t)
	if w := get(t, h, "/readyz"); w.Code != http.StatusOK {
		t.Error(w.Body)
	}
}

// TestValuesCannotLeaveTheirParameters says that what passes validation is bound, also where a cursor carries it.
func TestValuesCannotLeaveTheirParameters(t *testing.T) {
	h := filled(t)
	for _, evil := range []string{`' OR 1=1 --`, `\`, `\'`, "a\tb\nc", "{limit:UInt32}", "\x00"} {
		cursor := key{"COUNTRY", evil, evil, evil, "2026-01-01", evil}.encode()
		w := get(t, h, "/api/v1/supply-demand?limit=1&cursor="+url.QueryEscape(cursor))
		if lines, _ := rowsOf(t, w); len(lines) != 1 {
			t.Errorf("%q: %v", evil, lines)
		}
	}
}

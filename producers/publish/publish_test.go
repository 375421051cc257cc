package publish

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/schemas"
)

var update = flag.Bool("update", false, "write the golden files again")

// fixedNow is the time of all runs, so that recordedAt is the same.
func fixedNow() time.Time { return time.Date(2024, 6, 1, 12, 0, 0, 0, time.UTC) }

// tap is a Checker that shows each event to a test.
type tap func(row *event.Row, found func(Finding))

func (t tap) Check(row *event.Row, _ time.Time, found func(Finding)) { t(row, found) }

// noRules accepts what is of its type.
var noRules = tap(func(*event.Row, func(Finding)) {})

// collect is a tap that keeps every event.
func collect(rows *[]*event.Row) Checker {
	return tap(func(row *event.Row, _ func(Finding)) { *rows = append(*rows, row.Clone()) })
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// istatFile is the reference list of comuni as its publisher gives it, with CRLF at the ends of lines.
func istatFile(t *testing.T) string {
	t.Helper()
	raw, err := schemas.Codes.ReadFile("codes/comuni.csv")
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "comuni_pop.csv", strings.ReplaceAll(string(raw), "\n", "\r\n"))
}

// TestISTATFileGivesTerritoriesAndPopulation reads the real file: 7,899 comuni, 58,836,166 residents.
func TestISTATFileGivesTerritoriesAndPopulation(t *testing.T) {
	var total, milano, bands int64
	seen := map[string]bool{}
	hub := Rules()
	check := tap(func(row *event.Row, found func(Finding)) {
		hub.Check(row, time.Now(), found)
		if seen[row.Str(event.EventID)] {
			t.Errorf("id %s comes twice", row.Str(event.EventID))
		}
		seen[row.Str(event.EventID)] = true
		if row.Type.Name == "TerritoryUpserted" {
			code := row.Str(event.TerritoryUpsertedTerritoryCode)
			if !row.Is(event.TerritoryUpsertedLevel, "COMUNE") || row.Str(event.TerritoryUpsertedParentCode) != code[:3] || row.Vals[event.TerritoryUpsertedCadastralCode].Null {
				t.Errorf("territory %s", row.AppendJSON(nil))
			}
			return
		}
		n := row.Vals[event.PopulationReportedResidents].Int
		if row.Vals[event.PopulationReportedAgeFrom].Int == 0 && row.Vals[event.PopulationReportedAgeTo].Int == 100 {
			total += n
			if row.Str(event.PopulationReportedTerritoryCode) == "015146" {
				milano = n
			}
			if !row.Is(event.PopulationReportedSex, "UNKNOWN") || row.Time(event.PopulationReportedReferenceDate).Format(time.DateOnly) != "2023-01-01" {
				t.Errorf("population %s", row.AppendJSON(nil))
			}
		} else {
			bands += n
		}
	})
	report, err := Run(t.Context(), Options{
		Files: []string{istatFile(t)}, Mapping: "istat_population", DryRun: true, Check: check,
		OnProblem: func(p Problem) { t.Error(p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Flags) > 0 {
		t.Errorf("flags %v", report.Flags)
	}
	if report.Records != 7899 || report.Events["TerritoryUpserted"] != 7899 || report.Events["PopulationReported"] != 8*7899 {
		t.Errorf("records %d, events %v", report.Records, report.Events)
	}
	if total != 58836166 || milano != 1354196 {
		t.Errorf("total %d, Milano %d", total, milano)
	}
	t.Logf("bands sum to %d; %d events in %v", bands, report.Accepted(), report.Elapsed)
}

// TestBadFilesGiveExactErrors compares the problems of each file in testdata/bad with the .txt beside
// it. The word SECRET stands in the files where a person's data could be.
func TestBadFilesGiveExactErrors(t *testing.T) {
	rule := regexp.MustCompile(`^E\d\d$`)
	files, err := filepath.Glob("testdata/bad/*")
	if err != nil {
		t.Fatal(err)
	}
	mappings := map[string]string{"mapped.csv": "testdata/mapped.yaml", "mapped.jsonl": "testdata/mapped.yaml", "mapped2.csv": "testdata/mapped.yaml"}
	types := map[string]string{"typed.csv": "CapacityChanged", "notnames.csv": "CapacityChanged", "typed.jsonl": "welfare.supply.capacity"}
	for _, path := range files {
		name := filepath.Base(path)
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		var got strings.Builder
		report, err := Run(t.Context(), Options{
			Files: []string{path}, Type: types[name], Mapping: mappings[name], DryRun: true, Now: fixedNow,
			OnProblem: func(p Problem) {
				if p.Text == "" {
					t.Errorf("%s: no text", p)
				}
				if rule.MatchString(p.Code) {
					p.Text = "…" // pkg/validate words it
				}
				fmt.Fprintln(&got, p)
			},
		})
		fmt.Fprintf(&got, "= %d records, %d bad, events %v, flags %v: %v\n", report.Records, report.Bad, report.Events, report.Flags, err)
		golden(t, path+".txt", got.String())
		if strings.Contains(got.String(), "SECRET") {
			t.Errorf("%s: an error shows a value:\n%s", name, got.String())
		}
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it by: go test ./producers/publish -update", err)
	}
	if got != string(want) {
		t.Errorf("%s:\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// TestBadMappingsGiveExactErrors has one file per rule in testdata/badmapping.
func TestBadMappingsGiveExactErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/badmapping/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		_, err := LoadMapping(path)
		if err == nil {
			t.Errorf("%s is accepted", path)
			continue
		}
		golden(t, strings.TrimSuffix(path, ".yaml")+".txt", err.Error()+"\n")
	}
}

func TestShippedMappingsLoad(t *testing.T) {
	for _, name := range Mappings() {
		if m, err := LoadMapping(name); err != nil || m.Doc == "" {
			t.Errorf("%s: %v, doc %q", name, err, m.Doc)
		}
	}
	if _, err := LoadMapping("nothing"); err == nil || !strings.Contains(err.Error(), "istat_population") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestREADMEMappingLoads(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if _, err := ParseMapping("README.md", []byte(example)); err != nil || !ok {
		t.Error(err)
	}
}

func TestRunStopsAtMaxErrors(t *testing.T) {
	var b strings.Builder
	b.WriteString("event,serviceId\n")
	for range 10000 {
		b.WriteString("CapacityChanged,SECRET\n")
	}
	problems := 0
	report, err := Run(t.Context(), Options{Files: []string{write(t, "a.csv", b.String())}, DryRun: true, MaxErrors: 7, OnProblem: func(Problem) { problems++ }})
	if !errors.Is(err, ErrTooManyErrors) || report.Bad != 7 || report.Records != 7 || problems == 0 {
		t.Errorf("bad %d, records %d: %v", report.Bad, report.Records, err)
	}
	report, err = Run(t.Context(), Options{Files: []string{write(t, "a.csv", b.String())}, DryRun: true, MaxErrors: -1})
	if !errors.Is(err, ErrRejected) || report.Bad != 10000 {
		t.Errorf("without a limit: bad %d: %v", report.Bad, err)
	}
}

const capacityLine = `{"event":"CapacityChanged","source":"urn:welfare:a:b","sourceRecordId":"r1","occurredAt":"2024-05-01T00:00:00Z","orgCode":"c_f205",` +
	`"serviceId":"s1","unit":"PLACE","authorised":"60","operational":50,"occupied":"51.5","effectiveFrom":"2024-05-01T00:00:00Z","acceptsReferrals":"WAITLIST"}`

const capacityCSV = "event;header.source;sourceRecordId;occurred_at;org_code;service_id;unit;authorised;operational;occupied;effectiveFrom;acceptsReferrals;reason\n" +
	"welfare.supply.capacity;urn:welfare:a:b;r1;2024-05-01T00:00:00Z;c_f205;s1;PLACE;60;50;51.500;1714521600000;WAITLIST;\n"

// TestFormatsGiveTheSameEvent also holds the derived id: files published by an older release must
// count once when a newer one publishes them again.
func TestFormatsGiveTheSameEvent(t *testing.T) {
	const id = "bfd34307-2ace-8c71-940e-1c8fe6787bd1"
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = io.WriteString(z, capacityLine)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	var first *event.Row
	for _, c := range []struct {
		name, text string
		o          Options
	}{
		{"a.jsonl", capacityLine, Options{}},
		{"a.jsonl", "\n\r\n" + capacityLine + "\r\n\n", Options{Type: "CapacityChanged"}},
		{"a.jsonl.gz", gz.String(), Options{}},
		{"-", capacityLine, Options{Format: JSONL}},
		{"a.csv", capacityCSV, Options{}},
		{"a.csv", "\ufeff" + strings.ReplaceAll(capacityCSV, ";", "\t"), Options{}},
		{"a.csv", strings.ReplaceAll(strings.ReplaceAll(capacityCSV, "r1;", `"r1";`), "\n", "\r\n"), Options{Delimiter: ';'}},
		{"a.csv", strings.Replace(strings.Replace(capacityCSV, "header.source;", "", 1), "urn:welfare:a:b;", "", 1), Options{Defaults: map[string]string{"source": "urn:welfare:a:b", "keyEpoch": "1"}}},
	} {
		var rows []*event.Row
		o := c.o
		o.DryRun, o.Now, o.Check, o.OnProblem = true, fixedNow, collect(&rows), func(p Problem) { t.Error(p) }
		o.Files, o.Stdin = []string{c.name}, strings.NewReader(c.text)
		if c.name != "-" {
			o.Files = []string{write(t, c.name, c.text)}
		}
		if _, err := Run(t.Context(), o); err != nil || len(rows) != 1 {
			t.Fatalf("%s: %d events: %v", c.name, len(rows), err)
		}
		if first == nil {
			first = rows[0]
		}
		if got, want := string(rows[0].AppendJSON(nil)), string(first.AppendJSON(nil)); got != want {
			t.Errorf("%s: %s\nwant %s", c.name, got, want)
		}
	}
	if got := first.Str(event.EventID); got != id {
		t.Errorf("derived id is %s, was %s", got, id)
	}
	if first.Vals[event.RecordVersion].Int != 1 || first.Time(event.RecordedAt) != fixedNow() {
		t.Errorf("defaults: %s", first.AppendJSON(nil))
	}
}

func TestDerivedIDFollowsTheContent(t *testing.T) {
	id := func(change string, now time.Time) string {
		line := strings.Replace(capacityLine, `"event"`, change+`"event"`, 1)
		if strings.HasPrefix(change, "s/") {
			p := strings.Split(change, "/")
			line = strings.Replace(capacityLine, p[1], p[2], 1)
		}
		var rows []*event.Row
		_, err := Run(t.Context(), Options{Files: []string{"-"}, Format: JSONL, Stdin: strings.NewReader(line), DryRun: true, Check: collect(&rows), Now: func() time.Time { return now }})
		if err != nil || len(rows) != 1 {
			t.Fatalf("%s: %v", change, err)
		}
		return rows[0].Str(event.EventID)
	}
	same := id("", fixedNow())
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(same) {
		t.Errorf("id %s is no UUID of version 8", same)
	}
	for _, c := range []string{"", `"eventId":"",`, `"recordVersion":1,`, `"recordedAt":"2024-05-02T00:00:00Z",`, `"traceparent":"00-x",`} {
		if id(c, fixedNow().Add(time.Hour)) != same {
			t.Errorf("%s changes the id", c)
		}
	}
	for _, c := range []string{`"recordVersion":2,`, "s/r1/r2", "s/a:b/a:c", "s/51.5/51.6", `"reason":"x",`} {
		if id(c, fixedNow()) == same {
			t.Errorf("%s does not change the id", c)
		}
	}
	if got := id(`"eventId":"018f0000-0000-7000-8000-000000000001",`, fixedNow()); got != "018f0000-0000-7000-8000-000000000001" {
		t.Errorf("a given id becomes %s", got)
	}
}

// TestMappingReadsForeignFiles goes through what a mapping can do, from CSV and from JSON lines.
func TestMappingReadsForeignFiles(t *testing.T) {
	const csvText = "PROT;DATA;COM;POSTI;OCC;TIPO;NOTE;UTENZA;DAL\n" +
		" 12/A ;31/12/2023 10:30;1234;1.060,5;1;P; citt\xe0 \x80;;\n" +
		"13;01/07/2023 00:00;015146;10;;L;;1;2023-07-01\n"
	const jsonText = `{"PROT":"12/A","DATA":"31/12/2023 10:30","COM":1234,"POSTI":"1.060,5","OCC":1,"TIPO":"P","NOTE":"città €"}` + "\n" +
		`{"PROT":13,"DATA":"01/07/2023 00:00","COM":"015146","POSTI":"10","OCC":null,"TIPO":"L","UTENZA":true,"DAL":"2023-07-01","x":[{"y":1},2]}` + "\n"
	m := "testdata/mapped.yaml"
	var all []string
	for _, c := range []struct{ name, text string }{{"a.csv", csvText}, {"a.jsonl", jsonText}} {
		text := c.text
		o := Options{Files: []string{write(t, c.name, text)}, Mapping: m, DryRun: true, Now: fixedNow}
		if c.name == "a.jsonl" {
			mm, err := os.ReadFile(m)
			if err != nil {
				t.Fatal(err)
			}
			o.Mapping = write(t, "m.yaml", strings.Replace(string(mm), "encoding: windows-1252", "encoding: utf-8", 1))
		}
		var rows []*event.Row
		o.Check, o.OnProblem = collect(&rows), func(p Problem) { t.Error(p) }
		if _, err := Run(t.Context(), o); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got strings.Builder
		for _, r := range rows {
			got.WriteString(r.Type.Name + " " + string(r.AppendJSON(nil)) + "\n")
		}
		all = append(all, got.String())
	}
	if all[0] != all[1] {
		t.Errorf("CSV gives\n%s\nJSON gives\n%s", all[0], all[1])
	}
	golden(t, "testdata/mapped.txt", all[0])
}

// TestMemoryDoesNotGrowWithTheFile publishes 60 MB that exist nowhere in dry run.
func TestMemoryDoesNotGrowWithTheFile(t *testing.T) {
	const lines = 150000
	n := 0
	r, w := io.Pipe()
	go func() {
		var err error
		for i := range lines {
			if _, err = fmt.Fprintln(w, strings.Replace(capacityLine, `"r1"`, fmt.Sprintf(`"r%d"`, i), 1)); err != nil {
				break
			}
		}
		_ = w.CloseWithError(err)
	}()
	var most uint64
	report, err := Run(t.Context(), Options{Files: []string{"-"}, Format: JSONL, Stdin: r, DryRun: true, Check: tap(func(*event.Row, func(Finding)) {
		if n++; n%10000 == 0 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	})})
	if err != nil || report.Records != lines {
		t.Fatalf("%d records: %v", report.Records, err)
	}
	if most > 24<<20 {
		t.Errorf("heap grew to %d MiB", most>>20)
	}
}

func TestHugeRecordsEndWithAnError(t *testing.T) {
	open := "event,reason\nCapacityChanged,\"" + strings.Repeat("x\n", maxRecordBytes)
	_, err := Run(t.Context(), Options{Files: []string{write(t, "a.csv", open)}, DryRun: true})
	if !errors.Is(err, errOpenQuote) {
		t.Errorf("an open quote: %v", err)
	}
	long := capacityLine + "\n{\"a\":\"" + strings.Repeat("x", maxRecordBytes) + "\"}\n" + capacityLine
	var problems []Problem
	report, err := Run(t.Context(), Options{Files: []string{write(t, "a.jsonl", long)}, DryRun: true, OnProblem: func(p Problem) { problems = append(problems, p) }})
	if !errors.Is(err, ErrRejected) || report.Records != 3 || report.Bad != 1 || len(problems) != 1 || problems[0].Line != 2 || problems[0].Code != CodeSyntax {
		t.Errorf("a long line: %+v %v %v", report, problems, err)
	}
	big := strings.Replace(capacityLine, `"event"`, `"reason":"`+strings.Repeat("x", 2000)+`","event"`, 1)
	problems = nil
	_, err = Run(t.Context(), Options{Files: []string{write(t, "a.jsonl", big)}, DryRun: true, MaxValueBytes: 1000, Check: noRules, OnProblem: func(p Problem) { problems = append(problems, p) }})
	if !errors.Is(err, ErrRejected) || len(problems) != 1 || problems[0].Code != "P06" {
		t.Errorf("a large event: %v %v", problems, err)
	}
}

func TestOptionsReportEveryProblem(t *testing.T) {
	o := Options{Format: "xml", Type: "Nothing", Mapping: "m", Defaults: map[string]string{"nope": "1", "recordVersion": "x"}}
	err := o.Validate()
	for _, want := range []string{"no file", `format: "xml"`, "type: no event", "exclude one another", "no event has a field nope", "field recordVersion: not a whole number", "brokers: none", "no schema registry"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestProgressLine(t *testing.T) {
	got := progressLine("a.csv", 5000, 2, 250, 1000, 2*time.Second)
	if want := "a.csv: 5000 records, 2500/s, 2 bad, 25 %, 6s left"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := progressLine("-", 10, 0, 250, 0, time.Second), "-: 10 records, 10/s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	r, w := io.Pipe()
	go func() {
		for {
			if _, err := fmt.Fprintln(w, capacityLine); err != nil {
				return
			}
		}
	}()
	n := 0
	_, err := Run(ctx, Options{Files: []string{"-"}, Format: JSONL, Stdin: r, DryRun: true, Check: tap(func(*event.Row, func(Finding)) {
		if n++; n == 100 {
			cancel(stop)
		}
	})})
	_ = r.Close()
	if !errors.Is(err, stop) || n != 100 {
		t.Errorf("after %d: %v", n, err)
	}
}

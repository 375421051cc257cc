package codes

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/schemas"
)

func TestComuni(t *testing.T) {
	l := Default()
	if n := len(l.Comuni()); n != 7899 {
		t.Errorf("%d comuni, want 7899", n)
	}
	total := 0
	for i, c := range l.Comuni() {
		total += c.Total
		sum := 0
		for _, n := range c.Population {
			sum += n
		}
		if sum != c.Total {
			t.Errorf("%s: bands sum to %d, total is %d", c.Code, sum, c.Total)
		}
		if i > 0 && l.Comuni()[i-1].Code >= c.Code {
			t.Errorf("%s is out of order", c.Code)
		}
	}
	if total != 58836166 {
		t.Errorf("%d residents, want 58836166", total)
	}
	milano, ok := l.Comune([]byte("015146"))
	if !ok || milano.Name != "Milano" || milano.Cadastral != "F205" || milano.Province != "015" || milano.Region != "03" ||
		milano.Population[Age0to2] != 30004 || milano.Population[Age11to14] != 48512 || milano.Total != 1354196 {
		t.Errorf("Milano is %+v", milano)
	}
	for _, code := range []string{"", "999999", "15146", "005079", Abroad, NoFixedResidence} {
		if _, ok := l.Comune([]byte(code)); ok {
			t.Errorf("comune %q is known", code)
		}
	}
}

func TestBandsCoverAllAges(t *testing.T) {
	next := 0
	for b := range Bands {
		from, to := b.Ages()
		if from != next {
			t.Errorf("band %d begins at %d, want %d", b, from, next)
		}
		next = to + 1
	}
	if next != 101 {
		t.Errorf("the last age is %d, want 100", next-1)
	}
}

func TestRegions(t *testing.T) {
	if n := len(Default().Regions()); n != 20 {
		t.Errorf("%d regions, want 20", n)
	}
	if r, ok := Default().Region([]byte("03")); !ok || r.Name != "Lombardia" {
		t.Errorf("03 is %+v", r)
	}
}

func TestINPSCodesAreWellFormed(t *testing.T) {
	l := Default()
	form := regexp.MustCompile(`^[A-Z][0-9]\.[0-9]{2}$`)
	for _, code := range l.INPS() {
		if !form.MatchString(code) || !l.KnownINPS([]byte(code)) {
			t.Errorf("%s is not well formed or not known", code)
		}
	}
	for _, code := range []string{"A1.01", "A1.20", "A2.12", "A2.16", "A2.17", "A2.18", "A3.03", "Z9.99"} {
		if !l.KnownINPS([]byte(code)) {
			t.Errorf("%s is not known", code)
		}
	}
	if l.KnownINPS([]byte("A2.13")) || l.KnownINPS(nil) {
		t.Error("an unknown code is known")
	}
}

func TestNomenclatureIsConsistent(t *testing.T) {
	l := Default()
	form := regexp.MustCompile(`^[A-Z0-9][A-Z0-9.]{0,15}$`)
	functions := "SICKNESS DISABILITY OLD_AGE SURVIVORS FAMILY_CHILDREN UNEMPLOYMENT HOUSING SOCIAL_EXCLUSION"
	offer := event.ByName("ServiceOfferPublished")
	symbols := offer.Fields[offer.MustField("userArea")].Symbols
	areas, leaves := map[string]int{}, 0
	for _, s := range l.Nomenclature() {
		if !form.MatchString(s.Code) {
			t.Errorf("%s is not well formed", s.Code)
		}
		if s.Title == "" || s.Source == "" {
			t.Errorf("%s has no title or no source", s.Code)
		}
		known := false
		for _, a := range symbols[1:] {
			known = known || a == s.UserArea
		}
		if !known {
			t.Errorf("%s: area %s is not a symbol of UserArea", s.Code, s.UserArea)
		}
		for _, code := range s.INPS {
			if !l.KnownINPS([]byte(code)) {
				t.Errorf("%s: INPS code %s is not known", s.Code, code)
			}
		}
		if _, err := time.Parse(time.DateOnly, s.ValidFrom); err != nil {
			t.Errorf("%s: %v", s.Code, err)
		}
		if s.Parent != "" && !strings.HasPrefix(s.Code, s.Parent+".") {
			t.Errorf("%s is not named after its parent %s", s.Code, s.Parent)
		}
		if !s.Leaf {
			continue
		}
		leaves++
		areas[s.UserArea]++
		if s.ESSPROS == "" || !strings.Contains(functions, s.ESSPROS) {
			t.Errorf("%s: %q is no ESSPROS function", s.Code, s.ESSPROS)
		}
	}
	if leaves < 40 {
		t.Errorf("%d leaves, want 40 or more", leaves)
	}
	for _, a := range symbols[1:] {
		if areas[a] == 0 {
			t.Errorf("no leaf for area %s", a)
		}
	}
	if !l.KnownNomenclature([]byte("3.INF.01")) || l.KnownNomenclature([]byte("UNMAPPED")) {
		t.Error("known and unknown codes are confused")
	}
}

func TestFrameworks(t *testing.T) {
	l := Default()
	for _, tt := range []struct {
		id         string
		version    int64
		indicators int
	}{{"EU-CD17", 1, 17}, {"MI-CP-1", 1, 14}, {"AS-1", 1, 21}, {"AS-1", 2, 0}, {"X", 1, 0}} {
		f := l.Framework([]byte(tt.id), tt.version)
		if f == nil {
			if tt.indicators != 0 {
				t.Errorf("%s is not known", tt.id)
			}
			continue
		}
		if len(f.Indicators) != tt.indicators {
			t.Errorf("%s has %d indicators, want %d", tt.id, len(f.Indicators), tt.indicators)
		}
		for i := range f.Indicators {
			ind := &f.Indicators[i]
			if f.Indicator([]byte(ind.Code)) != ind {
				t.Errorf("%s %s is not found", tt.id, ind.Code)
			}
			ok := ind.Min < ind.Max && (ind.Level == "STUDENT" || ind.Level == "CLASS" || ind.Level == "SCHOOL")
			if f.Kind == Deprivation {
				ok = ind.Weight > 0 && (ind.UnitKind == "CHILD" || ind.UnitKind == "HOUSEHOLD")
			}
			if !ok {
				t.Errorf("%s %s is incomplete", tt.id, ind.Code)
			}
		}
		if f.Indicator([]byte("nope")) != nil {
			t.Errorf("%s has indicator nope", tt.id)
		}
	}
}

func TestLookUpsDoNotAllocate(t *testing.T) {
	l := Default()
	comune, inps, service, framework, indicator := []byte("015146"), []byte("A2.16"), []byte("3.INF.01"), []byte("AS-1"), []byte("AS21")
	n := testing.AllocsPerRun(100, func() {
		l.Comune(comune)
		l.KnownINPS(inps)
		l.KnownNomenclature(service)
		l.Framework(framework, 1).Indicator(indicator)
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	for _, tt := range []struct{ file, from, to, want string }{
		{"comuni.csv", "015146,", "001001,", "comuni.csv: code 001001 is there twice"},
		{"comuni.csv", "MI,015,03", "MI,015,33", "comuni.csv: code 015002: region 33"},
		{"comuni.csv", "30004", "many", `comuni.csv: code 015146: strconv.Atoi: parsing "many"`},
		{"inps.csv", "A1.02", "A1.01", "inps.csv: code A1.01 is there twice"},
		{"inps.csv", "code,title", "title,code", "inps.csv: the header is not code,title"},
		{"nomenclature.csv", "3.INF,3,", "3.INF,4,", "nomenclature.csv: code 3.INF: its parent 4 does not come before it"},
		{"frameworks.json", `"evaluation"`, `"other"`, `frameworks.json: framework AS-1: unknown kind "other"`},
		{"frameworks.json", `"CD02"`, `"CD01"`, "frameworks.json: code CD01 is there twice"},
	} {
		fsys := fstest.MapFS{}
		for _, name := range []string{"comuni.csv", "regions.csv", "inps.csv", "nomenclature.csv", "frameworks.json"} {
			raw, err := fs.ReadFile(schemas.Codes, "codes/"+name)
			if err != nil {
				t.Fatal(err)
			}
			if name == tt.file {
				raw = []byte(strings.Replace(string(raw), tt.from, tt.to, 1))
			}
			fsys["codes/"+name] = &fstest.MapFile{Data: raw}
		}
		if _, err := read(fsys); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

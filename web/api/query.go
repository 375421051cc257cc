package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
)

const (
	maxLimit     = 50_000
	defaultLimit = 1_000 // of JSON; a CSV file without a limit is as long as allowed
	maxRepeats   = 500   // of a parameter that may be repeated
)

// parameter documents one parameter: for the index, and for the problems it can cause.
type parameter struct {
	Name    string   `json:"name"`
	Repeat  bool     `json:"repeatable"`
	Allowed []string `json:"allowed"` // values, or forms of them
	IT      string   `json:"it"`
	EN      string   `json:"en"`
}

var (
	levels    = []string{"COMUNE", "PROVINCE", "REGION", "COUNTRY"}
	formats   = []string{"json", "csv"}
	userAreas = userAreaSymbols()

	territoryForm = regexp.MustCompile(`^([0-9]{6}|[0-9]{3}|[0-9]{2}|IT|UNMAPPED)$`)
	serviceForm   = regexp.MustCompile(`^[A-Z0-9][A-Z0-9.]{0,15}$`)
	monthForm     = regexp.MustCompile(`^(19|20|21)[0-9]{2}-(0[1-9]|1[0-2])$`)
)

func userAreaSymbols() []string {
	t := event.ByName("ServiceRequested")
	return t.Fields[t.MustField("userArea")].Symbols
}

var supplyDemandParameters = []parameter{
	{"level", false, levels, "livello territoriale; senza, tutti", "territorial level; without it, all"},
	{
		"territory", true,
		[]string{"6 digits (comune)", "3 digits (province)", "2 digits (region)", "IT", "UNMAPPED"},
		"codice ISTAT del territorio", "ISTAT code of the territory",
	},
	{"service", true, []string{"1 to 16 of A-Z, 0-9 and dot", "UNMAPPED"}, "codice del servizio nel nomenclatore", "code of the service in the nomenclature"},
	{"user_area", true, userAreas, "area di utenza", "area of users"},
	{"from", false, []string{"YYYY-MM, 1900-01 to 2199-12"}, "primo mese", "first month"},
	{"to", false, []string{"YYYY-MM, 1900-01 to 2199-12, not before from"}, "ultimo mese, incluso", "last month, inclusive"},
	{"limit", false, []string{fmt.Sprintf("1 to %d", maxLimit)}, "numero massimo di righe", fmt.Sprintf("most rows; default %d, and %d for CSV", defaultLimit, maxLimit)},
	{"cursor", false, []string{"the value in next of the page before"}, "pagina seguente", "page to go on with"},
	{"format", false, formats, "formato, al posto di Accept", "format, in place of Accept"},
}

// filter is a valid set of parameters of supply-demand.
type filter struct {
	level                        string
	territories, services, areas []string
	from, to                     string // first days of months; empty: open
	limit                        int    // 0: the default of the format
	after                        *key   // nil: from the start
	format                       string // empty: by Accept
	raw                          url.Values
}

// key is the place of a row in the order of the answer.
type key struct {
	Level, Territory, Nomenclature, Area, Period, Unit string
}

func (k key) encode() string {
	raw, err := json.Marshal([]string{k.Level, k.Territory, k.Nomenclature, k.Area, k.Period, k.Unit})
	if err != nil {
		return "" // cannot be: strings
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// maxCursor bounds what is decoded; ours are shorter.
const maxCursor = 512

func decodeKey(text string) (*key, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	var p []string
	if len(text) > maxCursor || err != nil || json.Unmarshal(raw, &p) != nil || len(p) != 6 {
		return nil, false
	}
	if _, err := time.Parse(time.DateOnly, p[4]); err != nil {
		return nil, false
	}
	return &key{p[0], p[1], p[2], p[3], p[4], p[5]}, true
}

// reader takes the parameters of a query one by one and collects all that is wrong with them.
type reader struct {
	values url.Values
	known  []parameter
	errs   []ParameterError
}

// newReader reports a query that cannot be read, and unknown and repeated parameters.
func newReader(rawQuery string, known []parameter) *reader {
	r := &reader{known: known}
	var err error
	if r.values, err = url.ParseQuery(rawQuery); err != nil {
		r.bad("", "the query cannot be read: is a % without two hexadecimal digits, or a semicolon, in it?", nil)
	}
	var names []string
	for _, p := range known {
		names = append(names, p.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		i := slices.Index(names, name)
		switch n := len(r.values[name]); {
		case i < 0:
			shown := name
			if !parameterForm.MatchString(name) || privacy.ContainsCF([]byte(name)) {
				shown = "" // whatever it is, it is not repeated
			}
			detail := "unknown parameter; there are none here"
			if len(names) > 0 {
				detail = "unknown parameter; the parameters are " + strings.Join(names, ", ")
			}
			r.bad(shown, detail, names)
		case !known[i].Repeat && n > 1:
			r.bad(name, fmt.Sprintf("given %d times, allowed once", n), known[i].Allowed)
		case n > maxRepeats:
			r.bad(name, fmt.Sprintf("given %d times, allowed %d times", n, maxRepeats), known[i].Allowed)
		}
	}
	return r
}

var parameterForm = regexp.MustCompile(`^[A-Za-z_-]{1,20}$`)

func (r *reader) bad(name, detail string, allowed []string) {
	r.errs = append(r.errs, ParameterError{Parameter: name, Detail: detail, Allowed: allowed})
}

// take returns the values of a parameter, all of which must pass ok.
func (r *reader) take(name string, ok func(string) bool) []string {
	for _, v := range r.values[name] {
		if ok(v) {
			continue
		}
		i := slices.IndexFunc(r.known, func(p parameter) bool { return p.Name == name })
		r.bad(name, "allowed: "+strings.Join(r.known[i].Allowed, ", "), r.known[i].Allowed)
		return nil
	}
	return r.values[name]
}

func (r *reader) takeOne(name string, ok func(string) bool) string {
	if v := r.take(name, ok); len(v) == 1 {
		return v[0]
	}
	return ""
}

// problem is nil, or lists all that was wrong.
func (r *reader) problem() error {
	if len(r.errs) == 0 {
		return nil
	}
	detail := "one parameter is not valid; errors says what is allowed"
	if len(r.errs) > 1 {
		detail = fmt.Sprintf("%d parameters are not valid; errors says what is allowed", len(r.errs))
	}
	return &Problem{Status: 400, Code: CodeBadParameters, Detail: detail, Errors: r.errs}
}

func oneOf(allowed []string) func(string) bool {
	return func(v string) bool { return slices.Contains(allowed, v) }
}

func parseFilter(rawQuery string) (*filter, error) {
	r := newReader(rawQuery, supplyDemandParameters)
	f := &filter{raw: r.values}
	f.level = r.takeOne("level", oneOf(levels))
	f.territories = r.take("territory", territoryForm.MatchString)
	f.services = r.take("service", serviceForm.MatchString)
	f.areas = r.take("user_area", oneOf(userAreas))
	f.from = firstDay(r.takeOne("from", monthForm.MatchString))
	f.to = firstDay(r.takeOne("to", func(v string) bool { return monthForm.MatchString(v) && (f.from == "" || firstDay(v) >= f.from) }))
	r.takeOne("limit", func(v string) bool {
		n, err := strconv.Atoi(v)
		f.limit = n
		return err == nil && n >= 1 && n <= maxLimit
	})
	r.takeOne("cursor", func(v string) bool {
		var ok bool
		f.after, ok = decodeKey(v)
		return ok
	})
	f.format = r.takeOne("format", oneOf(formats))
	return f, r.problem()
}

func firstDay(month string) string {
	if month == "" {
		return ""
	}
	return month + "-01"
}

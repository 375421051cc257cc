// Package codes is the reference data that ships with the release: comuni and regions, INPS benefit
// codes, the nomenclature of services, frameworks of indicators. It answers rules on their hot path
// (look-ups take bytes and do not allocate) and everybody else who needs a name or a list.
//
// All is read from schemas/codes once, when first asked for, and never changes.
package codes

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"github.com/welfarehub/welfarehub/schemas"
)

// Reserved codes of residence that are no comuni (contract, section 6).
const (
	Abroad           = "999999" // residence abroad
	NoFixedResidence = "999998" // no fixed residence
)

// Band is a band of ages of the shipped population.
type Band uint8

// Bands of ages in whole years, both ends included.
const (
	Age0to2 Band = iota
	Age3to5
	Age6to10
	Age11to14
	Age15to17
	Age18to64
	Age65up
	Bands // number of bands
)

// Ages returns the first and last age of a band; 100 means 100 and over.
func (b Band) Ages() (from, to int) {
	ages := [Bands][2]int{{0, 2}, {3, 5}, {6, 10}, {11, 14}, {15, 17}, {18, 64}, {65, 100}}
	return ages[b][0], ages[b][1]
}

// Comune is a comune of the ISTAT list of 2023, with its residents on 1 January 2023.
type Comune struct {
	Code         string     // 6 digits
	Name         string     //
	Cadastral    string     // Belfiore code, for example F205
	ProvinceSign string     // for example MI
	Province     string     // 3 digits
	Region       string     // 2 digits
	Population   [Bands]int // by Band
	Total        int        // residents of all ages
}

// Region is one of the 20 regions.
type Region struct {
	Code string // 2 digits
	Name string
}

// Service is an entry of the nomenclature, a leaf or a group.
type Service struct {
	Code      string
	Parent    string   // empty for the three families
	Title     string   // Italian
	INPS      []string // INPS benefit codes that belong to it
	UserArea  string   // symbol of UserArea; MULTI for several
	ESSPROS   string   // function; empty for groups
	ValidFrom string   // YYYY-MM-DD
	ValidTo   string   // first day no longer valid; empty: open
	Source    string   // where the concept comes from
	Leaf      bool     // no entry has it as parent
}

// Lists is all reference data. Callers must not change what its methods return. It is safe for
// concurrent use.
type Lists struct {
	comuni       []Comune
	comune       map[string]int
	regions      []Region
	region       map[string]int
	inps         []string
	inpsTitles   map[string]string
	nomenclature []Service
	service      map[string]int
	frameworks   []Framework
}

// Default returns the shipped lists.
func Default() *Lists { return shipped() }

var shipped = sync.OnceValue(func() *Lists {
	l, err := read(schemas.Codes)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return l
})

// Comune returns the comune of a 6-digit ISTAT code.
func (l *Lists) Comune(code []byte) (Comune, bool) {
	i, ok := l.comune[string(code)]
	if !ok {
		return Comune{}, false
	}
	return l.comuni[i], true
}

// Comuni returns all comuni in the order of their codes.
func (l *Lists) Comuni() []Comune { return l.comuni }

// Region returns the region of a 2-digit code.
func (l *Lists) Region(code []byte) (Region, bool) {
	i, ok := l.region[string(code)]
	if !ok {
		return Region{}, false
	}
	return l.regions[i], true
}

// Regions returns the regions in the order of their codes.
func (l *Lists) Regions() []Region { return l.regions }

// KnownINPS tells whether code is in the list of INPS benefit codes.
func (l *Lists) KnownINPS(code []byte) bool {
	_, ok := l.inpsTitles[string(code)]
	return ok
}

// INPS returns the INPS benefit codes in their order.
func (l *Lists) INPS() []string { return l.inps }

// INPSTitle returns the title of an INPS code; it is empty for an unknown code, and for some known ones.
func (l *Lists) INPSTitle(code string) string { return l.inpsTitles[code] }

// KnownNomenclature tells whether code is in the nomenclature, as a leaf or a group, whatever its validity.
func (l *Lists) KnownNomenclature(code []byte) bool {
	_, ok := l.service[string(code)]
	return ok
}

// Service returns the entry of a nomenclature code.
func (l *Lists) Service(code []byte) (Service, bool) {
	i, ok := l.service[string(code)]
	if !ok {
		return Service{}, false
	}
	return l.nomenclature[i], true
}

// Nomenclature returns the entries in the order of the file, parents before their children.
func (l *Lists) Nomenclature() []Service { return l.nomenclature }

func read(fsys fs.FS) (*Lists, error) {
	l := &Lists{comune: map[string]int{}, region: map[string]int{}, inpsTitles: map[string]string{}, service: map[string]int{}}
	for _, part := range []func(fs.FS) error{l.readRegions, l.readComuni, l.readINPS, l.readNomenclature, l.readFrameworks} {
		if err := part(fsys); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// table reads a CSV file and checks its header.
func table(fsys fs.FS, name, header string) ([][]string, error) {
	raw, err := fs.ReadFile(fsys, "codes/"+name)
	if err != nil {
		return nil, fmt.Errorf("read reference list %s: %w", name, err)
	}
	rows, err := csv.NewReader(bytes.NewReader(raw)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read reference list %s: %w", name, err)
	}
	if len(rows) == 0 || strings.Join(rows[0], ",") != header {
		return nil, fmt.Errorf("read reference list %s: the header is not %s", name, header)
	}
	return rows[1:], nil
}

// number adds key to index as its next one.
func number(index map[string]int, list, key string) error {
	if _, twice := index[key]; twice {
		return fmt.Errorf("read reference list %s: code %s is there twice", list, key)
	}
	index[key] = len(index)
	return nil
}

func (l *Lists) readRegions(fsys fs.FS) error {
	rows, err := table(fsys, "regions.csv", "code,name")
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := number(l.region, "regions.csv", r[0]); err != nil {
			return err
		}
		l.regions = append(l.regions, Region{r[0], r[1]})
	}
	return nil
}

func (l *Lists) readComuni(fsys fs.FS) error {
	rows, err := table(fsys, "comuni.csv", "cod_comune,denominazione,cod_catastale,sigla_prov,cod_prov,cod_regione,p0_2,p3_5,p6_10,p11_14,p15_17,p18_64,p65_200,tot")
	if err != nil {
		return err
	}
	l.comuni = make([]Comune, 0, len(rows))
	for _, r := range rows {
		c := Comune{Code: r[0], Name: r[1], Cadastral: r[2], ProvinceSign: r[3], Province: r[4], Region: r[5]}
		if err := number(l.comune, "comuni.csv", c.Code); err != nil {
			return err
		}
		if _, ok := l.region[c.Region]; !ok || len(c.Code) != 6 || c.Code[:3] != c.Province {
			return fmt.Errorf("read reference list comuni.csv: code %s: region %s or province %s is wrong", c.Code, c.Region, c.Province)
		}
		for b := range Bands {
			if c.Population[b], err = strconv.Atoi(r[6+b]); err != nil {
				return fmt.Errorf("read reference list comuni.csv: code %s: %w", c.Code, err)
			}
		}
		if c.Total, err = strconv.Atoi(r[6+Bands]); err != nil {
			return fmt.Errorf("read reference list comuni.csv: code %s: %w", c.Code, err)
		}
		l.comuni = append(l.comuni, c)
	}
	return nil
}

func (l *Lists) readINPS(fsys fs.FS) error {
	rows, err := table(fsys, "inps.csv", "code,title")
	if err != nil {
		return err
	}
	for _, r := range rows {
		if l.KnownINPS([]byte(r[0])) {
			return fmt.Errorf("read reference list inps.csv: code %s is there twice", r[0])
		}
		l.inpsTitles[r[0]] = r[1]
		l.inps = append(l.inps, r[0])
	}
	return nil
}

func (l *Lists) readNomenclature(fsys fs.FS) error {
	rows, err := table(fsys, "nomenclature.csv", "code,parent,title,inps_codes,istat_area,esspros_function,valid_from,valid_to,source")
	if err != nil {
		return err
	}
	for _, r := range rows {
		s := Service{Code: r[0], Parent: r[1], Title: r[2], UserArea: r[4], ESSPROS: r[5], ValidFrom: r[6], ValidTo: r[7], Source: r[8], Leaf: true}
		if r[3] != "" {
			s.INPS = strings.Split(r[3], ";")
		}
		if s.Parent != "" {
			i, ok := l.service[s.Parent]
			if !ok {
				return fmt.Errorf("read reference list nomenclature.csv: code %s: its parent %s does not come before it", s.Code, s.Parent)
			}
			l.nomenclature[i].Leaf = false
		}
		if err := number(l.service, "nomenclature.csv", s.Code); err != nil {
			return err
		}
		l.nomenclature = append(l.nomenclature, s)
	}
	return nil
}

func (l *Lists) readFrameworks(fsys fs.FS) error {
	raw, err := fs.ReadFile(fsys, "codes/frameworks.json")
	if err != nil {
		return fmt.Errorf("read reference list frameworks.json: %w", err)
	}
	var file struct{ Frameworks []Framework }
	if err := json.Unmarshal(raw, &file); err != nil {
		return fmt.Errorf("read reference list frameworks.json: %w", err)
	}
	for i := range file.Frameworks {
		if err := file.Frameworks[i].index(); err != nil {
			return fmt.Errorf("read reference list frameworks.json: %w", err)
		}
	}
	l.frameworks = file.Frameworks
	return nil
}

package publish

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones of mappings, also where the system has none

	"go.yaml.in/yaml/v3"

	"github.com/welfarehub/welfarehub/pkg/event"
)

//go:embed mappings/*.yaml
var shipped embed.FS

// Mapping explains a foreign file: which events each of its records gives, and from which columns. Of
// JSON lines a column is the dotted path of a member, for example person.comune.
type Mapping struct {
	Doc    string           `yaml:"doc"`    // what it is for
	Format string           `yaml:"format"` // csv or jsonl; empty: by the file's extension
	CSV    CSVOptions       `yaml:"csv"`
	Zone   string           `yaml:"zone"`   // of dates and times without one; empty: Europe/Rome
	Header map[string]Value `yaml:"header"` // header fields of all events
	Shared map[string]any   `yaml:"shared"` // a place for YAML anchors; not read
	Events []EventMapping   `yaml:"events"`

	name string
}

// CSVOptions are how a CSV file is written.
type CSVOptions struct {
	Delimiter string `yaml:"delimiter"` // one character, or tab; empty: found out
	Encoding  string `yaml:"encoding"`  // utf-8 (default), windows-1252 or iso-8859-1
	comma     rune
}

func (c *CSVOptions) decode(r io.Reader) io.Reader {
	if c.Encoding == windows1252 || c.Encoding == latin1 {
		return &singleByte{r: r, cp: c.Encoding == windows1252}
	}
	return r
}

// EventMapping is one event that a record gives.
type EventMapping struct {
	Event   string           `yaml:"event"`
	When    *When            `yaml:"when"`    // nil: always
	Columns map[string]Value `yaml:"columns"` // by Avro name of the field

	typ    *event.Type
	fields []fieldValue // by index, header's included
}

// When limits an event to records whose column is not empty, or has one of some values.
type When struct {
	Column string   `yaml:"column"`
	In     []string `yaml:"in"`
}

// Value is where the text of a field comes from: exactly one of column, const and template, and what
// is done to it, in this order: trim, default, map, pad, decimal_comma, format.
type Value struct {
	Column       string            `yaml:"column"`
	Const        *string           `yaml:"const"`
	Template     string            `yaml:"template"`      // text with {column} in it, empty if one of them is; {{ and }} are braces
	Default      *string           `yaml:"default"`       // where the text is empty
	Map          map[string]string `yaml:"map"`           // foreign value to ours
	Otherwise    *string           `yaml:"otherwise"`     // where map has no such value; nil: that is an error
	Pad          int               `yaml:"pad"`           // zeros in front up to this length
	DecimalComma bool              `yaml:"decimal_comma"` // 1.234,56 is 1234.56
	Format       string            `yaml:"format"`        // of a date or time: DD/MM/YYYY HH:mm:ss in any order
	parts        []part
	layout       string
	zone         *time.Location
}

// part is a piece of a template: a text, or the column after it.
type part struct{ text, column string }

type fieldValue struct {
	index int
	value *Value
}

// unknownKey finds what yaml says of a key that no member has, which names our types.
var unknownKey = regexp.MustCompile(`field (\S+) not found in type \S+`)

// Mappings are the names of the mappings that ship.
func Mappings() []string {
	entries, err := shipped.ReadDir("mappings")
	if err != nil {
		panic("BUG: embedded mappings: " + err.Error())
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// LoadMapping reads a mapping that ships, by its name, or a file. It reports every problem at once.
func LoadMapping(nameOrPath string) (*Mapping, error) {
	if slices.Contains(Mappings(), nameOrPath) {
		text, err := shipped.ReadFile("mappings/" + nameOrPath + ".yaml")
		if err != nil {
			return nil, fmt.Errorf("read mapping %s: %w", nameOrPath, err)
		}
		return ParseMapping(nameOrPath, text)
	}
	text, err := os.ReadFile(nameOrPath)
	if errors.Is(err, os.ErrNotExist) && filepath.Ext(nameOrPath) == "" {
		return nil, fmt.Errorf("read mapping %s: neither a file nor one of those that ship (%s)", nameOrPath, strings.Join(Mappings(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("read mapping: %w", err)
	}
	return ParseMapping(nameOrPath, text)
}

// ParseMapping reads a mapping; unknown keys are errors. The name is for messages.
func ParseMapping(name string, text []byte) (*Mapping, error) {
	m := &Mapping{name: name}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(m); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return nil, fmt.Errorf("mapping %s: %s", name, unknownKey.ReplaceAllString(err.Error(), "key $1 is unknown"))
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("mapping %s: more than one document", name)
	}
	c := &mappingCheck{m: m}
	c.check()
	if len(c.errs) > 0 {
		return nil, fmt.Errorf("mapping %s:\n%w", name, errors.Join(c.errs...))
	}
	return m, nil
}

// mappingCheck collects the problems of a mapping while it prepares it.
type mappingCheck struct {
	m    *Mapping
	zone *time.Location
	errs []error
}

func (c *mappingCheck) bad(path, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

func (c *mappingCheck) check() {
	m := c.m
	if m.Format != "" && m.Format != CSV && m.Format != JSONL {
		c.bad("format", "%q; want %s or %s", m.Format, CSV, JSONL)
	}
	switch d := []rune(m.CSV.Delimiter); {
	case m.CSV.Delimiter == "tab":
		m.CSV.comma = '\t'
	case len(d) == 1:
		m.CSV.comma = d[0]
	case len(d) > 1:
		c.bad("csv.delimiter", "%q; want one character, or tab", m.CSV.Delimiter)
	}
	if e := m.CSV.Encoding; e != "" && e != "utf-8" && e != windows1252 && e != latin1 {
		c.bad("csv.encoding", "%q; want utf-8, %s or %s", e, windows1252, latin1)
	}
	zone := m.Zone
	if zone == "" {
		zone = "Europe/Rome"
	}
	var err error
	if c.zone, err = time.LoadLocation(zone); err != nil {
		c.bad("zone", "%q is unknown; want a name as Europe/Rome", zone)
		c.zone = time.UTC
	}
	if len(m.Events) == 0 {
		c.bad("events", "none; a record gives at least one")
	}
	for name, v := range m.Header {
		i := event.Types[0].Field(name)
		if i < 0 || i >= event.HeaderFields {
			c.bad("header."+name, "no field of the header")
			continue
		}
		c.value("header."+name, event.Types[0], i, &v)
		m.Header[name] = v
	}
	for i := range m.Events {
		c.event(fmt.Sprintf("events[%d]", i), &m.Events[i])
	}
	slices.SortFunc(c.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
}

func (c *mappingCheck) event(path string, e *EventMapping) {
	if e.typ = typeByName(e.Event); e.typ == nil {
		c.bad(path+".event", "%q is no event", e.Event)
		return
	}
	path += " " + e.typ.Name
	if e.When != nil && e.When.Column == "" {
		c.bad(path+".when", "no column")
	}
	for name, v := range e.Columns {
		i := e.typ.Field(name)
		if i < 0 {
			c.bad(path+".columns."+name, "no field of %s", e.typ.Name)
			continue
		}
		c.value(path+".columns."+name, e.typ, i, &v)
		e.Columns[name] = v
		e.fields = append(e.fields, fieldValue{i, &v})
	}
	for name, v := range c.m.Header {
		if _, own := e.Columns[name]; !own && e.typ.Field(name) >= 0 {
			e.fields = append(e.fields, fieldValue{e.typ.Field(name), &v})
		}
	}
	slices.SortFunc(e.fields, func(a, b fieldValue) int { return a.index - b.index })
	for i := range e.typ.Fields {
		f := &e.typ.Fields[i]
		given := slices.ContainsFunc(e.fields, func(v fieldValue) bool { return v.index == i })
		if !given && !f.Nullable && !f.HasDef && f.Kind != event.Enum && i >= event.HeaderFields {
			c.bad(path+".columns", "field %s is missing", f.Name)
		}
	}
}

func (c *mappingCheck) value(path string, t *event.Type, i int, v *Value) {
	n := 0
	for _, given := range []bool{v.Column != "", v.Const != nil, v.Template != ""} {
		if given {
			n++
		}
	}
	if n != 1 {
		c.bad(path, "give exactly one of column, const and template")
		return
	}
	if v.Otherwise != nil && v.Map == nil {
		c.bad(path, "otherwise needs a map")
	}
	f := &t.Fields[i]
	if v.Pad < 0 || v.Pad > 64 {
		c.bad(path+".pad", "%d; want 1 to 64", v.Pad)
	}
	v.zone = c.zone
	if v.Format != "" {
		var err error
		if f.Kind != event.Date && f.Kind != event.Timestamp {
			c.bad(path+".format", "field %s is no date or time", f.Name)
		} else if v.layout, err = layout(v.Format); err != nil {
			c.bad(path+".format", "%v", err)
		}
	}
	if v.Template != "" {
		var err error
		if v.parts, err = parseTemplate(v.Template); err != nil {
			c.bad(path+".template", "%v", err)
		}
	}
	row := event.NewRow(t)
	try := func(what, text string) {
		if problem := v.set(row, i, text); problem != nil {
			c.bad(path+what, "%s; want %s", problem.Problem, problem.Limit)
		}
	}
	if v.Const != nil {
		try(".const", *v.Const)
	}
	for from, to := range v.Map {
		try(".map."+from, from)
		_ = to
	}
}

// layout turns DD/MM/YYYY HH:mm:ss into Go's layout.
func layout(format string) (string, error) {
	out := strings.NewReplacer("YYYY", "2006", "MM", "01", "DD", "02", "HH", "15", "mm", "04", "ss", "05").Replace(format)
	for _, need := range []string{"2006", "01", "02"} {
		if !strings.Contains(out, need) {
			return "", errors.New("want YYYY, MM and DD, with HH, mm and ss where there is a time")
		}
	}
	if strings.Trim(out, "0123456789/-.: T") != "" {
		return "", errors.New("knows YYYY, MM, DD, HH, mm, ss and / - . : T between them")
	}
	return out, nil
}

func parseTemplate(s string) ([]part, error) {
	var out []part
	var text strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c {
			text.WriteByte(c)
			i++
			continue
		}
		switch c {
		case '}':
			return nil, errors.New("a } without its {; write }} for the character")
		case '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 2 {
				return nil, errors.New("a { without a column and its }; write {{ for the character")
			}
			out = append(out, part{text.String(), s[i+1 : i+end]})
			text.Reset()
			i += end
		default:
			text.WriteByte(c)
		}
	}
	if text.Len() > 0 {
		out = append(out, part{text: text.String()})
	}
	return out, nil
}

// columns are those that the mapping reads.
func (m *Mapping) columns() []string {
	var out []string
	add := func(name string) {
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for i := range m.Events {
		e := &m.Events[i]
		if e.When != nil {
			add(e.When.Column)
		}
		for _, f := range e.fields {
			add(f.value.Column)
			for _, p := range f.value.parts {
				add(p.column)
			}
		}
	}
	return out
}

package publish

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// builder turns records of one file into rows. The rows are valid until the next record.
type builder interface {
	build(rec record, found func(Problem)) []*event.Row
}

// common is what all builders share: fields that a record does not give.
type common struct {
	defaults map[string]string
	now      time.Time
	hasher   event.Hasher
	rows     map[*event.Type]*event.Row
}

// row returns the row of a type, for reuse.
func (c *common) row(t *event.Type) *event.Row {
	r, ok := c.rows[t]
	if !ok {
		r = event.NewRow(t)
		c.rows[t] = r
	}
	r.Reset()
	return r
}

// absent sets a field that a record does not give: the caller's default, version 1, the time of
// publication, an id that finish derives, or what the schema allows.
func (c *common) absent(row *event.Row, i int) *event.FieldError {
	if text, ok := c.defaults[row.Type.Fields[i].Name]; ok {
		return setText(row, i, text)
	}
	switch i {
	case event.EventID:
		row.Vals[i] = event.Value{}
		return nil
	case event.RecordVersion:
		row.SetInt(i, 1)
		return nil
	case event.RecordedAt:
		row.SetInt(i, c.now.UnixMilli())
		return nil
	}
	return setText(row, i, "")
}

// finish gives the event an id where it has none.
func (c *common) finish(row *event.Row) {
	if len(row.Vals[event.EventID].Bytes) == 0 {
		row.Set(event.EventID, deriveID(&c.hasher, row))
	}
}

// deriveID is the id of an event whose file gives none: a UUID (version 8, RFC 9562) from a hash of its
// topic, source, record, version and content. So a file that is published twice gives the same events,
// which count once, and a changed record gives another event. It is part of the contract with files
// that were published before: do not change it.
func deriveID(h *event.Hasher, row *event.Row) string {
	content := h.Sum(row)
	sum := sha256.New()
	for _, s := range [][]byte{
		[]byte("welfarehub publish 1"), []byte(row.Type.Topic), row.Vals[event.Source].Bytes,
		row.Vals[event.SourceRecordID].Bytes, strconv.AppendInt(nil, row.Vals[event.RecordVersion].Int, 10),
	} {
		sum.Write(s)
		sum.Write([]byte{0})
	}
	sum.Write(content[:])
	id := sum.Sum(nil)[:16]
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	s := hex.EncodeToString(id)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// newBuilder chooses how the records of in are read, and fails where its columns cannot be what they
// should.
func newBuilder(in *input, o *Options, m *Mapping) (builder, error) {
	c := common{defaults: o.Defaults, now: o.Now(), rows: map[*event.Type]*event.Row{}}
	switch {
	case m != nil:
		return newMapped(in, c, m)
	case in.format == JSONL:
		return &direct{common: c, file: in.name, typ: typeByName(o.Type)}, nil
	}
	return newTable(in, c, typeByName(o.Type))
}

// direct reads JSON objects in the catalogue's own names.
type direct struct {
	common
	file string
	typ  *event.Type // nil: each object names its own
}

func (d *direct) build(rec record, found func(Problem)) []*event.Row {
	t := d.typ
	if t == nil {
		name, ok := event.NameInJSON(rec.json)
		if t = typeByName(name); t == nil {
			if !json.Valid(rec.json) {
				found(notJSON(d.file, rec.line))
				return nil
			}
			found(noEvent(d.file, rec.line, ok, `member "event"`))
			return nil
		}
	}
	row := d.row(t)
	if err := event.ParseJSONWith(t, rec.json, row, d.absent); err != nil {
		var all event.FieldErrors
		if !errors.As(err, &all) {
			all = event.FieldErrors{{Problem: err.Error()}}
		}
		for _, fe := range all {
			found(fieldProblem(d.file, rec.line, t, fe, ""))
		}
		return nil
	}
	d.finish(row)
	return []*event.Row{row}
}

func notJSON(file string, line int) Problem {
	return Problem{File: file, Line: line, Code: CodeSyntax, Text: "not a JSON object", Limit: "one object on one line", Advice: "Correct the line"}
}

func noEvent(file string, line int, given bool, where string) Problem {
	p := Problem{
		File: file, Line: line, Code: CodeEvent, Text: "no event is named", Limit: "an event or topic of docs/events.md in the " + where,
		Advice: "Name it there, or give one type for the whole file",
	}
	if given {
		p.Text = "the name is of no event"
	}
	return p
}

// fieldProblem is the problem of a field that is not of its type. column is where it came from, if
// from a column that a message may name.
func fieldProblem(file string, line int, t *event.Type, fe *event.FieldError, column string) Problem {
	p := Problem{File: file, Line: line, Event: t.Name, Field: fe.Field, Code: CodeField, Text: fe.Problem, Limit: fe.Limit}
	switch {
	case fe.Field == "" && !strings.HasPrefix(fe.Problem, "unknown field"):
		p.Code, p.Advice = CodeSyntax, "Write each event as one JSON object on one line"
	case column != "":
		p.Advice = fmt.Sprintf("Correct column %q", column)
	case fe.Problem == "missing":
		p.Advice = "Add it, or give a default for the whole file"
	case fe.Problem == "unknown field":
		p.Advice = "Correct the name, take it out, or use a mapping"
	default:
		p.Advice = "Correct the record"
	}
	return p
}

// table reads CSV whose columns have the catalogue's own names.
type table struct {
	common
	file    string
	typ     *event.Type // nil: the cell of kind names it
	kind    int         // column of the event, -1: none
	columns []string
	plans   map[*event.Type]*tablePlan
}

// tablePlan says which cell a field of one event is in, and which cells are of no field of it.
type tablePlan struct {
	cell  []int // by field; -1: none
	alien []int // columns of fields of other events: must be empty
}

func newTable(in *input, c common, t *event.Type) (*table, error) {
	b := &table{common: c, file: in.name, typ: t, kind: -1, columns: in.columns, plans: map[*event.Type]*tablePlan{}}
	for j, name := range in.columns {
		if name == "event" || name == "type" {
			b.kind = j
			continue
		}
		if t != nil && fieldOf(t, name) < 0 || t == nil && !anyField(name) {
			where := "no event"
			if t != nil {
				where = t.Name
			}
			return nil, fmt.Errorf("read %s: column %d (%s) is no field of %s; is the first line one of names? A mapping can explain a foreign file", in.name, j+1, shown(name), where)
		}
	}
	if t == nil && b.kind < 0 {
		return nil, fmt.Errorf("read %s: no column %q names the event of each record; add it, or give one type for the whole file", in.name, "event")
	}
	return b, nil
}

// shown is a column's name for a message, unless it may be data.
func shown(name string) string {
	if event.PrintableName(name) {
		return name
	}
	return "its name not shown"
}

// fieldOf finds a field by its Avro name, its column's name, or its path.
func fieldOf(t *event.Type, name string) int {
	for i := range t.Fields {
		if f := &t.Fields[i]; name == f.Name || name == f.Column || name == f.Path {
			return i
		}
	}
	return -1
}

func anyField(name string) bool {
	for _, t := range event.Types {
		if fieldOf(t, name) >= 0 {
			return true
		}
	}
	return false
}

func (b *table) plan(t *event.Type) *tablePlan {
	if p, ok := b.plans[t]; ok {
		return p
	}
	p := &tablePlan{cell: make([]int, len(t.Fields))}
	for i := range p.cell {
		p.cell[i] = -1
	}
	for j, name := range b.columns {
		if j == b.kind {
			continue
		}
		if i := fieldOf(t, name); i >= 0 {
			p.cell[i] = j
		} else {
			p.alien = append(p.alien, j)
		}
	}
	b.plans[t] = p
	return p
}

func (b *table) build(rec record, found func(Problem)) []*event.Row {
	t := b.typ
	if b.kind >= 0 {
		name := strings.TrimSpace(rec.cells[b.kind])
		named := typeByName(name)
		if named == nil && (name != "" || t == nil) {
			found(noEvent(b.file, rec.line, name != "", fmt.Sprintf("column %q", b.columns[b.kind])))
			return nil
		}
		if t != nil && named != nil && named != t {
			found(Problem{File: b.file, Line: rec.line, Code: CodeEvent, Text: "the record names another event than the whole file's", Limit: t.Name, Advice: "Correct the record, or give no type"})
			return nil
		}
		if t == nil {
			t = named
		}
	}
	plan, row, good := b.plan(t), b.row(t), true
	bad := func(fe *event.FieldError, column string) {
		good = false
		found(fieldProblem(b.file, rec.line, t, fe, column))
	}
	for _, j := range plan.alien {
		if rec.cells[j] != "" {
			bad(&event.FieldError{Field: b.columns[j], Problem: "unknown field", Limit: "an empty cell, for " + t.Name + " has no such field"}, b.columns[j])
		}
	}
	for i, j := range plan.cell {
		if j < 0 || rec.cells[j] == "" {
			if fe := b.absent(row, i); fe != nil {
				column := ""
				if j >= 0 {
					column = b.columns[j]
				}
				bad(fe, column)
			}
			continue
		}
		if fe := setText(row, i, rec.cells[j]); fe != nil {
			bad(fe, b.columns[j])
		}
	}
	if !good {
		return nil
	}
	b.finish(row)
	return []*event.Row{row}
}

// mapped reads foreign records by a mapping.
type mapped struct {
	common
	file   string
	m      *Mapping
	rows   []*event.Row   // by event of the mapping
	out    []*event.Row   // reused
	index  map[string]int // CSV: column by name
	object map[string]string
}

func newMapped(in *input, c common, m *Mapping) (*mapped, error) {
	b := &mapped{common: c, file: in.name, m: m, index: map[string]int{}, object: map[string]string{}}
	var errs []error
	for i := range m.Events {
		e := &m.Events[i]
		row := event.NewRow(e.typ)
		b.rows = append(b.rows, row)
		given := map[int]bool{}
		for _, f := range e.fields {
			given[f.index] = true
		}
		for i := range event.HeaderFields {
			if given[i] {
				continue
			}
			if fe := b.absent(row, i); fe != nil {
				errs = append(errs, fmt.Errorf("mapping %s: %s: field %s has no value; give it in the mapping or as a default", m.name, e.typ.Name, fe.Field))
			}
		}
	}
	if in.format == CSV {
		for j, name := range in.columns {
			b.index[name] = j
		}
		for _, name := range m.columns() {
			if _, ok := b.index[name]; !ok {
				errs = append(errs, fmt.Errorf("read %s: no column %q, which mapping %s reads; the first line names %d columns", in.name, name, m.name, len(in.columns)))
			}
		}
	}
	return b, errors.Join(errs...)
}

func (b *mapped) build(rec record, found func(Problem)) []*event.Row {
	var get lookup
	if rec.json != nil {
		if !b.flatten(rec.json) {
			found(notJSON(b.file, rec.line))
			return nil
		}
		get = func(column string) string { return b.object[column] }
	} else {
		get = func(column string) string { return rec.cells[b.index[column]] }
	}
	b.out = b.out[:0]
	good := true
	for i := range b.m.Events {
		e := &b.m.Events[i]
		if e.When != nil && !e.When.holds(get) {
			continue
		}
		row := b.rows[i]
		row.Reset()
		k := 0
		for i := range e.typ.Fields {
			var fe *event.FieldError
			column := ""
			if k < len(e.fields) && e.fields[k].index == i {
				v := e.fields[k].value
				k++
				column = v.Column
				text := v.raw(get)
				if fe = v.set(row, i, text); fe != nil && text == "" && i < event.HeaderFields {
					fe = b.absent(row, i)
				}
			} else {
				fe = b.absent(row, i)
			}
			if fe != nil {
				good = false
				found(fieldProblem(b.file, rec.line, e.typ, fe, column))
			}
		}
		b.out = append(b.out, row)
	}
	if !good {
		return nil
	}
	for _, row := range b.out {
		b.finish(row)
	}
	return b.out
}

func (w *When) holds(get lookup) bool {
	text := strings.TrimSpace(get(w.Column))
	if len(w.In) == 0 {
		return text != ""
	}
	for _, s := range w.In {
		if text == s {
			return true
		}
	}
	return false
}

// flatten reads a JSON object into texts by dotted path: a list of texts with semicolons, null as
// empty.
func (b *mapped) flatten(data []byte) bool {
	clear(b.object)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil || v == nil || dec.More() {
		return false
	}
	b.flattenInto("", v)
	return true
}

func (b *mapped) flattenInto(prefix string, m map[string]any) {
	for k, v := range m {
		k = prefix + k
		switch v := v.(type) {
		case map[string]any:
			b.flattenInto(k+".", v)
		case []any:
			var items []string
			for i, e := range v {
				if m, ok := e.(map[string]any); ok {
					b.flattenInto(fmt.Sprintf("%s.%d.", k, i), m)
				} else {
					items = append(items, scalar(e))
				}
			}
			b.object[k] = strings.Join(items, ";")
		default:
			b.object[k] = scalar(v)
		}
	}
}

func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

package event

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the row as one flat JSON object by Avro names, in the order of Type.Fields: enums
// as symbols, decimals as text ("101.23"), timestamps in RFC 3339 with milliseconds, dates as
// YYYY-MM-DD, bytes as base64, null where null. ParseJSON reads it back, save a Double that is not
// finite (written as text, for no JSON number can say it) and text that is not UTF-8.
func (r *Row) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	for i := range r.Vals {
		if i > 0 {
			dst = append(dst, ',')
		}
		f, v := &r.Type.Fields[i], &r.Vals[i]
		dst = append(dst, '"')
		dst = append(dst, f.Name...)
		dst = append(dst, '"', ':')
		if v.Null {
			dst = append(dst, "null"...)
			continue
		}
		dst = appendJSONValue(dst, f, v)
	}
	return append(dst, '}')
}

func appendJSONValue(dst []byte, f *Field, v *Value) []byte {
	switch f.Kind {
	case String, UUID:
		return appendJSONString(dst, v.Bytes)
	case Enum:
		return appendJSONString(dst, []byte(f.Symbols[v.Int]))
	case Bool:
		return strconv.AppendBool(dst, v.Int != 0)
	case Int, Long:
		return strconv.AppendInt(dst, v.Int, 10)
	case Double:
		switch {
		case math.IsNaN(v.Float):
			return append(dst, `"NaN"`...)
		case math.IsInf(v.Float, 0):
			return append(dst, `"Infinity"`...)
		}
		return strconv.AppendFloat(dst, v.Float, 'g', -1, 64)
	case Bytes:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v.Bytes)
		return append(dst, '"')
	case Date:
		dst = append(dst, '"')
		dst = time.Unix(v.Int*86400, 0).UTC().AppendFormat(dst, time.DateOnly)
		return append(dst, '"')
	case Timestamp:
		dst = append(dst, '"')
		dst = time.UnixMilli(v.Int).UTC().AppendFormat(dst, rfc3339Milli)
		return append(dst, '"')
	case Decimal:
		dst = append(dst, '"')
		dst = AppendDecimal(dst, v.Int, f.Scale)
		return append(dst, '"')
	case Strings:
		dst = append(dst, '[')
		for i, s := range v.List {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(dst, s)
		}
		return append(dst, ']')
	}
	return append(dst, "null"...)
}

const rfc3339Milli = "2006-01-02T15:04:05.000Z07:00"

func appendJSONString(dst, s []byte) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			if r, n := utf8.DecodeRune(s[i:]); r != utf8.RuneError || n > 1 {
				dst = append(dst, s[i:i+n]...)
				i += n
				continue
			}
			dst = append(dst, `\ufffd`...)
			i++
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
		i++
	}
	return append(dst, '"')
}

// maxFieldErrors is how many problems of one event ParseJSON reports; a file that is of another kind
// altogether would else fill the screen with one line.
const maxFieldErrors = 20

// maxFields bounds the fields of a type; a test holds the catalogue to it.
const maxFields = 128

// jsonReader reads one event from JSON.
type jsonReader struct {
	scanner
	row    *Row
	seen   [maxFields]bool
	errors FieldErrors
}

// ParseJSON reads an event of type t from a JSON object into row, which it resets first and whose
// bytes may alias data. Fields are named as in the schema, flat or within header and subject.
// Timestamps are RFC 3339 (what is finer than a millisecond is cut off) or milliseconds since 1970,
// decimals text or a number (read digit by digit, never through a float). A field that may be null or
// has a default may be left out, and so may an enum, which is UNKNOWN then. Members `event` and `type`
// may name the event or its topic; any other unknown member is an error, as is one that comes twice.
//
// The error is FieldErrors, up to maxFieldErrors of them, and holds no value of the event.
func ParseJSON(t *Type, data []byte, row *Row) error {
	return ParseJSONWith(t, data, row, setAbsent)
}

// ParseJSONWith is ParseJSON for producers that fill in fields which are left out: absent sets field i
// of row, or says what is wrong.
func ParseJSONWith(t *Type, data []byte, row *Row, absent func(row *Row, i int) *FieldError) error {
	if row.Type != t {
		*row = *NewRow(t)
	} else {
		row.Reset()
	}
	p := jsonReader{scanner: scanner{data: data}, row: row}
	if !utf8.Valid(data) {
		return FieldErrors{{Problem: "text is not valid UTF-8", Limit: "UTF-8"}}
	}
	if p.peek() != '{' {
		return FieldErrors{{Problem: "the event is not a JSON object", Limit: "an object of the fields of " + t.Name}}
	}
	if !p.object("") || p.peek() != 0 || p.pos < len(data) {
		return FieldErrors{{Problem: "not valid JSON from byte " + strconv.Itoa(p.pos+1) + " on", Limit: "one JSON object for each event"}}
	}
	for i := range t.Fields {
		if p.seen[i] {
			continue
		}
		if err := absent(row, i); err != nil {
			p.fail(err)
		}
	}
	if len(p.errors) > 0 {
		return p.errors
	}
	return nil
}

func (p *jsonReader) fail(err *FieldError) {
	if len(p.errors) < maxFieldErrors {
		p.errors = append(p.errors, err)
	}
}

// object reads the members of an object, of the event itself or of the record that prefix names. It
// returns false on a fault of syntax only.
func (p *jsonReader) object(prefix string) bool {
	return p.members(func(name []byte) bool {
		i := p.row.Type.Field(string(name))
		if i < 0 {
			return p.member(prefix, name)
		}
		f := &p.row.Type.Fields[i]
		if prefix != "" && f.Path != prefix+f.Name {
			p.fail(&FieldError{Field: prefix + f.Name, Problem: "unknown field", Limit: "a field of that record; " + f.Name + " is elsewhere"})
			return p.skip(0)
		}
		if p.seen[i] {
			p.fail(&FieldError{Field: f.Name, Problem: "given twice", Limit: "once"})
			return p.skip(0)
		}
		p.seen[i] = true
		return p.value(i)
	})
}

// member reads what is not a field: header, subject, event, type, or an error.
func (p *jsonReader) member(prefix string, name []byte) bool {
	t := p.row.Type
	switch n := string(name); {
	case prefix != "":
	case (n == "header" || n == "subject") && t.hasPart(n):
		if p.peek() != '{' {
			p.fail(&FieldError{Field: n, Problem: "wrong type", Limit: "an object"})
			return p.skip(0)
		}
		return p.object(n + ".")
	case n == "event" || n == "type":
		if p.peek() != '"' {
			p.fail(&FieldError{Field: n, Problem: "wrong type", Limit: "the text " + t.Name})
			return p.skip(0)
		}
		s, ok := p.text()
		if ok && string(s) != t.Name && string(s) != t.Topic {
			p.fail(&FieldError{Field: n, Problem: "names another event", Limit: t.Name})
		}
		return ok
	}
	p.fail(unknownField(t, prefix, string(name)))
	return p.skip(0)
}

func (t *Type) hasPart(name string) bool {
	for i := range t.Fields {
		if strings.HasPrefix(t.Fields[i].Path, name+".") {
			return true
		}
	}
	return false
}

// value reads the value of field i; false on a fault of syntax only.
func (p *jsonReader) value(i int) bool {
	f, v := &p.row.Type.Fields[i], &p.row.Vals[i]
	c := p.peek()
	wrong := func(limit string) bool {
		p.fail(&FieldError{Field: f.Name, Problem: "wrong type", Limit: limit})
		return p.skip(0)
	}
	if c == 'n' {
		if !p.literal("null") {
			return false
		}
		if !f.Nullable {
			p.fail(&FieldError{Field: f.Name, Problem: "null", Limit: limitOf(f)})
		}
		return true
	}
	var err *FieldError
	switch f.Kind {
	case Bool:
		if c != 't' && c != 'f' {
			return wrong("true or false")
		}
		if !p.literal(map[byte]string{'t': "true", 'f': "false"}[c]) {
			return false
		}
		*v = Value{List: v.List[:0]}
		if c == 't' {
			v.Int = 1
		}
		return true
	case Strings:
		if c != '[' {
			return wrong(limitOf(f))
		}
		return p.list(f, v)
	case Int, Long, Double:
		if c != '-' && (c < '0' || c > '9') {
			return wrong(limitOf(f))
		}
		s, ok := p.number()
		if !ok {
			return false
		}
		err = setNumber(f, v, s)
	case Timestamp, Decimal:
		if c == '-' || c >= '0' && c <= '9' {
			s, ok := p.number()
			if !ok {
				return false
			}
			if f.Kind == Timestamp {
				err = setMillis(f, v, s)
			} else {
				err = setText(f, v, s)
			}
			break
		}
		fallthrough
	default:
		if c != '"' {
			return wrong(limitOf(f))
		}
		s, ok := p.text()
		if !ok {
			return false
		}
		err = setText(f, v, s)
	}
	if err != nil {
		p.fail(err)
	}
	return true
}

func (p *jsonReader) list(f *Field, v *Value) bool {
	v.Null, v.List = false, v.List[:0]
	bad := false
	ok := p.items(func() bool {
		if p.peek() != '"' {
			bad = true
			return p.skip(0)
		}
		s, ok := p.text()
		v.List = append(v.List, s)
		return ok
	})
	if bad {
		p.fail(&FieldError{Field: f.Name, Problem: "wrong type", Limit: limitOf(f)})
	}
	return ok
}

// NameInJSON returns the text of the member `event` or `type` of a JSON object, which names an event
// or its topic; false where there is none, or none that is text.
func NameInJSON(data []byte) (string, bool) {
	s := scanner{data: data}
	found, ok := "", false
	s.members(func(name []byte) bool {
		if n := string(name); (n == "event" || n == "type") && s.peek() == '"' {
			var text []byte
			text, ok = s.text()
			found = string(text)
			return false
		}
		return s.skip(0)
	})
	return found, ok
}

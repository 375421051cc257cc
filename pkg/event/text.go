package event

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// FieldError says what is wrong with one field of an event that came as text or JSON. It never holds
// the value.
type FieldError struct {
	Field   string // Avro name, or the name that is unknown; empty where the whole event is to blame
	Problem string // what is wrong
	Limit   string // what is allowed
}

func (e *FieldError) Error() string {
	s := e.Problem
	if e.Field != "" {
		s = "field " + e.Field + ": " + s
	}
	if e.Limit != "" {
		s += "; want " + e.Limit
	}
	return s
}

// FieldErrors are the problems of one event, in the order in which they were found; never empty.
type FieldErrors []*FieldError

func (e FieldErrors) Error() string {
	texts := make([]string, len(e))
	for i, f := range e {
		texts[i] = f.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap gives errors.As each FieldError.
func (e FieldErrors) Unwrap() []error {
	out := make([]error, len(e))
	for i, f := range e {
		out[i] = f
	}
	return out
}

// SetText sets field i of row from text, as in a cell of a CSV file: numbers, dates and times as in
// JSON but without quotes, milliseconds since 1970 for a timestamp too, true or false, base64 for
// bytes, a list with semicolons between its items. Empty text is a field that is not given: null, the
// default, UNKNOWN, or an error. The error is a *FieldError. The row keeps no reference to text's bytes.
func SetText(row *Row, i int, text string) error {
	if text == "" {
		if err := setAbsent(row, i); err != nil {
			return err
		}
		return nil
	}
	if err := setCell(&row.Type.Fields[i], &row.Vals[i], text); err != nil {
		return err
	}
	return nil
}

// setCell sets a value from text that is not empty.
func setCell(f *Field, v *Value, text string) *FieldError {
	if !utf8.ValidString(text) {
		return &FieldError{Field: f.Name, Problem: "text is not valid UTF-8", Limit: "UTF-8"}
	}
	switch f.Kind {
	case Bool:
		if text != "true" && text != "false" {
			return &FieldError{Field: f.Name, Problem: "not a truth value", Limit: limitOf(f)}
		}
		*v = Value{}
		if text == "true" {
			v.Int = 1
		}
		return nil
	case Int, Long, Double:
		return setNumber(f, v, []byte(text))
	case Timestamp:
		if strings.Trim(text, "0123456789") == "" || text[0] == '-' {
			return setMillis(f, v, []byte(text))
		}
	case Strings:
		*v = Value{}
		for s := range strings.SplitSeq(text, ";") {
			if s = strings.TrimSpace(s); s != "" {
				v.List = append(v.List, []byte(s))
			}
		}
		return nil
	}
	return setText(f, v, []byte(text))
}

// setAbsent sets field i as one that is not given.
func setAbsent(row *Row, i int) *FieldError {
	f, v := &row.Type.Fields[i], &row.Vals[i]
	switch {
	case f.HasDef:
		*v = Value{Null: f.Default.Null, Int: f.Default.Int, Float: f.Default.Float, List: v.List[:0]}
	case f.Nullable:
		*v = Value{Null: true, List: v.List[:0]}
	case f.Kind == Enum:
		*v = Value{}
	default:
		return &FieldError{Field: f.Name, Problem: "missing", Limit: limitOf(f)}
	}
	return nil
}

// setText sets a field that JSON writes as a string. String and UUID keep s.
func setText(f *Field, v *Value, s []byte) *FieldError {
	bad := func(problem string) *FieldError {
		return &FieldError{Field: f.Name, Problem: problem, Limit: limitOf(f)}
	}
	*v = Value{List: v.List[:0]}
	switch f.Kind {
	case String, UUID:
		v.Bytes = s
	case Enum:
		for j, sym := range f.Symbols {
			if sym == string(s) {
				v.Int = int64(j)
				return nil
			}
		}
		return bad("unknown symbol")
	case Bytes:
		out, err := base64.StdEncoding.Strict().AppendDecode(nil, s)
		if err != nil {
			return bad("not base64")
		}
		v.Bytes = out
	case Date:
		t, err := time.Parse(time.DateOnly, string(s))
		if err != nil {
			return bad("not a date")
		}
		if ms := t.UnixMilli(); ms < minMillis || ms >= maxMillis {
			return bad("date out of range")
		}
		v.Int = t.Unix() / 86400
	case Timestamp:
		t, err := time.Parse(time.RFC3339, string(s))
		if err != nil {
			return bad("not a timestamp")
		}
		if v.Int = t.UnixMilli(); v.Int < minMillis || v.Int >= maxMillis {
			return bad("timestamp out of range")
		}
	case Decimal:
		n, problem := parseDecimal(string(s), f.Precision, f.Scale)
		if problem != "" {
			return bad(problem)
		}
		v.Int = n
	default:
		return bad("wrong type")
	}
	return nil
}

// setNumber sets an Int, Long or Double from the text of a number.
func setNumber(f *Field, v *Value, s []byte) *FieldError {
	*v = Value{List: v.List[:0]}
	if f.Kind == Double {
		x, err := strconv.ParseFloat(string(s), 64)
		if strings.Trim(string(s), "0123456789+-.eE") != "" || err != nil || math.IsInf(x, 0) {
			return &FieldError{Field: f.Name, Problem: "not a finite number", Limit: limitOf(f)}
		}
		v.Float = x
		return nil
	}
	bits := 32
	if f.Kind == Long {
		bits = 64
	}
	n, err := strconv.ParseInt(string(s), 10, bits)
	if err != nil || s[0] == '+' {
		return &FieldError{Field: f.Name, Problem: "not a whole number in range", Limit: limitOf(f)}
	}
	v.Int = n
	return nil
}

// setMillis sets a Timestamp from the text of milliseconds since 1970.
func setMillis(f *Field, v *Value, s []byte) *FieldError {
	*v = Value{List: v.List[:0]}
	n, err := strconv.ParseInt(string(s), 10, 64)
	if err != nil {
		return &FieldError{Field: f.Name, Problem: "not a timestamp", Limit: limitOf(f)}
	}
	if n > -minEpochMillis && n < minEpochMillis {
		return &FieldError{Field: f.Name, Problem: "not milliseconds since 1970 (seconds, or a date?)", Limit: limitOf(f)}
	}
	if n < minMillis || n >= maxMillis {
		return &FieldError{Field: f.Name, Problem: "timestamp out of range", Limit: limitOf(f)}
	}
	v.Int = n
	return nil
}

// minEpochMillis is the least number taken as milliseconds since 1970, March 1973. What is smaller is
// far more likely seconds, or a date as 20240531; a time before it can be given as RFC 3339.
const minEpochMillis = 100_000_000_000

// parseDecimal reads a decimal number as unscaled digits, exactly; the problem is empty if it fits.
func parseDecimal(s string, precision, scale int) (unscaled int64, problem string) {
	const notNumber, tooFine, tooLarge = "not a decimal number", "too many decimals", "too many digits"
	body, negative := strings.CutPrefix(s, "-")
	mantissa, exp := body, 0
	if i := strings.IndexAny(body, "eE"); i >= 0 {
		n, err := strconv.Atoi(body[i+1:])
		if err != nil {
			return 0, notNumber
		}
		mantissa, exp = body[:i], max(-1000, min(n, 1000))
	}
	whole, frac, point := strings.Cut(mantissa, ".")
	digits := whole + frac
	if whole == "" || point && frac == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, notNumber
	}
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		return 0, ""
	}
	shift := exp - len(frac) + scale // value = digits × 10^shift, in units of 10^-scale
	for digits[len(digits)-1] == '0' {
		digits, shift = digits[:len(digits)-1], shift+1
	}
	if shift < 0 {
		return 0, tooFine
	}
	if len(digits)+shift > precision {
		return 0, tooLarge
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, tooLarge
	}
	n *= pow10[shift]
	if negative {
		n = -n
	}
	return n, ""
}

// limitOf says what text a field takes.
func limitOf(f *Field) string {
	s := ""
	switch f.Kind {
	case String:
		s = "a text"
	case UUID:
		s = "the text of a UUID"
	case Enum:
		s = "one of " + strings.Join(f.Symbols, ", ")
	case Bool:
		s = "true or false"
	case Int:
		s = "a whole number of 32 bits"
	case Long:
		s = "a whole number of 64 bits"
	case Double:
		s = "a finite number, with a point before its decimals"
	case Bytes:
		s = "base64 text"
	case Date:
		s = "YYYY-MM-DD, years 1900 to 2200"
	case Timestamp:
		s = "RFC 3339 with its zone (2024-05-31T10:00:00Z) or milliseconds since 1970 (12 digits or more), years 1900 to 2200"
	case Decimal:
		s = "at most " + strconv.Itoa(f.Precision-f.Scale) + " digits, a point and " + strconv.Itoa(f.Scale) + " decimals"
	case Strings:
		s = "a list of texts"
	}
	if f.Nullable {
		s += ", or null"
	}
	return s
}

// unknownField names a member that is no field, unless the name itself may be a person's, and guesses
// which one was meant.
func unknownField(t *Type, prefix, name string) *FieldError {
	if !PrintableName(name) {
		return &FieldError{Problem: "unknown field, its name not shown", Limit: "fields of " + t.Name}
	}
	limit := "fields of " + t.Name
	if guess := nearest(t, name); guess != "" {
		limit += " (" + guess + "?)"
	}
	return &FieldError{Field: prefix + name, Problem: "unknown field", Limit: limit}
}

// PrintableName tells whether a name from outside looks like a name of a field, and not like data that
// landed there, such as a codice fiscale. Others must not be shown in an error.
func PrintableName(s string) bool {
	if s == "" || len(s) > 64 || privacy.ContainsCF([]byte(s)) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '.' && c != '-') {
			return false
		}
	}
	if len(s) != 16 {
		return true
	}
	for _, i := range []int{6, 7, 9, 10, 12, 13, 14} {
		if !strings.Contains("0123456789LMNPQRSTUV", strings.ToUpper(s[i:i+1])) {
			return true
		}
	}
	return false
}

// nearest returns the field whose name is name in another spelling, or off by at most two letters.
func nearest(t *Type, name string) string {
	best, limit := "", 3
	plain := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name))
	for i := range t.Fields {
		if d := distance(plain, strings.ToLower(t.Fields[i].Name), limit); d < limit {
			best, limit = t.Fields[i].Name, d
		}
	}
	return best
}

// distance is the edit distance of two short texts, or limit if it is no less.
func distance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(prev+cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}

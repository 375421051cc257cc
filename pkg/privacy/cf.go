// Package privacy keeps people out of the hub. For the loader it finds an Italian personal tax code
// (codice fiscale) wherever one may have slipped in; for the edge it turns one into a pseudonym.
//
// It never logs and never puts a value into an error.
//
// # Canonical form
//
// The canonical form of a codice fiscale is the code as the Revenue Agency issued it, in upper case and
// without separators. Omocodia is kept: the Agency replaces digits by letters exactly where two persons
// would have the same code, so writing the digits back would give two persons one pseudonym, and an
// erasure of the one would take the data of the other.
package privacy

import (
	"errors"
	"unicode"
	"unicode/utf8"
)

// ErrInvalid says that a text is no codice fiscale of 16 characters: wrong shape or wrong check letter.
// It does not say more, since the text may be about a person.
var ErrInvalid = errors.New("not a codice fiscale: 16 characters with a valid check letter are expected; is a character mistyped?")

// CF is a valid codice fiscale in canonical form. The zero value is none.
type CF [length]byte

const length = 16

// Parse reads a codice fiscale in either case, with or without spaces, dots and dashes inside or around
// it. It fails with ErrInvalid.
func Parse(s string) (CF, error) {
	var cf CF
	b := []byte(s)
	start := skipSeparators(b, 0)
	end, ok := match(b, start, &cf)
	if !ok || skipSeparators(b, end) != len(b) {
		return CF{}, ErrInvalid
	}
	return cf, nil
}

// Valid tells whether s is a codice fiscale that Parse takes.
func Valid(s string) bool {
	_, err := Parse(s)
	return err == nil
}

// ContainsCF tells whether text holds a codice fiscale: 16 characters of its shape in either case, with
// omocodia, also with spaces, dots or dashes (Unicode's too) between any two of them, with the check
// letter right, and not inside a longer run of letters or digits. Day of birth and comune are not looked
// at, so the fence is rather too wide than too narrow. Bytes that are not UTF-8 count as no letters.
//
// It allocates nothing and reads each byte a bounded number of times, whatever the text.
func ContainsCF(text []byte) bool {
	_, end := find(text, 0)
	return end > 0
}

// find returns where the first codice fiscale from i on begins and ends; 0, 0: there is none. At i begins the text, or
// what follows a codice fiscale.
func find(text []byte, i int) (start, end int) {
	inWord := false // the non-ASCII character before i is a letter or digit
	for i <= len(text)-length {
		c := text[i]
		if classes[c]&word == 0 {
			inWord = c >= utf8.RuneSelf && endsInWord(text[:i+1])
			i++
			continue
		}
		// A run of letters and digits begins: a code can begin here only. Most fail within seven characters.
		if classes[c]&letter != 0 && !inWord {
			var cf CF
			if end, ok := match(text, i, &cf); ok && !startsWithWord(text[end:]) {
				return i, end
			}
		}
		inWord = false
		for i++; i < len(text) && classes[text[i]]&word != 0; i++ {
		}
	}
	return 0, 0
}

// ContainsCFRaw is ContainsCF for bytes whose fields are not known, such as an undecoded Avro value. There
// the length or the tag beside a text may read as a letter or digit, so a neighbour does not clear a
// candidate; save one of hexadecimal digits only, as pseudonyms and hashes are full of those. All that
// ContainsCF finds, it finds.
func ContainsCFRaw(raw []byte) bool {
	for i := 0; i <= len(raw)-length; i++ {
		if classes[raw[i]]&letter == 0 {
			continue
		}
		var cf CF
		if _, ok := match(raw, i, &cf); ok && !onlyHex(&cf) {
			return true
		}
	}
	return ContainsCF(raw)
}

// Redacted stands in a text where Redact found a codice fiscale.
const Redacted = "[codice fiscale]"

// Redact returns text with each codice fiscale that ContainsCF finds replaced by Redacted: text itself
// where there is none. It is for what is shown to people, as the last of several fences.
func Redact(text []byte) []byte {
	start, end := find(text, 0)
	if end == 0 {
		return text
	}
	var out []byte
	from := 0
	for ; end > 0; start, end = find(text, from) {
		out = append(append(out, text[from:start]...), Redacted...)
		from = end
	}
	return append(out, text[from:]...)
}

// endsInWord tells whether the last, non-ASCII, character of b is a letter or digit.
func endsInWord(b []byte) bool {
	r, _ := utf8.DecodeLastRune(b)
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// startsWithWord tells whether b begins with a letter or digit.
func startsWithWord(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	if b[0] < utf8.RuneSelf {
		return classes[b[0]]&word != 0
	}
	r, _ := utf8.DecodeRune(b)
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

func onlyHex(cf *CF) bool {
	for _, c := range cf {
		if c > 'F' {
			return false
		}
	}
	return true
}

// match reads a codice fiscale at b[start:], separators inside, into cf, and returns where it ends.
func match(b []byte, start int, cf *CF) (end int, ok bool) {
	i, sum := start, 0
	for p := range length {
		if p > 0 && i < len(b) && classes[b[i]]&word == 0 {
			i = skipSeparators(b, i)
		}
		if i >= len(b) {
			return i, false
		}
		c := b[i]
		if classes[c]&shape[p] == 0 {
			return i, false
		}
		c = upper(c)
		cf[p] = c
		if p%2 == 0 {
			sum += int(odd[c])
		} else {
			sum += int(even[c])
		}
		i++
	}
	last := length - 1 // the check letter is in an even place, so in the sum as even[c] = its own rank
	rank := int(even[cf[last]])
	return i, (sum-rank)%26 == rank
}

// skipSeparators returns the first place from i on that holds no space, dot or dash.
func skipSeparators(b []byte, i int) int {
	for i < len(b) {
		if b[i] < utf8.RuneSelf {
			if classes[b[i]]&separator == 0 {
				return i
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if !unicode.IsSpace(r) && !unicode.Is(unicode.Pd, r) && r != minusSign {
			return i
		}
		i += n
	}
	return i
}

const minusSign = '\u2212'

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

// Classes of ASCII characters.
const (
	letter    = 1 << iota
	digit     //
	omocode   // a letter that omocodia puts in the place of a digit
	month     // a letter of a month of birth
	separator // space, dot, dash

	word = letter | digit
)

// shape is what stands in each place of a codice fiscale: surname, name, year, month, day and sex,
// comune, check letter.
var shape = [length]uint8{
	letter, letter, letter, letter, letter, letter,
	digit | omocode, digit | omocode, month, digit | omocode, digit | omocode,
	letter, digit | omocode, digit | omocode, digit | omocode, letter,
}

var classes = func() (t [256]uint8) {
	for c := 'A'; c <= 'Z'; c++ {
		t[c] |= letter
	}
	for c := '0'; c <= '9'; c++ {
		t[c] |= digit
	}
	for _, c := range "LMNPQRSTUV" {
		t[c] |= omocode
	}
	for _, c := range "ABCDEHLMPRST" {
		t[c] |= month
	}
	for c := 'A'; c <= 'Z'; c++ {
		t[c-'A'+'a'] = t[c]
	}
	for _, c := range " \t\n\v\f\r.-" {
		t[c] |= separator
	}
	return t
}()

// odd and even are the values of a character in the places 1, 3, 5 … and 2, 4, 6 … (decree of the
// Minister of Finance of 23 December 1976).
var odd, even = func() (o, e [256]uint8) {
	ranks := [26]uint8{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}
	for i, v := range ranks {
		o['A'+i], e['A'+i] = v, uint8(i)
	}
	for i := range 10 {
		o['0'+i], e['0'+i] = ranks[i], uint8(i)
	}
	return o, e
}()

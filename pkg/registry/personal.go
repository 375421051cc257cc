package registry

import (
	"net/http"
	"strings"
	"unicode"

	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// A registry is read by everybody, so personal codes must not get into it: a subject that holds one is
// refused, as is a schema one of whose words is one, and no message repeats one.

const personal = "the request holds a codice fiscale; subjects and schemas are no place for personal data"

// inTarget tells whether the path or the query of a request holds a codice fiscale.
func inTarget(r *http.Request) bool {
	if privacy.ContainsCF([]byte(r.URL.Path)) {
		return true
	}
	for name, values := range r.URL.Query() {
		if privacy.ContainsCF([]byte(name)) || privacy.ContainsCF([]byte(strings.Join(values, "\x00"))) {
			return true
		}
	}
	return false
}

// inWords tells whether a word of the text is a codice fiscale. Codes with spaces inside are not looked
// for: in the prose of a long schema something of their shape turns up by chance.
func inWords(text string) bool {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if privacy.Valid(word) {
			return true
		}
	}
	return false
}

package privacy

import (
	"bytes"
	"testing"
)

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "",
		"nothing here":                      "nothing here",
		"RSSMRA85T10A562S":                  "[codice fiscale]",
		"a rssmra85t10a562s, b":             "a [codice fiscale], b",
		"RSS MRA-85T10.A562 S!":             "[codice fiscale]!",
		"xRSSMRA85T10A562S":                 "xRSSMRA85T10A562S",
		"RSSMRA85T10A562S RSSMRA85T10A562S": "[codice fiscale] [codice fiscale]",
		"/tmp/RSSMRA85T10A562S.csv:1: E11":  "/tmp/[codice fiscale].csv:1: E11",
	} {
		if got := string(Redact([]byte(text))); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// FuzzRedact says that nothing is left that ContainsCF would find.
func FuzzRedact(f *testing.F) {
	f.Add([]byte("RSSMRA85T10A562S-RSSMRA85T10A562S"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := Redact(text)
		if ContainsCF(got) {
			t.Errorf("%q leaves %q", text, got)
		}
		if !ContainsCF(text) && !bytes.Equal(got, text) {
			t.Errorf("%q became %q", text, got)
		}
	})
}

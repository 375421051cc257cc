package load

import "testing"

// TestDetailOfADuplicateIsJSON compares what is written by hand with its twin.
func TestDetailOfADuplicateIsJSON(t *testing.T) {
	for _, source := range []string{"", "urn:welfare:c_f205:sys", `a"b`, `a\b`, "a<b", "a>b", "a&b", "è", "\x7f", "a\nb", "\u2028", "\xff"} {
		c := copyOf{Source: source, EventID: "8b0a2b6e-0000-4000-8000-000000000001", OfPartition: 12, OfOffset: 1 << 40}
		if got, want := string(c.append([]byte("x"))), "x"+string(mustJSON(&c)); got != want {
			t.Errorf("source %q: got %s, want %s", source, got, want)
		}
	}
}

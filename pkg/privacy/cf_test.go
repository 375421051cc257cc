package privacy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
)

// Codes of nobody, from the check values of the domain research.
var (
	validCFs = []string{
		"RSSMRA85T10A562S", "VRDGLI11C65F205W", "DLCNMR12T41F839J", "FOXLIX10A31L219R", "RSSGFR13M09H501G", "RSSMRK66C14H501U",
		"VRDGLI11C65F20RR", "DLCNMR12T41F83VY", "VRDGLIMMCSRFNLRB", // omocodia
	}
	invalidCFs = []string{
		"RSSMRA85T10A562T", "AAABBB39M66A351C", "CCCDDD25A42H199X", // check letter
		"RSSMRA85T10A56S", "RSSMRA85T10A5622S", "1SSMRA85T10A562S", "RSSMRA85F10A562S", "RSSMRA85T1OA562S", "",
	}
)

func TestParse(t *testing.T) {
	for _, s := range validCFs {
		cf, err := Parse(s)
		if err != nil || cf.Reveal() != s {
			t.Errorf("case %s…: got %v", s[:3], err)
		}
		for _, form := range []string{strings.ToLower(s), s[:6] + " " + s[6:11] + "-" + s[11:15] + "." + s[15:], " " + s + "\t"} {
			if got, err := Parse(form); err != nil || got != cf {
				t.Errorf("case %s…: another form of it is not the same code: %v", s[:3], err)
			}
		}
	}
	for i, s := range invalidCFs {
		if Valid(s) {
			t.Errorf("invalid case %d is taken", i)
		}
	}
	if Valid(validCFs[0] + "X") {
		t.Error("a code with a letter after it is taken")
	}
}

// omocodes returns all 128 forms that omocodia can give a code, with their check letters.
func omocodes(s string) []string {
	var out []string
	for mask := range 128 {
		out = append(out, omocodeOf(s, mask))
	}
	return out
}

// omocodeOf replaces the digits that mask names.
func omocodeOf(s string, mask int) string {
	b := []byte(s[:15])
	for i, p := range []int{6, 7, 9, 10, 12, 13, 14} {
		if mask>>i&1 == 1 {
			b[p] = "LMNPQRSTUV"[b[p]-'0']
		}
	}
	return string(b) + string(checkLetter(b))
}

// checkLetter is written apart from the code under test, from the tables of the decree.
func checkLetter(b []byte) byte {
	sum := 0
	for i, c := range b {
		switch {
		case i%2 == 0:
			sum += decree[c]
		case c <= '9':
			sum += int(c - '0')
		default:
			sum += int(c - 'A')
		}
	}
	return byte('A' + sum%26)
}

var decree = map[byte]int{
	'0': 1, '1': 0, '2': 5, '3': 7, '4': 9, '5': 13, '6': 15, '7': 17, '8': 19, '9': 21,
	'A': 1, 'B': 0, 'C': 5, 'D': 7, 'E': 9, 'F': 13, 'G': 15, 'H': 17, 'I': 19, 'J': 21, 'K': 2, 'L': 4, 'M': 18,
	'N': 20, 'O': 11, 'P': 3, 'Q': 6, 'R': 8, 'S': 12, 'T': 14, 'U': 16, 'V': 10, 'W': 22, 'X': 25, 'Y': 24, 'Z': 23,
}

func TestAllFormsOfOmocodiaAreFound(t *testing.T) {
	seen := map[[32]byte]bool{}
	key, err := NewKey(Demand, 1, bytes.Repeat([]byte{7}, MinKeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range omocodes("VRDGLI11C65F205W") {
		cf, err := Parse(s)
		if err != nil || !ContainsCF([]byte("di "+strings.ToLower(s)+".")) {
			t.Errorf("form %d is not found: %v", i, err)
		}
		seen[Pseudonym(key, cf)] = true
	}
	if len(seen) != 128 {
		t.Errorf("%d pseudonyms for 128 codes: the Agency gives two persons different codes, they need different pseudonyms", len(seen))
	}
}

func TestContainsCF(t *testing.T) {
	const cf = "RSSMRA85T10A562S"
	for _, tt := range []struct {
		text string
		want bool
	}{
		{cf, true},
		{strings.ToLower(cf), true},
		{"rssMRA85t10a562S", true},
		{"protocollo 12/" + cf, true},
		{cf + ", nato a Argelato", true},
		{"RSS MRA 85T10 A562S", true},
		{"RSS.MRA.85T10.A562.S", true},
		{"RSS-MRA-85T10-A562-S", true},
		{"R S S M R A 8 5 T 1 0 A 5 6 2 S", true},
		{"RSS - MRA -- 85T10  A562S", true},
		{"RSS\u00a0MRA\u201385T10\u2011A562S", true},
		{"(" + cf + ")", true},
		{"x " + cf + "-1", true},
		{"\xff" + cf + "\xff", true},
		{"€" + cf + "€", true},
		{"X" + cf, false},
		{cf + "1", false},
		{"è" + cf, false},
		{cf + "è", false},
		{"RSSMRA85T10A562T", false},
		{"RSS_MRA_85T10_A562S", false},
		{"RSSMRA85T10A562", false},
		{"01199250158", false},
		{"P-" + strings.Repeat("0123456789abcdef", 4), false},
		{"", false},
	} {
		if got := ContainsCF([]byte(tt.text)); got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.text, got, tt.want)
		}
		if got := plainContains(tt.text); got != tt.want {
			t.Errorf("%q: the plain twin says %v, want %v", tt.text, got, tt.want)
		}
		if tt.want && !ContainsCFRaw([]byte(tt.text)) {
			t.Errorf("%q: not found in raw bytes", tt.text)
		}
	}
}

func TestContainsCFRawLooksThroughLengthBytes(t *testing.T) {
	const cf = "RSSMRA85T10A562S"
	for _, raw := range []string{"H" + cf + " e altro testo", "\x02" + cf + "a", "milanoH" + cf} {
		if !ContainsCFRaw([]byte(raw)) {
			t.Errorf("not found in %d raw bytes", len(raw))
		}
	}
	found := 0
	for first := byte('a'); first <= 'f'; first++ {
		for last := byte('a'); last <= 'f'; last++ {
			code := string(first) + "bcdef12a34b567" + string(last)
			if !Valid(code) {
				continue
			}
			found++
			if ContainsCFRaw([]byte("0"+code+"9")) || !ContainsCFRaw([]byte("-"+code+"-")) {
				t.Error("one of hexadecimal digits must stand alone to be found")
			}
		}
	}
	if found == 0 {
		t.Error("no code of hexadecimal digits: the test proves nothing")
	}
}

var plainShape = regexp.MustCompile(`(?i)^[A-Z]{6}[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z]$`)

// plainContains is ContainsCF as one would write it from its sentence.
func plainContains(s string) bool {
	word := func(r rune) bool { return r != '\uFFFD' && (unicode.IsLetter(r) || unicode.IsDigit(r)) }
	rs := []rune(s)
	for i := range rs {
		if !word(rs[i]) || i > 0 && word(rs[i-1]) {
			continue
		}
		var kept []rune
		for j := i; j < len(rs) && len(kept) < 16; j++ {
			switch {
			case word(rs[j]):
				kept = append(kept, rs[j])
				if len(kept) < 16 || j+1 < len(rs) && word(rs[j+1]) {
					continue
				}
				code := strings.ToUpper(string(kept))
				if plainShape.MatchString(string(kept)) && checkLetter([]byte(code[:15])) == code[15] {
					return true
				}
			case unicode.IsSpace(rs[j]), unicode.Is(unicode.Pd, rs[j]), rs[j] == '.', rs[j] == '\u2212':
			default:
				j = len(rs)
			}
		}
	}
	return false
}

func randomText(rng *rand.Rand) string {
	var b strings.Builder
	for range rng.IntN(6) {
		switch rng.IntN(5) {
		case 0, 1:
			cf := omocodeOf(validCFs[rng.IntN(6)], rng.IntN(128))
			for i, c := range cf {
				if rng.IntN(8) == 0 && i > 0 {
					b.WriteString([]string{" ", ".", "-", "  ", "_", "\u00a0", "/"}[rng.IntN(7)])
				}
				if rng.IntN(2) == 0 {
					c = unicode.ToLower(c)
				}
				if rng.IntN(60) == 0 {
					c = rune('A' + rng.IntN(26))
				}
				b.WriteRune(c)
			}
		case 2:
			b.WriteString([]string{" ", ".", "-", "è", "€", "7", "x", "\xff", "\u0301"}[rng.IntN(9)])
		case 3:
			b.WriteString("via Dante 12")
		default:
			for range rng.IntN(20) {
				b.WriteByte("ABCDEHLMPRSTabx0123456789 .-"[rng.IntN(28)])
			}
		}
	}
	return b.String()
}

func TestContainsCFIsItsPlainTwin(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	found := 0
	for range 20000 {
		s := randomText(rng)
		want := plainContains(s)
		if got := ContainsCF([]byte(s)); got != want {
			t.Fatalf("%q: got %v, the plain twin says %v", s, got, want)
		}
		if want {
			found++
			if !ContainsCFRaw([]byte(s)) {
				t.Fatalf("%q: found, but not in raw bytes", s)
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d of 20000 texts hold a code: the test proves little", found)
	}
}

func FuzzContainsCF(f *testing.F) {
	for _, s := range append(validCFs, invalidCFs...) {
		f.Add("a " + s + " b")
	}
	f.Add("RSS-MRA 85T10.A562S")
	f.Fuzz(func(t *testing.T, s string) {
		got := ContainsCF([]byte(s))
		if want := plainContains(s); got != want {
			t.Errorf("%q: got %v, the plain twin says %v", s, got, want)
		}
		if got && !ContainsCFRaw([]byte(s)) {
			t.Errorf("%q: found, but not in raw bytes", s)
		}
	})
}

func TestContainsCFDoesNotAllocate(t *testing.T) {
	text := []byte(strings.Repeat("La famiglia chiede il servizio di doposcuola. ", 20) + "rss mra 85t10 a562s")
	if n := testing.AllocsPerRun(100, func() { ContainsCF(text) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	key, err := NewKey(School, 3, secret)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := Parse(validCFs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{key, cf, struct{ C CF }{cf}} {
			out := fmt.Sprintf(verb, v)
			if strings.Contains(out, validCFs[0]) || strings.Contains(out, string(secret)) || strings.Contains(out, "48 49") || strings.Contains(out, "82 83") {
				t.Errorf("%s prints a secret", verb)
			}
		}
	}
}

func TestNewKeyRefuses(t *testing.T) {
	good := bytes.Repeat([]byte{1}, MinKeyBytes)
	for _, tt := range []struct {
		name    string
		purpose Purpose
		epoch   int
		secret  []byte
	}{
		{"unknown purpose", "SUPPLY", 1, good},
		{"epoch 0", Demand, 0, good},
		{"short secret", Demand, 1, good[1:]},
	} {
		if _, err := NewKey(tt.purpose, tt.epoch, tt.secret); err == nil {
			t.Errorf("%s: taken", tt.name)
		}
	}
}

// TestPseudonymIsPlainHMAC holds for other implementations of the edge: HMAC-SHA-256(secret, code), made
// here with OpenSSL: printf RSSMRA85T10A562S | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
func TestPseudonymIsPlainHMAC(t *testing.T) {
	key, err := NewKey(Demand, 1, []byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	cf, err := Parse("rss mra 85t10 a562s")
	if err != nil {
		t.Fatal(err)
	}
	got := Hex(Pseudonym(key, cf))
	if want := "ce7b8700c0085695e2ee98e0020b0ae5653dfb6fa4f7bf3aceaba5bb9d3c2ce6"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !IsPseudonym([]byte(got)) || IsPseudonym([]byte(strings.ToUpper(got))) || IsPseudonym([]byte(got[1:])) {
		t.Error("IsPseudonym does not tell 64 lower-case hexadecimal digits")
	}
}

func BenchmarkContainsCF(b *testing.B) {
	for _, bb := range []struct{ name, text string }{
		{"code", "A1.16"},
		{"urn", "urn:welfare:c_f205:sociali"},
		{"uuid", "018f0000-0000-7000-8000-000000000001"},
		{"pseudonym", strings.Repeat("0123456789abcdef", 4)},
		{"text1000", strings.Repeat("La famiglia chiede il servizio di doposcuola a Milano. ", 18)},
		{"hit", "La domanda di RSS MRA 85T10 A562S"},
	} {
		text := []byte(bb.text)
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				ContainsCF(text)
			}
		})
	}
}

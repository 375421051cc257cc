package validate

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/event"
)

var update = flag.Bool("update", false, "write docs/rules.md")

const docsPath = "../../docs/rules.md"

// TestRulesDocument fails where docs/rules.md is not what the registry says:
// go test ./pkg/validate -run RulesDocument -update
func TestRulesDocument(t *testing.T) {
	want := document()
	if *update {
		if err := os.WriteFile(docsPath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/rules.md has drifted: go test ./pkg/validate -run RulesDocument -update")
	}
}

func TestRegistryIsWhole(t *testing.T) {
	src, err := os.ReadFile("code.go")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, m := range regexp.MustCompile(`(?m)^\t([PEW]\d\d) Code = "(\w+)" // .+$`).FindAllStringSubmatch(string(src), -1) {
		if m[1] != m[2] {
			t.Errorf("%s is %q", m[1], m[2])
		}
		named = append(named, m[1])
	}
	if len(named) != 59 {
		t.Errorf("code.go has %d codes, want 59", len(named))
	}
	checks := map[Code]bool{}
	for _, r := range registry {
		checks[r.code] = r.check != nil
	}
	for i, r := range registry {
		if i > 0 && Compare(registry[i-1].code, r.code) >= 0 {
			t.Errorf("%s is out of order", r.code)
		}
		if !slices.Contains(named, string(r.code)) {
			t.Errorf("%s is not in the enum", r.code)
		}
		if (r.by == ByRules) != (r.check != nil || checks[r.together]) {
			t.Errorf("%s: by %s, but its check does not fit", r.code, r.by)
		}
		if r.code[0] == 'W' && (r.by == ByRules) != slices.Contains(FlagBits, r.code) {
			t.Errorf("%s: a flag has a bit if and only if it depends on the event alone", r.code)
		}
		for _, name := range append(slices.Clone(r.events), r.on...) {
			if event.ByName(name) == nil && !slices.ContainsFunc(event.Types, func(t *event.Type) bool { return t.Field(name) >= 0 }) {
				t.Errorf("%s: %s is neither an event nor a field", r.code, name)
			}
		}
	}
	if len(registry) != len(named) {
		t.Errorf("%d rules for %d codes", len(registry), len(named))
	}
}

func document() string {
	var b strings.Builder
	b.WriteString(`<!-- Made from pkg/validate. Do not edit: go test ./pkg/validate -run RulesDocument -update -->
# Rules

What may reject an event, and what flags it. A **reject** depends on the event alone (its bytes, key, headers, the timestamp of its Kafka record), its schema, and lists that ship with the release; E07 is the one exception.
It never depends on the clock of the hub. All codes that an event violates are reported, in the order of their numbers; the first is its code. A **flag** never rejects.

A rejected event is in ` + "`welfare.rejected`" + ` and on ` + "`<topic>.dlq`" + `, and its source reads the codes on ` + "`welfare.outcome`" + `. To correct it, publish it again with a new ` + "`eventId`" + `, or redrive the dead letter.
Gaps that the rules fill beyond the events' own description: [decision 2](decisions/0002-validation-gaps.md).

An enum that holds UNKNOWN is *not given*. A symbol newer than our schema is read as UNKNOWN too, but counts as given, and is flagged (W90). Characters are Unicode code points.

`)
	section := func(title, intro string, keep func(Rule) bool) {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n| code | events | when |\n|---|---|---|\n", title, intro)
		for _, r := range Rules() {
			if keep(r) {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", r.Code, eventsText(r.Events), r.Text)
			}
		}
		b.WriteString("\n")
	}
	section("Poison", "The value cannot be read; no other rule is looked at.", func(r Rule) bool { return r.Code[0] == 'P' })
	section("Rejects", "The event is read, and breaks a rule. E07 is decided by the loader, from earlier events of the topic.", func(r Rule) bool { return r.Code[0] == 'E' })
	section("Flags of the event alone", "Stored with the row, in `_flags`, and told in the outcome.", func(r Rule) bool { return r.Code[0] == 'W' && r.By == ByRules })
	section("Flags by other events", "In the view `welfare.flags`, always as of now.", func(r Rule) bool { return r.By == ByView })

	b.WriteString("## Limits\n\nE12. Characters of texts; null is always fine where the field may be null.\n\n| characters | fields |\n|---|---|\n")
	for _, l := range textLimits {
		names := slices.Clone(l.names)
		slices.Sort(names)
		fmt.Fprintf(&b, "| %d to %d | `%s` |\n", l.min, l.max, strings.Join(names, "`, `"))
	}
	b.WriteString("\n`cadastralCode` is a capital letter and three digits. `ageMax` is not below `ageMin`. Ranges of numbers:\n\n| field | range |\n|---|---|\n")
	for _, l := range numberLimits {
		fmt.Fprintf(&b, "| `%s` | %s |\n", l.name, l.what)
	}
	return b.String()
}

func eventsText(names []string) string {
	switch {
	case names == nil:
		return "all"
	case len(names) > 5:
		var without []string
		for _, t := range event.Types {
			if !slices.Contains(names, t.Name) {
				without = append(without, t.Name)
			}
		}
		if len(without) < len(names) {
			return "all but " + strings.Join(without, ", ")
		}
	}
	return strings.Join(names, ", ")
}

package ddl

import (
	"slices"
	"strings"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/validate"
	"github.com/welfarehub/welfarehub/schemas"
)

func TestMigrationsAreGenerated(t *testing.T) {
	for _, f := range Files() {
		have, err := schemas.ClickHouse.ReadFile("clickhouse/" + f.Name)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != f.Text {
			t.Errorf("%s is not what the catalogue gives now: run go generate ./pkg/clickhouse/ddl", f.Name)
		}
	}
}

func TestSortingKeysAreColumnsThatAreNeverNull(t *testing.T) {
	for _, typ := range event.Types {
		for _, column := range sortKeys[typ.Name] {
			found := false
			for _, f := range typ.Fields {
				found = found || f.Column == column && !f.Nullable
			}
			if !found {
				t.Errorf("%s: sorting key %q is no column, or may be null", typ.Name, column)
			}
		}
	}
}

// TestStatementsSurviveGoose: goose splits at a semicolon that ends a line.
func TestStatementsSurviveGoose(t *testing.T) {
	for _, f := range Files() {
		for i, line := range strings.Split(f.Text, "\n") {
			if strings.Contains(line, "COMMENT") && strings.HasSuffix(line, ";") && !strings.HasSuffix(line, "';") {
				t.Errorf("%s:%d: a comment ends its line with a semicolon", f.Name, i+1)
			}
		}
	}
}

func TestFlagsAreThoseOfTheRules(t *testing.T) {
	for i, name := range clickhouse.Flags {
		if got := validate.FlagNames(1 << i); !slices.Equal(got, []string{name}) {
			t.Errorf("bit %d is %s in the views and %v in the rules", i, name, got)
		}
	}
	if n := len(validate.FlagBits); n != len(clickhouse.Flags) {
		t.Errorf("the rules have %d flags, the views %d", n, len(clickhouse.Flags))
	}
}

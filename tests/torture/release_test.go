package torture

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleasesHaveNoFaults looks at the program as it is built without the tag: it has neither the functions nor the
// variables of the faults. The same look finds them where the tag is set.
func TestReleasesHaveNoFaults(t *testing.T) {
	gated(t, false)
	ordinary := filepath.Join(t.TempDir(), "welfarehub")
	if err := build(ordinary); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{ordinary: false, hubBinary(t): true} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, variable := range []string{"HUB_FAULTS", "HUB_CLOCK"} {
			if bytes.Contains(raw, []byte(variable)) != want {
				t.Errorf("a binary with faults %v: %s is there: %v", want, variable, !want)
			}
		}
		symbols, err := exec.Command("go", "tool", "nm", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if found := strings.Contains(string(symbols), "welfarehub/pkg/fault."); found != want {
			t.Errorf("a binary with faults %v: symbols of pkg/fault are there: %v", want, found)
		}
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tagged := false
		for _, s := range info.Settings {
			tagged = tagged || s.Key == "-tags" && strings.Contains(s.Value, "faults")
		}
		if tagged != want {
			t.Errorf("a binary with faults %v says that it is built with the tag: %v", want, tagged)
		}
	}
}

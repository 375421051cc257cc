package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

func TestOpenDataRefusesWhatIsSomebodyElses(t *testing.T) {
	for name, c := range map[string]struct {
		entries []string
		foreign bool
	}{
		"empty":                {nil, false},
		"a fresh file system":  {[]string{"lost+found", ".keep"}, false},
		"ours":                 {[]string{"clickhouse", "clickhouse.password", "kafka"}, false},
		"ours, and notes":      {[]string{"kafka", "notes.txt"}, false},
		"the demo's state":     {[]string{"demo.json", "other"}, false},
		"somebody else's":      {[]string{"holiday.jpg"}, true},
		"a folder of programs": {[]string{"bin", ".git"}, true},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		for _, e := range c.entries {
			if err := os.MkdirAll(filepath.Join(dir, e), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := openData(dir); errors.Is(err, datadir.ErrForeign) != c.foreign || !c.foreign && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

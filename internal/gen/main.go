// Command gen writes what follows from the catalogue of events: Go types and field indexes for
// pkg/event, and the documents for those who publish. `go generate ./...` runs it; a test of this
// package fails where a generated file differs from what the schemas say.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// command is what to run where a generated file is stale.
const command = "go generate ./pkg/event"

func main() {
	root := flag.String("root", ".", "root of the repository")
	flag.Parse()
	if err := run(*root); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1) //nolint:forbidigo // this is a main of its own
	}
}

// run writes every generated file that differs from what it should be.
func run(root string) error {
	files, err := Files()
	if err != nil {
		return err
	}
	for name, want := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if got, err := os.ReadFile(path); err == nil && bytes.Equal(got, want) {
			continue
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		fmt.Println("wrote", name)
	}
	return nil
}

// Files returns the generated files by their path from the root of the repository.
func Files() (map[string][]byte, error) {
	cat, err := load()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, g := range []struct {
		path string
		gen  func(*catalogue) ([]byte, error)
	}{
		{"pkg/event/types_gen.go", goTypes},
		{"pkg/event/fields_gen.go", goFields},
		{"docs/events.md", markdown},
		{"docs/asyncapi.yaml", asyncAPI},
	} {
		text, err := g.gen(cat)
		if err != nil {
			return nil, fmt.Errorf("generate %s: %w", g.path, err)
		}
		out[g.path] = text
	}
	return out, nil
}

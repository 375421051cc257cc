package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the golden files anew")

// commands returns all commands of the program by path, "schema check", the root as "".
func commands() map[string]*cobra.Command {
	out := map[string]*cobra.Command{}
	root, _ := newRoot()
	root.InitDefaultHelpCmd()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		out[strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), root.Name()), " ")] = c
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return out
}

// TestHelpIsGolden compares --help of every command with testdata/help; -update writes it anew, and the
// diff is the review.
func TestHelpIsGolden(t *testing.T) {
	const dir = "testdata/help"
	var files []string
	for path := range commands() {
		name := strings.ReplaceAll(path, " ", "_")
		if name == "" {
			name = "welfarehub"
		}
		file := filepath.Join(dir, name+".txt")
		files = append(files, file)
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(append(strings.Fields(path), "--help"), &stdout, &stderr); code != exitOK || stderr.Len() > 0 {
				t.Fatalf("--help exits %d, stderr %q", code, stderr.String())
			}
			if *update {
				if err := os.WriteFile(file, stdout.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("the command has no golden help: %v; run go test ./cmd/welfarehub -run Golden -update", err)
			}
			if got := stdout.String(); got != string(want) {
				t.Errorf("--help differs from %s; run go test ./cmd/welfarehub -run Golden -update and review the diff. Got:\n%s", file, got)
			}
			// The other way to ask.
			stdout.Reset()
			if code := run(append([]string{"help"}, strings.Fields(path)...), &stdout, &stderr); code != exitOK || stdout.String() != string(want) {
				t.Errorf("help %s exits %d or differs from --help", path, code)
			}
		})
	}
	there, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range there {
		if !slices.Contains(files, f) {
			t.Errorf("%s is of no command; delete it", f)
		}
	}
}

// TestHelpIsComplete looks for what a golden file would not notice: a new flag without words.
func TestHelpIsComplete(t *testing.T) {
	for path, c := range commands() {
		if len(c.Short) < 10 || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%q: short text %q says too little, or ends with a full stop", path, c.Short)
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 96 {
				t.Errorf("%q: a line of the help has %d letters, more than 96: %s", path, n, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if len(f.Usage) < 12 || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%q: flag --%s: text %q says too little, or ends with a full stop", path, f.Name, f.Usage)
			}
			// A size has its unit in its text; a duration shows it in its default.
			if strings.Contains(f.Name, "bytes") && !strings.Contains(f.Usage, "bytes") {
				t.Errorf("%q: flag --%s does not name its unit: %q", path, f.Name, f.Usage)
			}
		})
	}
}

// TestFlagsMeanTheSameInAllCommands keeps one name to one meaning, for all commands share a
// configuration file and an environment.
func TestFlagsMeanTheSameInAllCommands(t *testing.T) {
	type use struct{ path, kind string }
	seen := map[string]use{}
	cmds := commands()
	paths := make([]string, 0, len(cmds))
	for p := range cmds {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, path := range paths {
		cmds[path].Flags().VisitAll(func(f *pflag.Flag) {
			u, ok := seen[f.Name]
			if !ok {
				seen[f.Name] = use{path, f.Value.Type()}
				return
			}
			if u.kind != f.Value.Type() {
				t.Errorf("--%s is a %s in %q and a %s in %q", f.Name, u.kind, u.path, f.Value.Type(), path)
			}
		})
	}
}

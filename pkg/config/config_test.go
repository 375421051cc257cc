package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// settings are the flags of the commands that the tests run.
type settings struct {
	dsn    string
	rate   int
	wait   bool
	age    time.Duration
	share  float64
	topics []string
	ports  []int
	lines  []string
	other  string
}

// program is a root with the commands load, which runs, and serve, whose flags are known too.
func program(s *settings) (root, load *cobra.Command) {
	root = &cobra.Command{Use: "hub"}
	root.PersistentFlags().String("config", "", "file")
	root.PersistentFlags().String("log-level", "info", "least level logged")
	load = &cobra.Command{Use: "load", RunE: func(*cobra.Command, []string) error { return nil }}
	load.Flags().StringVar(&s.dsn, "clickhouse-dsn", "", "address of ClickHouse")
	load.Flags().IntVar(&s.rate, "rate", 500, "events per second")
	load.Flags().BoolVar(&s.wait, "wait", false, "wait until all is loaded")
	load.Flags().DurationVar(&s.age, "batch-age", time.Second, "oldest record of a batch")
	load.Flags().Float64Var(&s.share, "duplicates", 0, "share of duplicates")
	load.Flags().StringSliceVar(&s.topics, "topics", []string{"all"}, "topics")
	load.Flags().IntSliceVar(&s.ports, "ports", nil, "ports")
	load.Flags().StringArrayVar(&s.lines, "line", nil, "lines")
	load.Flags().String("sasl-password", "", "password")
	serve := &cobra.Command{Use: "serve", RunE: load.RunE}
	serve.Flags().StringVar(&s.other, "http", "", "address")
	root.AddCommand(load, serve)
	return root, load
}

// apply runs `hub load args` with file and environ up to the point where Apply has run.
func apply(t *testing.T, s *settings, file string, environ []string, args ...string) error {
	t.Helper()
	root, load := program(s)
	var got error
	load.PreRun = func(cmd *cobra.Command, _ []string) { got = Apply(cmd, file, environ) }
	root.SetArgs(append([]string{"load"}, args...))
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	return got
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hub.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCommandLineWinsOverEnvironmentOverFileOverDefault(t *testing.T) {
	file := write(t, "rate: 1\nbatch-age: 1m\nduplicates: 0.25\nwait: true\n")
	var s settings
	err := apply(t, &s, file, []string{"WELFAREHUB_RATE=2", "WELFAREHUB_BATCH_AGE=2m", "PATH=/bin"}, "--rate", "3")
	if err != nil {
		t.Fatal(err)
	}
	if s.rate != 3 || s.age != 2*time.Minute || s.share != 0.25 || !s.wait {
		t.Errorf("got %+v", s)
	}
	if len(s.topics) != 1 || s.topics[0] != "all" {
		t.Errorf("the default of a flag that nothing sets is now %v", s.topics)
	}
}

func TestListsComeAsListsOrWithCommas(t *testing.T) {
	var s settings
	file := write(t, "topics: [a, 'b,c']\nports: [1, 2]\nline:\n  - x, y\n")
	if err := apply(t, &s, file, nil); err != nil {
		t.Fatal(err)
	}
	if strings.Join(s.topics, "|") != "a|b,c" || len(s.ports) != 2 || strings.Join(s.lines, "|") != "x, y" {
		t.Errorf("got %+v", s)
	}
	s = settings{}
	if err := apply(t, &s, file, []string{"WELFAREHUB_TOPICS=d,e", "WELFAREHUB_PORTS=7", "WELFAREHUB_LINE=p,q"}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(s.topics, "|") != "d|e" || len(s.ports) != 1 || s.ports[0] != 7 || strings.Join(s.lines, "|") != "p,q" {
		t.Errorf("got %+v", s)
	}
}

func TestVariablesStandInValues(t *testing.T) {
	var s settings
	file := write(t, "clickhouse-dsn: 'clickhouse://hub:${PW}@${HOST}:9000/?x=$${y}'\n")
	if err := apply(t, &s, file, []string{"PW=a$b{c}", "HOST=old", "HOST=db"}); err != nil {
		t.Fatal(err)
	}
	if want := "clickhouse://hub:a$b{c}@db:9000/?x=${y}"; s.dsn != want {
		t.Errorf("got %s, want %s", s.dsn, want)
	}
}

func TestEnvironmentNamesTheFile(t *testing.T) {
	var s settings
	file := write(t, "rate: 7\n")
	if err := apply(t, &s, "", []string{"WELFAREHUB_CONFIG=" + file}); err != nil {
		t.Fatal(err)
	}
	if s.rate != 7 {
		t.Errorf("rate %d", s.rate)
	}
	if err := apply(t, &s, filepath.Join(t.TempDir(), "none.yml"), nil); err == nil || !strings.Contains(err.Error(), "read configuration file: open ") {
		t.Errorf("a missing file gives %v", err)
	}
}

func TestFlagsOfOtherCommandsAndListedVariablesAreKnown(t *testing.T) {
	var s settings
	environ := []string{"WELFAREHUB_HTTP=:1", "WELFAREHUB_E2E=1", "WELFAREHUB_KAFKA=jars", "WELFAREHUB_CLICKHOUSE=x", "WELFAREHUB_ENGINE=/x", "WELFAREHUBBUB=1"}
	if err := apply(t, &s, write(t, "# nothing but\nhttp: ':2'\n"), environ); err != nil {
		t.Fatal(err)
	}
	for _, empty := range []string{"", "# only a comment\n", "---\n"} {
		if err := apply(t, &s, write(t, empty), nil); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestRequiredFlagsMayComeFromTheEnvironment(t *testing.T) {
	var s settings
	root, load := program(&s)
	if err := load.MarkFlagRequired("clickhouse-dsn"); err != nil {
		t.Fatal(err)
	}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		return Apply(cmd, "", []string{"WELFAREHUB_CLICKHOUSE_DSN=clickhouse://db"})
	}
	root.SetArgs([]string{"load"})
	if err := root.Execute(); err != nil || s.dsn != "clickhouse://db" {
		t.Errorf("dsn %q, error %v", s.dsn, err)
	}
}

func TestWrongValuesChangeNothing(t *testing.T) {
	var s settings
	file := write(t, "rate: many\nbatch-age: 5m\nports: [1, x]\n")
	if err := apply(t, &s, file, nil); err == nil {
		t.Fatal("no error")
	}
	if s.rate != 500 || s.age != time.Second || len(s.ports) != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestSecretsStayOutOfErrors(t *testing.T) {
	var s settings
	file := write(t, "sasl-password: [tops, ecret]\nrate: kafka://u:hunter2@h/\nwait: 'http://%zz:hunter2@h'\n")
	err := apply(t, &s, file, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, secret := range []string{"tops", "hunter2"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %s:\n%v", secret, err)
		}
	}
}

// rejections has the expected text of each file in testdata/bad, where FILE stands for its path. The
// environment of all of them is environ below.
var rejections = map[string]string{
	"alias_map.yml":    "configuration: 2 problems\n  FILE:1: base: unknown key: keys are the names of flags\n  FILE:1: base: the value must be a scalar or a list of scalars: settings are not nested",
	"bool.yml":         `configuration: FILE:1: wait: got "si": --wait takes true or false: wait until all is loaded`,
	"config.yml":       "configuration: FILE:1: config: a file cannot name another file",
	"duplicate.yml":    "configuration: FILE:3: rate: the key is there twice",
	"duration.yml":     `configuration: FILE:1: batch-age: got "5": --batch-age takes a duration such as 500ms, 90s or 2h: oldest record of a batch`,
	"help.yml":         "configuration: FILE:1: help: unknown key: keys are the names of flags",
	"int.yml":          `configuration: FILE:1: rate: got "1.5": --rate takes a whole number: events per second`,
	"list.yml":         `configuration: FILE:1: rate: got "1, 2": --rate takes one int, not a list`,
	"list_items.yml":   `configuration: FILE:1: ports: got "80, http": --ports takes a list of whole numbers: ports`,
	"many.yml":         "configuration: 4 problems\n  FILE:1: rat: unknown key: keys are the names of flags; did you mean rate?\n  FILE:1: rat: got \"${ABSENT}\": the environment variable is not set\n  FILE:2: wait: got \"2\": --wait takes true or false: wait until all is loaded\n  FILE:3: log-level: got \"${GONE}\": the environment variable is not set",
	"nested.yml":       "configuration: 2 problems\n  FILE:1: load: unknown key: keys are the names of flags\n  FILE:1: load: the value must be a scalar or a list of scalars: settings are not nested",
	"no_mapping.yml":   "configuration: FILE:1: the file must be a mapping of flag names to values, such as 'rate: 500'",
	"null.yml":         "configuration: FILE:1: rate: there is no value: give one, or leave the key out",
	"syntax.yml":       "configuration: FILE: not YAML: line 2: found a tab character that violates indentation",
	"two_docs.yml":     "configuration: FILE: one document is allowed, there are more",
	"unclosed_var.yml": "configuration: FILE:1: log-level: a ${ has no }; write $${ for the two characters themselves",
	"unknown_key.yml":  "configuration: FILE:1: batch_age: unknown key: keys are the names of flags; did you mean batch-age?",
	"unset_var.yml":    `configuration: FILE:1: clickhouse-dsn: got "${DB_HOST}": the environment variable is not set`,
}

func TestEachBadFileIsRefusedWithItsText(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(rejections) {
		t.Errorf("%d files, %d texts", len(files), len(rejections))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, ok := rejections[filepath.Base(file)]
			if !ok {
				t.Fatal("this file has no text in rejections")
			}
			err := apply(t, new(settings), file, []string{"HOST=x"})
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v", err)
			}
			if got := strings.ReplaceAll(err.Error(), file, "FILE"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestEnvironmentIsRefusedWithItsText(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"WELFAREHUB_RATES=5", "environment: WELFAREHUB_RATES: unknown variable: each variable WELFAREHUB_… sets the flag of that name; did you mean WELFAREHUB_RATE?"},
		{"WELFAREHUB_XYZXYZXYZ=5", "environment: WELFAREHUB_XYZXYZXYZ: unknown variable: each variable WELFAREHUB_… sets the flag of that name"},
		{"WELFAREHUB_RATE=", "environment: WELFAREHUB_RATE: --rate takes a whole number: events per second"},
		{"WELFAREHUB_RATE=x", `environment: WELFAREHUB_RATE: got "x": --rate takes a whole number: events per second`},
		{"WELFAREHUB_HELP=true", "environment: WELFAREHUB_HELP: unknown variable: each variable WELFAREHUB_… sets the flag of that name"},
	} {
		err := apply(t, new(settings), "", []string{c.line})
		if err == nil || !strings.HasPrefix(err.Error(), "configuration: "+c.want) {
			t.Errorf("%s: got %v, want %s", c.line, err, c.want)
		}
	}
}

// FuzzFile says that no file panics, and that a file without a problem gives a setting for each key.
func FuzzFile(f *testing.F) {
	for _, text := range []string{"rate: 1", "rate: ${A}$${B}${", "a: &x [1]\nb: *x", "? {}\n: 1", "---\n---\n", "<<: {rate: 1}", "rate: !!binary aGk="} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var bad Error
		fromYAML("f", raw, []string{"A=1"}, map[string]bool{"rate": true, "wait": true}, &bad)
		bad.sort()
		_ = bad.Error()
	})
}

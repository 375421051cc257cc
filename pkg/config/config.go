// Package config fills the flags of a command from the environment and a file. It promises that a flag
// on the command line wins over the environment, the environment over the file, and the file over the
// default; and that nothing is taken by halves: an unknown name or a bad value is an error, and all of
// them are reported at once, before the command does anything.
package config

import (
	"encoding/csv"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Prefix begins each environment variable that is ours: --http-addr is WELFAREHUB_HTTP_ADDR.
const Prefix = "WELFAREHUB_"

// Variables are the environment variables with our prefix that are no flags. Callers must not change it.
var Variables = []string{
	"WELFAREHUB_E2E",        // tests: which must run
	"WELFAREHUB_KAFKA",      // tests: the cluster to run on
	"WELFAREHUB_CLICKHOUSE", // tests: the server to run on
	"WELFAREHUB_ENGINE",     // path of the engine library, or of a clickhouse binary
}

// fileFlag is the flag that names the file. It can be set by the environment, but not in a file.
const fileFlag = "config"

// noSettings are flags that ask for something once; only a command line has them.
var noSettings = []string{"help", "version"}

// setting is the value that one source gives to a flag.
type setting struct {
	source string   // where it stands: "config.yml:3" or "environment"
	path   string   // as written there: the key, or the variable
	values []string // one, or for a list flag any number
	list   bool     // written as a list
}

// Apply sets the flags of cmd that the command line left alone: from environ (lines NAME=value), else
// from the YAML file at path file; where file is empty, from the one that WELFAREHUB_CONFIG names, if it
// does. A name that is a flag of another command of the same program is accepted and not used, so that
// all commands can share one file and one environment. It returns nil, or an *Error with all that is
// wrong, having set nothing.
func Apply(cmd *cobra.Command, file string, environ []string) error {
	known := flagsOfProgram(cmd)
	var bad Error
	env := fromEnviron(environ, known, &bad)
	if s, ok := env[fileFlag]; ok && file == "" {
		file = s.values[0]
	}
	var inFile map[string]setting
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			bad.add("", "", "", fmt.Sprintf("read configuration file: %v", err))
		} else {
			inFile = fromYAML(file, raw, environ, known, &bad)
		}
	}
	chosen := map[string]setting{}
	for name, s := range inFile {
		chosen[name] = s
	}
	for name, s := range env {
		chosen[name] = s
	}
	todo := map[*pflag.Flag]setting{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		s, ok := chosen[f.Name]
		if !ok || f.Changed || f.Name == fileFlag || slices.Contains(noSettings, f.Name) {
			return
		}
		if rule := check(f, s); rule != "" {
			bad.add(s.source, s.path, shown(f.Name, s), rule)
			return
		}
		todo[f] = s
	})
	if len(bad.Problems) > 0 {
		bad.sort()
		return &bad
	}
	for f, s := range todo {
		if err := set(cmd.Flags(), f, s); err != nil {
			// check has set the same values on a flag of the same type.
			return fmt.Errorf("set flag --%s from %s: %w", f.Name, s.source, err)
		}
	}
	return nil
}

// flagsOfProgram returns the names of all flags of all commands of the program that cmd is of.
func flagsOfProgram(cmd *cobra.Command) map[string]bool {
	known := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		add := func(f *pflag.Flag) { known[f.Name] = true }
		c.Flags().VisitAll(add)
		c.PersistentFlags().VisitAll(add)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(cmd.Root())
	for _, n := range noSettings {
		delete(known, n)
	}
	return known
}

// Variable is the environment variable of a flag.
func Variable(flag string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func fromEnviron(environ []string, known map[string]bool, bad *Error) map[string]setting {
	flags := make(map[string]string, len(known))
	for name := range known {
		flags[Variable(name)] = name
	}
	out := map[string]setting{}
	for _, line := range environ {
		variable, value, _ := strings.Cut(line, "=")
		if !strings.HasPrefix(variable, Prefix) {
			continue
		}
		if name, ok := flags[variable]; ok {
			out[name] = setting{source: "environment", path: variable, values: []string{value}}
			continue
		}
		if !slices.Contains(Variables, variable) {
			bad.add("environment", variable, "", "unknown variable: each variable "+Prefix+"… sets the flag of that name"+didYouMean(variable, flags))
		}
	}
	return out
}

// check tells what is wrong with a value, or "". It tries the value on the flag and puts the old one back,
// because only the flag knows its type.
func check(f *pflag.Flag, s setting) string {
	many, isList := f.Value.(pflag.SliceValue)
	switch {
	case isList:
		values, err := listOf(f, s)
		if err == nil {
			old := slices.Clone(many.GetSlice())
			err = many.Replace(values)
			_ = many.Replace(old) // it came from there
		}
		return ruleOf(f, err)
	case s.list:
		return fmt.Sprintf("--%s takes one %s, not a list", f.Name, f.Value.Type())
	}
	old := f.Value.String()
	err := f.Value.Set(s.values[0])
	// A flag type whose text is not what Set takes (a map, say) stays as tried: then it was taken.
	_ = f.Value.Set(old)
	return ruleOf(f, err)
}

// ruleOf says what a flag takes. The text of err is left out: it repeats the value, which may be secret.
func ruleOf(f *pflag.Flag, err error) string {
	if err == nil {
		return ""
	}
	takes := map[string]string{
		"bool":     "true or false",
		"duration": "a duration such as 500ms, 90s or 2h",
		"int":      "a whole number", "int32": "a whole number", "int64": "a whole number",
		"uint": "a whole number, 0 or more", "uint32": "a whole number, 0 or more", "uint64": "a whole number, 0 or more",
		"float64":  "a number",
		"intSlice": "a list of whole numbers",
	}[f.Value.Type()]
	if takes == "" {
		takes = "a " + f.Value.Type()
	}
	return fmt.Sprintf("--%s takes %s: %s", f.Name, takes, f.Usage)
}

// listOf is the value of a list flag: written as a list, or as text with commas, as on the command line.
func listOf(f *pflag.Flag, s setting) ([]string, error) {
	switch {
	case s.list || strings.HasSuffix(f.Value.Type(), "Array"): // arrays are not split at commas
		return s.values, nil
	case s.values[0] == "":
		return []string{}, nil
	}
	return csv.NewReader(strings.NewReader(s.values[0])).Read()
}

func set(flags *pflag.FlagSet, f *pflag.Flag, s setting) error {
	many, isList := f.Value.(pflag.SliceValue)
	if !isList {
		return flags.Set(f.Name, s.values[0])
	}
	// Set would add to the list that check has put back.
	values, err := listOf(f, s)
	if err == nil {
		err = many.Replace(values)
	}
	f.Changed = err == nil
	return err
}

// shown is a value as an error may show it: without what looks like a secret.
func shown(flag string, s setting) string {
	for _, word := range []string{"password", "secret", "token", "key", "sasl"} {
		if strings.Contains(flag, word) {
			return "(hidden)"
		}
	}
	text := strings.Join(s.values, ", ")
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil {
			return "(hidden)"
		}
		return u.Redacted()
	}
	return text
}

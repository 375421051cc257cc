package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fromYAML reads a file of flat keys, named as the flags. ${VAR} in a value stands for a variable of the
// environment, and $${ for ${ itself. Values are taken as they are written, so that 010 and 1_000 reach
// the flag unchanged and the flag decides.
func fromYAML(file string, raw []byte, environ []string, known map[string]bool, bad *Error) map[string]setting {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil // an empty file sets nothing
	}
	if err != nil {
		bad.add(file, "", "", "not YAML: "+strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		bad.add(file, "", "", "one document is allowed, there are more")
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil // only comments
	}
	if root.Kind != yaml.MappingNode {
		bad.add(at(file, root), "", "", "the file must be a mapping of flag names to values, such as 'rate: 500'")
		return nil
	}
	names := make(map[string]string, len(known))
	for n := range known {
		if n != fileFlag {
			names[n] = n
		}
	}
	out := map[string]setting{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		name := key.Value
		switch {
		case name == fileFlag:
			bad.add(at(file, key), name, "", "a file cannot name another file")
		case names[name] == "":
			bad.add(at(file, key), name, "", "unknown key: keys are the names of flags"+didYouMean(name, names))
		case slices.Contains(written(root, i), name):
			bad.add(at(file, key), name, "", "the key is there twice")
		default:
			s := setting{source: at(file, key), path: name}
			if s.read(value, environ, bad) {
				out[name] = s
			}
			continue
		}
		// The value is read all the same, to report what is wrong in it.
		s := setting{source: at(file, key), path: name}
		s.read(value, environ, bad)
	}
	return out
}

// written returns the keys of a mapping before index i.
func written(root *yaml.Node, i int) []string {
	var out []string
	for j := 0; j < i; j += 2 {
		out = append(out, root.Content[j].Value)
	}
	return out
}

func at(file string, n *yaml.Node) string { return fmt.Sprintf("%s:%d", file, n.Line) }

// read takes the values of a node: a scalar, or a list of scalars. It reports what is wrong and returns false.
func (s *setting) read(n *yaml.Node, environ []string, bad *Error) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		s.list, items = true, n.Content
	}
	ok := true
	for _, item := range items {
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		switch {
		case item.Kind != yaml.ScalarNode:
			bad.add(s.source, s.path, "", "the value must be a scalar or a list of scalars: settings are not nested")
			ok = false
			continue
		case item.Tag == "!!null":
			bad.add(s.source, s.path, "", "there is no value: give one, or leave the key out")
			ok = false
			continue
		}
		text, missing, closed := expand(item.Value, environ)
		for _, m := range missing {
			bad.add(s.source, s.path, "${"+m+"}", "the environment variable is not set")
			ok = false
		}
		if !closed {
			bad.add(s.source, s.path, "", "a ${ has no }; write $${ for the two characters themselves")
			ok = false
		}
		s.values = append(s.values, text)
	}
	return ok
}

// expand replaces each ${VAR}, names the variables that are not there, and tells whether each ${ has its }.
func expand(text string, environ []string) (out string, missing []string, closed bool) {
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			return b.String() + text, missing, true
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		b.WriteString(text[:i])
		name, rest, ok := strings.Cut(text[i+2:], "}")
		if !ok {
			return b.String(), missing, false
		}
		if value, ok := lookup(environ, name); ok {
			b.WriteString(value)
		} else {
			missing = append(missing, name)
		}
		text = rest
	}
}

func lookup(environ []string, name string) (string, bool) {
	for _, line := range slices.Backward(environ) { // the last one counts, as in os/exec
		if n, value, _ := strings.Cut(line, "="); n == name {
			return value, name != ""
		}
	}
	return "", false
}

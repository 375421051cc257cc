package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error lists all that is wrong with the configuration. The command must not run; its exit code is the
// one for wrong usage.
type Error struct{ Problems []Problem }

// Problem is one thing that is wrong.
type Problem struct {
	Source string // "environment", or file:line; empty for the file as a whole
	Path   string // the variable or key as written
	Value  string // the value, where it is known; secrets are hidden
	Rule   string // what is allowed
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Source != "" {
		b.WriteString(p.Source + ": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	if p.Value != "" {
		fmt.Fprintf(&b, "got %q: ", p.Value)
	}
	return b.String() + p.Rule
}

// Error is one line for one problem; for more, a line each beneath a heading.
func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0].String()
	}
	lines := make([]string, 0, 1+len(e.Problems))
	lines = append(lines, fmt.Sprintf("configuration: %d problems", len(e.Problems)))
	for _, p := range e.Problems {
		lines = append(lines, "  "+p.String())
	}
	return strings.Join(lines, "\n")
}

func (e *Error) add(source, path, value, rule string) {
	e.Problems = append(e.Problems, Problem{source, path, value, rule})
}

// sort orders the problems by place, so that the text does not depend on the order of a map.
func (e *Error) sort() {
	slices.SortStableFunc(e.Problems, func(a, b Problem) int {
		fileA, lineA := splitLine(a.Source)
		fileB, lineB := splitLine(b.Source)
		return cmp.Or(cmp.Compare(fileA, fileB), cmp.Compare(lineA, lineB), cmp.Compare(a.Path, b.Path))
	})
}

// splitLine takes file:line apart.
func splitLine(source string) (file string, line int) {
	at := strings.LastIndexByte(source, ':')
	if at < 0 {
		return source, 0
	}
	if _, err := fmt.Sscanf(source[at+1:], "%d", &line); err != nil {
		return source, 0
	}
	return source[:at], line
}

// didYouMean names the key of names that is nearest to name, where one is near.
func didYouMean(name string, names map[string]string) string {
	letters := len(name)
	if strings.HasPrefix(name, Prefix) {
		letters -= len(Prefix)
	}
	best, least := "", max(1, letters/3)+1
	for n := range names {
		if d := distance(name, n); d < least || d == least && best != "" && n < best {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the number of single-letter edits between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

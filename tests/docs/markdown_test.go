// Package docs tests that the documentation is true: what it shows is run, what it links to is there. This
// file reads Markdown.
package docs

import (
	"regexp"
	"strings"
)

// block is a fenced block of a document.
type block struct {
	language string
	line     int // of its first line, from 1
	text     string
}

var fence = regexp.MustCompile("^(\\s*)```(\\w*)")

// blocks returns the fenced blocks of a document, without the indentation that a list gives them.
func blocks(document string) []block {
	var out []block
	var open *block
	indent := ""
	for i, line := range strings.Split(document, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m == nil && open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case m != nil && open == nil:
			indent = m[1]
			open = &block{language: m[2], line: i + 2}
		case m != nil:
			out = append(out, *open)
			open = nil
		}
	}
	return out
}

// prose returns a document without its fenced blocks, with the same lines.
func prose(document string) string {
	lines := strings.Split(document, "\n")
	inside := false
	for i, line := range lines {
		if fence.MatchString(line) {
			inside = !inside
			lines[i] = ""
		} else if inside {
			lines[i] = ""
		}
	}
	return strings.Join(lines, "\n")
}

// commands splits a block of shell into commands: lines, those that end with a backslash joined; of a
// console block only what follows a $. Comments are left out.
func commands(b block) []string {
	var out []string
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if b.language == "console" {
			after, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				continue
			}
			line = after
		}
		if at := strings.Index(line, " # "); at >= 0 {
			line = strings.TrimSpace(line[:at])
		}
		if line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// statements splits a block of SQL at the semicolons that end a line, and leaves comments out.
func statements(b block) []string {
	var out []string
	var kept []string
	for line := range strings.Lines(b.text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			kept = append(kept, line)
		}
	}
	for s := range strings.SplitSeq(strings.Join(kept, "")+"\n", ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

var span = regexp.MustCompile("`([^`\n]+)`")

// spans returns the code spans of the prose of a document.
func spans(document string) []string {
	var out []string
	for _, m := range span.FindAllStringSubmatch(prose(document), -1) {
		out = append(out, m[1])
	}
	return out
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// links returns the targets of the links of a document.
func links(document string) []string {
	var out []string
	for _, m := range link.FindAllStringSubmatch(span.ReplaceAllString(prose(document), ""), -1) {
		out = append(out, m[1])
	}
	return out
}

var dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchors returns the anchors that the headings of a document have.
func anchors(document string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(prose(document)) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		title := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		out[strings.ReplaceAll(dropped.ReplaceAllString(title, ""), " ", "-")] = true
	}
	return out
}

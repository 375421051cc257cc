package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// workingPaper is the plan of the issue in hand; it is deleted when the issue ends.
const workingPaper = "docs/plan.md"

// documents returns the Markdown files that people read, by their path from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "producers/*/*.md", "consumers/*/*.md", "pkg/*/*.md", "deploy/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			name := filepath.ToSlash(strings.TrimPrefix(p, root+"/"))
			raw, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if name != workingPaper {
				out[name] = string(raw)
			}
		}
	}
	if len(out) < 8 {
		t.Fatalf("only %d documents found", len(out))
	}
	return out
}

// TestLinksResolve follows the links between files of the project, with their anchors.
func TestLinksResolve(t *testing.T) {
	docs := documents(t)
	for name, text := range docs {
		for _, target := range links(text) {
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			to := name
			if file != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
				if _, err := os.Stat(filepath.Join(root, to)); err != nil {
					t.Errorf("%s links to %s, which is not there", name, target)
					continue
				}
			}
			if other, ok := docs[to]; ok && anchor != "" && !anchors(other)[anchor] {
				t.Errorf("%s links to %s, and %s has no heading of that name", name, target, to)
			}
		}
	}
}

// path is a code span that names a file or folder of the project. A * stands for any name.
var path = regexp.MustCompile(`^(cmd|consumers|producers|pkg|schemas|web|internal|deploy|docs|tests|\.ci)(/[\w.*-]+)*/?$`)

// TestPathsExist looks for the files and folders that documents name.
func TestPathsExist(t *testing.T) {
	for name, text := range documents(t) {
		for _, s := range spans(text) {
			// A part that a package would be written as, pkg/clickhouse.Open, is no path.
			if !path.MatchString(s) {
				continue
			}
			found, err := filepath.Glob(filepath.Join(root, s))
			if err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which is not there", name, s)
			}
		}
	}
}

// TestMakeTargetsExist looks for the targets that documents name, in prose and in blocks.
func TestMakeTargetsExist(t *testing.T) {
	targets := makeTargets(t)
	named := regexp.MustCompile(`\bmake ([a-z][a-z-]+)\b`)
	for name, text := range documents(t) {
		var code []string
		code = append(code, spans(text)...)
		for _, b := range blocks(text) {
			if b.language == "sh" || b.language == "console" {
				code = append(code, commands(b)...)
			}
		}
		for _, s := range code {
			for _, m := range named.FindAllStringSubmatch(s, -1) {
				if strings.HasPrefix(s, "make ") && !slices.Contains(targets, m[1]) {
					t.Errorf("%s: make has no target %s; there are %s", name, m[1], strings.Join(targets, ", "))
				}
			}
		}
	}
}

func makeTargets(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(string(raw), -1) {
		out = append(out, m[1])
	}
	return out
}

func TestMarkdownIsReadAsMeant(t *testing.T) {
	const document = "# A b, `c`!\ntext `span` [x](y.md#z) `[no](link)`\n1. item\n   ```sh\n   one \\\n     two\n   # no\n   three # no\n   ```\n```console\n$ four\noutput\n```\n```sql\n-- no\nSELECT 1;\nSELECT ';' ;\n```\n"
	var got []string
	for _, b := range blocks(document) {
		if b.language == "sql" {
			got = append(got, statements(b)...)
		} else {
			got = append(got, commands(b)...)
		}
	}
	if want := []string{"one    two", "three", "four", "SELECT 1", "SELECT ';' "}; !slices.EqualFunc(got, want, func(a, b string) bool {
		return strings.Join(strings.Fields(a), " ") == strings.Join(strings.Fields(b), " ")
	}) {
		t.Errorf("commands and statements: %q, want %q", got, want)
	}
	if got, want := spans(document), []string{"c", "span", "[no](link)"}; !slices.Equal(got, want) {
		t.Errorf("spans: %q, want %q", got, want)
	}
	if got, want := links(document), []string{"y.md#z"}; !slices.Equal(got, want) {
		t.Errorf("links: %q, want %q", got, want)
	}
	if !anchors(document)["a-b-c"] {
		t.Errorf("anchors: %v", anchors(document))
	}
}

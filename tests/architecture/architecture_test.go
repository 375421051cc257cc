// Package architecture tests what a compiler and a linter cannot: which package may import which, and the
// house rules on the files of the project. Each failure says what to do instead.
package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/welfarehub/welfarehub"

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath, Name, Doc              string
	Imports, TestImports, XTestImports []string
	Deps                               []string
	GoFiles                            []string
	Error                              *struct{ Err string }
}

// folder is the package's path in the module, "pkg/event".
func (p goPackage) folder() string { return folder(p.ImportPath) }

func folder(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

var packages = sync.OnceValues(func() ([]goPackage, error) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Doc,Imports,TestImports,XTestImports,Deps,GoFiles,Error", module+"/...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(stderr.String()))
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

func list(t *testing.T) []goPackage {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if len(all) < 20 {
		t.Fatalf("go list finds %d packages only", len(all))
	}
	return all
}

// layers say what a part of the tree may import of the module besides itself. The first that is a prefix
// of a folder counts.
var layers = []struct {
	part string
	may  []string
}{
	{"schemas", nil},
	{"pkg", []string{"schemas"}},
	{"producers", []string{"pkg", "schemas"}},
	{"consumers", []string{"pkg", "schemas"}},
	{"web", []string{"pkg", "schemas"}},
	{"cmd", []string{"producers", "consumers", "web", "pkg", "schemas"}},
	// Tools and tests are beside the layers; nothing imports them.
	{"internal", []string{"pkg", "schemas"}},
	{"bench", []string{"producers", "consumers", "pkg", "schemas"}},
	{"deploy", []string{"pkg", "schemas"}},
	{"tests", []string{"cmd", "producers", "consumers", "web", "pkg", "schemas"}},
}

// islands are parts whose folders never import one another: they meet at topics and tables.
var islands = []string{"producers", "consumers", "cmd", "internal", "deploy"}

func top(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return first
}

// island is the first two elements of a folder, "consumers/load".
func island(folder string) string {
	parts := strings.SplitN(folder, "/", 3)
	return path.Join(parts[:min(2, len(parts))]...)
}

// refusal says why from must not import to, or "".
func refusal(from, to string) string {
	part := top(from)
	for _, l := range layers {
		if l.part != part {
			continue
		}
		switch {
		case slices.Contains(l.may, top(to)):
			return ""
		case top(to) != part:
			return "the way is cmd → producers, consumers, web → pkg → schemas, never upward; move what both need into pkg"
		case slices.Contains(islands, part) && island(from) != island(to):
			return "folders of " + part + " never import one another; they meet at topics and tables, or share a package in pkg"
		}
		return ""
	}
	return "the folder has no layer; give it one in tests/architecture"
}

func TestRefusalKnowsTheLayers(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		ok       bool
	}{
		{"cmd/welfarehub", "consumers/load", true},
		{"consumers/load", "pkg/event", true},
		{"consumers/load", "consumers/load/inner", true},
		{"consumers/load", "consumers/aggregate", false},
		{"consumers/load", "producers/simulate", false},
		{"producers/publish", "producers/simulate", false},
		{"producers/publish", "web/api", false},
		{"web/api", "consumers/reconcile", false},
		{"pkg/event", "pkg/codes", true},
		{"pkg/event", "schemas", true},
		{"pkg/registry", "web/api", false},
		{"pkg/broker", "cmd/welfarehub", false},
		{"schemas", "pkg/event", false},
		{"pkg/event", "internal/gen", false},
		{"elsewhere", "pkg/event", false},
	} {
		if got := refusal(tc.from, tc.to); (got == "") != tc.ok {
			t.Errorf("%s imports %s: %q", tc.from, tc.to, got)
		}
	}
}

func TestImportsFollowTheWayOfTheData(t *testing.T) {
	for _, p := range list(t) {
		if p.Error != nil {
			t.Logf("%s: %s", p.ImportPath, p.Error.Err)
		}
		for _, imports := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, to := range imports {
				if !ours(to) || to == p.ImportPath {
					continue
				}
				if why := refusal(p.folder(), folder(to)); why != "" {
					t.Errorf("%s imports %s: %s", p.folder(), folder(to), why)
				}
			}
		}
	}
}

// pure packages compute and nothing else: no network, no driver, no logger. They are what rules, hashes
// and the oracle are made of, and are fuzzed and reasoned about as such.
var pure = []string{"pkg/event", "pkg/validate", "pkg/dedup", "pkg/privacy", "pkg/codes", "pkg/model"}

func TestPurePackagesImportNoAdapters(t *testing.T) {
	banned := []string{
		"net/http", "os/exec", "database/sql", "go.uber.org/zap", "github.com/spf13",
		"github.com/segmentio/kafka-go", "github.com/twmb/franz-go", "github.com/ClickHouse",
	}
	allowed := append(slices.Clone(pure), "schemas")
	found := 0
	for _, p := range list(t) {
		if !slices.Contains(pure, p.folder()) {
			continue
		}
		found++
		for _, dep := range p.Deps { // whatever way it comes in
			if ours(dep) && !slices.Contains(allowed, folder(dep)) {
				t.Errorf("%s depends on the adapter %s; let the caller hand in what is needed", p.folder(), folder(dep))
			}
			for _, b := range banned {
				if dep == b || strings.HasPrefix(dep, b+"/") {
					t.Errorf("%s depends on %s; only adapters may", p.folder(), dep)
				}
			}
		}
		for _, no := range []string{"net", "os"} { // hamba/avro brings them in, for its own
			if slices.Contains(p.Imports, no) {
				t.Errorf("%s imports %s; only adapters may", p.folder(), no)
			}
		}
	}
	if found != len(pure) {
		t.Errorf("%d of %d pure packages are there; was one renamed?", found, len(pure))
	}
}

// testOnly packages are helpers of tests; the program must not carry them.
var testOnly = []string{"pkg/testkit", "pkg/testkit/hubtest", "pkg/validate/validtest", "pkg/metrics/metricstest"}

func TestTheProgramImportsNoTestHelpers(t *testing.T) {
	for _, p := range list(t) {
		if top(p.folder()) == "tests" || slices.Contains(testOnly, p.folder()) {
			continue
		}
		for _, to := range p.Imports {
			if to == "testing" || ours(to) && (slices.Contains(testOnly, folder(to)) || top(folder(to)) == "tests") {
				t.Errorf("%s imports %s outside its tests", p.folder(), to)
			}
		}
	}
}

func TestPackagesAreNamedForWhatTheyDoAndHaveADoc(t *testing.T) {
	empty := []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "lib", "shared", "types"}
	for _, p := range list(t) {
		if slices.Contains(empty, p.Name) || slices.Contains(empty, path.Base(p.ImportPath)) {
			t.Errorf("package %s: the name says nothing; name it for what it does", p.folder())
		}
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		begin := "Package " + p.Name + " "
		if p.Name == "main" {
			begin = "Command "
		}
		if !strings.HasPrefix(p.Doc, begin) {
			t.Errorf("%s: its package doc must begin %q, and say what it does for whom and what it promises; it is %q", p.folder(), begin, p.Doc)
		}
	}
}

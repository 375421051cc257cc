package architecture

import (
	"bytes"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// file is a tracked text file.
type file struct {
	name string // from the root of the project
	text string
}

// plan is the working paper of the issue in hand: it is deleted when the issue ends, and may name what
// files that stay must not.
const plan = "docs/plan.md"

// tracked reads all text files that git knows, save this folder, which has to spell what it forbids.
func tracked(t *testing.T) []file {
	t.Helper()
	out, err := exec.Command("git", "-C", "../..", "ls-files", "-z").Output()
	if err != nil {
		if os.Getenv("WELFAREHUB_E2E") == "1" {
			t.Fatalf("list files: %v", err)
		}
		t.Skipf("this is no git work tree: %v", err)
	}
	var files []file
	for name := range strings.SplitSeq(string(out), "\x00") {
		if name == "" || name == plan || strings.HasPrefix(name, "tests/architecture/") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("../..", name))
		if os.IsNotExist(err) {
			continue // deleted, not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(raw[:min(len(raw), 8000)], 0) < 0 {
			files = append(files, file{name, string(raw)})
		}
	}
	if len(files) < 100 {
		t.Fatalf("git lists %d text files only", len(files))
	}
	return files
}

// lineOf is the number of the line at which an offset stands.
func (f file) lineOf(offset int) int { return 1 + strings.Count(f.text[:offset], "\n") }

func (f file) forbid(t *testing.T, re *regexp.Regexp, instead string) {
	t.Helper()
	for _, at := range re.FindAllStringIndex(f.text, 5) {
		t.Errorf("%s:%d: %q: %s", f.name, f.lineOf(at[0]), f.text[at[0]:at[1]], instead)
	}
}

func TestNothingIsPutOff(t *testing.T) {
	re := regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)
	for _, f := range tracked(t) {
		f.forbid(t, re, "do it now, or file an issue and say in words what is not there yet")
	}
}

func TestFilesNameNoMachine(t *testing.T) {
	re := regexp.MustCompile(`(^|[^\w.])/(work|tmp/spike|root|home/\w+)/|\.\./shared/`)
	for _, f := range tracked(t) {
		f.forbid(t, re, "name no path of a machine; use a path in the project or a temporary folder")
	}
}

// hosts may be named in files: documentation, licences, examples. Everything is fetched through the
// configured registries of Go, npm, pip and Maven, so no other host has a place in the tree.
var hosts = []string{
	"github.com", "www.apache.org", "maven.apache.org", "json.schemastore.org", "www.w3.org", "keepachangelog.com", "semver.org",
	"registry", "broker", "clickhouse", "kafka", "host", "hub", "u", "h", "welfarehub", "localhost", // examples and parts of compose
}

func TestFilesNameNoHost(t *testing.T) {
	re := regexp.MustCompile(`https?://[^\s"'<>)\x60,;|]+`)
	for _, f := range tracked(t) {
		for _, at := range re.FindAllStringIndex(f.text, -1) {
			raw := f.text[at[0]:at[1]]
			u, err := url.Parse(raw)
			if err != nil || strings.ContainsAny(u.Host, "%${}") {
				continue // made at run time, or wrong on purpose
			}
			host := u.Hostname()
			ip := net.ParseIP(host)
			switch {
			case host == "", slices.Contains(hosts, host):
			case ip != nil && (ip.IsLoopback() || ip.IsUnspecified()):
			case strings.HasSuffix(host, ".example.org"), host == "example.org", strings.HasSuffix(host, ".example"), strings.HasSuffix(host, ".invalid"):
			default:
				t.Errorf("%s:%d: host %s in %q: name no host but those of hosts in tests/architecture; packages come from the configured registries", f.name, f.lineOf(at[0]), host, raw)
			}
		}
	}
}

// TestFilesNameNoRegistry looks for the registries that this machine uses, however they are written.
func TestFilesNameNoRegistry(t *testing.T) {
	names := []string{
		"registry.npmjs.org", "proxy.golang.org", "sum.golang.org", "files.pythonhosted.org", "pypi.org",
		"repo1.maven.org", "repo.maven.apache.org", "registry-1.docker.io", "index.docker.io",
	}
	values := []string{os.Getenv("npm_config_registry"), os.Getenv("NPM_CONFIG_REGISTRY"), os.Getenv("PIP_INDEX_URL"), os.Getenv("UV_INDEX_URL")}
	for _, of := range []string{"GOPROXY", "GOSUMDB"} {
		if out, err := exec.Command("go", "env", of).Output(); err == nil {
			values = append(values, strings.FieldsFunc(string(out), func(r rune) bool { return strings.ContainsRune(",| \n", r) })...)
		}
	}
	for _, v := range values {
		if u, err := url.Parse(strings.TrimSpace(v)); err == nil && u.Hostname() != "" {
			names = append(names, u.Hostname())
		}
	}
	for _, f := range tracked(t) {
		for _, n := range names {
			if net.ParseIP(n) != nil || !strings.Contains(n, ".") {
				continue // would be found in texts that mean something else
			}
			if at := strings.Index(f.text, n); at >= 0 {
				t.Errorf("%s:%d: names a package registry: leave the choice to the configuration of the machine", f.name, f.lineOf(at))
			}
		}
	}
}

// maxLines is where a file is to be split, by concept.
const maxLines = 700

func TestFilesAreOfReadableSize(t *testing.T) {
	generated := regexp.MustCompile(`(?i)(generated|made) (by|from) .*do not edit`)
	for _, f := range tracked(t) {
		head := f.text[:min(len(f.text), 400)]
		switch filepath.Ext(f.name) {
		case ".csv", ".sum", ".json":
			continue
		}
		if strings.Contains(f.name, "testdata/") || generated.MatchString(head) || f.name == "LICENSE" {
			continue
		}
		if n := strings.Count(f.text, "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by concept", f.name, n, maxLines)
		}
	}
}

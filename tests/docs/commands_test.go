package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shown are the documents whose blocks are run.
var shown = []string{"README.md", "docs/*.md", "producers/publish/README.md"}

// notRun are commands, by how they begin, that are not run, each with the reason. They must be there.
var notRun = map[string]string{
	"for t in $(cat topics.txt); do kafka-topics.sh":             "Kafka's own tools need Java and a cluster of three",
	"for t in $(grep -v outcome topics.txt); do kafka-topics.sh": "the same",
	"kafka-delete-records.sh":                                    "the same",
}

// parsedOnly are statements, by how they begin, that the embedded engine cannot execute; it says whether
// they are written right.
var parsedOnly = map[string]string{
	"CREATE USER":     "the embedded engine takes its users from a file",
	"CREATE QUOTA":    "the same",
	"KILL QUERY":      "only a user who may: the embedded engine does it by itself",
	"GRANT":           "the same; the rights were tried on it with users of that file",
	"BACKUP DATABASE": "the embedded engine has no disk for backups",
}

// serving are the commands that run until they are told to stop.
var serving = []string{"welfarehub load ", "welfarehub serve ", "welfarehub registry "}

// TestCommandsOfTheDocumentsWork runs all that is shown, in the order in which it is shown, against one
// hub on free ports.
func TestCommandsOfTheDocumentsWork(t *testing.T) {
	h := startHub(t)
	h.mustRun(t, "welfarehub simulate --events 2000 --wall-clock --kafka-brokers broker:9092 --registry-url http://registry:8081")
	used := map[string]bool{}
	excused := func(reasons map[string]string, text string) bool {
		for prefix := range reasons {
			if strings.HasPrefix(text, prefix) {
				used[prefix] = true
				return true
			}
		}
		return false
	}
	for _, pattern := range shown {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			name := strings.TrimPrefix(path, root+"/")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if name == workingPaper {
				continue
			}
			for _, b := range blocks(string(raw)) {
				t.Run(fmt.Sprintf("%s:%d", filepath.Base(name), b.line), func(t *testing.T) {
					switch b.language {
					case "sh", "console":
						for _, c := range commands(b) {
							switch {
							case excused(notRun, c):
							case strings.HasPrefix(c, "make "): // TestMakeTargetsExist
							case slices.ContainsFunc(serving, func(s string) bool { return strings.HasPrefix(c, s) }):
								h.runUntilReady(t, c)
							default:
								h.mustRun(t, c)
							}
						}
					case "sql":
						for _, s := range statements(b) {
							if excused(parsedOnly, s) {
								h.mustQuery(t, "hub", "SELECT formatQuery('"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s)+"') FORMAT Null")
								continue
							}
							user := "planner"
							if strings.Contains(s, "store.") {
								user = "hub"
							}
							h.mustQuery(t, user, s)
						}
					case "yaml":
						h.checkSettings(t, b)
					case "", "text", "json", "csv": // pictures and examples
					default:
						t.Errorf("a block of %s: tell tests/docs how to try it", b.language)
					}
				})
			}
		}
	}
	for _, reasons := range []map[string]string{notRun, parsedOnly} {
		for prefix := range reasons {
			if !used[prefix] && !t.Failed() {
				t.Errorf("no document shows %q any more: take it off the list", prefix)
			}
		}
	}
}

// hub is a running `welfarehub up`.
type hub struct {
	dir      string // working folder of commands, with the project's files in it
	env      []string
	password string
	http     string // ClickHouse by HTTP
	replace  *strings.Replacer
}

// binary is the built hub; WELFAREHUB_E2E=1 requires it.
func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin/welfarehub"))
	if err != nil {
		t.Fatal(err)
	}
	gate := os.Getenv("WELFAREHUB_E2E")
	if gate == "0" {
		t.Skip("WELFAREHUB_E2E=0")
	}
	if _, err := os.Stat(path); err != nil {
		if gate == "1" {
			t.Fatalf("%v: run make build", err)
		}
		t.Skip("bin/welfarehub is not built: run make build")
	}
	return path
}

func startHub(t *testing.T) *hub {
	t.Helper()
	bin := binary(t)
	dir, data, ready := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "ready.json")
	out, err := os.Create(filepath.Join(t.TempDir(), "up.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "up", "--no-demo", "--data", data, "--ready-file", ready, "--log-level", "warn",
		"--http", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--registry", "127.0.0.1:0", "--clickhouse-native", "127.0.0.1:0", "--clickhouse-http", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = root // where the engine library is
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-done
		}
		if raw, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("the hub said:\n%s", raw)
		}
		_ = out.Close()
	})
	var addr struct {
		HTTP, Kafka, Registry string
		Native                string `json:"clickhouse_native"`
		ClickHouse            string `json:"clickhouse_http"`
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if raw, err := os.ReadFile(ready); err == nil {
			if err := json.Unmarshal(raw, &addr); err != nil {
				t.Fatal(err)
			}
			break
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("up ended before it was ready: %v", err)
		default:
		}
		if time.Now().After(end) {
			t.Fatal("up is not ready after two minutes")
		}
	}
	password, err := os.ReadFile(filepath.Join(data, "clickhouse.password"))
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{dir: dir, http: addr.ClickHouse, password: strings.TrimSpace(string(password))}
	h.replace = strings.NewReplacer(
		"clickhouse://welfarehub:secret@clickhouse:9000/", "clickhouse://"+url.UserPassword("hub", h.password).String()+"@"+addr.Native+"/",
		"clickhouse://planner:secret@clickhouse:9000/", "clickhouse://planner@"+addr.Native+"/",
		"broker:9092", addr.Kafka, "http://registry:8081", addr.Registry, "http://127.0.0.1:8080", addr.HTTP,
		"0.0.0.0:8080", "127.0.0.1:0", "0.0.0.0:8081", "127.0.0.1:0",
	)
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join(abs, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	h.env = append(os.Environ(), "PATH="+filepath.Dir(bin)+string(os.PathListSeparator)+os.Getenv("PATH"))
	return h
}

// shell makes a command of a line of a document, with the addresses of this hub in the place of those shown.
func (h *hub) shell(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", h.replace.Replace(line))
	cmd.Dir, cmd.Env = h.dir, h.env
	return cmd
}

func (h *hub) mustRun(t *testing.T, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := h.shell(ctx, line).CombinedOutput(); err != nil {
		t.Errorf("%s\n%v\n%s", line, err, out)
	}
}

// runUntilReady starts a command that serves, lets it come up, interrupts it and wants exit code 0.
func (h *hub) runUntilReady(t *testing.T, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := h.shell(ctx, "exec "+line)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		t.Errorf("%s\nended by itself: %v\n%s", line, err, out.String())
		return
	case <-time.After(3 * time.Second): // load has no sign that it is ready
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("%s\nafter an interrupt: %v\n%s", line, err, out.String())
	}
	if text := out.String(); strings.Contains(text, `"level":"error"`) {
		t.Errorf("%s\nlogged an error:\n%s", line, text)
	}
}

// mustQuery runs one statement by HTTP.
func (h *hub) mustQuery(t *testing.T, user, statement string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.http+"/", strings.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-ClickHouse-User", user)
	if user == "hub" {
		req.Header.Set("X-ClickHouse-Key", h.password)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("%s\nas %s: %s %v\n%s", statement, user, res.Status, err, body)
	}
}

// checkSettings gives a YAML block that begins with "# welfarehub.yml" to commands that read it. A bad
// log level stops them once the file has been understood. Other YAML is for publish, whose own tests try it.
func (h *hub) checkSettings(t *testing.T, b block) {
	t.Helper()
	if !strings.HasPrefix(b.text, "# welfarehub.yml") {
		return
	}
	file := filepath.Join(h.dir, "welfarehub.yml")
	if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"load", "serve", "registry", "reconcile", "replay", "dlq redrive --dry-run"} {
		cmd := h.shell(t.Context(), "welfarehub "+command+" --config welfarehub.yml --log-level none")
		cmd.Env = append(slices.Clone(h.env), "CLICKHOUSE_PASSWORD=p")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), `--log-level "none"`) || strings.Contains(string(out), "configuration:") {
			t.Errorf("%s does not take the settings: %v\n%s", command, err, out)
		}
	}
}

// TestCommandsNamedInProseExist asks --help for each command and flag that a document names in passing.
func TestCommandsNamedInProseExist(t *testing.T) {
	bin := binary(t)
	help := map[string]string{}
	helpOf := func(t *testing.T, args ...string) string {
		key := strings.Join(args, " ")
		if _, ok := help[key]; !ok {
			out, err := exec.CommandContext(t.Context(), bin, append(args, "--help")...).CombinedOutput()
			if err != nil {
				t.Errorf("welfarehub %s --help: %v\n%s", key, err, out)
			}
			help[key] = string(out)
		}
		return help[key]
	}
	word := regexp.MustCompile(`^[a-z]+$`)
	flag := regexp.MustCompile(`--[a-z][a-z-]+`)
	var every strings.Builder // flags named alone may be of any command
	for _, c := range []string{"up", "migrate", "schema check", "schema register", "registry", "simulate", "publish", "load", "serve", "reconcile", "replay", "dlq list", "dlq redrive", "dlq export", "rebuild aggregates"} {
		every.WriteString(helpOf(t, strings.Fields(c)...))
	}
	has := func(help, flag string) bool {
		return strings.Contains(help, flag+" ") || strings.Contains(help, flag+"\n")
	}
	for name, text := range documents(t) {
		if strings.HasPrefix(name, "docs/decisions/") || name == "CHANGELOG.md" {
			continue // they tell what was
		}
		for _, s := range spans(text) {
			s = strings.TrimPrefix(s, "bin/")
			if strings.HasPrefix(s, "--") {
				if f := flag.FindString(s); f != "" && !has(every.String(), f) {
					t.Errorf("%s names %s, which no command has", name, f)
				}
				continue
			}
			rest, ok := strings.CutPrefix(s, "welfarehub ")
			if !ok {
				continue
			}
			var args []string
			for _, w := range strings.Fields(rest) {
				if !word.MatchString(w) || len(args) == 2 || len(args) == 1 && args[0] != "schema" && args[0] != "dlq" && args[0] != "rebuild" {
					break
				}
				args = append(args, w)
			}
			text := helpOf(t, args...)
			for _, f := range flag.FindAllString(s, -1) {
				if !has(text, f) {
					t.Errorf("%s names %q, and welfarehub %s has no %s", name, s, strings.Join(args, " "), f)
				}
			}
		}
	}
}

package containers

import (
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

// The command line is what a user has, in whichever version: Docker's own compose, or docker-compose 1.29 of Debian. The
// library of testcontainers would test another program, and bring some hundred modules.

// compose is docker-compose.yml, brought up as a project of its own.
type compose struct {
	command []string // docker compose, or docker-compose
	project string
}

// composeCommand finds the program.
func composeCommand(t *testing.T) []string {
	t.Helper()
	if _, code := run(t, "", "docker", "compose", "version"); code == 0 {
		return []string{"docker", "compose"}
	}
	if _, err := exec.LookPath("docker-compose"); err == nil {
		return []string{"docker-compose"}
	}
	t.Fatal("there is neither docker compose nor docker-compose: run the tests by deploy/images/run.sh")
	return nil
}

// run runs a compose command on the project.
func (c *compose) run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	all := slices.Concat(c.command, []string{"-f", "../../docker-compose.yml", "-p", c.project}, args)
	return run(t, "", all[0], all[1:]...)
}

// state is what Docker says of a container.
type state struct {
	Config struct{ Labels map[string]string }
	State  struct {
		Status   string
		ExitCode int
		Health   *struct {
			Status string
			Log    []struct{ Output string }
		}
	}
	RestartCount int
	ID           string `json:"Id"`
}

func (s state) String() string {
	out := fmt.Sprintf("%s, exit code %d, %d restarts", s.State.Status, s.State.ExitCode, s.RestartCount)
	if h := s.State.Health; h != nil {
		out += ", " + h.Status
		if n := len(h.Log); n > 0 && h.Status != "healthy" {
			out += ", said: " + strings.TrimSpace(h.Log[n-1].Output)
		}
	}
	return out
}

// containers are the project's containers by service.
func (c *compose) containers(t *testing.T) map[string]state {
	t.Helper()
	out := map[string]state{}
	ids := strings.Fields(must(t, "docker", "ps", "-aq", "--no-trunc", "--filter", "label=com.docker.compose.project="+c.project))
	if len(ids) == 0 {
		return out
	}
	var all []state
	if err := json.Unmarshal([]byte(must(t, "docker", append([]string{"inspect"}, ids...)...)), &all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		out[s.Config.Labels["com.docker.compose.service"]] = s
	}
	return out
}

// up brings the project up with the images of the environment, on free ports, and waits for the health of each service.
// It is taken down with the test, volumes too.
func up(t *testing.T) *compose {
	t.Helper()
	c := &compose{command: composeCommand(t), project: os.Getenv("COMPOSE_PROJECT_NAME")}
	if c.project == "" {
		c.project = fmt.Sprintf("welfarehub-test-%d", os.Getpid())
	}
	for i, port := range freePorts(t, 5) {
		t.Setenv([]string{"KAFKA_PORT", "CLICKHOUSE_HTTP_PORT", "CLICKHOUSE_PORT", "REGISTRY_PORT", "HTTP_PORT"}[i], port)
	}
	t.Setenv("CLICKHOUSE_PASSWORD", "secret-of-this-test")
	t.Cleanup(func() { c.down(t) })
	if out, code := c.run(t, "up", "-d", "--no-build"); code != 0 {
		t.Fatalf("up: exit code %d\n%s", code, out)
	}
	healthy := []string{"kafka", "clickhouse", "registry", "serve"}
	eventually(t, "all services are healthy", 2*time.Minute, func(context.Context) (bool, string) {
		all, bad := c.containers(t), []string{}
		for _, name := range healthy {
			if s, ok := all[name]; !ok || s.State.Health == nil || s.State.Health.Status != "healthy" {
				bad = append(bad, fmt.Sprintf("%s: %s", name, s))
			}
		}
		if s := all["load"]; s.State.Status != "running" {
			bad = append(bad, fmt.Sprintf("load: %s", s))
		}
		if s := all["migrate"]; s.State.Status != "exited" || s.State.ExitCode != 0 {
			bad = append(bad, fmt.Sprintf("migrate: %s", s))
		}
		return len(bad) == 0, strings.Join(bad, "\n")
	})
	return c
}

// down removes all that up made, and makes sure that it is gone.
func (c *compose) down(t *testing.T) {
	t.Helper()
	if t.Failed() {
		out, _ := c.run(t, "logs", "--no-color", "--tail", "20")
		t.Logf("the last lines of each service:\n%s", out)
	}
	if out, code := c.run(t, "down", "--volumes", "--remove-orphans", "--timeout", "20"); code != 0 {
		t.Errorf("down: exit code %d\n%s", code, out)
	}
	of := "label=com.docker.compose.project=" + c.project
	for _, list := range [][]string{{"ps", "-aq"}, {"volume", "ls", "-q"}, {"network", "ls", "-q"}} {
		if left := must(t, "docker", append(list, "--filter", of)...); left != "" {
			t.Errorf("docker %s has what down left behind: %s", list[0], left)
		}
	}
}

// planner asks ClickHouse as user planner, from inside its container: there it needs no password. The local image has the
// user; on the vendor's it is made as docs/OPERATIONS.md says.
func planner(t *testing.T, clickhouse, query string) string {
	t.Helper()
	address := "http://127.0.0.1:8123/?" + url.Values{"user": {"planner"}, "query": {query}}.Encode()
	return strings.TrimSpace(must(t, "docker", "exec", clickhouse, "wget", "-q", "-O", "-", address))
}

// TestCompose brings docker-compose.yml up and follows one event from a file to its cell.
func TestCompose(t *testing.T) {
	needContainers(t)
	c := up(t)
	all := c.containers(t)
	dsn := fmt.Sprintf("clickhouse://hub:%s@127.0.0.1:%s/", os.Getenv("CLICKHOUSE_PASSWORD"), os.Getenv("CLICKHOUSE_PORT"))
	db := openDB(t, dsn)
	if n, err := number(t.Context(), db, "SELECT count() FROM system.users WHERE name = 'planner'"); err != nil {
		t.Fatal(err)
	} else if n == 0 {
		for _, q := range []string{
			"CREATE USER planner NOT IDENTIFIED HOST LOCAL SETTINGS readonly = 2, max_execution_time = 60", "GRANT SELECT ON welfare.* TO planner",
		} {
			if err := db.Exec(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
	}

	// From this machine: the ports that are published, and Kafka's listener for them.
	row := validtest.Valid(event.ByTopic("welfare.demand.request"))
	file := filepath.Join(t.TempDir(), "request.jsonl")
	if err := os.WriteFile(file, append(row.AppendJSON(nil), '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	kafka, registry := "127.0.0.1:"+os.Getenv("KAFKA_PORT"), "http://127.0.0.1:"+os.Getenv("REGISTRY_PORT")
	out := must(t, binary(t), "publish", "--wait", "--type", "ServiceRequested", "--kafka-brokers", kafka, "--registry-url", registry, "--clickhouse-dsn", dsn, file)
	if !strings.Contains(out, "1 loaded, 0 duplicate, 0 rejected") {
		t.Errorf("publish said\n%s", out)
	}

	ch := all["clickhouse"].ID
	id := row.Str(event.EventID)
	if got := planner(t, ch, "SELECT event_id, comune_code FROM welfare.service_requested"); got != id+"\t015146" {
		t.Errorf("welfare.service_requested has %q, want event %s of comune 015146", got, id)
	}
	const cell = "SELECT period_start, requests FROM welfare.supply_demand WHERE level = 'COMUNE' AND territory_code = '015146' AND requests > 0"
	eventually(t, "the request is in its cell", time.Minute, func(context.Context) (bool, string) {
		got := planner(t, ch, cell)
		return got == "2024-03-01\t1", fmt.Sprintf("welfare.supply_demand has %q", got)
	})
	if _, code := run(t, "", "docker", "exec", ch, "wget", "-q", "-O", "-", "http://127.0.0.1:8123/?user=planner&query="+url.QueryEscape("SELECT count() FROM store.ids")); code == 0 {
		t.Error("planner reads store")
	}

	// Inside the network of the project, by the image's own binary.
	out, code := run(t, "", "docker", "exec", all["load"].ID, "/bin/welfarehub", "reconcile", "--aggregates", "--kafka-brokers", "kafka:9092",
		"--clickhouse-dsn", strings.Replace(dsn, "127.0.0.1:"+os.Getenv("CLICKHOUSE_PORT"), "clickhouse:9000", 1))
	if code != 0 {
		t.Errorf("reconcile: exit code %d\n%s", code, out)
	}

	get(t, "http://127.0.0.1:"+os.Getenv("HTTP_PORT")+"/readyz")
	if body := get(t, "http://127.0.0.1:"+os.Getenv("HTTP_PORT")+"/api/v1/supply-demand?level=COMUNE&territory=015146"); !strings.Contains(body, "015146") {
		t.Errorf("the API says %s", body)
	}
	for name, s := range c.containers(t) {
		if s.RestartCount > 0 {
			t.Errorf("%s: %s", name, s)
		}
	}
	staticNonRoot(t, all["load"].ID)
}

func get(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v\n%s", address, resp.Status, err, body)
	}
	return string(body)
}

// staticNonRoot looks at the hub's binary in its image, and at who runs it.
func staticNonRoot(t *testing.T, container string) {
	t.Helper()
	if uid := strings.TrimSpace(must(t, "docker", "exec", container, "id", "-u")); uid == "0" || uid == "" {
		t.Errorf("the hub runs as user %q", uid)
	}
	file := filepath.Join(t.TempDir(), "welfarehub")
	must(t, "docker", "cp", container+":/bin/welfarehub", file)
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("the hub needs libraries: %v, %v", libs, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the hub names a dynamic loader")
		}
	}
}

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// TestNoCodiceFiscaleComesOut feeds the hub with codici fiscali wherever a text can be given, and looks for
// them in all that comes out: logs, answers, metrics, tables, letters, outcomes, files. Only the log of the
// source topics may have them.
func TestNoCodiceFiscaleComesOut(t *testing.T) {
	f := &feed{t: t, where: map[string]string{}}
	out := &outputs{t: t, feed: f, texts: map[string]string{}}
	h := start(t, t.TempDir(), "--no-demo", "--log-level", "debug", "--flush-age", "100ms")
	db := h.db()
	second, health := startLoad(t, h)

	records := f.toKafka(h)
	f.toAPI(h.HTTP, out)
	f.toAPI(health, out)
	f.toRegistry(h.Registry, out)
	f.toPublish(h, out)
	awaitAll(t, db, records)
	if loaded := number(t, db, "SELECT sum(loaded) FROM welfare.ledger"); loaded != int64(len(event.Types)) {
		t.Errorf("%d records loaded, want the %d good ones", loaded, len(event.Types))
	}
	if n := number(t, db, "SELECT count() FROM welfare.rejected WHERE has(codes, 'E11')"); n < 500 {
		t.Errorf("%d records rejected with E11 only: were the codes found?", n)
	}
	f.toOperators(h, out)
	// Once more with everything in: an API that answers from tables, metrics that have counted.
	for _, path := range []string{"/metrics", "/readyz", "/livez", "/", "/api/v1/status", "/api/v1/supply-demand"} {
		out.get("API "+path, h.HTTP+path)
	}
	for _, path := range []string{"/metrics", "/readyz", "/livez"} {
		out.get("load "+path, health+path)
	}
	for _, path := range []string{"/subjects", "/schemas", "/config", "/mode"} {
		out.get("registry "+path, h.Registry+path)
	}
	out.tables(db)
	out.topics(h.Kafka)
	raw, err := os.ReadFile(h.ready)
	if err != nil {
		t.Fatal(err)
	}
	out.add("ready file", string(raw))
	if err := second.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := second.wait(time.Minute); code != 0 {
		t.Errorf("load exits %d", code)
	}
	if code := h.interrupt(); code != 0 {
		t.Errorf("up exits %d", code)
	}
	out.add("log of up", h.out.String())
	out.add("log of load", second.out.String())
	out.files(h.Data)
	out.search()
	for _, log := range []string{"log of up", "log of load"} { // the last fence must have had nothing to do
		if strings.Contains(out.texts[log], privacy.Redacted) {
			t.Errorf("%s: a codice fiscale was redacted: it should not have come so far", log)
		}
	}
	for where, has := range map[string]string{ // the outputs must be what they are taken for
		"log of up": `"level":"debug"`, "log of load": `"level":"debug"`, "API /metrics": `welfarehub_load_rejects_total{code="E11"`,
		"API /api/v1/status": `"rejected":`, "table store.need_assessed": validSource, "table welfare.need_assessed": validSource,
		"table welfare.rejected": "E11", "topic welfare.outcome": validSource, "topic welfare.demand.request.dlq": "wh_code=E11",
		"publish": "E11", "registry": "error_code", "ready file": "kafka",
	} {
		if !strings.Contains(out.texts[where], has) {
			t.Errorf("%s has no %q in its %d bytes", where, has, len(out.texts[where]))
		}
	}
}

// validSource is the source of good events.
const validSource = "urn:welfare:c_f205:sociali"

// startLoad runs a loader beside the hub's own, and returns the address of its health.
func startLoad(t *testing.T, h *hub) (*hub, string) {
	t.Helper()
	l := &hub{t: t, out: &testkit.Output{}, done: make(chan error, 1)}
	l.cmd = exec.Command(binary(t), "load", "--kafka-brokers", h.Kafka, "--registry-url", h.Registry, "--clickhouse-dsn", h.dsn(),
		"--log-level", "debug", "--health", "127.0.0.1:0", "--flush-age", "100ms")
	l.cmd.Stdout, l.cmd.Stderr = l.out, l.out
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	t.Cleanup(l.kill)
	address := regexp.MustCompile(`health and metrics on (http://\S+)`)
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		m := address.FindStringSubmatch(l.out.String())
		if m != nil {
			res, err := http.Get(m[1] + "/readyz")
			if err == nil {
				_ = res.Body.Close()
				if res.StatusCode == http.StatusOK {
					return l, m[1]
				}
			}
		}
		if time.Now().After(end) {
			t.Fatalf("load is not ready after a minute\n%s", l.out)
		}
	}
}

// outputs are all texts that came out, by where.
type outputs struct {
	t     *testing.T
	feed  *feed
	texts map[string]string
}

func (o *outputs) add(where, text string) { o.texts[where] += text + "\n" }

// get adds an answer, with its headers.
func (o *outputs) get(where, url string) {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	if code := o.do(where, req); code >= 400 {
		o.t.Errorf("%s answers %d", where, code)
	}
}

func (o *outputs) do(where string, req *http.Request) int {
	o.t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		o.t.Fatalf("%s: %v", where, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	header, _ := json.Marshal(res.Header)
	o.add(where, string(header)+"\n"+string(body))
	return res.StatusCode
}

// tables adds all rows of all tables and views of the hub, and what the engine logs of itself.
func (o *outputs) tables(db *clickhouse.DB) {
	o.t.Helper()
	var names []struct {
		Name string `ch:"name"`
	}
	const query = `SELECT concat(database, '.', name) AS name FROM system.tables
WHERE database IN ('store', 'welfare') AND engine != 'MaterializedView' OR database = 'system' AND (name LIKE '%_log' OR name IN ('errors', 'mutations', 'processes', 'warnings'))
ORDER BY name`
	if err := db.Select(o.t.Context(), &names, query); err != nil {
		o.t.Fatal(err)
	}
	if len(names) < 80 {
		o.t.Errorf("%d tables only", len(names))
	}
	for _, n := range names {
		var text string
		// As one text of all rows: the bytes of every column, whatever its type.
		err := db.Scan(o.t.Context(), "SELECT arrayStringConcat(groupArray(formatRow('JSONEachRow', *)), '') FROM "+n.Name, nil, &text)
		if err != nil {
			o.t.Errorf("%s: %v", n.Name, err)
			continue
		}
		o.add("table "+n.Name, text)
	}
}

// topics adds all records of all topics but the sources'.
func (o *outputs) topics(brokers string) {
	o.t.Helper()
	client := &kafka.Client{Addr: kafka.TCP(brokers)}
	meta, err := client.Metadata(o.t.Context(), &kafka.MetadataRequest{})
	if err != nil {
		o.t.Fatal(err)
	}
	read := 0
	for _, topic := range meta.Topics {
		if event.ByTopic(topic.Name) != nil || strings.HasPrefix(topic.Name, "__") {
			continue
		}
		for _, p := range topic.Partitions {
			conn, err := kafka.DialLeader(o.t.Context(), "tcp", brokers, topic.Name, p.ID)
			if err != nil {
				o.t.Fatal(err)
			}
			first, last, err := conn.ReadOffsets()
			if err != nil {
				o.t.Fatal(err)
			}
			for at := first; at < last; read++ {
				if at == first {
					_, err = conn.Seek(at, kafka.SeekAbsolute)
				}
				if err != nil {
					o.t.Fatal(err)
				}
				m, err := conn.ReadMessage(8 << 20)
				if err != nil {
					o.t.Fatalf("%s/%d at offset %d: %v", topic.Name, p.ID, at, err)
				}
				at = m.Offset + 1
				var text bytes.Buffer
				fmt.Fprintf(&text, "%s %s", m.Key, m.Value)
				for _, head := range m.Headers {
					fmt.Fprintf(&text, " %s=%s", head.Key, head.Value)
				}
				o.add("topic "+topic.Name, text.String())
			}
			_ = conn.Close()
		}
	}
	if read < 1000 {
		o.t.Errorf("%d records in the other topics only", read)
	}
}

// files adds the data folder, byte for byte, without Kafka's logs of the source topics.
func (o *outputs) files(data string) {
	o.t.Helper()
	read, left := 0, 0
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name := strings.TrimPrefix(path, data)
		for _, t := range event.Types {
			if strings.Contains(name, "/kafka/") && strings.Contains(name, t.Topic) && !strings.Contains(name, t.Topic+".dlq") {
				left++
				return nil
			}
		}
		raw, err := os.ReadFile(path)
		o.add("file "+name, string(raw))
		read++
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	if read < 100 || left < len(event.Types) {
		o.t.Errorf("%d files read, %d left out: is the folder laid out in another way?", read, left)
	}
}

// separators are what may stand inside a code, also as URLs and JSON write it.
var separators = regexp.MustCompile(`(?:[\s.\-\x{2010}-\x{2015}\x{2212}\x{a0}+]|%20|%2D|%2E|\\u00a0|\\u2011|\\n|\\t)+`)

// fed is the shape that all codes of the feed have, and nothing else.
var fed = regexp.MustCompile(`[A-Z]{3}QXQ[0L][0L]A[0L][0L]Z[0-9LMNPQRSTUV]{3}[A-Z]`)

// search looks for the codes in every output, as they are and without separators.
func (o *outputs) search() {
	o.t.Helper()
	if len(o.feed.where) < 500 {
		o.t.Errorf("%d codes were fed only", len(o.feed.where))
	}
	for where, text := range o.texts {
		upper := strings.ToUpper(text)
		for _, s := range []string{upper, separators.ReplaceAllString(upper, "")} {
			for _, code := range fed.FindAllString(s, -1) {
				if fedAs := o.feed.where[code]; fedAs != "" {
					o.t.Errorf("%s has the codice fiscale that was fed as %s", where, fedAs)
					delete(o.feed.where, code)
				}
			}
		}
	}
}

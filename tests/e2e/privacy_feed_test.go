package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

// feed makes codici fiscali that nobody has (born on day 0), each once, and remembers where it gave them.
type feed struct {
	t     *testing.T
	n     int
	where map[string]string // canonical code: where it was fed
}

// code returns the next code, in canonical form.
func (f *feed) code(where string, omocodia bool) string {
	f.t.Helper()
	n := f.n
	f.n++
	zero := "0"
	number := fmt.Sprintf("%03d", n%1000)
	if omocodia {
		zero = "L"
		number = strings.Map(func(r rune) rune { return rune("LMNPQRSTUV"[r-'0']) }, number)
	}
	stem := fmt.Sprintf("%c%c%cQXQ%s%sA%s%sZ%s", 'A'+n/676%26, 'A'+n/26%26, 'A'+n%26, zero, zero, zero, zero, number)
	for c := 'A'; c <= 'Z'; c++ {
		if code := stem + string(c); privacy.Valid(code) {
			if f.where[code] != "" {
				f.t.Fatal("BUG: a code twice")
			}
			f.where[code] = where
			return code
		}
	}
	f.t.Fatal("BUG: no check letter")
	return ""
}

// forms are the ways to write a code.
var forms = []struct {
	name     string
	omocodia bool
	write    func(code string) string
}{
	{"as it is", false, func(c string) string { return c }},
	{"in lower case", false, strings.ToLower},
	{"with omocodia", true, func(c string) string { return c }},
	{"with spaces", false, func(c string) string { return c[:3] + " " + c[3:6] + " " + c[6:11] + " " + c[11:] }},
	{"with dashes", true, func(c string) string { return strings.ToLower(c[:6]) + "-" + c[6:11] + "-" + c[11:15] + "-" + c[15:] }},
	{"in a sentence", false, func(c string) string { return "sig. " + c + ", nato" }},
}

// each gives every form of a fresh code.
func (f *feed) each(where string, give func(text string)) {
	for _, form := range forms {
		give(form.write(f.code(where+" "+form.name, form.omocodia)))
	}
}

// one gives a fresh code as it is.
func (f *feed) one(where string) string { return f.code(where, false) }

// fresh is a valid event with an identity of its own.
func (f *feed) fresh(t *event.Type) *event.Row {
	row := validtest.Valid(t)
	f.n++
	validtest.Set(row, "eventId", uuid.NewString())
	validtest.Set(row, "sourceRecordId", fmt.Sprintf("R-%d", f.n))
	if t.Family == event.FamilyControl && t.Subject >= 0 { // nobody's: what is erased is not seen
		validtest.Set(row, t.Fields[t.Subject].Name, strings.Repeat("0f", 32))
	}
	return row
}

// toKafka publishes a good event of each type, and events, keys, headers and broken values with codes. It
// returns how many records it published.
func (f *feed) toKafka(h *hub) int {
	f.t.Helper()
	client, err := registry.NewClient(registry.ClientOptions{URL: h.Registry})
	if err != nil {
		f.t.Fatal(err)
	}
	ids, err := registry.RegisterAll(f.t.Context(), client)
	if err != nil {
		f.t.Fatal(err)
	}
	var msgs []kafka.Message
	for _, t := range event.Types {
		id := ids[t.SubjectName()]
		message := func(row *event.Row) kafka.Message {
			key, value, headers := event.Message(row, id)
			m := kafka.Message{Topic: t.Topic, Key: key, Value: value, Time: validtest.KafkaTime}
			for _, head := range headers {
				m.Headers = append(m.Headers, kafka.Header(head))
			}
			return m
		}
		msgs = append(msgs, message(f.fresh(t)))
		for i := range t.Fields {
			field := &t.Fields[i]
			f.each(t.Name+"."+field.Name, func(text string) {
				row := f.fresh(t)
				switch field.Kind {
				case event.String, event.UUID, event.Bytes:
					row.Set(i, text)
				case event.Strings:
					validtest.Set(row, field.Name, []string{"015146", text})
				default:
					return
				}
				msgs = append(msgs, message(row))
			})
		}
		f.each(t.Name+": key", func(text string) {
			m := message(f.fresh(t))
			m.Key = []byte(text)
			msgs = append(msgs, m)
		})
		f.each(t.Name+": header", func(text string) {
			for _, name := range []string{"note", "ce_id", "ce_source", "ce_subject", "traceparent"} {
				m := message(f.fresh(t))
				m.Headers = append(m.Headers[:2:2], kafka.Header{Key: name, Value: []byte(text)})
				msgs = append(msgs, m)
			}
		})
		f.each(t.Name+": name of a header", func(text string) {
			m := message(f.fresh(t))
			m.Headers = append(m.Headers, kafka.Header{Key: text, Value: []byte("1")})
			msgs = append(msgs, m)
		})
		f.each(t.Name+": no event", func(text string) {
			good := message(f.fresh(t))
			frame := event.AppendFrame(nil, 987654)
			for _, value := range [][]byte{
				[]byte(text),                      // P02
				append(frame[:5:5], text...),      // P03
				append(good.Value[:9:9], text...), // P04
				append(good.Value[:len(good.Value):len(good.Value)], text...), // P05
				append([]byte(text+" "), make([]byte, 1<<20)...),
				append(append(good.Value[:5:5], (" "+text+" ")...), make([]byte, 1<<20)...), // P06
				nil, // P01, with the code for a key
			} {
				if value != nil && len(value) > 1<<20 && t.No > 1 {
					continue // large ones of one topic are enough
				}
				m := good
				m.Value = value
				if value == nil {
					m.Key = []byte(text)
				}
				msgs = append(msgs, m)
			}
		})
	}
	w := &kafka.Writer{
		Addr: kafka.TCP(h.Kafka), RequiredAcks: kafka.RequireAll, BatchBytes: 8 << 20, BatchTimeout: 10 * time.Millisecond, Balancer: kafka.Murmur2Balancer{},
	}
	defer func() { _ = w.Close() }()
	if err := w.WriteMessages(f.t.Context(), msgs...); err != nil {
		f.t.Fatal(err)
	}
	return len(msgs)
}

// toAPI asks an HTTP address for things that have codes in them.
func (f *feed) toAPI(base string, out *outputs) {
	f.t.Helper()
	ask := func(where, method, target, body string, header map[string]string) {
		req, err := http.NewRequestWithContext(f.t.Context(), method, base+target, strings.NewReader(body))
		if err != nil {
			f.t.Fatal(err)
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		out.do(where, req)
	}
	for _, path := range []string{"/api/v1/supply-demand", "/api/v1/status", "/metrics", "/readyz", "/"} {
		for _, name := range []string{"territory", "service", "level", "user_area", "from", "to", "limit", "cursor", "format", "x"} {
			f.each("parameter "+name, func(text string) { ask("API", "GET", path+"?"+name+"="+url.QueryEscape(text), "", nil) })
		}
		f.each("name of a parameter", func(text string) { ask("API", "GET", path+"?"+url.QueryEscape(text)+"=1", "", nil) })
		f.each("broken query", func(text string) { ask("API", "GET", path+"?%zz="+url.QueryEscape(text), "", nil) })
		for _, name := range []string{"X-Request-Id", "Accept", "User-Agent", "Referer", "Cookie", "Authorization", "Traceparent", "If-None-Match"} {
			f.each("header "+name, func(text string) { ask("API", "GET", path, "", map[string]string{name: text}) })
		}
		f.each("body", func(text string) { ask("API", "POST", path, text, nil) })
	}
	f.each("path", func(text string) { ask("API", "GET", "/"+url.PathEscape(text), "", nil) })
	f.each("path below", func(text string) { ask("API", "GET", "/api/v1/supply-demand/"+url.PathEscape(text), "", nil) })
	ask("API", f.one("method"), "/api/v1/status", "", nil)
}

// toRegistry registers, asks for and configures things that have codes in them.
func (f *feed) toRegistry(base string, out *outputs) {
	f.t.Helper()
	ask := func(method, target, body string, header ...string) {
		req, err := http.NewRequestWithContext(f.t.Context(), method, base+target, strings.NewReader(body))
		if err != nil {
			f.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		out.do("registry", req)
	}
	schema := func(text string) string {
		raw, _ := json.Marshal(map[string]any{"schema": text})
		return string(raw)
	}
	good := schema(`{"type":"record","name":"A","fields":[]}`)
	f.each("subject", func(text string) {
		s := url.PathEscape(text + "-value")
		ask("POST", "/subjects/"+s+"/versions", good)
		ask("POST", "/subjects/"+s, good)
		ask("GET", "/subjects/"+s+"/versions", "")
		ask("GET", "/subjects/"+s+"/versions/latest", "")
		ask("DELETE", "/subjects/"+s, "")
		ask("PUT", "/config/"+s, `{"compatibility":"NONE"}`)
		ask("GET", "/config/"+s, "")
		ask("PUT", "/mode/"+s, `{"mode":"IMPORT"}`)
		ask("GET", "/mode/"+s, "")
		ask("POST", "/compatibility/subjects/"+s+"/versions/latest", good)
	})
	f.each("path of the registry", func(text string) {
		p := url.PathEscape(text)
		ask("GET", "/"+p, "")
		ask("GET", "/schemas/ids/"+p, "")
		ask("GET", "/subjects/welfare.outcome-value/versions/"+p, "")
		ask("GET", "/subjects?subjectPrefix="+url.QueryEscape(text), "")
		ask("PUT", "/config", `{"compatibility":"`+text+`"}`)
		ask("PUT", "/mode", `{"mode":"`+text+`"}`)
		ask("POST", "/subjects/x/versions", text)
		ask("POST", "/subjects/x/versions", `{"`+text+`":`+text)
		ask("POST", "/subjects/x/versions", `{"schema":"\"int\"","schemaType":"`+text+`"}`)
		ask("POST", "/subjects/x/versions", `{"schema":"\"int\"","references":[{"name":"a","subject":"`+text+`","version":1}]}`)
		ask("POST", "/subjects/x/versions", schema(`{"type":"`+text+`"}`))
		ask("GET", "/subjects", "", "Accept", text)
	})
	ask("POST", "/subjects/x/versions", schema(`{"type":"record","name":"`+f.one("name of a schema")+`","fields":[]}`))
	ask("POST", "/subjects/x/versions", schema(`{"type":"record","name":"A","doc":"`+f.one("doc of a schema")+`","fields":[]}`))
	ask("POST", "/subjects/x/versions", schema(`{"type":"record","name":"A","fields":[{"name":"f_`+f.one("field of a schema")+`","type":"int"}]}`))
	ask("POST", "/subjects/x/versions", schema(`{"type":"enum","name":"A","symbols":["`+f.one("symbol of a schema")+`"]}`))
}

// toPublish gives publish files, columns, values and arguments with codes, of which it accepts none.
func (f *feed) toPublish(h *hub, out *outputs) {
	f.t.Helper()
	dir := f.t.TempDir()
	publish := func(where, name, content string, args ...string) {
		f.t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			f.t.Fatal(err)
		}
		args = append([]string{"publish", "--log-level", "debug", "--kafka-brokers", h.Kafka, "--registry-url", h.Registry}, args...)
		text, code := run(f.t, append(args, file)...)
		if code == 0 {
			f.t.Errorf("publish takes %s", where)
		}
		out.add("publish", text)
	}
	request := event.ByName("ServiceRequested")
	var lines, cells []string
	var names []string
	for i := range request.Fields {
		field := &request.Fields[i]
		names = append(names, field.Name)
		f.each("publish "+field.Name, func(text string) {
			values := map[string]any{}
			if err := json.Unmarshal(f.fresh(request).AppendJSON(nil), &values); err != nil {
				f.t.Fatal(err)
			}
			values[field.Name] = text
			raw, _ := json.Marshal(values)
			lines = append(lines, string(raw))
			row := make([]string, len(request.Fields))
			for k := range row {
				if v := values[request.Fields[k].Name]; v != nil {
					row[k] = fmt.Sprintf(`"%v"`, v)
				}
			}
			cells = append(cells, strings.Join(row, ","))
		})
	}
	publish("bad lines", "lines.jsonl", strings.Join(lines, "\n"), "--type", "ServiceRequested", "--max-errors", "-1")
	publish("bad cells", "cells.csv", strings.Join(names, ",")+"\n"+strings.Join(cells, "\n"), "--type", "ServiceRequested", "--max-errors", "-1")
	var members, broken []string
	f.each("member", func(text string) { members = append(members, `{"`+text+`":1}`, `{"comuneCode":{"`+text+`":1}}`) })
	f.each("broken JSON", func(text string) {
		broken = append(broken, text, `{"comuneCode":`+text+`}`, `{"comuneCode":"`+text, `"`+text+`"`, "\""+text+"\",,\"")
	})
	publish("unknown members", "members.jsonl", strings.Join(members, "\n"), "--type", "ServiceRequested", "--max-errors", "-1")
	publish("broken JSON", "broken.jsonl", strings.Join(broken, "\n"), "--type", "ServiceRequested", "--max-errors", "-1")
	publish("broken CSV", "broken.csv", "eventId\n"+strings.Join(broken, "\n"), "--type", "ServiceRequested", "--max-errors", "-1")
	f.each("column", func(text string) {
		publish("a column", "column.csv", "eventId,"+text+"\n1,2\n", "--type", "ServiceRequested")
	})
	f.each("event", func(text string) { publish("an event", "event.jsonl", `{"event":"`+text+`"}`) })
	f.each("name of a file", func(text string) {
		publish("a file of that name", text+".jsonl", "{", "--type", "ServiceRequested")
		publish("a file without a format", text, "{", "--type", "ServiceRequested")
		out1, _ := run(f.t, "publish", "--dry-run", "--type", "ServiceRequested", filepath.Join(dir, "missing "+text+".csv"))
		out.add("publish", out1)
	})
	f.each("argument", func(text string) {
		for _, flag := range []string{"--type", "--mapping", "--default", "--format", "--max-errors"} {
			publish("an argument", "argument.jsonl", "{}", flag, text)
		}
		for _, args := range [][]string{{text}, {"--" + text}, {"up", "--rate", text}, {"publish", "--config", text}, {"serve", "--log-level", text}} {
			text, _ := run(f.t, args...)
			out.add("commands", text)
		}
	})
}

// toOperators runs the commands that look at rejects and read the log again, with codes for arguments too.
func (f *feed) toOperators(h *hub, out *outputs) {
	f.t.Helper()
	kafkaArgs := []string{"--kafka-brokers", h.Kafka, "--registry-url", h.Registry}
	command := func(where string, args ...string) int {
		text, code := run(f.t, append(args, "--clickhouse-dsn", h.dsn(), "--log-level", "debug")...)
		out.add(where, text)
		return code
	}
	with := func(args ...string) []string { return append(args, kafkaArgs...) }
	dir := f.t.TempDir()
	letters, copies := filepath.Join(dir, "letters.jsonl"), filepath.Join(dir, "copies.jsonl")
	for _, args := range [][]string{
		{"dlq", "list"},
		{"dlq", "list", "--json"},
		with("dlq", "explain"), with("dlq", "explain", "--json"),
		with("dlq", "redrive", "--dry-run", "--all"),
		{"dlq", "export", "--kafka-brokers", h.Kafka, "--to-file", letters},
		{"reconcile", "--kafka-brokers", h.Kafka},
		{"reconcile", "--json", "--kafka-brokers", h.Kafka},
		with("replay", "--dry-run", "--topic", strings.Join(event.Topics(), ",")), with("replay", "--why", "test", "--topic", "welfare.demand.assessment", "--to-file", copies),
	} {
		if code := command("operators", args...); code == 2 {
			f.t.Errorf("%v is wrong usage", args)
		}
	}
	for offset := 0; offset < 400; offset += 29 {
		command("operators", with("dlq", "show", "--topic", "welfare.demand.assessment", "--partition", "0", "--from-offset", fmt.Sprint(offset))...)
	}
	f.each("argument of an operator", func(text string) {
		command("operators", "dlq", "list", "--source", text)
		command("operators", "dlq", "discard", "--code", "P01", "--limit", "1", "--why", text)
		command("operators", "dlq", "discard", "--code", "P01", "--limit", "1", "--why", "x", "--who", text)
		command("operators", with("replay", "--topic", "welfare.demand.request", "--why", text)...)
		command("operators", with("replay", "--topic", "welfare.demand.request", "--why", "x", "--key", text)...)
		command("operators", with("replay", "--topic", "welfare.demand.request", "--why", "x", "--source", text)...)
		command("operators", with("replay", "--topic", "welfare.demand.request", "--why", "x", "--record", text)...)
	})
	for _, file := range []string{letters, copies} {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.t.Error(err)
		}
		out.add("file of "+filepath.Base(file), string(raw))
	}
}

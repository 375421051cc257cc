package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"go.yaml.in/yaml/v3"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// poison is one message of the corpus; testdata/poison/README.md says what its members mean.
type poison struct {
	Name     string
	Event    string
	Set      map[string]any
	Fill     map[string]fill
	Put      map[string]string
	Schema   *int32
	Frame    string
	Tail     string
	Cut      int
	Value    yaml.Node
	Key      yaml.Node
	Headers  []poisonHeader
	Many     int
	Time     *int64
	Want     words
	Field    string
	Letter   string
	Reads    map[string]string
	Embedded bool // a real broker refuses it
}

type fill struct {
	Text, Hex, Then string
	Times           int
}

func (f fill) bytes(t testing.TB) []byte {
	return append(bytes.Repeat(append([]byte(f.Text), unhex(t, f.Hex)...), f.Times), unhex(t, f.Then)...)
}

type poisonHeader struct {
	Name, Text, Hex string
	Times, LongName int
}

// words is a text, or a list of them.
type words []string

func (w *words) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*w = words{n.Value}
		return nil
	}
	return n.Decode((*[]string)(w))
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return raw
}

func poisons(t testing.TB) []poison {
	t.Helper()
	files, err := filepath.Glob("testdata/poison/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("corpus: %d files, %v", len(files), err)
	}
	var out []poison
	seen := map[string]bool{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		dec := yaml.NewDecoder(bytes.NewReader(raw))
		dec.KnownFields(true)
		var some []poison
		if err := dec.Decode(&some); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		family := strings.TrimSuffix(filepath.Base(f), ".yaml")
		for _, p := range some {
			p.Name = family + ": " + p.Name
			if seen[p.Name] {
				t.Fatalf("%s is there twice", p.Name)
			}
			seen[p.Name] = true
			if p.Event == "" {
				p.Event = "ServiceRequested"
			}
			if p.Embedded && os.Getenv("WELFAREHUB_KAFKA") != "" {
				continue
			}
			out = append(out, p)
		}
	}
	if len(out) < 60 {
		t.Fatalf("corpus: %d messages", len(out))
	}
	return out
}

// row is the valid event that a case begins with, changed. Its number is n.
func (p *poison) row(t testing.TB, n int) *event.Row {
	t.Helper()
	typ := event.ByName(p.Event)
	row := hubtest.Valid(typ, n)
	for name, v := range p.Set {
		i := typ.MustField(name)
		f := &typ.Fields[i]
		switch x := v.(type) {
		case nil:
			row.SetNull(i)
		case bool:
			row.SetInt(i, map[bool]int64{true: 1}[x])
		case int:
			row.SetInt(i, int64(x))
		case string:
			if f.Kind == event.Enum {
				row.SetInt(i, int64(slices.Index(f.Symbols, x)))
				continue
			}
			row.Set(i, x)
		case []any:
			row.Vals[i] = event.Value{}
			for _, item := range x {
				row.Vals[i].List = append(row.Vals[i].List, []byte(item.(string)))
			}
		default:
			t.Fatalf("%s: %s is a %T", p.Name, name, v)
		}
	}
	for name, f := range p.Fill {
		if i := typ.Field(name); i >= 0 && f.Text != "" {
			row.Set(i, string(f.bytes(t)))
		}
	}
	return row
}

// encode is the row's value, with what the case puts in the place of fields.
func (p *poison) encode(t testing.TB, row *event.Row) []byte {
	t.Helper()
	var out []byte
	for i := range row.Type.Fields {
		name := row.Type.Fields[i].Name
		raw, ok := p.Put[name]
		switch f := p.Fill[name]; {
		case ok && f.Hex != "":
			out = append(append(out, unhex(t, raw)...), f.bytes(t)...)
		case ok:
			out = append(out, unhex(t, raw)...)
		default:
			one := event.Row{Type: &event.Type{Fields: row.Type.Fields[i : i+1]}, Vals: row.Vals[i : i+1]}
			out = one.AppendAvro(out)
		}
	}
	return out
}

// message is the record of the case.
func (p *poison) message(t testing.TB, n int) kafka.Message {
	t.Helper()
	row := p.row(t, n)
	m := message(row, 0)
	m.Headers = m.Headers[:len(m.Headers)-1] // without the test's own
	schema := int32(row.Type.No)
	if p.Schema != nil {
		schema = *p.Schema
	}
	m.Value = append(event.AppendFrame(nil, int(schema)), p.encode(t, row)...)
	if p.Frame != "" {
		m.Value = append(unhex(t, p.Frame), m.Value[event.FrameSize:]...)
	}
	switch v := p.Value; {
	case v.Kind != 0 && v.Tag == "!!null", v.Value == "empty":
		m.Value = nil
		if v.Value == "empty" {
			m.Value = []byte{}
		}
	case v.Kind != 0:
		m.Value = unhex(t, v.Value)
	}
	m.Value = append(m.Value[:len(m.Value)-p.Cut], unhex(t, p.Tail)...)
	if f, ok := p.Fill["tail"]; ok {
		m.Value = append(m.Value, f.bytes(t)...)
	}
	switch k := p.Key; {
	case k.Kind == yaml.MappingNode:
		var f fill
		if err := k.Decode(&f); err != nil {
			t.Fatal(err)
		}
		m.Key = f.bytes(t)
	case k.Kind != 0 && k.Tag == "!!null":
		m.Key = nil
	case k.Kind != 0:
		m.Key = []byte(k.Value)
	}
	m.Headers = slices.DeleteFunc(m.Headers, func(h kafka.Header) bool {
		return slices.ContainsFunc(p.Headers, func(q poisonHeader) bool { return q.Name == h.Key })
	})
	for _, h := range p.Headers {
		name := strings.ReplaceAll(h.Name, "{ff}", "\xff") + strings.Repeat("n", h.LongName)
		m.Headers = append(m.Headers, kafka.Header{Key: name, Value: bytes.Repeat(append([]byte(h.Text), unhex(t, h.Hex)...), max(h.Times, 1))})
	}
	for range p.Many - 1 {
		m.Headers = append(m.Headers, m.Headers[len(m.Headers)-1])
	}
	if p.Time != nil {
		m.Time = time.UnixMilli(*p.Time)
	}
	return m
}

// poisonSchemas are the test's registry with schemas that senders have and we do not: from 100 on.
type poisonSchemas struct{ hubtest.Schemas }

func (s *poisonSchemas) SchemaByID(ctx context.Context, id int) (string, error) {
	if id < 100 || id >= 100+len(strangeSchemas) {
		return s.Schemas.SchemaByID(ctx, id)
	}
	return strangeSchemas[id-100], nil
}

var strangeSchemas = func() []string {
	raw := event.ByName("ServiceRequested").Raw
	with := func(field string) string {
		at := strings.LastIndex(raw, "]")
		return raw[:at] + ", " + field + raw[at:]
	}
	change := func(old, now string) string {
		if !strings.Contains(raw, old) {
			panic("BUG: the schema has no " + old)
		}
		return strings.Replace(raw, old, now, 1)
	}
	return []string{
		event.OutcomesReportedRaw,
		`syntax = "proto3"; message X {}`,
		"",
		`"string"`,
		strings.Repeat(`{"type":"array","items":`, 20_000) + `"null"` + strings.Repeat("}", 20_000),
		`{"type":"record","name":"ServiceRequested","namespace":"it.welfarehub.v1","fields":[{"name":"urgent","type":"boolean"}]}`,
		change(`"recordVersion", "type": "long"`, `"recordVersion", "type": "double"`),
		with(`{"name":"list","type":{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}}`),
		with(`{"name":"nulls","type":{"type":"array","items":"null"}}`),
		change(`"THIRD_SECTOR"]`, `"THIRD_SECTOR", "NEWER"]`),
		change(`"requestId", "type": "string"`, `"requestId", "type": ["null", "string"]`),
		with(`{"name":"note","type":"string"}`),
	}
}()

// ended as the books have it.
type bookedEnd struct {
	rejected           bool
	code, codes, field string
	message, eventID   string
	source, hash       string
	schemaID           uint32
}

func (w *world) booked(typ *event.Type) map[int64]bookedEnd {
	w.t.Helper()
	out := map[int64]bookedEnd{}
	rows, err := w.db.Conn().Query(w.t.Context(), "SELECT offset, code, arrayStringConcat(codes, ','), field, message, ifNull(event_id, ''), ifNull(source, ''), value_hash, schema_id FROM welfare.rejected WHERE topic = ?", typ.Topic)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var offset uint64
		e := bookedEnd{rejected: true}
		if err := rows.Scan(&offset, &e.code, &e.codes, &e.field, &e.message, &e.eventID, &e.source, &e.hash, &e.schemaID); err != nil {
			w.t.Fatal(err)
		}
		out[int64(offset)] = e
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// letters reads the dead letters of a topic by the offset of their record.
func (w *world) letters(typ *event.Type) map[int64]kafka.Message {
	w.t.Helper()
	out := map[int64]kafka.Message{}
	for _, m := range w.all(typ.Topic + DeadLetterSuffix) {
		n, err := strconv.ParseInt(string(headerOf(m, "wh_offset")), 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, twice := out[n]; twice {
			w.t.Errorf("%s offset %d has two letters", typ.Topic, n)
		}
		out[n] = m
	}
	return out
}

// all reads the first partition of a topic by kafka-go's own reader, as any consumer would.
func (w *world) all(topic string) []kafka.Message {
	w.t.Helper()
	conn, err := w.cluster.Dialer().DialLeader(w.t.Context(), "tcp", w.cluster.Brokers[0], topic, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	_, end, err := conn.ReadOffsets()
	_ = conn.Close()
	if err != nil {
		w.t.Fatal(err)
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: w.cluster.Brokers, Topic: topic, MaxBytes: 32 << 20, MaxWait: 100 * time.Millisecond})
	defer r.Close()
	var out []kafka.Message
	for int64(len(out)) < end {
		m, err := r.ReadMessage(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// headerOf is the last header of a name.
func headerOf(m kafka.Message, name string) []byte {
	for _, h := range slices.Backward(m.Headers) {
		if h.Key == name {
			return h.Value
		}
	}
	return nil
}

// TestPoison sends the whole corpus, a valid event before and after each message.
func TestPoison(t *testing.T) {
	cases := poisons(t)
	w := newWorld(t, 1)
	_, stop := w.start(&poisonSchemas{}, func(o *Options) { o.DrainTimeout = 5 * time.Minute })
	type sent struct {
		p *poison
		m kafka.Message
	}
	at := map[string][]*sent{} // by event, in the order of offsets; nil: a valid neighbour
	for i := range cases {
		p := &cases[i]
		typ := event.ByName(p.Event)
		m := p.message(t, 100_000+i)
		if len(at[p.Event]) == 0 {
			w.publish(message(hubtest.Valid(typ, 0), 0))
			at[p.Event] = append(at[p.Event], nil)
		}
		w.publish(m, message(hubtest.Valid(typ, i+1), 0))
		at[p.Event] = append(at[p.Event], &sent{p, m}, nil)
	}
	for name, list := range at {
		for end := time.Now().Add(5 * time.Minute); w.books(event.ByName(name).Topic).Read < int64(len(list)) && time.Now().Before(end); {
			time.Sleep(100 * time.Millisecond) // the race detector takes minutes for the large ones
		}
	}
	stop() // what is stored is told by then
	for name, list := range at {
		typ := event.ByName(name)
		booked := w.booked(typ)
		letters := w.letters(typ)
		var want Counts
		for offset, s := range list {
			want.Read++
			if s == nil || len(s.p.Want) == 0 {
				want.Loaded++
			} else {
				want.Rejected++
			}
			if s != nil {
				w.checkPoison(s.p, s.m, int64(offset), booked[int64(offset)], letters)
			}
		}
		if got := w.books(typ.Topic); got != want {
			t.Errorf("%s: books %+v, want %+v", name, got, want)
		}
		if n := w.count("count() FROM welfare." + typ.Table); n != want.Loaded {
			t.Errorf("%s: %d rows for %d loaded events", name, n, want.Loaded)
		}
		if int64(len(letters)) != want.Rejected {
			t.Errorf("%s: %d letters for %d rejects", name, len(letters), want.Rejected)
		}
		// Of what is not loaded, no column of the event holds anything.
		for _, f := range typ.Fields {
			zero := "isNull(" + f.Column + ") OR toString(" + f.Column + ") = toString(defaultValueOfTypeName(toTypeName(assumeNotNull(" + f.Column + "))))"
			switch f.Kind {
			case event.Strings:
				zero = "empty(" + f.Column + ")"
			case event.Date:
				zero = "isNull(" + f.Column + ") OR " + f.Column + " = toDate32('1970-01-01')"
			}
			if n := w.count("countIf(NOT (" + zero + ")) FROM store." + typ.Table + " WHERE _end != 'loaded'"); n != 0 {
				t.Errorf("%s: %d rows that are not loaded have a %s", name, n, f.Column)
			}
		}
	}
	for _, m := range w.all(event.TopicOutcome) {
		if privacy.ContainsCFRaw(m.Value) || privacy.ContainsCFRaw(m.Key) {
			t.Error("an outcome holds a codice fiscale")
		}
	}
}

func (w *world) checkPoison(p *poison, m kafka.Message, offset int64, got bookedEnd, letters map[int64]kafka.Message) {
	t := w.t
	t.Helper()
	typ := event.ByName(p.Event)
	bad := func(format string, args ...any) { t.Helper(); t.Errorf("%s: %s", p.Name, fmt.Sprintf(format, args...)) }
	letter, told := letters[offset]
	if len(p.Want) == 0 {
		if got.rejected || told {
			bad("rejected with %s (%s %s), letter %v; want it loaded", got.codes, got.field, got.message, told)
			return
		}
		for column, want := range p.Reads {
			var value string
			if err := w.db.Scan(t.Context(), "SELECT toString("+column+") FROM welfare."+typ.Table+" WHERE _offset = ?", []any{offset}, &value); err != nil {
				bad("%s: %v", column, err)
			} else if value != want {
				bad("%s reads %q, want %q", column, value, want)
			}
		}
		return
	}
	want := strings.Join(p.Want, ",")
	if got.codes != want || got.code != p.Want[0] || p.Field != "" && got.field != p.Field {
		bad("code %q of %q (field %s: %s), want %q (field %s)", got.code, got.codes, got.field, got.message, want, p.Field)
	}
	if n := w.count("count() FROM welfare."+typ.Table+" WHERE _offset = ?", offset); n != 0 {
		bad("it has %d rows", n)
	}
	sum := sha256.Sum256(m.Value)
	if got.hash != hex.EncodeToString(sum[:]) {
		bad("value_hash %s", got.hash)
	}
	if raw, _ := json.Marshal([]string{got.message, got.field, got.eventID, got.source}); privacy.ContainsCFRaw(raw) {
		bad("the reject tells a codice fiscale")
	}
	if !told {
		bad("no letter")
		return
	}
	if c := string(headerOf(letter, "wh_code")) + " " + string(headerOf(letter, "wh_codes")); c != p.Want[0]+" "+want {
		bad("letter of %s", c)
	}
	w.checkLetter(bad, p, m, letter)
}

// checkLetter holds a dead letter against the record.
func (w *world) checkLetter(bad func(string, ...any), p *poison, m, letter kafka.Message) {
	var own []kafka.Header
	for _, h := range letter.Headers {
		if !strings.HasPrefix(h.Key, "wh_") {
			own = append(own, h)
		}
	}
	sameHeaders := slices.EqualFunc(own, m.Headers, func(a, b kafka.Header) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) })
	truncated := string(headerOf(letter, "wh_truncated")) == "true"
	size := 0
	for _, h := range m.Headers {
		size += len(h.Key) + len(h.Value)
	}
	switch p.Letter {
	case "stripped":
		if len(letter.Value) > 0 || len(letter.Key) > 0 || len(own) > 0 {
			bad("the letter holds %d bytes of key, %d of value, %d headers; want none", len(letter.Key), len(letter.Value), len(own))
		}
	case "cut":
		if !truncated || !bytes.Equal(letter.Value, m.Value[:min(len(m.Value), truncatedBytes)]) {
			bad("the letter has %d bytes, cut: %v", len(letter.Value), truncated)
		}
		if (len(letter.Key) > 0) != (len(m.Key) > 0 && len(m.Key) <= truncatedBytes) || sameHeaders != (size <= truncatedBytes) {
			bad("the cut letter has a key of %d bytes and %d headers", len(letter.Key), len(own))
		}
	default:
		if truncated || !bytes.Equal(letter.Value, m.Value) || !bytes.Equal(letter.Key, m.Key) || !sameHeaders {
			bad("the letter is not the record: cut %v, %d of %d bytes, same headers %v", truncated, len(letter.Value), len(m.Value), sameHeaders)
		}
	}
	for _, h := range letter.Headers {
		if privacy.ContainsCFRaw(h.Value) || privacy.ContainsCF([]byte(h.Key)) {
			bad("header %.20q of the letter holds a codice fiscale", h.Key)
		}
	}
	if privacy.ContainsCFRaw(letter.Value) || privacy.ContainsCFRaw(letter.Key) {
		bad("the letter holds a codice fiscale")
	}
}

// TestPoisonIsOfNobody keeps the corpus free of codici fiscali that somebody might have.
func TestPoisonIsOfNobody(t *testing.T) {
	files, _ := filepath.Glob("testdata/poison/*")
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.FieldsFunc(string(raw), func(r rune) bool { return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", r) }) {
			if len(word) == 16 && privacy.Valid(word) && !strings.Contains(word, "ZZZ") {
				t.Errorf("%s has a code that is not of the corpus", f)
			}
		}
	}
}

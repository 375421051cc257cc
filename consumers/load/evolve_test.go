package load

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/welfarehub/welfarehub/pkg/clickhouse/ddl"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// nextID is the registry id of the next version of ServiceRequested.
const nextID = 200

// nextRelease is ServiceRequested with a field and a symbol more.
func nextRelease(t *testing.T) *event.Type {
	t.Helper()
	typ := event.ByName("ServiceRequested")
	raw := strings.Replace(typ.Raw, `"THIRD_SECTOR"]`, `"THIRD_SECTOR", "CARER"]`, 1)
	at := strings.LastIndex(raw, "]")
	next, err := typ.WithSchema(raw[:at] + `, {"name": "note", "type": ["null", "string"], "default": null, "doc": "A note."}` + raw[at:])
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// nextSchemas is the test's registry with the next version.
type nextSchemas struct {
	hubtest.Schemas
	next *event.Type
}

func (s *nextSchemas) SchemaByID(ctx context.Context, id int) (string, error) {
	if id == nextID {
		return s.next.Raw, nil
	}
	return s.Schemas.SchemaByID(ctx, id)
}

// startNext runs a loader of the next release.
func (w *world) startNext(next *event.Type) (l *Loader, stop func()) {
	w.t.Helper()
	return w.start(&nextSchemas{next: next}, func(o *Options) {
		o.refresh = time.Millisecond
		o.Logger = zaptest.NewLogger(w.t, zaptest.Level(zap.ErrorLevel))
	}, func(l *Loader) { l.topics[next.Topic] = newTopic(next, l) })
}

// request is event n as one of the releases writes it. The next one says of every third that a carer asked.
func request(next *event.Type, n int, new bool, partition int) kafka.Message {
	old := hubtest.Valid(event.ByName("ServiceRequested"), n)
	if !new {
		return message(old, partition)
	}
	row := event.NewRow(next)
	copy(row.Vals, old.Vals)
	row.Set(next.MustField("note"), fmt.Sprintf("note %d", n))
	if n%3 == 0 {
		channel := next.MustField("channel")
		row.SetInt(channel, int64(len(next.Fields[channel].Symbols)-1))
	}
	m := message(row, partition)
	_, m.Value, _ = event.Message(row, nextID)
	return m
}

// TestANewFieldIsLoadedLive is a release with a new field and a new symbol: the column is added while
// loaders run and events come, old and new loaders share the topic, and copies of what one of them stored
// come to the other. No event is lost, doubled, or taken for a conflict.
func TestANewFieldIsLoadedLive(t *testing.T) {
	next := nextRelease(t)
	w := newWorld(t, 3)
	brisk := func(o *Options) { o.refresh = time.Millisecond }
	startOld := func() func() { _, stop := w.start(&nextSchemas{next: next}, brisk); return stop }
	isNew := func(n int) bool { return n >= 30 && n%2 == 0 }
	sent := int64(0)
	send := func(from, to, shift int) {
		t.Helper()
		for n := from; n < to; n++ {
			w.publish(request(next, n, isNew(n), (n+shift)%3))
		}
		sent += int64(to - from)
	}
	stopOld := startOld()
	send(0, 60, 0)
	w.await(next.Topic, sent)

	done := make(chan struct{})
	go func() { // events go on coming while the column is added
		defer close(done)
		for n := 60; n < 120; n++ {
			w.publish(request(next, n, isNew(n), n%3))
			time.Sleep(2 * time.Millisecond)
		}
	}()
	for range 2 { // a migration may be repeated
		for _, q := range ddl.Evolve(next) {
			if err := w.db.Exec(t.Context(), q); err != nil {
				t.Fatalf("%.80s: %v", q, err)
			}
		}
	}
	<-done
	sent += 60
	w.await(next.Topic, sent)
	if n := w.count("countIf(note IS NOT NULL) FROM welfare.service_requested"); n != 0 {
		t.Errorf("%d rows of the old release have a note, which it does not know", n)
	}

	l, stopNext := w.startNext(next) // beside the old one, in its group
	for l.assigned() == 0 {
		time.Sleep(50 * time.Millisecond)
	}
	send(120, 180, 0)
	w.await(next.Topic, sent)
	send(0, 180, 1) // copies, some to the loader that did not store the first
	w.await(next.Topic, sent)
	stopOld()
	send(180, 240, 0)
	w.await(next.Topic, sent)
	send(0, 240, 2) // all to the new one
	for _, n := range []int{31, 32} {
		m := request(next, n, isNew(n), 0)
		row := hubtest.Valid(event.ByName("ServiceRequested"), n)
		row.Set(event.OrgCode, "F206") // another content: a conflict, whoever stored the first
		_, m.Value, _ = event.Message(row, row.Type.No)
		w.publish(m)
	}
	sent += 2
	w.await(next.Topic, sent)
	stopNext()
	startOld() // back to the old release
	send(0, 240, 1)
	w.await(next.Topic, sent)

	if got, want := w.books(next.Topic), (Counts{sent, 240, sent - 242, 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := w.count("count() FROM welfare.rejected WHERE code = 'E07'"); n != 2 {
		t.Errorf("%d conflicts, want 2", n)
	}
	if n := w.count("uniqExact(event_id) FROM welfare.service_requested"); n != 240 {
		t.Errorf("%d events, want 240", n)
	}
	of := func(version int) string {
		return fmt.Sprintf("(_partition, _offset) IN (SELECT _partition, _offset FROM store.service_requested WHERE _end = 'loaded' AND _hash_version = %d)", version)
	}
	byNext := w.count("count() FROM welfare.service_requested WHERE " + of(2))
	if byNext < 60 || byNext > 120 {
		t.Errorf("%d events were loaded by the new release", byNext)
	}
	for what, query := range map[string]string{
		"rows of the new release without their note":    "countIf(_schema_id = 200 AND note IS NULL OR _schema_id != 200 AND note IS NOT NULL) FROM welfare.service_requested WHERE " + of(2),
		"rows of the old release with a note":           "countIf(note IS NOT NULL) FROM welfare.service_requested WHERE " + of(1),
		"new symbols that the old release did not flag": "countIf(channel = 'UNKNOWN' AND NOT has(_flags, 'W90')) FROM welfare.service_requested WHERE _schema_id = 200 AND " + of(1),
		"new symbols that the new release flags":        "countIf(has(_flags, 'W90')) FROM welfare.service_requested WHERE " + of(2),
		"rows in force without the view's new column":   "countIf(note IS NULL AND _schema_id = 200) FROM welfare.service_requested_current WHERE " + of(2),
	} {
		if n := w.count(query); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	if n := w.count("countIf(channel = 'CARER') FROM welfare.service_requested WHERE " + of(2)); n == 0 {
		t.Error("the new symbol is nowhere")
	}
}

// TestANewReleaseWaitsForItsColumn starts the new release before the migration: it waits, and loses nothing.
func TestANewReleaseWaitsForItsColumn(t *testing.T) {
	next := nextRelease(t)
	w := newWorld(t, 1)
	w.startNext(next)
	for n := range 10 {
		w.publish(request(next, n, true, 0))
	}
	time.Sleep(time.Second)
	if got := w.books(next.Topic); got.Read != 0 {
		t.Fatalf("stored without the column: %+v", got)
	}
	for _, q := range ddl.Evolve(next) {
		if err := w.db.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	w.await(next.Topic, 10)
	if got, want := w.books(next.Topic), (Counts{10, 10, 0, 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := w.count("count() FROM welfare.service_requested WHERE note LIKE 'note %'"); n != 10 {
		t.Errorf("%d notes", n)
	}
}

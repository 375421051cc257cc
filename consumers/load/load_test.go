package load

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func TestLoadEndsEveryRecordOfEveryEvent(t *testing.T) {
	w := newWorld(t, 1)
	_, stop := w.start(&hubtest.Schemas{}, nil)
	for _, typ := range event.Types {
		first := hubtest.Valid(typ, 1)
		conflict := first.Clone()
		conflict.Set(event.OrgCode, "F206")
		invalid := hubtest.Valid(typ, 2)
		invalid.SetInt(event.RecordVersion, 0)
		later := first.Clone()
		later.SetInt(event.RecordedAt, later.Vals[event.RecordedAt].Int+1) // not part of the content
		w.publish(
			message(first, 0), message(hubtest.Valid(typ, 3), 0), message(later, 0), message(conflict, 0), message(invalid, 0),
			kafka.Message{Topic: typ.Topic}, kafka.Message{Topic: typ.Topic, Value: []byte("{}")},
			kafka.Message{Topic: typ.Topic, Value: event.AppendFrame(nil, 999)},
			kafka.Message{Topic: typ.Topic, Value: append(event.AppendFrame(nil, 999), 1)},
		)
	}
	for _, typ := range event.Types {
		w.await(typ.Topic, 9)
		if got, want := w.books(typ.Topic), (Counts{9, 2, 1, 6}); got != want {
			t.Errorf("%s: %+v, want %+v", typ.Topic, got, want)
		}
		if n := w.count("count() FROM store.ids WHERE type = ?", uint8(typ.No)); n != 2 {
			t.Errorf("%s: %d ids", typ.Topic, n)
		}
		var codes []string
		rows, err := w.db.Conn().Query(t.Context(), "SELECT code FROM welfare.rejected WHERE topic = ? ORDER BY offset", typ.Topic)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var c string
			if err := rows.Scan(&c); err != nil {
				t.Fatal(err)
			}
			codes = append(codes, c)
		}
		if got := strings.Join(codes, " "); got != "E07 E02 P01 P02 P02 P03" {
			t.Errorf("%s: codes %s", typ.Topic, got)
		}
		if n := w.count("count() FROM welfare." + typ.Table); n != 2 {
			t.Errorf("%s: %d rows", typ.Table, n)
		}
		letters := w.drain(typ.Topic + DeadLetterSuffix)
		if len(letters) != 6 {
			t.Errorf("%s: %d letters", typ.Topic, len(letters))
		}
	}
	stop()
	schema := avro.MustParse(event.OutcomesReportedRaw)
	told := map[string]int{}
	for _, m := range w.drain(event.TopicOutcome) {
		var o event.OutcomesReported
		if err := avro.Unmarshal(schema, m.Value[event.FrameSize:], &o); err != nil {
			t.Fatal(err)
		}
		for _, x := range o.Outcomes {
			told[o.Topic+" "+string(x.Outcome)]++
		}
	}
	for _, typ := range event.Types {
		if l, d, r := told[typ.Topic+" LOADED"], told[typ.Topic+" DUPLICATE"], told[typ.Topic+" REJECTED"]; l != 2 || d != 1 || r != 6 {
			t.Errorf("%s: outcomes %d loaded, %d duplicate, %d rejected", typ.Topic, l, d, r)
		}
	}
}

func TestLoadReadsBackWhatWasSent(t *testing.T) {
	w := newWorld(t, 1)
	_, _ = w.start(&hubtest.Schemas{}, nil)
	for _, typ := range event.Types {
		w.publish(message(hubtest.Valid(typ, 1), 0))
	}
	for _, typ := range event.Types {
		w.await(typ.Topic, 1)
		row := hubtest.Valid(typ, 1)
		for i, f := range typ.Fields {
			var got string
			if err := w.db.Scan(t.Context(), "SELECT ifNull(toString("+f.Column+"), 'NULL') FROM welfare."+typ.Table, nil, &got); err != nil {
				t.Fatalf("%s.%s: %v", typ.Table, f.Column, err)
			}
			if want := shown(row, i); got != want {
				t.Errorf("%s.%s: got %q, want %q", typ.Table, f.Column, got, want)
			}
		}
	}
}

// shown is a value as ClickHouse prints it.
func shown(row *event.Row, i int) string {
	f, v := &row.Type.Fields[i], row.Vals[i]
	if v.Null {
		return "NULL"
	}
	switch f.Kind {
	case event.Enum:
		return row.Symbol(i)
	case event.Bool:
		return map[int64]string{0: "false", 1: "true"}[v.Int]
	case event.Date:
		return row.Time(i).Format(time.DateOnly)
	case event.Timestamp:
		return row.Time(i).Format("2006-01-02 15:04:05.000")
	case event.Decimal:
		s := string(event.AppendDecimal(nil, v.Int, f.Scale))
		return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	case event.Double:
		return strconv.FormatFloat(v.Float, 'f', -1, 64)
	case event.Int, event.Long:
		return string(event.AppendDecimal(nil, v.Int, 0))
	case event.Strings:
		var items []string
		for _, b := range v.List {
			items = append(items, "'"+string(b)+"'")
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	return string(v.Bytes)
}

func TestLoadFindsCopiesInOtherPartitionsAndAfterRestart(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	w := newWorld(t, 3)
	_, stop := w.start(&hubtest.Schemas{}, nil)
	for n := range 30 {
		w.publish(message(hubtest.Valid(typ, n), n%3))
	}
	w.await(typ.Topic, 30)
	for n := range 30 {
		w.publish(message(hubtest.Valid(typ, n), (n+1)%3)) // the same ids elsewhere
	}
	w.await(typ.Topic, 60)
	stop()
	for n := range 30 {
		w.publish(message(hubtest.Valid(typ, n), n%3))
	}
	w.start(&hubtest.Schemas{}, nil)
	w.await(typ.Topic, 90)
	if got, want := w.books(typ.Topic), (Counts{90, 30, 60, 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := w.count("count() FROM welfare.duplicates"); n != 60 {
		t.Errorf("%d duplicates", n)
	}
}

func TestLoadWaitsForTheRegistry(t *testing.T) {
	typ := event.ByName("RecordRevoked")
	w := newWorld(t, 1)
	schemas := &hubtest.Schemas{}
	schemas.SetDown(true)
	w.start(schemas, nil)
	w.publish(message(hubtest.Valid(typ, 1), 0))
	time.Sleep(time.Second)
	if got := w.books(typ.Topic); got.Read != 0 {
		t.Fatalf("decided without the registry: %+v", got)
	}
	schemas.SetDown(false)
	w.await(typ.Topic, 1)
	if got, want := w.books(typ.Topic), (Counts{1, 1, 0, 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestLoadEndsAClaimedBlock stops a loader after each step of a block and lets another go on.
func TestLoadEndsAClaimedBlock(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	for _, c := range []struct {
		name string
		upTo int // the last step that is done before the loader is gone
	}{{"claimed", 3}, {"inserted", 4}, {"told", 5}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			msgs := []kafka.Message{message(hubtest.Valid(typ, 1), 0), message(hubtest.Valid(typ, 2), 0), message(hubtest.Valid(typ, 1), 0), {Topic: typ.Topic, Value: []byte("x")}}
			w.publish(msgs...)
			w.dieAfter(typ, c.upTo, 4)
			more := hubtest.Valid(typ, 3)
			w.publish(message(more, 0), message(hubtest.Valid(typ, 2), 0))
			w.start(&hubtest.Schemas{}, nil)
			w.await(typ.Topic, 6)
			if got, want := w.books(typ.Topic), (Counts{6, 3, 2, 1}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			if n := w.count("count() FROM store.service_requested"); n != 6 {
				t.Errorf("%d rows for 6 records", n)
			}
			if n := w.count("uniqExact(_offset) FROM store.service_requested"); n != 6 {
				t.Errorf("%d positions for 6 records", n)
			}
			if n := w.count("count() FROM store.ids"); n != 3 {
				t.Errorf("%d ids", n)
			}
			if n := len(w.drain(typ.Topic + DeadLetterSuffix)); n != 1 && !(c.upTo == 5 && n == 2) {
				t.Errorf("%d letters", n)
			}
		})
	}
}

// decideAlone decides a block as a worker that has the topic for itself.
func (t *topic) decideAlone(ctx context.Context, p position, c claim, recs []wkafka.Record) (*block, *record.Columns, error) {
	cols := record.NewColumns(t.Type)
	b, waiting, turn, err := t.decide(ctx, p, c, recs, cols)
	if err != nil {
		return nil, nil, err
	}
	defer t.turns.leave(turn)
	first, err := t.l.store.lookup(ctx, t.Type, ids(waiting))
	if err == nil {
		err = t.resolve(ctx, b, waiting, first, cols)
	}
	return b, cols, err
}

// insertBlock sends the block that t has decided.
func insertBlock(ctx context.Context, s *store, t *topic, p position, c claim, cols *record.Columns) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	return conn.insert(ctx, t.Type, p, c, cols)
}

// dieAfter does the first steps of the block [0, to) as a loader that then dies does.
func (w *world) dieAfter(typ *event.Type, step int, to int64) {
	w.t.Helper()
	l, err := New(Options{Cluster: w.cluster, Group: w.group, DSN: w.dsn, Schemas: &hubtest.Schemas{}, OutcomeSchemaID: 17})
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.store.close()
	defer l.broker.close()
	ctx := w.t.Context()
	p, c := position{typ.Topic, 0}, claim{0, to}
	r := newReader(l.broker, p)
	defer r.Close()
	recs, _, err := r.read(ctx, nil, 0, to, 100, 1<<20, time.Second)
	if err != nil || len(recs) != int(to) {
		w.t.Fatalf("%d records, %v", len(recs), err)
	}
	group, err := l.broker.join([]string{typ.Topic}, 6*time.Second, 10*time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	gen := nextGeneration(w.t, group)
	t := l.topics[typ.Topic]
	b, cols, err := t.decideAlone(ctx, p, c, recs)
	if err == nil {
		err = l.broker.claim(ctx, gen, p, c)
	}
	if err == nil && step >= 4 {
		err = insertBlock(ctx, l.store, t, p, c, cols)
	}
	if err == nil && step >= 5 {
		if err = publish(ctx, l.broker.letters, b.letters(1<<20)); err == nil {
			err = publish(ctx, l.broker.outcomes, outcomes(b, 17))
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if err := group.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// TestLoadTakesALateInsertOfAClaimedBlockForDone is the zombie: its insert comes after its successor's.
func TestLoadTakesALateInsertOfAClaimedBlockForDone(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	w := newWorld(t, 1)
	w.publish(message(hubtest.Valid(typ, 1), 0), message(hubtest.Valid(typ, 2), 0))
	zombie, err := New(Options{Cluster: w.cluster, Group: w.group, DSN: w.dsn, Schemas: &hubtest.Schemas{}, OutcomeSchemaID: 17})
	if err != nil {
		t.Fatal(err)
	}
	defer zombie.store.close()
	defer zombie.broker.close()
	r := newReader(zombie.broker, position{typ.Topic, 0})
	defer r.Close()
	recs, _, err := r.read(t.Context(), nil, 0, 2, 100, 1<<20, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	zt := zombie.topics[typ.Topic]
	late, cols, err := zt.decideAlone(t.Context(), r.p, claim{0, 2}, recs)
	if err != nil {
		t.Fatal(err)
	}
	w.dieAfter(typ, 3, 2) // the claim that the zombie made
	w.start(&hubtest.Schemas{}, nil)
	w.await(typ.Topic, 2)
	if err := insertBlock(t.Context(), zombie.store, zt, r.p, claim{0, 2}, cols); err != nil {
		t.Fatal(err)
	}
	if n := w.count("count() FROM store.service_requested"); n != 2 {
		t.Errorf("%d rows for 2 records", n)
	}
	if got, want := w.books(typ.Topic), (Counts{2, 2, 0, 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, doubted := range []bool{false, true} {
		if whose, err := zombie.store.owns(t.Context(), typ, r.p, claim{0, 2}, zombie.owner, late.at, doubted); err != nil || whose != another {
			t.Errorf("the zombie takes the block for its own: %v, %v", whose, err)
		}
	}
}

// TestHealFillsAViewThatACrashLeftBehind empties the views as an engine that dies between them does.
func TestHealFillsAViewThatACrashLeftBehind(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	w := newWorld(t, 1)
	w.publish(message(hubtest.Valid(typ, 1), 0), message(hubtest.Valid(typ, 2), 0))
	w.dieAfter(typ, 4, 2)
	for _, q := range []string{"TRUNCATE TABLE store.ids", "TRUNCATE TABLE store.ledger"} {
		if err := w.db.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	w.start(&hubtest.Schemas{}, nil)
	w.await(typ.Topic, 2)
	if ids, rows := w.count("count() FROM store.ids"), w.count("count() FROM store.service_requested"); ids != 2 || rows != 2 {
		t.Errorf("%d ids, %d rows", ids, rows)
	}
	w.publish(message(hubtest.Valid(typ, 1), 0), message(hubtest.Valid(typ, 2), 0)) // known, though the filter was made before the views were whole
	w.await(typ.Topic, 4)
	if got, want := w.books(typ.Topic), (Counts{4, 2, 2, 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestCommitIsFenced(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	w := newWorld(t, 1)
	l, err := New(Options{Cluster: w.cluster, Group: w.group, DSN: w.dsn, Schemas: &hubtest.Schemas{}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.broker.close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	group, err := l.broker.join([]string{typ.Topic}, 6*time.Second, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	gen := nextGeneration(t, group)
	p := position{typ.Topic, 0}
	check := func(what string, offset int64, settled bool) {
		t.Helper()
		if at, clean, err := l.broker.committed(ctx, p); err != nil || at != offset || clean != settled {
			t.Errorf("%s: offset %d, settled %t, %v", what, at, clean, err)
		}
	}
	check("before all", -1, false)
	if err := l.broker.claim(ctx, gen, p, claim{5, 9}); err != nil {
		t.Fatal(err)
	}
	check("claimed", 5, false)
	if err := l.broker.settle(ctx, gen, p, 9, false); err != nil {
		t.Fatal(err)
	}
	check("told", 9, false)
	if err := l.broker.settle(ctx, gen, p, 9, true); err != nil {
		t.Fatal(err)
	}
	check("settled", 9, true)
	if err := group.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.broker.claim(ctx, gen, p, claim{9, 12}); err != errFenced { //nolint:errorlint // exactly this one
		t.Errorf("a claim after leaving: %v", err)
	}
	check("after leaving", 9, true)
}

// nextGeneration joins; a broker that is new to groups says no until its offsets topic is there.
func nextGeneration(t *testing.T, group *kafka.ConsumerGroup) *kafka.Generation {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		gen, err := group.Next(t.Context())
		if err == nil {
			return gen
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

package simulate

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/hamba/avro/v2/ocf"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
)

// recorder is a writer that keeps what it is given, until it fails.
type recorder struct {
	got  []kafka.Message
	fail error
}

func (r *recorder) WriteMessages(_ context.Context, msgs ...kafka.Message) error {
	if r.fail != nil {
		return r.fail
	}
	for _, m := range msgs {
		m.Value, m.Key = slices.Clone(m.Value), slices.Clone(m.Key)
		m.Headers = slices.Clone(m.Headers)
		for i := range m.Headers {
			m.Headers[i].Value = slices.Clone(m.Headers[i].Value)
		}
		r.got = append(r.got, m)
	}
	return nil
}

func TestKafkaSinkSendsEveryMessageAsItWas(t *testing.T) {
	cfg := rough(5, 2500)
	cfg.SchemaIDs = map[string]int{"welfare.demand.request": 4711}
	w := &recorder{}
	sink := NewKafkaSink(w, false)
	n, err := Run(t.Context(), New(cfg), sink, Pace{})
	if err != nil || n != 2500 || len(w.got) != 2500 {
		t.Fatalf("sent %d, written %d, error %v", n, len(w.got), err)
	}
	s := New(cfg)
	for i, got := range w.got {
		m, _ := s.Next()
		want := kafka.Message{Topic: m.Topic, Key: slices.Clone(m.Key), Value: slices.Clone(m.Value), Time: m.Timestamp}
		for _, h := range m.Headers {
			want.Headers = append(want.Headers, kafka.Header{Key: h.Key, Value: h.Value})
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("message %d differs: %+v, want %+v", i, got, want)
		}
		if (got.Value == nil) != (m.Value == nil) || (got.Key == nil) != (m.Key == nil) {
			t.Fatalf("message %d: null and empty are confused", i)
		}
	}
}

func TestRunStopsAtTheFirstWriteError(t *testing.T) {
	down := errors.New("broker is down")
	if _, err := Run(t.Context(), New(rough(5, 2500)), NewKafkaSink(&recorder{fail: down}, true), Pace{}); !errors.Is(err, down) {
		t.Fatalf("error %v, want %v", err, down)
	}
}

func TestRunKeepsToItsRate(t *testing.T) {
	began := time.Now()
	n, err := Run(t.Context(), New(rough(5, 40)), NewKafkaSink(&recorder{}, true), Pace{PerSecond: 400})
	if took := time.Since(began); err != nil || n != 40 || took < 80*time.Millisecond {
		t.Fatalf("%d messages in %s, error %v; want 40 in about 100ms", n, took, err)
	}
}

func TestLiveTrafficFollowsTheClock(t *testing.T) {
	cfg := rough(5, 2000)
	cfg.Late = 0
	s := New(cfg)
	w := &recorder{}
	at := cfg.Start.Add(24 * time.Hour)
	if _, err := Run(t.Context(), s, NewKafkaSink(w, false), Pace{Clock: func() time.Time { at = at.Add(time.Second); return at }}); err != nil {
		t.Fatal(err)
	}
	// The clock is read once more, for the message that is not to come.
	if last := w.got[len(w.got)-1].Time; !last.Equal(at.Add(-time.Second)) {
		t.Errorf("last message of %s, clock at %s", last, at)
	}
	topics := map[string]int{}
	for _, m := range w.got {
		topics[m.Topic]++
	}
	for _, topic := range []string{"welfare.demand.benefit", "welfare.demand.delivery"} {
		if topics[topic] == 0 {
			t.Errorf("no %s within half an hour of live traffic", topic)
		}
	}
}

func TestFilesHoldTheEvents(t *testing.T) {
	cfg := rough(5, 3000)
	for _, jsonl := range []bool{false, true} {
		dir := t.TempDir()
		sink, err := NewFileSink(dir, jsonl)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), New(cfg), sink, Pace{}); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		events, poison := 0, 0
		byTopic := map[string][][32]byte{}
		s := New(cfg)
		for m, ok := s.Next(); ok; m, ok = s.Next() {
			if m.Row == nil {
				poison++
				continue
			}
			events++
			byTopic[m.Topic] = append(byTopic[m.Topic], m.Row.ContentHash())
		}
		if sink.Skipped() != poison || poison == 0 || events == 0 {
			t.Errorf("skipped %d, want %d", sink.Skipped(), poison)
		}
		for topic, want := range byTopic {
			if got := hashesOf(t, dir, event.ByTopic(topic), jsonl); !slices.Equal(got, want) {
				t.Errorf("file of %s (jsonl %t): %d events, want %d with the same contents", topic, jsonl, len(got), len(want))
			}
		}
	}
}

func hashesOf(t *testing.T, dir string, ty *event.Type, jsonl bool) (out [][32]byte) {
	t.Helper()
	ext := map[bool]string{true: ".jsonl", false: ".avro"}[jsonl]
	f, err := os.Open(filepath.Join(dir, ty.Topic+ext))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	row := event.NewRow(ty)
	if jsonl {
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			row.Reset()
			if err := event.ParseJSON(ty, lines.Bytes(), row); err != nil {
				t.Fatalf("%s: %v", ty.Topic, err)
			}
			out = append(out, row.ContentHash())
		}
		return out
	}
	// The library reads the container into plain values; encoded again, they must be the same events.
	dec, err := ocf.NewDecoder(f)
	if err != nil {
		t.Fatal(err)
	}
	raw := mustDecoder(t, ty)
	for dec.HasNext() {
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		b, err := avro.Marshal(dec.Schema(), v)
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Decode(b, row); err != nil {
			t.Fatalf("%s: %v", ty.Topic, err)
		}
		out = append(out, row.ContentHash())
	}
	if err := dec.Error(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTruthDoesNotDependOnTheOrder(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	cfg := rough(seed, 6000)
	cfg.Invalid = 0 // E07 is decided by who comes first
	s := New(cfg)
	var rows []*event.Row
	for m, ok := s.Next(); ok; m, ok = s.Next() {
		rows = append(rows, m.Row.Clone())
	}
	want := s.Truth()
	m := model.New(model.Shipped())
	rng := rand.New(rand.NewPCG(seed, 2))
	for i, at := range rng.Perm(len(rows)) {
		m.Apply(model.Record{Topic: rows[at].Type.Topic, Offset: int64(i), Row: rows[at]})
	}
	if !reflect.DeepEqual(m.SupplyDemand(), want.SupplyDemand) {
		t.Errorf("seed %d: supply_demand differs in another order", seed)
	}
	for topic, b := range m.Ends() {
		w := want.Topics[topic]
		if b.Loaded != w.Loaded || b.Duplicate != w.Duplicate || b.Erased != w.Erased || w.Sent != w.Loaded+w.Duplicate {
			t.Errorf("seed %d: books of %s are %+v, truth %+v", seed, topic, b, w)
		}
		var sum uint64
		current := m.Current(event.ByTopic(topic))
		for _, st := range current {
			sum += binary.BigEndian.Uint64(st.Hash[:8])
		}
		if len(current) != w.Current || sum != w.Checksum {
			t.Errorf("seed %d: %s has %d records in force, truth %d", seed, topic, len(current), w.Current)
		}
	}
}

package simulate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
)

var update = flag.Bool("update", false, "rewrite golden files")

// rough is a configuration in which every disturbance is frequent.
func rough(seed uint64, count int) Config {
	return Config{Seed: seed, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Count: count,
		Duplicates: 0.03, Corrections: 0.05, Revocations: 0.01, Late: 0.05, Invalid: 0.03, Erasures: 0.005, Unmapped: 0.02,
		Territories: true, MaxValue: 2000, Truth: true}
}

func digest(cfg Config) string {
	h := sha256.New()
	s := New(cfg)
	for m, ok := s.Next(); ok; m, ok = s.Next() {
		fmt.Fprintf(h, "%s %x %x %d\n", m.Topic, m.Key, m.Value, m.Timestamp.UnixMilli())
		for _, hd := range m.Headers {
			fmt.Fprintf(h, "%s=%s\n", hd.Key, hd.Value)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestSameSeedGivesSameBytes(t *testing.T) {
	got := digest(rough(7, 5000))
	if again := digest(rough(7, 5000)); again != got {
		t.Fatalf("two runs differ: %s, %s", got, again)
	}
	if other := digest(rough(8, 5000)); other == got {
		t.Fatal("another seed gives the same bytes")
	}
	const file = "testdata/golden.sha256"
	if *update {
		if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.TrimSpace(string(want)) {
		t.Errorf("5,000 messages have digest %s, golden %s; rerun with -update if the change is meant", got, bytes.TrimSpace(want))
	}
}

func TestMessagesAreWhatTheCatalogueSays(t *testing.T) {
	s := New(rough(3, 20_000))
	decoders := map[string]*event.Decoder{}
	seen := map[string]int{}
	for m, ok := s.Next(); ok; m, ok = s.Next() {
		if m.Expect.End == model.Rejected {
			seen[m.Expect.Codes[0]]++
			continue
		}
		seen[m.Row.Type.Name]++
		key, value, headers := event.Message(m.Row, m.Row.Type.No)
		if !bytes.Equal(key, m.Key) || !bytes.Equal(value, m.Value) || fmt.Sprint(headers) != fmt.Sprint(m.Headers) {
			t.Fatalf("message %d of %s differs from event.Message", s.sent, m.Topic)
		}
		d := decoders[m.Topic]
		if d == nil {
			d = mustDecoder(t, m.Row.Type)
			decoders[m.Topic] = d
		}
		row := event.NewRow(m.Row.Type)
		if err := d.Decode(m.Value[event.FrameSize:], row); err != nil {
			t.Fatalf("message %d of %s: %v", s.sent, m.Topic, err)
		}
		if row.ContentHash() != m.Row.ContentHash() {
			t.Fatalf("message %d of %s decodes to another content", s.sent, m.Topic)
		}
		at, recorded := row.Time(event.OccurredAt), row.Time(event.RecordedAt)
		if at.After(recorded) || recorded.After(m.Timestamp) {
			t.Fatalf("message %d of %s: occurred %s, recorded %s, sent %s", s.sent, m.Topic, at, recorded, m.Timestamp)
		}
	}
	for _, ty := range event.Types {
		if seen[ty.Name] == 0 {
			t.Errorf("no %s among the messages", ty.Name)
		}
	}
	for _, v := range violations {
		if seen[v.code] == 0 {
			t.Errorf("no %s among the messages", v.code)
		}
	}
}

func mustDecoder(t *testing.T, ty *event.Type) *event.Decoder {
	t.Helper()
	writer, err := avro.ParseWithCache(ty.Raw, "", &avro.SchemaCache{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := event.NewDecoder(ty, writer)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func BenchmarkNext(b *testing.B) {
	cfg := rough(1, 0)
	cfg.Truth, cfg.MaxValue, cfg.Step = false, 0, time.Second
	s := New(cfg)
	b.ReportAllocs()
	for b.Loop() {
		s.Next()
	}
}

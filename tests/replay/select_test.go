package replay

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/consumers/replay"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// all reads a partition.
func (h *hub) all(topic string, partition int) []wkafka.Message {
	h.t.Helper()
	bounds, err := wkafka.LogBounds(h.t.Context(), h.client, topic)
	if err != nil {
		h.t.Fatal(err)
	}
	scan := wkafka.NewScan(h.cluster, topic, partition, bounds[partition].First, bounds[partition].End)
	defer scan.Close()
	var out []wkafka.Message
	for {
		recs, err := scan.Next(h.t.Context(), 100, 1<<20)
		if err != nil {
			h.t.Fatal(err)
		}
		if len(recs) == 0 {
			return out
		}
		out = append(out, recs...)
	}
}

func TestReplaySelects(t *testing.T) {
	h := newHub(t, 1)
	stop := h.load(nil)
	typ := event.ByName("ServiceRequested")
	const other = 4711
	h.schemas.Register(other, typ.Raw)
	var msgs []kafka.Message
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for n := range 40 {
		row := hubtest.Valid(typ, n)
		id := typ.No
		if n%4 == 1 {
			id = other
		}
		if n%5 == 2 {
			row.Set(event.Source, "urn:welfare:other:source")
		}
		m := hubtest.Message(row, id)
		m.Time = begin.Add(time.Duration(n) * time.Hour)
		msgs = append(msgs, m)
	}
	msgs = append(msgs, kafka.Message{Topic: typ.Topic, Key: []byte("poison"), Value: []byte("poison"), Time: begin.Add(40 * time.Hour)})
	h.publish(msgs...)
	stop()
	h.exec("DELETE FROM store.service_requested WHERE _offset >= 10 AND _offset < 30 SETTINGS lightweight_deletes_sync = 1")
	n := func(i int64) *int64 { return &i }
	zero := 0
	for name, c := range map[string]struct {
		change         func(*replay.Selection)
		read, restored uint64
	}{
		"all":           {func(*replay.Selection) {}, 41, 20},
		"offsets":       {func(s *replay.Selection) { s.Partition, s.From, s.To = &zero, n(5), n(12) }, 7, 2},
		"beyond":        {func(s *replay.Selection) { s.Partition, s.From = &zero, n(100) }, 0, 0},
		"time":          {func(s *replay.Selection) { s.Since, s.Until = begin.Add(8*time.Hour), begin.Add(11*time.Hour) }, 3, 1},
		"after the end": {func(s *replay.Selection) { s.Since = begin.Add(100 * time.Hour) }, 0, 0},
		"source":        {func(s *replay.Selection) { s.Source = "urn:welfare:other:source" }, 8, 4},
		"record":        {func(s *replay.Selection) { s.Record = "record-12" }, 1, 1},
		"schema":        {func(s *replay.Selection) { s.SchemaID = other }, 10, 5},
		"key":           {func(s *replay.Selection) { s.KeyHash = replay.HashKey(hubtest.Valid(typ, 15).Str(typ.Key)) }, 1, 1},
		"both":          {func(s *replay.Selection) { s.SchemaID, s.Source = other, "urn:welfare:other:source" }, 2, 1},
	} {
		h.sub(name, func(t *testing.T) {
			o := h.options(typ.Topic)
			o.DryRun, o.ChunkRecords = true, 7
			c.change(&o.Select)
			r := h.replay(o)
			if r.Read != c.read || r.Restored != c.restored || r.ID != "" {
				t.Errorf("%+v", r.Counts)
			}
		})
	}
	if n := h.count("count() FROM welfare.replays"); n != 0 {
		t.Errorf("dry runs wrote %d rows of audit", n)
	}

	h.sub("what cannot be meant", func(t *testing.T) {
		for name, change := range map[string]func(*replay.Options){
			"no topic":                func(o *replay.Options) { o.Select.Topics = nil },
			"unknown topic":           func(o *replay.Options) { o.Select.Topics = []string{"no.topic"} },
			"no partition":            func(o *replay.Options) { o.Select.From = n(1) },
			"unknown partition":       func(o *replay.Options) { p := 7; o.Select.Partition = &p },
			"no offsets":              func(o *replay.Options) { o.Select.Partition, o.Select.From, o.Select.To = &zero, n(7), n(7) },
			"no time":                 func(o *replay.Options) { o.Select.Since, o.Select.Until = begin, begin },
			"no reason":               func(o *replay.Options) { o.Why = "" },
			"into a topic of the hub": func(o *replay.Options) { o.Target.Topic = typ.Topic },
			"two targets":             func(o *replay.Options) { o.Target = replay.Target{Topic: "copies", File: "f"} },
			"no id":                   func(o *replay.Options) { o.Resume = "x" },
		} {
			o := h.options(typ.Topic)
			change(&o)
			if _, err := replay.Run(t.Context(), o); !errors.Is(err, replay.ErrSelection) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})

	h.sub("to a topic", func(t *testing.T) {
		o := h.options(typ.Topic)
		o.Target.Topic, o.Select.SchemaID = "copies", other
		if r := h.bothRuns(o); r.Copied != 10 || r.Read != 10 {
			t.Errorf("%+v", r.Counts)
		}
		copies := h.all("copies", 0)
		if len(copies) != 10 {
			t.Fatalf("%d copies", len(copies))
		}
		for i, m := range copies {
			was := msgs[4*i+1]
			if !bytes.Equal(m.Key, was.Key) || !bytes.Equal(m.Value, was.Value) || len(m.Headers) != len(was.Headers) || !m.Time.Equal(was.Time) {
				t.Errorf("copy %d differs", i)
			}
		}
	})

	h.sub("to a file, cut off", func(t *testing.T) {
		o := h.options(typ.Topic)
		o.Target.File, o.ChunkRecords = filepath.Join(t.TempDir(), "events.jsonl"), 7
		cut, seen := errors.New("cut off"), 0
		o.Step = func(step string) error {
			if seen++; seen == 4 {
				return cut
			}
			return nil
		}
		r, err := replay.Run(t.Context(), o)
		if !errors.Is(err, cut) {
			t.Fatal(err)
		}
		again := h.options()
		again.Resume = r.ID
		if r, err = replay.Run(t.Context(), again); err != nil || r.Copied != 40 || r.Read != 41 {
			t.Fatalf("%+v %v", r.Counts, err)
		}
		f, err := os.Open(o.Target.File)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if st, err := f.Stat(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the file is %v, %v", st.Mode(), err)
		}
		lines := bufio.NewScanner(f)
		row := event.NewRow(typ)
		for n := range 40 {
			if !lines.Scan() {
				t.Fatalf("%d lines", n)
			}
			if err := event.ParseJSON(typ, lines.Bytes(), row); err != nil || row.Str(event.EventID) != hubtest.Valid(typ, n).Str(event.EventID) {
				t.Errorf("line %d: %v", n, err)
			}
		}
		if lines.Scan() {
			t.Error("a line too many")
		}
	})

	h.sub("slowly", func(t *testing.T) {
		o := h.options(typ.Topic)
		o.DryRun, o.Rate = true, 20
		began := time.Now()
		if r := h.replay(o); r.Read != 41 {
			t.Errorf("%+v", r.Counts)
		}
		if took := time.Since(began); took < 1800*time.Millisecond {
			t.Errorf("41 records at 20 a second took %v", took)
		}
	})

	h.sub("what is not loaded yet", func(t *testing.T) {
		if err := h.writer.WriteMessages(t.Context(), hubtest.Message(hubtest.Valid(typ, 77), typ.No)); err != nil {
			t.Fatal(err)
		}
		if r := h.bothRuns(h.options(typ.Topic)); r.Pending != 1 || r.Restored != 20 {
			t.Errorf("%+v", r.Counts)
		}
	})

	h.sub("before the log begins", func(t *testing.T) {
		hubtest.DeleteRecords(t, h.cluster, typ.Topic, 25)
		o := h.options(typ.Topic)
		o.Select.Partition, o.Select.From = &zero, n(5)
		if _, err := replay.Run(t.Context(), o); !errors.Is(err, replay.ErrLogStart) || !strings.Contains(err.Error(), "is 25") {
			t.Errorf("%v", err)
		}
		o = h.options(typ.Topic)
		r := h.replay(o)
		if r.Read != 17 || r.Partitions[0].LogStart != 25 {
			t.Errorf("%+v", r)
		}
	})
}

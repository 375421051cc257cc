package replay

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/replay"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// simulated publishes traffic of all kinds and returns when it is loaded.
func (h *hub) simulated(n int) {
	h.t.Helper()
	cfg := simulate.Config{Seed: 7, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Count: n}
	cfg.Duplicates, cfg.Corrections, cfg.Revocations, cfg.Late, cfg.Invalid, cfg.Erasures, cfg.Unmapped = 0.05, 0.05, 0.02, 0.05, 0.05, 0.004, 0.01
	sink := simulate.NewKafkaSink(h.writer, false)
	if _, err := simulate.Run(h.t.Context(), simulate.New(cfg), sink, simulate.Pace{}); err != nil {
		h.t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.settle()
}

func (h *hub) options(topics ...string) replay.Options {
	return replay.Options{
		Cluster: h.cluster, DSN: h.dsn, Schemas: h.schemas, Aggregates: aggregate.New(aggregate.Options{DB: h.db.Conn()}),
		Select: replay.Selection{Topics: topics}, Who: "tester", Why: "a test", ChunkRecords: 150,
	}
}

func (h *hub) replay(o replay.Options) *replay.Report {
	h.t.Helper()
	r, err := replay.Run(h.t.Context(), o)
	if err != nil {
		h.t.Fatal(err)
	}
	if sum := r.Present + r.Restored + r.Duplicate + r.Rejected + r.Erased + r.Superseded + r.Pending + r.Unknown; o.Target == (replay.Target{}) && sum != r.Read {
		h.t.Errorf("%d records read, and %d counted: %+v", r.Read, sum, r.Counts)
	}
	return r
}

// bothRuns runs dry and then for real, and wants the same counts.
func (h *hub) bothRuns(o replay.Options) *replay.Report {
	h.t.Helper()
	o.DryRun = true
	dry := h.replay(o)
	o.DryRun = false
	real := h.replay(o)
	if !reflect.DeepEqual(dry.Counts, real.Counts) {
		h.t.Errorf("a dry run counts %+v, the run %+v", dry.Counts, real.Counts)
	}
	return real
}

func TestReplayChangesNothingAndRestoresWhatIsLost(t *testing.T) {
	h := newHub(t, 3)
	stop := h.load(nil)
	h.simulated(3000)
	h.balanced("before")
	stop()
	tables, group := h.checksums(), h.offsets()
	t.Log(strings.Join(tables, "\n"))
	all := h.options(event.Topics()...)

	h.sub("three times", func(t *testing.T) {
		for range 3 {
			r := h.bothRuns(all)
			if r.Present == 0 || r.Duplicate == 0 || r.Rejected == 0 || r.Erased == 0 || r.Restored != 0 || r.Pending != 0 || r.Unknown != 0 {
				t.Errorf("%+v", r.Counts)
			}
			h.same("after a replay", tables)
		}
		if got := h.offsets(); got != group {
			t.Errorf("the group's offsets moved:\n%s\nwere\n%s", got, group)
		}
		var books struct{ read, present, duplicate, rejected, erased uint64 }
		if err := h.db.Scan(t.Context(), "SELECT sum(read), toUInt64(sum(loaded) - sum(erased)), sum(duplicate), sum(rejected), sum(erased) FROM welfare.books", nil,
			&books.read, &books.present, &books.duplicate, &books.rejected, &books.erased); err != nil {
			t.Fatal(err)
		}
		r := h.replay(all)
		if r.Read != books.read || r.Present != books.present || r.Duplicate != books.duplicate || r.Rejected != books.rejected || r.Erased != books.erased {
			t.Errorf("counts %+v, books %+v", r.Counts, books)
		}
	})

	h.sub("rows deleted by hand", func(t *testing.T) {
		deleted := 0
		for _, typ := range event.Types {
			where := fmt.Sprintf(" FROM store.%s WHERE _end = 'loaded' AND _gone = 0 AND cityHash64(_partition, _offset) %% 7 = 0", typ.Table)
			deleted += h.count("count()" + where)
			h.exec("DELETE" + where + " SETTINGS lightweight_deletes_sync = 1")
		}
		r := h.bothRuns(all)
		if int(r.Restored) != deleted || r.Unknown != 0 || deleted < 50 {
			t.Errorf("%d rows were deleted: %+v", deleted, r.Counts)
		}
		h.same("after rows were restored", tables)
		h.balanced("after rows were restored")
	})

	h.sub("rows, ids and facts deleted by hand", func(t *testing.T) {
		cells := h.cells()
		h.exec("CREATE TABLE store.lost (type UInt8, partition UInt32, offset UInt64) ENGINE = MergeTree ORDER BY type")
		for _, typ := range event.Types {
			where := fmt.Sprintf(" FROM store.%s WHERE _end = 'loaded' AND _gone = 0 AND cityHash64(_partition, _offset) %% 5 = 0", typ.Table)
			h.exec(fmt.Sprintf("INSERT INTO store.lost SELECT %d, _partition, _offset%s", typ.No, where))
			h.exec("DELETE" + where + " SETTINGS lightweight_deletes_sync = 1")
		}
		deleted := h.count("count() FROM store.lost")
		for book, only := range map[string]string{"ids": "", "facts": " AND gone = 0", "records": " AND gone = 0"} {
			h.exec("DELETE FROM store." + book + " WHERE (type, partition, offset) IN (SELECT type, partition, offset FROM store.lost)" + only + " SETTINGS lightweight_deletes_sync = 1")
		}
		h.exec("DROP TABLE store.lost SYNC")
		for _, typ := range event.Types {
			for partition := range 3 { // what a cycle that touched these groups would have made of the rest
				if err := aggregate.New(aggregate.Options{DB: h.db.Conn()}).Recompute(t.Context(), typ.Topic, partition, 0, 1<<40); err != nil {
					t.Fatal(err)
				}
			}
		}
		if h.cells() == cells {
			t.Error("the cells do not miss what was deleted")
		}
		r := h.bothRuns(all)
		if int(r.Restored) != deleted || r.Unknown != 0 {
			t.Errorf("%d rows were deleted: %+v", deleted, r.Counts)
		}
		h.same("after rows, ids and facts were restored", tables)
		h.balanced("after rows, ids and facts were restored")
	})

	h.sub("the same ids published again", func(t *testing.T) {
		stop := h.load(nil)
		cells := h.cells()
		read, loaded := h.count("sum(read) FROM store.ledger"), h.count("sum(loaded) FROM store.ledger")
		published := 0
		for _, typ := range event.Types {
			for partition := range 3 {
				var msgs []kafka.Message
				scan := wkafka.NewScan(h.cluster, typ.Topic, partition, 0, int64(h.count("max(to_offset) FROM store.ledger WHERE topic = ? AND partition = ?", typ.Topic, uint32(partition))))
				for {
					recs, err := scan.Next(t.Context(), 1000, 1<<20)
					if err != nil {
						t.Fatal(err)
					}
					if len(recs) == 0 {
						break
					}
					for _, m := range recs {
						msgs = append(msgs, kafka.Message{Topic: typ.Topic, Key: m.Key, Value: m.Value, Headers: m.Headers, Time: m.Time})
					}
				}
				scan.Close()
				published += len(msgs)
				if err := h.writer.WriteMessages(t.Context(), msgs...); err != nil {
					t.Fatal(err)
				}
			}
		}
		h.settle()
		stop()
		if r, l := h.count("sum(read) FROM store.ledger"), h.count("sum(loaded) FROM store.ledger"); r != read+published || l != loaded {
			t.Errorf("%d read and %d loaded, then %d published again: %d and %d", read, loaded, published, r, l)
		}
		if got := h.cells(); got != cells {
			t.Errorf("cells were %s and are %s", cells, got)
		}
		if r := h.bothRuns(all); r.Restored != 0 || r.Unknown != 0 {
			t.Errorf("%+v", r.Counts)
		}
	})
}

func (h *hub) deleteRows(typ *event.Type) int {
	h.t.Helper()
	where := fmt.Sprintf(" FROM store.%s WHERE _end = 'loaded' AND _gone = 0", typ.Table)
	n := h.count("count()" + where)
	h.exec("DELETE" + where + " SETTINGS lightweight_deletes_sync = 1")
	return n
}

// rowsMissing tells whether not all of the loaded rows are there.
func (h *hub) rowsMissing(typ *event.Type, of int) bool {
	return h.count("count() FROM store."+typ.Table+" WHERE _end = 'loaded' AND _gone = 0") < of
}

func TestReplayGoesOnWhereItWasCutOff(t *testing.T) {
	h := newHub(t, 2)
	stop := h.load(nil)
	h.simulated(1500)
	stop()
	tables := h.checksums()
	topic := event.ByName("ServiceRequested")
	cut := errors.New("cut off")
	for _, step := range []string{"decide", "fill", "attach", "restore", "book"} {
		for at := 1; at <= 2; at++ {
			h.sub(fmt.Sprint(step, at), func(t *testing.T) {
				deleted := h.deleteRows(topic)
				o := h.options(topic.Topic)
				o.ChunkRecords = 40
				seen := 0
				o.Step = func(now string) error {
					if now == step {
						if seen++; seen == at {
							return cut
						}
					}
					return nil
				}
				r, err := replay.Run(t.Context(), o)
				if !errors.Is(err, cut) || r.ID == "" {
					t.Fatal(err)
				}
				if step != "decide" {
					if _, err := replay.Run(t.Context(), h.options(topic.Topic)); !errors.Is(err, replay.ErrBusy) && h.rowsMissing(topic, deleted) {
						t.Errorf("another replay of the table beside one that was cut off: %v", err)
					}
				}
				o = h.options()
				o.Resume = r.ID
				r, err = replay.Run(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if int(r.Restored) != deleted || r.Present != 0 {
					t.Errorf("%d rows were deleted: %+v", deleted, r.Counts)
				}
				h.same("after it went on", tables)
				if _, err = replay.Run(t.Context(), o); !errors.Is(err, replay.ErrNoReplay) {
					t.Errorf("resumed once more: %v", err)
				}
			})
		}
	}
	h.balanced("at the end")
}

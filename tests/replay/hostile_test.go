package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/welfarehub/welfarehub/consumers/deadletter"
	"github.com/welfarehub/welfarehub/consumers/reconcile"
	"github.com/welfarehub/welfarehub/consumers/replay"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// bomb publishes n records in one batch that is small to send, and larger than anybody reads.
func (h *hub) bomb(topic string, n int) {
	h.t.Helper()
	tr := h.cluster.Transport()
	defer tr.CloseIdleConnections()
	w := h.cluster.Writer(tr, 1<<30)
	w.Compression, w.BatchSize, w.BatchTimeout = kafka.Zstd, n, time.Second
	defer w.Close()
	value := bytes.Repeat([]byte("x"), wkafka.MaxBatch/n+1)
	msgs := make([]kafka.Message, n)
	for i := range msgs {
		msgs[i] = kafka.Message{Topic: topic, Key: []byte("k"), Value: value}
	}
	if err := w.WriteMessages(h.t.Context(), msgs...); err != nil {
		h.t.Fatal(err)
	}
}

// broken publishes n records in one batch that says it is compressed and is not. It returns how many came to
// the log: Apache Kafka looks inside, and refuses such a batch.
func (h *hub) broken(topic string, n int) int {
	h.t.Helper()
	b := make([]byte, 61, 128)
	b = append(b, "this is no zstd"...)
	now := uint64(time.Now().UnixMilli())
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16], b[22] = 2, byte(kafka.Zstd)
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	binary.BigEndian.PutUint64(b[27:], now)
	binary.BigEndian.PutUint64(b[35:], now)
	for i := 43; i < 57; i++ {
		b[i] = 0xff // no producer
	}
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	res, err := h.client.RawProduce(h.t.Context(), &kafka.RawProduceRequest{
		Topic: topic, RequiredAcks: kafka.RequireAll, RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))},
	})
	if err == nil {
		err = res.Error
	}
	switch {
	case errors.Is(err, kafka.InvalidMessage) || errors.Is(err, kafka.InvalidRecord) || errors.Is(err, kafka.Unknown): // of zstd Apache Kafka says no more
		h.t.Logf("the broker refuses a broken batch: %v", err)
		return 0
	case err != nil:
		h.t.Fatal(err)
	}
	return n
}

// TestBatchesThatCannotBeReadArePassedOver has a bomb and a broken batch between valid events: whoever reads
// the log again goes past them, and has their records as the rejects that they are.
func TestBatchesThatCannotBeReadArePassedOver(t *testing.T) {
	h := newHub(t, 1)
	stop := h.load(nil)
	typ := event.ByName("ServiceRequested")
	h.publish(hubtest.Message(hubtest.Valid(typ, 1), typ.No))
	h.bomb(typ.Topic, 40)
	h.publish(hubtest.Message(hubtest.Valid(typ, 2), typ.No))
	broken := h.broken(typ.Topic, 5)
	h.publish(hubtest.Message(hubtest.Valid(typ, 3), typ.No))
	stop()
	all := uint64(3 + 40 + broken)
	codes := map[string]uint64{"P06": 40}
	if broken > 0 {
		codes["P04"] = uint64(broken)
	}
	logged := func(t *testing.T) string {
		r, err := reconcile.Run(t.Context(), reconcile.Options{DB: h.db.Conn(), Cluster: h.cluster, Topics: []string{typ.Topic}, Recheck: -1, Log: true, Content: true, Letters: true, Schemas: h.schemas})
		if err != nil {
			t.Fatal(err)
		}
		if p := r.Partitions[0]; p.Contents.Compared != all {
			t.Errorf("%d records were compared, want %d", p.Contents.Compared, all)
		}
		var out string
		for _, f := range r.Findings {
			out += string(f.Kind) + " " + f.Detail + "\n"
		}
		return out
	}

	h.sub("reconcile", func(t *testing.T) {
		if found := logged(t); found != "" {
			t.Error(found)
		}
		// A row that says something else of such a record is found.
		h.exec("ALTER TABLE store.service_requested UPDATE _detail = replace(_detail, '\"value_hash\":\"\"', '\"value_hash\":\"00\"') WHERE _offset = 7 SETTINGS mutations_sync = 1")
		if found := logged(t); found != "differs rejected, and the value in the log is another\n" {
			t.Errorf("a row was changed by hand: %q", found)
		}
		h.exec("ALTER TABLE store.service_requested UPDATE _detail = replace(_detail, '\"value_hash\":\"00\"', '\"value_hash\":\"\"') WHERE _offset = 7 SETTINGS mutations_sync = 1")
	})

	h.sub("dead letters", func(t *testing.T) {
		d := h.desk()
		if r := h.redrive(d, deadletter.Selection{}, deadletter.Redrive{All: true}); r.Cut != all-3 || r.Withheld != 0 || r.Published != 0 {
			t.Errorf("%+v", r)
		}
		s, err := d.Show(t.Context(), deadletter.Position{Topic: typ.Topic, Offset: 7})
		if err != nil || s.Bytes != 0 || s.Note == "" {
			t.Errorf("%+v, %v", s, err)
		}
	})

	h.sub("replay", func(t *testing.T) {
		r := h.bothRuns(h.options(typ.Topic))
		if want := (replay.Counts{Read: all, Present: 3, Rejected: all - 3, Codes: codes}); !reflect.DeepEqual(r.Counts, want) {
			t.Errorf("%+v, want %+v", r.Counts, want)
		}
		// Neither key nor schema is known of them.
		for name, change := range map[string]func(*replay.Selection){
			"key": func(s *replay.Selection) { s.KeyHash = replay.HashKey("") }, "schema": func(s *replay.Selection) { s.SchemaID = typ.No },
			"source": func(s *replay.Selection) { s.Source = hubtest.Valid(typ, 1).Str(event.Source) },
		} {
			o := h.options(typ.Topic)
			change(&o.Select)
			if r := h.bothRuns(o); r.Rejected != 0 {
				t.Errorf("by %s: %+v", name, r.Counts)
			}
		}
		h.exec("DELETE FROM store.service_requested WHERE _offset IN (1, 41) SETTINGS lightweight_deletes_sync = 1")
		if r := h.bothRuns(h.options(typ.Topic)); r.Unknown != 0 || r.Restored != 1 || !reflect.DeepEqual(r.Codes, codes) {
			t.Errorf("rows are missing: %+v", r.Counts)
		}
	})

	h.sub("copies", func(t *testing.T) {
		for name, target := range map[string]replay.Target{"topic": {Topic: "copies"}, "file": {File: filepath.Join(t.TempDir(), "events.jsonl")}} {
			o := h.options(typ.Topic)
			o.Target = target
			if r := h.bothRuns(o); r.Read != all || r.Copied != 3 {
				t.Errorf("to a %s: %+v", name, r.Counts)
			}
			if target.File != "" {
				if raw, err := os.ReadFile(target.File); err != nil || bytes.Count(raw, []byte("\n")) != 3 {
					t.Errorf("the file has %d lines, %v", bytes.Count(raw, []byte("\n")), err)
				}
			}
		}
		if copies := h.all("copies", 0); len(copies) != 3 {
			t.Errorf("%d copies", len(copies))
		}
	})
}

package load

import (
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// FuzzLetter makes the dead letter of any record that is rejected: it fits, it holds no codice fiscale, and what
// it has of the original is as it was.
func FuzzLetter(f *testing.F) {
	for i, typ := range event.Types {
		m := hubtest.Message(hubtest.Valid(typ, 1), typ.No)
		f.Add(uint8(i), m.Key, m.Value[:len(m.Value)-1], m.Headers[0].Key, m.Headers[0].Value, uint16(4))
		f.Add(uint8(i), m.Key, append(m.Value, "ZZZQQQ00A00Z999G"...), "wh_code", []byte("x"), uint16(0))
	}
	f.Add(uint8(1), []byte("ZZZQQQ00A00Z999G"), []byte{0, 0, 0, 0, 1, 2}, "ZZZQQQ00A00Z999G", []byte(nil), uint16(1))
	f.Fuzz(func(t *testing.T, n uint8, key, value []byte, name string, header []byte, times uint16) {
		typ := event.Types[int(n)%len(event.Types)]
		m := wkafka.Message{Message: kafka.Message{Key: key, Value: value}}
		for range times % 64 {
			m.Headers = append(m.Headers, kafka.Header{Key: name, Value: header})
		}
		rec := wkafka.RecordOf(&m)
		v, err := record.NewReader(typ, &hubtest.Schemas{}, 1<<16).ReadRecord(t.Context(), &rec)
		if err != nil {
			t.Fatal(err)
		}
		if v.Why == nil {
			return
		}
		const limit = 200_000
		b := &block{p: position{typ.Topic, 0}, at: time.Unix(1_700_000_000, 0).UTC(), recs: []wkafka.Record{rec}, ends: []ended{{end: record.Rejected, why: v.Why}}}
		out := letter(b, 0, limit)
		whole := headers(out, false)
		size := len(out.Key) + len(out.Value)
		for _, h := range whole {
			size += len(h.Key) + len(h.Value)
			if privacy.ContainsCFRaw(h.Value) || privacy.ContainsCF([]byte(h.Key)) {
				t.Error("a header of the letter holds a codice fiscale")
			}
		}
		if size > limit {
			t.Errorf("the letter has %d bytes of the original", size)
		}
		if privacy.ContainsCFRaw(out.Key) || privacy.ContainsCFRaw(out.Value) {
			t.Error("key or value of the letter holds a codice fiscale")
		}
		if !strings.HasPrefix(string(value), string(out.Value)) || len(out.Key) > 0 && string(out.Key) != string(key) {
			t.Error("what the letter has of the original is not as it was")
		}
		for _, h := range headers(out, true) {
			if h.Key == "wh_message" && privacy.ContainsCFRaw(h.Value) {
				t.Error("the message holds a codice fiscale")
			}
		}
	})
}

// headers are those of the original of a letter, or those of the loader, which begin at the last wh_code.
func headers(m kafka.Message, ours bool) []kafka.Header {
	at := len(m.Headers)
	for i, h := range m.Headers {
		if h.Key == "wh_code" {
			at = i
		}
	}
	if ours {
		return m.Headers[at:]
	}
	return m.Headers[:at]
}

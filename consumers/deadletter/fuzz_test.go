package deadletter

import (
	"testing"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// FuzzLetter takes any message among the dead letters apart and shows it: no codice fiscale and no pseudonym is in
// what is shown, and what was the original's is not taken for the loader's.
func FuzzLetter(f *testing.F) {
	for i, t := range event.Types {
		m := hubtest.Message(hubtest.Valid(t, 1), t.No)
		f.Add(uint8(i), m.Key, m.Value, "wh_code", []byte("P01"), "3", "17", "")
		f.Add(uint8(i), []byte("ZZZQQQ00A00Z999G"), m.Value[:len(m.Value)/2], "x", []byte("ZZZQQQ00A00Z999G"), "0", "9", "true")
	}
	f.Add(uint8(0), []byte(nil), []byte(nil), "", []byte(nil), "x", "", "")
	d := Desk{Schemas: &hubtest.Schemas{}}
	f.Fuzz(func(t *testing.T, n uint8, key, value []byte, name string, header []byte, partition, offset, cut string) {
		typ := event.Types[int(n)%len(event.Types)]
		m := wkafka.Message{Message: kafka.Message{Key: key, Value: value, Headers: []kafka.Header{
			{Key: name, Value: header},
			{Key: "wh_code", Value: []byte("E02")},
			{Key: "wh_topic", Value: []byte(typ.Topic)},
			{Key: "wh_partition", Value: []byte(partition)},
			{Key: "wh_offset", Value: []byte(offset)},
			{Key: "wh_truncated", Value: []byte(cut)},
		}}}
		p, l, ok := parse(&m)
		if !ok {
			return
		}
		if p.Topic != typ.Topic || len(l.Headers) != 1 || l.Headers[0].Key != name {
			t.Fatalf("%+v, of the original %v", p, l.Headers)
		}
		shown := []Named{{"key", maskKey(typ, l.Key)}, {mask(name), mask(string(header))}}
		r := d.judge().reader(p.Topic)
		v, err := r.Read(t.Context(), l.now())
		if err != nil {
			t.Fatal(err)
		}
		if v.Decoded {
			shown = append(shown, maskRow(r.Row)...)
		}
		for _, s := range shown {
			if privacy.ContainsCFRaw([]byte(s.Name)) || privacy.ContainsCFRaw([]byte(s.Value)) {
				t.Errorf("%s shows a codice fiscale", s.Name)
			}
			if isPseudonym(s.Value) {
				t.Errorf("%s shows a pseudonym", s.Name)
			}
		}
	})
}

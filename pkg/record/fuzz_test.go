package record_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/pkg/validate"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

var errDown = errors.New("the registry is down")

// schemas are a registry: event n has id n, 90 is no schema, 99 is an outage.
type schemas struct{}

func (schemas) SchemaByID(_ context.Context, id int) (string, error) {
	switch {
	case id >= 1 && id <= len(event.Types):
		return event.Types[id-1].Raw, nil
	case id == 90:
		return "{", nil
	case id == 99:
		return "", errDown
	}
	return "", &registry.Error{HTTPStatus: 404, Code: 40403, Message: "not found"}
}

// FuzzRead gives any record to the reader. It comes to one verdict and to the same again: an event that keeps
// its rules, or known codes, in order, that tell no codice fiscale.
func FuzzRead(f *testing.F) {
	for i, typ := range event.Types {
		row := validtest.Valid(typ)
		key, value, headers := event.Message(row, typ.No)
		f.Add(uint8(i), key, value, headers[2].Key, headers[2].Value, validtest.KafkaTime.UnixMilli())
		f.Add(uint8(i), key, value[:len(value)-1], "x", []byte("ZZZQQQ00A00Z999G"), int64(0))
		f.Add(uint8(i), []byte(nil), append(event.AppendFrame(nil, 90), 1), "", []byte(nil), int64(-1))
	}
	f.Add(uint8(0), []byte("k"), []byte{0, 0, 0, 0, 99, 1}, "", []byte(nil), int64(0))
	f.Add(uint8(0), []byte("k"), []byte{0, 0xff, 0xff, 0xff, 0xff, 1}, "", []byte(nil), int64(0))
	known := map[string]bool{}
	for _, r := range validate.Rules() {
		known[string(r.Code)] = true
	}
	readers := make([]*record.Reader, len(event.Types))
	for i, typ := range event.Types {
		readers[i] = record.NewReader(typ, schemas{}, 1<<16)
	}
	f.Fuzz(func(t *testing.T, n uint8, key, value []byte, name string, header []byte, at int64) {
		r := readers[int(n)%len(readers)]
		at %= 1 << 50
		m := wkafka.Message{Message: kafka.Message{Key: key, Value: value, Headers: []kafka.Header{{Key: name, Value: header}}, Time: validtest.KafkaTime}}
		if at != 0 {
			m.Time = m.Time.UTC().AddDate(0, 0, int(at%100_000))
		}
		v, err := r.Read(t.Context(), &m)
		if err != nil {
			if !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			return
		}
		again, err := r.Read(t.Context(), &m)
		if err != nil || !reflect.DeepEqual(v, again) {
			t.Errorf("a second verdict differs: %+v, %+v, %v", v, again, err)
		}
		if v.Why == nil {
			if !v.Decoded || v.Source == "" {
				t.Errorf("an event without a source is valid: %+v", v)
			}
			for _, f := range []int{event.Source, event.SourceRecordID, event.OrgCode} {
				if privacy.ContainsCF(r.Row.Vals[f].Bytes) {
					t.Error("an event that holds a codice fiscale is valid")
				}
			}
			return
		}
		if v.Why.Code != v.Why.Codes[0] || slices.ContainsFunc(v.Why.Codes, func(c string) bool { return !known[c] }) {
			t.Errorf("codes %v", v.Why.Codes)
		}
		if told := strings.Join([]string{v.Why.Field, v.Why.Message, v.Source, v.EventID}, "\n"); privacy.ContainsCF([]byte(told)) {
			t.Error("the verdict tells a codice fiscale")
		}
	})
}

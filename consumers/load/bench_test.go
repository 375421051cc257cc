package load

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"

	"github.com/welfarehub/welfarehub/pkg/dedup"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// BenchmarkDecide decodes, validates, hashes and deduplicates blocks of 10,000 new events with all
// headers of the contract, and fills the columns that are inserted. It needs no server.
func BenchmarkDecide(b *testing.B) {
	for _, name := range []string{"ServiceRequested", "ServiceDelivered", "AttendanceRecorded"} {
		b.Run(name, func(b *testing.B) {
			typ := event.ByName(name)
			l, err := New(Options{Cluster: wkafka.Cluster{Brokers: []string{"127.0.0.1:1"}}, DSN: "clickhouse://127.0.0.1:1", Schemas: &hubtest.Schemas{}, refresh: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			l.erasures.read = time.Now()
			t := l.topics[typ.Topic]
			t.rebuilt = true
			const n = 10_000
			cols := record.NewColumns(typ)
			recs := make([]wkafka.Record, n)
			at, row := 0, hubtest.Valid(typ, 0)
			var twin dedup.Filter // whose false positives would be looked up
			next := func() {
				for i := 0; i < n; at++ {
					var hash [16]byte
					id := uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%d", at))
					event.IDHash(&hash, typ.Topic, row.Vals[event.Source].Bytes, id)
					if twin.TestAndAdd(&hash) {
						continue
					}
					row.Set(event.EventID, id.String())
					m := wkafka.Message{Message: message(row, 0)}
					m.Headers, m.Offset = m.Headers[:len(m.Headers)-1], int64(at) // the last is that of the tests
					recs[i] = wkafka.RecordOf(&m)
					i++
				}
			}
			b.ReportAllocs()
			b.SetBytes(1)
			for done := 0; done < b.N; done += n {
				b.StopTimer()
				next()
				b.StartTimer()
				blk, waiting, turn, err := t.decide(b.Context(), position{typ.Topic, 0}, claim{int64(at - n), int64(at)}, recs, cols)
				if err == nil {
					err = t.resolve(b.Context(), blk, waiting, nil, cols)
				}
				if err != nil {
					b.Fatal(err)
				}
				t.turns.leave(turn)
				if got := blk.counts(); got.Loaded != n {
					b.Fatalf("%+v", got)
				}
			}
		})
	}
}

package load

import (
	"bytes"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// heap watches the bytes of objects on the heap, garbage included, until its stop returns the most of it.
func watchHeap() (stop func() uint64) {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	var most atomic.Uint64
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			metrics.Read(sample)
			most.Store(max(most.Load(), sample[0].Value.Uint64()))
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(end); <-ended; return most.Load() }
}

// bombs publishes n records of size bytes of x in one compressed batch.
func (w *world) bombs(topic string, codec kafka.Compression, n, size int, headers []kafka.Header) {
	w.t.Helper()
	tr := w.cluster.Transport()
	defer tr.CloseIdleConnections()
	writer := w.cluster.Writer(tr, 1<<30)
	writer.Compression, writer.Balancer, writer.BatchTimeout = codec, byHint{}, time.Second
	writer.BatchSize = n
	defer writer.Close()
	value := append(event.AppendFrame(nil, 3), bytes.Repeat([]byte("x"), size)...)
	msgs := make([]kafka.Message, n)
	for i := range msgs {
		msgs[i] = kafka.Message{Topic: topic, Key: []byte("k"), Value: value, Headers: headers}
	}
	if err := writer.WriteMessages(w.t.Context(), msgs...); err != nil {
		w.t.Fatal(err)
	}
}

// TestMemoryIsBoundedAgainstHostileSizes fills a topic with what is small to send and large to read, and
// then starts a loader: what it takes is bounded by the largest batch, not by their number.
func TestMemoryIsBoundedAgainstHostileSizes(t *testing.T) {
	w := newWorld(t, 1)
	for i, c := range []struct {
		name  string
		limit uint64 // MiB above the start
		fill  func(topic string) (records int)
	}{
		{"values of 10 MB", 220, func(topic string) int {
			for range 6 {
				w.bombs(topic, 0, 1, 10_000_000, nil)
			}
			return 6
		}},
		{"batches of 48 MiB, gzip", 480, func(topic string) int { return w.twoBatches(topic, kafka.Gzip) }},
		{"batches of 48 MiB, snappy", 480, func(topic string) int { return w.twoBatches(topic, kafka.Snappy) }},
		{"batches of 48 MiB, lz4", 480, func(topic string) int { return w.twoBatches(topic, kafka.Lz4) }},
		{"batches of 48 MiB, zstd", 480, func(topic string) int { return w.twoBatches(topic, kafka.Zstd) }},
		{"records of 10,000 headers", 220, func(topic string) int {
			headers := make([]kafka.Header, 10_000)
			for i := range headers {
				headers[i] = kafka.Header{Key: "header", Value: []byte("value")}
			}
			for range 5 {
				w.bombs(topic, kafka.Zstd, 20, 10, headers)
			}
			return 100
		}},
		{"headers of 1 MB", 220, func(topic string) int {
			for range 3 {
				w.bombs(topic, kafka.Zstd, 20, 10, []kafka.Header{{Key: "h", Value: []byte(strings.Repeat("x", 1_000_000))}})
			}
			return 60
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			typ := event.Types[i]
			n := c.fill(typ.Topic)
			w.publish(message(hubtest.Valid(typ, 1), 0)) // the partition goes on
			n++
			runtime.GC()
			debug.FreeOSMemory()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			stop := watchHeap()
			_, stopLoader := w.start(&hubtest.Schemas{}, nil)
			w.await(typ.Topic, int64(n))
			most := stop()
			if got, want := w.books(typ.Topic), (Counts{int64(n), 1, 0, int64(n - 1)}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			grown := (most - min(most, before.HeapAlloc)) >> 20
			t.Logf("the heap grew by %d MiB at most", grown)
			if grown > c.limit {
				t.Errorf("the heap grew by %d MiB, want at most %d", grown, c.limit)
			}
			// What a bomb took is given back, or kept once.
			w.publish(message(hubtest.Valid(typ, 2), 0))
			w.await(typ.Topic, int64(n+1))
			runtime.GC()
			var after runtime.MemStats
			runtime.ReadMemStats(&after)
			if kept := (after.HeapAlloc - min(after.HeapAlloc, before.HeapAlloc)) >> 20; kept > 80 {
				t.Errorf("the loader keeps %d MiB", kept)
			} else {
				t.Logf("the loader keeps %d MiB", kept)
			}
			stopLoader()
		})
	}
}

// twoBatches publishes 96 MiB in two batches that are small once compressed.
func (w *world) twoBatches(topic string, codec kafka.Compression) int {
	for range 2 {
		w.bombs(topic, codec, 48, 1<<20, nil)
	}
	return 2 * 48
}

// TestABombIsRejected sends a batch of a few kilobytes that no memory would hold, between valid events.
func TestABombIsRejected(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	w := newWorld(t, 1)
	w.publish(message(hubtest.Valid(typ, 1), 0))
	w.bombs(typ.Topic, kafka.Zstd, 40, 8<<20, nil)
	w.publish(message(hubtest.Valid(typ, 2), 0))
	w.start(&hubtest.Schemas{}, nil)
	w.await(typ.Topic, 42)
	if got, want := w.books(typ.Topic), (Counts{42, 2, 0, 40}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := w.count("count() FROM welfare.rejected WHERE code = 'P06' AND value_hash = ''"); n != 40 {
		t.Errorf("%d of the bomb's records are told", n)
	}
	for _, m := range w.letters(typ) {
		if len(m.Value)+len(m.Key) > 0 || string(headerOf(m, "wh_truncated")) != "true" || headerOf(m, "wh_value_sha256") != nil {
			t.Errorf("letter %v", m.Headers)
		}
	}
}

package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/segmentio/kafka-go/compress"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// batchOf builds a batch of records with the given values.
func batchOf(base int64, attributes uint16, producer int64, values ...string) []byte {
	b := make([]byte, batchHead)
	binary.BigEndian.PutUint64(b, uint64(base))
	b[16] = 2
	binary.BigEndian.PutUint16(b[21:], attributes)
	binary.BigEndian.PutUint32(b[23:], uint32(len(values)-1))
	binary.BigEndian.PutUint64(b[43:], uint64(producer))
	binary.BigEndian.PutUint32(b[57:], uint32(len(values)))
	for i, v := range values {
		body := []byte{0}
		body = binary.AppendVarint(body, 0)
		body = binary.AppendVarint(body, int64(i))
		key := ""
		if attributes&attrControl != 0 {
			key, v = v, ""
		}
		body = append(binary.AppendVarint(body, int64(len(key))), key...)
		body = append(binary.AppendVarint(body, int64(len(v))), v...)
		body = binary.AppendVarint(body, 0)
		b = append(binary.AppendVarint(b, int64(len(body))), body...)
	}
	return sealed(b)
}

// sealed gives a batch its length and checksum.
func sealed(b []byte) []byte {
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

const (
	abortMarker  = "\x00\x00\x00\x00"
	commitMarker = "\x00\x00\x00\x01"
)

// TestAbortedTransactionsAreLeftOut has two producers whose transactions overlap: 7 aborts, then commits; 8 commits.
func TestAbortedTransactionsAreLeftOut(t *testing.T) {
	var raw []byte
	for _, b := range [][]byte{
		batchOf(0, 0, -1, "plain"),
		batchOf(1, attrInTransact, 7, "aborted 1", "aborted 2"),
		batchOf(3, attrInTransact, 8, "committed"),
		batchOf(4, attrInTransact, 7, "aborted 3"),
		batchOf(5, attrInTransact|attrControl, 7, abortMarker),
		batchOf(6, attrInTransact|attrControl, 8, commitMarker),
		batchOf(7, attrInTransact, 7, "second try"),
		batchOf(8, attrInTransact|attrControl, 7, commitMarker),
	} {
		raw = append(raw, b...)
	}
	batches := newRecordBatches(raw, []abortedTransaction{{producer: 7, first: 1}})
	var got []string
	for {
		var r Record
		more, err := batches.next(NewFetcher(Cluster{}, "t", 0, nil), &r)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
		got = append(got, string(r.Value))
	}
	if len(got) != 3 || got[0] != "plain" || got[1] != "committed" || got[2] != "second try" {
		t.Errorf("%q", got)
	}
	if batches.end != 9 {
		t.Errorf("ends at %d, want 9: markers have offsets", batches.end)
	}
}

func TestDamagedBatchesAreRefused(t *testing.T) {
	whole := batchOf(5, 0, -1, "a", "b")
	for name, damage := range map[string]func([]byte) []byte{
		"a bit":        func(b []byte) []byte { b[70] ^= 1; return b },
		"old format":   func(b []byte) []byte { b[16] = 1; return b },
		"short length": func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 3); return b },
		"too many records": func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[57:], 3)
			return sealed(b)
		},
		"negative records": func(b []byte) []byte { binary.BigEndian.PutUint32(b[57:], 1<<31); return sealed(b) },
	} {
		batches := newRecordBatches(damage(append([]byte(nil), whole...)), nil)
		var err error
		for more := true; more && err == nil; {
			var r Record
			more, err = batches.next(NewFetcher(Cluster{}, "t", 0, nil), &r)
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cut := newRecordBatches(whole[:len(whole)-1], nil)
	var r Record
	if more, err := cut.next(NewFetcher(Cluster{}, "t", 0, nil), &r); more || err != nil {
		t.Errorf("a batch that the answer cuts short: %t, %v", more, err)
	}
}

// TestUnreadableBatchesKeepTheirPlace: what a producer sent broken is there, offset by offset, and what
// comes after it is read.
func TestUnreadableBatchesKeepTheirPlace(t *testing.T) {
	bomb := func() []byte {
		var packed bytes.Buffer
		w := compress.Zstd.Codec().NewWriter(&packed)
		zeros := make([]byte, 1<<20)
		for range MaxBatch>>20 + 1 {
			if _, err := w.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b := append(batchOf(5, 4, -1, "a", "b")[:batchHead], packed.Bytes()...)
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
		return sealed(b)
	}
	for name, c := range map[string]struct {
		batch []byte
		want  []Unread
	}{
		"unknown codec":     {changed(func(b []byte) { b[22] = 7 }), []Unread{Broken, Broken}},
		"not really packed": {changed(func(b []byte) { b[22] = 4 }), []Unread{Broken, Broken}},
		"second cut short":  {changed(func(b []byte) { b[len(b)-8] = 0x7e }), []Unread{0, Broken}},
		"a bomb":            {bomb(), []Unread{TooLarge, TooLarge}},
	} {
		batches := newRecordBatches(append(c.batch, batchOf(7, 0, -1, "after")...), nil)
		var got []Unread
		var r Record
		for i := range 3 {
			if more, err := batches.next(NewFetcher(Cluster{}, "t", 0, nil), &r); !more || err != nil || r.Offset != int64(5+i) {
				t.Fatalf("%s: record %d: %t, %v, offset %d", name, i, more, err, r.Offset)
			}
			got = append(got, r.Unread)
		}
		if !slices.Equal(got, append(c.want, 0)) || string(r.Value) != "after" {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func changed(damage func([]byte)) []byte {
	b := batchOf(5, 0, -1, "a", "b")
	damage(b)
	return sealed(b)
}

// FuzzRecordBatches gives batches with right checksums and any contents to the reader.
func FuzzRecordBatches(f *testing.F) {
	for _, attributes := range []uint16{0, 1, 2, 3, 4, attrControl, attrInTransact} {
		f.Add(batchOf(3, attributes, 7, "one", "two"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= batchHead {
			data[16] = 2
			sealed(data)
		}
		fetcher := NewFetcher(Cluster{}, "t", 0, nil)
		batches := newRecordBatches(data, []abortedTransaction{{producer: 7, first: 0}})
		for n := 0; ; n++ {
			var r Record
			more, err := batches.next(fetcher, &r)
			if err != nil || !more {
				return
			}
			if r.Unread != 0 {
				return
			}
			if n > len(data)*1100 { // no codec packs better
				t.Fatal("more records than bytes")
			}
			headers := r.Headers(nil)
			if len(headers) != int(r.count) {
				t.Fatalf("%d headers of %d", len(headers), r.count)
			}
			again := Record{}
			again.SetHeaders(headers)
			if got := again.Headers([]event.Header{}); len(got) != len(headers) {
				t.Fatalf("%d headers once set, want %d", len(got), len(headers))
			}
		}
	})
}

// FuzzAnswer gives any bytes as the body of an answer.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		fetcher := NewFetcher(Cluster{}, "t", 0, nil)
		if fetcher.decodeAnswer(data) != nil {
			return
		}
		for {
			var r Record
			if more, err := fetcher.batches.next(fetcher, &r); !more || err != nil {
				return
			}
		}
	})
}

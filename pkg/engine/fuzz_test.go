package engine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzHello gives the guard any bytes as what a client says first. What it read is passed on as it came, and an
// addendum of the guard's own is whole at every revision.
func FuzzHello(f *testing.F) {
	hello := func(revision uint64, database, user, password string, more ...byte) []byte {
		b := appendString([]byte{0}, "a client")
		for _, v := range []uint64{26, 7, revision} {
			b = binary.AppendUvarint(b, v)
		}
		return append(appendString(appendString(appendString(b, database), user), password), more...)
	}
	f.Add(hello(54_467, "welfare", "planner", "", emptyAddendum(54_467)...))
	f.Add(hello(revisionQuotaKey, "", "", "", 0))
	f.Add(hello(0, "x", "hub", "secret"))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &recorder{r: bufio.NewReader(bytes.NewReader(data))}
		h, err := readHello(in)
		if err != nil {
			return
		}
		said := in.take()
		if !bytes.HasPrefix(data, said) {
			t.Fatalf("%q is passed on of %q", said, data)
		}
		if max(len(h.database), len(h.user), len(h.password)) > longestString {
			t.Fatal("a string is too long")
		}
		if readAddendum(in, h.revision) == nil {
			if rest := in.take(); !bytes.HasPrefix(data[len(said):], rest) {
				t.Fatalf("%q is passed on of the addendum %q", rest, data[len(said):])
			}
		}
		own := &recorder{r: bufio.NewReader(bytes.NewReader(emptyAddendum(h.revision)))}
		if err := readAddendum(own, h.revision); err != nil {
			t.Fatalf("revision %d: the guard's addendum: %v", h.revision, err)
		}
		if _, err := own.r.ReadByte(); err == nil {
			t.Fatalf("revision %d: the guard's addendum is too long", h.revision)
		}
	})
}

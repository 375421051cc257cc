package event

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
)

// twin is hamba/avro, with bounds of its own against hostile sizes.
var twin = avro.Config{MaxByteSliceSize: 1 << 20, MaxSliceAllocSize: 1 << 16}.Freeze()

// stricter are the problems for which we refuse what hamba/avro reads: with these a bad field would become
// another value, most often a zero.
var stricter = []string{
	"not a finite number",
	"does not fit 32 bits",       // it drops the bits
	"overlong",                   // the same, of 64 bits
	"decimal has more than",      //
	"decimal without a byte",     // it reads 0
	"block size",                 // it reads what another reader jumps over
	"block has another size",     //
	"more items than",            //
	"block count out of range",   //
	"negative or beyond the end", // a size beyond its bounds
	"enum index out of range",    // a number of more than 32 bits again
	"union index out of range",   // the same
	"nests deeper than",          //
}

// readByTwin decodes with hamba/avro and returns what it read, encoded again under the same schema.
func readByTwin(schema avro.Schema, data []byte) (again []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("hamba/avro panics: %v", r)
		}
	}()
	var v any
	if err := twin.NewDecoder(schema, bytes.NewReader(data)).Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return twin.Marshal(schema, v)
}

// FuzzDecode holds our decoder against hamba/avro: what we read, it reads too, to the same values; what we
// refuse and it reads is one of a few faults. What we read comes back from what we write.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(4, 4))
	for i, typ := range Types {
		data := randomRow(rng, typ).AppendAvro(nil)
		f.Add(uint8(i), data)
		f.Add(uint8(i), data[:len(data)/2])
		f.Add(uint8(i), append(slices.Clone(data), 0))
		for range 3 {
			hostile := slices.Clone(data)
			hostile[rng.IntN(len(hostile))] ^= byte(1 << rng.IntN(8))
			f.Add(uint8(i), hostile)
		}
	}
	decs := make([]*Decoder, len(Types))
	for i, typ := range Types {
		decs[i], _ = NewDecoder(typ, typ.Schema)
	}
	f.Fuzz(func(t *testing.T, n uint8, data []byte) {
		typ, dec := Types[int(n)%len(Types)], decs[int(n)%len(Types)]
		row := NewRow(typ)
		err := dec.Decode(data, row)
		theirs, twinErr := readByTwin(typ.Schema, data)
		if err != nil {
			var e *DecodeError
			if !errors.As(err, &e) {
				t.Fatalf("%s: %v is no DecodeError", typ.Name, err)
			}
			if twinErr == nil && e.Code == "P04" && !slices.ContainsFunc(stricter, func(s string) bool { return strings.Contains(e.Problem, s) }) {
				t.Errorf("%s: hamba/avro reads what we refuse: %v", typ.Name, err)
			}
			return
		}
		if twinErr != nil {
			t.Fatalf("%s: we read what hamba/avro refuses: %v", typ.Name, twinErr)
		}
		again := NewRow(typ)
		for name, raw := range map[string][]byte{"we wrote": row.AppendAvro(nil), "hamba/avro wrote": theirs} {
			if err := dec.Decode(raw, again); err != nil {
				t.Fatalf("%s: a value that was read is refused when %s it again: %v", typ.Name, name, err)
			}
			if err := sameRow(row, again); err != nil {
				t.Fatalf("%s: %s: %v", typ.Name, name, err)
			}
		}
		if row.ContentHash() != again.ContentHash() {
			t.Fatalf("%s: content hash changed on the way", typ.Name)
		}
	})
}

// FuzzWriterSchema gives any text for the writer's schema, and any bytes for its values.
func FuzzWriterSchema(f *testing.F) {
	for i := range matrix {
		c := &matrix[i]
		s := schemaFor(f, c.event)
		if c.writer != nil {
			c.writer(s)
		}
		f.Add(uint8(ByName(c.event).No-1), s.text(), []byte{2, 4, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, n uint8, schema string, data []byte) {
		writer, ok := parse(schema)
		if !ok {
			return
		}
		typ := Types[int(n)%len(Types)]
		dec, err := NewDecoder(typ, writer)
		if err != nil {
			return
		}
		row := NewRow(typ)
		if err := dec.Decode(data, row); err != nil {
			return
		}
		own, _ := NewDecoder(typ, typ.Schema)
		again := NewRow(typ)
		if err := own.Decode(row.AppendAvro(nil), again); err != nil {
			t.Fatalf("%s: what another schema gave is not of ours: %v", typ.Name, err)
		}
	})
}

// parse survives hamba/avro's parser, which panics on some texts.
func parse(text string) (s avro.Schema, ok bool) {
	defer func() { ok = recover() == nil && ok }()
	s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	return s, err == nil
}

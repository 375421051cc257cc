package registry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hamba/avro/v2"
)

// Level is a compatibility level.
type Level string

// Compatibility levels. The transitive ones compare with all versions, the others with the latest.
const (
	None               Level = "NONE"
	Backward           Level = "BACKWARD"            // the new schema reads what the old one wrote
	BackwardTransitive Level = "BACKWARD_TRANSITIVE" //
	Forward            Level = "FORWARD"             // the old schema reads what the new one writes
	ForwardTransitive  Level = "FORWARD_TRANSITIVE"  //
	Full               Level = "FULL"                // both
	FullTransitive     Level = "FULL_TRANSITIVE"     //
)

var levels = []Level{None, Backward, BackwardTransitive, Forward, ForwardTransitive, Full, FullTransitive}

// ParseLevel reads the name of a level, in any case.
func ParseLevel(s string) (Level, bool) {
	l := Level(strings.ToUpper(s))
	return l, slices.Contains(levels, l)
}

func (l Level) transitive() bool { return strings.HasSuffix(string(l), "_TRANSITIVE") }
func (l Level) backward() bool   { return strings.HasPrefix(string(l), "BACKWARD") || l.full() }
func (l Level) forward() bool    { return strings.HasPrefix(string(l), "FORWARD") || l.full() }
func (l Level) full() bool       { return strings.HasPrefix(string(l), "FULL") }

// difference is one reason why a reader cannot read what a writer wrote.
type difference struct {
	kind string // Confluent's and Avro's errorType
	text string // what is wrong and where
	info string // what it is about
}

func (d difference) String() string {
	return fmt.Sprintf("{errorType:'%s', description:'%s', additionalInfo:'%s'}", d.kind, d.text, d.info)
}

// incompatible returns why a new and an old schema do not go together at a level, nil if they do.
func incompatible(level Level, newer, older avro.Schema) []difference {
	var out []difference
	if level.backward() {
		out = append(out, cannotRead(newer, older, "new", "old")...)
	}
	if level.forward() {
		out = append(out, cannotRead(older, newer, "old", "new")...)
	}
	return out
}

// cannotRead asks hamba/avro whether reader can read what writer wrote and, if not, looks for the
// places. A comparison has an instance of its own: the instance remembers answers by canonical form,
// which leaves out defaults, and so would take a schema with a default for the one without.
func cannotRead(reader, writer avro.Schema, readerName, writerName string) []difference {
	f := finder{c: avro.NewSchemaCompatibility(), reader: readerName, writer: writerName, seen: map[[2]string]bool{}}
	err := f.c.Compatible(reader, writer)
	if err == nil {
		return nil
	}
	f.find(reader, writer, "")
	if len(f.out) == 0 { // hamba knows better than the finder: say what it says
		f.add("TYPE_MISMATCH", "/", "the %s schema cannot read data of the %s schema: %s", readerName, writerName, err)
	}
	return f.out
}

// finder locates the differences that make hamba/avro say no.
type finder struct {
	c              *avro.SchemaCompatibility
	reader, writer string
	seen           map[[2]string]bool
	out            []difference
}

func (f *finder) add(kind, info, format string, args ...any) {
	f.out = append(f.out, difference{kind, fmt.Sprintf(format, args...), info})
}

func deref(s avro.Schema) avro.Schema {
	if r, ok := s.(*avro.RefSchema); ok {
		return r.Schema()
	}
	return s
}

func at(path string) string {
	if path == "" {
		return "/"
	}
	return path
}

func (f *finder) find(reader, writer avro.Schema, path string) {
	reader, writer = deref(reader), deref(writer)
	if w, ok := writer.(*avro.UnionSchema); ok {
		for i, branch := range w.Types() {
			if f.c.Compatible(reader, branch) == nil {
				continue
			}
			if _, union := reader.(*avro.UnionSchema); union {
				f.find(reader, branch, path)
				continue
			}
			f.find(reader, branch, fmt.Sprintf("%s/%d", path, i))
		}
		return
	}
	if r, ok := reader.(*avro.UnionSchema); ok {
		for i, branch := range r.Types() { // a named type of the same name is meant: say what differs in it
			rn, ok1 := deref(branch).(avro.NamedSchema)
			wn, ok2 := writer.(avro.NamedSchema)
			if ok1 && ok2 && rn.Type() == wn.Type() && rn.FullName() == wn.FullName() {
				f.find(rn, wn, fmt.Sprintf("%s/%d", path, i))
				return
			}
		}
		f.add("MISSING_UNION_BRANCH", at(path), "The union at path %q in the %s schema is missing a type of the %s schema: %s",
			at(path), f.reader, f.writer, typeName(writer))
		return
	}
	if reader.Type() != writer.Type() {
		f.add("TYPE_MISMATCH", at(path), "The type %s at path %q in the %s schema does not match the type %s in the %s schema",
			typeName(reader), at(path), f.reader, typeName(writer), f.writer)
		return
	}
	if rn, ok := reader.(avro.NamedSchema); ok {
		wn := writer.(avro.NamedSchema)
		pair := [2]string{rn.FullName(), wn.FullName()}
		if f.seen[pair] {
			return
		}
		f.seen[pair] = true
		if rn.Name() != wn.Name() && !slices.Contains(rn.Aliases(), wn.FullName()) {
			f.add("NAME_MISMATCH", rn.FullName(), "The name %s at path %q in the %s schema does not match %s in the %s schema",
				rn.FullName(), at(path), f.reader, wn.FullName(), f.writer)
			return
		}
	}
	f.findWithin(reader, writer, path)
}

// findWithin compares two schemas of one type and name.
func (f *finder) findWithin(reader, writer avro.Schema, path string) {
	switch r := reader.(type) {
	case *avro.ArraySchema:
		f.find(r.Items(), writer.(*avro.ArraySchema).Items(), path+"/items")
	case *avro.MapSchema:
		f.find(r.Values(), writer.(*avro.MapSchema).Values(), path+"/values")
	case *avro.FixedSchema:
		w := writer.(*avro.FixedSchema)
		if r.Size() != w.Size() {
			f.add("FIXED_SIZE_MISMATCH", r.FullName(), "The size %d of %s at path %q in the %s schema is not the size %d in the %s schema",
				r.Size(), r.FullName(), at(path), f.reader, w.Size(), f.writer)
		}
	case *avro.EnumSchema:
		var missing []string
		for _, s := range writer.(*avro.EnumSchema).Symbols() {
			if !slices.Contains(r.Symbols(), s) {
				missing = append(missing, s)
			}
		}
		if len(missing) > 0 && !r.HasDefault() {
			f.add("MISSING_ENUM_SYMBOLS", strings.Join(missing, ", "), "The %s schema is missing the enum symbols %s of %s at path %q in the %s schema, and its enum has no default",
				f.reader, strings.Join(missing, ", "), r.FullName(), at(path), f.writer)
		}
	case *avro.RecordSchema:
		w := writer.(*avro.RecordSchema)
		for i, rf := range r.Fields() {
			wf := writerField(w, rf)
			switch {
			case wf == nil && !rf.HasDefault():
				f.add("READER_FIELD_MISSING_DEFAULT_VALUE", rf.Name(), "The field %q at path %q in the %s schema has no default value and is missing in the %s schema",
					rf.Name(), fmt.Sprintf("%s/fields/%d", path, i), f.reader, f.writer)
			case wf != nil && f.c.Compatible(rf.Type(), wf.Type()) != nil:
				f.find(rf.Type(), wf.Type(), fmt.Sprintf("%s/fields/%d/type", path, i))
			}
		}
	}
}

func writerField(w *avro.RecordSchema, rf *avro.Field) *avro.Field {
	for _, wf := range w.Fields() {
		if wf.Name() == rf.Name() || slices.Contains(rf.Aliases(), wf.Name()) {
			return wf
		}
	}
	return nil
}

func typeName(s avro.Schema) string {
	if n, ok := s.(avro.NamedSchema); ok {
		return string(s.Type()) + " " + n.FullName()
	}
	return string(s.Type())
}

// parseAvro parses a schema with the schemas that it refers to, each of which may use those before it.
// The recover is for a parser that meets hostile text: a registry must not die of a request.
func parseAvro(text string, refs []string) (s avro.Schema, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("schema cannot be parsed: %v", r)
		}
	}()
	cache := &avro.SchemaCache{}
	for _, r := range refs {
		if _, err := avro.ParseWithCache(r, "", cache); err != nil {
			return nil, fmt.Errorf("parse referenced schema: %w", err)
		}
	}
	return avro.ParseWithCache(text, "", cache)
}

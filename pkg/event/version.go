package event

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/schemas"
)

// A content hash says nothing of fields and symbols that its maker did not know, so each hash is stored
// with the version of the schema that its maker had, and two hashes are compared at the lower version.

// date sets since when each field and symbol is part of the type, from the released texts of its schema,
// and the version that the type is at: that of the last release, or the one to come where it differs.
func (t *Type) date(released []string) error {
	t.Version = len(released)
	if t.Version == 0 || released[t.Version-1] != t.Raw {
		t.Version++
	}
	for i := range t.Fields {
		f := &t.Fields[i]
		f.Since, f.symbolSince = t.Version, slices.Repeat([]int{t.Version}, len(f.Symbols))
	}
	for v := len(released); v > 0; v-- {
		then := t
		if released[v-1] != t.Raw {
			s, err := newType(released[v-1])
			if err != nil {
				return fmt.Errorf("released version %d of %s: %w", v, t.Name, err)
			}
			then = s
		}
		for i := range t.Fields {
			f := &t.Fields[i]
			j := slices.IndexFunc(then.Fields, func(g Field) bool { return g.Path == f.Path || slices.Contains(f.aliases, g.Path) })
			if j < 0 {
				continue
			}
			f.Since = v
			for k, sym := range f.Symbols {
				if slices.Contains(then.Fields[j].Symbols, sym) {
					f.symbolSince[k] = v
				}
			}
		}
	}
	return nil
}

// Grew tells whether a version of the schema brought new symbols to an enum that was there before.
func (f *Field) Grew(version int) bool {
	return f.Since < version && slices.Contains(f.symbolSince, version)
}

// releasedTexts are the released texts of the schema of an event, oldest first.
func releasedTexts(name string) (out []string) {
	for {
		raw, err := fs.ReadFile(schemas.Released, fmt.Sprintf("released/%s/v%d.avsc", name, len(out)+1))
		if err != nil {
			return out // the one before was the last
		}
		out = append(out, string(raw))
	}
}

// WithSchema returns the event as a later release would have it, with another schema and one version on.
// It is for tests of what happens while releases run side by side; it is not in the catalogue.
func (t *Type) WithSchema(raw string) (*Type, error) {
	out, err := newType(raw)
	if err != nil {
		return nil, err
	}
	out.No, out.Topic, out.Family, out.Table, out.Subject = t.No, t.Topic, t.Family, t.Table, t.Subject
	if out.Name != t.Name {
		return nil, fmt.Errorf("schema is of %s, not of %s", out.Name, t.Name)
	}
	out.Key = out.Field(t.Fields[t.Key].Name)
	if out.Key < 0 {
		return nil, fmt.Errorf("schema lacks %s, the key", t.Fields[t.Key].Name)
	}
	return out, out.date(releasedTexts(t.Name))
}

// aliasPaths are the paths under which a field may come by its alias.
func aliasPaths(prefix string, f *avro.Field) []string {
	var out []string
	for _, a := range f.Aliases() {
		out = append(out, prefix+a)
	}
	return out
}

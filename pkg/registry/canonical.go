package registry

import (
	"bytes"
	"errors"
	"slices"
	"sort"
	"strings"
)

// printer writes an Avro schema the way that Avro for Java does (Schema.toString), which is the text
// that Confluent's registry stores and compares: no white space, a fixed order of attributes,
// namespaces only where they change, {"type":"string"} as "string". Documentation, defaults, aliases
// and other properties stay: two schemas that differ in them are two schemas.
type printer struct {
	buf        bytes.Buffer
	normalize  bool                 // full names, properties in alphabetical order
	defs       map[string]namedNode // definitions of other schemas, written in place of their first use
	defined    map[string]bool      // full names written so far
	expandable bool
}

// namedNode is the definition of a named type in the namespace that encloses it.
type namedNode struct {
	n         *node
	namespace string
}

var errNotSchema = errors.New("not an Avro schema")

// canonical returns the text of an Avro schema as Confluent's registry would store it.
func canonical(text string, normalize bool) (string, error) {
	n, err := parseJSON(text)
	if err != nil {
		return "", err
	}
	p := printer{normalize: normalize, defined: map[string]bool{}}
	if err := p.schema(n, ""); err != nil {
		return "", err
	}
	return p.buf.String(), nil
}

// inline returns the canonical text of a schema with the named types of refs, texts of schemas each of
// which may use those before it, written in place of their first use: a schema without references.
func inline(text string, refs []string) (string, error) {
	p := printer{defs: map[string]namedNode{}, defined: map[string]bool{}}
	for _, r := range refs {
		n, err := parseJSON(r)
		if err != nil {
			return "", err
		}
		collect(n, "", p.defs)
	}
	n, err := parseJSON(text)
	if err != nil {
		return "", err
	}
	own := map[string]namedNode{}
	collect(n, "", own)
	for name := range own { // its own definitions come first
		delete(p.defs, name)
	}
	p.expandable = true
	if err := p.schema(n, ""); err != nil {
		return "", err
	}
	return p.buf.String(), nil
}

// collect notes the named types that a schema defines.
func collect(n *node, namespace string, into map[string]namedNode) {
	switch n.kind {
	case '[':
		for _, v := range n.vals {
			collect(v, namespace, into)
		}
	case '{':
		inner := namespace
		if t, ok := n.str("type"); ok && isNamed(t) {
			_, space, full := nameOf(n, namespace)
			if _, known := into[full]; !known {
				into[full] = namedNode{n, namespace}
			}
			inner = space
		}
		for _, key := range []string{"type", "items", "values"} {
			if v := n.get(key); v != nil {
				collect(v, inner, into)
			}
		}
		if fields := n.get("fields"); fields != nil {
			for _, f := range fields.vals {
				if t := f.get("type"); t != nil {
					collect(t, inner, into)
				}
			}
		}
	}
}

func isNamed(t string) bool { return t == "record" || t == "error" || t == "enum" || t == "fixed" }

func isPrimitive(t string) bool {
	switch t {
	case "null", "boolean", "int", "long", "float", "double", "bytes", "string":
		return true
	}
	return false
}

// nameOf returns name, namespace and full name of a named type within the enclosing namespace.
func nameOf(n *node, enclosing string) (name, space, full string) {
	name, _ = n.str("name")
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[i+1:], name[:i], name
	}
	space = enclosing
	if s, ok := n.str("namespace"); ok {
		space = s
	}
	return name, space, qualify(name, space)
}

func qualify(name, space string) string {
	if space == "" || strings.Contains(name, ".") {
		return name
	}
	return space + "." + name
}

func (p *printer) schema(n *node, space string) error {
	switch n.kind {
	case 's':
		return p.reference(n.text, space)
	case '[':
		p.buf.WriteByte('[')
		for i, v := range n.vals {
			if i > 0 {
				p.buf.WriteByte(',')
			}
			if err := p.schema(v, space); err != nil {
				return err
			}
		}
		p.buf.WriteByte(']')
		return nil
	case '{':
		t := n.get("type")
		if t == nil {
			return errNotSchema
		}
		if t.kind != 's' { // {"type": {...}} is the inner type
			return p.schema(t, space)
		}
		return p.complex(t.text, n, space)
	}
	return errNotSchema
}

// reference writes the name of a primitive or of a named type, or the definition of the latter.
func (p *printer) reference(name, space string) error {
	if isPrimitive(name) {
		appendString(&p.buf, name)
		return nil
	}
	full := qualify(name, space)
	if d, ok := p.defs[full]; ok && p.expandable && !p.defined[full] {
		t, _ := d.n.str("type")
		return p.named(t, d.n, d.namespace, space)
	}
	p.writeName(full, space)
	return nil
}

// writeName writes a full name as short as the namespace around it allows.
func (p *printer) writeName(full, space string) {
	if i := strings.LastIndexByte(full, '.'); i >= 0 && !p.normalize && full[:i] == space && !isPrimitive(full[i+1:]) {
		full = full[i+1:]
	}
	appendString(&p.buf, full)
}

func (p *printer) complex(t string, n *node, space string) error {
	switch {
	case isNamed(t):
		return p.named(t, n, space, space)
	case t == "array" || t == "map":
		item := "items"
		if t == "map" {
			item = "values"
		}
		v := n.get(item)
		if v == nil {
			return errNotSchema
		}
		p.buf.WriteString(`{"type":"` + t + `","` + item + `":`)
		if err := p.schema(v, space); err != nil {
			return err
		}
		p.properties(n, schemaReserved)
		p.buf.WriteByte('}')
		return nil
	case isPrimitive(t):
		if !slices.ContainsFunc(n.keys, func(k string) bool { return !slices.Contains(schemaReserved, k) }) {
			appendString(&p.buf, t)
			return nil
		}
		p.buf.WriteString(`{"type":"` + t + `"`)
		p.properties(n, schemaReserved)
		p.buf.WriteByte('}')
		return nil
	}
	return p.reference(t, space)
}

// Attributes that are not properties, of a schema and of a field. "default" is an attribute of an enum.
var (
	schemaReserved = []string{"type", "name", "namespace", "doc", "fields", "items", "values", "size", "symbols", "aliases"}
	enumReserved   = append([]string{"default"}, schemaReserved...)
	fieldReserved  = []string{"type", "name", "doc", "default", "order", "aliases"}
)

// named writes a record, enum or fixed that is defined in namespace from and written within outer.
func (p *printer) named(t string, n *node, from, outer string) error {
	name, space, full := nameOf(n, from)
	if name == "" {
		return errNotSchema
	}
	if p.defined[full] && p.expandable {
		p.writeName(full, outer)
		return nil
	}
	p.defined[full] = true
	b := &p.buf
	switch {
	case p.normalize:
		b.WriteString(`{"name":`)
		appendString(b, full)
		b.WriteString(`,"type":"` + t + `"`)
	default:
		b.WriteString(`{"type":"` + t + `","name":`)
		appendString(b, name)
		if space != outer {
			b.WriteString(`,"namespace":`)
			appendString(b, space)
		}
	}
	p.member(n, "doc")
	reserved := schemaReserved
	switch t {
	case "enum":
		reserved = enumReserved
		p.member(n, "symbols")
		p.member(n, "default")
	case "fixed":
		p.member(n, "size")
	default:
		if err := p.fields(n, space); err != nil {
			return err
		}
	}
	p.properties(n, reserved)
	p.aliases(n, space)
	b.WriteByte('}')
	return nil
}

func (p *printer) fields(n *node, space string) error {
	fields := n.get("fields")
	if fields == nil || fields.kind != '[' {
		return errNotSchema
	}
	b := &p.buf
	b.WriteString(`,"fields":[`)
	for i, f := range fields.vals {
		name, ok := f.str("name")
		t := f.get("type")
		if !ok || t == nil {
			return errNotSchema
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"name":`)
		appendString(b, name)
		b.WriteString(`,"type":`)
		if err := p.schema(t, space); err != nil {
			return err
		}
		p.member(f, "doc")
		p.member(f, "default")
		if order, ok := f.str("order"); ok && order != "ascending" {
			p.member(f, "order")
		}
		if a := f.get("aliases"); a != nil && len(a.vals) > 0 {
			p.member(f, "aliases")
		}
		p.properties(f, fieldReserved)
		b.WriteByte('}')
	}
	b.WriteByte(']')
	return nil
}

// member writes a member as it is, if it is there.
func (p *printer) member(n *node, key string) {
	if v := n.get(key); v != nil {
		p.buf.WriteString(`,"` + key + `":`)
		v.appendTo(&p.buf)
	}
}

func (p *printer) properties(n *node, reserved []string) {
	var keys []string
	for _, k := range n.keys {
		if !slices.Contains(reserved, k) {
			keys = append(keys, k)
		}
	}
	if p.normalize {
		sort.Strings(keys)
	}
	for _, k := range keys {
		p.buf.WriteByte(',')
		appendString(&p.buf, k)
		p.buf.WriteByte(':')
		n.get(k).appendTo(&p.buf)
	}
}

func (p *printer) aliases(n *node, space string) {
	a := n.get("aliases")
	if a == nil || len(a.vals) == 0 {
		return
	}
	p.buf.WriteString(`,"aliases":[`)
	for i, v := range a.vals {
		if i > 0 {
			p.buf.WriteByte(',')
		}
		if v.kind == 's' {
			p.writeName(qualify(v.text, space), space)
			continue
		}
		v.appendTo(&p.buf)
	}
	p.buf.WriteByte(']')
}

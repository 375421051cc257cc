package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// node is a JSON value that keeps the order of its members, which the text of a schema must keep.
type node struct {
	kind byte     // '{' object, '[' array, 's' string, 'v' number, true, false or null
	text string   // of 's' the string, of 'v' its literal
	keys []string // of '{'
	vals []*node  // of '{' and '['
}

var errDeep = errors.New("JSON is nested too deeply")

// maxDepth bounds nesting, so that hostile input cannot exhaust the stack or the parsers after this one.
const maxDepth = 200

// parseJSON reads one JSON value and nothing after it. Of two members of one name the last counts.
func parseJSON(text string) (*node, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	n, err := readNode(dec, 0)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the JSON value")
	}
	return n, nil
}

func readNode(dec *json.Decoder, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch v := tok.(type) {
	case json.Delim:
		n := &node{kind: byte(v)}
		for dec.More() {
			if v == '{' {
				key, err := dec.Token()
				if err != nil {
					return nil, err
				}
				n.keys = append(n.keys, key.(string))
			}
			child, err := readNode(dec, depth+1)
			if err != nil {
				return nil, err
			}
			n.vals = append(n.vals, child)
		}
		if _, err := dec.Token(); err != nil { // the closing bracket
			return nil, err
		}
		n.dropRepeated()
		return n, nil
	case string:
		return &node{kind: 's', text: v}, nil
	case json.Number:
		return &node{kind: 'v', text: v.String()}, nil
	case bool:
		if v {
			return &node{kind: 'v', text: "true"}, nil
		}
		return &node{kind: 'v', text: "false"}, nil
	}
	return &node{kind: 'v', text: "null"}, nil
}

func (n *node) dropRepeated() {
	if n.kind != '{' {
		return
	}
	at := make(map[string]int, len(n.keys))
	keys, vals := n.keys[:0], n.vals[:0]
	for i, k := range n.keys {
		if j, ok := at[k]; ok {
			vals[j] = n.vals[i]
			continue
		}
		at[k] = len(keys)
		keys, vals = append(keys, k), append(vals, n.vals[i])
	}
	n.keys, n.vals = keys, vals
}

// get returns a member of an object, or nil.
func (n *node) get(key string) *node {
	for i, k := range n.keys {
		if k == key {
			return n.vals[i]
		}
	}
	return nil
}

// str returns a member that is a string.
func (n *node) str(key string) (string, bool) {
	v := n.get(key)
	if v == nil || v.kind != 's' {
		return "", false
	}
	return v.text, true
}

func (n *node) appendTo(b *bytes.Buffer) {
	switch n.kind {
	case 's':
		appendString(b, n.text)
	case 'v':
		b.WriteString(n.text)
	case '[':
		b.WriteByte('[')
		for i, v := range n.vals {
			if i > 0 {
				b.WriteByte(',')
			}
			v.appendTo(b)
		}
		b.WriteByte(']')
	default:
		b.WriteByte('{')
		for i, v := range n.vals {
			if i > 0 {
				b.WriteByte(',')
			}
			appendString(b, n.keys[i])
			b.WriteByte(':')
			v.appendTo(b)
		}
		b.WriteByte('}')
	}
}

// appendString writes a JSON string with no escape that JSON does not ask for.
func appendString(b *bytes.Buffer, s string) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string into a buffer cannot fail
	b.Truncate(b.Len() - 1)
}

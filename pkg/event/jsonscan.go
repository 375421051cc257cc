package event

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON (RFC 8259) without an allocation for text that has no escapes. Unlike
// encoding/json it refuses what cannot be kept: half a surrogate pair. The data must be valid UTF-8.
// Its methods return false on a fault of syntax; pos is then where it is.
type scanner struct {
	data []byte
	pos  int
}

// maxJSONDepth bounds the nesting of values that are skipped.
const maxJSONDepth = 64

// peek returns the next byte that is no white space, without taking it; 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.pos >= len(s.data) {
		return false
	}
	s.pos++
	return true
}

// members reads an object; f reads the value of each member. The name is valid during f only.
func (s *scanner) members(f func(name []byte) bool) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		if s.peek() != '"' {
			return false
		}
		name, ok := s.text()
		if !ok || !s.take(':') || !f(name) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// items reads an array; f reads each value.
func (s *scanner) items(f func() bool) bool {
	if !s.take('[') {
		return false
	}
	if s.take(']') {
		return true
	}
	for {
		if !f() {
			return false
		}
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// text reads a string at its quote. The result aliases the data unless it has escapes.
func (s *scanner) text() ([]byte, bool) {
	s.pos++
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1 : s.pos-1], true
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			return nil, false
		}
		s.pos++
	}
	return nil, false
}

func (s *scanner) escaped(start int) ([]byte, bool) {
	out := append([]byte{}, s.data[start:s.pos]...)
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		switch {
		case c == '"':
			s.pos++
			return out, true
		case c < ' ':
			return nil, false
		case c != '\\':
			out = append(out, c)
			s.pos++
			continue
		}
		if s.pos+1 >= len(s.data) {
			return nil, false
		}
		switch e := s.data[s.pos+1]; e {
		case '"', '\\', '/':
			out = append(out, e)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := s.hex4(s.pos)
			if !ok {
				return nil, false
			}
			if utf16.IsSurrogate(r) {
				low, ok := s.hex4(s.pos + 6)
				if !ok {
					return nil, false
				}
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					return nil, false
				}
				s.pos += 6
			}
			out = utf8.AppendRune(out, r)
			s.pos += 4
		default:
			return nil, false
		}
		s.pos += 2
	}
	return nil, false
}

// hex4 reads \uXXXX at i.
func (s *scanner) hex4(i int) (rune, bool) {
	if i+6 > len(s.data) || s.data[i] != '\\' || s.data[i+1] != 'u' {
		return 0, false
	}
	for _, c := range s.data[i+2 : i+6] {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(s.data[i+2:i+6]), 16, 16)
	return rune(n), err == nil
}

// number reads a number and returns its text.
func (s *scanner) number() ([]byte, bool) {
	start := s.pos
	digits := func() bool {
		from := s.pos
		for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
			s.pos++
		}
		return s.pos > from
	}
	at := func(set string) bool {
		if s.pos < len(s.data) {
			for i := range len(set) {
				if s.data[s.pos] == set[i] {
					s.pos++
					return true
				}
			}
		}
		return false
	}
	at("-")
	if !at("0") && !digits() {
		return nil, false
	}
	if at(".") && !digits() {
		return nil, false
	}
	if at("eE") {
		at("+-")
		if !digits() {
			return nil, false
		}
	}
	return s.data[start:s.pos:s.pos], true
}

func (s *scanner) literal(want string) bool {
	if len(s.data)-s.pos < len(want) || string(s.data[s.pos:s.pos+len(want)]) != want {
		return false
	}
	s.pos += len(want)
	return true
}

// skip reads any value and drops it.
func (s *scanner) skip(depth int) bool {
	if depth > maxJSONDepth {
		return false
	}
	switch s.peek() {
	case '{':
		return s.members(func([]byte) bool { return s.skip(depth + 1) })
	case '[':
		return s.items(func() bool { return s.skip(depth + 1) })
	case '"':
		_, ok := s.text()
		return ok
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	_, ok := s.number()
	return ok
}

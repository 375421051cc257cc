package publish

import (
	"io"
	"unicode/utf8"
)

// Encodings that a mapping may name, besides utf-8.
const (
	windows1252 = "windows-1252"
	latin1      = "iso-8859-1"
)

// high1252 are the characters of windows-1252 from 0x80 to 0x9f; the rest is as in ISO 8859-1.
var high1252 = [32]rune{
	'€', 0x81, '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', 0x8d, 'Ž', 0x8f,
	0x90, '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', 0x9d, 'ž', 'Ÿ',
}

// singleByte turns text of one byte a character into UTF-8.
type singleByte struct {
	r    io.Reader
	cp   bool // windows-1252
	in   [4096]byte
	out  []byte
	done error
}

func (s *singleByte) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if s.done != nil {
			return 0, s.done
		}
		var n int
		n, s.done = s.r.Read(s.in[:])
		buf := make([]byte, 0, 2*n)
		for _, c := range s.in[:n] {
			r := rune(c)
			if s.cp && c >= 0x80 && c < 0xa0 {
				r = high1252[c-0x80]
			}
			buf = utf8.AppendRune(buf, r)
		}
		s.out = buf
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

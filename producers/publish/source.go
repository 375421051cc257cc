package publish

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxRecordBytes bounds one record of a file, so that a quote left open cannot fill the memory.
const maxRecordBytes = 4 << 20

// record is one record of a file.
type record struct {
	line  int
	json  []byte   // JSONL: the line; the record owns it
	cells []string // CSV: valid until the next record is read; the texts for good
}

// lineError is a record that cannot be read; reading goes on after it.
type lineError struct {
	line        int
	text, limit string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.text) }

// reader reads records. next returns io.EOF at the end and *lineError for a record that is lost; any
// other error ends the file.
type reader interface {
	next() (record, error)
}

// input is an open file.
type input struct {
	name    string
	format  string
	read    int64 // bytes of the file, before unpacking
	size    int64 // 0: unknown
	columns []string
	reader
	close func() error
}

// countReader counts what is read, for progress.
type countReader struct {
	r io.Reader
	n *int64
}

func (c countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	*c.n += int64(n)
	return n, err
}

// open opens a file and, of CSV, reads the line of names.
func open(name string, o *Options, m *Mapping) (*input, error) {
	in := &input{name: name, close: func() error { return nil }}
	r := o.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", name, errors.Unwrap(err))
		}
		in.close = f.Close
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			in.size = st.Size()
		}
		r = f
	}
	r = countReader{r, &in.read}
	plain := name
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("unpack %s: %w", name, err), in.close())
		}
		r, plain = z, strings.TrimSuffix(name, ".gz")
	}
	if m != nil && m.CSV.Encoding != "" {
		r = m.CSV.decode(r)
	}
	b := bufio.NewReaderSize(r, 64<<10)
	if bom, _ := b.Peek(3); bytes.Equal(bom, []byte("\ufeff")) {
		_, _ = b.Discard(3)
	}
	if in.format = formatOf(plain, o, m); in.format == "" {
		return nil, errors.Join(fmt.Errorf("read %s: its name does not end in .csv, .jsonl or .ndjson; give the format", name), in.close())
	}
	if in.format == JSONL {
		in.reader = &jsonLines{r: b}
		return in, nil
	}
	c, err := newCSV(b, o, m)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", name, err), in.close())
	}
	in.reader, in.columns = c, c.columns
	return in, nil
}

func formatOf(name string, o *Options, m *Mapping) string {
	if o.Format != "" {
		return o.Format
	}
	if m != nil && m.Format != "" {
		return m.Format
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv", ".tsv", ".txt":
		return CSV
	case ".jsonl", ".ndjson", ".json":
		return JSONL
	}
	return ""
}

// jsonLines reads a JSON object a line; blank lines are passed over.
type jsonLines struct {
	r    *bufio.Reader
	line int
}

func (j *jsonLines) next() (record, error) {
	for {
		j.line++
		var line []byte
		long := false
		for {
			part, err := j.r.ReadSlice('\n')
			if len(line)+len(part) > maxRecordBytes {
				long, line = true, nil
			}
			if !long {
				line = append(line, part...)
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if errors.Is(err, io.EOF) && len(line) == 0 && !long {
				return record{}, io.EOF
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return record{}, fmt.Errorf("line %d: %w", j.line, err)
			}
			break
		}
		if long {
			return record{}, &lineError{j.line, "the line is too long", fmt.Sprintf("at most %d bytes", maxRecordBytes)}
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return record{line: j.line, json: line}, nil
		}
	}
}

// errOpenQuote ends a CSV file: after it no record can be told from another.
var errOpenQuote = fmt.Errorf("the record is longer than %d bytes: is a quote left open?", maxRecordBytes)

// guard fails when one record takes more than maxRecordBytes.
type guard struct {
	r    io.Reader
	left int
}

func (g *guard) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, errOpenQuote
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

type csvFile struct {
	guard   *guard
	r       *csv.Reader
	columns []string
	last    int
}

func newCSV(b *bufio.Reader, o *Options, m *Mapping) (*csvFile, error) {
	comma := o.Delimiter
	if comma == 0 && m != nil {
		comma = m.CSV.comma
	}
	if comma == 0 {
		head, _ := b.Peek(b.Size())
		head, _, _ = bytes.Cut(head, []byte("\n"))
		comma = likeliest(head)
	}
	g := &guard{r: b, left: maxRecordBytes}
	c := &csvFile{guard: g, r: csv.NewReader(g)}
	c.r.Comma, c.r.ReuseRecord = comma, true
	names, err := c.r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty; its first line must name the columns")
	}
	if err != nil {
		return nil, c.cause(err)
	}
	c.columns = slices.Clone(names)
	for i, n := range c.columns {
		c.columns[i] = strings.TrimSpace(n)
	}
	for i, n := range c.columns {
		if n != "" && slices.Index(c.columns, n) < i {
			return nil, fmt.Errorf("columns %d and %d have the same name", slices.Index(c.columns, n)+1, i+1)
		}
	}
	return c, nil
}

// likeliest is the delimiter that the line of names has most of.
func likeliest(head []byte) rune {
	best, most := ',', 0
	for _, c := range ",;\t|" {
		if n := bytes.Count(head, []byte(string(c))); n > most {
			best, most = c, n
		}
	}
	return best
}

func (c *csvFile) next() (record, error) {
	c.guard.left = maxRecordBytes
	cells, err := c.r.Read()
	if err == nil {
		c.last, _ = c.r.FieldPos(0)
		return record{line: c.last, cells: cells}, nil
	}
	var pe *csv.ParseError
	if errors.Is(err, io.EOF) || !errors.As(err, &pe) {
		return record{}, c.cause(err)
	}
	c.last = pe.StartLine
	switch {
	case errors.Is(pe.Err, csv.ErrFieldCount):
		return record{}, &lineError{pe.StartLine, fmt.Sprintf("%d cells", len(cells)), fmt.Sprintf("%d, as many as the first line names", len(c.columns))}
	case errors.Is(pe.Err, csv.ErrQuote):
		return record{}, &lineError{pe.StartLine, "a quote is not closed, or text follows it", `"…" with inner quotes doubled`}
	}
	return record{}, &lineError{pe.StartLine, "a quote stands inside a cell that does not start with one", `"…" with inner quotes doubled`}
}

// cause says where a file ended early. encoding/csv puts no text of the file in its errors.
func (c *csvFile) cause(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return fmt.Errorf("after line %d: %w", c.last, err)
}

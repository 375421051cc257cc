package replay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/privacy"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// Target is where records are copied to instead of being restored. The zero Target restores.
type Target struct {
	Topic string // records as they are: key, value, headers; save those that hold a codice fiscale, or cannot be read
	File  string // events as JSON lines, which welfarehub publish takes; what cannot be decoded is left out
}

func (t Target) String() string {
	switch {
	case t.Topic != "":
		return "topic:" + t.Topic
	case t.File != "":
		return "file:" + t.File
	}
	return "restore"
}

func parseTarget(s string) (Target, error) {
	kind, name, _ := strings.Cut(s, ":")
	switch kind {
	case "topic":
		return Target{Topic: name}, nil
	case "file":
		return Target{File: name}, nil
	case "restore":
		return Target{}, nil
	}
	return Target{}, fmt.Errorf("target %q is of another release", s)
}

func (t Target) check(s *Selection) error {
	switch {
	case t.Topic != "" && t.File != "":
		return fmt.Errorf("%w: name a topic to copy to, or a file, not both", ErrSelection)
	case t.Topic != "" && event.ByTopic(t.Topic) != nil:
		return fmt.Errorf("%w: %s is a topic that the loaders read, where each copy would end as duplicate", ErrSelection, t.Topic)
	case t.File != "" && len(s.Topics) > 1:
		return fmt.Errorf("%w: a file takes the events of one topic", ErrSelection)
	}
	return nil
}

// withheld tells whether a record is not copied: one that holds a codice fiscale, which would come to where
// nobody looks for it, and one that cannot be read, of which there is nothing to copy or to search. What cannot
// be decoded is searched byte by byte, as for a dead letter.
func withheld(v record.Verdict, m *wkafka.Message) bool {
	if m.Unread != 0 {
		return true
	}
	if v.Why != nil && slices.Contains(v.Why.Codes, string(validate.E11)) {
		return true
	}
	if v.Decoded {
		return false
	}
	if privacy.ContainsCFRaw(m.Key) || privacy.ContainsCFRaw(m.Value) {
		return true
	}
	return slices.ContainsFunc(m.Headers, func(h kafka.Header) bool {
		return privacy.ContainsCF([]byte(h.Key)) || privacy.ContainsCFRaw(h.Value)
	})
}

// sink takes copies. write returns once they are stored.
type sink interface {
	write(ctx context.Context, p *part, recs []wkafka.Message) (copied int, err error)
	close() error
}

// open makes the sink of a target; none for restoring.
func (t Target) open(ctx context.Context, o *Options, tr *kafka.Transport, client *kafka.Client, resumed bool, parts []Partition) (sink, error) {
	switch {
	case t == (Target{}):
		return nil, nil //nolint:nilnil // none is meant
	case o.DryRun:
		return counter{decoded: t.File != ""}, nil
	case t.Topic != "":
		if _, err := wkafka.LogBounds(ctx, client, t.Topic); err != nil {
			return nil, err
		}
		return &topicSink{t.Topic, o.Cluster.Writer(tr, 16<<20)}, nil
	}
	return newFileSink(t.File, resumed, parts)
}

// counter is the sink of a dry run.
type counter struct{ decoded bool }

func (c counter) write(ctx context.Context, p *part, recs []wkafka.Message) (int, error) {
	n := 0
	for i := range recs {
		v, err := p.reader.Read(ctx, &recs[i])
		if err != nil {
			return 0, err
		}
		if (v.Decoded || !c.decoded) && !withheld(v, &recs[i]) {
			n++
		}
	}
	return n, nil
}

func (counter) close() error { return nil }

// topicSink copies to a topic. A run that was cut off may have copied its last chunk; resumed, it copies it again.
type topicSink struct {
	topic  string
	writer *kafka.Writer
}

func (s *topicSink) write(ctx context.Context, p *part, recs []wkafka.Message) (int, error) {
	out := make([]kafka.Message, 0, len(recs))
	for i := range recs {
		m := &recs[i]
		v, err := p.reader.Read(ctx, m)
		if err != nil {
			return 0, err
		}
		if !withheld(v, m) {
			out = append(out, kafka.Message{Topic: s.topic, Key: m.Key, Value: m.Value, Headers: m.Headers, Time: m.Time})
		}
	}
	if err := s.writer.WriteMessages(ctx, out...); err != nil {
		return 0, fmt.Errorf("copy %d records to %s: %w", len(out), s.topic, err)
	}
	return len(out), nil
}

func (s *topicSink) close() error { return s.writer.Close() }

// fileSink writes events as JSON lines. Resumed, it first cuts the file to the lines that were booked.
type fileSink struct {
	f    *os.File
	w    *bufio.Writer
	line []byte
}

func newFileSink(name string, resumed bool, parts []Partition) (*fileSink, error) {
	// Events hold pseudonyms, so the file is its owner's.
	if !resumed {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", name, err)
		}
		return &fileSink{f: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	var lines uint64
	for _, p := range parts {
		lines += p.Copied
	}
	at, err := endOfLines(f, lines)
	if err == nil {
		err = f.Truncate(at)
	}
	if err == nil {
		_, err = f.Seek(at, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cut %s to the %d events that are booked: %w", name, lines, err), f.Close())
	}
	return &fileSink{f: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
}

// endOfLines is the offset after n lines.
func endOfLines(f *os.File, n uint64) (int64, error) {
	r := bufio.NewReaderSize(f, 1<<18)
	var at int64
	for n > 0 {
		part, err := r.ReadSlice('\n')
		at += int64(len(part))
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n--
	}
	return at, nil
}

func (s *fileSink) write(ctx context.Context, p *part, recs []wkafka.Message) (int, error) {
	n := 0
	for i := range recs {
		v, err := p.reader.Read(ctx, &recs[i])
		if err != nil {
			return 0, err
		}
		if !v.Decoded || withheld(v, &recs[i]) {
			continue
		}
		s.line = append(p.reader.Row.AppendJSON(s.line[:0]), '\n')
		if _, err := s.w.Write(s.line); err != nil {
			return 0, fmt.Errorf("write %s: %w", s.f.Name(), err)
		}
		n++
	}
	if err := errors.Join(s.w.Flush(), s.f.Sync()); err != nil {
		return 0, fmt.Errorf("write %s: %w", s.f.Name(), err)
	}
	return n, nil
}

func (s *fileSink) close() error { return s.f.Close() }

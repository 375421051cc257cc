package simulate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hamba/avro/v2/ocf"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// Sink takes messages. A message is not kept after Write returns.
type Sink interface {
	Write(ctx context.Context, m *Message) error
	Flush(ctx context.Context) error // what was written is safe when it returns
	Close() error                    // flushes too, without a limit in time
}

// Pace says how fast Run goes.
type Pace struct {
	PerSecond float64          // messages; 0: as fast as they go
	Clock     func() time.Time // live traffic: the simulated clock follows this one; nil: Config.Step
}

// Run sends the messages of s to a sink until the count is reached or ctx ends. It returns how many
// the sink took, and flushes it.
func Run(ctx context.Context, s *Simulator, to Sink, pace Pace) (sent int, err error) {
	began := time.Now()
	for ctx.Err() == nil {
		if pace.PerSecond > 0 {
			ahead := time.Duration(float64(sent)/pace.PerSecond*float64(time.Second)) - time.Since(began)
			if ahead > 2*time.Millisecond { // shorter waits are made up for by the next
				if err := to.Flush(ctx); err != nil {
					return sent, err
				}
				select {
				case <-ctx.Done():
				case <-time.After(ahead):
				}
			}
		}
		if pace.Clock != nil {
			s.Live(pace.Clock())
		}
		m, ok := s.Next()
		if !ok {
			break
		}
		if err := to.Write(ctx, &m); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, to.Flush(context.WithoutCancel(ctx))
}

// MessageWriter is the part of kafka.Writer that KafkaSink needs.
type MessageWriter interface {
	WriteMessages(ctx context.Context, msgs ...kafka.Message) error
}

// KafkaSink writes to Kafka in batches. Use a writer that waits for acknowledgement by all replicas
// and hashes keys to partitions: equal keys must share a partition.
type KafkaSink struct {
	w         MessageWriter
	wallClock bool
	batch     []kafka.Message
	buf       []byte
}

const kafkaBatch = 10_000

// NewKafkaSink writes through w, which stays the caller's. With wallClock, records carry the time of
// sending, not the simulated time, so that brokers with a retention keep a simulated history.
func NewKafkaSink(w MessageWriter, wallClock bool) *KafkaSink {
	return &KafkaSink{w: w, wallClock: wallClock}
}

// keep copies bytes into the batch's buffer; nil stays nil, which is another value to Kafka than empty.
func (k *KafkaSink) keep(b []byte) []byte {
	if b == nil {
		return nil
	}
	from := len(k.buf)
	k.buf = append(k.buf, b...)
	return k.buf[from:len(k.buf):len(k.buf)]
}

// Write adds a message to the batch, and sends the batch when it is full.
func (k *KafkaSink) Write(ctx context.Context, m *Message) error {
	out := kafka.Message{Topic: m.Topic, Key: k.keep(m.Key), Value: k.keep(m.Value), Time: m.Timestamp}
	if k.wallClock {
		out.Time = time.Time{}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, kafka.Header{Key: h.Key, Value: k.keep(h.Value)})
	}
	k.batch = append(k.batch, out)
	if len(k.batch) < kafkaBatch {
		return nil
	}
	return k.Flush(ctx)
}

// Flush sends the batch and waits for its acknowledgement.
func (k *KafkaSink) Flush(ctx context.Context) error {
	if len(k.batch) == 0 {
		return nil
	}
	if err := k.w.WriteMessages(ctx, k.batch...); err != nil {
		return fmt.Errorf("write %d simulated messages: %w", len(k.batch), err)
	}
	clear(k.batch)
	k.batch, k.buf = k.batch[:0], k.buf[:0]
	return nil
}

// Close flushes.
func (k *KafkaSink) Close() error { return k.Flush(context.Background()) }

// FileSink writes events into a folder, one file a topic, <topic>.avro (an Avro object container) or
// <topic>.jsonl. Messages that cannot be decoded have no place there: they are left out and counted.
type FileSink struct {
	dir     string
	json    bool
	files   map[string]*topicFile
	line    []byte
	skipped int
}

type topicFile struct {
	f   *os.File
	w   *bufio.Writer
	enc *ocf.Encoder // nil: JSON lines
}

// NewFileSink writes into dir, which it makes; files that are there are replaced.
func NewFileSink(dir string, jsonl bool) (*FileSink, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make output folder: %w", err)
	}
	return &FileSink{dir: dir, json: jsonl, files: map[string]*topicFile{}}, nil
}

// Skipped is how many messages were left out, because they cannot be decoded.
func (s *FileSink) Skipped() int { return s.skipped }

// Write writes one event to the file of its topic.
func (s *FileSink) Write(_ context.Context, m *Message) error {
	if m.Row == nil {
		s.skipped++
		return nil
	}
	tf := s.files[m.Topic]
	if tf == nil {
		var err error
		if tf, err = s.open(m.Row.Type); err != nil {
			return err
		}
		s.files[m.Topic] = tf
	}
	var w io.Writer = tf.enc
	if s.json {
		w = tf.w
		s.line = append(m.Row.AppendJSON(s.line[:0]), '\n')
	} else {
		s.line = m.Row.AppendAvro(s.line[:0])
	}
	if _, err := w.Write(s.line); err != nil {
		return fmt.Errorf("write %s: %w", tf.f.Name(), err)
	}
	return nil
}

func (s *FileSink) open(t *event.Type) (*topicFile, error) {
	ext := ".avro"
	if s.json {
		ext = ".jsonl"
	}
	f, err := os.Create(filepath.Join(s.dir, t.Topic+ext))
	if err != nil {
		return nil, fmt.Errorf("make output file of %s: %w", t.Topic, err)
	}
	tf := &topicFile{f: f, w: bufio.NewWriterSize(f, 1<<18)}
	if !s.json {
		var sync [16]byte // a fixed marker, so that the same seed gives the same file
		copy(sync[:], t.Name)
		tf.enc, err = ocf.NewEncoder(t.Raw, tf.w, ocf.WithCodec(ocf.Deflate), ocf.WithBlockLength(1000), ocf.WithSyncBlock(sync))
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("begin output file of %s: %w", t.Topic, err)
		}
	}
	return tf, nil
}

// Flush writes what is buffered to the files.
func (s *FileSink) Flush(context.Context) error {
	var errs []error
	for topic, tf := range s.files {
		var err error
		if tf.enc != nil {
			err = tf.enc.Flush()
		}
		if err = errors.Join(err, tf.w.Flush()); err != nil {
			errs = append(errs, fmt.Errorf("flush output file of %s: %w", topic, err))
		}
	}
	return errors.Join(errs...)
}

// Close flushes and closes the files.
func (s *FileSink) Close() error {
	errs := []error{s.Flush(context.Background())}
	for topic, tf := range s.files {
		if err := tf.f.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close output file of %s: %w", topic, err))
		}
	}
	return errors.Join(errs...)
}

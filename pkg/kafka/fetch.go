package kafka

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// Fetcher reads one partition from its leader. It speaks the Fetch request itself, over a connection that
// kafka-go's dialer has made and authenticated: kafka-go's own reader copies every key, value and header
// of every record, which costs the loader more than all else that it does. Records of aborted
// transactions are left out. Not safe for concurrent use.
type Fetcher struct {
	cluster   Cluster
	topic     string
	partition int

	conn        net.Conn
	correlation int32
	logEnd      int64

	batches recordBatches // what is left of the last answer
	at      int64         // offset that the next record of batches may have
	memory  *Memory
	used    [][]byte // buffers of memory that records handed out may alias
	growth  float64  // bytes of a batch for each byte of it compressed: of the last one
}

// fetchBytes bounds one answer of the broker; a single larger batch still comes whole.
const fetchBytes = 4 << 20

// fetchVersion is of Kafka 2.3: the first with all that is asked for here, and Kafka 4 still has it.
const fetchVersion = 11

// fetcherMemory is what a Fetcher keeps that shares its memory with none.
const fetcherMemory = 16 << 20

// NewFetcher returns a Fetcher, which takes its buffers from memory; nil: from its own. It connects at the first
// Fetch.
func NewFetcher(c Cluster, topic string, partition int, memory *Memory) *Fetcher {
	if memory == nil {
		memory = NewMemory(fetcherMemory)
	}
	return &Fetcher{cluster: c, topic: topic, partition: partition, logEnd: -1, memory: memory, growth: firstGrowth}
}

// LogEnd is the offset after the last record, as the last answer said; -1 before there was one.
func (f *Fetcher) LogEnd() int64 { return f.logEnd }

// Close ends the connection. The next Fetch makes another.
func (f *Fetcher) Close() {
	if f.conn != nil {
		_ = f.conn.Close()
		f.conn = nil
	}
	f.batches = recordBatches{}
}

// Release tells that records handed out so far are used no more: their memory goes to whoever fetches next. Who
// cannot tell leaves it to the garbage collector.
func (f *Fetcher) Release() {
	keep := f.used[:0]
	for _, b := range f.used {
		if f.batches.aliases(b) {
			keep = append(keep, b)
			continue
		}
		f.memory.give(b)
	}
	clear(f.used[len(keep):])
	f.used = keep
}

// giveBack ends the use of a buffer before Release: nothing aliases it.
func (f *Fetcher) giveBack(b []byte) {
	for i := len(f.used) - 1; i >= 0; i-- {
		if &f.used[i][:1][0] == &b[:1][0] {
			f.used = slices.Delete(f.used, i, i+1)
			f.memory.give(b)
			return
		}
	}
}

// buffer returns memory of n bytes, at least 1, that lives until it is released.
func (f *Fetcher) buffer(n int) []byte {
	b := f.memory.take(n)
	f.used = append(f.used, b)
	return b
}

// Fetch appends to dst the records from offset on, up to limit (exclusive; 0: none), maxRecords in dst
// altogether, and about maxBytes of keys, values and headers. It waits up to wait for the first. next is where to go
// on: offsets below it are in dst, or have no record. Records alias memory of the Fetcher until Release.
//
// OffsetOutOfRange of kafka-go says that offset is beyond the log on either side. After any error the
// connection is made anew; records that were appended are good.
func (f *Fetcher) Fetch(ctx context.Context, dst []Record, offset, limit int64, maxRecords, maxBytes int, wait time.Duration) (records []Record, next int64, err error) {
	if f.at != offset || f.batches.empty() {
		if err := f.request(ctx, offset, wait); err != nil {
			f.Close()
			return dst, offset, fmt.Errorf("fetch %s/%d from offset %d: %w", f.topic, f.partition, offset, err)
		}
	}
	next = offset
	for size := 0; len(dst) < maxRecords && size < maxBytes; {
		var r Record
		more, err := f.batches.next(f, &r)
		if err != nil {
			f.Close()
			return dst, next, fmt.Errorf("read records of %s/%d at offset %d: %w", f.topic, f.partition, next, err)
		}
		if !more {
			if body := f.batches.body; !f.batches.plain && len(body) > 0 {
				f.giveBack(body) // all of it was decompressed
				f.batches.body = nil
			}
			next = max(next, f.batches.end)
			break
		}
		if r.Offset < offset {
			continue // a batch begins before what was asked for
		}
		if limit > 0 && r.Offset >= limit {
			f.batches = recordBatches{}
			break
		}
		size += len(r.Key) + len(r.Value) + len(r.headers)
		dst = append(dst, r)
		next = r.Offset + 1
	}
	f.at = next
	return dst, next, nil
}

// request asks for records and takes the answer into f.batches.
func (f *Fetcher) request(ctx context.Context, offset int64, wait time.Duration) error {
	f.batches = recordBatches{}
	if f.conn == nil {
		conn, err := f.cluster.dialLeader(ctx, f.topic, f.partition)
		if err != nil {
			return err
		}
		f.conn = conn
	}
	conn := f.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(wait + 30*time.Second)); err != nil {
		return err
	}
	f.correlation++
	if _, err := conn.Write(f.encodeRequest(offset, wait)); err != nil {
		return err
	}
	var head [8]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	size := int(int32(binary.BigEndian.Uint32(head[:]))) - 4
	if size < 0 || size > maxAnswer {
		return fmt.Errorf("%w: an answer of %d bytes", errProtocol, size)
	}
	if got := int32(binary.BigEndian.Uint32(head[4:])); got != f.correlation {
		return fmt.Errorf("%w: answer %d to request %d", errProtocol, got, f.correlation)
	}
	body := f.buffer(size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	return f.decodeAnswer(body)
}

// maxAnswer is far above what a broker sends: an answer is cut at fetchBytes, save its first batch.
const maxAnswer = 1 << 30

// errProtocol says that an answer is not as the protocol has it.
var errProtocol = errors.New("unexpected answer of the broker")

// encodeRequest is a Fetch request for one partition, of committed records only.
func (f *Fetcher) encodeRequest(offset int64, wait time.Duration) []byte {
	b := make([]byte, 4, 128)
	b = binary.BigEndian.AppendUint16(b, 1) // Fetch
	b = binary.BigEndian.AppendUint16(b, fetchVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(f.correlation))
	b = appendString(b, clientID)
	b = binary.BigEndian.AppendUint32(b, 0xffffffff) // replica: none
	b = binary.BigEndian.AppendUint32(b, uint32(wait.Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, 1) // at least a byte
	b = binary.BigEndian.AppendUint32(b, fetchBytes)
	b = append(b, 1)                                 // isolation: read committed
	b = binary.BigEndian.AppendUint32(b, 0)          // no session
	b = binary.BigEndian.AppendUint32(b, 0xffffffff) // its epoch
	b = binary.BigEndian.AppendUint32(b, 1)          // one topic
	b = appendString(b, f.topic)
	b = binary.BigEndian.AppendUint32(b, 1) // one partition
	b = binary.BigEndian.AppendUint32(b, uint32(f.partition))
	b = binary.BigEndian.AppendUint32(b, 0xffffffff) // leader epoch: not known
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	b = binary.BigEndian.AppendUint64(b, ^uint64(0)) // log start: not a follower
	b = binary.BigEndian.AppendUint32(b, fetchBytes)
	b = binary.BigEndian.AppendUint32(b, 0) // forgotten topics
	b = appendString(b, "")                 // rack
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// decodeAnswer takes the body of a Fetch answer apart.
func (f *Fetcher) decodeAnswer(body []byte) error {
	d := bytesReader{b: body}
	d.skip(4) // throttle time
	if code := kafka.Error(int16(d.uint16())); d.err == nil && code != 0 {
		return code
	}
	d.skip(4) // session
	if n := d.uint32(); d.err == nil && n != 1 {
		return fmt.Errorf("%w: %d topics", errProtocol, n)
	}
	if topic := d.bytes(int(int16(d.uint16()))); d.err == nil && string(topic) != f.topic {
		return fmt.Errorf("%w: another topic", errProtocol)
	}
	if n := d.uint32(); d.err == nil && n != 1 {
		return fmt.Errorf("%w: %d partitions", errProtocol, n)
	}
	partition, code := int(d.uint32()), kafka.Error(int16(d.uint16()))
	end := int64(d.uint64())
	d.skip(16) // last stable offset, log start
	var aborted []abortedTransaction
	for n := int32(d.uint32()); n > 0 && d.err == nil; n-- {
		aborted = append(aborted, abortedTransaction{producer: int64(d.uint64()), first: int64(d.uint64())})
	}
	d.skip(4) // preferred replica
	raw := d.bytes(max(int(int32(d.uint32())), 0))
	switch {
	case d.err != nil:
		return fmt.Errorf("%w: it is cut short", errProtocol)
	case code != 0:
		return code
	case partition != f.partition:
		return fmt.Errorf("%w: another partition", errProtocol)
	}
	f.logEnd = end
	f.batches = newRecordBatches(raw, aborted)
	f.batches.body = body
	return nil
}

// dialLeader opens a connection to the leader of a partition, authenticated and ready for requests.
func (c Cluster) dialLeader(ctx context.Context, topic string, partition int) (net.Conn, error) {
	var opened net.Conn
	d := c.Dialer()
	config := d.TLS
	d.TLS = nil
	d.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, address)
		if err != nil || config == nil {
			opened = conn
			return conn, err
		}
		own := config.Clone()
		if own.ServerName == "" {
			if own.ServerName, _, err = net.SplitHostPort(address); err != nil {
				return nil, err
			}
		}
		secure := tls.Client(conn, own)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		opened = secure
		return secure, nil
	}
	var last error
	for _, address := range c.Brokers {
		if _, err := d.DialLeader(ctx, "tcp", address, topic, partition); err != nil {
			last = err
			continue
		}
		return opened, nil
	}
	return nil, fmt.Errorf("connect to the leader of %s/%s: %w", topic, strconv.Itoa(partition), last)
}

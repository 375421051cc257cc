package reconcile

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// Window narrows what is looked at one by one: checksums, contents, records of the log, dead letters. The
// books are looked at whole. What is not given bounds nothing.
type Window struct {
	Partition *uint32   // only this partition; of the books too
	From, To  *uint64   // offsets; To is exclusive
	Since     time.Time // of the Kafka timestamp: from the first record that is not older
	Until     time.Time // up to the first record that is not older
}

// bounds is a window of one partition, as offsets.
type bounds struct{ from, to uint64 }

func (w *Window) timed() bool { return !w.Since.IsZero() || !w.Until.IsZero() }

// windows are the windows of the partitions of a topic. A window of time needs the log, for rows do not
// have the timestamp of their record.
type windows struct {
	w            *Window
	since, until map[int]int64
	logs         map[place]offsets
}

func (o *Options) windows(ctx context.Context, t *event.Type, logs map[place]offsets) (*windows, error) {
	out := &windows{w: &o.Window, logs: logs}
	if !o.Window.timed() || !hasTopic(logs, t.Topic) {
		return out, nil
	}
	transport := o.Cluster.Transport()
	defer transport.CloseIdleConnections()
	client := o.Cluster.Client(transport)
	var err error
	if !o.Window.Since.IsZero() {
		if out.since, err = wkafka.OffsetsAt(ctx, client, t.Topic, o.Window.Since); err != nil {
			return nil, err
		}
	}
	if !o.Window.Until.IsZero() {
		if out.until, err = wkafka.OffsetsAt(ctx, client, t.Topic, o.Window.Until); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func hasTopic(logs map[place]offsets, topic string) bool {
	for at := range logs {
		if at.topic == topic {
			return true
		}
	}
	return false
}

// of is the window of a partition whose ledger ends at end.
func (w *windows) of(topic string, partition uint32, end uint64) bounds {
	b := bounds{0, end}
	if w.w.From != nil {
		b.from = *w.w.From
	}
	if w.w.To != nil {
		b.to = min(b.to, *w.w.To)
	}
	if w.w.timed() {
		log, ok := w.logs[place{topic, partition}]
		if !ok {
			return bounds{}
		}
		at := func(m map[int]int64) uint64 {
			if offset, ok := m[int(partition)]; ok {
				return uint64(offset)
			}
			return uint64(log.end) // all records are older
		}
		if !w.w.Since.IsZero() {
			b.from = max(b.from, at(w.since))
		}
		if !w.w.Until.IsZero() {
			b.to = min(b.to, at(w.until))
		}
	}
	b.to = max(b.from, b.to)
	return b
}

// measure reads, for the rows that people see in the windows of a topic: how many, how many distinct ids,
// and a checksum of ids and contents that does not depend on their order. The checksum of all partitions
// together is that of any hub that loaded the same events, wherever copies of one event came first.
func (o *Options) measure(ctx context.Context, t *event.Type, of map[uint32]bounds, r *Report) error {
	partitions, from, to := []uint32{}, []uint64{}, []uint64{}
	for p, b := range of {
		partitions, from, to = append(partitions, p), append(from, b.from), append(to, b.to)
	}
	if len(partitions) == 0 {
		return nil
	}
	c := &check{db: o.DB, t: t}
	var partition uint32
	var rows, ids, checksum uint64
	err := c.each(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), `SELECT p, sum(n), count(), groupBitXor(x) FROM (
    SELECT _partition AS p, _id_hash, count() AS n, groupBitXor(sipHash64(_id_hash, _content_hash)) AS x FROM store.`+t.Table+`
    WHERE _end = 'loaded' AND _gone = 0 AND _offset >= transform(_partition, {partitions:Array(UInt32)}, {from:Array(UInt64)}, toUInt64(`+fmt.Sprint(uint64(math.MaxUint64))+`))
      AND _offset < transform(_partition, {partitions:Array(UInt32)}, {to:Array(UInt64)}, toUInt64(0))
      AND (_partition, _offset) NOT IN (SELECT partition, offset FROM store.erased WHERE topic = {topic:String})
      AND (_partition, _offset) NOT IN (SELECT partition, offset FROM store.superseded WHERE topic = {topic:String})
    GROUP BY p, _id_hash)
GROUP BY p`,
		[]any{
			clickhouse.Named("partitions", partitions), clickhouse.Named("from", from), clickhouse.Named("to", to), clickhouse.Named("topic", t.Topic),
		}, func() error {
			if p := r.partition(t.Topic, partition); p != nil {
				p.Contents.Rows, p.Contents.IDs, p.Contents.Checksum = rows, ids, Checksum(checksum)
			}
			return nil
		}, &partition, &rows, &ids, &checksum)
	if err != nil {
		return fmt.Errorf("reconcile %s: make checksums: %w", t.Topic, err)
	}
	return nil
}

// partition returns the report of a partition; nil where there is none.
func (r *Report) partition(topic string, n uint32) *Partition {
	for i := range r.Partitions {
		if p := &r.Partitions[i]; p.Topic == topic && p.Partition == n {
			return p
		}
	}
	return nil
}

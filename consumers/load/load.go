// Package load moves welfare events from Kafka into ClickHouse for planners, exactly once: every
// record that it reads ends as one of loaded, duplicate and rejected, whatever is killed and whenever.
//
// One partition is worked in blocks, [from, to) of its offsets, in these steps (protocol.go has them as a
// state machine; why they suffice is in docs/decisions/0001-loader-protocol.md):
//
//	0 take over   position = end of the ledger; end the block that the last owner left
//	1 fetch       records from the position on, up to a size and an age
//	2 decide      decode, validate, find duplicates: one end for each record
//	3 claim       commit the group offset from, with a mark; the broker refuses a former owner
//	4 insert      one native block, one row per record, token topic/partition/from/epoch; then whose is it?
//	5 tell        letters to <topic>.dlq, outcomes to welfare.outcome
//	6 settle      commit the group offset to
//
// Step 4 is the only one that decides: all ends of the block land in one part, or none does, and of all
// blocks that begin at one offset one is stored.
package load

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/fault"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// Options configure a Loader. Zero values take the defaults that the comments give.
type Options struct {
	Cluster         wkafka.Cluster
	Group           string // consumer group; welfarehub-load
	DSN             string // ClickHouse, native protocol
	Schemas         record.SchemaSource
	OutcomeSchemaID int           // registry id of OutcomesReported
	MaxRecords      int           // records of a block at most; 200,000
	MaxBytes        int           // bytes of keys, values and headers of a block, about; 64 MiB
	MaxInWork       int           // the same of all blocks in work: beyond it they stay small; 192 MiB
	FlushAge        time.Duration // a block waits for more records no longer than this, and less where there is little to do; 500 ms
	MaxValueBytes   int           // a larger value is rejected as P06; 1 MiB
	DeadLetterBytes int           // a larger dead letter is cut; 2 MiB
	SessionTimeout  time.Duration // of the consumer group; 10 s
	DrainTimeout    time.Duration // a block in work when the loader must stop has this long to end; 10 s
	Logger          *zap.Logger
	Metrics         *metrics.Load // none where nil

	refresh time.Duration // what other instances did is read again when it is older than this; 1 s
}

func (o *Options) setDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	defd := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	if o.Group == "" {
		o.Group = "welfarehub-load"
	}
	def(&o.MaxRecords, 200_000)
	def(&o.MaxBytes, 64<<20)
	def(&o.MaxInWork, 192<<20)
	def(&o.MaxValueBytes, 1<<20)
	def(&o.DeadLetterBytes, 2<<20)
	defd(&o.FlushAge, 500*time.Millisecond)
	defd(&o.SessionTimeout, 10*time.Second)
	defd(&o.DrainTimeout, 10*time.Second)
	defd(&o.refresh, time.Second)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Loader loads the partitions that its consumer group assigns to it. Make it with New.
type Loader struct {
	opt    Options
	log    *zap.Logger
	owner  uint64 // this instance, stored with each row
	broker *broker
	store  *store
	topics map[string]*topic
	stats  Stats
	member atomic.Bool // of a generation of the group

	erasures erasures
	rounds   rounds
	budget   budget
}

// New prepares a loader; it does no I/O that could fail for an outage.
func New(opt Options) (*Loader, error) {
	opt.setDefaults()
	if len(opt.Cluster.Brokers) == 0 || opt.Schemas == nil {
		return nil, errors.New("loader needs brokers and a schema registry")
	}
	st, err := newStore(opt.DSN, opt.Logger)
	if err != nil {
		return nil, err
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("make loader identity: %w", err)
	}
	l := &Loader{
		opt: opt, log: opt.Logger, owner: binary.LittleEndian.Uint64(seed[:]),
		broker: newBroker(opt.Cluster, opt.Group, opt.DeadLetterBytes), store: st, topics: map[string]*topic{},
	}
	for _, t := range event.Types {
		l.topics[t.Topic] = newTopic(t, l)
	}
	return l, nil
}

// Run loads until ctx ends, then ends the blocks in work, leaves the group and returns nil. Outages of
// Kafka, ClickHouse and the registry are waited for, with a warning; they do not end it.
func (l *Loader) Run(ctx context.Context) error {
	defer l.store.close()
	defer l.broker.close()
	stats := make(chan struct{})
	go func() {
		defer close(stats)
		l.reportLogEnds(ctx)
	}()
	defer func() { <-stats }()
	for wait := (backoff{}); ctx.Err() == nil; {
		err := l.runGroup(ctx, &wait)
		if err != nil && ctx.Err() == nil {
			l.log.Warn("consumer group interrupted, joining again", zap.Error(err))
			wait.sleep(ctx)
		}
	}
	return nil
}

// runGroup is one membership of the group: it works its generations until ctx ends or the group fails.
func (l *Loader) runGroup(ctx context.Context, wait *backoff) error {
	group, err := l.broker.join(event.Topics(), l.opt.SessionTimeout, l.opt.DrainTimeout)
	if err != nil {
		return fmt.Errorf("join group %s: %w", l.opt.Group, err)
	}
	defer group.Close()
	defer l.left()
	for {
		gen, err := group.Next(ctx)
		if err != nil {
			return fmt.Errorf("wait for an assignment of group %s: %w", l.opt.Group, err)
		}
		wait.reset()
		l.startGeneration(ctx, gen)
	}
}

func (l *Loader) startGeneration(ctx context.Context, gen *kafka.Generation) {
	fault.At("before", "generation")
	n := 0
	all, err := l.broker.partitions(ctx, gen.Assignments)
	if err != nil {
		l.log.Warn("partitions of the topics not read: other loaders may have some of them", zap.Error(err))
	}
	for name, parts := range gen.Assignments {
		t := l.topics[name]
		t.shared.Store(err != nil || all[name] != len(parts))
		gate := &sync.WaitGroup{}
		gate.Add(len(parts))
		for _, p := range parts {
			w := &worker{l: l, topic: t, partition: p.ID, gen: gen, gate: gate, log: l.log.With(zap.String("topic", name), zap.Int("partition", p.ID))}
			gen.Start(w.run)
			n++
		}
	}
	l.stats.generation(n)
	l.opt.Metrics.Generation(n)
	l.member.Store(true)
	l.log.Info("partitions assigned", zap.Int("partitions", n), zap.Int32("generation", gen.ID))
}

// Stats are running totals of a loader, for progress and metrics.
type Stats struct {
	mu         sync.Mutex
	partitions int
	ends       map[string]Counts
	logEnds    map[position]int64
}

// Counts are records by end.
type Counts struct{ Read, Loaded, Duplicate, Rejected int64 }

func (s *Stats) generation(partitions int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partitions = partitions
}

func (s *Stats) add(topic string, c Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		s.ends = map[string]Counts{}
	}
	t := s.ends[topic]
	t.Read += c.Read
	t.Loaded += c.Loaded
	t.Duplicate += c.Duplicate
	t.Rejected += c.Rejected
	s.ends[topic] = t
}

// position is a partition of a topic.
type position struct {
	topic     string
	partition int
}

func (s *Stats) logEnd(p position, end int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logEnds == nil {
		s.logEnds = map[position]int64{}
	}
	s.logEnds[p] = end
}

// takeLogEnds returns the log ends learnt since the last call. The caller owns the map.
func (s *Stats) takeLogEnds() map[position]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.logEnds
	s.logEnds = nil
	return out
}

// Ends returns the totals by topic since the loader started. The caller owns the map.
func (l *Loader) Ends() map[string]Counts {
	l.stats.mu.Lock()
	defer l.stats.mu.Unlock()
	out := make(map[string]Counts, len(l.stats.ends))
	for k, v := range l.stats.ends {
		out[k] = v
	}
	return out
}

// reportLogEnds writes the ends of the logs, as the fetches see them, for welfare.freshness.
func (l *Loader) reportLogEnds(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ends := l.stats.takeLogEnds()
		if len(ends) == 0 {
			continue
		}
		c, cancel := context.WithTimeout(ctx, 10*time.Second)
		if err := l.store.clock.sync(c, l.store); err != nil && ctx.Err() == nil {
			l.log.Warn("clock not compared with ClickHouse's", zap.Error(err))
		}
		if err := l.store.putLogEnds(c, ends); err != nil && ctx.Err() == nil {
			l.log.Warn("log ends not written, the freshness view is behind", zap.Error(err))
		}
		cancel()
	}
}

// backoff waits longer after each failure, up to five seconds.
type backoff struct{ next time.Duration }

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) sleep(ctx context.Context) {
	b.next = min(max(2*b.next, 50*time.Millisecond), 5*time.Second)
	t := time.NewTimer(b.next)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// afterwards returns a context that ends d after ctx does: for the block in work when a loader must stop.
func afterwards(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(d, cancel)
		context.AfterFunc(out, func() { t.Stop() })
	})
	return out, func() { stop(); cancel() }
}

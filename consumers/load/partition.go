package load

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/fault"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// worker loads one partition for one generation of the group: it does what the protocol asks for.
type worker struct {
	l         *Loader
	topic     *topic
	partition int
	gen       *kafka.Generation
	gate      *sync.WaitGroup // counts the partitions of the topic that have not brought the filter up to date
	log       *zap.Logger

	protocol
	gathered func() // tells the gate, once
	turn     *turn  // the worker's place among the blocks of the topic; nil: none
	cols     *record.Columns
	waiting  []deferred  // records of the block that are to be resolved
	conn     *connection // see protocol.connection
	recs     []wkafka.Record
	decided  *block
	held     int     // bytes of recs, in the budget
	large    bool    // it has a place among the large blocks
	wait     backoff // between inserts that failed
	sent     uint64  // life of the engine that the last insert was sent to
}

// run works the partition until its generation ends (ctx), then lets the block in work end.
func (w *worker) run(ctx context.Context) {
	hard, cancel := afterwards(ctx, w.l.opt.DrainTimeout)
	defer cancel()
	r := newReader(w.l.broker, w.position())
	defer r.Close()
	w.gathered = sync.OnceFunc(w.gate.Done)
	defer w.gathered()
	defer w.leave()
	defer w.release()
	defer w.drop() // its records are not released: what is cut off may still be read by who publishes it
	w.protocol = newProtocol()
	for w.do != actStop {
		if ctx.Err() != nil && w.do <= actFetch {
			return // no block is in work
		}
		if w.alone() && w.turn.await(hard) != nil || w.connect(ctx, hard) != nil {
			return
		}
		fault.At("before", w.do.String())
		res, err := w.perform(ctx, hard, r)
		fault.At("after", w.do.String())
		if err != nil {
			if ctx.Err() == nil {
				w.log.Error("partition stopped until the next assignment", zap.Error(err))
			}
			return
		}
		w.advance(res)
		if !w.alone() {
			w.leave()
		}
		if res.lost {
			w.gathered()
			w.release()
			<-ctx.Done() // were it to end, so would the whole generation
		}
	}
}

// leave lets the next block of the topic go on.
func (w *worker) leave() {
	if w.cols != nil {
		w.topic.ahead <- w.cols
		w.cols = nil
	}
	if w.turn != nil {
		w.topic.turns.leave(w.turn)
		w.turn = nil
	}
}

// connect takes a connection to the store where the protocol wants another one.
func (w *worker) connect(ctx, hard context.Context) error {
	if !w.connection() {
		return nil
	}
	w.release()
	if w.do <= actFetch {
		hard = ctx
	}
	return w.retry(hard, "connect to ClickHouse", func() (err error) {
		w.conn, err = w.l.store.connect(hard)
		return err
	})
}

func (w *worker) release() {
	if w.conn != nil {
		w.conn.release()
		w.conn = nil
	}
}

func (w *worker) position() position { return position{w.topic.Topic, w.partition} }

// perform does the action that is due. ctx ends when no new block may begin, hard when the one in work
// must end too. Outages are waited for; an error says that the worker must end.
func (w *worker) perform(ctx, hard context.Context, r *reader) (res result, err error) {
	p, st, br := w.position(), w.l.store, w.l.broker
	switch w.do {
	case actPosition:
		err = w.retry(ctx, "take over", func() (err error) {
			if res.offset, err = st.ledgerEnd(ctx, p); err != nil {
				return err
			}
			at, settled, err := br.committed(ctx, p)
			res.settled = settled && at == res.offset
			return err
		})
	case actTail:
		err = w.retry(ctx, "look for an unfinished block", func() (err error) {
			res.block, err = st.tail(ctx, w.topic.Type, p, w.next)
			return err
		})
	case actHeal:
		var found bool
		if err = w.retry(ctx, "complete the block's views", func() (err error) {
			found, err = st.heal(ctx, w.topic.Type, p, w.block)
			return err
		}); err == nil && !found {
			res.lost = true
			w.withoutRows()
		}
	case actStart:
		err = w.retry(ctx, "find the start of the log", func() (err error) {
			log, err := r.bounds(ctx)
			res.offset = log.First
			return err
		})
	case actLearn:
		if err = w.retry(ctx, "learn the ids that are stored", func() error { return w.learn(ctx) }); err == nil {
			w.gathered()
		}
	case actGather:
		err = w.awaitOthers(ctx)
	case actRefetch:
		w.recs, err = w.fetchRange(ctx, r, w.block)
	case actRestore:
		res.found, err = w.restore(hard)
	case actFetch:
		for again := true; again; again = len(w.recs) == 0 {
			if ctx.Err() != nil {
				return res, ctx.Err()
			}
			w.recs = w.fetch(ctx, r, w.next)
		}
		res.offset = w.recs[len(w.recs)-1].Offset + 1
	case actDecide:
		if w.cols, err = w.topic.columns(hard); err != nil {
			return res, err
		}
		err = w.retry(hard, "decide", func() (err error) {
			start := time.Now()
			if w.decided, w.waiting, w.turn, err = w.topic.decide(hard, p, w.block, w.recs, w.cols); err == nil {
				w.l.opt.Metrics.Decided(time.Since(start))
			}
			return err
		})
	case actResolve:
		var known map[[16]byte]known
		if err = w.retry(hard, "look known ids up", func() error {
			known, err = st.lookup(hard, w.topic.Type, ids(w.waiting))
			return err
		}); err == nil {
			err = w.topic.resolve(hard, w.decided, w.waiting, known, w.cols)
		}
	case actClaim:
		err = w.retry(hard, "claim", func() error { return br.claim(hard, w.gen, p, w.block) })
	case actInsert:
		res.failed, err = w.insert(hard)
	case actAgain:
		res.alive = w.conn.epoch == w.sent
	case actVerify:
		var whose ownership
		if err = w.retry(hard, "read whose block is stored", func() (err error) {
			whose, err = st.owns(hard, w.topic.Type, p, w.block, w.l.owner, w.decided.at, w.doubted())
			return err
		}); err != nil {
			break
		}
		switch whose {
		case mine:
			w.stored()
		case another:
			res.failed = true
			w.log.Warn("another loader stored the block", zap.Int64("from", w.block.from))
		case nobody:
			res.lost = true
			w.withoutRows()
		}
	case actTell:
		err = w.tell(hard)
	case actSettle:
		err = w.retry(hard, "settle", func() error { return br.settle(hard, w.gen, p, w.block.to, w.clean()) })
	}
	if errors.Is(err, errFenced) {
		res.refused, err = true, nil
	}
	return res, err
}

// insert sends the block once. A failure says nothing of what became of it.
func (w *worker) insert(ctx context.Context) (failed bool, err error) {
	start := time.Now()
	w.sent = w.conn.epoch
	err = w.conn.insert(ctx, w.topic.Type, w.position(), w.block, w.cols)
	if err == nil {
		took := time.Since(start)
		w.l.rounds.done(w.position(), time.Now(), took)
		w.l.opt.Metrics.Inserted(took)
		w.wait.reset()
		return false, nil
	}
	if ctx.Err() != nil {
		return true, ctx.Err()
	}
	w.l.opt.Metrics.Retry(w.do.String())
	w.log.Warn("insert failed, trying again", zap.Error(err))
	w.wait.sleep(ctx)
	return true, nil
}

// withoutRows reports that no row of the block is stored, though its insert was acknowledged.
func (w *worker) withoutRows() {
	w.l.opt.Metrics.WithoutRows(w.topic.Topic)
	w.log.Error("ClickHouse took a block for stored and has no row of it: the partition stands still until the rows are restored (replay) and the loader is started again",
		zap.Int64("from", w.block.from), zap.Int64("to", w.block.to))
}

// restore makes the ends of a block out of its stored rows. It finds none where all are erased: they were
// told of then.
func (w *worker) restore(ctx context.Context) (found bool, err error) {
	p := w.position()
	err = w.retry(ctx, "read the block back", func() error {
		stored, err := w.l.store.block(ctx, w.topic.Type, p, w.block)
		if err != nil || len(stored) == 0 {
			return err
		}
		found = true
		w.topic.mu.Lock()
		defer w.topic.mu.Unlock()
		w.decided, err = w.topic.restore(ctx, p, w.block, w.recs, stored)
		return err
	})
	return found, err
}

// tell publishes what a stored block has to tell.
func (w *worker) tell(ctx context.Context) error {
	letters, told := w.decided.letters(w.l.opt.DeadLetterBytes), outcomes(w.decided, w.l.opt.OutcomeSchemaID)
	err := w.retry(ctx, "publish letters", func() error { return publish(ctx, w.l.broker.letters, letters) })
	if err != nil {
		return err
	}
	return w.retry(ctx, "publish outcomes", func() error { return publish(ctx, w.l.broker.outcomes, told) })
}

// awaitOthers waits until all partitions of the topic that this generation has here have learnt.
func (w *worker) awaitOthers(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		w.gate.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// learn makes sure that the filter has the ids that other instances stored so far, and those of the block
// whose views were completed just now.
func (w *worker) learn(ctx context.Context) error {
	t := w.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := w.l.store.clock.sync(ctx, w.l.store); err != nil {
		return err
	}
	notOwner := w.l.owner
	if !t.rebuilt {
		notOwner = 0
	}
	grown, err := w.l.store.grown(ctx, t.Type, t.known) // first: what comes after is tailed
	if err != nil {
		return err
	}
	if err := w.l.store.loadIDs(ctx, t.Type, &t.filter, notOwner); err != nil {
		return err
	}
	t.rebuilt = true
	for partition, g := range grown {
		t.known[partition] = g.to
	}
	if !w.tail {
		return nil
	}
	return w.l.store.loadBlockIDs(ctx, t.Type, w.position(), w.block, &t.filter)
}

// poll is how long a fetch waits for a first record.
const poll = 500 * time.Millisecond

// fetch collects the records of the next block (step 1): until there are enough, or until the first has
// waited for FlushAge. It returns none when ctx ends. Outages of the broker are waited for.
func (w *worker) fetch(ctx context.Context, r *reader, next int64) []wkafka.Record {
	r.Release() // the last block's
	w.drop()
	var (
		age   time.Duration
		recs  = w.recs[:0]
		size  int
		since time.Time
		wait  backoff
	)
	opt := &w.l.opt
	for at := next; ctx.Err() == nil && len(recs) < opt.MaxRecords && size < opt.MaxBytes; {
		patience := poll
		if len(recs) > 0 {
			if w.l.budget.exceeds(opt.MaxInWork) {
				break
			}
			if behind := r.LogEnd() - at; behind >= int64(len(recs)) && w.grow(ctx) {
				since = time.Now() // what follows is there, it only has to be fetched
			}
			if patience = age - time.Since(since); patience <= 0 {
				break
			}
		}
		n := len(recs)
		var err error
		recs, at, err = r.read(ctx, recs, at, 0, opt.MaxRecords, opt.MaxBytes-size, patience)
		if end := r.LogEnd(); end >= 0 {
			w.l.stats.logEnd(w.position(), end)
		}
		if len(recs) > n {
			wait.reset()
			if n == 0 {
				since = time.Now()
				age = w.l.rounds.age(w.position(), since, opt.FlushAge)
			}
			for i := range recs[n:] {
				m := &recs[n+i]
				size += len(m.Key) + len(m.Value) + len(m.HeaderBytes())
			}
			w.hold(size)
		}
		var lost *lostError
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.As(err, &lost):
			w.log.Error("records were lost to the topic's retention; was the loader down for longer than the topic keeps records?",
				zap.Int64("from", lost.from), zap.Int64("to", lost.first))
			w.l.opt.Metrics.Lost(w.topic.Topic, lost.first-lost.from)
			at = lost.first
		case len(recs) > 0:
			return recs // load what is here, meet the fault with the next fetch
		default:
			w.l.opt.Metrics.Retry(w.do.String())
			w.log.Warn("fetch failed, trying again", zap.Error(err))
			wait.sleep(ctx)
		}
	}
	if ctx.Err() != nil {
		return nil // not claimed: the next owner reads them
	}
	return recs
}

// grow takes a place among the large blocks of the topic, once, and waits for it: there may be as many as are
// fetched, decided, stored and told at once, for of a backlog few large blocks cost less than many small ones.
// It tells whether the block took one now.
func (w *worker) grow(ctx context.Context) bool {
	if w.large {
		return false
	}
	select {
	case w.topic.large <- struct{}{}:
		w.large = true
	case <-ctx.Done():
	}
	return w.large
}

// hold says that the records of the block have so many bytes by now.
func (w *worker) hold(size int) {
	w.l.budget.held.Add(int64(size - w.held))
	w.held = size
}

// drop gives up the records of the last block, and its place among those in work.
func (w *worker) drop() {
	clear(w.recs) // nothing may keep what they alias
	w.hold(0)
	if w.large {
		<-w.topic.large
		w.large = false
	}
}

// fetchRange reads the records of a claimed block again.
func (w *worker) fetchRange(ctx context.Context, r *reader, c claim) ([]wkafka.Record, error) {
	r.Release()
	w.drop()
	var recs []wkafka.Record
	at := c.from
	err := w.retry(ctx, "read the claimed block again", func() error {
		for at < c.to {
			before := at
			var err error
			recs, at, err = r.read(ctx, recs, at, c.to, 1<<30, 1<<30, poll)
			var lost *lostError
			if errors.As(err, &lost) {
				at = min(lost.first, c.to)
				continue
			}
			if err != nil {
				return err
			}
			if at == before && r.LogEnd() >= c.to {
				return nil // the broker skips the offsets that are left
			}
		}
		return nil
	})
	return recs, err
}

// retry calls f until it succeeds, is fenced or ctx ends, waiting longer each time.
func (w *worker) retry(ctx context.Context, what string, f func() error) error {
	var wait backoff
	for {
		err := f()
		if err == nil || errors.Is(err, errFenced) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.l.opt.Metrics.Retry(w.do.String())
		w.log.Warn(what+" failed, trying again", zap.Error(err))
		wait.sleep(ctx)
	}
}

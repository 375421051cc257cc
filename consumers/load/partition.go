package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"
)

// worker loads one partition for one generation of the group.
type worker struct {
	l         *Loader
	topic     *topic
	partition int
	gen       *kafka.Generation
	gate      *sync.WaitGroup // counts the partitions of the topic that are not yet taken over
	log       *zap.Logger
}

// run works the partition until its generation ends (ctx), then lets the block in work end.
func (w *worker) run(ctx context.Context) {
	hard, cancel := afterwards(ctx, w.l.opt.DrainTimeout)
	defer cancel()
	r := &reader{b: w.l.broker, p: w.position(), logEnd: -1}
	defer r.close()
	err := w.load(ctx, hard, r)
	switch {
	case err == nil, errors.Is(err, errFenced), ctx.Err() != nil:
	default:
		w.log.Error("partition stopped until the next assignment", zap.Error(err))
	}
}

func (w *worker) position() position { return position{w.topic.Topic, w.partition} }

// load takes the partition over and works it block by block. ctx ends when no new block may begin,
// hard when the one in work must end too.
func (w *worker) load(ctx, hard context.Context, r *reader) error {
	next, err := w.takeOver(ctx, hard, r) // step 0
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		recs := w.fetch(ctx, r, next) // step 1
		if len(recs) == 0 {
			continue
		}
		c := claim{from: next, to: recs[len(recs)-1].Offset + 1}
		if err := w.work(hard, c, recs); err != nil { // steps 2 to 6
			return err
		}
		next = c.to
	}
	return nil
}

// takeOver finds where the partition stands (step 0): the ledger says it, the group's offset only whether
// a block was begun there. That block is ended as it was claimed: told again where it is stored, done
// again with the same bounds, so the same token, where it is not. No partition of the topic decides a
// block before the stored ones of all are whole, for their ids are looked up.
func (w *worker) takeOver(ctx, hard context.Context, r *reader) (next int64, err error) {
	whole := sync.OnceFunc(w.gate.Done)
	defer whole()
	next, pending, err := w.stand(ctx, r)
	if err != nil {
		return 0, err
	}
	p := w.position()
	var stored map[int64]storedEnd
	begun := pending.pending() && pending.to >= next && pending.from <= next
	if begun {
		if err := w.retry(ctx, "read back the claimed block", func() error {
			stored, err = w.l.store.block(ctx, w.topic.Type, p, pending)
			return err
		}); err != nil {
			return 0, err
		}
	}
	if len(stored) > 0 {
		if err := w.retry(ctx, "complete the block's views", func() error { return w.l.store.heal(ctx, w.topic.Type, p, pending) }); err != nil {
			return 0, err
		}
	}
	if err := w.retry(ctx, "learn the ids that are stored", func() error { return w.learn(ctx, pending, len(stored) > 0) }); err != nil {
		return 0, err
	}
	whole()
	if err := w.awaitOthers(ctx); err != nil || !begun {
		return next, err
	}
	recs, err := w.fetchRange(ctx, r, pending)
	if err != nil {
		return 0, err
	}
	if len(stored) > 0 || pending.to == next {
		return pending.to, w.finish(hard, pending, recs, stored)
	}
	if len(recs) == 0 { // retention took them meanwhile
		return next, nil
	}
	return pending.to, w.work(hard, pending, recs)
}

// stand reads the partition's place in the ledger, or where its log begins, and its claim.
func (w *worker) stand(ctx context.Context, r *reader) (next int64, pending claim, err error) {
	p := w.position()
	if err := w.retry(ctx, "take over", func() error {
		if next, err = w.l.store.ledgerEnd(ctx, p); err != nil {
			return err
		}
		pending, err = w.l.broker.committed(ctx, p)
		return err
	}); err != nil || next >= 0 {
		return next, pending, err
	}
	err = w.retry(ctx, "find the start of the log", func() error {
		next, err = w.firstOffset(ctx, r)
		return err
	})
	// A claim further on is of another life: records before it were loaded, and their ledger is gone. The
	// store was emptied, or is another one, and everything is read again.
	return next, pending, err
}

// awaitOthers waits until all partitions of the topic that this generation has here are whole.
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

// finish ends a block that is stored already (steps 5 and 6 again).
func (w *worker) finish(ctx context.Context, c claim, recs []kafka.Message, stored map[int64]storedEnd) error {
	p := w.position()
	if len(stored) == 0 { // all erased since: it was told then
		return w.settle(ctx, c)
	}
	var b *block
	if err := w.retry(ctx, "restore the block", func() (err error) {
		w.topic.mu.Lock()
		defer w.topic.mu.Unlock()
		b, err = w.topic.restore(ctx, p, c, recs, stored)
		return err
	}); err != nil {
		return err
	}
	return w.tell(ctx, b)
}

// learn makes sure that the filter has the ids that other instances stored so far, and those of a block of
// theirs whose views were completed just now.
func (w *worker) learn(ctx context.Context, c claim, healed bool) error {
	t := w.topic
	t.mu.Lock()
	defer t.mu.Unlock()
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
	if !healed {
		return nil
	}
	return w.l.store.loadBlockIDs(ctx, t.Type, w.position(), c, &t.filter)
}

func (w *worker) firstOffset(ctx context.Context, r *reader) (int64, error) {
	if r.conn == nil {
		if err := r.dial(ctx); err != nil {
			return 0, err
		}
	}
	if err := r.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	first, err := r.conn.ReadFirstOffset()
	if err != nil {
		r.close()
		return 0, fmt.Errorf("read first offset of %s/%d: %w", w.topic.Topic, w.partition, err)
	}
	return first, nil
}

// poll is how long a fetch waits for a first record.
const poll = 500 * time.Millisecond

// fetch collects the records of the next block (step 1): until there are enough, or until the first has
// waited for FlushAge. It returns none when ctx ends. Outages of the broker are waited for.
func (w *worker) fetch(ctx context.Context, r *reader, next int64) []kafka.Message {
	var (
		recs  []kafka.Message
		size  int
		since time.Time
		wait  backoff
	)
	opt := &w.l.opt
	for at := next; ctx.Err() == nil && len(recs) < opt.MaxRecords && size < opt.MaxBytes; {
		patience := poll
		if len(recs) > 0 {
			if patience = opt.FlushAge - time.Since(since); patience <= 0 {
				break
			}
		}
		n := len(recs)
		var err error
		recs, err = r.read(ctx, recs, at, 0, opt.MaxRecords, opt.MaxBytes-size, patience)
		if r.logEnd >= 0 {
			w.l.stats.logEnd(w.position(), r.logEnd)
		}
		if len(recs) > n {
			wait.reset()
			if n == 0 {
				since = time.Now()
			}
			at = recs[len(recs)-1].Offset + 1
			for _, m := range recs[n:] {
				size += len(m.Key) + len(m.Value) + 64*len(m.Headers)
			}
		}
		var lost *lostError
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.As(err, &lost):
			w.log.Error("records were lost to the topic's retention; was the loader down for longer than the topic keeps records?",
				zap.Int64("from", lost.from), zap.Int64("to", lost.first))
			at = lost.first
		case len(recs) > 0:
			return recs // load what is here, meet the fault with the next fetch
		default:
			w.log.Warn("fetch failed, trying again", zap.Error(err))
			wait.sleep(ctx)
		}
	}
	if ctx.Err() != nil {
		return nil // not claimed: the next owner reads them
	}
	return recs
}

// fetchRange reads the records of a claimed block again.
func (w *worker) fetchRange(ctx context.Context, r *reader, c claim) ([]kafka.Message, error) {
	var recs []kafka.Message
	at := c.from
	err := w.retry(ctx, "read the claimed block again", func() error {
		for at < c.to {
			n := len(recs)
			var err error
			recs, err = r.read(ctx, recs, at, c.to, 1<<30, 1<<30, poll)
			var lost *lostError
			if errors.As(err, &lost) {
				at = min(lost.first, c.to)
				continue
			}
			if err != nil {
				return err
			}
			if len(recs) > n {
				at = recs[len(recs)-1].Offset + 1
				continue
			}
			if r.logEnd >= c.to {
				return nil // the broker skips the offsets that are left
			}
		}
		return nil
	})
	return recs, err
}

// work brings one block from its records to its settled offset (steps 2 to 6).
func (w *worker) work(ctx context.Context, c claim, recs []kafka.Message) error {
	b, err := w.store(ctx, c, recs)
	if err != nil {
		return err
	}
	w.l.stats.add(w.topic.Topic, b.counts())
	return w.tell(ctx, b)
}

// store decides, claims and inserts a block (steps 2 to 4) with the topic to itself.
func (w *worker) store(ctx context.Context, c claim, recs []kafka.Message) (*block, error) {
	t, p := w.topic, w.position()
	t.mu.Lock()
	defer t.mu.Unlock()
	var b *block
	if err := w.retry(ctx, "decide", func() (err error) { // step 2
		b, err = t.decide(ctx, p, c, recs)
		return err
	}); err != nil {
		return nil, err
	}
	claimed := time.Now()
	if err := w.retry(ctx, "claim", func() error { return w.l.broker.commit(ctx, w.gen, p, c) }); err != nil { // step 3
		return nil, err
	}
	if err := w.retry(ctx, "insert", func() error { return w.l.store.insert(ctx, t.Type, p, c, t.cols) }); err != nil { // step 4
		return nil, err
	}
	if time.Since(claimed) < w.l.opt.SessionTimeout/2 {
		return b, nil // nobody else can have had the partition since the claim
	}
	mine := false
	if err := w.retry(ctx, "read back the block's owner", func() (err error) {
		mine, err = w.l.store.owns(ctx, t.Type, p, c, w.l.owner)
		return err
	}); err != nil {
		return nil, err
	}
	if !mine {
		w.log.Warn("another loader stored the block, stopping", zap.Int64("from", c.from), zap.Int64("to", c.to))
		return nil, errFenced
	}
	return b, nil
}

// tell publishes what a stored block has to tell and settles it (steps 5 and 6).
func (w *worker) tell(ctx context.Context, b *block) error {
	msgs, err := b.messages(w.l.opt.DeadLetterBytes, w.l.opt.OutcomeSchemaID)
	if err != nil {
		return err
	}
	if err := w.retry(ctx, "publish letters and outcomes", func() error { return w.l.broker.produce(ctx, msgs) }); err != nil { // step 5
		return err
	}
	return w.settle(ctx, b.c)
}

// settle commits the end of a block that is stored and told (step 6).
func (w *worker) settle(ctx context.Context, c claim) error {
	done := claim{from: c.to, to: c.to}
	return w.retry(ctx, "settle", func() error { return w.l.broker.commit(ctx, w.gen, w.position(), done) })
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
		w.log.Warn(what+" failed, trying again", zap.Error(err))
		wait.sleep(ctx)
	}
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
)

// DefaultTopic is where Confluent's registry has its state too.
const DefaultTopic = "_schemas"

// Options configure a Server. Zero values take the defaults that the comments give.
type Options struct {
	Cluster      wkafka.Cluster //
	Topic        string         // DefaultTopic
	Replicas     int            // of the topic when it is made; 3, or as many as there are brokers
	Level        Level          // global level until one is configured: FULL_TRANSITIVE
	MaxBodyBytes int64          // 1 MiB; larger requests are refused with 413
	Timeout      time.Duration  // of a request that needs the log, 30 s
	Logger       *zap.Logger    // none
}

// Server is a schema registry over a Kafka topic.
type Server struct {
	opt  Options
	log  topicLog
	zap  *zap.Logger
	stop context.CancelFunc
	done chan struct{} // closed when follow has ended

	writer chan struct{} // holds one token: whoever has it may append

	mu      sync.RWMutex
	state   *state
	applied int64           // offset of the next record to apply
	refused map[int64]error // records in the present append that contradict earlier ones
	changed chan struct{}   // closed and replaced when applied moves or broken is set
	broken  error           // why the log cannot be followed any more
}

// NewServer waits for the brokers, makes the topic if need be, and reads it to its end; it retries until
// ctx ends. A topic that cannot be a registry's is an error at once.
func NewServer(ctx context.Context, opt Options) (*Server, error) {
	if len(opt.Cluster.Brokers) == 0 {
		return nil, errors.New("schema registry needs brokers")
	}
	if opt.Topic == "" {
		opt.Topic = DefaultTopic
	}
	if opt.Logger == nil {
		opt.Logger = zap.NewNop()
	}
	l := newKafkaLog(opt.Cluster, opt.Topic)
	start, wait := time.Now(), backoff(0)
	for {
		err := l.ensure(ctx, opt.Replicas)
		if err == nil {
			break
		}
		if errors.Is(err, errTopic) {
			l.close()
			return nil, fmt.Errorf("start schema registry: %w", err)
		}
		opt.Logger.Warn("schema registry waits for its topic", zap.String("topic", opt.Topic), zap.Error(err))
		if !wait.sleep(ctx) {
			l.close()
			return nil, fmt.Errorf("start schema registry: %w: %w", ctx.Err(), err)
		}
	}
	s, err := newServer(ctx, l, opt)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	opt.Logger.Info("schema registry is ready", zap.String("topic", opt.Topic), zap.Int64("offset", s.applied),
		zap.Int("subjects", len(s.state.subjects)), zap.Int("highest_id", s.state.maxID), zap.Duration("took", time.Since(start)))
	return s, nil
}

// newServer follows a log, and returns when it has read what the log has now.
func newServer(ctx context.Context, l topicLog, opt Options) (*Server, error) {
	if opt.Level == "" {
		opt.Level = FullTransitive
	}
	if opt.MaxBodyBytes == 0 {
		opt.MaxBodyBytes = 1 << 20
	}
	if opt.Timeout == 0 {
		opt.Timeout = 30 * time.Second
	}
	if opt.Logger == nil {
		opt.Logger = zap.NewNop()
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{
		opt: opt, log: l, zap: opt.Logger, stop: stop, done: make(chan struct{}), writer: make(chan struct{}, 1),
		state: newState(opt.Level), changed: make(chan struct{}),
	}
	s.writer <- struct{}{}
	go s.follow(run)
	if err := s.catchUp(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("start schema registry: read its log: %w", err)
	}
	// A new log gets the global level as a record, so that whoever takes it over keeps to it.
	if s.at() == 0 {
		fault := s.write(ctx, func(st *state) ([]record, *Error) { return st.setLevel("", string(opt.Level)) })
		if fault != nil {
			_ = s.Close()
			return nil, fmt.Errorf("start schema registry: write the global level: %w", fault)
		}
	}
	return s, nil
}

// Close stops following the log. Stop serving requests first.
func (s *Server) Close() error {
	s.stop()
	<-s.done
	s.log.close()
	return nil
}

// Ready tells whether the server follows its log. One that does not still answers what it knows, which may
// be old. That the brokers are away does not count: what is known is right meanwhile.
func (s *Server) Ready(context.Context) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.broken
}

// follow applies the log in its order, for ever: this server's records as well as another's. It is the
// only one that changes the state.
func (s *Server) follow(ctx context.Context) {
	defer close(s.done)
	defer func() { s.fail(errClosed) }()
	wait, down := backoff(0), false
	for ctx.Err() == nil {
		recs, next, err := s.log.read(ctx, s.at())
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errTruncated):
			s.zap.Error("schema registry serves what it knows and takes no change; restart it when its topic is whole", zap.Error(err))
			s.fail(err)
			return
		case err != nil:
			if !down {
				s.zap.Warn("schema registry cannot read its log, and retries", zap.Error(err))
			}
			down = true
			if !wait.sleep(ctx) {
				return
			}
			continue
		}
		if down {
			s.zap.Info("schema registry reads its log again", zap.Int64("offset", next))
		}
		wait, down = 0, false
		s.apply(recs, next)
	}
}

// fail ends every wait for the log, now and later; the first reason stands.
func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = err
	}
	s.signalLocked()
}

func (s *Server) apply(recs []logged, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range recs {
		err := s.state.apply(r.key, r.value)
		switch {
		case err == nil:
		case errors.Is(err, errRefused):
			s.zap.Error("schema registry keeps the earlier of two records; is there a second writer?", zap.Int64("offset", r.offset), zap.Error(err))
			if s.refused != nil {
				s.refused[r.offset] = err
			}
		case errors.Is(err, errIgnored):
			s.zap.Debug("schema registry passes over a record", zap.Int64("offset", r.offset), zap.Error(err))
		default:
			s.zap.Warn("schema registry cannot use a record", zap.Int64("offset", r.offset), zap.Error(err))
		}
	}
	if next != s.applied {
		s.applied = next
		s.signalLocked()
	}
}

func (s *Server) signalLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) at() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied
}

// await returns when every record before offset has been applied.
func (s *Server) await(ctx context.Context, offset int64) error {
	for {
		s.mu.RLock()
		applied, broken, changed := s.applied, s.broken, s.changed
		s.mu.RUnlock()
		switch {
		case applied >= offset:
			return nil
		case broken != nil:
			return broken
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for offset %d of the log, which is read up to %d: %w", offset, applied, ctx.Err())
		}
	}
}

// catchUp returns when the state has all that was in the log at the call; it waits out an unreachable
// broker until ctx ends.
func (s *Server) catchUp(ctx context.Context) error {
	wait := backoff(0)
	for {
		end, err := s.log.end(ctx)
		if err == nil {
			s.mu.RLock()
			applied, broken := s.applied, s.broken
			s.mu.RUnlock()
			if broken != nil {
				return broken
			}
			if end < applied {
				return fmt.Errorf("%w: it ends at offset %d, and was read up to %d", errTruncated, end, applied)
			}
			return s.await(ctx, end)
		}
		if !wait.sleep(ctx) {
			return err
		}
	}
}

// write appends what decide asks for, and returns when it is applied. The steps:
//  1. one writer at a time within this process;
//  2. read the log to its end, so that decide sees what others wrote;
//  3. decide, and append with acknowledgement by all replicas;
//  4. apply by reading it back;
//  5. if another process wrote between 2 and 3 and its record contradicts ours, ours is refused, by every
//     reader alike: put the log right for compaction, and decide again.
func (s *Server) write(ctx context.Context, decide func(*state) ([]record, *Error)) *Error {
	// A client that goes away must not leave a change half known.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opt.Timeout)
	defer cancel()
	select {
	case <-s.writer:
		defer func() { s.writer <- struct{}{} }()
	case <-ctx.Done():
		return fail(codeTimeout, "Operation timed out: other changes are waiting for the log")
	}
	wait := backoff(0)
	for {
		if err := s.catchUp(ctx); err != nil {
			return s.storeFault("read", err)
		}
		s.mu.Lock()
		s.refused = map[int64]error{}
		s.mu.Unlock()
		recs, fault := s.decide(decide)
		if fault != nil || len(recs) == 0 {
			return fault
		}
		base, err := s.log.append(ctx, recs)
		switch {
		case errors.Is(err, errTooLarge):
			return fail(codeTooLarge, "Schema is too large for the topic %s; raise its max.message.bytes", s.opt.Topic)
		case errors.Is(err, errNotWritten) && wait.sleep(ctx):
			continue
		case err != nil:
			return s.storeFault("write", err)
		}
		if err := s.await(ctx, base+int64(len(recs))); err != nil {
			return s.storeFault("read", err)
		}
		repair := s.repairs(base, recs)
		if len(repair) == 0 {
			return nil
		}
		if _, err := s.log.append(ctx, repair); err != nil {
			return s.storeFault("repair", err)
		}
	}
}

// decide runs a command on the state, which it only reads.
func (s *Server) decide(command func(*state) ([]record, *Error)) ([]record, *Error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return command(s.state)
}

// repairs returns what makes the log right again after records of ours were refused: compaction keeps
// the last record of a key, so the winner's has to come after ours, or nothing if there is none.
func (s *Server) repairs(base int64, recs []record) []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record
	for i, r := range recs {
		if s.refused[base+int64(i)] == nil {
			continue
		}
		repair := record{key: r.key}
		if k, err := parseKey(r.key); err == nil {
			if at, there := s.state.find(k.subject(), k.Version); there {
				v := s.state.subjects[k.subject()][at]
				repair = v.record(v.deleted)
			}
		}
		out = append(out, repair)
	}
	s.refused = nil
	return out
}

func (s *Server) storeFault(what string, err error) *Error {
	s.zap.Warn("schema registry cannot use its log", zap.String("what", what), zap.Error(err))
	if errors.Is(err, context.DeadlineExceeded) {
		return fail(codeTimeout, "Operation timed out; the change may have been made: cannot %s the log", what)
	}
	return fail(codeStore, "Error in the backend data store: cannot %s the log; if it was a change, it may have been made", what)
}

// backoff counts failures in a row and sleeps longer after each, up to 2 s.
type backoff int

func (b *backoff) sleep(ctx context.Context) bool {
	d := min(50*time.Millisecond<<min(int(*b), 6), 2*time.Second)
	*b++
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

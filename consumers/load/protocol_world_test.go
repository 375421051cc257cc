package load

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/welfarehub/welfarehub/pkg/record"
)

// The world in which protocol_test.go runs the protocol: a log, a group, a store with its views, and
// processes that share nothing but these. It is the plain model of what Kafka and ClickHouse promise.

// simRecord is a record of the log.
type simRecord struct {
	id, content int
	poison      bool
}

// simRow is a stored row: the end of one record.
type simRow struct {
	offset      int64
	end         record.End
	id, content int
}

// simBlock is a block as an owner decided it.
type simBlock struct {
	partition int
	claim
	owner  int // process
	gen    int
	serial int // tells decisions apart
	stored int // when
	epoch  int // life of the engine that it was inserted in
	rows   []simRow
}

type simKnown struct {
	partition int
	offset    int64
	content   int
}

// simStore is the table with the two views that the loader reads, each of which knows its tokens. While the
// engine lives a token and its rows come at once, to whoever looks; its death may leave one of them.
type simStore struct {
	rowsFirst bool // whether the engine stores a token after its rows; else before
	tokens    map[string]bool
	table     []*simBlock
	ledger    []*simBlock
	ids       map[int][]simKnown
	epoch     int // lives of the engine: a connection ends with the life that it began in
	inflight  []*simInsert
}

// simInsert is an insert under way, perhaps one whose sender gave up waiting.
type simInsert struct {
	block *simBlock
	token string
	to    []string // what it has not come to
}

func newInsert(b *simBlock, token string, idsFirst bool) *simInsert {
	if idsFirst {
		return &simInsert{b, token, []string{"table", "ids", "ledger"}}
	}
	return &simInsert{b, token, []string{"table", "ledger", "ids"}}
}

// step goes on with an insert: into the table or a view, unless that knows the token.
func (s *simStore) step(in *simInsert, how simStep, now int) {
	to := in.to[0]
	in.to = in.to[1:]
	token := to + " " + in.token
	if s.tokens[token] {
		return
	}
	if how != rowsOnly {
		s.tokens[token] = true
	}
	if how != tokenOnly {
		s.put(to, in.block, now)
	}
}

// simStep is what a step leaves.
type simStep int

const (
	whole simStep = iota
	tokenOnly
	rowsOnly
)

// half is what a step leaves in which the engine dies.
func (s *simStore) half() simStep {
	if s.rowsFirst {
		return rowsOnly
	}
	return tokenOnly
}

// put stores the rows of a block that are not there.
func (s *simStore) put(to string, b *simBlock, now int) {
	switch to {
	case "table":
		b.stored = now
		s.table = append(s.table, b)
	case "ledger":
		s.ledger = append(s.ledger, b)
	case "ids":
		for _, r := range b.rows {
			if r.end == record.Loaded {
				s.ids[r.id] = append(s.ids[r.id], simKnown{b.partition, r.offset, r.content})
			}
		}
	}
}

// insert does the first n of six half steps of an insert, in the order of the engine: the table, then the views.
// The last is left as it says, if it is half.
func (s *simStore) insert(in *simInsert, n int, how simStep, now int) {
	s.finish(in, now)
	for ; n > 1; n -= 2 {
		s.step(in, whole, now)
	}
	if n == 1 {
		s.step(in, how, now)
	}
}

// finish lets another insert with the token of one that begins, which is beyond the table, come to its end. Where
// the two meet between the table and its views the ledger may count the second: it is a limit of the protocol.
func (s *simStore) finish(in *simInsert, now int) {
	for _, o := range s.inflight {
		for o != in && o.token == in.token && len(o.to) < 3 && len(o.to) > 0 && o.block.serial != in.block.serial {
			s.step(o, whole, now)
		}
	}
	s.inflight = slices.DeleteFunc(s.inflight, func(o *simInsert) bool { return len(o.to) == 0 })
}

// die ends a life of the engine, and the inserts that it does. One of them may be in the middle of a step, for
// a table takes one at a time.
func (s *simStore) die(rng *rand.Rand, now int) {
	if n := len(s.inflight); n > 0 && rng.IntN(2) == 0 {
		s.step(s.inflight[rng.IntN(n)], s.half(), now)
	}
	s.epoch++
	s.inflight = nil
}

// lacks tells which views have not all rows of a block.
func (s *simStore) lacks(b *simBlock) (views []string) {
	if s.booked(b.partition, b.from) == nil {
		views = append(views, "ledger")
	}
	for _, r := range b.rows {
		if r.end == record.Loaded && !slices.Contains(s.ids[r.id], simKnown{b.partition, r.offset, r.content}) {
			return append(views, "ids")
		}
	}
	return views
}

// booked is the block of the ledger that begins at an offset.
func (s *simStore) booked(partition int, from int64) *simBlock {
	for _, b := range s.ledger {
		if b.partition == partition && b.from == from {
			return b
		}
	}
	return nil
}

// end is the end of a partition's ledger, -1 where it has nothing, and the last block.
func (s *simStore) end(partition int) (int64, *simBlock) {
	end, last := int64(-1), (*simBlock)(nil)
	for _, b := range s.ledger {
		if b.partition == partition && b.to > end {
			end, last = b.to, b
		}
	}
	return end, last
}

// at is the stored block of a partition that begins at an offset.
func (s *simStore) at(partition int, from int64) *simBlock {
	for _, b := range s.table {
		if b.partition == partition && b.from == from {
			return b
		}
	}
	return nil
}

// simCommit is a group offset with its mark.
type simCommit struct {
	offset int64
	mark   string
}

// simProcess is one life of a loader.
type simProcess struct {
	owner   int
	paused  bool
	filter  map[int]bool
	workers []*simWorker
	turns   []*simWorker // whose blocks wait for the store
}

// simWorker is the protocol of one partition in one generation.
type simWorker struct {
	protocol
	in        *simProcess
	partition int
	gen       int
	block     *simBlock
	waiting   []int // rows that are to be resolved
	epoch     int   // of its connection
	began     int   // epoch of the takeover
	heal      *simHeal
	looking   int // when it looked for the last block of an earlier owner
	looked    int // the same, once the filter has its ids; 0: not yet
	learned   int // when it brought the filter up to date; 0: not yet
}

// simHeal is how far a worker is with the views of a block.
type simHeal struct {
	epoch   int // of its connection
	lacking []string
	n       int // tries
}

// simWorld is all of it.
type simWorld struct {
	rng       *rand.Rand
	mutant    string
	now       int
	log       [][]simRecord
	start     []int64
	committed []simCommit
	gen       int
	owns      []*simProcess // by partition, in this generation
	store     simStore
	procs     []*simProcess
	owners    int
	serials   int
	told      []map[int64]record.End
	trace     []string
	faults    int         // that may still come
	throws    bool        // an insert may fail with the token of the table taken, while the engine lives on
	burnt     bool        // one did; then no engine dies, for what the views make of both is a limit of the protocol
	stopped   map[int]int // by partition: generation in which it was stopped
}

func newSimWorld(rng *rand.Rand, mutant string) *simWorld {
	w := &simWorld{rng: rng, mutant: mutant, faults: 4 + rng.IntN(16), throws: rng.IntN(16) == 0, stopped: map[int]int{}}
	w.store = simStore{tokens: map[string]bool{}, ids: map[int][]simKnown{}, rowsFirst: rng.IntN(4) == 0}
	partitions := 1 + rng.IntN(3)
	for range partitions {
		w.log = append(w.log, nil)
		w.told = append(w.told, map[int64]record.End{})
		w.committed = append(w.committed, simCommit{offset: -1})
		w.start = append(w.start, int64(rng.IntN(2)*rng.IntN(3)))
	}
	w.owns = make([]*simProcess, partitions)
	for p := range partitions {
		n := 1 + rng.IntN(12)
		for range n {
			r := simRecord{id: rng.IntN(10), poison: rng.IntN(12) == 0}
			if rng.IntN(6) == 0 {
				r.content = 1
			}
			w.log[p] = append(w.log[p], r)
		}
	}
	for range 1 + rng.IntN(3) {
		w.begin()
	}
	w.rebalance()
	return w
}

func (w *simWorld) say(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%4d ", w.now)+fmt.Sprintf(format, args...))
}

// begin starts a process.
func (w *simWorld) begin() {
	w.owners++
	w.procs = append(w.procs, &simProcess{owner: w.owners, filter: map[int]bool{}})
}

// rebalance begins a generation among the processes that are awake. Their old workers end wherever they
// are; those of sleepers stay, and do not know.
func (w *simWorld) rebalance() {
	w.gen++
	var awake []*simProcess
	for _, p := range w.procs {
		if !p.paused {
			p.workers, p.turns = nil, nil
			awake = append(awake, p)
		}
	}
	w.say("generation %d of %d processes", w.gen, len(awake))
	for i := range w.owns {
		w.owns[i] = nil
		if len(awake) == 0 {
			continue
		}
		p := awake[w.rng.IntN(len(awake))]
		w.owns[i] = p
		p.workers = append(p.workers, &simWorker{protocol: newProtocol(), in: p, partition: i, gen: w.gen})
	}
}

// lonely tells whether nobody else can store a block where a worker does. Only then an engine that lives on may
// leave a block half stored: what another one makes of its views is a limit of the protocol.
func (w *simWorld) lonely(k *simWorker) bool {
	for _, in := range w.store.inflight {
		if in.block.partition == k.partition {
			return false
		}
	}
	for _, p := range w.procs {
		for _, o := range p.workers {
			if o != k && o.partition == k.partition && o.do != actStop {
				return false
			}
		}
	}
	return true
}

// commit is what the group's coordinator does.
func (w *simWorld) commit(by *simWorker, c simCommit) (refused bool) {
	if by.gen != w.gen {
		return true
	}
	w.committed[by.partition] = c
	return false
}

// ready tells whether a worker's action can be done now.
func (w *simWorld) ready(k *simWorker) bool {
	switch {
	case k.in.paused, k.do == actStop:
		return false
	case k.alone() && w.mutant != "topic not alone":
		return k.in.turns[0] == k || w.mutant == "turns in any order"
	case k.do == actGather:
		return w.mutant == "topic not gathered" || !slices.ContainsFunc(k.in.workers, func(o *simWorker) bool { return o.learned == 0 && o.do != actStop })
	case k.do == actFetch:
		return max(k.next, w.start[k.partition]) < int64(len(w.log[k.partition]))+w.start[k.partition]
	}
	return true
}

// record is the record at an offset.
func (w *simWorld) record(partition int, offset int64) (simRecord, bool) {
	i := offset - w.start[partition]
	if i < 0 {
		return simRecord{}, false
	}
	return w.log[partition][i], true
}

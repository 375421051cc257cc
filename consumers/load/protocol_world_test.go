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
	serial int // tells decisions apart
	stored int // when
	rows   []simRow
}

type simKnown struct {
	partition int
	offset    int64
	content   int
}

// simStore is the table with the two views that the loader reads, each of which knows its tokens.
type simStore struct {
	tokens   map[string]bool
	table    []*simBlock
	ledger   []*simBlock
	ids      map[int][]simKnown
	epoch    int // lives of the engine: a connection ends with the life that it began in
	inflight []simInsert
}

// simInsert is an insert whose sender gave up waiting; it may still be done.
type simInsert struct {
	block *simBlock
	epoch int
}

// insert does the first n of its three steps, in the order of the engine: the table, then the views.
func (s *simStore) insert(b *simBlock, token string, idsFirst bool, n, now int) {
	steps := []string{"table", "ledger", "ids"}
	if idsFirst {
		steps = []string{"table", "ids", "ledger"}
	}
	for _, to := range steps[:n] {
		t := to + " " + token
		if s.tokens[t] {
			continue
		}
		s.tokens[t] = true
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
	looked    int   // when it looked for the last block of an earlier owner; 0: not yet
	learned   int   // when it brought the filter up to date; 0: not yet
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
	faults    int // that may still come
}

func newSimWorld(rng *rand.Rand, mutant string) *simWorld {
	w := &simWorld{rng: rng, mutant: mutant, store: simStore{tokens: map[string]bool{}, ids: map[int][]simKnown{}}, faults: 4 + rng.IntN(16)}
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
		return w.mutant == "topic not gathered" || !slices.ContainsFunc(k.in.workers, func(o *simWorker) bool { return o.learned == 0 })
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

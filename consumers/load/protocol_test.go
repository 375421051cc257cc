package load

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/record"
)

var (
	schedules = flag.Int("schedules", 20_000, "schedules of the protocol to run")
	schedule  = flag.Uint64("schedule", 0, "run only this schedule, and print what it does")
)

// TestProtocolUnderFaults runs the protocol through random schedules of crashes at every step, lost
// replies, inserts that come late, engines that die between the table and its views, zombies, rebalances
// and group offsets that are moved by hand. Each ends quiet, and then all must be as promised.
func TestProtocolUnderFaults(t *testing.T) {
	if *schedule != 0 {
		w, err := runSchedule(*schedule, "")
		for _, line := range w.trace {
			t.Log(line)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	faults := map[string]int{}
	for seed := uint64(1); seed <= uint64(*schedules); seed++ {
		w, err := runSchedule(seed, "")
		if err != nil {
			t.Fatalf("schedule %d: %v\nrun it alone: go test ./consumers/load -run ProtocolUnderFaults -v -args -schedule %d", seed, err, seed)
		}
		for _, line := range w.trace {
			if _, fault, ok := strings.Cut(line, "FAULT "); ok {
				faults[fault]++
			}
		}
	}
	for _, fault := range []string{"crash", "lost reply", "late insert", "late insert done", "engine dies after 0", "engine dies after 1", "engine dies after 2", "sleep", "wake", "rebalance", "offset moved"} {
		if faults[fault] < *schedules/50 {
			t.Errorf("%d schedules met %q %d times only", *schedules, fault, faults[fault])
		}
	}
}

// mutants are ways to get the protocol wrong, with a schedule that shows it, for the rare ones.
var mutants = []struct {
	name  string
	first uint64
}{
	{name: positionFromTheGroup},
	{name: "token with the end too"},
	{name: "token of each attempt"},
	{name: "not verified"},
	{name: "not healed"},
	{name: "healed ids not learned"},
	{name: "topic not gathered"},
	{name: "topic not alone"},
	{name: "turns in any order"},
	{name: "filter not rebuilt"},
	{name: "settled without a mark"},
	{name: "always clean", first: 357705},
	{name: "tail by the ledger only"},
	{name: "told before the insert"},
	{name: "settled before it is told"},
	{name: "refusals not heard"},
	{name: "insert again without a claim"},
	{name: "decided again after a failed insert"},
	{name: "connection after the claim", first: 20623},
	{name: "first insert over any connection", first: 41610},
}

const positionFromTheGroup = "position from the group, settled before the insert"

// TestProtocolMutantsAreCaught shows that the schedules find faults: each of the mutants.
func TestProtocolMutantsAreCaught(t *testing.T) {
	const limit = 400_000
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			if m.first > 0 {
				if _, err := runSchedule(m.first, m.name); err != nil {
					t.Logf("schedule %d: %v", m.first, err)
					return
				}
			}
			for seed := uint64(1); seed <= limit; seed++ {
				if _, err := runSchedule(seed, m.name); err != nil {
					t.Logf("schedule %d: %v", seed, err)
					return
				}
			}
			t.Errorf("%d schedules did not find it", limit)
		})
	}
}

// runSchedule runs one schedule with faults, then to the end without, and checks what became of it.
func runSchedule(seed uint64, mutant string) (w *simWorld, err error) {
	w = newSimWorld(rand.New(rand.NewPCG(seed, 7)), mutant)
	defer func() {
		if f, ok := recover().(simFault); ok {
			err = f
		}
	}()
	for steps := 0; w.faults > 0 && steps < 400; steps++ {
		w.now++
		if w.rng.IntN(8) == 0 {
			w.fault()
			continue
		}
		w.step(true)
	}
	// Quiet: sleepers wake, and everything goes on until nothing is left to do.
	for _, p := range w.procs {
		p.paused = false
	}
	if len(w.procs) == 0 {
		w.begin()
	}
	for range 40 {
		w.now++
		w.step(false) // zombies first do what they were about to
	}
	w.rebalance()
	for idle := 0; idle < 3; {
		w.now++
		if w.now > 5000 {
			return w, simFault("it does not come to an end")
		}
		if w.step(false) {
			idle = 0
		} else {
			idle++
		}
	}
	return w, w.check()
}

// simFault is a broken promise.
type simFault string

func (f simFault) Error() string { return string(f) }

func broken(format string, args ...any) { panic(simFault(fmt.Sprintf(format, args...))) }

// fault lets something go wrong that is nobody's action.
func (w *simWorld) fault() {
	w.faults--
	switch w.rng.IntN(7) {
	case 0:
		if len(w.procs) == 0 {
			return
		}
		i := w.rng.IntN(len(w.procs))
		w.say("process %d: FAULT crash", w.procs[i].owner)
		w.procs = slices.Delete(w.procs, i, i+1)
		w.begin()
		w.rebalance()
	case 1:
		if len(w.procs) == 0 {
			return
		}
		p := w.procs[w.rng.IntN(len(w.procs))]
		if p.paused {
			w.say("process %d: FAULT wake", p.owner)
			p.paused = false // its workers do not know yet that they are of the past
			return
		}
		w.say("process %d: FAULT sleep", p.owner)
		p.paused = true
		if w.rng.IntN(3) > 0 {
			if w.rng.IntN(2) == 0 {
				w.begin()
			}
			w.rebalance()
		}
	case 2:
		w.say("FAULT rebalance")
		w.rebalance()
	case 3:
		p := w.rng.IntN(len(w.log))
		w.committed[p] = simCommit{offset: int64(w.rng.IntN(len(w.log[p])+2)) - 1}
		w.say("partition %d: offset %d: FAULT offset moved", p, w.committed[p].offset)
	case 4:
		w.say("FAULT engine dies after 0")
		w.store.die()
	default:
		w.faults++
		w.late()
	}
}

func (s *simStore) die() {
	s.epoch++
	s.inflight = nil
}

// late does an insert that somebody gave up.
func (w *simWorld) late() {
	if len(w.store.inflight) == 0 {
		return
	}
	i := w.rng.IntN(len(w.store.inflight))
	in := w.store.inflight[i]
	w.store.inflight = slices.Delete(w.store.inflight, i, i+1)
	if in.epoch != w.store.epoch && w.mutant != "connection after the claim" {
		return
	}
	w.say("block %s of %d: FAULT late insert done", in.block, in.block.owner)
	w.store.insert(in.block, w.token(in.block), w.rng.IntN(2) == 0, 3, w.now)
}

func (b *simBlock) String() string { return fmt.Sprintf("%d/%d-%d", b.partition, b.from, b.to) }

// token is the name of a block: its partition and its beginning.
func (w *simWorld) token(b *simBlock) string {
	switch w.mutant {
	case "token with the end too":
		return b.String()
	case "token of each attempt":
		w.serials++
		return strconv.Itoa(w.serials)
	}
	return fmt.Sprintf("%d/%d", b.partition, b.from)
}

// step lets one worker do its action, with a fault in it where faulty allows it. It is false where none can.
func (w *simWorld) step(faulty bool) bool {
	var ready []*simWorker
	for _, p := range w.procs {
		for _, k := range p.workers {
			if w.ready(k) {
				ready = append(ready, k)
			}
		}
	}
	if len(ready) == 0 {
		return false
	}
	k := ready[w.rng.IntN(len(ready))]
	mode := ok
	if faulty && w.rng.IntN(6) == 0 {
		mode = lostReply
		if k.do == actInsert {
			mode = []int{lostReply, lateInsert, engineDies}[w.rng.IntN(3)]
		}
	}
	w.perform(k, mode)
	return true
}

// How an action goes.
const (
	ok         = iota
	lostReply  // done, but its worker does not learn of it and does it again
	lateInsert // given up, and perhaps done later
	engineDies // in the middle
)

// perform does a worker's action.
func (w *simWorld) perform(k *simWorker, mode int) {
	var r result
	do, p, s := k.do, k.partition, &w.store
	if k.connection() || w.mutant == "first insert over any connection" && do == actClaim {
		k.epoch = s.epoch
	}
	switch do {
	case actPosition:
		var last *simBlock
		r.offset, last = s.end(p)
		c := w.committed[p]
		r.settled = last != nil && c.offset == r.offset && (c.mark == "settled" || w.mutant == "settled without a mark")
		if w.mutant == positionFromTheGroup && c.offset >= 0 {
			r.offset, r.settled = c.offset, true
		}
		if r.settled {
			k.looked = w.now
		}
	case actTail:
		end, last := s.end(p)
		if w.mutant != "tail by the ledger only" {
			for _, b := range s.table {
				if b.partition == p && b.from >= end {
					last = b
				}
			}
		}
		if last != nil {
			r.block = last.claim
		}
		k.looked = w.now
	case actHeal:
		if b := s.at(p, k.protocol.block.from); b != nil && w.mutant != "not healed" {
			s.insert(b, w.token(b), w.rng.IntN(2) == 0, 3, w.now)
		}
	case actStart:
		r.offset = w.start[p]
	case actLearn:
		if w.mutant != "filter not rebuilt" {
			for id, at := range s.ids {
				if w.mutant == "healed ids not learned" && k.tail {
					at = slices.DeleteFunc(slices.Clone(at), func(x simKnown) bool { return x.partition == p && x.offset >= k.protocol.block.from })
				}
				if len(at) > 0 {
					k.in.filter[id] = true
				}
			}
		}
		k.learned = w.now
	case actRefetch:
	case actRestore:
		k.block = s.at(p, k.protocol.block.from)
		r.found = k.block != nil
	case actFetch:
		end := int64(len(w.log[p])) + w.start[p]
		from := max(k.next, w.start[p])
		r.offset = from + 1 + w.rng.Int64N(min(4, end-from))
	case actDecide:
		w.decide(k)
		if !slices.Contains(k.in.turns, k) {
			k.in.turns = append(k.in.turns, k)
		}
	case actResolve:
		w.resolve(k)
	case actClaim:
		if w.mutant == positionFromTheGroup {
			w.commit(k, simCommit{k.protocol.block.to, "settled"})
			break
		}
		if w.mutant == "told before the insert" {
			w.tell(k)
		}
		r.refused = w.commit(k, simCommit{k.protocol.block.from, "block"}) && w.mutant != "refusals not heard"
	case actInsert:
		r.failed = w.insert(k, mode)
		mode = ok // its faults are in its result
	case actVerify:
		b := s.at(p, k.block.from)
		r.failed = (b == nil || b.serial != k.block.serial) && w.mutant != "not verified"
	case actTell:
		if w.mutant == "settled before it is told" {
			w.commit(k, simCommit{k.protocol.block.to, "settled"})
			break
		}
		w.tell(k)
	case actSettle:
		mark := "told"
		if k.clean() || w.mutant == "always clean" {
			mark = "settled"
		}
		r.refused = w.commit(k, simCommit{k.protocol.block.to, mark}) && w.mutant != "refusals not heard"
		if w.mutant == "settled before it is told" && !r.refused && mode == ok {
			w.tell(k)
		}
	}
	w.say("process %d: partition %d generation %d: %s %+v", k.in.owner, p, k.gen, do, r)
	if mode == lostReply {
		w.say("FAULT lost reply")
		return
	}
	k.advance(r)
	if w.mutant == "insert again without a claim" && do == actInsert && r.failed {
		k.do, k.epoch = actInsert, s.epoch
	}
	if w.mutant == "decided again after a failed insert" && do == actInsert && r.failed {
		k.do = actDecide
	}
	if !k.alone() {
		k.in.turns = slices.DeleteFunc(k.in.turns, func(o *simWorker) bool { return o == k })
	}
}

// insert sends a block over the connection that was made before the claim.
func (w *simWorld) insert(k *simWorker, mode int) (failed bool) {
	s, idsFirst := &w.store, w.rng.IntN(2) == 0
	if k.epoch != s.epoch && w.mutant != "connection after the claim" {
		return true
	}
	copied := *k.block
	switch mode {
	case lateInsert:
		w.say("FAULT late insert")
		s.inflight = append(s.inflight, simInsert{&copied, s.epoch})
		return true
	case engineDies:
		n := w.rng.IntN(3)
		w.say("FAULT engine dies after %d", n)
		s.insert(&copied, w.token(&copied), idsFirst, n, w.now)
		s.die()
		return true
	case lostReply:
		w.say("FAULT lost reply")
		s.insert(&copied, w.token(&copied), idsFirst, 3, w.now)
		return true
	}
	s.insert(&copied, w.token(&copied), idsFirst, 3, w.now)
	return false
}

// decide reads the records of the block, as topic.decide does.
func (w *simWorld) decide(k *simWorker) {
	w.serials++
	b := &simBlock{partition: k.partition, claim: k.protocol.block, owner: k.in.owner, serial: w.serials}
	k.waiting = nil
	for at := b.from; at < b.to; at++ {
		rec, there := w.record(k.partition, at)
		if !there {
			continue // retention took it
		}
		row := simRow{offset: at, end: record.Loaded, id: rec.id, content: rec.content}
		switch {
		case rec.poison:
			row.end = record.Rejected
		case k.in.filter[rec.id]:
			k.waiting = append(k.waiting, len(b.rows))
		default:
			w.mustBeNew(k, rec.id)
			k.in.filter[rec.id] = true
		}
		b.rows = append(b.rows, row)
	}
	k.block = b
}

// resolve ends the records whose ids the filter had, as topic.resolve does.
func (w *simWorld) resolve(k *simWorker) {
	here := map[int]simKnown{}
	for i, r := range k.block.rows {
		if r.end == record.Loaded && !slices.Contains(k.waiting, i) {
			here[r.id] = simKnown{k.partition, r.offset, r.content}
		}
	}
	for _, i := range k.waiting {
		r := &k.block.rows[i]
		known, seen := here[r.id]
		if !seen {
			for _, x := range w.store.ids[r.id] {
				if !seen || x.partition < known.partition || x.partition == known.partition && x.offset < known.offset {
					known, seen = x, true
				}
			}
		}
		switch {
		case !seen:
			w.mustBeNew(k, r.id)
			here[r.id] = simKnown{k.partition, r.offset, r.content}
		case known.content == r.content:
			r.end = record.Duplicate
		default:
			r.end = record.Rejected
		}
	}
}

// mustBeNew checks that no stored row has an id that is taken for new, save those that a process cannot
// know: what others stored since it looked for their last blocks, or in partitions that it has not.
func (w *simWorld) mustBeNew(k *simWorker, id int) {
	if k.gen != w.gen {
		return // a zombie decides what it likes: its block counts only where it wins
	}
	for _, b := range w.store.table {
		if w.owns[b.partition] != k.in {
			continue
		}
		for _, o := range k.in.workers {
			if o.partition != b.partition || b.owner != k.in.owner && (o.looked == 0 || b.stored > o.looked) {
				continue
			}
			for _, r := range b.rows {
				if r.id == id && r.end == record.Loaded {
					broken("process %d takes id %d for new at partition %d, and has it in block %s", k.in.owner, id, k.partition, b)
				}
			}
		}
	}
}

// tell publishes the ends of the block in work. A message may come again, and never another.
func (w *simWorld) tell(k *simWorker) {
	for _, r := range k.block.rows {
		if before, told := w.told[k.partition][r.offset]; told && before != r.end {
			broken("partition %d offset %d is told as %s and as %s", k.partition, r.offset, before, r.end)
		}
		w.told[k.partition][r.offset] = r.end
	}
}

// check compares what is stored with what the log holds, when all is quiet.
func (w *simWorld) check() error {
	loaded := map[int][]simKnown{}
	for p := range w.log {
		end := w.start[p] + int64(len(w.log[p]))
		rows := map[int64]simRow{}
		for _, b := range w.store.table {
			if b.partition != p {
				continue
			}
			for _, r := range b.rows {
				if _, twice := rows[r.offset]; twice {
					return simFault(fmt.Sprintf("partition %d offset %d is stored twice", p, r.offset))
				}
				rows[r.offset] = r
				if r.end == record.Loaded {
					loaded[r.id] = append(loaded[r.id], simKnown{p, r.offset, r.content})
				}
			}
		}
		for at := w.start[p]; at < end; at++ {
			r, stored := rows[at]
			if !stored {
				return simFault(fmt.Sprintf("partition %d offset %d is not stored", p, at))
			}
			if told, any := w.told[p][at]; !any || told != r.end {
				return simFault(fmt.Sprintf("partition %d offset %d is stored as %s and told as %q", p, at, r.end, told))
			}
		}
		if err := w.checkLedger(p, end); err != nil {
			return err
		}
		if c := w.committed[p]; c.offset != end && len(w.log[p]) > 0 {
			return simFault(fmt.Sprintf("partition %d: group offset %+v, log end %d", p, c, end))
		}
	}
	for p := range w.log {
		for i, rec := range w.log[p] {
			if !rec.poison && len(loaded[rec.id]) == 0 {
				return simFault(fmt.Sprintf("partition %d offset %d: id %d is loaded nowhere", p, int64(i)+w.start[p], rec.id))
			}
		}
	}
	order := func(a, b simKnown) int { return (a.partition-b.partition)*1000 + int(a.offset-b.offset) }
	for id := range 10 {
		have, want := slices.Clone(w.store.ids[id]), loaded[id]
		slices.SortFunc(have, order)
		slices.SortFunc(want, order)
		if !slices.Equal(have, want) {
			return simFault(fmt.Sprintf("id %d: known at %v, loaded at %v", id, have, want))
		}
	}
	return nil
}

// checkLedger follows the chain of a partition's blocks.
func (w *simWorld) checkLedger(p int, end int64) error {
	var blocks []*simBlock
	for _, b := range w.store.ledger {
		if b.partition == p {
			blocks = append(blocks, b)
		}
	}
	slices.SortFunc(blocks, func(a, b *simBlock) int { return int(a.from - b.from) })
	at := w.start[p]
	for _, b := range blocks {
		if b.from != at {
			return simFault(fmt.Sprintf("partition %d: the ledger goes from %d to %d", p, at, b.from))
		}
		if stored := w.store.at(p, b.from); stored == nil || stored.serial != b.serial {
			return simFault(fmt.Sprintf("partition %d: the ledger counts another block at %d than is stored", p, b.from))
		}
		at = b.to
	}
	if at != end {
		return simFault(fmt.Sprintf("partition %d: the ledger ends at %d, the log at %d", p, at, end))
	}
	return nil
}

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
	for _, fault := range []string{"crash", "lost reply", "late insert", "late insert done", "engine dies after 0", "engine dies after 1", "engine dies after 2", "engine dies after 3", "engine dies after 5", "engine throws after 3", "engine throws after 1", "engine dies in a heal after 1", "sleep", "wake", "rebalance", "offset moved"} {
		if faults[fault] < *schedules/200 {
			t.Errorf("%d schedules met %q %d times only", *schedules, fault, faults[fault])
		}
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
		if w.burnt {
			return
		}
		w.say("FAULT engine dies after 0")
		w.store.die(w.rng, w.now)
	default:
		w.faults++
		w.late()
	}
}

// late goes on with an insert that somebody gave up.
func (w *simWorld) late() {
	if len(w.store.inflight) == 0 {
		return
	}
	i := w.rng.IntN(len(w.store.inflight))
	in := w.store.inflight[i]
	w.say("block %s of %d: late, %s", in.block, in.block.owner, in.to[0])
	w.store.finish(in, w.now)
	w.store.step(in, whole, w.now)
	if len(in.to) == 0 {
		w.say("block %s of %d: FAULT late insert done", in.block, in.block.owner)
		w.store.inflight = slices.DeleteFunc(w.store.inflight, func(o *simInsert) bool { return o == in })
	}
}

func (b *simBlock) String() string { return fmt.Sprintf("%d/%d-%d", b.partition, b.from, b.to) }

// token is the name of a block: its partition, its beginning, and the life of the engine.
func (w *simWorld) token(b *simBlock) string {
	switch w.mutant {
	case "token with the end too":
		return fmt.Sprintf("%s/%d", b, b.epoch)
	case "token of each attempt":
		w.serials++
		return strconv.Itoa(w.serials)
	case "token without the epoch", withoutEpochs:
		return fmt.Sprintf("%d/%d", b.partition, b.from)
	}
	return fmt.Sprintf("%d/%d/%d", b.partition, b.from, b.epoch)
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
	oneIn := 6
	if k.do == actInsert || k.do == actHeal {
		oneIn = 3
	}
	if faulty && w.rng.IntN(oneIn) == 0 {
		mode = lostReply
		switch k.do {
		case actInsert:
			mode = []int{lostReply, lateInsert, engineDies, engineThrows}[w.rng.IntN(4)]
		case actHeal:
			mode = []int{lostReply, engineDies, engineThrows}[w.rng.IntN(3)]
		}
		if mode == engineDies && w.burnt || mode == engineThrows && !w.lonely(k) {
			mode = lostReply
		}
	}
	w.perform(k, mode)
	return true
}

// How an action goes.
const (
	ok           = iota
	lostReply    // done, but its worker does not learn of it and does it again
	lateInsert   // given up, and perhaps done later
	engineDies   // in the middle
	engineThrows // in the middle, and lives on
)

// perform does a worker's action.
func (w *simWorld) perform(k *simWorker, mode int) {
	var r result
	do, p, s := k.do, k.partition, &w.store
	if k.connection() || w.mutant == "first insert over any connection" && do == actClaim || w.mutant == "connection after the claim" && do == actInsert {
		k.epoch = s.epoch
	}
	if do == actPosition {
		k.began = s.epoch
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
			w.look(k)
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
		w.look(k)
	case actHeal:
		b := s.at(p, k.protocol.block.from)
		if b == nil {
			r.lost = w.mutant != "lost blocks passed over" && w.mutant != withoutEpochs
			break
		}
		if w.mutant != "not healed" && !w.heal(k, b, mode) {
			return
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
		k.learned, k.looked = w.now, k.looking
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
	case actAgain:
		r.alive = k.block.epoch == k.epoch || w.mutant == "claimed again after a failed insert" || w.mutant == withoutEpochs && k.begun
		if w.mutant == "taken over after each failed insert" {
			r.alive = false
		}
	case actVerify:
		b := s.booked(p, k.block.from)
		if k.doubted() && w.mutant != "ledger believed" && w.mutant != withoutEpochs {
			b = s.at(p, k.block.from)
			r.lost = b == nil
		}
		r.failed = b != nil && b.serial != k.block.serial && w.mutant != "not verified"
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
	if r.lost {
		w.stopped[p] = k.gen
	}
	if mode == lostReply {
		w.say("FAULT lost reply")
		return
	}
	k.advance(r)
	if w.mutant == "insert again without a claim" && do == actInsert && r.failed {
		k.do, k.epoch = actInsert, s.epoch
	}
	if w.mutant == "retried and not healed" && do == actVerify && k.do == actHeal {
		k.do, k.retried = actTell, false
	}
	if w.mutant == "decided again after a failed insert" && do == actInsert && r.failed {
		k.do = actDecide
	}
	if !k.alone() {
		k.in.turns = slices.DeleteFunc(k.in.turns, func(o *simWorker) bool { return o == k })
	}
}

// look is the moment up to which a worker must know what others stored, as soon as its filter has it. The topic
// gathers until that is so for the first time.
func (w *simWorld) look(k *simWorker) {
	k.looking = w.now
	if k.learned == 0 {
		k.looked = w.now
	}
}

// insert sends a block over the connection that was made before the claim.
func (w *simWorld) insert(k *simWorker, mode int) (failed bool) {
	s := &w.store
	k.block.epoch = k.epoch
	if w.mutant == "epoch of the takeover" {
		k.block.epoch = k.began
	}
	if k.epoch != s.epoch {
		return true
	}
	copied := *k.block
	in := newInsert(&copied, w.token(&copied), w.rng.IntN(2) == 0)
	switch mode {
	case lateInsert:
		w.say("FAULT late insert")
		s.inflight = append(s.inflight, in)
		return true
	case engineDies:
		n := w.rng.IntN(6)
		w.say("FAULT engine dies after %d", n)
		s.insert(in, n, s.half(), w.now)
		s.inflight = nil
		s.die(w.rng, w.now)
		return true
	case engineThrows:
		n := []int{3, 5}[w.rng.IntN(2)]
		if w.throws && !s.rowsFirst {
			n, w.burnt = 1, true
		}
		if s.rowsFirst {
			n--
		}
		w.say("FAULT engine throws after %d", n)
		s.insert(in, n, tokenOnly, w.now)
		return true
	case lostReply:
		w.say("FAULT lost reply")
	}
	s.insert(in, 6, whole, w.now)
	return mode == lostReply
}

// heal does the next step of completing the views of a stored block, and tells whether it was the last.
func (w *simWorld) heal(k *simWorker, b *simBlock, mode int) (done bool) {
	s, h := &w.store, k.heal
	if h == nil {
		h = &simHeal{epoch: s.epoch}
		k.heal = h
	}
	if h.epoch != s.epoch && w.mutant != "healed over any connection" {
		w.say("process %d: partition %d: heal: connection lost", k.in.owner, k.partition)
		k.heal = nil
		return false
	}
	without := w.mutant == "healed without a look" || w.mutant == withoutEpochs
	if len(h.lacking) == 0 {
		h.lacking = s.lacks(b)
		w.say("process %d: partition %d: heal: %v lack block %s", k.in.owner, k.partition, h.lacking, b)
		if len(h.lacking) == 0 || without && h.n > 0 {
			k.heal = nil
			return true
		}
		return false
	}
	byToken := h.n == 0 && (b.epoch == h.epoch || without || w.mutant == "old blocks healed by their token") && w.mutant != "healed without the token"
	in := newInsert(b, w.token(b), w.rng.IntN(2) == 0)
	if w.mutant == "healed by a token of now" && h.n == 0 {
		now := *b
		now.epoch, byToken = h.epoch, true
		in = newInsert(&now, w.token(&now), true)
	}
	if !byToken {
		n := max(h.n, 1)
		if w.mutant == "healed by one token" {
			n = 1
		}
		in = &simInsert{b, fmt.Sprintf("%s/heal/%d", w.token(b), n), h.lacking}
	}
	h.n, h.lacking = max(h.n, 1)+1, nil
	if byToken {
		h.n = 1
	}
	half := w.rng.IntN(2 * len(in.to))
	switch mode {
	case engineDies:
		w.say("FAULT engine dies in a heal after %d", half)
		w.fill(in, half, s.half(), byToken)
		s.inflight = nil
		s.die(w.rng, w.now)
	case engineThrows:
		if s.rowsFirst || half == 1 && byToken {
			half &^= 1
		}
		w.say("FAULT engine throws in a heal after %d", half)
		w.fill(in, half, tokenOnly, byToken)
		k.heal = nil
	default:
		w.say("process %d: partition %d: heal: %s", k.in.owner, k.partition, in.token)
		w.fill(in, 2*len(in.to), whole, byToken)
	}
	return false
}

// fill is simStore.insert, for a block of which the views lack all or nothing each.
func (w *simWorld) fill(in *simInsert, n int, how simStep, byToken bool) {
	s := &w.store
	for ; n > 0; n -= 2 {
		step := whole
		if n == 1 {
			step = how
		}
		if to := in.to[0]; !byToken && !slices.Contains(s.lacks(in.block), to) {
			in.to = in.to[1:] // no rows are left to insert
			continue
		}
		s.step(in, step, w.now)
	}
}

// decide reads the records of the block, as topic.decide does.
func (w *simWorld) decide(k *simWorker) {
	w.serials++
	b := &simBlock{partition: k.partition, claim: k.protocol.block, owner: k.in.owner, gen: k.gen, serial: w.serials}
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
			if o.partition != b.partition || (b.owner != k.in.owner || b.gen != k.gen) && (o.looked == 0 || b.stored > o.looked) {
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

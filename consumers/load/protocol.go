package load

// protocol is what the owner of a partition does, one action after the other, as a pure state machine: it
// knows neither clock nor I/O. Its worker performs the action that it asks for until that succeeds, and
// tells it the result by advance. protocol_test.go drives it through a million schedules of crashes, lost
// replies, zombies and rebalances; docs/decisions/0001-loader-protocol.md says why it is as it is.
//
// What it rests on: a block begins where the ledger ends, and its token names only that beginning. Of
// several blocks that begin at one offset, whoever sends them and wherever they end, the first insert
// counts and the others are dropped whole. So blocks form a chain, and an owner needs only to find out
// whether the link is its own.
//
// An engine that dies while it stores a block leaves it half stored: in the table and not in its views, or
// with tokens that are taken and rows that are not there. So a token holds for one life of the engine, the
// epoch of the connection that it is sent over. An insert that failed is sent again in the same life only: there
// it may still be done, and its token sees to it that it is done once. In a later life it can be done no more,
// so the owner takes over anew: it looks for the block, completes it if it is there (actHeal), and stores
// another if not. Nobody stores one behind its back: a former owner sends over a connection that it had before
// its claim, which is of this life, and has the same token, or has ended; and an owner sends its first block
// over the connection that it had before it looked (connection).
type protocol struct {
	do      action
	next    int64 // the ledger's end, as far as is known here; -1 while the ledger has nothing
	block   claim // the block in work
	tail    bool  // block is the last one of an earlier owner, to be ended
	begun   bool  // a block of this owner is stored
	unsure  bool  // a block is stored here, whole or half, whose ids the filter may lack
	retried bool  // an insert of the block in work failed, so it may be half stored
}

// action is what a worker has to do next. The numbers are those of the package's documentation.
type action uint8

const (
	actPosition action = iota + 1 // 0 read the ledger's end and the group's offset
	actTail                       // 0 find the block that may be half stored or untold
	actHeal                       // 0 complete that block's views
	actStart                      // 0 find the first offset of the log
	actLearn                      // 0 bring the filter up to date
	actGather                     // 0 wait until all partitions of the topic here have done so
	actRefetch                    // 0 read the records of that block again
	actRestore                    // 0 make its ends out of the stored rows
	actFetch                      // 1 read new records
	actDecide                     // 2 read each, and give an end to those whose ids the filter has not
	actResolve                    // 2 give the others theirs, by what is stored
	actClaim                      // 3 commit the group offset with the mark of a block in work
	actInsert                     // 4 store the block
	actAgain                      // 4 find out whether the engine lives that the insert failed in
	actVerify                     // 4 find out whose block is stored
	actTell                       // 5 publish letters and outcomes
	actSettle                     // 6 commit the group offset after the block
	actStop                       // another owner has the partition, or it must be repaired
)

// result is what came of an action. Which fields count depends on the action.
type result struct {
	offset  int64 // actPosition: end of the ledger, or -1; actStart: first offset; actFetch: end of what was read
	settled bool  // actPosition: the group's offset is the ledger's end, and was committed as clean
	block   claim // actTail: the block; not pending where there is none
	found   bool  // actRestore: there are rows to tell of
	refused bool  // actClaim, actSettle: the broker knows a newer generation
	failed  bool  // actInsert: it is not known whether the block is stored; actVerify: another's block is
	alive   bool  // actAgain: it does
	lost    bool  // actHeal, actVerify: no rows are stored, though the views may count the block
}

func newProtocol() protocol { return protocol{do: actPosition, next: -1} }

// advance takes the result of the action and moves to the next.
func (p *protocol) advance(r result) {
	switch p.do {
	case actPosition:
		p.next = r.offset
		if r.settled {
			p.do = actLearn
		} else {
			p.do = actTail
		}
	case actTail:
		p.block, p.tail = r.block, r.block.pending()
		switch {
		case p.tail:
			p.do = actHeal
		case p.next < 0:
			p.do = actStart
		default:
			p.do = actLearn
		}
	case actHeal:
		switch {
		case r.lost:
			p.do = actStop
		case p.tail:
			p.do = actLearn
		default:
			p.retried, p.do = false, actTell
		}
	case actStart:
		p.next, p.do = r.offset, actLearn
	case actLearn:
		p.unsure, p.do = false, actGather
	case actGather:
		if p.tail {
			p.do = actRefetch
		} else {
			p.do = actFetch
		}
	case actRefetch:
		p.do = actRestore
	case actRestore:
		if r.found {
			p.do = actTell
		} else {
			p.do = actSettle
		}
	case actFetch:
		p.block, p.do = claim{p.next, r.offset}, actDecide
	case actDecide:
		p.do = actResolve
	case actResolve:
		p.do = actClaim
	case actClaim:
		if r.refused {
			p.do = actStop
		} else {
			p.do = actInsert
		}
	case actInsert:
		if r.failed {
			p.retried, p.do = true, actAgain
		} else {
			p.do = actVerify
		}
	case actAgain:
		if r.alive {
			p.do = actClaim
		} else {
			p.takeOverAgain()
		}
	case actVerify:
		switch {
		case r.lost:
			p.do = actStop
		case r.failed:
			p.takeOverAgain() // the chain went on elsewhere
		case p.retried:
			p.begun, p.do = true, actHeal
		default:
			p.begun, p.do = true, actTell
		}
	case actTell:
		p.do = actSettle
	case actSettle:
		if r.refused {
			p.do = actStop
		} else {
			p.next, p.tail, p.do = p.block.to, false, actFetch
		}
	case actStop:
	}
}

// takeOverAgain begins anew, without leaving the topic to others before the ids of what is stored are known.
func (p *protocol) takeOverAgain() {
	*p = newProtocol()
	p.unsure = true
}

// clean tells whether the offset that actSettle commits may say that nothing is stored beyond the block: a
// former owner may have a block half stored there until a block of this owner is stored.
func (p *protocol) clean() bool { return p.begun }

// doubted tells whether an insert that failed may have taken the token of the block in work before: its own, or,
// of an owner's first block, a former owner's. Then one that was acknowledged may have stored no rows, so
// actVerify looks for them; else the ledger says whose block it is.
func (p *protocol) doubted() bool { return !p.begun || p.retried }

// connection tells whether the worker must take a new connection to the store for the action; it keeps the
// one that it has for all the others, and an insert over one that is gone fails.
func (p *protocol) connection() bool {
	return p.do == actPosition || p.do == actAgain || p.do == actClaim && p.begun && !p.retried
}

// alone tells whether no other partition of the topic may look ids up or insert in this process while the
// worker does the action: from its own look-up until its block is known to be stored whole, so that the next
// finds its ids. Blocks go in the order in which their ids went into the filter.
func (p *protocol) alone() bool {
	return p.unsure || p.retried || p.do >= actResolve && p.do <= actVerify
}

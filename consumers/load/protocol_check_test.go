package load

import (
	"fmt"
	"slices"

	"github.com/welfarehub/welfarehub/pkg/record"
)

// check compares what is stored with what the log holds, when all is quiet.
func (w *simWorld) check() error {
	loaded := map[int][]simKnown{}
	stopped := 0
	for p := range w.log {
		if gen, ok := w.stopped[p]; ok && gen == w.gen {
			if !w.throws || w.store.rowsFirst {
				return simFault(fmt.Sprintf("partition %d was stopped", p))
			}
			stopped++
			continue // not silently: reconcile shows which rows are lost, and replay restores them
		}
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
	if stopped > 0 {
		return nil
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

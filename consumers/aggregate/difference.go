package aggregate

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"
)

// difference computes, for each group in scope, what it adds to the cells now less what is stored, and
// calls emit for each cell that differs. Facts and stored contributions come in the order of their
// groups, so that one group at a time is in memory.
func (a *Aggregator) difference(ctx context.Context, s scope, now int64, emit func(id, cell, measures) error) error {
	dead, err := a.dead(ctx, s)
	if err != nil {
		return err
	}
	services, err := a.services(ctx, s, dead)
	if err != nil {
		return err
	}
	facts, err := a.readFacts(ctx, s, dead)
	if err != nil {
		return err
	}
	defer facts.close()
	stored, err := a.readStored(ctx, s)
	if err != nil {
		return err
	}
	defer stored.close()
	counter := newCounter(now, func(offer id) (service, bool) {
		s, ok := services[offer]
		return s, ok
	})
	for !facts.done || !stored.done {
		g := facts.next.grp
		if facts.done || !stored.done && stored.grp.compare(g) < 0 {
			g = stored.grp
		}
		of, err := facts.group(g)
		if err != nil {
			return err
		}
		sum := counter.count(of)
		if err := stored.subtract(g, sum); err != nil {
			return err
		}
		if err := emitAll(g, sum, emit); err != nil {
			return err
		}
	}
	return nil
}

// compare orders groups as the engine does: as numbers, whose first byte is the lowest.
func (i id) compare(o id) int {
	return cmp.Or(cmp.Compare(binary.LittleEndian.Uint64(i[8:]), binary.LittleEndian.Uint64(o[8:])),
		cmp.Compare(binary.LittleEndian.Uint64(i[:8]), binary.LittleEndian.Uint64(o[:8])))
}

// factStream reads facts by group. next is the row after those that were taken.
type factStream struct {
	rows driver.Rows
	scan *factScanner
	dead map[position]bool
	next fact
	done bool
	buf  []fact
}

func (a *Aggregator) readFacts(ctx context.Context, s scope, dead deadPositions) (*factStream, error) {
	rows, err := a.query(ctx, fmt.Sprintf("SELECT %s FROM store.facts WHERE %s AND gone = 0 AND %s ORDER BY grp, rec", readColumns, s.wanted, s.snapshot), s.tables())
	if err != nil {
		return nil, fmt.Errorf("read facts: %w", err)
	}
	out := &factStream{rows: rows, scan: newFactScanner(), dead: map[position]bool{}}
	for _, p := range dead {
		out.dead[p] = true
	}
	if err := out.advance(); err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

func (s *factStream) close() { _ = s.rows.Close() } // it was read, or the caller has an error already

// advance goes to the next fact in force.
func (s *factStream) advance() error {
	for s.rows.Next() {
		f := &s.next
		if _, err := s.scan.scan(s.rows, f); err != nil {
			return fmt.Errorf("read facts: %w", err)
		}
		if !s.dead[position{f.rec, f.partition, f.offset}] {
			return nil
		}
	}
	s.done = true
	if err := s.rows.Err(); err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	return nil
}

// group returns the facts of a group, each record once. They are valid until the next call.
func (s *factStream) group(g id) ([]fact, error) {
	s.buf = s.buf[:0]
	for !s.done && s.next.grp == g {
		if n := len(s.buf); n == 0 || s.buf[n-1].rec != s.next.rec { // a healed fact is there twice
			s.buf = append(s.buf, s.next)
		}
		if err := s.advance(); err != nil {
			return nil, err
		}
	}
	return s.buf, nil
}

// storedStream reads stored contributions by group.
type storedStream struct {
	rows driver.Rows
	grp  id
	cell cell
	m    measures
	done bool
}

func (a *Aggregator) readStored(ctx context.Context, s scope) (*storedStream, error) {
	rows, err := a.query(ctx, fmt.Sprintf(`SELECT reinterpretAsFixedString(grp), comune, toString(nomenclature), toString(area), month, toString(unit),
		requests, granted, refused, waiting, toInt64(capacity * 1000), toInt64(occupied * 1000), toInt64(delivered * 1000), toInt64(amount * 1000), residents, mark
		FROM %s WHERE %s AND grp != 0 ORDER BY grp`, s.table, s.wanted), s.tables())
	if err != nil {
		return nil, fmt.Errorf("read stored contributions: %w", err)
	}
	out := &storedStream{rows: rows}
	if err := out.advance(); err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

func (s *storedStream) close() { _ = s.rows.Close() } // as factStream.close

func (s *storedStream) advance() error {
	if !s.rows.Next() {
		s.done = true
		if err := s.rows.Err(); err != nil {
			return fmt.Errorf("read stored contributions: %w", err)
		}
		return nil
	}
	var grp string
	k, m := &s.cell, &s.m
	if err := s.rows.Scan(&grp, &k.comune, &k.nomenclature, &k.area, &k.month, &k.unit, &m.requests, &m.granted, &m.refused, &m.waiting,
		&m.capacity, &m.occupied, &m.delivered, &m.amount, &m.residents, &m.mark); err != nil {
		return fmt.Errorf("read stored contributions: %w", err)
	}
	s.grp, k.comune = toID(grp), strings.TrimRight(k.comune, "\x00")
	return nil
}

// subtract takes what is stored of a group off.
func (s *storedStream) subtract(g id, from cells) error {
	for !s.done && s.grp == g {
		from.add(s.cell, s.m, -1)
		if err := s.advance(); err != nil {
			return err
		}
	}
	return nil
}

func insertContrib(table string) string {
	return "INSERT INTO " + table + ` (grp, comune, nomenclature, area, month, unit,
	requests, granted, refused, waiting, capacity, occupied, delivered, amount, residents, mark, updated_at)`
}

// appendCell adds a row to a batch of insertContrib.
func appendCell(batch driver.Batch, g id, k cell, m measures, at any) error {
	comune := k.comune
	if len(comune) < 6 {
		comune += strings.Repeat("\x00", 6-len(comune))
	}
	if err := batch.Append(g.number(), comune, k.nomenclature, k.area, k.month, k.unit, m.requests, m.granted, m.refused, m.waiting,
		thousandths(m.capacity), thousandths(m.occupied), thousandths(m.delivered), thousandths(m.amount),
		m.residents, m.mark, at); err != nil {
		return fmt.Errorf("append to store.contrib: %w", err)
	}
	return nil
}

// thousandths is a Decimal(18, 3), or what the driver takes for zero at no cost.
func thousandths(n int64) any {
	if n == 0 {
		return nil
	}
	return decimal.New(n, -3)
}

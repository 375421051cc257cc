package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// counts are the books of a topic: read = loaded + duplicate + rejected, rows = loaded - erased - superseded.
type counts struct {
	Read       uint64 `json:"read"`
	Loaded     uint64 `json:"loaded"`
	Duplicate  uint64 `json:"duplicate"`
	Rejected   uint64 `json:"rejected"`
	Erased     uint64 `json:"erased"`
	Superseded uint64 `json:"superseded"`
	Rows       uint64 `json:"rows"`
}

// progress is how far a partition has come; of a topic and overall, the sums over its partitions.
type progress struct {
	LogEnd       int64      `json:"log_end"`
	LedgeredTo   int64      `json:"ledgered_to"`
	SettledTo    int64      `json:"settled_to"`
	AggregatedTo int64      `json:"aggregated_to"`
	Lag          int64      `json:"lag"`        // records that the aggregates lack
	UpToDate     bool       `json:"up_to_date"` // all that the log has is ledgered, settled and aggregated
	LastLoadedAt *time.Time `json:"last_loaded_at"`
	AsOf         *time.Time `json:"as_of"`       // when the end of the log was read, the oldest of several
	AgeSeconds   *float64   `json:"age_seconds"` // since as_of
}

type partitionStatus struct {
	Partition uint32 `json:"partition"`
	progress
}

type topicStatus struct {
	Topic string `json:"topic"`
	Event string `json:"event"`
	counts
	progress
	Partitions []partitionStatus `json:"partitions"`
}

type overallStatus struct {
	counts
	progress
}

// share is how much of a measure is not mapped to a known service, or comune.
type share struct {
	Total    json.Number `json:"total"`
	Unmapped json.Number `json:"unmapped"`
	Share    *float64    `json:"share"` // null where the total is zero
}

// unmappedShares are over all months.
type unmappedShares struct {
	Service   map[string]share `json:"service"`
	Territory map[string]share `json:"territory"`
	AsOf      time.Time        `json:"as_of"`
}

type statusPage struct {
	Overall  overallStatus   `json:"overall"`
	Unmapped *unmappedShares `json:"unmapped"` // null: not known now
	Topics   []*topicStatus  `json:"topics"`
}

func (a *api) status(ctx context.Context, r *http.Request) (*answer, error) {
	if err := newReader(r.URL.RawQuery, nil).problem(); err != nil {
		return nil, err
	}
	if _, err := negotiate(r.Header.Get("Accept"), []string{typeJSON}); err != nil {
		return nil, err
	}
	qctx, release, err := a.query(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	s := &statusPage{}
	byTopic := map[string]*topicStatus{}
	for _, t := range event.Types {
		ts := &topicStatus{Topic: t.Topic, Event: t.Name, Partitions: []partitionStatus{}}
		s.Topics, byTopic[t.Topic] = append(s.Topics, ts), ts
	}
	if err := a.readFreshness(qctx, byTopic); err != nil {
		return nil, err
	}
	if err := a.readBooks(qctx, byTopic); err != nil {
		return nil, err
	}
	s.sum(time.Now())
	s.Unmapped = a.unmappedNow(qctx)
	return jsonAnswer(s)
}

func (a *api) readFreshness(ctx context.Context, byTopic map[string]*topicStatus) error {
	rows, err := a.DB.Query(ctx, `SELECT toString(f.topic), toUInt32(f.partition), toInt64(f.log_end), toInt64(ifNull(f.ledgered_to, 0)), toInt64(ifNull(f.settled_to, 0)),
    toInt64(ifNull(f.aggregated_to, 0)), f.as_of, l.last
FROM welfare.freshness AS f
LEFT JOIN (SELECT topic, partition, max(loaded_at) AS last FROM welfare.ledger GROUP BY topic, partition) AS l ON l.topic = f.topic AND l.partition = f.partition
ORDER BY 1, 2`)
	if err != nil {
		return fmt.Errorf("read freshness: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var topic string
		var p partitionStatus
		var asOf, last time.Time
		if err := rows.Scan(&topic, &p.Partition, &p.LogEnd, &p.LedgeredTo, &p.SettledTo, &p.AggregatedTo, &asOf, &last); err != nil {
			return fmt.Errorf("read a row of freshness: %w", err)
		}
		p.Lag, p.AsOf, p.LastLoadedAt = max(0, p.LogEnd-p.AggregatedTo), given(asOf), given(last)
		p.UpToDate = p.AsOf != nil && min(p.LedgeredTo, p.SettledTo, p.AggregatedTo) >= p.LogEnd
		if t := byTopic[topic]; t != nil {
			t.Partitions = append(t.Partitions, p)
		}
	}
	return rows.Err()
}

// given is nil for the zero of ClickHouse, 1970, which stands for none.
func given(t time.Time) *time.Time {
	if t.Unix() <= 0 {
		return nil
	}
	t = t.UTC()
	return &t
}

func (a *api) readBooks(ctx context.Context, byTopic map[string]*topicStatus) error {
	rows, err := a.DB.Query(ctx, `SELECT toString(topic), toUInt64(sum(read)), toUInt64(sum(loaded)), toUInt64(sum(duplicate)), toUInt64(sum(rejected)),
    toUInt64(sum(erased)), toUInt64(sum(superseded)), toUInt64(greatest(sum(toInt64(rows)), 0))
FROM welfare.books GROUP BY topic`)
	if err != nil {
		return fmt.Errorf("read books: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var topic string
		var c counts
		if err := rows.Scan(&topic, &c.Read, &c.Loaded, &c.Duplicate, &c.Rejected, &c.Erased, &c.Superseded, &c.Rows); err != nil {
			return fmt.Errorf("read a row of books: %w", err)
		}
		if t := byTopic[topic]; t != nil {
			t.counts = c
		}
	}
	return rows.Err()
}

// sum fills what topics and the whole are the sums of.
func (s *statusPage) sum(now time.Time) {
	all := &s.Overall
	all.UpToDate = true
	for _, t := range s.Topics {
		t.UpToDate = true
		for i := range t.Partitions {
			t.Partitions[i].age(now)
			t.add(&t.Partitions[i].progress)
		}
		t.age(now)
		all.add(&t.progress)
		all.Read += t.Read
		all.Loaded += t.Loaded
		all.Duplicate += t.Duplicate
		all.Rejected += t.Rejected
		all.Erased += t.Erased
		all.Superseded += t.Superseded
		all.Rows += t.Rows
	}
	all.age(now)
	if all.AsOf == nil {
		all.UpToDate = false // nothing has been looked at yet
	}
}

func (p *progress) add(q *progress) {
	p.LogEnd += q.LogEnd
	p.LedgeredTo += q.LedgeredTo
	p.SettledTo += q.SettledTo
	p.AggregatedTo += q.AggregatedTo
	p.Lag += q.Lag
	p.UpToDate = p.UpToDate && q.UpToDate
	if q.AsOf != nil && (p.AsOf == nil || q.AsOf.Before(*p.AsOf)) {
		p.AsOf = q.AsOf
	}
	if q.LastLoadedAt != nil && (p.LastLoadedAt == nil || q.LastLoadedAt.After(*p.LastLoadedAt)) {
		p.LastLoadedAt = q.LastLoadedAt
	}
}

func (p *progress) age(now time.Time) {
	if p.AsOf != nil {
		s := max(0, now.Sub(*p.AsOf).Round(time.Millisecond).Seconds())
		p.AgeSeconds = &s
	}
}

// unmappedCache keeps the shares for a while: to sum all cells is the dearest part of status.
type unmappedCache struct {
	computing sync.Mutex // held by the one request that computes them anew
	mu        sync.Mutex // guards shares
	shares    *unmappedShares
}

const unmappedAge = 15 * time.Second

// unmappedNow returns the shares, or nil where they cannot be had: the rest of status does not wait for them.
func (a *api) unmappedNow(ctx context.Context) *unmappedShares {
	c := &a.unmapped
	c.mu.Lock()
	shares := c.shares
	c.mu.Unlock()
	if shares != nil && time.Since(shares.AsOf) < unmappedAge || !c.computing.TryLock() {
		return shares
	}
	defer c.computing.Unlock()
	fresh, err := a.readUnmapped(ctx)
	if err != nil {
		a.Logger.Warn("share of UNMAPPED not read", zap.Error(err))
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shares = fresh
	return fresh
}

var measuresOfShares = [...]string{"requests", "granted", "refused", "amount"}

func (a *api) readUnmapped(ctx context.Context) (*unmappedShares, error) {
	out := &unmappedShares{Service: map[string]share{}, Territory: map[string]share{}, AsOf: time.Now().UTC()}
	for _, q := range []struct {
		into  map[string]share
		query string
	}{
		{out.Service, `SELECT
    toString(sum(t.requests)), toString(sum(t.granted)), toString(sum(t.refused)), toString(sum(t.amount)),
    toString(sumIf(t.requests, t.nomenclature_code = 'UNMAPPED')), toString(sumIf(t.granted, t.nomenclature_code = 'UNMAPPED')),
    toString(sumIf(t.refused, t.nomenclature_code = 'UNMAPPED')), toString(sumIf(t.amount, t.nomenclature_code = 'UNMAPPED'))
FROM welfare.supply_demand AS t WHERE t.level = 'COUNTRY'`},
		{out.Territory, `SELECT
    toString(sum(t.requests)), toString(sum(t.granted)), toString(sum(t.refused)), toString(sum(t.amount)),
    toString(sumIf(t.requests, t.territory_code = 'UNMAPPED')), toString(sumIf(t.granted, t.territory_code = 'UNMAPPED')),
    toString(sumIf(t.refused, t.territory_code = 'UNMAPPED')), toString(sumIf(t.amount, t.territory_code = 'UNMAPPED'))
FROM welfare.supply_demand AS t WHERE t.level = 'REGION'`},
	} {
		var total, unmapped [len(measuresOfShares)]string
		if err := a.DB.QueryRow(ctx, q.query).Scan(&total[0], &total[1], &total[2], &total[3], &unmapped[0], &unmapped[1], &unmapped[2], &unmapped[3]); err != nil {
			return nil, fmt.Errorf("sum supply_demand: %w", err)
		}
		for i, m := range measuresOfShares {
			s := share{Total: json.Number(total[i]), Unmapped: json.Number(unmapped[i])}
			of, err := s.Total.Float64()
			part, err2 := s.Unmapped.Float64()
			if err == nil && err2 == nil && of != 0 {
				ratio := part / of
				s.Share = &ratio
			}
			q.into[m] = s
		}
	}
	return out, nil
}

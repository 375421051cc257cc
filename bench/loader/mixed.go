//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// askMixed loads what the simulator makes of all events.
func askMixed(ctx context.Context, l *lab, o *options) (string, error) {
	if err := l.startKafka(ctx, usualPartitions, usualPartitions); err != nil {
		return "", err
	}
	config := simulate.DefaultRates()
	config.Seed, config.Count, config.SchemaIDs = o.seed, o.events, l.byTopic()
	config.Start, config.Duplicates = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), usualDuplicates
	w := l.writer()
	sink := &countingSink{KafkaSink: simulate.NewKafkaSink(w, true), ends: map[model.End]uint64{}}
	if _, err := simulate.Run(ctx, simulate.New(config), sink, simulate.Pace{}); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("publish: %w", err)
	}
	var results []result
	for range o.repeats {
		if err := l.emptyStore(ctx); err != nil {
			return "", err
		}
		r, err := l.race(ctx, result{contestant: kindOurs, terms: "store", share: "16 events", records: o.events}, l.oursSpec(o, &dataset{events: o.events, partitions: usualPartitions}))
		if err != nil {
			return "", err
		}
		l.tell(&r)
		if err := l.checkLedger(ctx, [3]uint64{sink.ends[model.Loaded], sink.ends[model.Duplicate], sink.ends[model.Rejected]}); err != nil {
			return "", err
		}
		results = append(results, r)
	}
	return table(results), nil
}

// countingSink counts how messages must end.
type countingSink struct {
	*simulate.KafkaSink
	ends map[model.End]uint64
}

func (s *countingSink) Write(ctx context.Context, m *simulate.Message) error {
	s.ends[m.Expect.End]++
	return s.KafkaSink.Write(ctx, m)
}

// askLatency publishes at a steady rate and asks, as a planner, which events are there.
func askLatency(ctx context.Context, l *lab, o *options) (string, error) {
	text := fmt.Sprintf("%d ServiceRequested at %d events/s, from the call that publishes an event until a query of `welfare.service_requested` by user planner returned it; the first tenth is left out.\n\n"+
		"| flush age | p50 ms | p90 | p99 | max | queries, mean ms | loader, cores | engine with the queries, cores | busy cores before |\n|---|---|---|---|---|---|---|---|---|\n", o.latencyEvents, o.rate)
	for _, age := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond} {
		line, err := l.latency(ctx, o, age)
		if err != nil {
			return "", err
		}
		text += line
	}
	return text, nil
}

// sightings are when events were published and seen, by partition and offset.
type sightings struct {
	mu        sync.Mutex
	published [usualPartitions]map[int64]time.Time
	seen      [usualPartitions]int64 // offsets below it
	latencies []time.Duration
	left      int
}

// sent notes an acknowledged message.
func (s *sightings) sent(msgs []kafka.Message, err error) {
	if err != nil {
		return // the count of what was seen will tell
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range msgs {
		s.published[msgs[i].Partition][msgs[i].Offset] = msgs[i].WriterData.(time.Time)
	}
}

// saw notes that a query that began at some time returned events below offset end. What was not
// acknowledged yet is found by a later call.
func (s *sightings) saw(partition int, end int64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; s.seen[partition] < end; s.seen[partition]++ {
		published, ok := s.published[partition][s.seen[partition]]
		if !ok {
			return
		}
		delete(s.published[partition], s.seen[partition])
		s.latencies = append(s.latencies, at.Sub(published))
		s.left--
	}
}

func (l *lab) latency(ctx context.Context, o *options, age time.Duration) (string, error) {
	d := &dataset{seed: o.seed, events: o.latencyEvents, duplicates: 0, partitions: usualPartitions}
	if err := l.startKafka(ctx, d.partitions, 1); err != nil {
		return "", err
	}
	if err := l.emptyStore(ctx); err != nil {
		return "", err
	}
	planner, err := clickhouse.Open(ctx, l.engine.PlannerDSN())
	if err != nil {
		return "", err
	}
	defer planner.Close()
	seen := &sightings{left: d.events}
	for p := range seen.published {
		seen.published[p] = map[int64]time.Time{}
	}
	s := l.oursSpec(o, d)
	s.FlushAge = age
	r := result{contestant: kindOurs, records: d.events, share: age.String()}
	failed := make(chan error, 1)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { failed <- l.publishSteadily(ctx, o, d, seen) }()
	queries := make(chan time.Duration, 1)
	go func() { queries <- watch(ctx, planner, seen) }()
	if r, err = l.race(ctx, r, s); err != nil {
		return "", err
	}
	defer time.AfterFunc(10*time.Second, stop).Stop() // all are loaded: they must be seen by then
	if err := <-failed; err != nil {
		return "", err
	}
	mean := <-queries
	if seen.left > 0 {
		return "", fmt.Errorf("%d events were never seen", seen.left)
	}
	busy := float64(d.events) / float64(o.rate) // seconds
	lat := slices.Sorted(slices.Values(seen.latencies[len(seen.latencies)/10:]))
	at := func(q float64) float64 {
		return float64(lat[min(int(q*float64(len(lat))), len(lat)-1)].Microseconds()) / 1000
	}
	return fmt.Sprintf("| %s | %.0f | %.0f | %.0f | %.0f | %.1f | %.2f | %.2f | %.2f |\n", age, at(.5), at(.9), at(.99), at(1), float64(mean.Microseconds())/1000,
		r.cpu.loader.Seconds()/busy, r.cpu.engine.Seconds()/busy, r.busy), nil
}

// publishSteadily sends every ten milliseconds what is due. It begins some seconds late, when the loader has its partitions.
func (l *lab) publishSteadily(ctx context.Context, o *options, d *dataset, seen *sightings) error {
	w := l.writer()
	w.Async, w.BatchTimeout, w.Completion = true, 5*time.Millisecond, seen.sent
	m := newMaker(d.seed)
	began := time.Now().Add(8 * time.Second)
	for sent := 0; sent < d.events; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		var msgs []kafka.Message
		for due := min(d.events, int(time.Since(began).Seconds()*float64(o.rate))); sent < due; sent++ {
			msg := message(m.make(sent), l.ids[requested.Topic+"-value"])
			msg.WriterData = time.Now()
			msgs = append(msgs, msg)
		}
		if len(msgs) == 0 {
			continue
		}
		if err := w.WriteMessages(ctx, msgs...); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// watch asks which events are there until all are, or ctx ends. It returns the mean time of a query.
func watch(ctx context.Context, planner *clickhouse.DB, seen *sightings) time.Duration {
	var took time.Duration
	n := time.Duration(0)
	for ctx.Err() == nil {
		seen.mu.Lock()
		left, from := seen.left, slices.Min(seen.seen[:])
		seen.mu.Unlock()
		if left == 0 {
			break
		}
		var ends []struct {
			Partition uint32 `ch:"_partition"`
			Last      uint64 `ch:"last"`
		}
		began := time.Now()
		if err := planner.Select(ctx, &ends, fmt.Sprintf("SELECT _partition, max(_offset) AS last FROM welfare.%s WHERE _offset >= %d GROUP BY _partition", requested.Table, from)); err != nil {
			time.Sleep(100 * time.Millisecond) // the tables may not be there yet
			continue
		}
		at := time.Now()
		took, n = took+at.Sub(began), n+1
		for _, e := range ends {
			seen.saw(int(e.Partition), int64(e.Last)+1, at)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return took / max(n, 1)
}

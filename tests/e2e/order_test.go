package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/producers/simulate"
)

// TestAnyOrderAndBatchingGiveEqualAggregates sends the same 20,000 messages in three random orders and
// batchings, to loaders with blocks of three random sizes; the third time copies meet in other
// partitions too. Conflicts (E07) are left out: of those the first to come is kept.
//
//	WELFAREHUB_SEED=7 go test ./tests/e2e -run TestAnyOrder -v    repeats a run
func TestAnyOrderAndBatchingGiveEqualAggregates(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("WELFAREHUB_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("repeat with WELFAREHUB_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 5))
	const events, partitions = 20000, 2
	var first []string
	for order := range 3 {
		records, age := 50+rnd.IntN(3000), 10+rnd.IntN(400)
		t.Logf("order %d: blocks of %d records or %d ms", order, records, age)
		h := start(t, t.TempDir(), "--no-demo", "--partitions", strconv.Itoa(partitions), "--block-records", strconv.Itoa(records), "--flush-age", fmt.Sprintf("%dms", age))
		msgs, truth := h.messages(events, seed)
		rnd.Shuffle(len(msgs), func(i, j int) { msgs[i], msgs[j] = msgs[j], msgs[i] })
		cluster := wkafka.Cluster{Brokers: []string{h.Kafka}}
		tr := cluster.Transport()
		w := cluster.Writer(tr, 16<<20)
		if order == 2 {
			w.Balancer = kafka.BalancerFunc(func(_ kafka.Message, partitions ...int) int { return partitions[rnd.IntN(len(partitions))] })
		}
		for rest := msgs; len(rest) > 0; {
			n := min(1+rnd.IntN(4000), len(rest))
			if err := w.WriteMessages(t.Context(), rest[:n]...); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		tr.CloseIdleConnections()
		db := h.db()
		awaitAll(t, db, len(msgs))
		got := cells(t, db)
		if first == nil {
			first = got
		}
		differ(t, got, first)
		compareTruth(t, db, truth)
		h.kill()
	}
}

// messages makes simulated messages, without conflicts, and their truth.
func (h *hub) messages(events int, seed uint64) ([]kafka.Message, simulate.Truth) {
	h.t.Helper()
	client, err := registry.NewClient(registry.ClientOptions{URL: h.Registry})
	if err != nil {
		h.t.Fatal(err)
	}
	ids, err := registry.RegisterAll(h.t.Context(), client)
	if err != nil {
		h.t.Fatal(err)
	}
	byTopic := map[string]int{}
	for subject, id := range ids {
		byTopic[subject[:len(subject)-len("-value")]] = id
	}
	cfg := simulate.DefaultRates()
	cfg.Seed, cfg.Count, cfg.Truth, cfg.SchemaIDs, cfg.MaxValue = seed, events, true, byTopic, 1<<20
	cfg.Start = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	cfg.Duplicates, cfg.Corrections, cfg.Revocations, cfg.Late, cfg.Invalid, cfg.Erasures = 0.05, 0.05, 0.02, 0.05, 0.01, 0.002
	sim := simulate.New(cfg)
	conflicts := map[string]int{}
	var out []kafka.Message
	for m, ok := sim.Next(); ok; m, ok = sim.Next() {
		if len(m.Expect.Codes) > 0 && m.Expect.Codes[0] == "E07" {
			conflicts[m.Topic]++
			continue
		}
		msg := kafka.Message{Topic: m.Topic, Key: bytes.Clone(m.Key), Value: bytes.Clone(m.Value), Time: m.Timestamp}
		for _, x := range m.Headers {
			msg.Headers = append(msg.Headers, kafka.Header{Key: x.Key, Value: bytes.Clone(x.Value)})
		}
		out = append(out, msg)
	}
	truth := sim.Truth()
	for topic, n := range conflicts {
		end := truth.Topics[topic]
		end.Sent -= n
		delete(end.Rejected, "E07")
		truth.Topics[topic] = end
	}
	return out, truth
}

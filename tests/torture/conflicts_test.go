package torture

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

// TestConflictsInAnyOrderAndLoader publishes one event id with two contents (E07), and one version of a record with two
// (W08), in both orders: to one partition, to two of one loader, and at once to two of two loaders that cannot know of
// each other's. Both contents' hashes are listed, one of each pair counts, and the totals are always the same.
func TestConflictsInAnyOrderAndLoader(t *testing.T) {
	gated(t, true)
	runs(t, "conflicts in any order", 1, func(t *testing.T, r run) {
		var hashes string
		for _, way := range []string{"one partition", "two partitions", "two loaders"} {
			for _, turned := range []bool{false, true} {
				w := newWorld(t, r, "", 2)
				faults := ""
				if way == "two loaders" {
					faults = "sleep:after-decide:1+700ms"
					other := w.load(faults)
					w.eventually("it has partitions", other.assigned)
				}
				p := w.load(faults)
				w.eventually("it has partitions", p.assigned)
				w.eventually("each has some", func() bool { return way != "two loaders" || !w.alone() })
				w.conflict(way != "one partition", turned)
				w.drain()
				got := w.conflicts()
				if hashes == "" {
					hashes = got
				}
				if got != hashes {
					t.Errorf("%s, turned %v: %s, and before %s", way, turned, got, hashes)
				}
				if n, err := w.number("SELECT sum(requests) FROM welfare.supply_demand WHERE level = 'COUNTRY'"); err != nil || n != 2 {
					t.Errorf("%s, turned %v: %d requests count, want 2; %v", way, turned, n, err)
				}
				out, code := command(t, "reconcile", "--aggregates", "--log-level", "warn", "--kafka-brokers", w.kafka.Addr, "--clickhouse-dsn", w.dsn)
				if code != 0 {
					t.Errorf("%s: reconcile: exit code %d\n%s", way, code, out)
				}
				for _, p := range w.living() {
					p.Kill()
				}
			}
		}
	})
}

// conflict publishes two pairs of requests.
func (w *world) conflict(apart, turned bool) {
	w.t.Helper()
	typ := event.ByName("ServiceRequested")
	request := func(id, record, comune string) kafka.Message {
		row := validtest.Valid(typ)
		row.Set(event.EventID, uuid.NewSHA1(uuid.NameSpaceURL, []byte(id)).String())
		row.Set(event.SourceRecordID, record)
		row.Set(event.OrgCode, comune)
		key, value, headers := event.Message(row, w.ids[typ.Topic])
		m := kafka.Message{Topic: typ.Topic, Key: key, Value: value, Time: row.Time(event.RecordedAt)}
		for _, h := range headers {
			m.Headers = append(m.Headers, kafka.Header(h))
		}
		return m
	}
	first := []kafka.Message{request("e07", "a", "F205"), request("w08 one", "b", "F205")}
	second := []kafka.Message{request("e07", "a", "F206"), request("w08 two", "b", "F206")}
	if turned {
		first, second = second, first
	}
	n := 0
	w.writer.Balancer = kafka.BalancerFunc(func(_ kafka.Message, partitions ...int) int {
		n++
		if apart && n > len(first) {
			return partitions[1]
		}
		return partitions[0]
	})
	if err := w.writer.WriteMessages(w.t.Context(), append(first, second...)...); err != nil {
		w.t.Fatal(err)
	}
	w.sent += len(first) + len(second)
}

// conflicts are the pairs that are listed: of E07 in the order of their hashes, for the first to come wins, of W08 with the
// winner first.
func (w *world) conflicts() string {
	w.t.Helper()
	rows, err := w.db.Conn().Query(w.t.Context(), "SELECT kind, winner_hash, loser_hash FROM welfare.conflicts ORDER BY kind")
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	out, n := "", 0
	for rows.Next() {
		var kind, winner, loser string
		if err := rows.Scan(&kind, &winner, &loser); err != nil {
			w.t.Fatal(err)
		}
		if len(winner) != 64 || len(loser) != 64 || winner == loser {
			w.t.Errorf("%s: winner %q, loser %q", kind, winner, loser)
		}
		if kind == "E07" && winner > loser {
			winner, loser = loser, winner
		}
		out += fmt.Sprintln(kind, winner, loser)
		n++
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	if n != 2 {
		w.t.Errorf("%d conflicts are listed, want 2: %s", n, out)
	}
	return out
}

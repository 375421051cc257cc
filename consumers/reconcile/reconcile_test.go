package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/kafka"
)

// balanced stores two partitions without a fault: ranges of 10, 3 and 5 records, and one of 4 in 6 offsets.
func balanced(t *testing.T, db *clickhouse.DB) {
	t.Helper()
	put(t, db, 0, 0, "llldlrllll")
	put(t, db, 0, 10, "lrl")
	put(t, db, 1, 0, "ldlld")
	put(t, db, 1, 5, "l-ll-d")
}

func TestWholeBooksBalance(t *testing.T) {
	db := database(t)
	cluster := log(t)
	balanced(t, db)
	exec(t, db, "INSERT INTO store.dispositions (topic, partition, offset, state, at) VALUES ('"+theType.Topic+"', 0, 5, 'redriven', now())")
	// One erased and removed, one erased whose row is still there, one superseded.
	exec(t, db, "INSERT INTO store.erased (topic, partition, offset, source, erased_at) VALUES ('"+theType.Topic+"', 0, 1, 's', now()), ('"+theType.Topic+"', 0, 1, 's', now()), ('"+theType.Topic+"', 0, 2, 's', now())")
	exec(t, db, "DELETE FROM store."+theType.Table+" WHERE _partition = 0 AND _offset = 1")
	exec(t, db, "INSERT INTO store.superseded (topic, partition, offset) VALUES ('"+theType.Topic+"', 1, 7)")
	r, lines := run(t, db, cluster)
	if !r.Balanced() || len(r.Partitions) != 3 {
		t.Fatalf("got %v of %+v", lines, r.Partitions)
	}
	p := r.Partitions[0]
	p.LogStart, p.LogEnd = nil, nil
	if p.Contents.Checksum == 0 {
		t.Error("no checksum")
	}
	p.Contents.Checksum = 0
	want := Partition{
		Topic: theType.Topic, To: 13, Blocks: 2, Read: 13, Loaded: 10, Duplicate: 1, Rejected: 2, OpenRejects: 1, Redriven: 1,
		Erased: 2, Rows: 8, Lag: 2, Contents: Contents{To: 13, Rows: 8, IDs: 8},
	}
	if p != want {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	if p := r.Partitions[1]; p.Skipped != 2 || p.Superseded != 1 || p.Loaded != 6 || p.Rows != 5 || p.Lag != 0 || *p.LogEnd != 11 {
		t.Errorf("got %+v", p)
	}
	if p := r.Partitions[2]; p.Blocks != 0 || *p.LogEnd != 0 {
		t.Errorf("got %+v", p)
	}
}

func TestEachFaultIsFoundAndLocated(t *testing.T) {
	cluster := log(t)
	table := "store." + theType.Table
	insert := "INSERT INTO " + table + " (_partition, _offset, _from, _to, _end, _id_hash) VALUES "
	for _, c := range []struct {
		name  string
		spoil []string
		want  string
	}{
		{"nothing", nil, ""},
		{"deleted rows", []string{"DELETE FROM " + table + " WHERE _partition = 0 AND _offset IN (3, 4, 8)"}, "missing 0 [3,5) 2|missing 0 [8,9) 1"},
		{"deleted row where offsets are skipped", []string{"DELETE FROM " + table + " WHERE _partition = 1 AND _offset = 7"}, "missing 1 [5,11) 1"},
		{"deleted block", []string{"DELETE FROM " + table + " WHERE _partition = 0 AND _from = 10"}, "missing 0 [10,13) 3"},
		{
			"deleted row beside an erased one",
			[]string{
				"INSERT INTO store.erased (topic, partition, offset, erased_at) VALUES ('" + theType.Topic + "', 0, 7, now())",
				"DELETE FROM " + table + " WHERE _partition = 0 AND _offset IN (7, 8)",
			},
			"missing 0 [8,9) 1",
		},
		{
			"doubled row in its block",
			[]string{insert + "(0, 4, 0, 10, 'loaded', '')"},
			"overlap 0 [0,10) 10|repeated 0 [4,5) 1|repeated-id 0 [4,5) 1",
		},
		{
			"doubled row in a block of its own",
			[]string{insert + "(0, 4, 4, 5, 'loaded', '')"},
			"overlap 0 [4,5) 1|repeated 0 [4,5) 1|repeated-id 0 [4,5) 1",
		},
		{
			"doubled rows without their books",
			[]string{insert + "(0, 4, 0, 10, 'loaded', ''), (0, 5, 0, 10, 'rejected', '')", "DELETE FROM store.ledger WHERE read = 2", "DELETE FROM store.ids WHERE id_hash = toFixedString('', 16)"},
			"repeated 0 [4,6) 2",
		},
		{"ledger gap", []string{"DELETE FROM store.ledger WHERE partition = 0 AND from_offset = 0"}, "gap 0 [0,10) 10|unbooked 0 [0,10) 10"},
		{"gap between ranges", []string{insert + "(0, 20, 20, 21, 'duplicate', '')"}, "gap 0 [13,20) 7"},
		{
			"overlapping block",
			[]string{insert + "(0, 12, 12, 15, 'duplicate', ''), (0, 13, 12, 15, 'duplicate', ''), (0, 14, 12, 15, 'duplicate', '')"},
			"overlap 0 [12,13) 1|repeated 0 [12,13) 1",
		},
		{"row out of its block", []string{insert + "(0, 40, 13, 14, 'duplicate', '')"}, "unbooked 0 [40,41) 1"},
		{"lost end of the ledger", []string{"DELETE FROM store.ledger WHERE partition = 0 AND from_offset = 10"}, "unbooked 0 [10,13) 3"},
		{"a row more than was read", []string{"ALTER TABLE store.ledger UPDATE read = 9, loaded = loaded - 1 WHERE partition = 0 AND from_offset = 0 SETTINGS mutations_sync = 2"}, "unbooked 0 [0,10) 1"},
		{"sums", []string{"ALTER TABLE store.ledger UPDATE duplicate = 0 WHERE partition = 0 AND from_offset = 0 SETTINGS mutations_sync = 2"}, "ends 0 [0,10) 10|sums 0 [0,10) 10"},
		{"other ends", []string{"ALTER TABLE " + table + " UPDATE _end = 'duplicate' WHERE _partition = 0 AND _offset = 5 SETTINGS mutations_sync = 2"}, "ends 0 [0,10) 10"},
		{"lost id", []string{"DELETE FROM store.ids WHERE partition = 0 AND offset IN (6, 7)"}, "no-id 0 [6,8) 2"},
		{"stray id", []string{"INSERT INTO store.ids (type, partition, offset) VALUES (3, 0, 5)"}, "stray-id 0 [5,6) 1"},
		{
			"copies that were not settled",
			[]string{
				"INSERT INTO " + table + " (_partition, _offset, _from, _to, _end, _id_hash) SELECT 1, number, 11, 14, 'loaded', substring(SHA256('0 ' || toString(number - 11)), 1, 16) FROM numbers(11, 3)",
				"INSERT INTO store.settled (topic, partition, settled_to) VALUES ('" + theType.Topic + "', 0, 13), ('" + theType.Topic + "', 1, 14)",
				"INSERT INTO store.superseded (topic, partition, offset, of_partition, of_offset) VALUES ('" + theType.Topic + "', 1, 12, 0, 1)",
			},
			"copies 1 [11,12) 1|copies 1 [13,14) 1",
		},
		{"wrong cluster", []string{insert + "(7, 0, 0, 1, 'duplicate', '')"}, "log 7 [0,1) 1"},
		{"log made again", []string{insert + "(0, 13, 13, 16, 'duplicate', ''), (0, 14, 13, 16, 'duplicate', ''), (0, 15, 13, 16, 'duplicate', '')"}, "log 0 [15,16) 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := database(t)
			balanced(t, db)
			for _, q := range c.spoil {
				exec(t, db, q)
			}
			logs := cluster
			if strings.Contains(c.name, "gap between") || strings.Contains(c.name, "copies") || strings.Contains(c.name, "out of its block") {
				logs = kafka.Cluster{} // they are about offsets that the log does not have
			}
			_, lines := run(t, db, logs)
			if got := strings.Join(lines, "|"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestManyRangesEndInOneThatHoldsTheRest(t *testing.T) {
	r := ranges{}
	for i := range uint64(maxRanges + 50) {
		r.add(2 * i)
	}
	last := r.list[len(r.list)-1]
	if len(r.list) != maxRanges || last.n != 51 || last.whole || last.to != 2*(maxRanges+49)+1 || last.detail() == "" {
		t.Errorf("%d ranges, the last %+v", len(r.list), last)
	}
	if !r.list[0].whole || r.list[0].detail() != "" {
		t.Errorf("the first %+v", r.list[0])
	}
}

type verifier struct {
	n   uint64
	err error
}

func (v verifier) VerifyFacts(_ context.Context, found func(topic string, partition uint32, from, to, records uint64, detail string)) error {
	if v.n > 0 {
		found(theType.Topic, 1, 5, 9, 2, "store.facts")
	}
	return nil
}

func (v verifier) VerifyAll(context.Context) (uint64, error) { return v.n, v.err }

func TestAggregatesCount(t *testing.T) {
	db := database(t)
	o := Options{DB: db.Conn(), Topics: []string{theType.Topic}, Verifier: verifier{n: 3}}
	r, err := Run(t.Context(), o)
	if err != nil || r.Balanced() || len(r.Findings) != 2 || r.Findings[1].Kind != KindAggregates || *r.Aggregates != 3 ||
		r.Findings[0] != (Finding{KindFacts, theType.Topic, 1, 5, 9, 2, "store.facts"}) {
		t.Errorf("got %+v, %v", r, err)
	}
	o.Verifier = verifier{err: context.DeadlineExceeded}
	if _, err = Run(t.Context(), o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	o.Topics = []string{"welfare.none"}
	if _, err = Run(t.Context(), o); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("got %v", err)
	}
}

// TestAPassingFaultIsNoFinding repairs a lost id in the pause before the second look.
func TestAPassingFaultIsNoFinding(t *testing.T) {
	db := database(t)
	put(t, db, 0, 0, "ll")
	exec(t, db, "DELETE FROM store.ids WHERE offset = 1")
	repaired := make(chan error)
	go func() {
		time.Sleep(700 * time.Millisecond)
		repaired <- db.Exec(context.WithoutCancel(t.Context()), "INSERT INTO store.ids (type, partition, offset) VALUES (3, 0, 1)")
	}()
	r, err := Run(t.Context(), Options{DB: db.Conn(), Topics: []string{theType.Topic}, Recheck: 3 * time.Second})
	if err != nil || !r.Balanced() {
		t.Errorf("got %+v, %v", r.Findings, err)
	}
	if err := <-repaired; err != nil {
		t.Fatal(err)
	}
}

func TestReportsForPeopleAndMachines(t *testing.T) {
	end, start, three := int64(15), int64(0), uint64(0)
	r := Report{
		Partitions: []Partition{
			{Topic: "welfare.demand.request", LogStart: &start, LogEnd: &end, To: 13, Blocks: 2, Read: 13, Loaded: 10, Duplicate: 1, Rejected: 2, OpenRejects: 1, Erased: 2, Rows: 8, Lag: 2, Contents: Contents{IDs: 8, Checksum: 0xabc}},
			{Topic: "welfare.demand.request", Partition: 1},
		},
		Findings:   []Finding{},
		Aggregates: &three,
	}
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	want := `
                   topic  partition   ledger  read  = loaded  + duplicate  + rejected  open  erased  superseded  rows  ids          checksum  skipped  lag
  welfare.demand.request          0  [0, 13)    13        10            1           2     1       2           0     8    8  0000000000000abc        0    2
                   total          1             13        10            1           2     1       2           0     8    8  0000000000000abc        0    2
rejects: 1 open, 0 redriven, 0 discarded
aggregates: 0 cells differ from their facts
balanced: every record read has its end, once
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got%s", got)
	}
	r.Findings = append(r.Findings, Finding{KindGap, "welfare.demand.request", 0, 3, 5, 2, "why"}, Finding{Kind: KindAggregates, Records: 7})
	b.Reset()
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(b.String(), "welfare.demand.request/0 [3, 5) gap: 2 not read (why)\naggregates: 7 aggregates differ\nNOT balanced: 2 findings\n") {
		t.Errorf("got %s", &b)
	}
	raw, err := json.Marshal(r)
	if err != nil || !strings.HasPrefix(string(raw), `{"balanced":false,"partitions":[{"topic":"welfare.demand.request","partition":0,"log_start":0,"log_end":15,`) ||
		!strings.Contains(string(raw), `"findings":[{"kind":"gap","topic":"welfare.demand.request","partition":0,"from_offset":3,"to_offset":5,"records":2,"detail":"why"}`) {
		t.Errorf("got %s, %v", raw, err)
	}
}

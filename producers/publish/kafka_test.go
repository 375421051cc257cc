package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/kafka"
)

func fakeCluster(t *testing.T, partitions int, topics ...string) (*kfake.Cluster, kafka.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(int32(partitions), topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, kafka.Cluster{Brokers: c.ListenAddrs()}
}

// schemaIDs gives each topic the number of its event plus 100.
func schemaIDs(_ context.Context, topic string) (int, error) {
	return 100 + event.ByTopic(topic).No, nil
}

// read returns the first n records of a topic's partition.
func read(t *testing.T, c kafka.Cluster, topic string, partition, n int) []kafkago.Message {
	t.Helper()
	r := kafkago.NewReader(kafkago.ReaderConfig{Brokers: c.Brokers, Topic: topic, Partition: partition, MaxWait: 50 * time.Millisecond})
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []kafkago.Message
	for range n {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			t.Fatalf("read %s partition %d after %d records: %v", topic, partition, len(out), err)
		}
		out = append(out, m)
	}
	return out
}

// TestPublishedRecordsAreTheEvents publishes the ISTAT file and reads everything back.
func TestPublishedRecordsAreTheEvents(t *testing.T) {
	territory, population := event.ByName("TerritoryUpserted"), event.ByName("PopulationReported")
	_, cluster := fakeCluster(t, 4, territory.Topic, population.Topic)
	want := map[string]string{} // JSON by eventId
	report, err := Run(t.Context(), Options{
		Files: []string{istatFile(t)}, Mapping: "istat_population", Cluster: cluster, SchemaID: schemaIDs,
		Check: tap(func(row *event.Row, _ func(Finding)) {
			want[row.Str(event.EventID)] = string(row.AppendJSON(nil))
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Published != 9*7899 || report.Published != report.Accepted() || report.Bytes == 0 {
		t.Fatalf("published %d of %d, %d bytes", report.Published, report.Accepted(), report.Bytes)
	}
	t.Logf("%d events in %v", report.Published, report.Elapsed)
	keys := map[string]int{}
	seen := 0
	for _, part := range report.Positions.Partitions() {
		ranges := report.Positions.Ranges(part)
		if len(ranges) != 1 || ranges[0].From != 0 {
			t.Errorf("%v: ranges %v", part, ranges)
		}
		typ := event.ByTopic(part.Topic)
		dec, err := event.NewDecoder(typ, typ.Schema)
		if err != nil {
			t.Fatal(err)
		}
		row := event.NewRow(typ)
		for _, m := range read(t, cluster, part.Topic, part.No, int(ranges[0].To)) {
			seen++
			if !bytes.Equal(m.Value[:5], []byte{0, 0, 0, 0, byte(100 + typ.No)}) {
				t.Fatalf("frame %x", m.Value[:5])
			}
			if err := dec.Decode(m.Value[event.FrameSize:], row); err != nil {
				t.Fatal(err)
			}
			if got := string(row.AppendJSON(nil)); got != want[row.Str(event.EventID)] {
				t.Fatalf("got %s, want %s", got, want[row.Str(event.EventID)])
			}
			delete(want, row.Str(event.EventID))
			if string(m.Key) != row.Str(typ.Key) {
				t.Fatalf("key %s", m.Key)
			}
			if p, ok := keys[typ.Topic+string(m.Key)]; ok && p != part.No {
				t.Fatalf("key %s is in partitions %d and %d", m.Key, p, part.No)
			}
			keys[typ.Topic+string(m.Key)] = part.No
			h := map[string]string{}
			for _, x := range m.Headers {
				h[x.Key] = string(x.Value)
			}
			if h["ce_id"] != row.Str(event.EventID) || h["ce_type"] != typ.Topic || h["ce_source"] != row.Str(event.Source) || h["ce_subject"] != row.Str(event.SourceRecordID) ||
				h["ce_time"] != "2022-12-31T23:00:00.000Z" || h["ce_dataschema"] != fmt.Sprintf("/schemas/ids/%d", 100+typ.No) || h["ce_specversion"] != "1.0" || h["content-type"] != "application/avro" {
				t.Fatalf("headers %v", h)
			}
		}
	}
	if len(want) > 0 || seen != report.Published {
		t.Errorf("%d events are not in Kafka; %d read", len(want), seen)
	}
}

// TestPublishingAgainGivesTheSameEvents: the second run's ids are those of the first.
func TestPublishingAgainGivesTheSameEvents(t *testing.T) {
	typ := event.ByName("CapacityChanged")
	_, cluster := fakeCluster(t, 1, typ.Topic)
	for i := range 2 {
		now := fixedNow().Add(time.Duration(i) * time.Hour)
		if _, err := Run(t.Context(), Options{Files: []string{write(t, "a.jsonl", capacityLine)}, Cluster: cluster, SchemaID: schemaIDs, Now: func() time.Time { return now }}); err != nil {
			t.Fatal(err)
		}
	}
	m := read(t, cluster, typ.Topic, 0, 2)
	if string(m[0].Headers[2].Value) != string(m[1].Headers[2].Value) {
		t.Errorf("ids %s and %s", m[0].Headers[2].Value, m[1].Headers[2].Value)
	}
}

// TestBadRecordsAreNotPublished: of a record that gives several events none is sent if one is bad.
func TestBadRecordsAreNotPublished(t *testing.T) {
	territory, population := event.ByName("TerritoryUpserted"), event.ByName("PopulationReported")
	_, cluster := fakeCluster(t, 1, territory.Topic, population.Topic)
	text := "cod_comune,denominazione,cod_catastale,sigla_prov,cod_prov,cod_regione,p0_2,p3_5,p6_10,p11_14,p15_17,p18_64,p65_200,tot\n" +
		"001001,A,A074,TO,001,01,44,49,115,83,64,1528,675,x\n001002,B,A109,TO,001,01,74,85,161,158,114,2242,847,3681\n"
	report, err := Run(t.Context(), Options{Files: []string{write(t, "a.csv", text)}, Mapping: "istat_population", Cluster: cluster, SchemaID: schemaIDs})
	if !errors.Is(err, ErrRejected) || report.Bad != 1 || report.Published != 9 {
		t.Fatalf("bad %d, published %d: %v", report.Bad, report.Published, err)
	}
	if k := string(read(t, cluster, territory.Topic, 0, 1)[0].Key); k != "001002" {
		t.Errorf("key %s", k)
	}
}

func TestAKilledBrokerSaysWhatToDo(t *testing.T) {
	typ := event.ByName("CapacityChanged")
	fake, cluster := fakeCluster(t, 1, typ.Topic)
	var lines strings.Builder
	for i := range 2100 {
		lines.WriteString(strings.Replace(capacityLine, `"r1"`, fmt.Sprintf(`"r%d"`, i), 1) + "\n")
	}
	n := 0
	report, err := Run(t.Context(), Options{
		Files: []string{write(t, "a.jsonl", lines.String())}, Cluster: cluster, SchemaID: schemaIDs,
		Check: tap(func(*event.Row, func(Finding)) {
			if n++; n == 2000 { // by then a batch is full and acknowledged
				fake.Close()
			}
		}),
	})
	if !errors.Is(err, ErrNotAcknowledged) || report.Published < 1000 || report.Published > 2000 {
		t.Fatalf("published %d: %v", report.Published, err)
	}
	for _, want := range []string{
		fmt.Sprintf("publish %d events to welfare.supply.capacity at 127.0.0.1:", 2100-report.Published), "is the broker running and reachable?",
		fmt.Sprintf("%d events of this run were acknowledged", report.Published), "duplicates",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// TestLargeEventsPass: batches stay below the broker's limit, whatever the mixture of sizes.
func TestLargeEventsPass(t *testing.T) {
	typ := event.ByName("CapacityChanged")
	_, cluster := fakeCluster(t, 1, typ.Topic)
	var lines strings.Builder
	for i, size := range []int{10, 700 << 10, 400 << 10, 300 << 10, 10, 1020 << 10, 200 << 10, 200 << 10, 200 << 10, 200 << 10, 200 << 10, 200 << 10} {
		lines.WriteString(strings.Replace(capacityLine, `"r1"`, fmt.Sprintf(`"r%d","reason":"%s"`, i, strings.Repeat("x", size)), 1) + "\n")
	}
	report, err := Run(t.Context(), Options{Files: []string{write(t, "a.jsonl", lines.String())}, Cluster: cluster, SchemaID: schemaIDs, Check: noRules})
	if err != nil || report.Published != 12 {
		t.Errorf("published %d: %v", report.Published, err)
	}
}

func TestNoBrokerNoTopicNoSchema(t *testing.T) {
	typ := event.ByName("CapacityChanged")
	file := write(t, "a.jsonl", capacityLine)
	_, cluster := fakeCluster(t, 1, "welfare.other")
	_, err := Run(t.Context(), Options{Files: []string{file}, Cluster: cluster, SchemaID: schemaIDs})
	if !errors.Is(err, ErrNotAcknowledged) || !strings.Contains(err.Error(), "create "+typ.Topic) {
		t.Errorf("no topic: %v", err)
	}
	gone := errors.New("404")
	_, err = Run(t.Context(), Options{Files: []string{file}, Cluster: cluster, SchemaID: func(context.Context, string) (int, error) { return 0, gone }})
	if !errors.Is(err, gone) || !strings.Contains(err.Error(), "welfare.supply.capacity-value") || !strings.Contains(err.Error(), "registry running") {
		t.Errorf("no schema: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, err = Run(t.Context(), Options{Files: []string{file}, Cluster: kafka.Cluster{Brokers: []string{addr}}, SchemaID: schemaIDs})
	if !errors.Is(err, ErrNotAcknowledged) || !strings.Contains(err.Error(), "is the broker running") {
		t.Errorf("no broker: %v", err)
	}
}

// fakeLedger books ten offsets more at each look.
type fakeLedger struct {
	ends     map[Partition]int64
	rejected map[int64]string
	dups     []int64
	err      error
	looks    int
}

func (f *fakeLedger) Ends(context.Context, []string) (map[Partition]int64, error) {
	f.looks++
	for p := range f.ends {
		f.ends[p] += 10
	}
	return maps.Clone(f.ends), f.err
}

func (f *fakeLedger) Rejected(_ context.Context, _ Partition, r Range, found func(int64, string)) error {
	for _, o := range slices.Sorted(maps.Keys(f.rejected)) {
		if o >= r.From && o < r.To {
			found(o, f.rejected[o])
		}
	}
	return nil
}

func (f *fakeLedger) Duplicates(_ context.Context, _ Partition, r Range, found func(int64)) error {
	for _, o := range f.dups {
		if o >= r.From && o < r.To {
			found(o)
		}
	}
	return nil
}

func TestWaitEndsWhenTheLedgerCoversWhatWasPublished(t *testing.T) {
	p := Partition{"welfare.supply.offer", 1}
	pos := &Positions{}
	for o := range int64(40) {
		if o%10 != 3 { // another publisher's
			pos.add(p, 100+o)
		}
	}
	if r := pos.Ranges(p); len(r) != 5 || r[0] != (Range{100, 103}) || pos.Bounds(p) != (Range{100, 140}) {
		t.Fatalf("ranges %v", r)
	}
	l := &fakeLedger{ends: map[Partition]int64{p: 90}, rejected: map[int64]string{99: "E01", 103: "E02", 110: "E03"}, dups: []int64{113, 120}}
	var states []int64
	report, err := Wait(t.Context(), l, pos, WaitOptions{Every: time.Millisecond, OnState: func(booked, total int64) { states = append(states, booked, total) }})
	if !errors.Is(err, ErrNotLoaded) || report.Loaded != 34 || report.Rejected != 1 || report.Duplicate != 1 || len(report.Rejects) != 1 || report.Rejects[0] != (Reject{p, 110, "E03"}) {
		t.Errorf("%+v: %v", report, err)
	}
	if l.looks != 5 || !slices.Equal(states, []int64{0, 40, 10, 40, 20, 40, 30, 40, 40, 40}) {
		t.Errorf("%d looks, states %v", l.looks, states)
	}
	l = &fakeLedger{ends: map[Partition]int64{p: 140}}
	if report, err := Wait(t.Context(), l, pos, WaitOptions{}); err != nil || report.Loaded != 36 {
		t.Errorf("%+v: %v", report, err)
	}
	if _, err := Wait(t.Context(), l, &Positions{}, WaitOptions{}); err != nil {
		t.Errorf("nothing published: %v", err)
	}
}

func TestWaitSaysWhoIsBehind(t *testing.T) {
	pos := &Positions{}
	pos.add(Partition{"welfare.supply.offer", 1}, 7)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := Wait(ctx, &fakeLedger{}, pos, WaitOptions{Every: time.Millisecond})
	if !errors.Is(err, ErrNotLoaded) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "welfare.supply.offer partition 1 is booked up to offset 0 of 8; is a loader running") {
		t.Errorf("%v", err)
	}
	down := errors.New("connection refused")
	l := &fakeLedger{err: down}
	if _, err := Wait(t.Context(), l, pos, WaitOptions{Every: time.Millisecond, Patient: 3}); !errors.Is(err, down) || l.looks != 3 {
		t.Errorf("%d looks: %v", l.looks, err)
	}
}

// FuzzRun feeds any bytes as each format: nothing panics, and no problem shows the marker.
func FuzzRun(f *testing.F) {
	f.Add(uint8(0), []byte(capacityLine))
	f.Add(uint8(1), []byte(capacityCSV))
	f.Add(uint8(2), []byte("PROT;DATA;COM;POSTI;OCC;TIPO;NOTE;UTENZA;DAL\n1;31/12/2023 10:30;1;1;1;P;;1;2023-01-01\n"))
	f.Add(uint8(3), []byte(`{"PROT":"1","COM":{"a":[1,{"b":2}]}}`))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		o := Options{Files: []string{"-"}, Stdin: bytes.NewReader(data), DryRun: true, Format: JSONL, MaxErrors: -1, OnProblem: func(p Problem) { _ = p.String() }}
		if kind&1 == 1 {
			o.Format = CSV
		}
		if kind&2 == 2 {
			o.Mapping = "testdata/mapped.yaml"
		}
		report, _ := Run(t.Context(), o)
		if report.Bad > report.Records {
			t.Errorf("%d bad of %d", report.Bad, report.Records)
		}
	})
}

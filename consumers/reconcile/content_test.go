package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/broker"
	wclickhouse "github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

// valid is a valid event of a type, number n of its kind.
func valid(t *event.Type, n int) *event.Row {
	row := validtest.Valid(t)
	row.Set(event.EventID, uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%s/%d", t.Name, n)).String())
	row.Set(event.SourceRecordID, fmt.Sprintf("record-%d", n))
	return row
}

// message is the record of an event, or of a value that is none.
func message(row *event.Row) kafkago.Message {
	key, value, headers := event.Message(row, row.Type.No)
	m := kafkago.Message{Key: key, Value: value, Time: row.Time(event.RecordedAt).Add(time.Second)}
	for _, h := range headers {
		m.Headers = append(m.Headers, kafkago.Header(h))
	}
	return m
}

// store stores events as the loader does, as one block of partition 0 from offset 0 on. A nil row is a
// rejected record with the value "x"; an event that comes again is a duplicate. Households are left out where they are erased, as the loader does.
func store(t *testing.T, typ *event.Type, rows []*event.Row, emptied ...int) {
	t.Helper()
	o, err := clickhouse.ParseDSN(testkit.ClickHouse(t).DSN)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ch.Dial(t.Context(), ch.Options{Address: o.Addr[0], Database: "store", User: o.Auth.Username, Password: o.Auth.Password})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	cols := record.NewColumns(typ)
	var hasher event.Hasher
	for i, row := range rows {
		meta := record.Meta{Offset: int64(i), End: record.Loaded, SchemaID: typ.No}
		if row == nil {
			sum := sha256.Sum256([]byte("x"))
			meta.End, meta.SchemaID, meta.Detail = record.Rejected, 0, fmt.Appendf(nil, `{"code":"P02","codes":["P02"],"value_hash":"%s"}`, hex.EncodeToString(sum[:]))
			cols.AppendRow(&meta, nil)
			continue
		}
		if slices.ContainsFunc(rows[:i], func(r *event.Row) bool { return r != nil && r.Str(event.EventID) == row.Str(event.EventID) }) {
			meta.End = record.Duplicate
			cols.AppendRow(&meta, nil)
			continue
		}
		meta.ContentHash = hasher.Sum(row)
		copy(meta.IDHash[:], idHash(typ, row))
		if slices.Contains(emptied, i) {
			row = row.Clone()
			row.SetNull(typ.MustField("householdPseudonym"))
		}
		cols.AppendRow(&meta, row.Vals)
	}
	cols.Seal(0, 0, int64(len(rows)), 7, time.Now())
	err = client.Do(t.Context(), ch.Query{Body: cols.Input.Into(typ.Table), Input: cols.Input, Settings: []ch.Setting{{Key: "insert_deduplicate", Value: "0"}}})
	if err != nil {
		t.Fatal(err)
	}
}

// empty empties the tables of a type.
func empty(t *testing.T, db *wclickhouse.DB, typ *event.Type) {
	t.Helper()
	for _, table := range []string{typ.Table, "ledger", "ids", "erased", "erased_households", "erasures", "subject_erased", "facts", "records", "superseded"} {
		exec(t, db, "TRUNCATE TABLE store."+table)
	}
}

func findings(r Report) string {
	var out []string
	for _, f := range r.Findings {
		line := fmt.Sprintf("%s %d [%d,%d)", f.Kind, f.Partition, f.From, f.To)
		if f.Kind == KindDiffers {
			line += " " + f.Detail
		}
		out = append(out, line)
	}
	return strings.Join(out, "|")
}

// TestRowsOfEveryEventHaveTheContentThatWasLoaded stores rows with all fields, with none that may be null,
// and with values at the limits, and hashes them again.
func TestRowsOfEveryEventHaveTheContentThatWasLoaded(t *testing.T) {
	db := database(t)
	for _, typ := range event.Types {
		empty(t, db, typ)
		full, bare, odd := valid(typ, 0), valid(typ, 1), valid(typ, 2)
		for i := range typ.Fields {
			f := &typ.Fields[i]
			if f.Nullable {
				bare.SetNull(i)
			}
			switch f.Kind {
			case event.Decimal:
				odd.SetInt(i, -123)
			case event.Date:
				odd.SetInt(i, -1)
			case event.Timestamp:
				odd.SetInt(i, -1)
			case event.Int, event.Long:
				odd.SetInt(i, -7)
			case event.Enum:
				odd.SetInt(i, int64(len(f.Symbols)-1))
			case event.Bool:
				odd.SetInt(i, 1)
			case event.Double:
				odd.Vals[i] = event.Value{Float: 0.1}
			case event.Strings:
				odd.Vals[i] = event.Value{List: [][]byte{[]byte("a"), []byte(""), []byte("è")}}
			case event.String:
				switch {
				case wclickhouse.IsPseudonym(*f):
					odd.Set(i, strings.Repeat("ab", 31)+"00")
				case f.Name != "comuneCode":
					odd.Set(i, "perché \x01 ")
				}
			}
		}
		store(t, typ, []*event.Row{full, bare, odd})
		r, err := Run(t.Context(), Options{DB: db.Conn(), Topics: []string{typ.Topic}, Recheck: -1, Content: true})
		if err != nil {
			t.Fatal(err)
		}
		p := r.Partitions[0].Contents
		if !r.Balanced() || p.Hashed != 3 || p.Rows != 3 || p.IDs != 3 || p.Checksum == 0 {
			t.Errorf("%s: %s; %+v", typ.Name, findings(r), p)
		}
		empty(t, db, typ)
	}
}

// logged makes a topic of records once, with its dead letters, and returns the events: two rejected among them.
func logged(t *testing.T, typ *event.Type) (kafka.Cluster, []*event.Row) {
	t.Helper()
	rows := []*event.Row{valid(typ, 0), valid(typ, 1), nil, valid(typ, 3), valid(typ, 3), nil, valid(typ, 6), valid(typ, 7)}
	cluster := kafka.Cluster{Brokers: testkit.Kafka(t)}
	if err := broker.EnsureTopics(t.Context(), cluster.Brokers[0], []broker.TopicSpec{{Name: typ.Topic, Partitions: 1}, {Name: typ.Topic + ".dlq", Partitions: 1}}); err != nil {
		t.Fatal(err)
	}
	bounds, err := readLogs(t.Context(), cluster, []*event.Type{typ})
	if err != nil {
		t.Fatal(err)
	}
	if bounds[place{typ.Topic, 0}].end > 0 {
		return cluster, rows
	}
	var msgs []kafkago.Message
	for _, row := range rows {
		if row == nil {
			msgs = append(msgs, kafkago.Message{Value: []byte("x"), Time: time.Now()})
			continue
		}
		msgs = append(msgs, message(row))
	}
	for _, m := range msgs {
		write(t, cluster, typ.Topic, m) // a batch each: brokers may look instants up by batch
	}
	write(t, cluster, typ.Topic+".dlq", letter(typ, 2), letter(typ, 2))
	return cluster, rows
}

func letter(typ *event.Type, offset int) kafkago.Message {
	return kafkago.Message{Value: []byte("x"), Time: time.Now(), Headers: []kafkago.Header{
		{Key: "wh_code", Value: []byte("P02")},
		{Key: "wh_topic", Value: []byte(typ.Topic)},
		{Key: "wh_partition", Value: []byte("0")},
		{Key: "wh_offset", Value: fmt.Append(nil, offset)},
	}}
}

func write(t *testing.T, cluster kafka.Cluster, topic string, msgs ...kafkago.Message) {
	t.Helper()
	conn, err := kafkago.DialLeader(t.Context(), "tcp", cluster.Brokers[0], topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteMessages(msgs...); err != nil {
		t.Fatal(err)
	}
}

func TestHandsInTheRowsAreSeen(t *testing.T) {
	typ := event.ByName("NeedAssessed")
	cluster, rows := logged(t, typ)
	db := database(t)
	table := "store." + typ.Table
	text := typ.Fields[typ.MustField("requestId")].Column
	update := func(what string) string {
		return "ALTER TABLE " + table + " UPDATE " + what + " WHERE _offset = 3 SETTINGS mutations_sync = 2"
	}
	for _, c := range []struct {
		name, spoil  string
		content, log string // findings with either
	}{
		{"nothing", "", "", ""},
		{"changed text", update(text + " = 'other'"), "content 0 [3,4)", "differs 0 [3,4) fields that differ: requestId"},
		{"changed number", update("record_version = 2"), "content 0 [3,4)", "differs 0 [3,4) fields that differ: recordVersion"},
		{"changed id", update("event_id = generateUUIDv4()"), "content 0 [3,4)", "differs 0 [3,4) fields that differ: eventId or source"},
		{"no symbol", update("outcome = 0"), "content 0 [3,4)", "differs 0 [3,4) fields that differ: outcome"},
		{"changed hash", update("_content_hash = unhex('00')"), "content 0 [3,4)", "differs 0 [3,4) loaded, and the event in the log is another"},
		{"not of the content", update("recorded_at = recorded_at + 1"), "", "differs 0 [3,4) fields that differ: recordedAt or traceparent"},
		{"rejected otherwise", "ALTER TABLE " + table + " UPDATE _detail = '{\"value_hash\":\"00\"}' WHERE _offset = 2 SETTINGS mutations_sync = 2", "", "differs 0 [2,3) rejected, and the value in the log is another"},
		{"no duplicate", "ALTER TABLE store.ids UPDATE content_hash = unhex('00') WHERE type = 4 AND offset = 3 SETTINGS mutations_sync = 2", "content 0 [3,4)", "differs 0 [4,5) duplicate, and no event is known with this id and content"},
		{"deleted row", "DELETE FROM " + table + " WHERE _offset = 3", "missing 0 [3,4)", "missing 0 [3,4)"},
		{
			"added row", "INSERT INTO " + table + " (_partition, _offset, _from, _to, _end) VALUES (0, 8, 8, 9, 'duplicate')",
			"", "log 0 [8,9)",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			empty(t, db, typ)
			store(t, typ, rows)
			if c.spoil != "" {
				exec(t, db, c.spoil)
			}
			o := Options{DB: db.Conn(), Topics: []string{typ.Topic}, Recheck: -1, Content: true, Schemas: &hubtest.Schemas{}}
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if got := findings(r); got != c.content {
				t.Errorf("content: got  %s\nwant %s", got, c.content)
			}
			o.Content, o.Log, o.Cluster = false, true, cluster
			if r, err = Run(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if got := findings(r); got != c.log {
				t.Errorf("log: got  %s\nwant %s", got, c.log)
			}
			if n := r.Partitions[0].Contents.Compared; n != 8 {
				t.Errorf("%d records compared", n)
			}
		})
	}
}

// TestColumnsAndHashesChangedTogether is a hand that knows how contents are hashed: the known id, and the
// log, tell.
func TestColumnsAndHashesChangedTogether(t *testing.T) {
	typ := event.ByName("NeedAssessed")
	cluster, rows := logged(t, typ)
	db := database(t)
	empty(t, db, typ)
	forged := rows[3].Clone()
	forged.SetInt(event.RecordVersion, 2)
	sum := forged.ContentHash()
	store(t, typ, rows)
	before := sums(t, Options{DB: db.Conn(), Topics: []string{typ.Topic}, Recheck: -1})
	exec(t, db, fmt.Sprintf("ALTER TABLE store.%s UPDATE record_version = 2, _content_hash = unhex('%x') WHERE _offset = 3 SETTINGS mutations_sync = 2", typ.Table, sum))
	r, err := Run(t.Context(), Options{DB: db.Conn(), Cluster: cluster, Topics: []string{typ.Topic}, Recheck: -1, Content: true, Log: true, Schemas: &hubtest.Schemas{}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := findings(r), "content 0 [3,4)|differs 0 [3,4) loaded, and the event in the log is another"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if after := r.Partitions[0].Contents; before == after.Checksum {
		t.Errorf("the checksum is %s as before", before)
	}
}

func sums(t *testing.T, o Options) Checksum {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r.Partitions[0].Contents.Checksum
}

// TestErasedHouseholdsAreNoChange has a household that an erasure took out, by the loader or later, one that
// a hand took out, and one of a person whose erasure does not reach so far.
func TestErasedHouseholdsAreNoChange(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	db := database(t)
	empty(t, db, typ)
	who := strings.Repeat("0b", 31) + "00"
	rows := []*event.Row{valid(typ, 0), valid(typ, 1), valid(typ, 2)}
	household := typ.MustField("householdPseudonym")
	rows[0].Set(household, who)
	rows[1].Set(household, strings.Repeat("0c", 32))
	rows[2].Set(household, who)
	rows[2].SetInt(event.OccurredAt, rows[2].Vals[event.OccurredAt].Int+1)
	store(t, typ, rows, 0, 1, 2)
	exec(t, db, fmt.Sprintf("INSERT INTO store.erasures (family, pseudonym, requested_at) VALUES ('%s', unhex('%s'), fromUnixTimestamp64Milli(%d))", typ.Family, who, rows[0].Vals[event.OccurredAt].Int))
	r, err := Run(t.Context(), Options{DB: db.Conn(), Topics: []string{typ.Topic}, Recheck: -1, Content: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := findings(r), "content 0 [1,3)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	empty(t, db, typ)
}

func TestWindowsBoundWhatIsLookedAt(t *testing.T) {
	typ := event.ByName("NeedAssessed")
	cluster, rows := logged(t, typ)
	db := database(t)
	empty(t, db, typ)
	store(t, typ, rows)
	exec(t, db, "ALTER TABLE store."+typ.Table+" UPDATE record_version = 2 WHERE _offset = 3 SETTINGS mutations_sync = 2")
	three, four, none := uint64(3), uint64(4), uint32(1)
	early := rows[0].Time(event.RecordedAt)
	for _, c := range []struct {
		name   string
		w      Window
		hashed uint64
		want   string
	}{
		{"before", Window{To: &three}, 2, ""},
		{"the row", Window{From: &three, To: &four}, 1, "content 0 [3,4)|differs 0 [3,4) fields that differ: recordVersion"},
		{"after", Window{From: &four}, 2, ""},
		{"since", Window{Since: early.Add(2 * time.Second)}, 3, "content 0 [3,4)|differs 0 [3,4) fields that differ: recordVersion"}, // from the rejected one on
		{"until", Window{Until: early}, 0, ""},
		{"partition", Window{Partition: &none}, 0, ""},
	} {
		r, err := Run(t.Context(), Options{
			DB: db.Conn(), Cluster: cluster, Topics: []string{typ.Topic}, Recheck: -1, Content: true, Log: true, Schemas: &hubtest.Schemas{}, Window: c.w,
		})
		if err != nil {
			t.Fatal(err)
		}
		if c.w.Partition != nil {
			if len(r.Partitions) != 0 {
				t.Errorf("%s: %+v", c.name, r.Partitions)
			}
			continue
		}
		if got := findings(r); got != c.want || r.Partitions[0].Contents.Hashed != c.hashed {
			t.Errorf("%s: got  %s, %d hashed\nwant %s, %d", c.name, got, r.Partitions[0].Contents.Hashed, c.want, c.hashed)
		}
	}
	empty(t, db, typ)
}

// TestRejectsAndDeadLetters has a letter twice, a reject without one, a letter without a reject, and rejects
// whose letters are expired.
func TestRejectsAndDeadLetters(t *testing.T) {
	typ := event.ByName("BenefitDecided")
	cluster, rows := logged(t, typ)
	db := database(t)
	empty(t, db, typ)
	store(t, typ, rows)
	o := Options{DB: db.Conn(), Cluster: cluster, Topics: []string{typ.Topic}, Recheck: -1, Letters: true}
	look := func(want string, letters, expired uint64) {
		t.Helper()
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if p := r.Partitions[0].Contents; findings(r) != want || p.Letters != letters || p.Expired != expired {
			t.Errorf("got  %s, %d letters, %d expired\nwant %s, %d, %d", findings(r), p.Letters, p.Expired, want, letters, expired)
		}
	}
	look("no-letter 0 [5,6)", 1, 0)
	exec(t, db, "INSERT INTO store.dispositions (topic, partition, offset, state, at) VALUES ('"+typ.Topic+"', 0, 5, 'discarded', now())")
	look("", 1, 0)
	exec(t, db, "TRUNCATE TABLE store.dispositions")
	write(t, cluster, typ.Topic+".dlq", letter(typ, 7))
	look("no-letter 0 [5,6)|stray-letter 0 [7,8)", 2, 0)
	hubtest.DeleteRecords(t, cluster, typ.Topic+".dlq", 3)
	look("", 0, 2)
	empty(t, db, typ)
}

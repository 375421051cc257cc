package clickhouse_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// rec is one stored record: columns and SQL expressions. Columns that are left out have defaults.
type rec map[string]string

// p is a pseudonym of 64 equal digits, as stored.
func p(digit string) string { return "toFixedString(unhex('" + strings.Repeat(digit, 64) + "'), 32)" }

func text(s string) string { return "'" + s + "'" }

// put inserts a block [from, from+len(recs)) as the loader does.
func put(t *testing.T, db *clickhouse.DB, table string, partition, from int, recs ...rec) {
	t.Helper()
	topic := ""
	for _, typ := range event.Types {
		if typ.Table == table {
			topic = typ.Topic
		}
	}
	columns := map[string]bool{}
	for i, r := range recs {
		full := rec{
			"_partition": fmt.Sprint(partition), "_offset": fmt.Sprint(from + i), "_from": fmt.Sprint(from), "_to": fmt.Sprint(from + len(recs)),
			"_end": "'loaded'", "_content_hash": fmt.Sprintf("SHA256('%s %d %d')", table, partition, from+i), "_hash_version": "1",
			"_id_hash": fmt.Sprintf("substring(SHA256('id %s %d %d'), 1, 16)", table, partition, from+i), "_loaded_at": "'2025-01-01 00:00:00'",
			"source": "'urn:welfare:a:b'", "source_record_id": fmt.Sprintf("'r%d-%d'", partition, from+i), "record_version": "1",
			"occurred_at": "'2024-05-01 10:00:00'",
		}
		maps.Copy(full, r)
		recs[i] = full
		for c := range full {
			columns[c] = true
		}
	}
	names := slices.Sorted(maps.Keys(columns))
	var rows, exprs []string
	for _, r := range recs {
		var values []string
		for _, c := range names {
			v, ok := r[c]
			if !ok {
				v = "0" // of _gone and the like
			}
			values = append(values, v)
		}
		rows = append(rows, "("+strings.Join(values, ", ")+")")
	}
	for i, c := range names {
		exprs = append(exprs, fmt.Sprintf("tupleElement(r, %d) AS %s", i+1, c))
	}
	// One arrayJoin gives one chunk, as the loader's native block is; see InsertOnce.
	query := fmt.Sprintf("INSERT INTO store.%s (%s) SELECT %s FROM (SELECT arrayJoin([%s]) AS r)", table, strings.Join(names, ", "), strings.Join(exprs, ", "), strings.Join(rows, ", "))
	token := fmt.Sprintf("%s/%d/%d-%d", topic, partition, from, from+len(recs))
	if err := db.Exec(clickhouse.InsertOnce(t.Context(), token), query); err != nil {
		t.Fatalf("insert into %s: %v", table, err)
	}
}

// show returns the rows of a query, one string each; the query gives one text column.
func show(t *testing.T, db *clickhouse.DB, query string) []string {
	t.Helper()
	rows, err := db.Conn().Query(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func expect(t *testing.T, db *clickhouse.DB, query string, want ...string) {
	t.Helper()
	if got := show(t, db, query); !slices.Equal(got, want) {
		t.Errorf("%s\n got %q\nwant %q", query, got, want)
	}
}

// inForce lists partition:offset of <table>_current.
func inForce(table string) string {
	return "SELECT concat(_partition, ':', _offset) FROM welfare." + table + "_current ORDER BY _partition, _offset"
}

func visible(table string) string {
	return "SELECT concat(_partition, ':', _offset) FROM welfare." + table + " ORDER BY _partition, _offset"
}

func id(s string) rec { return rec{"source_record_id": text(s)} }

func with(r rec, more ...string) rec {
	out := maps.Clone(r)
	for i := 0; i < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}

func TestTokenDropsARepeatedBlockAndHealsViews(t *testing.T) {
	db := migrated(t)
	block := func() {
		put(t, db, "population_reported", 0, 0,
			rec{}, rec{"_end": "'duplicate'"}, rec{"_end": "'rejected'"}, rec{"occurred_at": "'2024-06-01 00:00:00'"})
	}
	books := `SELECT concat(read, ' ', loaded, ' ', duplicate, ' ', rejected, ' ', gone, ' ', max_occurred_at, ' ', from_offset, '-', to_offset) FROM store.ledger`
	block()
	block()
	expect(t, db, books, "4 2 1 1 0 2024-06-01 00:00:00.000 0-4")
	expect(t, db, "SELECT toString(count()) FROM store.population_reported", "4")
	expect(t, db, "SELECT concat(type, ' ', offset) FROM store.ids ORDER BY offset", "9 0", "9 3")

	// As after a crash between the table and its views: their rows are gone, and so are their tokens.
	for _, table := range []string{"store.ids", "store.ledger"} {
		if err := db.Exec(t.Context(), "TRUNCATE TABLE "+table); err != nil {
			t.Fatal(err)
		}
	}
	heal := clickhouse.InsertOnce(t.Context(), "welfare.ref.population/0/0-4")
	if err := db.Exec(heal, "INSERT INTO store.population_reported SELECT * FROM store.population_reported WHERE _partition = 0 AND _offset >= 0 AND _offset < 4 ORDER BY _offset"); err != nil {
		t.Fatal(err)
	}
	expect(t, db, books, "4 2 1 1 0 2024-06-01 00:00:00.000 0-4")
	expect(t, db, "SELECT toString(count()) FROM store.population_reported", "4")
	expect(t, db, "SELECT concat(type, ' ', offset) FROM store.ids ORDER BY offset", "9 0", "9 3")
}

func TestCurrentTakesTheHighestVersion(t *testing.T) {
	db := migrated(t)
	put(t, db, "service_requested", 0, 0,
		with(id("a"), "record_version", "2"), with(id("a"), "record_version", "1"), id("b"),
		with(id("a"), "source", text("urn:welfare:other:x")))
	put(t, db, "service_requested", 1, 0, with(id("b"), "record_version", "7"))
	expect(t, db, visible("service_requested"), "0:0", "0:1", "0:2", "0:3", "1:0")
	expect(t, db, inForce("service_requested"), "0:0", "0:3", "1:0")
}

func TestContestedVersionTakesTheLowestHash(t *testing.T) {
	db := migrated(t)
	low, high := "unhex(repeat('11', 32))", "unhex(repeat('22', 32))"
	put(t, db, "service_requested", 0, 0,
		with(id("a"), "_content_hash", high), with(id("a"), "_content_hash", low), with(id("a"), "_content_hash", low),
		with(id("b"), "_content_hash", low), with(id("b"), "_content_hash", low)) // b: the same content twice is no conflict
	expect(t, db, inForce("service_requested"), "0:1", "0:3")
	expect(t, db, "SELECT concat(kind, ' ', event_type, ' ', id, ' v', record_version, ' ', winner_offset, ' ', substring(winner_hash, 1, 2), ' ', loser_topic, ' ', loser_offset, ' ', substring(loser_hash, 1, 2)) FROM welfare.conflicts",
		"W08 ServiceRequested a v1 1 11 welfare.demand.request 0 22")
	expect(t, db, "SELECT concat(code, ' ', offset) FROM welfare.flags WHERE code = 'W08' ORDER BY offset", "W08 0", "W08 1", "W08 2")
}

func revocation(record, of, upTo, version string, more ...string) rec {
	return with(rec{
		"source_record_id": text(record), "record_version": version, "revoked_source": text("urn:welfare:a:b"),
		"revoked_source_record_id": text(of), "revoked_up_to_version": upTo, "revoked_type": "CAST(NULL AS Nullable(String))",
	}, more...)
}

func TestRevocationHidesVersions(t *testing.T) {
	db := migrated(t)
	// Before the record and after it.
	put(t, db, "record_revoked", 0, 0, revocation("x1", "early", "1", "1"), revocation("x2", "late", "1", "1"))
	put(t, db, "service_requested", 0, 0, id("early"), id("late"), id("other"), with(id("late"), "source", text("urn:welfare:c:d")))
	put(t, db, "need_assessed", 0, 0, id("early"), id("kept"))
	expect(t, db, inForce("service_requested"), "0:2", "0:3")
	expect(t, db, inForce("need_assessed"), "0:1")
	expect(t, db, visible("service_requested"), "0:0", "0:1", "0:2", "0:3")
	// A version above the revoked one is in force; a revoked highest version does not bring back a lower one.
	put(t, db, "service_requested", 0, 4, with(id("early"), "record_version", "2"), with(id("other"), "record_version", "2"))
	put(t, db, "record_revoked", 0, 2, revocation("x3", "other", "2", "1"))
	expect(t, db, inForce("service_requested"), "0:3", "0:4")
	// Lifted by a higher version of the revocation, in whatever order the two come.
	put(t, db, "record_revoked", 1, 0, revocation("x2", "late", "0", "2"))
	expect(t, db, inForce("service_requested"), "0:1", "0:3", "0:4")
	// Typed: the assessment only. And RecordRevoked itself is never hidden.
	put(t, db, "record_revoked", 1, 1, revocation("x4", "kept", "9", "1", "revoked_type", "CAST('NeedAssessed' AS Nullable(String))"),
		revocation("x5", "x4", "9", "1"))
	put(t, db, "service_requested", 0, 6, id("kept"))
	expect(t, db, inForce("need_assessed"))
	expect(t, db, inForce("service_requested"), "0:1", "0:3", "0:4", "0:6")
	expect(t, db, inForce("record_revoked"), "0:0", "0:2", "1:0", "1:1", "1:2")
}

func TestErasedRowsAreNotRead(t *testing.T) {
	db := migrated(t)
	null := "CAST(NULL AS Nullable(FixedString(32)))"
	household := func(d string) string { return "CAST(" + p(d) + " AS Nullable(FixedString(32)))" }
	put(t, db, "service_requested", 0, 0,
		with(id("a"), "pseudonym", p("a"), "household_pseudonym", null),
		with(id("late"), "pseudonym", p("a"), "household_pseudonym", null, "occurred_at", "'2024-07-01 00:00:00'"), // after the request: ordinary
		with(id("b"), "pseudonym", p("b"), "household_pseudonym", household("a")),
		with(id("c"), "pseudonym", p("c"), "household_pseudonym", household("d")),
		rec{"_gone": "1", "pseudonym": p("0"), "household_pseudonym": null})
	put(t, db, "deprivation_observed", 0, 0, with(id("a"), "pseudonym", p("a")))
	put(t, db, "attendance_recorded", 0, 0, with(id("a"), "student", p("e")))
	put(t, db, "feedback_recorded", 0, 0, with(id("a"), "respondent", household("e")), with(id("b"), "respondent", null))
	erasure := func(d, scope, at string) rec {
		return rec{"pseudonym": p(d), "scope": text(scope), "requested_at": text(at)}
	}
	put(t, db, "subject_erased", 0, 0, erasure("a", "DEMAND", "2024-06-01 00:00:00"), erasure("e", "ALL", "2024-06-01 00:00:00"), erasure("c", "UNKNOWN", "2024-06-01 00:00:00"))
	for _, v := range []func(string) string{visible, inForce} {
		expect(t, db, v("service_requested"), "0:1", "0:2", "0:3")
		expect(t, db, v("deprivation_observed"), "0:0")
		expect(t, db, v("attendance_recorded"))
		expect(t, db, v("feedback_recorded"), "0:1")
		expect(t, db, v("subject_erased"), "0:0", "0:1", "0:2")
	}
	expect(t, db, "SELECT concat(_offset, ' ', pseudonym, ' ', ifNull(household_pseudonym, 'NULL')) FROM welfare.service_requested WHERE _offset >= 2 ORDER BY _offset",
		"2 "+strings.Repeat("b", 64)+" NULL", "3 "+strings.Repeat("c", 64)+" "+strings.Repeat("d", 64))
	expect(t, db, "SELECT concat(topic, ' ', loaded, ' ', erased, ' ', superseded, ' ', rows) FROM welfare.books WHERE topic = 'welfare.demand.request'",
		"welfare.demand.request 5 1 0 4") // the row of a is hidden, and booked as erased once it is removed
}

func TestSupersededRowsAreNotRead(t *testing.T) {
	db := migrated(t)
	put(t, db, "service_requested", 0, 0, id("a"))
	put(t, db, "service_requested", 1, 5, with(id("a"), "record_version", "3"), id("b"))
	// The eraser and the settler may repeat a row.
	for range 2 {
		if err := db.Exec(t.Context(), `INSERT INTO store.superseded SELECT 'welfare.demand.request', 1, 5, 0, 0, 'urn:welfare:a:b',
			'00000000-0000-0000-0000-000000000001', unhex(repeat('22', 32)), unhex(repeat('11', 32)), now64(3)`); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, db, visible("service_requested"), "0:0", "1:6")
	expect(t, db, inForce("service_requested"), "0:0", "1:6")
	expect(t, db, "SELECT concat(partition, ' ', loaded, ' ', erased, ' ', superseded, ' ', rows) FROM welfare.books ORDER BY partition", "0 1 0 0 1", "1 2 0 1 1")
	expect(t, db, "SELECT concat(kind, ' ', event_type, ' ', id, ' ', winner_partition, ':', winner_offset, ' ', loser_partition, ':', loser_offset) FROM welfare.conflicts",
		"E07 ServiceRequested 00000000-0000-0000-0000-000000000001 0:0 1:5")
}

func TestBooksOfRejectsAndDuplicates(t *testing.T) {
	db := migrated(t)
	put(t, db, "benefit_decided", 2, 10,
		rec{"_end": "'rejected'", "_schema_id": "7", "_detail": `'{"code":"P04","codes":["P04"],"field":"","message":"cut short","source":null,"event_id":null,"value_hash":"ab"}'`},
		rec{"_end": "'rejected'", "_schema_id": "7", "_detail": `'{"code":"E07","codes":["E07"],"field":"eventId","message":"other content","source":"urn:welfare:a:b","event_id":"00000000-0000-0000-0000-000000000002","value_hash":"cd","of_partition":1,"of_offset":3,"of_hash":"11","hash":"22"}'`},
		rec{"_end": "'duplicate'", "_schema_id": "7", "_detail": `'{"source":"urn:welfare:a:b","event_id":"00000000-0000-0000-0000-000000000003","of_partition":1,"of_offset":4}'`})
	if err := db.Exec(t.Context(), `INSERT INTO store.dispositions SELECT 'welfare.demand.benefit', 2, 11, 'redriven', 0, 99, 'me', 'fixed', now64(3)`); err != nil {
		t.Fatal(err)
	}
	expect(t, db, "SELECT concat(offset, ' ', event_type, ' ', ifNull(source, 'NULL'), ' ', ifNull(event_id, 'NULL'), ' ', code, ' ', arrayStringConcat(codes, ','), ' ', field, ' ', message, ' ', schema_id, ' ', value_hash, ' ', state, ' ', ifNull(toString(new_offset), 'NULL')) FROM welfare.rejected ORDER BY offset",
		"10 BenefitDecided NULL NULL P04 P04  cut short 7 ab open NULL",
		"11 BenefitDecided urn:welfare:a:b 00000000-0000-0000-0000-000000000002 E07 E07 eventId other content 7 cd redriven 99")
	expect(t, db, "SELECT concat(topic, ' ', partition, ' ', offset, ' ', source, ' ', event_id, ' ', of_topic, ' ', of_partition, ' ', of_offset) FROM welfare.duplicates",
		"welfare.demand.benefit 2 12 urn:welfare:a:b 00000000-0000-0000-0000-000000000003 welfare.demand.benefit 1 4")
	expect(t, db, "SELECT concat(kind, ' ', id, ' ', winner_partition, ':', winner_offset, ' ', winner_hash, ' ', loser_partition, ':', loser_offset, ' ', loser_hash) FROM welfare.conflicts",
		"E07 00000000-0000-0000-0000-000000000002 1:3 11 2:11 22")
	expect(t, db, "SELECT concat(read, ' ', loaded, ' ', duplicate, ' ', rejected, ' ', from_offset, ' ', to_offset) FROM welfare.ledger", "3 0 1 2 10 13")
}

func TestValuesReadAsInTheEvent(t *testing.T) {
	db := migrated(t)
	put(t, db, "capacity_changed", 0, 0, rec{
		"unit": "'BED'", "operational": "toDecimal64('12.5', 3)", "funded": "CAST(NULL AS Nullable(Decimal(14, 3)))",
		"_flag_bits": "130", "effective_from": "'2024-01-01 00:00:00.123'",
	})
	put(t, db, "service_requested", 0, 0, rec{"comune_code": "'015146'", "urgent": "true"})
	expect(t, db, "SELECT concat(_topic, ' ', unit, ' ', operational, ' ', ifNull(toString(funded), 'NULL'), ' ', effective_from, ' ', arrayStringConcat(_flags, ',')) FROM welfare.capacity_changed WHERE unit = 'BED'",
		"welfare.supply.capacity BED 12.5 NULL 2024-01-01 00:00:00.123 W21,W90")
	expect(t, db, "SELECT concat(comune_code, ' ', length(comune_code), ' ', toTypeName(comune_code), ' ', urgent) FROM welfare.service_requested WHERE comune_code = '015146'", "015146 6 String true")
}

// TestReadersTakeOverFromTheAggregator: behind aggregated_to the positions in store.erased count, ahead
// of it each reader looks for itself.
func TestReadersTakeOverFromTheAggregator(t *testing.T) {
	db := migrated(t)
	null := "CAST(NULL AS Nullable(FixedString(32)))"
	of := func(record string) rec {
		return with(id(record), "pseudonym", p("a"), "household_pseudonym", null)
	}
	put(t, db, "service_requested", 0, 0, of("found"), of("not found"))
	put(t, db, "subject_erased", 0, 0, rec{"pseudonym": p("a"), "scope": "'DEMAND'", "requested_at": "'2024-06-01 00:00:00'"})
	expect(t, db, visible("service_requested"))
	for topic, to := range map[string]int{"welfare.demand.request": 2, "welfare.control.erasure": 1} {
		if err := db.Exec(t.Context(), fmt.Sprintf("INSERT INTO store.contrib (grp, nomenclature, area, month, mark) SELECT 0, '%s', '#books', 0, %d", topic, to)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Exec(t.Context(), `INSERT INTO store.erased SELECT 'welfare.demand.request', 0, 0, 's', '00000000-0000-0000-0000-000000000001', now64(3)`); err != nil {
		t.Fatal(err)
	}
	expect(t, db, visible("service_requested"), "0:1")
	// A late row, and a row of a partition that the aggregator has not met.
	put(t, db, "service_requested", 0, 2, of("late"))
	put(t, db, "service_requested", 3, 0, of("elsewhere"))
	// A new erasure reaches the old rows.
	expect(t, db, visible("service_requested"), "0:1")
	put(t, db, "subject_erased", 0, 1, rec{"pseudonym": p("a"), "scope": "'ALL'", "requested_at": "'2024-06-01 00:00:00'"})
	expect(t, db, visible("service_requested"))
	expect(t, db, "SELECT concat(topic, ' ', partition, ' ', log_end, ' ', ledgered_to, ' ', settled_to, ' ', aggregated_to) FROM welfare.freshness ORDER BY topic, partition",
		"welfare.control.erasure 0 2 2 0 1", "welfare.demand.request 0 3 3 0 2", "welfare.demand.request 3 1 1 0 0")
}

// TestLargeBlockHeals inserts a block as one native block and again from what is stored, as a loader
// does that takes over, once the sort has many chunks to merge.
func TestLargeBlockHeals(t *testing.T) {
	db := migrated(t)
	const rows = 200_000
	ctx := clickhouse.InsertOnce(t.Context(), "large")
	batch, err := db.Conn().PrepareBatch(ctx, "INSERT INTO store.service_requested (_partition, _offset, _from, _to, _end, comune_code, _content_hash)")
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := batch.Append(uint32(0), uint64(i), uint64(0), uint64(rows), "loaded", fmt.Sprintf("%06d", i*7919%8000), fmt.Sprintf("%032d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := db.Exec(ctx, "INSERT INTO store.service_requested SELECT * FROM store.service_requested WHERE _partition = 0 AND _offset < 200000 ORDER BY _offset"); err != nil {
			t.Fatal(err)
		}
		expect(t, db, "SELECT concat(count(), ' ', (SELECT count() FROM store.ids), ' ', (SELECT count() FROM store.ledger)) FROM store.service_requested", "200000 200000 1")
	}
}

package load

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// TestLoadKnowsWhatAnotherInstanceStored sends copies, and a conflict, to the loader that did not load the first.
func TestLoadKnowsWhatAnotherInstanceStored(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	w := newWorld(t, 2)
	soon := func(o *Options) { o.refresh = time.Nanosecond }
	one, _ := w.start(&hubtest.Schemas{}, soon)
	two, _ := w.start(&hubtest.Schemas{}, soon)
	for end := time.Now().Add(time.Minute); one.assigned() != len(event.Types) || two.assigned() != len(event.Types); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the loaders have %d and %d partitions", one.assigned(), two.assigned())
		}
	}
	w.publish(message(hubtest.Valid(typ, 0), 0), message(hubtest.Valid(typ, 1), 1))
	w.await(typ.Topic, 2)
	if n := w.count("uniqExact(owner) FROM store.ledger WHERE topic = ?", typ.Topic); n != 2 {
		t.Fatalf("%d loaders loaded the two partitions", n)
	}
	conflict := hubtest.Valid(typ, 1)
	conflict.Set(event.OrgCode, "F206")
	w.publish(message(hubtest.Valid(typ, 0), 1), message(hubtest.Valid(typ, 1), 0), message(conflict, 0))
	w.await(typ.Topic, 5)
	if got, want := w.books(typ.Topic), (Counts{5, 2, 2, 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func (l *Loader) assigned() int {
	l.stats.mu.Lock()
	defer l.stats.mu.Unlock()
	return l.stats.partitions
}

// TestLoadStoresNothingOfTheErased sends events of an erased subject: one up to the request, one after it,
// one whose household the subject is, one of another family, and the first one again.
func TestLoadStoresNothingOfTheErased(t *testing.T) {
	erased, request, attendance := event.ByName("SubjectErased"), event.ByName("ServiceRequested"), event.ByName("AttendanceRecorded")
	w := newWorld(t, 1)
	w.start(&hubtest.Schemas{}, func(o *Options) { o.refresh = time.Nanosecond })
	sum := sha256.Sum256([]byte("the erased"))
	who := hex.EncodeToString(sum[:])

	erasure := hubtest.Valid(erased, 0)
	erasure.Set(event.SubjectErasedPseudonym, who)
	if err := event.SetText(erasure, event.SubjectErasedScope, "DEMAND"); err != nil {
		t.Fatal(err)
	}
	before, after, household, school := hubtest.Valid(request, 0), hubtest.Valid(request, 1), hubtest.Valid(request, 2), hubtest.Valid(attendance, 0)
	before.Set(request.Subject, who)
	after.Set(request.Subject, who)
	household.Set(request.Field("householdPseudonym"), who)
	school.Set(attendance.Subject, who)
	at := before.Vals[event.OccurredAt].Int
	erasure.SetInt(event.SubjectErasedRequestedAt, at)
	after.SetInt(event.OccurredAt, at+1)

	w.publish(message(erasure, 0))
	w.await(erased.Topic, 1)
	if got, want := w.books(erased.Topic), (Counts{1, 1, 0, 0}); got != want {
		t.Fatalf("the erasure ends as %+v", got)
	}
	for end := time.Now().Add(time.Minute); w.count("count() FROM store.erasures") == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the erasure is not in force")
		}
	}
	w.publish(message(before, 0), message(after, 0), message(household, 0), message(before, 0))
	w.publish(message(school, 0))
	w.await(request.Topic, 4)
	w.await(attendance.Topic, 1)

	if got, want := w.books(request.Topic), (Counts{4, 3, 1, 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := w.count("sum(erased) FROM welfare.books WHERE topic = ?", request.Topic); n != 1 {
		t.Errorf("%d erased in the books", n)
	}
	if n := w.count("sum(rows) FROM welfare.books WHERE topic = ?", request.Topic); n != 2 {
		t.Errorf("%d rows in the books", n)
	}
	if n := w.count("count() FROM welfare.service_requested"); n != 2 {
		t.Errorf("%d rows", n)
	}
	if n := w.count("count() FROM welfare.attendance_recorded"); n != 1 {
		t.Errorf("%d rows of another family", n)
	}
	for _, column := range []string{"pseudonym", "household_pseudonym"} {
		if n := w.count("countIf("+column+" = unhex(?) AND _offset != 1) FROM store.service_requested", who); n != 0 {
			t.Errorf("%d rows still have it as %s", n, column)
		}
	}
	if n := w.count("countIf(source != '' OR source_record_id != '' OR toUInt128(event_id) != 0 OR comune_code != unhex('000000000000')) FROM store.service_requested WHERE _gone = 1"); n != 0 {
		t.Error("the row of the erased has contents")
	}
	if n := w.count("count() FROM store.service_requested WHERE _gone = 1 AND toUnixTimestamp64Milli(occurred_at) = ?", at); n != 1 {
		t.Errorf("%d rows keep the instant", n)
	}
	if n := w.count("count() FROM store.facts WHERE type = 3 AND (partition, offset) NOT IN (SELECT _partition, _offset FROM store.service_requested WHERE _gone = 0)"); n != 0 {
		t.Errorf("%d facts of the erased", n)
	}
}

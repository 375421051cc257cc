package simulate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
)

var update = flag.Bool("update", false, "rewrite golden files")

// rough is a configuration in which every disturbance is frequent.
func rough(seed uint64, count int) Config {
	return Config{
		Seed: seed, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Count: count,
		Duplicates: 0.03, Corrections: 0.05, Revocations: 0.01, Late: 0.05, Invalid: 0.03, Erasures: 0.005, Unmapped: 0.02,
		Territories: true, MaxValue: 2000, Truth: true,
	}
}

func digest(cfg Config) string {
	h := sha256.New()
	s := New(cfg)
	for m, ok := s.Next(); ok; m, ok = s.Next() {
		fmt.Fprintf(h, "%s %x %x %d\n", m.Topic, m.Key, m.Value, m.Timestamp.UnixMilli())
		for _, hd := range m.Headers {
			fmt.Fprintf(h, "%s=%s\n", hd.Key, hd.Value)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestSameSeedGivesSameBytes(t *testing.T) {
	got := digest(rough(7, 5000))
	if again := digest(rough(7, 5000)); again != got {
		t.Fatalf("two runs differ: %s, %s", got, again)
	}
	if other := digest(rough(8, 5000)); other == got {
		t.Fatal("another seed gives the same bytes")
	}
	const file = "testdata/golden.sha256"
	if *update {
		if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.TrimSpace(string(want)) {
		t.Errorf("5,000 messages have digest %s, golden %s; rerun with -update if the change is meant", got, bytes.TrimSpace(want))
	}
}

func TestMessagesAreWhatTheCatalogueSays(t *testing.T) {
	s := New(rough(3, 20_000))
	decoders := map[string]*event.Decoder{}
	seen := map[string]int{}
	for m, ok := s.Next(); ok; m, ok = s.Next() {
		if m.Expect.End == model.Rejected {
			seen[m.Expect.Codes[0]]++
			continue
		}
		seen[m.Row.Type.Name]++
		key, value, headers := event.Message(m.Row, m.Row.Type.No)
		if !bytes.Equal(key, m.Key) || !bytes.Equal(value, m.Value) || fmt.Sprint(headers) != fmt.Sprint(m.Headers) {
			t.Fatalf("message %d of %s differs from event.Message", s.sent, m.Topic)
		}
		d := decoders[m.Topic]
		if d == nil {
			d = mustDecoder(t, m.Row.Type)
			decoders[m.Topic] = d
		}
		row := event.NewRow(m.Row.Type)
		if err := d.Decode(m.Value[event.FrameSize:], row); err != nil {
			t.Fatalf("message %d of %s: %v", s.sent, m.Topic, err)
		}
		if row.ContentHash() != m.Row.ContentHash() {
			t.Fatalf("message %d of %s decodes to another content", s.sent, m.Topic)
		}
		at, recorded := row.Time(event.OccurredAt), row.Time(event.RecordedAt)
		if at.After(recorded) || recorded.After(m.Timestamp) {
			t.Fatalf("message %d of %s: occurred %s, recorded %s, sent %s", s.sent, m.Topic, at, recorded, m.Timestamp)
		}
	}
	for _, ty := range event.Types {
		if seen[ty.Name] == 0 {
			t.Errorf("no %s among the messages", ty.Name)
		}
	}
	for _, v := range violations {
		if seen[v.code] == 0 {
			t.Errorf("no %s among the messages", v.code)
		}
	}
}

func mustDecoder(t *testing.T, ty *event.Type) *event.Decoder {
	t.Helper()
	writer, err := avro.ParseWithCache(ty.Raw, "", &avro.SchemaCache{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := event.NewDecoder(ty, writer)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func BenchmarkNext(b *testing.B) {
	cfg := rough(1, 0)
	cfg.Truth, cfg.MaxValue, cfg.Step = false, 0, time.Second
	s := New(cfg)
	b.ReportAllocs()
	for b.Loop() {
		s.Next()
	}
}

// TestHistoriesAgree checks undisturbed traffic: what a fact is about was there before it.
func TestHistoriesAgree(t *testing.T) {
	s := New(Config{Seed: 11, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Count: 20_000})
	requested, offered, waiting, granted, sessions := map[string]int64{}, map[string]bool{}, map[string]int64{}, map[string]int64{}, map[string]int64{}
	replies := map[string]bool{}
	for m, ok := s.Next(); ok; m, ok = s.Next() {
		r := m.Row
		at := r.Vals[event.OccurredAt].Int
		after := func(seen map[string]int64, id string) {
			if first, ok := seen[id]; !ok || first > at {
				t.Fatalf("message %d, %s: what it is about was not there at %d", s.sent, r.Type.Name, at)
			}
		}
		switch r.Type.Name {
		case "ServiceOfferPublished":
			offered[r.Str(event.ServiceOfferPublishedServiceID)] = true
		case "CapacityChanged":
			if !offered[r.Str(event.CapacityChangedServiceID)] {
				t.Fatalf("message %d: capacity of an unknown offer", s.sent)
			}
			if r.Vals[event.CapacityChangedOperational].Int > r.Vals[event.CapacityChangedAuthorised].Int {
				t.Fatalf("message %d: more operational than authorised", s.sent)
			}
		case "ServiceRequested":
			requested[r.Str(event.ServiceRequestedRequestID)] = at
		case "NeedAssessed":
			after(requested, r.Str(event.NeedAssessedRequestID))
		case "WaitingListChanged":
			id := r.Str(event.WaitingListChangedRequestID)
			after(requested, id)
			if r.Is(event.WaitingListChangedChange, "ENTER") {
				waiting[id] = at
			} else {
				after(waiting, id)
			}
		case "BenefitDecided":
			after(requested, r.Str(event.BenefitDecidedRequestID))
			if r.Is(event.BenefitDecidedDecision, "GRANTED") {
				granted[r.Str(event.BenefitDecidedBenefitID)] = at
			} else {
				after(granted, r.Str(event.BenefitDecidedBenefitID))
			}
		case "ServiceDelivered":
			after(granted, r.Str(event.ServiceDeliveredBenefitID))
			if r.Vals[event.ServiceDeliveredAmountTotal].Int != r.Vals[event.ServiceDeliveredQuotaEnte].Int+
				r.Vals[event.ServiceDeliveredQuotaUtente].Int+r.Vals[event.ServiceDeliveredQuotaSsn].Int {
				t.Fatalf("message %d: parts do not add up to the total", s.sent)
			}
		case "ActivitySessionHeld":
			sessions[r.Str(event.ActivitySessionHeldSessionID)] = r.Vals[event.ActivitySessionHeldMinutes].Int
		case "AttendanceRecorded":
			minutes, ok := sessions[r.Str(event.AttendanceRecordedSessionID)]
			if !ok || r.Vals[event.AttendanceRecordedMinutesPresent].Int > minutes {
				t.Fatalf("message %d: attendance of %d minutes, session has %d", s.sent, r.Vals[event.AttendanceRecordedMinutesPresent].Int, minutes)
			}
		case "FeedbackRecorded":
			if to := r.Vals[event.FeedbackRecordedInReplyTo]; !to.Null && !replies[string(to.Bytes)] {
				t.Fatalf("message %d: reply to an unknown feedback", s.sent)
			}
			replies[r.Str(event.FeedbackRecordedFeedbackID)] = true
		}
	}
	if len(granted) < 100 || len(sessions) < 10 {
		t.Errorf("%d benefits, %d sessions: too few to show anything", len(granted), len(sessions))
	}
}

func TestValidateReportsAllProblems(t *testing.T) {
	if err := rough(1, 1).Validate(); err != nil {
		t.Errorf("a good configuration is refused: %v", err)
	}
	err := Config{Duplicates: 0.6, Corrections: 0.6, Late: 2, Count: -1}.Validate()
	for _, want := range []string{"rate of late: got 2", "1.2 in all", "start: got year 1", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

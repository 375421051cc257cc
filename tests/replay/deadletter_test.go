package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/consumers/deadletter"
	"github.com/welfarehub/welfarehub/consumers/load"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

func (h *hub) publish(msgs ...kafka.Message) {
	h.t.Helper()
	if err := h.writer.WriteMessages(h.t.Context(), msgs...); err != nil {
		h.t.Fatal(err)
	}
	h.settle()
}

func (h *hub) desk() *deadletter.Desk {
	return &deadletter.Desk{DB: h.db, Cluster: h.cluster, Schemas: h.schemas}
}

func (h *hub) redrive(d *deadletter.Desk, s deadletter.Selection, o deadletter.Redrive) deadletter.Redriven {
	h.t.Helper()
	o.Who, o.Why = "tester", "a test"
	dry := o
	dry.DryRun = true
	expected, err := d.Redrive(h.t.Context(), s, dry)
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := d.Redrive(h.t.Context(), s, o)
	if err != nil {
		h.t.Fatal(err)
	}
	if fmt.Sprint(expected) != fmt.Sprint(r) {
		h.t.Errorf("a dry redrive counts %+v, the redrive %+v", expected, r)
	}
	h.settle()
	return r
}

func (h *hub) openRejects() int { return h.count("count() FROM welfare.rejected WHERE state = 'open'") }

func TestRedriveAfterARuleIsFixed(t *testing.T) {
	h := newHub(t, 3)
	stop := h.load(func(o *load.Options) { o.MaxValueBytes = 1000 })
	typ := event.ByName("ServiceRequested")
	const unknown = 4711
	var msgs []kafka.Message
	for n := range 30 {
		msgs = append(msgs, hubtest.Message(hubtest.Valid(typ, n), unknown))
	}
	feedback := event.ByName("FeedbackRecorded")
	for n := range 3 { // larger than the limit of today
		row := hubtest.Valid(feedback, n)
		row.SetNull(feedback.MustField("likert"))
		row.Set(feedback.MustField("text"), strings.Repeat("x", 1000))
		msgs = append(msgs, hubtest.Message(row, feedback.No))
	}
	msgs = append(msgs, kafka.Message{Topic: typ.Topic, Value: []byte("no frame")}, kafka.Message{Topic: typ.Topic, Key: []byte("k")})
	for n := range 20 {
		msgs = append(msgs, hubtest.Message(hubtest.Valid(typ, 100+n), typ.No))
	}
	h.publish(msgs...)
	if open := h.openRejects(); open != 35 {
		t.Fatalf("%d open rejects, want 35", open)
	}
	d := h.desk()
	p03 := deadletter.Selection{Codes: []string{"P03"}}

	h.sub("nothing passes yet", func(t *testing.T) {
		if r := h.redrive(d, p03, deadletter.Redrive{}); r.Published != 0 || r.Failing != 30 || r.Codes["P03"] != 30 {
			t.Errorf("%+v", r)
		}
	})

	h.schemas.Register(unknown, typ.Raw)
	answers := map[deadletter.Answer]int{}
	if _, err := d.Explain(t.Context(), deadletter.Selection{State: "open"}, func(all []deadletter.Explained) error {
		for _, e := range all {
			answers[e.Answer]++
			if e.Answer == deadletter.Fails && (e.Code == "" || e.Message == "") {
				t.Errorf("%+v", e)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if answers[deadletter.Passes] != 33 || answers[deadletter.Fails] != 2 {
		t.Errorf("%v", answers)
	}

	h.sub("cut off between sending and writing down", func(t *testing.T) {
		cut := errors.New("cut off")
		broken := h.desk()
		broken.AfterPublish = func() error { return cut }
		if _, err := broken.Redrive(t.Context(), deadletter.Selection{Codes: []string{"P03"}, Limit: 10}, deadletter.Redrive{Who: "w", Why: "y"}); !errors.Is(err, cut) {
			t.Fatal(err)
		}
		h.settle()
		if n := h.count("count() FROM welfare.service_requested"); n != 30 {
			t.Errorf("%d rows, want the 20 and the 10 that were sent", n)
		}
	})

	h.sub("redrive", func(t *testing.T) {
		r := h.redrive(d, p03, deadletter.Redrive{})
		if r.Published != 30 || r.Failing != 0 || r.Without != 0 {
			t.Errorf("%+v", r)
		}
		if n := h.count("count() FROM welfare.service_requested"); n != 50 {
			t.Errorf("%d rows, want 50", n)
		}
		if n := h.count("sum(duplicate) FROM store.ledger"); n != 10 {
			t.Errorf("%d duplicates, want the 10 that were sent twice", n)
		}
		if n := h.count("count() FROM welfare.rejected WHERE code = 'P03' AND state = 'redriven' AND new_offset IS NOT NULL"); n != 30 {
			t.Errorf("%d letters are marked as redriven", n)
		}
		if n := h.count(`count() FROM welfare.rejected AS r INNER JOIN store.service_requested AS s ON s._partition = r.new_partition AND s._offset = r.new_offset
			WHERE r.code = 'P03' AND s._end IN ('loaded', 'duplicate')`); n != 30 {
			t.Errorf("%d of the new places hold the events", n)
		}
	})

	h.sub("a second redrive changes nothing", func(t *testing.T) {
		tables := h.checksums()
		if r := h.redrive(d, p03, deadletter.Redrive{}); r.Published != 0 || r.Selected != 0 {
			t.Errorf("%+v", r)
		}
		h.same("after a second redrive", tables)
	})

	stop()
	h.load(func(o *load.Options) { o.MaxValueBytes = 1 << 20 })
	h.sub("a limit that is raised", func(t *testing.T) {
		r := h.redrive(d, deadletter.Selection{Codes: []string{"P06"}}, deadletter.Redrive{})
		if r.Published != 3 {
			t.Errorf("%+v", r)
		}
		if n := h.count("count() FROM welfare.rejected WHERE code = 'P06' AND state = 'open'"); n != 0 {
			t.Errorf("%d are open", n)
		}
		if n := h.count("count() FROM welfare.feedback_recorded"); n != 3 {
			t.Errorf("%d rows, want 3", n)
		}
	})

	h.sub("all, and what fails is rejected again", func(t *testing.T) {
		if r := h.redrive(d, deadletter.Selection{}, deadletter.Redrive{}); r.Published != 0 || r.Failing != 2 {
			t.Errorf("%+v", r)
		}
		if r := h.redrive(d, deadletter.Selection{}, deadletter.Redrive{All: true}); r.Published != 2 || h.openRejects() != 2 {
			t.Errorf("%+v, %d open", r, h.openRejects())
		}
	})

	h.sub("discard the rest", func(t *testing.T) {
		open := uint64(h.openRejects())
		if n, err := d.Discard(t.Context(), deadletter.Selection{}, "tester", "a test", true); err != nil || n != open {
			t.Fatal(n, err)
		}
		if n, err := d.Discard(t.Context(), deadletter.Selection{}, "tester", "a test", false); err != nil || n != open {
			t.Fatal(n, err)
		}
		r := h.balanced("at the end")
		for _, p := range r.Partitions {
			if p.OpenRejects != 0 {
				t.Errorf("%s/%d has %d open rejects", p.Topic, p.Partition, p.OpenRejects)
			}
		}
	})
}

func TestLettersShowNoPersonalData(t *testing.T) {
	h := newHub(t, 1)
	h.load(nil)
	typ := event.ByName("ServiceRequested")
	const person = "RSSMRA85T10A562S"
	leaking := hubtest.Valid(typ, 1)
	leaking.Set(event.SourceRecordID, person)
	wrong := hubtest.Valid(typ, 2)
	wrong.Set(typ.Subject, "Mario Rossi")
	late := hubtest.Valid(typ, 3)
	late.SetInt(event.OccurredAt, late.Vals[event.RecordedAt].Int+3600_000)
	feedback := event.ByName("FeedbackRecorded")
	said := hubtest.Valid(feedback, 4)
	said.SetInt(event.OccurredAt, said.Vals[event.RecordedAt].Int+3600_000)
	h.publish(hubtest.Message(leaking, typ.No), hubtest.Message(wrong, typ.No), hubtest.Message(late, typ.No), hubtest.Message(said, feedback.No))
	d := h.desk()
	pseudonym := late.Str(typ.Subject)
	for _, offset := range []int64{0, 1, 2} {
		s, err := d.Show(t.Context(), deadletter.Position{Topic: typ.Topic, Offset: offset})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		for _, secret := range []string{person, "Rossi", pseudonym} {
			if strings.Contains(text, secret) {
				t.Errorf("offset %d shows %s: %s", offset, secret, text)
			}
		}
		switch offset {
		case 0:
			if !strings.Contains(s.Note, "publish it again") {
				t.Errorf("a withheld letter does not say what to do: %q", s.Note)
			}
		case 2:
			if !strings.Contains(text, pseudonym[:8]+"…") || len(s.Fields) != len(typ.Fields) {
				t.Errorf("%s", text)
			}
		}
	}
	s, err := d.Show(t.Context(), deadletter.Position{Topic: feedback.Topic, Offset: 0})
	if err != nil {
		t.Fatal(err)
	}
	if text := feedback.Field("text"); text >= 0 && !said.Vals[text].Null && strings.Contains(fmt.Sprint(s.Fields), said.Str(text)) {
		t.Errorf("a free text is shown: %v", s.Fields)
	}
	if _, err := d.Show(t.Context(), deadletter.Position{Topic: typ.Topic, Offset: 99}); !errors.Is(err, deadletter.ErrNoLetter) {
		t.Errorf("a position that was not rejected: %v", err)
	}
	r := h.redrive(d, deadletter.Selection{}, deadletter.Redrive{All: true})
	if r.Withheld != 1 || r.Published != 3 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	n, without, err := d.Export(context.Background(), deadletter.Selection{State: "redriven"}, &out)
	if err != nil || n != 3 || without != 0 || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("%d letters exported, %d without, %v", n, without, err)
	}
	if strings.Contains(out.String(), person) {
		t.Error("an export holds a codice fiscale")
	}
}

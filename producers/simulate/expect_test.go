package simulate

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// reading is what a hub needs to judge messages.
type reading struct {
	t        *testing.T
	rules    *validate.Validator
	maxValue int
	decoders map[[2]string]*event.Decoder // by topic and event of the writer's schema
}

// verdict reads a message as the hub does, and returns the codes of its violations.
func (h *reading) verdict(m *Message) []string {
	h.t.Helper()
	ty := event.ByTopic(m.Topic)
	switch {
	case len(m.Value) == 0:
		return []string{"P01"}
	case len(m.Value) <= event.FrameSize || m.Value[0] != 0:
		return []string{"P02"}
	case len(m.Value) > h.maxValue:
		return []string{"P06"}
	}
	id := int(binary.BigEndian.Uint32(m.Value[1:]))
	if id < 1 || id > len(event.Types) {
		return []string{"P03"}
	}
	key := [2]string{ty.Topic, event.Types[id-1].Name}
	dec := h.decoders[key]
	if dec == nil {
		var err error
		if dec, err = event.NewDecoder(ty, event.Types[id-1].Schema); errors.Is(err, event.ErrOtherEvent) {
			return []string{"P08"}
		} else if err != nil {
			h.t.Fatal(err)
		}
		h.decoders[key] = dec
	}
	row := event.NewRow(ty)
	if err := dec.Decode(m.Value[event.FrameSize:], row); err != nil {
		var d *event.DecodeError
		if !errors.As(err, &d) {
			h.t.Fatal(err)
		}
		return []string{d.Code}
	}
	var res validate.Result
	h.rules.Check(row, validate.Meta{Key: m.Key, Timestamp: m.Timestamp.UnixMilli(), Headers: m.Headers}, &res)
	return res.Codes()
}

func TestMessagesEndAsTheValidatorSays(t *testing.T) {
	h := &reading{t, validate.New(), 2000, map[[2]string]*event.Decoder{}}
	for _, seed := range []uint64{1, 2, 3} {
		cfg := rough(seed, 8000)
		cfg.Invalid, cfg.Truth, cfg.MaxValue = 0.1, false, h.maxValue
		s := New(cfg)
		for m, ok := s.Next(); ok; m, ok = s.Next() {
			got := h.verdict(&m)
			var want []string
			if m.Expect.End == model.Rejected && m.Expect.Codes[0] != "E07" { // which the message alone does not tell
				want = m.Expect.Codes
			}
			if !slices.Equal(got, want) {
				t.Errorf("seed %d, message %d of %s: codes %v, expected %v", seed, s.sent, m.Topic, got, want)
			}
		}
	}
}

func TestEveryRejectingRuleIsBroken(t *testing.T) {
	for _, r := range validate.Rules() {
		if r.Code.Rejects() && !slices.ContainsFunc(violations[:], func(v violation) bool { return v.code == string(r.Code) }) {
			t.Errorf("no violation of %s", r.Code)
		}
	}
}

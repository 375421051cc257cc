package simulate

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
)

// TopicTruth is what the hub must have made of the messages of a topic.
type TopicTruth struct {
	Sent      int            `json:"sent"`
	Loaded    int            `json:"loaded"` // erased ones among them
	Duplicate int            `json:"duplicate"`
	Rejected  map[string]int `json:"rejected"` // by first code
	Erased    int            `json:"erased"`
	Current   int            `json:"current"`  // records in force
	Checksum  uint64         `json:"checksum"` // of them: sum of the first 8 bytes, big-endian, of their content hashes
}

// Truth is what the hub must show after all messages so far, in whatever order it took them.
type Truth struct {
	Topics       map[string]TopicTruth   `json:"topics"`
	SupplyDemand []model.SupplyDemandRow `json:"supply_demand"`
	Model        *model.Model            `json:"-"`
}

// truth feeds the reference model as messages are made.
type truth struct {
	model    *model.Model
	sent     map[string]int
	rejected map[string]map[string]int
	n        int64
}

func newTruth(ref model.Reference) *truth {
	return &truth{model: model.New(ref), sent: map[string]int{}, rejected: map[string]map[string]int{}}
}

func (t *truth) book(m *Message) {
	t.sent[m.Topic]++
	t.n++
	end := model.Rejected
	if m.Expect.End != model.Rejected || m.Expect.Codes[0] == "E07" {
		end = t.model.Apply(model.Record{Topic: m.Topic, Offset: t.n, Row: m.Row.Clone()})
	}
	if end != m.Expect.End {
		panic(fmt.Sprintf("BUG: a message of %s was made to end as %s, and ends as %s", m.Topic, m.Expect.End, end))
	}
	if end == model.Rejected {
		if t.rejected[m.Topic] == nil {
			t.rejected[m.Topic] = map[string]int{}
		}
		t.rejected[m.Topic][m.Expect.Codes[0]]++
	}
}

// Truth returns what the hub must show now. It needs Config.Truth, without which it is empty.
func (s *Simulator) Truth() Truth {
	out := Truth{Topics: map[string]TopicTruth{}}
	if s.truth == nil {
		return out
	}
	ends := s.truth.model.Ends()
	for topic, sent := range s.truth.sent {
		b := ends[topic]
		t := TopicTruth{Sent: sent, Loaded: b.Loaded, Duplicate: b.Duplicate, Erased: b.Erased, Rejected: s.truth.rejected[topic]}
		for _, st := range s.truth.model.Current(event.ByTopic(topic)) {
			t.Current++
			t.Checksum += binary.BigEndian.Uint64(st.Hash[:8])
		}
		out.Topics[topic] = t
	}
	out.SupplyDemand, out.Model = s.truth.model.SupplyDemand(), s.truth.model
	return out
}

// WriteJSON writes the truth as one indented JSON document.
func (t Truth) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(t); err != nil {
		return fmt.Errorf("write truth: %w", err)
	}
	return nil
}

// Package simulate makes up a welfare system for demos, load tests and comparisons: offers, requests,
// waiting lists, benefits, deliveries, schools and surveys whose histories agree with one another,
// disturbed on purpose by copies, corrections, revocations, late facts, erasures and invalid messages.
//
// It promises the same bytes for the same Config, and it says of each message how the hub must end it.
package simulate

import (
	"math/rand/v2"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/model"
)

// End is how the hub must end a message.
type End = model.End

// Expected is what the hub must make of a message.
type Expected struct {
	End   End
	Codes []string // of a reject; the first is the one that counts
}

// Message is a Kafka record. Its slices and its Row are valid until the next call of Next.
type Message struct {
	Topic     string
	Key       []byte
	Value     []byte // Confluent frame and Avro
	Headers   []event.Header
	Timestamp time.Time
	Row       *event.Row // nil where the value cannot be decoded
	Expect    Expected
}

const (
	defaultMaxOpen = 50_000
	ringSize       = 4096 // records that can be sent again, corrected, revoked or erased
	ringEvery      = 4    // one in so many facts enters the ring
	dayMs          = int64(24 * time.Hour / time.Millisecond)
	span           = 2 * 365 * 24 * time.Hour
)

// Simulator makes messages. Not safe for concurrent use.
type Simulator struct {
	cfg      Config
	rng      *rand.Rand
	now      int64   // simulated clock, milliseconds
	at       int64   // when the fact under construction occurred
	step     float64 // mean simulated time between messages, milliseconds
	live     bool
	sent     int
	ids      map[string]int // schema ids
	rows     [17]*event.Row // one row under construction per event, by number
	counters [17]uint64     // records made
	arena    []byte         // text of the row under construction
	value    []byte
	headers  []event.Header

	world
	ring     []*event.Row // clones of facts that were sent and loaded, in their highest version
	ringNext int
	facts    int
	held     []*event.Row // clones to send before anything else
	revoked  *event.Row   // last revocation, to be lifted
	mutation int          // next violation
	truth    *truth
}

// New returns a simulator at its first message.
func New(cfg Config) *Simulator {
	if cfg.MaxOpen == 0 {
		cfg.MaxOpen = defaultMaxOpen
	}
	if cfg.Step == 0 && cfg.Count > 0 {
		cfg.Step = span / time.Duration(cfg.Count)
	}
	s := &Simulator{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x77656c66617265)), now: cfg.Start.UnixMilli(),
		step: float64(cfg.Step) / float64(time.Millisecond), ids: map[string]int{},
	}
	for _, t := range event.Types {
		s.rows[t.No] = event.NewRow(t)
		s.ids[t.Topic] = t.No
		if id, ok := cfg.SchemaIDs[t.Topic]; ok {
			s.ids[t.Topic] = id
		}
	}
	s.world = newWorld(s.rng)
	if cfg.Truth {
		ref := cfg.Reference
		if ref.Regions == nil {
			ref = model.Shipped()
		}
		s.truth = newTruth(ref)
	}
	return s
}

// Now is the simulated clock.
func (s *Simulator) Now() time.Time { return time.UnixMilli(s.now).UTC() }

// Live moves the simulated clock forward to t, if t is later. From then on the clock stands between
// calls, and cases are hurried on: in minutes of traffic hardly one would be due.
func (s *Simulator) Live(t time.Time) {
	s.now = max(s.now, t.UnixMilli())
	s.step, s.live = 0, true
}

// Next makes the next message, or says that Count was reached.
func (s *Simulator) Next() (Message, bool) {
	if s.cfg.Count > 0 && s.sent >= s.cfg.Count {
		return Message{}, false
	}
	s.sent++
	s.now += int64(s.step * 2 * s.rng.Float64())
	m := s.message()
	if s.truth != nil {
		s.truth.book(&m)
	}
	return m, true
}

func (s *Simulator) message() Message {
	if len(s.held) > 0 {
		r := s.held[0]
		s.held = s.held[1:]
		return s.finish(r, Expected{End: model.Loaded})
	}
	pick := s.rng.Float64()
	chosen := func(rate float64) bool {
		pick -= rate
		return pick < 0
	}
	if len(s.ring) > 0 {
		switch {
		case chosen(s.cfg.Duplicates):
			return s.duplicate()
		case chosen(s.cfg.Corrections):
			return s.correction()
		case chosen(s.cfg.Revocations):
			return s.revocation()
		case chosen(s.cfg.Erasures):
			return s.erasure()
		case chosen(s.cfg.Invalid):
			return s.invalid()
		}
	}
	s.at = s.now
	if s.rng.Float64() < s.cfg.Late {
		s.at -= dayMs * (30 + s.rng.Int64N(670))
		return s.fact(s.lateFact())
	}
	return s.fact(s.nextFact())
}

// fact sends a valid row, and remembers some of them.
func (s *Simulator) fact(r *event.Row) Message {
	s.facts++
	if s.facts%ringEvery == 0 && r.Type.Family != event.FamilyControl {
		s.remember(r)
	}
	return s.finish(r, Expected{End: model.Loaded})
}

func (s *Simulator) remember(r *event.Row) {
	if len(s.ring) < ringSize {
		s.ring = append(s.ring, r.Clone())
		return
	}
	s.ring[s.ringNext] = r.Clone()
	s.ringNext = (s.ringNext + 1) % ringSize
}

// finish makes the Kafka record of a row, as event.Message does but in reused memory.
func (s *Simulator) finish(r *event.Row, want Expected) Message {
	t := r.Type
	id := s.ids[t.Topic]
	s.value = r.AppendAvro(event.AppendFrame(s.value[:0], id))
	// The texts below must not move rows that alias the arena; appending never changes what is there.
	ceTime := s.text(func(b []byte) []byte { return r.Time(event.OccurredAt).AppendFormat(b, "2006-01-02T15:04:05.000Z") })
	schema := s.text(func(b []byte) []byte { return appendInt(append(b, "/schemas/ids/"...), int64(id)) })
	s.headers = append(s.headers[:0],
		event.Header{Key: "content-type", Value: contentType},
		event.Header{Key: "ce_specversion", Value: specVersion},
		event.Header{Key: "ce_id", Value: r.Vals[event.EventID].Bytes},
		event.Header{Key: "ce_source", Value: r.Vals[event.Source].Bytes},
		event.Header{Key: "ce_type", Value: s.text(func(b []byte) []byte { return append(b, t.Topic...) })},
		event.Header{Key: "ce_subject", Value: r.Vals[event.SourceRecordID].Bytes},
		event.Header{Key: "ce_time", Value: ceTime},
		event.Header{Key: "ce_dataschema", Value: schema})
	if tp := r.Vals[event.Traceparent]; !tp.Null {
		s.headers = append(s.headers, event.Header{Key: "traceparent", Value: tp.Bytes})
	}
	return Message{
		Topic: t.Topic, Key: r.Vals[t.Key].Bytes, Value: s.value, Headers: s.headers,
		Timestamp: s.Now(), Row: r, Expect: want,
	}
}

var contentType, specVersion = []byte("application/avro"), []byte("1.0")

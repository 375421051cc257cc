package deadletter

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
)

// Answer is what would become of a letter that were published again now.
type Answer string

// The answers.
const (
	Passes    Answer = "passes"    // it would be loaded
	Duplicate Answer = "duplicate" // it would end as duplicate: its event was loaded meanwhile
	Fails     Answer = "fails"     // it would be rejected again
	Withheld  Answer = "withheld"  // it holds nothing of the original: the source must publish the event again
	Cut       Answer = "cut"       // its value is not whole: the same
)

// Explained is a letter judged by the rules of today.
type Explained struct {
	Letter  `json:"-"`
	Was     Reject   `json:"rejected"`
	Answer  Answer   `json:"answer"`
	Code    string   `json:"code,omitempty"` // where it fails
	Codes   []string `json:"codes,omitempty"`
	Field   string   `json:"field,omitempty"`
	Message string   `json:"message,omitempty"`
}

// Explain judges the letters of a selection by today's rules, and calls take with each batch. It returns how
// many rejects of the selection have no letter left.
func (d *Desk) Explain(ctx context.Context, s Selection, take func([]Explained) error) (without uint64, err error) {
	j := d.judge()
	return d.letters(ctx, s, func(letters []Letter) error {
		explained, err := j.all(ctx, letters)
		if err != nil {
			return err
		}
		return take(explained)
	})
}

// judge judges letters.
type judge struct {
	d       *Desk
	readers map[string]*record.Reader
	hasher  event.Hasher
}

func (d *Desk) judge() *judge { return &judge{d: d, readers: map[string]*record.Reader{}} }

func (j *judge) reader(topic string) *record.Reader {
	r := j.readers[topic]
	if r == nil {
		r = record.NewReader(event.ByTopic(topic), j.d.Schemas, j.d.maxValueBytes())
		j.readers[topic] = r
	}
	return r
}

const (
	withheldMessage = "the letter holds neither key, value nor headers, for a codice fiscale is in them; the source must correct the event and publish it again"
	cutMessage      = "the letter holds the beginning of the value at most, for it was too large or could not be read; the source must publish the event again"
)

// all judges letters of one topic.
func (j *judge) all(ctx context.Context, letters []Letter) ([]Explained, error) {
	out := make([]Explained, len(letters))
	ids := make([][16]byte, len(letters))
	for i := range letters {
		l := &letters[i]
		e := &out[i]
		e.Letter, e.Was = *l, l.Reject
		switch {
		case l.Withheld():
			e.Answer, e.Message = Withheld, withheldMessage
			continue
		case l.Cut() || !l.whole():
			e.Answer, e.Message = Cut, cutMessage
			continue
		}
		v, err := j.read(ctx, l)
		if err != nil {
			return nil, err
		}
		if v.Why != nil {
			e.Answer, e.Code, e.Codes, e.Field, e.Message = Fails, v.Why.Code, v.Why.Codes, v.Why.Field, v.Why.Message
			continue
		}
		e.Answer = Passes
		row := j.reader(l.Topic).Row
		uuid, _ := event.ParseUUID(row.Vals[event.EventID].Bytes)
		event.IDHash(&ids[i], l.Topic, row.Vals[event.Source].Bytes, uuid)
	}
	return out, j.compare(ctx, out, ids)
}

// read judges one letter as if it were published now.
func (j *judge) read(ctx context.Context, l *Letter) (record.Verdict, error) {
	return j.reader(l.Topic).Read(ctx, l.now())
}

// now is the letter's original as if it were published now.
func (l *Letter) now() *wkafka.Message {
	return &wkafka.Message{Message: kafka.Message{Key: l.Key, Value: l.Value, Headers: l.Headers, Time: time.Now()}}
}

// stored is the content that is known under an id.
type stored struct {
	ID      string `ch:"id"`
	Content string `ch:"content"`
	Version uint8  `ch:"version"`
}

// compare finds, of the letters that pass, those whose id is known, or which an earlier one of them has.
func (j *judge) compare(ctx context.Context, all []Explained, ids [][16]byte) error {
	var in strings.Builder
	for i := range all {
		if all[i].Answer != Passes {
			continue
		}
		if in.Len() > 0 {
			in.WriteByte(',')
		}
		fmt.Fprintf(&in, "unhex('%x')", ids[i])
	}
	if in.Len() == 0 {
		return nil
	}
	t := event.ByTopic(all[0].Topic)
	var known []stored
	err := j.d.DB.Select(ctx, &known, fmt.Sprintf(`SELECT toString(id_hash) AS id, toString(argMin(content_hash, (partition, offset))) AS content, argMin(hash_version, (partition, offset)) AS version
		FROM store.ids WHERE type = %d AND id_hash IN (%s) GROUP BY id_hash`, t.No, in.String()))
	if err != nil {
		return fmt.Errorf("look up ids of %s: %w", t.Topic, err)
	}
	first := map[[16]byte]stored{}
	for _, k := range known {
		var id [16]byte
		copy(id[:], k.ID)
		first[id] = k
	}
	for i := range all {
		e := &all[i]
		if e.Answer != Passes {
			continue
		}
		v, err := j.read(ctx, &e.Letter)
		if err != nil {
			return err
		}
		r := j.reader(e.Topic)
		k, again := first[ids[i]]
		if !again {
			sum := j.hasher.Sum(r.Row)
			first[ids[i]] = stored{Content: string(sum[:]), Version: uint8(t.Version)}
			continue
		}
		var content [32]byte
		copy(content[:], k.Content)
		if r.SameContent(&j.hasher, &v, content, int(k.Version)) {
			e.Answer = Duplicate
		} else {
			conflict(e)
		}
	}
	return nil
}

// conflict makes an E07 of a letter.
func conflict(e *Explained) {
	e.Answer, e.Code, e.Codes, e.Field = Fails, "E07", []string{"E07"}, "eventId"
	e.Message = "eventId was published with another content; a correction has a new eventId and a higher recordVersion"
}

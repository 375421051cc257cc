package main

import (
	"fmt"
	"slices"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/schemas"
)

// note is what a reader must know of an event and its schema does not say.
type note struct {
	italian string // Italian name
	record  string // what is one record, so what needs a sourceRecordId of its own
	correct string // what a higher recordVersion of it means
}

// notes are the hand-written part of the catalogue, by event. A change of state is a new record; a
// new version corrects one fact.
var notes = map[string]note{
	"ServiceOfferPublished": {
		"unità di offerta",
		"Each status of an offer: planned, opened, suspended, closed are four records. Of an offer's records, that of the highest (`occurredAt`, `sourceRecordId`) gives its state.",
		"corrects what was published about that status, for example a wrong address",
	},
	"CapacityChanged": {
		"posti, ore e personale",
		"Each change of the capacity of an offer in one unit. It is a full snapshot, not a delta. The one in force is the highest (`effectiveFrom`, `occurredAt`, `sourceRecordId`) of its unit.",
		"corrects the figures of that snapshot, not the capacity of today",
	},
	"ServiceRequested": {
		"domanda di prestazione",
		"Each request. Facts about it that come later (assessment, waiting, benefit) are events of their own that name its `requestId`.",
		"corrects the request as it was registered",
	},
	"NeedAssessed": {
		"valutazione del bisogno ed esito",
		"Each assessment of a request. A second assessment is a new record.",
		"corrects the outcome of that assessment",
	},
	"WaitingListChanged": {
		"lista d'attesa",
		"Each ENTER and each LEAVE. A LEAVE is never a new version of its ENTER.",
		"corrects that entry or that exit, for example its instant",
	},
	"BenefitDecided": {
		"prestazione sociale",
		"Each decision on a benefit: granted, renewed, suspended, revoked and ended are five records with one `benefitId`.",
		"corrects that decision, for example its amount",
	},
	"ServiceDelivered": {
		"erogazione",
		"Each period of a benefit for which units or money are accounted. The next month is a new record.",
		"corrects the account of that period",
	},
	"TerritoryUpserted": {
		"territorio",
		"Each period of validity of a territory. A merger ends one record with `validTo` and `successorCodes` (a correction of it) and starts another.",
		"corrects the territory in that period, its end included",
	},
	"PopulationReported": {
		"popolazione residente",
		"Each count of a territory at one date, for one sex and one range of ages.",
		"corrects that count",
	},
	"DeprivationObserved": {
		"osservazione di deprivazione",
		"Each item observed for one child or household in one wave.",
		"corrects that observation",
	},
	"ActivitySessionHeld": {
		"sessione di doposcuola",
		"Each session, held or cancelled.",
		"corrects the session, its cancellation included",
	},
	"AttendanceRecorded": {
		"presenza",
		"Each student at each session.",
		"corrects that attendance",
	},
	"IndicatorObserved": {
		"indicatore di valutazione",
		"Each value of an indicator for one student, class or school in one period.",
		"corrects that value",
	},
	"FeedbackRecorded": {
		"riscontro raccolto o restituito",
		"Each answer to an item, and each reply to it.",
		"corrects that answer or reply",
	},
	"RecordRevoked": {
		"annullamento",
		"Each revocation of one record. It hides the versions up to `revokedUpToVersion`, whatever the order of arrival.",
		"replaces the revocation; with `revokedUpToVersion` 0 it lifts it",
	},
	"SubjectErased": {
		"cancellazione dei dati di una persona",
		"Each erasure of one pseudonym, so one for each purpose and key epoch. It stays in force for events that come later.",
		"corrects the scope or the date of that erasure",
	},
}

// catalogue is what the generators read.
type catalogue struct {
	types    []*event.Type
	outcomes *avro.RecordSchema // OutcomesReported, which is no event but a message of the hub
	outRaw   string             // its text
	named    []avro.NamedSchema // records and enums that the schemas define, once each, in the order of their first use
}

func load() (*catalogue, error) {
	raw, err := schemas.Avro.ReadFile("avro/OutcomesReported.avsc")
	if err != nil {
		return nil, err
	}
	s, err := avro.ParseWithCache(string(raw), "", &avro.SchemaCache{})
	if err != nil {
		return nil, fmt.Errorf("parse OutcomesReported: %w", err)
	}
	rec, ok := s.(*avro.RecordSchema)
	if !ok {
		return nil, fmt.Errorf("OutcomesReported is a %s, not a record", s.Type())
	}
	c := &catalogue{types: event.Types, outcomes: rec, outRaw: string(raw)}
	for _, t := range c.types {
		if _, ok := notes[t.Name]; !ok {
			return nil, fmt.Errorf("event %s has no note in internal/gen", t.Name)
		}
		if err := c.collect(t.Schema); err != nil {
			return nil, fmt.Errorf("event %s: %w", t.Name, err)
		}
	}
	if len(notes) != len(c.types) {
		return nil, fmt.Errorf("internal/gen has %d notes for %d events", len(notes), len(c.types))
	}
	return c, c.collect(rec)
}

// collect adds the named schemas in s, inner ones first, and fails where two schemas define one name
// in two ways.
func (c *catalogue) collect(s avro.Schema) error {
	switch v := s.(type) {
	case *avro.RecordSchema:
		for _, f := range v.Fields() {
			if err := c.collect(f.Type()); err != nil {
				return err
			}
		}
		return c.add(v)
	case *avro.EnumSchema:
		return c.add(v)
	case *avro.ArraySchema:
		return c.collect(v.Items())
	case *avro.UnionSchema:
		for _, u := range v.Types() {
			if err := c.collect(u); err != nil {
				return err
			}
		}
	case *avro.RefSchema:
		return c.collect(v.Schema())
	}
	return nil
}

func (c *catalogue) add(s avro.NamedSchema) error {
	i := slices.IndexFunc(c.named, func(n avro.NamedSchema) bool { return n.Name() == s.Name() })
	if i < 0 {
		c.named = append(c.named, s)
		return nil
	}
	if c.named[i].Fingerprint() != s.Fingerprint() {
		return fmt.Errorf("%s is defined in two ways", s.Name())
	}
	return nil
}

// part returns the fields of t under a prefix of their path (header, subject), or those at the top.
func part(t *event.Type, prefix string) []int {
	var out []int
	for i := range t.Fields {
		if pathPrefix(t.Fields[i].Path) == prefix {
			out = append(out, i)
		}
	}
	return out
}

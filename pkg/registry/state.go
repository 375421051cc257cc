package registry

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
)

// state is all that a registry knows: a pure function of the records of its topic, in their order.
// It has no clock, no I/O and no lock; its owner serialises apply against everything else.
type state struct {
	fallback Level            // global level when none is configured
	levels   map[string]Level // by subject; "" is global
	modes    map[string]Mode  // by subject; "" is global
	subjects map[string][]*version
	byID     map[int]*entry
	byText   map[textKey]int // the id of a schema, whatever its subject
	maxID    int             // highest id ever given
}

// entry is one schema, which several subjects may have.
type entry struct {
	id         int
	schemaType string // AVRO, or what a Confluent registry left in the topic
	text       string
	refs       []Reference
	key        textKey
	uses       int // versions that have it, soft-deleted ones included
}

// version is a version of a subject.
type version struct {
	subject           string
	number            int
	entry             *entry
	deleted           bool // softly: hidden, its id still known
	metadata, ruleSet json.RawMessage
}

// textKey identifies a schema: its type, canonical text and references.
type textKey [sha256.Size]byte

// Mode says what may be done to a subject.
type Mode string

// Modes of a subject or of the registry.
const (
	ReadWrite        Mode = "READWRITE"
	ReadOnly         Mode = "READONLY"
	ReadOnlyOverride Mode = "READONLY_OVERRIDE" // global only: read-only whatever the subject says
	Import           Mode = "IMPORT"            // schemas come with their ids
)

const typeAvro = "AVRO"

// errRefused marks a record that contradicts an earlier one: another schema under the same id or the
// same version. The earlier one stands, as in Confluent's registry.
var errRefused = errors.New("record contradicts an earlier one")

// errIgnored marks a record that means nothing to this registry, such as the newer kinds of Confluent's.
var errIgnored = errors.New("record is of a kind that this registry does not use")

func newState(fallback Level) *state {
	return &state{
		fallback: fallback, levels: map[string]Level{}, modes: map[string]Mode{}, subjects: map[string][]*version{},
		byID: map[int]*entry{}, byText: map[textKey]int{},
	}
}

func keyOf(schemaType, text string, refs []Reference) textKey {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s", schemaType, text)
	for _, r := range refs {
		fmt.Fprintf(h, "\x00%s\x00%s\x00%d", r.Name, r.Subject, r.Version)
	}
	return textKey(h.Sum(nil))
}

// apply takes the next record of the log. An error says that the record changed nothing; the log is
// read on in any case.
func (s *state) apply(key, value []byte) error {
	k, err := parseKey(key)
	if err != nil {
		return err
	}
	switch k.Type {
	case keySchema:
		return s.applySchema(k, value)
	case keyConfig:
		return applySetting(s.levels, k.subject(), value, func(v configValue) (Level, bool) { return ParseLevel(v.Level) })
	case keyMode:
		return applySetting(s.modes, k.subject(), value, func(v modeValue) (Mode, bool) { return parseMode(v.Mode) })
	case keyDeleteSubject:
		var v deleteSubjectValue
		if value == nil {
			return nil
		}
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("decode %s record: %w", k.Type, err)
		}
		for _, ver := range s.subjects[k.subject()] {
			if ver.number <= v.Version {
				ver.deleted = true
			}
		}
		return nil
	case keyNoop:
		var v noopValue
		if json.Unmarshal(value, &v) == nil {
			s.maxID = max(s.maxID, v.MaxID)
		}
		return nil
	}
	return fmt.Errorf("%w: %.40q", errIgnored, k.Type)
}

func applySetting[V any, T ~string](into map[string]T, subject string, value []byte, parse func(V) (T, bool)) error {
	if value == nil {
		delete(into, subject)
		return nil
	}
	var v V
	if err := json.Unmarshal(value, &v); err != nil {
		return fmt.Errorf("decode setting of subject %q: %w", subject, err)
	}
	t, ok := parse(v)
	if !ok {
		return fmt.Errorf("%w: unknown setting of subject %q", errIgnored, subject)
	}
	into[subject] = t
	return nil
}

func (s *state) applySchema(k recordKey, value []byte) error {
	subject := k.subject()
	if subject == "" || k.Version < 1 {
		return fmt.Errorf("schema record without a subject or version")
	}
	i, there := s.find(subject, k.Version)
	if value == nil {
		if there {
			s.remove(subject, i)
		}
		return nil
	}
	var v schemaValue
	if err := json.Unmarshal(value, &v); err != nil {
		return fmt.Errorf("decode schema record of subject %q version %d: %w", subject, k.Version, err)
	}
	if v.ID < 0 {
		return fmt.Errorf("schema record of subject %q version %d has id %d", subject, k.Version, v.ID)
	}
	s.maxID = max(s.maxID, v.ID)
	if v.SchemaType == "" {
		v.SchemaType = typeAvro
	}
	hashed := v.Schema
	if v.SchemaType == typeAvro { // so that a log from elsewhere may have its own white space
		if c, err := canonical(v.Schema, false); err == nil {
			hashed = c
		}
	}
	tk := keyOf(v.SchemaType, hashed, v.References)
	e := s.byID[v.ID]
	if e != nil && e.key != tk {
		return fmt.Errorf("%w: id %d of subject %q version %d is another schema's", errRefused, v.ID, subject, k.Version)
	}
	if there {
		ver := s.subjects[subject][i]
		if ver.entry.id != v.ID {
			return fmt.Errorf("%w: subject %q version %d has id %d, not %d", errRefused, subject, k.Version, ver.entry.id, v.ID)
		}
		ver.deleted, ver.metadata, ver.ruleSet = v.Deleted, v.Metadata, v.RuleSet
		return nil
	}
	if e == nil {
		e = &entry{id: v.ID, schemaType: v.SchemaType, text: v.Schema, refs: v.References, key: tk}
		s.byID[v.ID] = e
		if _, known := s.byText[tk]; !known {
			s.byText[tk] = v.ID
		}
	}
	e.uses++
	ver := &version{subject: subject, number: k.Version, entry: e, deleted: v.Deleted, metadata: v.Metadata, ruleSet: v.RuleSet}
	s.subjects[subject] = slices.Insert(s.subjects[subject], i, ver)
	return nil
}

// find returns where a version is, or would be, among those of its subject.
func (s *state) find(subject string, number int) (int, bool) {
	return slices.BinarySearchFunc(s.subjects[subject], number, func(v *version, n int) int { return v.number - n })
}

func (s *state) remove(subject string, i int) {
	e := s.subjects[subject][i].entry
	if e.uses--; e.uses == 0 {
		delete(s.byID, e.id)
		if s.byText[e.key] == e.id {
			delete(s.byText, e.key)
		}
	}
	s.subjects[subject] = slices.Delete(s.subjects[subject], i, i+1)
	if len(s.subjects[subject]) == 0 {
		delete(s.subjects, subject)
	}
}

// record is the version's record with the given state of deletion.
func (v *version) record(deleted bool) record {
	out := schemaValue{
		Subject: v.subject, Version: v.number, ID: v.entry.id, References: v.entry.refs,
		Metadata: v.metadata, RuleSet: v.ruleSet, Schema: v.entry.text, Deleted: deleted,
	}
	if v.entry.schemaType != typeAvro {
		out.SchemaType = v.entry.schemaType
	}
	return record{schemaKey(v.subject, v.number), marshal(out)}
}

// versions returns the versions of a subject in their order, with the soft-deleted ones if asked for.
func (s *state) versions(subject string, deleted bool) []*version {
	var out []*version
	for _, v := range s.subjects[subject] {
		if deleted || !v.deleted {
			out = append(out, v)
		}
	}
	return out
}

// version returns a version, or the latest for number 0.
func (s *state) version(subject string, number int, deleted bool) (*version, *Error) {
	vs := s.versions(subject, deleted)
	if len(vs) == 0 {
		return nil, subjectNotFound(subject)
	}
	if number == latest {
		return vs[len(vs)-1], nil
	}
	for _, v := range vs {
		if v.number == number {
			return v, nil
		}
	}
	return nil, fail(codeVersionNotFound, "Version %d not found.", number)
}

// latest asks for the highest version.
const latest = 0

func subjectNotFound(subject string) *Error {
	return fail(codeSubjectNotFound, "Subject '%s' not found.", subject)
}

// subjectNames lists the subjects that start with prefix, sorted; with those that are softly deleted as
// a whole, or only those, if asked for.
func (s *state) subjectNames(prefix string, deleted, onlyDeleted bool) []string {
	out := []string{}
	for _, name := range slices.Sorted(maps.Keys(s.subjects)) {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		live := len(s.versions(name, false)) > 0
		if live && !onlyDeleted || !live && (deleted || onlyDeleted) {
			out = append(out, name)
		}
	}
	return out
}

// usesOf lists the versions that have a schema id, by subject and number.
func (s *state) usesOf(id int, deleted bool) []*version {
	var out []*version
	for _, vs := range s.subjects {
		for _, v := range vs {
			if v.entry.id == id && (deleted || !v.deleted) {
				out = append(out, v)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].subject != out[j].subject {
			return out[i].subject < out[j].subject
		}
		return out[i].number < out[j].number
	})
	return out
}

// referencedBy lists the ids of the schemas that refer to a version and are not deleted, sorted.
func (s *state) referencedBy(subject string, number int) []int {
	ids := map[int]bool{}
	for _, vs := range s.subjects {
		for _, v := range vs {
			if v.deleted {
				continue
			}
			for _, r := range v.entry.refs {
				if r.Subject == subject && r.Version == number {
					ids[v.entry.id] = true
				}
			}
		}
	}
	out := slices.Sorted(maps.Keys(ids))
	if out == nil {
		out = []int{}
	}
	return out
}

// level is the level in force for a subject, or for all with "".
func (s *state) level(subject string) Level {
	if l, ok := s.levels[subject]; ok {
		return l
	}
	if l, ok := s.levels[""]; ok {
		return l
	}
	return s.fallback
}

// mode is the mode in force for a subject, or for all with "".
func (s *state) mode(subject string) Mode {
	global, ok := s.modes[""]
	if !ok {
		global = ReadWrite
	}
	if global == ReadOnlyOverride {
		return global
	}
	if m, ok := s.modes[subject]; ok {
		return m
	}
	return global
}

func parseMode(s string) (Mode, bool) {
	m := Mode(strings.ToUpper(s))
	return m, slices.Contains([]Mode{ReadWrite, ReadOnly, ReadOnlyOverride, Import}, m)
}

// refTexts returns the texts of the schemas that refs name and, before them, of those that these use.
func (s *state) refTexts(refs []Reference, live bool) ([]string, *Error) {
	var out []string
	done := map[string]bool{}
	var walk func(refs []Reference, live bool, depth int) *Error
	walk = func(refs []Reference, live bool, depth int) *Error {
		for _, r := range refs {
			v, err := s.version(r.Subject, r.Version, !live)
			if err != nil || depth > maxReferenceDepth {
				return fail(codeInvalidSchema, "Invalid schema, details: No schema reference found for subject %q and version %d", r.Subject, r.Version)
			}
			id := fmt.Sprintf("%d/%s", v.number, v.subject)
			if done[id] {
				continue
			}
			done[id] = true
			if err := walk(v.entry.refs, false, depth+1); err != nil {
				return err
			}
			out = append(out, v.entry.text)
		}
		return nil
	}
	err := walk(refs, live, 0)
	return out, err
}

const maxReferenceDepth = 50

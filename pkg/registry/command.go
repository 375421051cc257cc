package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/hamba/avro/v2"
)

// Commands decide against a state what to append to the log and what to answer. They change nothing:
// the change happens when the records come back from the log.

// request is the body of a registration, look-up or compatibility test.
type request struct {
	Schema     string          `json:"schema"`
	SchemaType string          `json:"schemaType"`
	References []Reference     `json:"references"`
	ID         int             `json:"id"`      // above 0: import with this id
	Version    int             `json:"version"` // above 0: import as this version
	Metadata   json.RawMessage `json:"metadata"`
	RuleSet    json.RawMessage `json:"ruleSet"`
}

// parsed is a schema that was found valid.
type parsed struct {
	text  string // canonical, as it is stored
	plain string // canonical without normalization, as it is compared
	refs  []Reference
	avro  avro.Schema
	key   textKey
}

func isSet(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// parse checks the schema of a request and resolves its references.
func (s *state) parse(req request, normalize bool) (parsed, *Error) {
	p := parsed{}
	if strings.TrimSpace(req.Schema) == "" {
		return p, fail(codeInvalidSchema, "Empty schema")
	}
	if inWords(req.Schema) {
		return p, fail(codeInvalidSchema, "Invalid schema: %s", personal)
	}
	if req.SchemaType != "" && !strings.EqualFold(req.SchemaType, typeAvro) {
		return p, fail(codeInvalidSchema, "Invalid schema type %.40s: this registry has AVRO only", req.SchemaType)
	}
	if isSet(req.Metadata) || isSet(req.RuleSet) {
		return p, fail(codeInvalidSchema, "Invalid schema: this registry has neither metadata nor rule sets")
	}
	for _, r := range req.References {
		if r.Name == "" || r.Subject == "" {
			return p, fail(codeInvalidSchema, "Invalid schema, details: a reference needs a name, a subject and a version")
		}
		if r.Version == -1 {
			r.Version = latest
		}
		v, err := s.version(r.Subject, r.Version, false)
		if err != nil || r.Version < 0 {
			return p, fail(codeInvalidSchema, "Invalid schema, details: No schema reference found for subject %q and version %d", r.Subject, r.Version)
		}
		r.Version = v.number
		p.refs = append(p.refs, r)
	}
	texts, fault := s.refTexts(p.refs, true)
	if fault != nil {
		return p, fault
	}
	plain, err := canonical(req.Schema, false)
	text := plain
	if err == nil && normalize {
		text, err = canonical(req.Schema, true)
		if err == nil {
			plain, err = canonical(text, false)
		}
	}
	if err == nil {
		p.avro, err = parseAvro(text, texts)
	}
	if err != nil {
		return p, fail(codeInvalidSchema, "Invalid schema, details: %s", err)
	}
	p.text, p.plain, p.key = text, plain, keyOf(typeAvro, plain, p.refs)
	return p, nil
}

func validSubject(subject string) *Error {
	if subject == "" || subject == "__GLOBAL" || subject == "__EMPTY" || len(subject) > maxSubject || strings.ContainsFunc(subject, unicode.IsControl) {
		return fail(codeInvalidSubject, "The specified subject '%.100s' is not a valid subject.", subject)
	}
	return nil
}

const maxSubject = 512

// lookup returns the version of a subject that has a schema.
func (s *state) lookup(subject string, req request, normalize, deleted bool) (*version, *Error) {
	vs := s.versions(subject, deleted)
	if len(vs) == 0 {
		return nil, subjectNotFound(subject)
	}
	p, err := s.parse(req, normalize)
	if err != nil {
		return nil, err
	}
	if v := s.same(vs, p); v != nil {
		return v, nil
	}
	return nil, fail(codeSchemaNotFound, "Schema not found")
}

// same returns the latest of some versions that has a schema. A schema without references is the same
// as one with them when it spells out what the other refers to.
func (s *state) same(vs []*version, p parsed) *version {
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].entry.key == p.key {
			return vs[i]
		}
	}
	if len(p.refs) > 0 {
		return nil
	}
	for i := len(vs) - 1; i >= 0; i-- {
		if len(vs[i].entry.refs) == 0 {
			continue
		}
		if text, err := s.inlined(vs[i].entry); err == nil && text == p.plain {
			return vs[i]
		}
	}
	return nil
}

// inlined is the text of a schema with what it refers to.
func (s *state) inlined(e *entry) (string, error) {
	texts, fault := s.refTexts(e.refs, false)
	if fault != nil {
		return "", fault
	}
	return inline(e.text, texts)
}

// register adds a schema to a subject, or finds it there.
func (s *state) register(subject string, req request, normalize bool) (id int, recs []record, fault *Error) {
	if fault := validSubject(subject); fault != nil {
		return 0, nil, fault
	}
	p, fault := s.parse(req, normalize)
	if fault != nil {
		return 0, nil, fault
	}
	live := s.versions(subject, false)
	if v := s.same(live, p); v != nil && (req.ID <= 0 || req.ID == v.entry.id) {
		return v.entry.id, nil, nil
	}
	importing := req.ID > 0
	switch mode := s.mode(subject); {
	case mode == ReadOnly || mode == ReadOnlyOverride:
		return 0, nil, readOnly(subject)
	case importing && mode != Import:
		return 0, nil, fail(codeNotPermitted, "Subject %s is not in import mode", subject)
	case !importing && mode == Import:
		return 0, nil, fail(codeNotPermitted, "Subject %s is not in read-write mode", subject)
	}
	all, number := s.versions(subject, true), 1
	if len(all) > 0 {
		number = all[len(all)-1].number + 1
	}
	switch known, ok := s.byText[p.key]; {
	case importing:
		if e := s.byID[req.ID]; e != nil && e.key != p.key {
			return 0, nil, fail(codeNotPermitted, "Overwrite new schema with id %d is not permitted.", req.ID)
		}
		if req.Version > 0 {
			number = req.Version
		}
		if i, there := s.find(subject, number); there && all[i].entry.id != req.ID {
			return 0, nil, fail(codeNotPermitted, "Overwrite of subject %s version %d is not permitted.", subject, number)
		}
		id = req.ID
	default:
		if problems := s.check(s.level(subject), p.avro, live); problems != nil {
			return 0, nil, fail(409, "Schema being registered is incompatible with an earlier schema for subject %q, details: [%s]",
				subject, strings.Join(problems, ", "))
		}
		if id = known; !ok {
			id = s.maxID + 1
		}
	}
	v := &version{subject: subject, number: number, entry: &entry{id: id, schemaType: typeAvro, text: p.text, refs: p.refs}}
	return id, []record{v.record(false)}, nil
}

// check compares a schema with versions of a subject, as its level asks, the latest first. It returns
// what keeps them apart, nil if nothing does.
func (s *state) check(level Level, newer avro.Schema, versions []*version) []string {
	if level == None {
		return nil
	}
	for i := len(versions) - 1; i >= 0; i-- {
		v := versions[i]
		older, err := s.parseEntry(v.entry)
		var out []string
		if err != nil {
			out = append(out, fmt.Sprintf("{errorType:'TYPE_MISMATCH', description:'the old schema is not one that this registry can compare: %s', additionalInfo:''}", err))
		} else {
			for _, d := range incompatible(level, newer, older) {
				out = append(out, d.String())
			}
		}
		if out != nil {
			return append(out, fmt.Sprintf("{oldSchemaVersion: %d}", v.number), fmt.Sprintf("{oldSchema: '%s'}", v.entry.text),
				fmt.Sprintf("{compatibility: '%s'}", level))
		}
		if !level.transitive() {
			return nil
		}
	}
	return nil
}

func (s *state) parseEntry(e *entry) (avro.Schema, error) {
	if e.schemaType != typeAvro {
		return nil, errors.New("it is of type " + e.schemaType)
	}
	texts, fault := s.refTexts(e.refs, false)
	if fault != nil {
		return nil, errors.New(fault.Message)
	}
	return parseAvro(e.text, texts)
}

func readOnly(subject string) *Error {
	return fail(codeNotPermitted, "Subject %s is in read-only mode", subject)
}

func (s *state) writable(subject string) *Error {
	if m := s.mode(subject); m == ReadOnly || m == ReadOnlyOverride {
		return readOnly(subject)
	}
	return nil
}

func (s *state) unreferenced(v *version) *Error {
	if len(s.referencedBy(v.subject, v.number)) > 0 {
		return fail(codeReferenceExists, "One or more references exist to the schema {magic=1,keytype=SCHEMA,subject=%s,version=%d}.", v.subject, v.number)
	}
	return nil
}

// deleteSubject deletes all versions of a subject and, when it is soft, the subject's settings.
func (s *state) deleteSubject(subject string, permanent bool) (numbers []int, recs []record, fault *Error) {
	all, live := s.versions(subject, true), s.versions(subject, false)
	switch {
	case len(all) == 0:
		return nil, nil, subjectNotFound(subject)
	case !permanent && len(live) == 0:
		return nil, nil, fail(codeSubjectSoftDeleted, "Subject '%s' was soft deleted.Set permanent=true to delete permanently", subject)
	case permanent && len(live) > 0:
		return nil, nil, fail(codeSubjectNotSoftDeleted, "Subject '%s' was not deleted first before being permanently deleted", subject)
	}
	if fault := s.writable(subject); fault != nil {
		return nil, nil, fault
	}
	going := live
	if permanent {
		going = all
		recs = append(recs, s.remember())
	}
	for _, v := range going {
		if fault := s.unreferenced(v); fault != nil {
			return nil, nil, fault
		}
		numbers = append(numbers, v.number)
		if permanent {
			recs = append(recs, record{key: schemaKey(subject, v.number)})
		}
	}
	if !permanent {
		value := marshal(deleteSubjectValue{subject, live[len(live)-1].number})
		recs = append(recs, record{scopeKey(keyDeleteSubject, subject), value})
		recs = append(recs, s.forgetSettings(subject)...)
	}
	return numbers, recs, nil
}

// deleteVersion deletes one version.
func (s *state) deleteVersion(subject string, number int, permanent bool) (deleted int, recs []record, fault *Error) {
	if len(s.subjects[subject]) == 0 {
		return 0, nil, subjectNotFound(subject)
	}
	var v *version
	if number == latest {
		if v, fault = s.version(subject, latest, false); fault != nil {
			return 0, nil, fault
		}
	} else if v, fault = s.version(subject, number, true); fault != nil {
		return 0, nil, fault
	}
	switch {
	case !permanent && v.deleted:
		return 0, nil, fail(codeVersionSoftDeleted, "Subject '%s' Version %d was soft deleted.Set permanent=true to delete permanently", subject, v.number)
	case permanent && !v.deleted:
		return 0, nil, fail(codeVersionNotSoftDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", subject, v.number)
	}
	if fault := s.writable(subject); fault != nil {
		return 0, nil, fault
	}
	if fault := s.unreferenced(v); fault != nil {
		return 0, nil, fault
	}
	if permanent {
		return v.number, []record{s.remember(), {key: schemaKey(subject, v.number)}}, nil
	}
	recs = append(recs, v.record(true))
	if len(s.versions(subject, false)) == 1 {
		recs = append(recs, s.forgetSettings(subject)...)
	}
	return v.number, recs, nil
}

// remember keeps the highest id in the log before a schema leaves it.
func (s *state) remember() record { return record{noopKey(), marshal(noopValue{s.maxID})} }

func (s *state) forgetSettings(subject string) (recs []record) {
	if _, ok := s.levels[subject]; ok {
		recs = append(recs, record{key: scopeKey(keyConfig, subject)})
	}
	if _, ok := s.modes[subject]; ok {
		recs = append(recs, record{key: scopeKey(keyMode, subject)})
	}
	return recs
}

// setLevel configures a subject, or all with "".
func (s *state) setLevel(subject, name string) ([]record, *Error) {
	level, ok := ParseLevel(name)
	if !ok {
		return nil, fail(codeInvalidLevel, "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive")
	}
	if fault := s.validScope(subject); fault != nil {
		return nil, fault
	}
	if fault := s.writable(subject); fault != nil {
		return nil, fault
	}
	return []record{{scopeKey(keyConfig, subject), marshal(configValue{string(level)})}}, nil
}

func (s *state) validScope(subject string) *Error {
	if subject == "" {
		return nil
	}
	return validSubject(subject)
}

// deleteLevel returns the level that was configured.
func (s *state) deleteLevel(subject string) (Level, []record, *Error) {
	level, ok := s.levels[subject]
	if !ok && subject != "" {
		return "", nil, subjectNotFound(subject)
	}
	if fault := s.writable(subject); fault != nil {
		return "", nil, fault
	}
	if !ok {
		return s.level(""), nil, nil
	}
	return level, []record{{key: scopeKey(keyConfig, subject)}}, nil
}

// setMode sets the mode of a subject, or of all with "". IMPORT is for subjects without schemas, unless forced.
func (s *state) setMode(subject, name string, force bool) ([]record, *Error) {
	mode, ok := parseMode(name)
	if !ok || mode == ReadOnlyOverride && subject != "" {
		return nil, fail(codeInvalidMode, "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, and IMPORT")
	}
	if fault := s.validScope(subject); fault != nil {
		return nil, fault
	}
	if mode == Import && !force {
		found := len(s.versions(subject, false)) > 0
		if subject == "" {
			found = len(s.subjectNames("", false, false)) > 0
		}
		if found {
			return nil, fail(codeNotPermitted, "Cannot import since found existing subjects")
		}
	}
	return []record{{scopeKey(keyMode, subject), marshal(modeValue{string(mode)})}}, nil
}

// deleteMode returns the mode that was set.
func (s *state) deleteMode(subject string) (Mode, []record, *Error) {
	mode, ok := s.modes[subject]
	if !ok && subject != "" {
		return "", nil, subjectNotFound(subject)
	}
	if !ok {
		return s.mode(""), nil, nil
	}
	return mode, []record{{key: scopeKey(keyMode, subject)}}, nil
}

// test tells whether a schema is compatible with one version, the latest, or with all that the level asks for.
func (s *state) test(subject string, number int, all bool, req request, normalize bool) ([]string, *Error) {
	versions := s.versions(subject, false)
	if !all {
		v, fault := s.version(subject, number, false)
		switch {
		case fault == nil:
			versions = []*version{v}
		case number != latest:
			return nil, fault
		}
	}
	p, fault := s.parse(req, normalize)
	if fault != nil {
		return nil, fault
	}
	return s.check(s.level(subject), p.avro, versions), nil
}

package registry

import (
	"encoding/json"
	"fmt"
)

// record is a record of the registry's topic. A nil value removes what the key stands for.
type record struct{ key, value []byte }

// Types of keys in Confluent's topic.
const (
	keySchema        = "SCHEMA"
	keyConfig        = "CONFIG"
	keyMode          = "MODE"
	keyDeleteSubject = "DELETE_SUBJECT"
	keyNoop          = "NOOP"
)

// recordKey is the key of every record, as Confluent writes it. The order of members is part of the
// format: compaction compares bytes.
type recordKey struct {
	Type    string  `json:"keytype"`
	Subject *string `json:"subject"`
	Version int     `json:"version"`
	Magic   int     `json:"magic"`
}

// Reference names a schema that another one uses.
type Reference struct {
	Name    string `json:"name"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// schemaValue is the value under a SCHEMA key. Metadata and rules are kept for a Confluent registry
// that wrote them; this registry does not use them.
type schemaValue struct {
	Subject    string          `json:"subject"`
	Version    int             `json:"version"`
	ID         int             `json:"id"`
	SchemaType string          `json:"schemaType,omitempty"`
	References []Reference     `json:"references,omitempty"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
	RuleSet    json.RawMessage `json:"ruleSet,omitempty"`
	Schema     string          `json:"schema"`
	Deleted    bool            `json:"deleted"`
}

type configValue struct {
	Level string `json:"compatibilityLevel"`
}

type modeValue struct {
	Mode string `json:"mode"`
}

type deleteSubjectValue struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// noopValue is what this registry adds to Confluent's record without effect, whose value Confluent does
// not read: the highest id ever given, which compaction would otherwise forget once its schema is gone.
type noopValue struct {
	MaxID int `json:"maxId"`
}

func schemaKey(subject string, version int) []byte {
	return marshal(struct {
		Type    string `json:"keytype"`
		Subject string `json:"subject"`
		Version int    `json:"version"`
		Magic   int    `json:"magic"`
	}{keySchema, subject, version, 1})
}

// scopeKey is the key of a setting of a subject, or of the whole registry for "".
func scopeKey(keytype, subject string) []byte {
	var s *string
	if subject != "" {
		s = &subject
	}
	return marshal(struct {
		Type    string  `json:"keytype"`
		Subject *string `json:"subject"`
		Magic   int     `json:"magic"`
	}{keytype, s, 0})
}

func noopKey() []byte {
	return marshal(struct {
		Type  string `json:"keytype"`
		Magic int    `json:"magic"`
	}{keyNoop, 0})
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // plain structs of text and numbers, and JSON that was read from the log
		panic("BUG: cannot encode a registry record: " + err.Error())
	}
	return b
}

func parseKey(b []byte) (recordKey, error) {
	var k recordKey
	if err := json.Unmarshal(b, &k); err != nil {
		return k, fmt.Errorf("decode record key: %w", err)
	}
	return k, nil
}

func (k recordKey) subject() string {
	if k.Subject == nil {
		return ""
	}
	return *k.Subject
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/schemas"
)

// OutcomeSubject is the subject of OutcomesReported, which tells sources what became of their events.
const OutcomeSubject = event.TopicOutcome + "-value"

// RegisterAll registers the hub's own schemas, each as <topic>-value, and returns the ids by subject.
// What is registered already stays as it is, so it may be called again. On an error the map has what was
// registered before it.
func RegisterAll(ctx context.Context, c *Client) (map[string]int, error) {
	outcomes, err := schemas.Avro.ReadFile("avro/OutcomesReported.avsc")
	if err != nil {
		return nil, fmt.Errorf("read schema of OutcomesReported: %w", err)
	}
	ids := map[string]int{}
	add := func(subject, name, text string) error {
		id, err := c.Register(ctx, subject, text)
		if err != nil {
			return fmt.Errorf("event %s: %w", name, err)
		}
		ids[subject] = id
		return nil
	}
	for _, t := range event.Types {
		if err := add(t.SubjectName(), t.Name, t.Raw); err != nil {
			return ids, err
		}
	}
	return ids, add(OutcomeSubject, "OutcomesReported", string(outcomes))
}

// Problem is one reason why a current schema does not go together with a released one.
type Problem struct {
	Event   string // name of the file, without .avsc
	Version string // v1, v2 … ; empty: the event as a whole
	Text    string
}

func (p Problem) String() string {
	if p.Version == "" {
		return p.Event + ": " + p.Text
	}
	return p.Event + " against released " + p.Version + ": " + p.Text
}

// Check compares each current schema, avro/<Event>.avsc in current, with every version that was released
// of it, released/<Event>/v<n>.avsc in released, in both directions (FULL_TRANSITIVE). It is stricter than
// a registry, which does not look at logical types: a decimal of another scale, or milliseconds that
// become microseconds, would be read without an error and mean something else. An error tells that a
// file cannot be read; problems are for people.
func Check(current, released fs.FS) ([]Problem, error) {
	files, err := fs.Glob(current, "avro/*.avsc")
	if err != nil {
		return nil, fmt.Errorf("list current schemas: %w", err)
	}
	if len(files) == 0 {
		return nil, errors.New("list current schemas: there is no avro/*.avsc")
	}
	var out []Problem
	seen := map[string]bool{}
	for _, f := range files {
		name := strings.TrimSuffix(path.Base(f), ".avsc")
		seen[name] = true
		problems, err := checkEvent(name, f, current, released)
		if err != nil {
			return nil, err
		}
		out = append(out, problems...)
	}
	dirs, err := fs.ReadDir(released, "released")
	if err != nil {
		return nil, fmt.Errorf("list released schemas: %w", err)
	}
	for _, d := range dirs {
		if d.IsDir() && !seen[d.Name()] {
			out = append(out, Problem{Event: d.Name(), Text: "was released and has no current schema; an event is never taken back"})
		}
	}
	return out, nil
}

func checkEvent(name, file string, current, released fs.FS) ([]Problem, error) {
	raw, err := fs.ReadFile(current, file)
	if err != nil {
		return nil, fmt.Errorf("read schema of %s: %w", name, err)
	}
	now, invalid := parseAvro(string(raw), nil)
	if invalid != nil {
		return []Problem{{Event: name, Text: "is not a valid schema: " + invalid.Error()}}, nil //nolint:nilerr // a problem of the schema, not of the check
	}
	versions, err := fs.Glob(released, "released/"+name+"/v*.avsc")
	if err != nil {
		return nil, fmt.Errorf("list released versions of %s: %w", name, err)
	}
	if len(versions) == 0 {
		return []Problem{{Event: name, Text: "has no released version; copy its schema to schemas/released/" + name + "/v1.avsc when it is released"}}, nil
	}
	var out []Problem
	for _, f := range byNumber(versions) {
		v := strings.TrimSuffix(path.Base(f), ".avsc")
		raw, err := fs.ReadFile(released, f)
		if err != nil {
			return nil, fmt.Errorf("read released schema %s of %s: %w", v, name, err)
		}
		then, err := parseAvro(string(raw), nil)
		if err != nil {
			out = append(out, Problem{name, v, "the released schema is not valid: " + err.Error()})
			continue
		}
		for _, d := range incompatible(FullTransitive, now, then) {
			out = append(out, Problem{name, v, d.text})
		}
		logical := map[string]bool{}
		for _, text := range logicalChanges(now, then, "", logical) {
			out = append(out, Problem{name, v, text})
		}
	}
	return out, nil
}

func byNumber(files []string) []string {
	n := func(f string) int {
		v, _ := strconv.Atoi(strings.TrimPrefix(strings.TrimSuffix(path.Base(f), ".avsc"), "v"))
		return v
	}
	slices.SortFunc(files, func(a, b string) int { return n(a) - n(b) })
	return files
}

// logicalChanges lists where the meaning of a value changed although its bytes did not.
func logicalChanges(now, then avro.Schema, where string, seen map[string]bool) []string {
	now, then = branch(now), branch(then)
	if a, b := logicalOf(now), logicalOf(then); a != b && now.Type() == then.Type() {
		return []string{fmt.Sprintf("field %s is %s, and was %s: the same bytes would mean something else", where, a, b)}
	}
	switch n := now.(type) {
	case *avro.ArraySchema:
		if t, ok := then.(*avro.ArraySchema); ok {
			return logicalChanges(n.Items(), t.Items(), where, seen)
		}
	case *avro.MapSchema:
		if t, ok := then.(*avro.MapSchema); ok {
			return logicalChanges(n.Values(), t.Values(), where, seen)
		}
	case *avro.RecordSchema:
		t, ok := then.(*avro.RecordSchema)
		if !ok || seen[n.FullName()] {
			return nil
		}
		seen[n.FullName()] = true
		var out []string
		for _, f := range n.Fields() {
			if w := writerField(t, f); w != nil {
				out = append(out, logicalChanges(f.Type(), w.Type(), strings.TrimPrefix(where+"."+f.Name(), "."), seen)...)
			}
		}
		return out
	}
	return nil
}

// branch is the type of a union of null and one type, or the schema itself.
func branch(s avro.Schema) avro.Schema {
	s = deref(s)
	u, ok := s.(*avro.UnionSchema)
	if !ok || !u.Nullable() {
		return s
	}
	for _, t := range u.Types() {
		if t.Type() != avro.Null {
			return deref(t)
		}
	}
	return s
}

func logicalOf(s avro.Schema) string {
	l, ok := s.(avro.LogicalTypeSchema)
	if !ok || l.Logical() == nil {
		return "a plain " + string(s.Type())
	}
	if d, ok := l.Logical().(*avro.DecimalLogicalSchema); ok {
		return fmt.Sprintf("a decimal of scale %d", d.Scale()) // more digits are no change of meaning
	}
	return "a " + string(l.Logical().Type())
}

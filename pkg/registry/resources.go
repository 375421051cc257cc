package registry

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// versionAnswer is a version of a subject, as the API shows it.
type versionAnswer struct {
	Subject    string      `json:"subject"`
	Version    int         `json:"version"`
	ID         int         `json:"id"`
	SchemaType string      `json:"schemaType,omitempty"` // left out for AVRO
	References []Reference `json:"references,omitempty"`
	Schema     string      `json:"schema"`
}

// schemaAnswer is a schema without a subject.
type schemaAnswer struct {
	SchemaType string      `json:"schemaType,omitempty"` // left out for AVRO
	References []Reference `json:"references,omitempty"`
	Schema     string      `json:"schema"`
	MaxID      *int        `json:"maxId,omitempty"`
}

type subjectVersion struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

func shownType(e *entry) string {
	if e.schemaType == typeAvro {
		return ""
	}
	return e.schemaType
}

// text is the schema in the format that a query asks for: as stored, or "resolved", with its references
// written out.
func (s *state) textOf(e *entry, format string) (string, *Error) {
	if format != "resolved" || len(e.refs) == 0 {
		return e.text, nil
	}
	text, err := s.inlined(e)
	if err != nil {
		return "", fail(codeInvalidSchema, "Invalid schema, details: %s", err)
	}
	return text, nil
}

func (s *state) show(v *version, format string) (any, *Error) {
	text, fault := s.textOf(v.entry, format)
	if fault != nil {
		return nil, fault
	}
	refs := v.entry.refs
	if format == "resolved" {
		refs = nil
	}
	return versionAnswer{v.subject, v.number, v.entry.id, shownType(v.entry), refs, text}, nil
}

func (s *Server) getRoot(*http.Request) (any, *Error)     { return raw("{}"), nil }
func (s *Server) getContexts(*http.Request) (any, *Error) { return raw(`["."]`), nil }
func (s *Server) getTypes(*http.Request) (any, *Error)    { return raw(`["AVRO"]`), nil }

func (s *Server) getClusterID(*http.Request) (any, *Error) {
	return map[string]any{
		"id":    "",
		"scope": map[string]any{"path": []string{}, "clusters": map[string]string{"kafka-cluster": "welfarehub", "schema-registry-cluster": "schema-registry"}},
	}, nil
}

func (s *Server) getVersionInfo(*http.Request) (any, *Error) {
	return map[string]string{"version": "welfarehub", "commitId": ""}, nil
}

func (s *Server) getSchemas(r *http.Request) (any, *Error) {
	return s.read(func(st *state) (any, *Error) {
		out := []any{}
		for _, name := range st.subjectNames(r.URL.Query().Get("subjectPrefix"), flag(r, "deleted"), false) {
			vs := st.versions(name, flag(r, "deleted"))
			if flag(r, "latestOnly") {
				vs = vs[len(vs)-1:]
			}
			for _, v := range vs {
				a, fault := st.show(v, "")
				if fault != nil {
					return nil, fault
				}
				out = append(out, a)
			}
		}
		return page(r, out), nil
	})
}

// byID runs a query on the schema of a path's id.
func (s *Server) byID(r *http.Request, query func(*state, *entry) (any, *Error)) (any, *Error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 32)
	if err != nil {
		return nil, fail(http.StatusNotFound, "HTTP 404 Not Found")
	}
	return s.readCertain(r.Context(), func(st *state) (any, *Error) {
		e := st.byID[int(id)]
		if e == nil {
			return nil, fail(codeSchemaNotFound, "Schema %d not found", id)
		}
		return query(st, e)
	})
}

func (s *Server) getSchema(r *http.Request) (any, *Error) {
	return s.byID(r, func(st *state, e *entry) (any, *Error) {
		format := r.URL.Query().Get("format")
		text, fault := st.textOf(e, format)
		if fault != nil {
			return nil, fault
		}
		out := schemaAnswer{SchemaType: shownType(e), References: e.refs, Schema: text}
		if format == "resolved" {
			out.References = nil
		}
		if flag(r, "fetchMaxId") {
			id := st.maxID
			out.MaxID = &id
		}
		return out, nil
	})
}

func (s *Server) getSchemaText(r *http.Request) (any, *Error) {
	return s.byID(r, func(st *state, e *entry) (any, *Error) {
		text, fault := st.textOf(e, r.URL.Query().Get("format"))
		return raw(text), fault
	})
}

func (s *Server) getSchemaSubjects(r *http.Request) (any, *Error) {
	return s.byID(r, func(st *state, e *entry) (any, *Error) {
		names := map[string]bool{}
		for _, v := range st.usesOf(e.id, flag(r, "deleted")) {
			names[v.subject] = true
		}
		return page(r, orEmpty(slices.Sorted(maps.Keys(names)))), nil
	})
}

func (s *Server) getSchemaVersions(r *http.Request) (any, *Error) {
	return s.byID(r, func(st *state, e *entry) (any, *Error) {
		out := []subjectVersion{}
		for _, v := range st.usesOf(e.id, flag(r, "deleted")) {
			out = append(out, subjectVersion{v.subject, v.number})
		}
		return page(r, out), nil
	})
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *Server) getSubjects(r *http.Request) (any, *Error) {
	prefix := strings.TrimPrefix(r.URL.Query().Get("subjectPrefix"), ":.:")
	if prefix == ":*:" { // all contexts: there is one
		prefix = ""
	}
	return s.read(func(st *state) (any, *Error) {
		return page(r, st.subjectNames(prefix, flag(r, "deleted"), flag(r, "deletedOnly"))), nil
	})
}

func (s *Server) getVersions(r *http.Request) (any, *Error) {
	return s.readCertain(r.Context(), func(st *state) (any, *Error) {
		out := []int{}
		for _, v := range st.versions(subject(r), flag(r, "deleted") || flag(r, "deletedOnly")) {
			if !flag(r, "deletedOnly") || v.deleted {
				out = append(out, v.number)
			}
		}
		if len(out) == 0 {
			return nil, subjectNotFound(subject(r))
		}
		return page(r, out), nil
	})
}

// byVersion runs a query on the version of a path.
func (s *Server) byVersion(r *http.Request, query func(*state, *version) (any, *Error)) (any, *Error) {
	n, fault := number(r.PathValue("version"))
	if fault != nil {
		return nil, fault
	}
	return s.readCertain(r.Context(), func(st *state) (any, *Error) {
		v, fault := st.version(subject(r), n, flag(r, "deleted"))
		if fault != nil {
			return nil, fault
		}
		return query(st, v)
	})
}

func (s *Server) getVersion(r *http.Request) (any, *Error) {
	return s.byVersion(r, func(st *state, v *version) (any, *Error) { return st.show(v, r.URL.Query().Get("format")) })
}

func (s *Server) getVersionText(r *http.Request) (any, *Error) {
	return s.byVersion(r, func(st *state, v *version) (any, *Error) {
		text, fault := st.textOf(v.entry, r.URL.Query().Get("format"))
		return raw(text), fault
	})
}

func (s *Server) getReferencedBy(r *http.Request) (any, *Error) {
	return s.byVersion(r, func(st *state, v *version) (any, *Error) { return st.referencedBy(v.subject, v.number), nil })
}

func (s *Server) postLookup(r *http.Request) (any, *Error) {
	var req request
	if fault := body(r, &req); fault != nil {
		return nil, fault
	}
	return s.readCertain(r.Context(), func(st *state) (any, *Error) {
		v, fault := st.lookup(subject(r), req, flag(r, "normalize"), flag(r, "deleted"))
		if fault != nil {
			return nil, fault
		}
		return st.show(v, r.URL.Query().Get("format"))
	})
}

func (s *Server) postVersion(r *http.Request) (any, *Error) {
	var req request
	if fault := body(r, &req); fault != nil {
		return nil, fault
	}
	var id int
	fault := s.write(r.Context(), func(st *state) (recs []record, fault *Error) {
		id, recs, fault = st.register(subject(r), req, flag(r, "normalize"))
		return recs, fault
	})
	return map[string]int{"id": id}, fault
}

func (s *Server) deleteSubject(r *http.Request) (any, *Error) {
	var numbers []int
	fault := s.write(r.Context(), func(st *state) (recs []record, fault *Error) {
		numbers, recs, fault = st.deleteSubject(subject(r), flag(r, "permanent"))
		return recs, fault
	})
	return numbers, fault
}

func (s *Server) deleteVersion(r *http.Request) (any, *Error) {
	n, fault := number(r.PathValue("version"))
	if fault != nil {
		return nil, fault
	}
	var deleted int
	fault = s.write(r.Context(), func(st *state) (recs []record, fault *Error) {
		deleted, recs, fault = st.deleteVersion(subject(r), n, flag(r, "permanent"))
		return recs, fault
	})
	return deleted, fault
}

func (s *Server) postCompatibility(r *http.Request) (any, *Error) {
	n, fault := number(r.PathValue("version"))
	if fault != nil {
		return nil, fault
	}
	return s.compatibility(r, n, false)
}

func (s *Server) postCompatibilityAll(r *http.Request) (any, *Error) {
	return s.compatibility(r, latest, true)
}

func (s *Server) compatibility(r *http.Request, n int, all bool) (any, *Error) {
	var req request
	if fault := body(r, &req); fault != nil {
		return nil, fault
	}
	return s.readCertain(r.Context(), func(st *state) (any, *Error) {
		problems, fault := st.test(subject(r), n, all, req, flag(r, "normalize"))
		if fault != nil {
			return nil, fault
		}
		out := compatibilityAnswer{Compatible: len(problems) == 0}
		if flag(r, "verbose") {
			out.Messages = problems
		}
		return out, nil
	})
}

type compatibilityAnswer struct {
	Compatible bool     `json:"is_compatible"`
	Messages   []string `json:"messages,omitempty"`
}

// levelAnswer names the level as answers do, levelRequest as requests and their echoes do.
type levelAnswer struct {
	Level Level `json:"compatibilityLevel"`
}

type levelRequest struct {
	Level string `json:"compatibility"`
}

func (s *Server) getConfig(r *http.Request) (any, *Error) {
	return s.read(func(st *state) (any, *Error) {
		name := subject(r)
		if _, ok := st.levels[name]; !ok && name != "" && !flag(r, "defaultToGlobal") {
			return nil, fail(codeNoSubjectConfig, "Subject '%s' does not have subject-level compatibility configured", name)
		}
		return levelAnswer{st.level(name)}, nil
	})
}

func (s *Server) putConfig(r *http.Request) (any, *Error) {
	var req levelRequest
	if fault := body(r, &req); fault != nil {
		return nil, fault
	}
	fault := s.write(r.Context(), func(st *state) ([]record, *Error) { return st.setLevel(subject(r), req.Level) })
	return levelRequest{strings.ToUpper(req.Level)}, fault
}

func (s *Server) deleteConfig(r *http.Request) (any, *Error) {
	var level Level
	fault := s.write(r.Context(), func(st *state) (recs []record, fault *Error) {
		level, recs, fault = st.deleteLevel(subject(r))
		return recs, fault
	})
	return levelAnswer{level}, fault
}

type modeAnswer struct {
	Mode string `json:"mode"`
}

func (s *Server) getMode(r *http.Request) (any, *Error) {
	return s.read(func(st *state) (any, *Error) {
		name := subject(r)
		m, ok := st.modes[name]
		switch {
		case name == "" || flag(r, "defaultToGlobal"):
			m = st.mode(name)
		case !ok:
			return nil, fail(codeNoSubjectMode, "Subject '%s' does not have subject-level mode configured", name)
		}
		return modeAnswer{string(m)}, nil
	})
}

func (s *Server) putMode(r *http.Request) (any, *Error) {
	var req modeAnswer
	if fault := body(r, &req); fault != nil {
		return nil, fault
	}
	fault := s.write(r.Context(), func(st *state) ([]record, *Error) { return st.setMode(subject(r), req.Mode, flag(r, "force")) })
	return modeAnswer{strings.ToUpper(req.Mode)}, fault
}

func (s *Server) deleteMode(r *http.Request) (any, *Error) {
	var mode Mode
	fault := s.write(r.Context(), func(st *state) (recs []record, fault *Error) {
		mode, recs, fault = st.deleteMode(subject(r))
		return recs, fault
	})
	return modeAnswer{string(mode)}, fault
}

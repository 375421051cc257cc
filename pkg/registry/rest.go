package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// Content types of the API; the first is the one that answers have unless a client asks for another.
const (
	typeV1      = "application/vnd.schemaregistry.v1+json"
	typeDefault = "application/vnd.schemaregistry+json"
	typeJSON    = "application/json"
)

// handle answers a request with a value that is sent as JSON (a raw text as it is), or with a fault.
type handle func(r *http.Request) (any, *Error)

// raw is an answer that is JSON already.
type raw string

// Handler serves the REST API. Each request is bounded in size; bound the time of reading one by the
// settings of the http.Server.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range s.routes() {
		mux.Handle(pattern, s.answer(h))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path := r.URL.EscapedPath(); len(path) > 1 && strings.HasSuffix(path, "/") {
			r = r.Clone(r.Context())
			r.URL.Path = strings.TrimRight(r.URL.Path, "/")
			r.URL.RawPath = strings.TrimRight(r.URL.RawPath, "/")
		}
		if inTarget(r) {
			s.send(w, r, nil, fail(codeInvalidSubject, "The specified subject is not a valid subject: %s", personal))
			return
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			s.unrouted(mux, w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// unrouted answers a request that no route has, in the API's own form; the mux knows whether it is the
// path or the method that is unknown.
func (s *Server) unrouted(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	probe := &statusProbe{header: http.Header{}}
	mux.ServeHTTP(probe, r)
	fault := fail(http.StatusNotFound, "HTTP 404 Not Found")
	if probe.status == http.StatusMethodNotAllowed {
		fault = fail(http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed")
		w.Header().Set("Allow", probe.header.Get("Allow"))
	}
	s.send(w, r, nil, fault)
}

// statusProbe takes a status and headers, and drops the body.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }

func (s *Server) routes() map[string]handle {
	return map[string]handle{
		"GET /{$}":                                                  s.getRoot,
		"GET /contexts":                                             s.getContexts,
		"GET /v1/metadata/id":                                       s.getClusterID,
		"GET /v1/metadata/version":                                  s.getVersionInfo,
		"GET /schemas":                                              s.getSchemas,
		"GET /schemas/types":                                        s.getTypes,
		"GET /schemas/ids/{id}":                                     s.getSchema,
		"GET /schemas/ids/{id}/schema":                              s.getSchemaText,
		"GET /schemas/ids/{id}/subjects":                            s.getSchemaSubjects,
		"GET /schemas/ids/{id}/versions":                            s.getSchemaVersions,
		"GET /subjects":                                             s.getSubjects,
		"POST /subjects/{subject}":                                  s.postLookup,
		"DELETE /subjects/{subject}":                                s.deleteSubject,
		"GET /subjects/{subject}/versions":                          s.getVersions,
		"POST /subjects/{subject}/versions":                         s.postVersion,
		"GET /subjects/{subject}/versions/{version}":                s.getVersion,
		"DELETE /subjects/{subject}/versions/{version}":             s.deleteVersion,
		"GET /subjects/{subject}/versions/{version}/schema":         s.getVersionText,
		"GET /subjects/{subject}/versions/{version}/referencedby":   s.getReferencedBy,
		"POST /compatibility/subjects/{subject}/versions":           s.postCompatibilityAll,
		"POST /compatibility/subjects/{subject}/versions/{version}": s.postCompatibility,
		"GET /config":                                               s.getConfig,
		"PUT /config":                                               s.putConfig,
		"DELETE /config":                                            s.deleteConfig,
		"GET /config/{subject}":                                     s.getConfig,
		"PUT /config/{subject}":                                     s.putConfig,
		"DELETE /config/{subject}":                                  s.deleteConfig,
		"GET /mode":                                                 s.getMode,
		"PUT /mode":                                                 s.putMode,
		"DELETE /mode":                                              s.deleteMode,
		"GET /mode/{subject}":                                       s.getMode,
		"PUT /mode/{subject}":                                       s.putMode,
		"DELETE /mode/{subject}":                                    s.deleteMode,
	}
}

func (s *Server) answer(h handle) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost || r.Method == http.MethodPut {
			r.Body = http.MaxBytesReader(w, r.Body, s.opt.MaxBodyBytes)
			if !takes(r.Header.Get("Content-Type")) {
				s.send(w, r, nil, fail(http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type: send %s or %s", typeV1, typeJSON))
				return
			}
		}
		v, fault := h(r)
		s.send(w, r, v, fault)
	})
}

// takes tells whether a request may have a content type.
func takes(contentType string) bool {
	if contentType == "" {
		return true
	}
	t, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return false
	case t == typeV1, t == typeDefault, t == typeJSON, t == "application/octet-stream":
		return true
	}
	return false
}

// answerType is the content type that a client asked for, or "" if it takes none of ours.
func answerType(accept string) string {
	if accept == "" {
		return typeV1
	}
	for part := range strings.SplitSeq(accept, ",") {
		t, _, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		switch t {
		case typeV1, typeDefault, typeJSON:
			return t
		case "*/*", "application/*":
			return typeV1
		}
	}
	return ""
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, v any, fault *Error) {
	contentType := answerType(r.Header.Get("Accept"))
	status := http.StatusOK
	switch {
	case contentType == "" && fault == nil:
		fault = fail(http.StatusNotAcceptable, "HTTP 406 Not Acceptable: this registry answers %s", typeV1)
		fallthrough
	case contentType == "":
		contentType = typeV1
	}
	if fault != nil {
		if privacy.ContainsCF([]byte(fault.Message)) {
			fault = fail(fault.Code, "%s", personal)
		}
		status = fault.HTTPStatus
		v = struct {
			Code    int    `json:"error_code"`
			Message string `json:"message"`
		}{fault.Code, fault.Message}
	}
	var body []byte
	if text, ok := v.(raw); ok {
		body = []byte(text)
	} else {
		body = marshal(v)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil { // HEAD writes no body without an error
		s.zap.Debug("client of the schema registry went away", zap.Error(err))
	}
}

// body decodes a request, whose unknown members mean nothing.
func body(r *http.Request, into any) *Error {
	err := json.NewDecoder(r.Body).Decode(into)
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return fail(http.StatusRequestEntityTooLarge, "Request is larger than %d bytes", large.Limit)
	}
	return fail(http.StatusBadRequest, "Request body is not the JSON object that is expected: %s", jsonProblem(err))
}

// jsonProblem is a decoding error without what was sent.
func jsonProblem(err error) string {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		return fmt.Sprintf("member %q is a %s, want %s", te.Field, te.Value, te.Type)
	}
	var se *json.SyntaxError
	if errors.As(err, &se) {
		return fmt.Sprintf("at byte %d: %s", se.Offset, se)
	}
	return err.Error()
}

// subject is the subject of a path, of which the default context may be spelled out.
func subject(r *http.Request) string { return strings.TrimPrefix(r.PathValue("subject"), ":.:") }

func flag(r *http.Request, name string) bool {
	return strings.EqualFold(r.URL.Query().Get(name), "true")
}

// number reads a version: latest, -1 or a positive number.
func number(text string) (int, *Error) {
	if strings.EqualFold(text, "latest") || text == "-1" {
		return latest, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, fail(codeInvalidVersion, `The specified version '%.40s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string "latest"`, text)
	}
	return int(n), nil
}

// page cuts a list by the query's offset and limit.
func page[T any](r *http.Request, list []T) []T {
	q := r.URL.Query()
	if n, err := strconv.Atoi(q.Get("offset")); err == nil && n > 0 {
		list = list[min(n, len(list)):]
	}
	if n, err := strconv.Atoi(q.Get("limit")); err == nil && n >= 0 {
		list = list[:min(n, len(list))]
	}
	return list
}

// read runs a query on the state.
func (s *Server) read(query func(*state) (any, *Error)) (any, *Error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return query(s.state)
}

// readCertain is read, but a miss counts only when the whole log has been read: a client takes
// "no such schema" for final.
func (s *Server) readCertain(ctx context.Context, query func(*state) (any, *Error)) (any, *Error) {
	v, fault := s.read(query)
	if fault == nil || fault.HTTPStatus != http.StatusNotFound {
		return v, fault
	}
	ctx, cancel := context.WithTimeout(ctx, s.opt.Timeout)
	defer cancel()
	if err := s.catchUp(ctx); err != nil {
		return nil, s.storeFault("read", err)
	}
	return s.read(query)
}

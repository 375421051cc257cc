package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ClientOptions configure a Client. Zero values take the defaults that the comments give.
type ClientOptions struct {
	URL         string        // http(s)://host:port and, if the registry is behind one, a path prefix
	User        string        // of basic authentication; none
	Password    string        //
	TLS         *tls.Config   // the system's authorities; not with HTTP
	HTTP        *http.Client  // one of its own with Timeout
	Timeout     time.Duration // of a request whose context has no earlier deadline, 10 s
	NegativeTTL time.Duration // how long an unknown id is answered without asking again, 5 s
}

// Client uses a schema registry. It is safe for concurrent use, and does not retry: its callers know
// for how long they can wait, and IsRetryable tells them whether to.
type Client struct {
	base           *url.URL
	user, password string
	http           *http.Client
	timeout        time.Duration
	negativeTTL    time.Duration
	now            func() time.Time

	mu      sync.Mutex
	texts   map[int]string // an id means one schema for ever
	unknown map[int]miss
}

type miss struct {
	err   error
	until time.Time
}

// Registered is a version of a subject.
type Registered struct {
	Subject    string
	Version    int
	ID         int
	Schema     string
	References []Reference
}

const (
	maxAnswer   = 16 << 20 // bytes of an answer that are read
	maxUnknown  = 10000    // unknown ids that are remembered
	errorSample = 200      // bytes of an answer that is not a registry's, for the error
)

// NewClient checks the options; it does not connect.
func NewClient(opt ClientOptions) (*Client, error) {
	u, err := url.Parse(opt.URL)
	if err != nil {
		return nil, fmt.Errorf("parse schema registry URL: %w", errors.Unwrap(err)) // the wrapper repeats the URL, which may hold a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("schema registry URL has no http(s)://host; got scheme %q", u.Scheme)
	}
	c := &Client{
		base: u, user: opt.User, password: opt.Password, http: opt.HTTP, timeout: opt.Timeout, negativeTTL: opt.NegativeTTL,
		now: time.Now, texts: map[int]string{}, unknown: map[int]miss{},
	}
	if u.User != nil {
		if c.user == "" {
			c.user = u.User.Username()
			c.password, _ = u.User.Password()
		}
		u.User = nil
	}
	u.RawQuery, u.Fragment = "", ""
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	if c.timeout == 0 {
		c.timeout = 10 * time.Second
	}
	if c.negativeTTL == 0 {
		c.negativeTTL = 5 * time.Second
	}
	if c.http == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = opt.TLS
		t.MaxIdleConnsPerHost = 16
		c.http = &http.Client{Transport: t}
	}
	return c, nil
}

// Register adds a schema to a subject, unless it is there already, and returns its id.
func (c *Client) Register(ctx context.Context, subject, schema string, refs ...Reference) (int, error) {
	var out struct {
		ID int `json:"id"`
	}
	err := c.call(ctx, http.MethodPost, "/subjects/"+url.PathEscape(subject)+"/versions", schemaRequest{schema, refs}, &out)
	if err != nil {
		return 0, fmt.Errorf("register a schema of subject %s: %w", subject, err)
	}
	return out.ID, nil
}

type schemaRequest struct {
	Schema     string      `json:"schema"`
	References []Reference `json:"references,omitempty"`
}

// SchemaByID returns the text of a schema, with the schemas that it refers to written into it. What is
// found is kept for ever; that an id is unknown (IsNotFound) for a few seconds.
func (c *Client) SchemaByID(ctx context.Context, id int) (string, error) {
	c.mu.Lock()
	text, ok := c.texts[id]
	m, missed := c.unknown[id]
	c.mu.Unlock()
	switch {
	case ok:
		return text, nil
	case missed && c.now().Before(m.until):
		return "", m.err
	}
	text, err := c.fetchSchema(ctx, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.texts[id] = text
		delete(c.unknown, id)
	case IsNotFound(err):
		if len(c.unknown) >= maxUnknown { // ids come from outside: bound what they can make us keep
			clear(c.unknown)
		}
		c.unknown[id] = miss{err, c.now().Add(c.negativeTTL)}
	}
	return text, err
}

// fetchSchema returns the bare text of a schema that is not Avro, or whose references the registry does
// not have (any more): the schema exists and cannot be used, which its parser will say. An error would
// be taken for an outage, and waited out for ever.
func (c *Client) fetchSchema(ctx context.Context, id int) (string, error) {
	var out schemaAnswer
	if err := c.call(ctx, http.MethodGet, "/schemas/ids/"+strconv.Itoa(id), nil, &out); err != nil {
		return "", fmt.Errorf("read schema %d: %w", id, err)
	}
	if len(out.References) == 0 || out.SchemaType != "" && out.SchemaType != typeAvro {
		return out.Schema, nil
	}
	texts, err := c.references(ctx, out.References, map[string]bool{}, 0)
	switch {
	case errors.Is(err, errReference):
		return out.Schema, nil
	case err != nil:
		return "", fmt.Errorf("read schema %d: %w", id, err)
	}
	text, err := inline(out.Schema, texts)
	if err != nil {
		return out.Schema, nil //nolint:nilerr // see above
	}
	return text, nil
}

// errReference marks references that the registry says it cannot follow.
var errReference = errors.New("schema reference cannot be followed")

// references returns the texts of what refs name, those that others use first.
func (c *Client) references(ctx context.Context, refs []Reference, done map[string]bool, depth int) ([]string, error) {
	if depth > maxReferenceDepth {
		return nil, fmt.Errorf("%w: more than %d deep", errReference, maxReferenceDepth)
	}
	var out []string
	for _, r := range refs {
		key := fmt.Sprintf("%d/%s", r.Version, r.Subject)
		if done[key] {
			continue
		}
		done[key] = true
		var v versionAnswer
		path := "/subjects/" + url.PathEscape(r.Subject) + "/versions/" + strconv.Itoa(r.Version) + "?deleted=true"
		err := c.call(ctx, http.MethodGet, path, nil, &v)
		var e *Error
		switch {
		case errors.As(err, &e) && (e.Code == codeSubjectNotFound || e.Code == codeVersionNotFound):
			return nil, fmt.Errorf("%w: subject %s version %d: %s", errReference, r.Subject, r.Version, e.Message)
		case err != nil:
			return nil, fmt.Errorf("follow reference to subject %s version %d: %w", r.Subject, r.Version, err)
		}
		inner, err := c.references(ctx, v.References, done, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(append(out, inner...), v.Schema)
	}
	return out, nil
}

// Latest returns the latest version of a subject.
func (c *Client) Latest(ctx context.Context, subject string) (Registered, error) {
	var v versionAnswer
	if err := c.call(ctx, http.MethodGet, "/subjects/"+url.PathEscape(subject)+"/versions/latest", nil, &v); err != nil {
		return Registered{}, fmt.Errorf("read the latest version of subject %s: %w", subject, err)
	}
	return Registered{v.Subject, v.Version, v.ID, v.Schema, v.References}, nil
}

// Lookup returns the version of a subject that has a schema; the error is IsNotFound where the subject
// has others only.
func (c *Client) Lookup(ctx context.Context, subject, schema string, refs ...Reference) (Registered, error) {
	var v versionAnswer
	if err := c.call(ctx, http.MethodPost, "/subjects/"+url.PathEscape(subject), schemaRequest{schema, refs}, &v); err != nil {
		return Registered{}, fmt.Errorf("look a schema up in subject %s: %w", subject, err)
	}
	return Registered{v.Subject, v.Version, v.ID, v.Schema, v.References}, nil
}

// Compatible asks whether a schema could be registered, by the level of the subject, and why not. A
// subject without versions takes any schema.
func (c *Client) Compatible(ctx context.Context, subject, schema string, refs ...Reference) (ok bool, problems []string, err error) {
	var out compatibilityAnswer
	err = c.call(ctx, http.MethodPost, "/compatibility/subjects/"+url.PathEscape(subject)+"/versions?verbose=true", schemaRequest{schema, refs}, &out)
	var e *Error
	if errors.As(err, &e) && e.Code == codeSubjectNotFound {
		return true, nil, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("test a schema against subject %s: %w", subject, err)
	}
	return out.Compatible, out.Messages, nil
}

// Ping asks for something small that needs credentials but no subject.
func (c *Client) Ping(ctx context.Context) error {
	if err := c.call(ctx, http.MethodGet, "/schemas/types", nil, nil); err != nil {
		return fmt.Errorf("reach the schema registry at %s: %w", c.base.Host, err)
	}
	return nil
}

// call sends a request and decodes the answer into out. path is escaped, and may have a query.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var reader io.Reader
	if in != nil {
		reader = bytes.NewReader(marshal(in))
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, reader)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	req.Header.Set("Accept", typeV1+", "+typeDefault+", "+typeJSON)
	if in != nil {
		req.Header.Set("Content-Type", typeV1)
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return explain(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if len(raw) > maxAnswer {
		return fmt.Errorf("answer is larger than %d bytes", maxAnswer)
	}
	if res.StatusCode >= 300 {
		return answeredError(res.StatusCode, raw)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("decode the answer %.*q: %w; is this a schema registry?", errorSample, raw, err)
	}
	return nil
}

// explain adds what to look at to a failure that says little by itself.
func explain(err error) error {
	var untrusted *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w; give the authority that signed the registry's certificate, or reach the registry by a name that the certificate has", err)
	case errors.As(err, &plain), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w; does the registry speak plain HTTP there?", err)
	}
	return err
}

func answeredError(status int, raw []byte) error {
	var e struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	err := json.Unmarshal(raw, &e)
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		if e.Message == "" {
			e.Message = http.StatusText(status)
		}
		return &Error{HTTPStatus: status, Code: max(e.Code, status), Message: e.Message + "; are user and password of the registry right?"}
	}
	if err != nil || e.Code == 0 {
		return &Error{HTTPStatus: status, Code: status, Message: fmt.Sprintf("%s, without a registry's error code; is the URL right?", http.StatusText(status))}
	}
	return &Error{HTTPStatus: status, Code: e.Code, Message: e.Message}
}

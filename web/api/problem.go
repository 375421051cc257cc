package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/ClickHouse/clickhouse-go/v2"
	"go.uber.org/zap"

	whclickhouse "github.com/welfarehub/welfarehub/pkg/clickhouse"
)

// Codes of problems. They are stable: clients branch on them, or on type, which is typePrefix + code.
const (
	CodeBadParameters    = "bad-parameters"     // 400; errors has an entry for each parameter
	CodeNotFound         = "not-found"          // 404
	CodeMethodNotAllowed = "method-not-allowed" // 405
	CodeNotAcceptable    = "not-acceptable"     // 406
	CodeTooLarge         = "too-large"          // 422: the query needs more memory than it may use
	CodeInternal         = "internal"           // 500: a fault of the hub, in its log under request_id
	CodeUnavailable      = "unavailable"        // 503: try again after Retry-After seconds
	CodeTimeout          = "timeout"            // 504: the query took longer than it may
)

const typePrefix = "urn:welfarehub:problem:"

// titles are what a code means, in a few words.
var titles = map[string]string{
	CodeBadParameters: "The parameters are not valid", CodeNotFound: "There is nothing at this path",
	CodeMethodNotAllowed: "This method is not allowed here", CodeNotAcceptable: "There is no such representation",
	CodeTooLarge: "The query is too large", CodeInternal: "The hub failed", CodeUnavailable: "The hub cannot answer now",
	CodeTimeout: "The query took too long",
}

// Problem is a refusal, as RFC 9457 has it. It does not repeat what the client sent.
type Problem struct {
	Type      string           `json:"type"`
	Title     string           `json:"title"`
	Status    int              `json:"status"`
	Code      string           `json:"code"`
	Detail    string           `json:"detail"`
	RequestID string           `json:"request_id"`
	Errors    []ParameterError `json:"errors,omitempty"`
	header    http.Header
}

// ParameterError is what is wrong with one parameter, and what it may be.
type ParameterError struct {
	Parameter string   `json:"parameter"`
	Detail    string   `json:"detail"`
	Allowed   []string `json:"allowed,omitempty"`
}

// Error is for handlers' return values; clients see the JSON.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// Codes of ClickHouse that say what a client can do about it.
const (
	chTimeout     = 159 // TIMEOUT_EXCEEDED
	chTooSlow     = 160 // TOO_SLOW
	chMemory      = 241 // MEMORY_LIMIT_EXCEEDED
	chTooManyRows = 396 // TOO_MANY_ROWS_OR_BYTES
	chNoTable     = 60  // UNKNOWN_TABLE
	chNoDatabase  = 81  // UNKNOWN_DATABASE
)

// refuse makes the answer to an error. What the client cannot help is logged: the code of a ClickHouse
// error, not its text, which may quote the query.
func (a *api) refuse(ctx context.Context, log *zap.Logger, id string, err error) *answer {
	p := problemOf(ctx, err)
	p.Type, p.Title, p.RequestID = typePrefix+p.Code, titles[p.Code], id
	if p.Status >= http.StatusInternalServerError && !errors.Is(ctx.Err(), context.Canceled) {
		var ex *clickhouse.Exception
		if errors.As(err, &ex) {
			log.Warn("request failed", zap.String("code", p.Code), zap.Int32("clickhouse_code", ex.Code))
		} else {
			log.Warn("request failed", zap.String("code", p.Code), zap.Error(err))
		}
	}
	body, err := json.Marshal(p)
	if err != nil {
		body = nil // cannot be: a Problem has texts and a number
	}
	header := http.Header{}
	for k, v := range p.header {
		header[k] = v
	}
	header.Set("Content-Type", "application/problem+json")
	if p.Status == http.StatusServiceUnavailable {
		header.Set("Retry-After", "5")
	}
	return &answer{status: p.Status, header: header, body: append(body, '\n')}
}

func problemOf(ctx context.Context, err error) *Problem {
	var p *Problem
	var ex *clickhouse.Exception
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, errNotReady), errors.As(err, &ex) && (ex.Code == chNoTable || ex.Code == chNoDatabase):
		return &Problem{Status: http.StatusServiceUnavailable, Code: CodeUnavailable, Detail: errNotReady.Error()}
	case errors.Is(err, errPanic):
		return &Problem{Status: http.StatusInternalServerError, Code: CodeInternal, Detail: "the fault is in the hub's log under this request_id"}
	case errors.Is(err, errBusy):
		return &Problem{Status: http.StatusServiceUnavailable, Code: CodeUnavailable, Detail: "too many queries run at once; try again in a moment"}
	case errors.As(err, &ex) && (ex.Code == chTimeout || ex.Code == chTooSlow), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Problem{Status: http.StatusGatewayTimeout, Code: CodeTimeout, Detail: "ask for less: one level, some territories or services, or a shorter period"}
	case errors.As(err, &ex) && (ex.Code == chMemory || ex.Code == chTooManyRows):
		return &Problem{Status: http.StatusUnprocessableEntity, Code: CodeTooLarge, Detail: "ask for less: one level, some territories or services, or a shorter period"}
	case ex != nil && !whclickhouse.IsRetryable(err):
		// The server understood us and said no: to ask again is no use.
		return &Problem{Status: http.StatusInternalServerError, Code: CodeInternal, Detail: "the fault is in the hub's log under this request_id"}
	}
	return &Problem{Status: http.StatusServiceUnavailable, Code: CodeUnavailable, Detail: "ClickHouse cannot answer now; the reason is in the hub's log under this request_id"}
}

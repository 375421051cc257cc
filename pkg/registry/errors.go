package registry

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is an answer of a registry that is not a success, as sent and as received.
type Error struct {
	HTTPStatus int    // status of the answer
	Code       int    // Confluent's error code; the status where the answer had none
	Message    string // what is wrong, for people
}

func (e *Error) Error() string {
	return fmt.Sprintf("schema registry: HTTP %d, error %d: %s", e.HTTPStatus, e.Code, e.Message)
}

// Confluent's error codes. The first three digits are the HTTP status.
const (
	codeSubjectNotFound       = 40401
	codeVersionNotFound       = 40402
	codeSchemaNotFound        = 40403
	codeSubjectSoftDeleted    = 40404
	codeSubjectNotSoftDeleted = 40405
	codeVersionSoftDeleted    = 40406
	codeVersionNotSoftDeleted = 40407
	codeNoSubjectConfig       = 40408
	codeNoSubjectMode         = 40409
	codeInvalidSchema         = 42201
	codeInvalidVersion        = 42202
	codeInvalidLevel          = 42203
	codeInvalidMode           = 42204
	codeNotPermitted          = 42205
	codeReferenceExists       = 42206
	codeInvalidSubject        = 42208
	codeTooLarge              = 42209
	codeStore                 = 50001
	codeTimeout               = 50002
)

// fail makes an Error; codes below 1000 are HTTP statuses.
func fail(code int, format string, args ...any) *Error {
	status := code
	if code >= 10000 {
		status = code / 100
	}
	return &Error{HTTPStatus: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// IsNotFound tells that the registry itself said that it does not know the schema (40403): permanent
// until somebody registers it. A 404 without that code, from a proxy or a wrong URL, is not taken for
// that answer, and neither is any failure to reach the registry.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.HTTPStatus == http.StatusNotFound && e.Code == codeSchemaNotFound
}

// IsRetryable tells that the same request may succeed later: nobody answered, or the answer was of a
// server or proxy in trouble (5xx, 408, 429).
func IsRetryable(err error) bool {
	if err == nil {
		return false
	}
	var e *Error
	if !errors.As(err, &e) {
		return !errors.Is(err, errBadRequest)
	}
	return e.HTTPStatus >= 500 || e.HTTPStatus == http.StatusTooManyRequests || e.HTTPStatus == http.StatusRequestTimeout
}

// errBadRequest marks errors of the caller's own making, which a retry does not cure.
var errBadRequest = errors.New("request not sent")

package clickhouse

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/clickhouse-go/v2"
)

// Codes of server errors that pass: the same query may work a moment later.
var retryableCodes = map[int32]string{
	3:   "UNEXPECTED_END_OF_FILE: the stream was cut",
	32:  "ATTEMPT_TO_READ_AFTER_EOF: the stream was cut",
	159: "TIMEOUT_EXCEEDED: the server was too busy",
	160: "TOO_SLOW: the server was too busy",
	202: "TOO_MANY_SIMULTANEOUS_QUERIES: wait for others",
	203: "NO_FREE_CONNECTION: wait for others",
	209: "SOCKET_TIMEOUT: network",
	210: "NETWORK_ERROR: network",
	236: "ABORTED: the server is shutting down",
	241: "MEMORY_LIMIT_EXCEEDED: other queries and merges give it back",
	242: "TABLE_IS_READ_ONLY: Keeper is away",
	243: "NOT_ENOUGH_SPACE: merges and people free space",
	252: "TOO_MANY_PARTS: merges catch up",
	279: "ALL_CONNECTION_TRIES_FAILED: network",
	285: "TOO_FEW_LIVE_REPLICAS: replicas come back",
	286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE: replicas come back",
	319: "UNKNOWN_STATUS_OF_INSERT: the token makes the repeat safe",
	394: "QUERY_WAS_CANCELLED: somebody killed it, or the server is stopping",
	425: "SYSTEM_ERROR: the operating system",
	439: "CANNOT_SCHEDULE_TASK: no thread is free",
	473: "DEADLOCK_AVOIDED: a lock is held by another query",
	574: "DISTRIBUTED_TOO_MANY_PENDING_BYTES: wait for them",
	667: "NOT_INITIALIZED: the server is starting",
	733: "TABLE_IS_BEING_RESTARTED: it comes back",
	734: "CANNOT_WRITE_AFTER_BUFFER_CANCELED: the server is stopping",
	745: "SERVER_OVERLOADED: wait",
	999: "KEEPER_EXCEPTION: Keeper is away",
}

// IsRetryable tells whether a call that failed with err may succeed when it is repeated unchanged. It
// says nothing of whether that is safe: inserts carry a token, so for them it is. A caller whose own
// context has ended must stop whatever this says.
func IsRetryable(err error) bool {
	if err == nil {
		return false
	}
	// The caller gave up: repeating is not ours to decide.
	if errors.Is(err, context.Canceled) {
		return false
	}
	// The server answered. Unknown tables and columns, type mismatches, syntax, missing rights and a wrong
	// password stay wrong until a person acts, so what is not listed is permanent.
	if code, ok := ServerCode(err); ok {
		return retryableCodes[code] != ""
	}
	// A deadline of ours: the server hangs, or is busy.
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	// All connections of the pool are in use.
	if errors.Is(err, clickhouse.ErrAcquireConnTimeout) {
		return true
	}
	// The connection was cut, by the server's end or by the network.
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, clickhouse.ErrConnectionClosed) || errors.Is(err, ch.ErrClosed) {
		return true
	}
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
		if errors.Is(err, e) {
			return true
		}
	}
	// A name that does not resolve is often one of a server that is being moved; other network errors are
	// dial errors and timeouts.
	if n := net.Error(nil); errors.As(err, &n) {
		return true
	}
	return false
}

// ServerCode is the code of an error that the server answered with, of either driver.
func ServerCode(err error) (int32, bool) {
	var e *clickhouse.Exception
	if errors.As(err, &e) {
		return e.Code, true
	}
	var c *ch.Exception
	if errors.As(err, &c) {
		return int32(c.Code), true
	}
	return 0, false
}

package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
)

func TestIsRetryable(t *testing.T) {
	server := func(code int32) error { return fmt.Errorf("insert: %w", &clickhouse.Exception{Code: code}) }
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"nothing", nil, false},
		{"caller gave up", fmt.Errorf("insert: %w", context.Canceled), false},
		{"deadline", context.DeadlineExceeded, true},
		{"read timeout", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, true},
		{"refused", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		{"name not found", &net.DNSError{IsNotFound: true}, true},
		{"cut", fmt.Errorf("read: %w", io.ErrUnexpectedEOF), true},
		{"closed", ch.ErrClosed, true},
		{"no free connection", clickhouse.ErrAcquireConnTimeout, true},
		{"too many parts", server(252), true},
		{"memory", server(241), true},
		{"shutting down", server(236), true},
		{"memory, of ch-go", fmt.Errorf("insert: %w", &ch.Exception{Code: proto.Error(241)}), true},
		{"unknown table", server(60), false},
		{"unknown column", server(16), false},
		{"type mismatch", server(53), false},
		{"syntax", server(62), false},
		{"access denied", server(497), false},
		{"wrong password, of ch-go", &ch.Exception{Code: proto.Error(516)}, false},
		{"anything else", errors.New("x"), false},
	} {
		if got := IsRetryable(c.err); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAddressErrorHidesThePassword(t *testing.T) {
	_, err := Open(t.Context(), "clickhouse://hub:sesame@%zz:9000/")
	if err == nil || err.Error() != "read ClickHouse address: want clickhouse://user:password@host:port/" {
		t.Errorf("got %v", err)
	}
}

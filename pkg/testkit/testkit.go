// Package testkit gives integration tests a Kafka and a ClickHouse. It promises that they are ready when it returns
// them, that they are gone when the test binary ends, however it ends, and that a test that cannot have them says why.
//
// By default both are the embedded parts. The environment chooses others:
//
//	WELFAREHUB_KAFKA=jars            Apache Kafka from the jars that deploy/kafka-test/install.sh fetches
//	WELFAREHUB_KAFKA=container       Apache Kafka in a container (see container.go)
//	WELFAREHUB_CLICKHOUSE=container  ClickHouse in a container
//	WELFAREHUB_E2E=0                 skip all tests that need either
//	WELFAREHUB_E2E=1                 fail, not skip, where something is missing; CI sets it
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { testkit.Main(m) }
package testkit

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/welfarehub/welfarehub/pkg/engine"
)

const (
	envE2E        = "WELFAREHUB_E2E"
	envKafka      = "WELFAREHUB_KAFKA"
	envClickHouse = "WELFAREHUB_CLICKHOUSE"
)

// shared holds what all tests of a binary use together. It is a global because test functions share nothing else.
var shared struct {
	mu         sync.Mutex
	main       bool // Main was called
	kafka      *Server
	clickhouse *Server
}

// names makes the names of Name unique.
var names atomic.Int64

// Main runs the tests of a package, ends what they shared, and fails where goroutines are left. Call it from TestMain.
func Main(m *testing.M) {
	engine.RunIfChild()
	runBrokerIfChild()
	shared.main = true
	code := m.Run()
	shared.mu.Lock()
	for _, s := range []*Server{shared.kafka, shared.clickhouse} {
		if s != nil {
			s.close()
		}
	}
	os.Exit(CheckLeaks(code))
}

// CheckLeaks takes the exit code of tests that have stopped all that they started, and returns it, or 1 where they
// passed and goroutines are left. Main does it; it is for packages that have servers of their own.
func CheckLeaks(code int) int {
	if code != 0 {
		return code // a test that failed may not have stopped what it started
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintf(os.Stderr, "goroutines are left after the tests: %v\n", err)
		return 1
	}
	return 0
}

// Kafka returns the bootstrap servers of the Kafka that all tests of this binary share. Use names of your own in it.
func Kafka(t testing.TB) []string {
	t.Helper()
	gate(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.kafka == nil {
		s, err := newKafka(false)
		give(t, s, err)
		shared.kafka = s
	}
	return []string{shared.kafka.Addr}
}

// ClickHouse returns the ClickHouse that all tests of this binary share. Use databases of your own in it, or clear up.
func ClickHouse(t testing.TB) *Server {
	t.Helper()
	gate(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.clickhouse == nil {
		s, err := newClickHouse()
		give(t, s, err)
		shared.clickhouse = s
	}
	return shared.clickhouse
}

// KafkaServer starts a Kafka in a process of its own for this test, which may break it. It ends with the test.
func KafkaServer(t testing.TB) *Server {
	t.Helper()
	gate(t)
	s, err := newKafka(true)
	give(t, s, err)
	t.Cleanup(s.close)
	return s
}

// ClickHouseServer starts a ClickHouse for this test, which may break it. It ends with the test.
func ClickHouseServer(t testing.TB) *Server {
	t.Helper()
	gate(t)
	s, err := newClickHouse()
	give(t, s, err)
	t.Cleanup(s.close)
	return s
}

// Name returns a name that no other call returns, for a topic, group or database; it hints at the test.
func Name(t testing.TB) string {
	base := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "_")
	return fmt.Sprintf("%.40s_%d_%d", base, os.Getpid(), names.Add(1))
}

// gate stops a test that must not run, or cannot.
func gate(t testing.TB) {
	t.Helper()
	if os.Getenv(envE2E) == "0" {
		t.Skip(envE2E + "=0")
	}
	if !shared.main {
		t.Fatal("this package needs func TestMain(m *testing.M) { testkit.Main(m) }")
	}
}

// give ends a test that did not get what it asked for: it skips it where something is missing, unless that is required.
func give(t testing.TB, s *Server, err error) {
	t.Helper()
	switch {
	case err == nil:
		return
	case isMissing(err) && os.Getenv(envE2E) != "1":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// Server is a Kafka or a ClickHouse, and a way to break it.
type Server struct {
	Addr       string // host:port of the Kafka listener, or of ClickHouse's native protocol; kept over Kill and Start
	HTTP       string // host:port of ClickHouse's HTTP interface
	DSN        string // of a ClickHouse user with all rights, native protocol
	PlannerDSN string // of user planner; empty where the server has none

	kind string
	back backend
}

// backend is one way to run a server.
type backend interface {
	kill() error
	start(ctx context.Context) error
	pause() error
	resume() error
	cut() error
	mend() error
	close()
}

// errUnsupported: this backend cannot do that.
var errUnsupported = fmt.Errorf("not possible with this backend")

// Kill ends the server at once, as a crash does. The embedded engine comes back by itself; others wait for Start.
func (s *Server) Kill(t testing.TB) { t.Helper(); s.do(t, "kill", s.back.kill()) }

// Start brings a killed server back, on the same addresses and data, and waits until it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.do(t, "start", s.back.start(ctx))
}

// Pause freezes the server: connections stay open and nothing answers.
func (s *Server) Pause(t testing.TB) { t.Helper(); s.do(t, "pause", s.back.pause()) }

// Resume ends a Pause.
func (s *Server) Resume(t testing.TB) { t.Helper(); s.do(t, "resume", s.back.resume()) }

// Cut takes the server off the network. Only containers can; elsewhere the test is skipped.
func (s *Server) Cut(t testing.TB) { t.Helper(); s.do(t, "cut", s.back.cut()) }

// Mend ends a Cut.
func (s *Server) Mend(t testing.TB) { t.Helper(); s.do(t, "mend", s.back.mend()) }

func (s *Server) do(t testing.TB, what string, err error) {
	t.Helper()
	switch {
	case err == errUnsupported:
		t.Skipf("%s %s: %v", what, s.kind, err)
	case err != nil:
		t.Fatalf("%s %s: %v", what, s.kind, err)
	}
}

func (s *Server) close() { s.back.close() }

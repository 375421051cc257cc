package engine

import (
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// TestBadClientsDoNotHarmTheEngine does on the native port what ends the bare library.
func TestBadClientsDoNotHarmTheEngine(t *testing.T) {
	e := start(t, Options{})
	pid := e.PID()
	for dsn, want := range map[string]int32{
		"clickhouse://planner@" + e.NativeAddr() + "/nosuch":    81,
		"clickhouse://hub:wrong@" + e.NativeAddr() + "/welfare": 516,
		"clickhouse://nobody@" + e.NativeAddr():                 516,
	} {
		if err := open(t, dsn).Ping(t.Context()); code(err) != want {
			t.Errorf("%s: %v, want code %d", dsn, err, want)
		}
	}
	hello := func(revision uint64) []byte {
		b := appendString([]byte{0}, "test")
		b = binary.AppendUvarint(append(b, 26, 7), revision)
		return appendString(appendString(appendString(b, Database), UserPlanner), "")
	}
	old, recent := hello(54460), hello(54471)
	join := func(parts ...[]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for name, said := range map[string][]byte{
		"nothing":           nil,
		"HTTP":              []byte("GET / HTTP/1.1\r\n\r\n"),
		"half a hello":      old[:8],
		"endless string":    {0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"hello":             old,
		"recent hello":      recent,
		"half an addendum":  join(old, []byte{5, 'a'}),
		"half a recent one": join(recent, []byte{0, 10, 'n', 'o'}),
		"addendum":          join(old, []byte{0}),
		"ping":              join(old, []byte{0, 4}),
		"unknown packet":    join(old, []byte{0, 99}),
		"half a query":      join(old, []byte{0, 1, 2, 'i', 'd'}),
		"garbage":           join(old, []byte{0}, []byte(strings.Repeat("\xff", 64))),
	} {
		for _, reset := range []bool{false, true} {
			c, err := net.Dial("tcp", e.NativeAddr())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(said); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Millisecond)
			if reset {
				if err := c.(*net.TCPConn).SetLinger(0); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
			if n := count(t, open(t, e.PlannerDSN()), "SELECT count() FROM system.one"); n != 1 {
				t.Errorf("%s: planner reads %d rows", name, n)
			}
		}
	}
	// The library takes seconds to die, so ask once more after some.
	time.Sleep(2 * time.Second)
	if e.PID() != pid || e.Restarts() != 0 {
		t.Errorf("the engine was started again %d times", e.Restarts())
	}
	if !running(pid) {
		t.Error("the engine is gone")
	}
}

// TestClientsMayConnectWhileTheEngineStarts knocks all the time, as a client does that lost its connection.
func TestClientsMayConnectWhileTheEngineStarts(t *testing.T) {
	restarts := make(chan Restart, 1)
	e := start(t, Options{OnRestart: func(r Restart) { restarts <- r }})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{e.NativeAddr()}, Auth: clickhouse.Auth{Username: UserPlanner, Database: Database}, DialTimeout: time.Second})
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.Ping(t.Context()) // it fails while the engine is down
				conn.Close()
			}
		})
	}
	for range 3 {
		pid := e.PID()
		e.signal(9)
		select {
		case r := <-restarts:
			if r.Attempts != 1 {
				t.Errorf("restart took %d attempts", r.Attempts)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the engine did not come back")
		}
		if e.PID() == pid {
			t.Error("same process after a kill")
		}
	}
	close(stop)
	wg.Wait()
}

func BenchmarkInsert(b *testing.B) {
	dir := b.TempDir()
	e, err := Start(b.Context(), Options{DataDir: dir})
	if err != nil {
		b.Skip(err)
	}
	defer e.Stop(b.Context())
	for _, way := range []struct{ name, addr string }{{"guarded", e.NativeAddr()}, {"direct", e.guard.backend}} {
		b.Run(way.name, func(b *testing.B) {
			conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{way.addr}, Auth: clickhouse.Auth{Username: UserHub, Password: e.password}})
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Exec(b.Context(), "CREATE TABLE IF NOT EXISTS welfare.bench (a UInt64, s String) ENGINE = Null"); err != nil {
				b.Fatal(err)
			}
			const rows = 100_000
			value := strings.Repeat("x", 120)
			b.SetBytes(rows * 129)
			for b.Loop() {
				batch, err := conn.PrepareBatch(b.Context(), "INSERT INTO welfare.bench")
				if err != nil {
					b.Fatal(err)
				}
				for i := range uint64(rows) {
					if err := batch.Append(i, value); err != nil {
						b.Fatal(err)
					}
				}
				if err := batch.Send(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

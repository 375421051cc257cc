package torture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mode is what a gate does to the connections through it.
type mode int

const (
	pass   mode = iota
	refuse      // nobody listens, and what is open is reset
	reset       // every connection is reset as soon as something is sent
	hang        // nothing moves; what was sent moves when the mode ends
	slow        // 4 KiB each way every 5 ms, so that large answers take seconds
	lose        // requests arrive and are done, and some replies are lost with their connection
)

var modeNames = map[mode]string{refuse: "refused", reset: "reset", hang: "hanging", slow: "slow", lose: "applied, reply lost"}

// gate is a TCP proxy between a loader and a server, with faults. Kafka tells its clients where to connect: a gate before
// it puts its own address in the place of the broker's in all answers.
type gate struct {
	t      *testing.T
	target string
	addr   string
	kafka  bool

	mu    sync.Mutex
	rnd   *rand.Rand
	now   mode
	moved chan struct{} // closed when the mode changes
	ln    net.Listener
	open  map[net.Conn]bool
	lost  int // replies
	wg    sync.WaitGroup
}

func newGate(t *testing.T, r run, target string, kafka bool) *gate {
	t.Helper()
	g := &gate{t: t, target: target, kafka: kafka, rnd: rand.New(rand.NewPCG(r.seed, 99)), moved: make(chan struct{}), open: map[net.Conn]bool{}}
	g.listen("127.0.0.1:0")
	t.Cleanup(func() {
		g.set(pass)
		g.mu.Lock()
		g.ln.Close()
		for c := range g.open {
			c.Close()
		}
		g.mu.Unlock()
		g.wg.Wait()
	})
	return g
}

func (g *gate) listen(addr string) {
	g.t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.ln, g.addr = ln, ln.Addr().String()
	g.mu.Unlock()
	g.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { g.serve(c) })
		}
	})
}

// set changes the mode.
func (g *gate) set(m mode) {
	g.mu.Lock()
	before := g.now
	g.now = m
	close(g.moved)
	g.moved = make(chan struct{})
	if m == refuse || m == reset {
		for c := range g.open {
			abort(c)
		}
	}
	ln := g.ln
	g.mu.Unlock()
	switch {
	case m == refuse && before != refuse:
		ln.Close()
	case m != refuse && before == refuse:
		g.listen(g.addr)
	}
}

func (g *gate) mode() (mode, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now, g.moved
}

// abort closes a connection by a reset.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (g *gate) hold(c net.Conn, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open {
		g.open[c] = true
	} else {
		delete(g.open, c)
	}
}

func (g *gate) chance(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rnd.IntN(n) == 0
}

// wire is one connection through the gate, and how far its insert is.
type wire struct {
	mu    sync.Mutex
	stage int // 1: an insert was sent, 2: it was answered by a header, 3: its data were sent
}

func (g *gate) serve(client net.Conn) {
	g.hold(client, true)
	defer g.hold(client, false)
	server, err := net.Dial("tcp", g.target)
	if err != nil {
		abort(client)
		return
	}
	g.hold(server, true)
	defer g.hold(server, false)
	w := &wire{}
	done := make(chan struct{}, 2)
	go func() { g.pump(server, client, w, true); done <- struct{}{} }()
	go func() { g.pump(client, server, w, false); done <- struct{}{} }()
	<-done
	abort(client)
	abort(server)
	<-done
}

// pump moves bytes one way until the connection ends.
func (g *gate) pump(to io.Writer, from io.Reader, w *wire, toServer bool) {
	buf := make([]byte, 32<<10)
	read := func() ([]byte, error) {
		n, err := from.Read(buf)
		return buf[:n], err
	}
	if g.kafka && !toServer {
		read = func() ([]byte, error) { return g.frame(from) }
	}
	for {
		b, err := read()
		if err != nil {
			return
		}
		m, moved := g.mode()
		for m == hang {
			<-moved
			m, moved = g.mode()
		}
		switch m {
		case reset:
			return
		case lose:
			if g.loses(w, b, toServer) {
				g.mu.Lock()
				g.lost++
				g.mu.Unlock()
				return
			}
		case slow:
			for len(b) > 4096 {
				if _, err := to.Write(b[:4096]); err != nil {
					return
				}
				b = b[4096:]
				time.Sleep(5 * time.Millisecond)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := to.Write(b); err != nil {
			return
		}
	}
}

// loses tells whether these bytes are a reply to be lost: of Kafka every sixth, of ClickHouse every other one of an insert,
// which comes after a header and the data.
func (g *gate) loses(w *wire, b []byte, toServer bool) bool {
	if g.kafka {
		return !toServer && g.chance(6)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case toServer && bytes.Contains(b, []byte("INSERT INTO")):
		w.stage = 1
	case !toServer && w.stage == 1:
		w.stage = 2
	case toServer && w.stage == 2:
		w.stage = 3
	case !toServer && w.stage == 3:
		w.stage = 0
		return g.rnd.IntN(2) == 0
	}
	return false
}

// frame reads one answer of Kafka, with the gate's address where it names the broker's.
func (g *gate) frame(from io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(from, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, 4+binary.BigEndian.Uint32(size[:]))
	copy(b, size[:])
	if _, err := io.ReadFull(from, b[4:]); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(b, advertised(g.target), advertised(g.addr)), nil
}

// advertised is how an answer of Kafka names an address.
func advertised(addr string) []byte {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		panic(err)
	}
	return binary.BigEndian.AppendUint32([]byte(tcp.IP.String()), uint32(tcp.Port))
}

// TestGate shows that a gate does what its modes say.
func TestGate(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var mu sync.Mutex
	var got []byte
	go func() { // an echo that remembers
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					mu.Lock()
					got = append(got, buf[:n]...)
					mu.Unlock()
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	g := newGate(t, run{seed: 1}, ln.Addr().String(), false)
	talk := func(s string, patience time.Duration) (string, error) {
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			return "", err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte(s)); err != nil {
			return "", err
		}
		buf := make([]byte, len(s))
		_, err = io.ReadFull(c, buf)
		return string(buf), err
	}
	for _, m := range []mode{pass, slow} {
		g.set(m)
		if s, err := talk("hello", time.Second); err != nil || s != "hello" {
			t.Errorf("mode %d: %q, %v", m, s, err)
		}
	}
	for _, m := range []mode{refuse, reset, hang} {
		g.set(m)
		if s, err := talk("hello", 200*time.Millisecond); err == nil {
			t.Errorf("mode %d answers %q", m, s)
		}
	}
	g.set(lose)
	mu.Lock()
	got = nil
	mu.Unlock()
	lost := 0
	for range 40 {
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 64)
		for _, s := range []string{"INSERT INTO t", "rows"} {
			_, _ = c.Write([]byte(s))
			if _, err := io.ReadFull(c, buf[:len(s)]); err != nil {
				lost++
			}
		}
		c.Close()
	}
	mu.Lock()
	defer mu.Unlock()
	if rows := bytes.Count(got, []byte("rows")); rows != 40 || lost < 5 || lost > 35 {
		t.Errorf("%d of 40 inserts arrived, %d replies were lost", rows, lost)
	}
	g.set(refuse)
	if _, err := net.Dial("tcp", g.addr); err == nil {
		t.Error("a gate that refuses listens")
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
}

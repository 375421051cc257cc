package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// guard stands before the native port of the embedded engine. A server logs and forgets a client that is refused, or
// goes away at the wrong moment; the library ends its whole process, for want of a handler that only a server installs
// (tried on 26.7: a wrong password, an unknown database, half a handshake, or a connection reset while idle is enough).
// HTTP is not concerned. So the guard
//
//  1. reads the client's hello and asks the engine by HTTP whether this user may use this database;
//  2. if not, answers with the engine's own refusal;
//  3. passes on the hello, and the addendum that follows it only when that is whole;
//  4. passes bytes in both directions, and when the client is gone, ends the connection in good order.
//
// On Linux step 4 copies inside the kernel (splice).
type guard struct {
	listener net.Listener
	backend  string // native address of the engine
	http     string // HTTP address of the engine
	log      *zap.Logger

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

const (
	helloTimeout   = 10 * time.Second
	checkTimeout   = 10 * time.Second
	longestString  = 4096 // of a hello; the longest is a client's name
	codeNotAllowed = 516  // AUTHENTICATION_FAILED

	// Revisions of the protocol at which the addendum grew. A revision beyond them that adds more only loses the
	// protection of step 3.
	revisionQuotaKey = 54458
	revisionChunked  = 54470
	revisionReplicas = 54471
)

func startGuard(l net.Listener, backend, http string, log *zap.Logger) *guard {
	g := &guard{listener: l, backend: backend, http: http, log: log, conns: make(map[net.Conn]struct{})}
	g.wg.Add(1)
	go g.accept()
	return g
}

func (g *guard) accept() {
	defer g.wg.Done()
	for {
		c, err := g.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: some will be closed
			g.log.Warn("engine could not accept a connection", zap.Error(err))
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !g.track(c) {
			c.Close()
			return
		}
		g.wg.Add(1)
		go func() {
			defer g.wg.Done()
			defer g.drop(c)
			if err := g.serve(c.(*net.TCPConn)); err != nil {
				g.log.Debug("engine connection ended", zap.Error(err))
			}
		}()
	}
}

func (g *guard) track(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.conns[c] = struct{}{}
	}
	return !g.closed
}

func (g *guard) drop(c net.Conn) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
	c.Close()
}

// close stops taking connections and ends those that there are, so that the engine can end at once.
func (g *guard) close() {
	g.mu.Lock()
	g.closed = true
	for c := range g.conns {
		c.Close()
	}
	g.mu.Unlock()
	g.listener.Close()
}

// wait returns when no connection is left; the engine must be ending, or have ended.
func (g *guard) wait() { g.wg.Wait() }

func (g *guard) serve(client *net.TCPConn) error {
	if err := client.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	in := &recorder{r: bufio.NewReaderSize(client, 4096)}
	h, err := readHello(in)
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if err := client.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if refusal, err := g.check(client.RemoteAddr(), h); err != nil {
		return err // the engine is down: the client sees what it would see without us
	} else if refusal != nil {
		_, err := client.Write(refusal.packet())
		return err
	}
	backend, err := net.DialTimeout("tcp", g.backend, checkTimeout)
	if err != nil {
		return err
	}
	server := backend.(*net.TCPConn)
	defer server.Close()
	if _, err := server.Write(in.take()); err != nil {
		return err
	}
	return g.relay(client, in, server, h.revision)
}

// relay passes the rest of a connection, until both sides have ended.
func (g *guard) relay(client *net.TCPConn, in *recorder, server *net.TCPConn, revision uint64) error {
	answers := make(chan error, 1)
	go func() {
		_, err := io.Copy(client, server)
		if err != nil {
			// The client takes no more. The engine must not notice before its answer is out: reading it to the end
			// keeps our side from resetting the connection.
			_, _ = io.Copy(io.Discard, server)
		}
		_ = client.CloseWrite() // it may be gone
		_ = client.CloseRead()
		answers <- err
	}()
	err := passAddendum(in, server, revision)
	if err == nil {
		// What was read ahead, then the rest.
		if n := in.r.Buffered(); n > 0 {
			ahead, _ := in.r.Peek(n) // they are there
			_, err = server.Write(ahead)
		}
		if err == nil {
			_, err = io.Copy(server, client)
		}
	}
	// The client has ended, in good order or not; the engine gets the good order, and its answers are read to the end.
	_ = server.CloseWrite()
	return errors.Join(err, <-answers)
}

// passAddendum sends what a client adds after it has seen the server's hello. If the client is gone by then, it sends
// one that says nothing, because the engine does not survive half of it.
func passAddendum(in *recorder, server io.Writer, revision uint64) error {
	err := readAddendum(in, revision)
	addendum := in.take()
	if err != nil {
		addendum = emptyAddendum(revision)
	}
	if _, werr := server.Write(addendum); werr != nil {
		return werr
	}
	return err
}

func readAddendum(in *recorder, revision uint64) error {
	strings := 0
	if revision >= revisionQuotaKey {
		strings++
	}
	if revision >= revisionChunked {
		strings += 2
	}
	for range strings {
		if _, err := in.str(); err != nil {
			return err
		}
	}
	if revision >= revisionReplicas {
		if _, err := in.uvarint(); err != nil {
			return err
		}
	}
	return nil
}

func emptyAddendum(revision uint64) []byte {
	var b []byte
	if revision >= revisionQuotaKey {
		b = appendString(b, "")
	}
	if revision >= revisionChunked {
		b = appendString(appendString(b, "notchunked"), "notchunked")
	}
	if revision >= revisionReplicas {
		b = binary.AppendUvarint(b, 0)
	}
	return b
}

// check asks the engine whether it would take this hello. The error is one of the way to the engine.
func (g *guard) check(from net.Addr, h hello) (*refusal, error) {
	// The engine sees every client come from this machine, so it cannot tell who does.
	if tcp, ok := from.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && h.user != UserHub {
		return &refusal{codeNotAllowed, h.user + ": only from this machine"}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	query := url.Values{"query": {"SELECT 1"}}
	if h.database != "" {
		query.Set("database", h.database)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.http+"/?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	user := h.user
	if user == "" {
		user = "default"
	}
	req.SetBasicAuth(user, h.password)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	code, err := strconv.Atoi(resp.Header.Get("X-ClickHouse-Exception-Code"))
	if err != nil {
		return nil, nil // no exception: it would
	}
	text := strings.TrimSpace(string(body))
	if _, rest, ok := strings.Cut(text, "DB::Exception: "); ok {
		text = rest
	}
	return &refusal{code, text}, nil
}

// refusal is an exception that the guard answers with.
type refusal struct {
	code int
	text string
}

func (r *refusal) packet() []byte {
	b := binary.AppendUvarint(nil, 2) // exception
	b = binary.LittleEndian.AppendUint32(b, uint32(r.code))
	b = appendString(b, "DB::Exception")
	b = appendString(b, "DB::Exception: "+r.text)
	b = appendString(b, "") // no stack trace
	return append(b, 0)     // nothing nested
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// hello is what a client says first.
type hello struct {
	revision                 uint64
	database, user, password string
}

var errNoHello = errors.New("not a hello of the native protocol")

func readHello(in *recorder) (hello, error) {
	var h hello
	if kind, err := in.uvarint(); err != nil || kind != 0 {
		return h, errors.Join(errNoHello, err)
	}
	if _, err := in.str(); err != nil { // name of the client
		return h, err
	}
	for _, v := range []*uint64{new(uint64), new(uint64), &h.revision} { // version
		var err error
		if *v, err = in.uvarint(); err != nil {
			return h, err
		}
	}
	for _, s := range []*string{&h.database, &h.user, &h.password} {
		var err error
		if *s, err = in.str(); err != nil {
			return h, err
		}
	}
	return h, nil
}

// recorder reads the protocol's primitives and keeps their bytes, to pass them on.
type recorder struct {
	r   *bufio.Reader
	raw []byte
}

// ReadByte implements io.ByteReader.
func (r *recorder) ReadByte() (byte, error) {
	b, err := r.r.ReadByte()
	if err == nil {
		r.raw = append(r.raw, b)
	}
	return b, err
}

func (r *recorder) uvarint() (uint64, error) { return binary.ReadUvarint(r) }

func (r *recorder) str() (string, error) {
	n, err := r.uvarint()
	if err != nil {
		return "", err
	}
	if n > longestString {
		return "", fmt.Errorf("%w: a string of %d bytes, at most %d are taken", errNoHello, n, longestString)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return "", err
	}
	r.raw = append(r.raw, b...)
	return string(b), nil
}

// take returns the bytes read since the last take; the caller owns them.
func (r *recorder) take() []byte {
	raw := r.raw
	r.raw = nil
	return raw
}

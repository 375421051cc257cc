// Package apachekafka runs Apache Kafka itself for tests and measurements, as one node that is broker and
// controller. It promises that the node answers when it is started, and that it dies with this process.
package apachekafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/child"
)

// ErrMissing says that the machine lacks what Kafka needs.
var ErrMissing = errors.New("Apache Kafka cannot run here")

// Options of Start. Dir is required.
type Options struct {
	Dir        string   // for its settings, log and data; made where it is not there
	Properties string   // settings besides those that a single node needs
	Java       []string // arguments of java
}

// Node is a node that was started.
type Node struct {
	Addr string // host:port of its listener; kept when it is started again

	opt       Options
	java, lib string
	proc      *child.Process
}

// properties are what a single node needs: one partition of offsets, and no wait before the first rebalance.
const properties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s
advertised.listeners=PLAINTEXT://%[1]s
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=%[3]s
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
`

// ClusterID is the id of the cluster that a node is.
const ClusterID = "4L6g3nShT-eMCtK--X86sw"

// Start makes an empty node, by the java on PATH and the jars that deploy/kafka-test/install.sh fetches into
// .cache of the working folder or one above it, and waits until it answers.
func Start(ctx context.Context, o Options) (*Node, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("%w: it needs java 17 or newer on PATH: %w", ErrMissing, err)
	}
	lib, err := findUp(filepath.Join(".cache", "kafka", "lib"))
	if err != nil {
		return nil, fmt.Errorf("%w: it needs its jars: %w; run deploy/kafka-test/install.sh", ErrMissing, err)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder of Kafka: %w", err)
	}
	addrs, err := FreeAddrs(2)
	if err != nil {
		return nil, err
	}
	n := &Node{Addr: addrs[0], opt: o, java: java, lib: lib}
	settings := fmt.Appendf(nil, properties, addrs[0], addrs[1], filepath.Join(o.Dir, "data"))
	if err := os.WriteFile(n.settings(), append(settings, o.Properties...), 0o600); err != nil {
		return nil, fmt.Errorf("write settings of Kafka: %w", err)
	}
	format := exec.CommandContext(ctx, java, "-cp", filepath.Join(lib, "*"), "kafka.tools.StorageTool", "format", "-t", ClusterID, "-c", n.settings())
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format storage of Kafka: %w: %.500s", err, strings.TrimSpace(string(out)))
	}
	if err := n.Start(ctx); err != nil {
		n.Kill()
		return nil, err
	}
	return n, nil
}

func (n *Node) settings() string { return filepath.Join(n.opt.Dir, "server.properties") }

// Start brings a killed node back, on the same address and data, and waits until it answers.
func (n *Node) Start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(n.opt.Dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of Kafka: %w", err)
	}
	defer log.Close()
	args := append([]string{"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}, n.opt.Java...)
	cmd := exec.Command(n.java, append(args, "-cp", filepath.Join(n.lib, "*"), "kafka.Kafka", n.settings())...) //nolint:noctx // it outlives the start
	cmd.Stdout, cmd.Stderr = log, log
	if n.proc, err = child.Start(cmd); err != nil {
		return err
	}
	if err := Await(ctx, n.Addr, n.proc.Exited()); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(log.Name(), 5))
	}
	return nil
}

// PID is the id of its process.
func (n *Node) PID() int { return n.proc.PID() }

// Signal sends a signal to its process.
func (n *Node) Signal(sig syscall.Signal) error { return n.proc.Signal(sig) }

// Kill ends the node at once. That it has ended already is no matter.
func (n *Node) Kill() {
	if n.proc != nil {
		_ = n.proc.Kill()
	}
}

// Await returns once a broker answers, or exited is closed, or ctx ends.
func Await(ctx context.Context, addr string, exited <-chan struct{}) error {
	transport := &kafka.Transport{MetadataTTL: time.Second}
	defer transport.CloseIdleConnections()
	client := kafka.Client{Addr: kafka.TCP(addr), Transport: transport, Timeout: time.Second}
	for {
		meta, err := client.Metadata(ctx, &kafka.MetadataRequest{})
		if err == nil && len(meta.Brokers) > 0 {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("wait for Kafka on %s: its process ended", addr)
		case <-ctx.Done():
			return fmt.Errorf("wait for Kafka on %s: %w", addr, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// FreeAddrs returns n different addresses that were free a moment ago.
func FreeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed at once
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}

// findUp looks for a path in the working folder and those above it.
func findUp(path string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find working folder: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
			return filepath.Join(dir, path), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s here or above", path)
		}
	}
}

// lastLines are the last lines of a file, on one line.
func lastLines(path string, n int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-n):], " | ")
}

package testkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/child"
)

const (
	brokerChildArgument = "testkit-broker" // hidden first argument of a broker process
	startTimeout        = time.Minute
)

// newKafka starts the Kafka that the environment chooses; one that tests break needs a process of its own.
func newKafka(breakable bool) (*Server, error) {
	switch kind := os.Getenv(envKafka); kind {
	case "":
		if breakable {
			return newBrokerProcess()
		}
		return newBroker()
	case "jars":
		return newJars()
	case "container":
		return newKafkaContainer()
	default:
		return nil, fmt.Errorf("%s is %q, want jars, container or nothing", envKafka, kind)
	}
}

// inProcess is the embedded broker in the test binary itself.
type inProcess struct {
	broker *broker.Broker
	dir    string
}

func newBroker() (*Server, error) {
	dir, err := os.MkdirTemp("", "testkit-kafka-")
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	b, err := broker.Start(context.Background(), broker.Options{DataDir: dir, Unsynced: true})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &Server{Addr: b.Addr(), kind: "broker in this process", back: &inProcess{b, dir}}, nil
}

func (b *inProcess) kill() error                 { return errUnsupported }
func (b *inProcess) start(context.Context) error { return errUnsupported }
func (b *inProcess) pause() error                { return errUnsupported }
func (b *inProcess) resume() error               { return errUnsupported }
func (b *inProcess) cut() error                  { return errUnsupported }
func (b *inProcess) mend() error                 { return errUnsupported }

func (b *inProcess) close() {
	b.broker.Close()
	os.RemoveAll(b.dir)
}

// brokerProcess is the embedded broker in a process of its own.
type brokerProcess struct {
	dir, addr string
	proc      *child.Process
}

// runBrokerIfChild turns this process into a broker that runs until its input ends.
func runBrokerIfChild() {
	if len(os.Args) != 4 || os.Args[1] != brokerChildArgument {
		return
	}
	b, err := broker.Start(context.Background(), broker.Options{DataDir: os.Args[2], Addr: os.Args[3]})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("addr:", b.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone
	os.Exit(0)
}

func newBrokerProcess() (*Server, error) {
	dir, err := os.MkdirTemp("", "testkit-kafka-")
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	b := &brokerProcess{dir: dir, addr: "127.0.0.1:0"}
	if err := b.start(context.Background()); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &Server{Addr: b.addr, kind: "broker process", back: b}, nil
}

func (b *brokerProcess) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	cmd := exec.Command(self, brokerChildArgument, b.dir, b.addr)
	cmd.Stderr = os.Stderr
	// The pipe's other end closes with us, and nobody writes to it.
	if _, err := cmd.StdinPipe(); err != nil {
		return fmt.Errorf("make pipe to broker: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make pipe from broker: %w", err)
	}
	if b.proc, err = child.Start(cmd); err != nil {
		return err
	}
	line := make(chan string, 1)
	go func() {
		s, _ := bufio.NewReader(out).ReadString('\n') // an early end shows as an empty line
		line <- strings.TrimSpace(s)
	}()
	select {
	case s := <-line:
		addr, ok := strings.CutPrefix(s, "addr: ")
		if !ok {
			return fmt.Errorf("start broker process: %s", s)
		}
		b.addr = addr
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("start broker process: %w", ctx.Err()), b.proc.Kill())
	}
}

func (b *brokerProcess) kill() error   { return b.proc.Kill() }
func (b *brokerProcess) pause() error  { return b.proc.Signal(syscall.SIGSTOP) }
func (b *brokerProcess) resume() error { return b.proc.Signal(syscall.SIGCONT) }
func (b *brokerProcess) cut() error    { return errUnsupported }
func (b *brokerProcess) mend() error   { return errUnsupported }

func (b *brokerProcess) close() {
	_ = b.proc.Kill() // it may have ended already
	os.RemoveAll(b.dir)
}

package testkit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// jars is Apache Kafka, one node that is broker and controller, run by the java on PATH.
type jars struct {
	dir, lib, java string
	addr           string
	proc           *process
}

// serverProperties is small and quick: one partition of offsets, no wait before the first rebalance, and the same
// session bound and message size as the embedded broker.
const serverProperties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s
advertised.listeners=PLAINTEXT://%[1]s
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=%[3]s
auto.create.topics.enable=false
message.max.bytes=2097152
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.check.interval.ms=1000
log.cleaner.dedupe.buffer.size=2097152
`

const clusterID = "4L6g3nShT-eMCtK--X86sw"

func newJars() (*Server, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, missingf("%s=jars needs java 17 or newer on PATH: %w", envKafka, err)
	}
	lib, err := findUp(filepath.Join(".cache", "kafka", "lib"))
	if err != nil {
		return nil, missingf("%s=jars needs Kafka's jars: %w; run deploy/kafka-test/install.sh", envKafka, err)
	}
	dir, err := os.MkdirTemp("", "testkit-kafka-")
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	ports, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	k := &jars{dir: dir, lib: lib, java: java, addr: ports[0]}
	properties := fmt.Sprintf(serverProperties, ports[0], ports[1], filepath.Join(dir, "data"))
	if err := os.WriteFile(k.properties(), []byte(properties), 0o600); err != nil {
		return nil, fmt.Errorf("write Kafka's settings: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	format := exec.CommandContext(ctx, java, "-cp", filepath.Join(lib, "*"), "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", k.properties())
	if out, err := format.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("format Kafka's storage: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := k.start(ctx); err != nil {
		k.close()
		return nil, err
	}
	return &Server{Addr: k.addr, kind: "Apache Kafka", back: k}, nil
}

func (k *jars) properties() string { return filepath.Join(k.dir, "server.properties") }

func (k *jars) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(k.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open Kafka's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(k.java, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(k.lib, "*"), "kafka.Kafka", k.properties())
	cmd.Stdout, cmd.Stderr = log, log
	if k.proc, err = startProcess(cmd); err != nil {
		return err
	}
	if err := awaitKafka(ctx, k.addr, k.proc.exited); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(log.Name(), 5))
	}
	return nil
}

func (k *jars) kill() error   { return k.proc.kill() }
func (k *jars) pause() error  { return k.proc.signal(syscall.SIGSTOP) }
func (k *jars) resume() error { return k.proc.signal(syscall.SIGCONT) }
func (k *jars) cut() error    { return errUnsupported }
func (k *jars) mend() error   { return errUnsupported }

func (k *jars) close() {
	if k.proc != nil {
		_ = k.proc.kill() // it may have ended already
	}
	os.RemoveAll(k.dir)
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

// freeAddrs returns n different addresses that were free a moment ago.
func freeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}

func lastLines(path string, n int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return tail(string(raw), n)
}

// tail is the last n lines of a text, on one line.
func tail(text string, n int) string {
	return strings.ReplaceAll(LastLines(text, n), "\n", " | ")
}

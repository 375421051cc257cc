package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/welfarehub/welfarehub/pkg/apachekafka"
)

// jars is Apache Kafka, run by the java on PATH.
type jars struct {
	dir  string
	node *apachekafka.Node
}

// jarProperties are small and quick, with the same session bound and message size as the embedded broker.
const jarProperties = `message.max.bytes=2097152
group.min.session.timeout.ms=1000
log.retention.check.interval.ms=1000
log.cleaner.dedupe.buffer.size=2097152
`

func newJars() (*Server, error) {
	dir, err := os.MkdirTemp("", "testkit-kafka-")
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	node, err := apachekafka.Start(ctx, apachekafka.Options{Dir: dir, Properties: jarProperties, Java: []string{"-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}})
	switch {
	case errors.Is(err, apachekafka.ErrMissing):
		err = missingf("%s=jars: %w", envKafka, err)
		fallthrough
	case err != nil:
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Server{Addr: node.Addr, kind: "Apache Kafka", back: &jars{dir, node}}, nil
}

func (k *jars) start(ctx context.Context) error { return k.node.Start(ctx) }
func (k *jars) pause() error                    { return k.node.Signal(syscall.SIGSTOP) }
func (k *jars) resume() error                   { return k.node.Signal(syscall.SIGCONT) }
func (k *jars) cut() error                      { return errUnsupported }
func (k *jars) mend() error                     { return errUnsupported }

func (k *jars) kill() error {
	k.node.Kill()
	return nil
}

func (k *jars) close() {
	k.node.Kill()
	os.RemoveAll(k.dir)
}

// Package kafka gives all parts one way to reach a Kafka cluster through kafka-go.
package kafka

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
)

// Cluster says how to reach a cluster.
type Cluster struct {
	Brokers []string       // host:port of the bootstrap brokers, at least one
	TLS     *tls.Config    // nil: plaintext
	SASL    sasl.Mechanism // nil: none
}

const (
	clientID = "welfarehub"
	timeout  = 10 * time.Second
)

// Dialer opens single connections, for consumer groups and partition reads.
func (c Cluster) Dialer() *kafka.Dialer {
	return &kafka.Dialer{ClientID: clientID, Timeout: timeout, TLS: c.TLS, SASLMechanism: c.SASL, DualStack: true}
}

// Transport is the connection pool of clients and writers. Close it by CloseIdleConnections.
func (c Cluster) Transport() *kafka.Transport {
	return &kafka.Transport{ClientID: clientID, DialTimeout: timeout, TLS: c.TLS, SASL: c.SASL, MetadataTTL: 5 * time.Second}
}

// Addr is the address list that clients and writers take.
func (c Cluster) Addr() net.Addr { return kafka.TCP(c.Brokers...) }

// Client sends single requests through transport t.
func (c Cluster) Client(t *kafka.Transport) *kafka.Client {
	return &kafka.Client{Addr: c.Addr(), Timeout: 30 * time.Second, Transport: t}
}

// Writer publishes with acknowledgement by all in-sync replicas; keys decide the partition (murmur2,
// as the Java client's), records without a key go round. Messages name their topic.
func (c Cluster) Writer(t *kafka.Transport, maxBytes int) *kafka.Writer {
	return &kafka.Writer{
		Addr: c.Addr(), Transport: t, RequiredAcks: kafka.RequireAll, Balancer: kafka.Murmur2Balancer{},
		BatchTimeout: 2 * time.Millisecond, BatchSize: 5000, BatchBytes: int64(maxBytes),
		WriteTimeout: 30 * time.Second, ReadTimeout: 30 * time.Second, MaxAttempts: 10,
	}
}

// Package hubtest gives tests a hub without its programs: a broker with the topics of the hub, a ClickHouse
// with its tables, a registry with its schemas, and events to send. It promises that the hub is empty when a test gets it.
package hubtest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/broker"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/registry"
	"github.com/welfarehub/welfarehub/pkg/testkit"
	"github.com/welfarehub/welfarehub/pkg/validate/validtest"
)

// Hub is a broker and a store. It ends with the test.
type Hub struct {
	Cluster wkafka.Cluster
	Client  *kafka.Client
	DSN     string
	DB      *clickhouse.DB
	Writer  *kafka.Writer
}

// New returns an empty hub on a broker of the test's own and the ClickHouse of its package. Topics of events have so many
// partitions, those of dead letters and outcomes one; more are further topics.
func New(t testing.TB, partitions int, more ...string) *Hub {
	t.Helper()
	return On(t, testkit.ClickHouse(t).DSN, partitions, more...)
}

// On is New on the ClickHouse of dsn, which may be one that the test breaks.
func On(t testing.TB, dsn string, partitions int, more ...string) *Hub {
	t.Helper()
	h := &Hub{Cluster: wkafka.Cluster{Brokers: []string{testkit.KafkaServer(t).Addr}}, DSN: dsn}
	h.DB = EmptyStore(t, h.DSN)
	configs := map[string]string{"max.message.bytes": "16777216", "retention.ms": "-1"}
	specs := []broker.TopicSpec{{Name: event.TopicOutcome, Partitions: 1}}
	for _, typ := range event.Types {
		specs = append(specs, broker.TopicSpec{Name: typ.Topic, Partitions: partitions, Configs: configs})
		more = append(more, typ.Topic+".dlq")
	}
	for _, topic := range more {
		specs = append(specs, broker.TopicSpec{Name: topic, Partitions: 1, Configs: configs})
	}
	tr := h.Cluster.Transport()
	h.Client = h.Cluster.Client(tr)
	h.Writer = h.Cluster.Writer(tr, 12<<20)
	t.Cleanup(func() { _ = h.Writer.Close(); tr.CloseIdleConnections() })
	if err := broker.EnsureTopicsWith(t.Context(), h.Client, specs); err != nil {
		t.Fatal(err)
	}
	return h
}

// Store gives a ClickHouse the tables of the hub, where they are not there, and returns a connection.
func Store(t testing.TB, dsn string) *clickhouse.DB {
	t.Helper()
	if err := clickhouse.Migrate(t.Context(), dsn, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	db, err := clickhouse.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // the test may have killed its server
	return db
}

// EmptyStore makes the tables of the hub anew, and returns a connection.
func EmptyStore(t testing.TB, dsn string) *clickhouse.DB {
	t.Helper()
	if err := clickhouse.MigrateDown(t.Context(), dsn, 0, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	return Store(t, dsn)
}

// OutcomeSchemaID is the id of the schema of OutcomesReported in Schemas.
const OutcomeSchemaID = 17

// Schemas are a registry: the schema of event number n has id n, and more may be registered. The zero value is ready.
type Schemas struct {
	mu   sync.Mutex
	more map[int]string
	down bool
}

var errDown = errors.New("registry is down")

// SchemaByID returns a schema.
func (s *Schemas) SchemaByID(_ context.Context, id int) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, registered := s.more[id]
	switch {
	case s.down:
		return "", errDown
	case registered:
		return text, nil
	case id < 1 || id > len(event.Types):
		return "", &registry.Error{HTTPStatus: 404, Code: 40403, Message: "Schema not found"}
	}
	return event.Types[id-1].Raw, nil
}

// Register adds a schema, or another in the place of one.
func (s *Schemas) Register(id int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.more == nil {
		s.more = map[int]string{}
	}
	s.more[id] = text
}

// SetDown has the registry fail, or end to.
func (s *Schemas) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Valid is a valid event of a type, number n of its kind, and of a person whom no other concerns.
func Valid(t *event.Type, n int) *event.Row {
	row := validtest.Valid(t)
	row.Set(event.EventID, uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%s/%d", t.Name, n)).String())
	row.Set(event.SourceRecordID, fmt.Sprintf("record-%d", n))
	if t.Subject >= 0 && !row.Vals[t.Subject].Null {
		sum := sha256.Sum256(fmt.Appendf(nil, "person %d of %s", n, t.Name))
		row.Set(t.Subject, hex.EncodeToString(sum[:]))
	}
	return row
}

// Message is the record of an event, written with a schema.
func Message(row *event.Row, schemaID int) kafka.Message {
	key, value, headers := event.Message(row, schemaID)
	m := kafka.Message{Topic: row.Type.Topic, Key: key, Value: value, Time: row.Time(event.RecordedAt).Add(time.Second)}
	for _, h := range headers {
		m.Headers = append(m.Headers, kafka.Header(h))
	}
	return m
}

// DeleteRecords takes the records of partition 0 before an offset off the log, as retention does.
func DeleteRecords(t testing.TB, cluster wkafka.Cluster, topic string, before int64) {
	t.Helper()
	req := kmsg.NewDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 1, 10_000
	part := kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Offset = before
	of := kmsg.NewDeleteRecordsRequestTopic()
	of.Topic, of.Partitions = topic, append(of.Partitions, part)
	req.Topics = append(req.Topics, of)
	conn, err := net.Dial("tcp", cluster.Brokers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw := req.AppendTo([]byte{0, 0, 0, 0, 0, byte(req.Key()), 0, byte(req.Version), 0, 0, 0, 7, 0, 1, 't'})
	binary.BigEndian.PutUint32(raw, uint32(len(raw)-4))
	if _, err := conn.Write(raw); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	tr := cluster.Transport()
	defer tr.CloseIdleConnections()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		log, err := wkafka.PartitionBounds(t.Context(), cluster.Client(tr), topic, 0)
		switch {
		case err == nil && log.First == before:
			return
		case time.Now().After(end):
			t.Fatalf("the log of %s begins at %d, want %d: %v", topic, log.First, before, err)
		}
	}
}

package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap/zaptest"

	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// fakeBroker is a durable broker in this process that can be stopped and started on its port.
type fakeBroker struct {
	t    *testing.T
	dir  string
	port int
	run  *kfake.Cluster
}

func startBroker(t *testing.T) *fakeBroker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBroker{t: t, dir: t.TempDir(), port: l.Addr().(*net.TCPAddr).Port}
	_ = l.Close()
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *fakeBroker) start() {
	b.t.Helper()
	var err error
	for range 50 { // the port may take a moment to be free again
		if b.run, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(b.port), kfake.DataDir(b.dir), kfake.SyncWrites()); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Fatalf("start broker: %v", err)
}

func (b *fakeBroker) stop() {
	if b.run != nil {
		b.run.Close()
		b.run = nil
	}
}

func (b *fakeBroker) cluster() wkafka.Cluster {
	return wkafka.Cluster{Brokers: []string{fmt.Sprintf("127.0.0.1:%d", b.port)}}
}

func (b *fakeBroker) serve(timeout time.Duration) *Server {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	s, err := NewServer(ctx, Options{Cluster: b.cluster(), Timeout: timeout, Logger: zaptest.NewLogger(b.t)})
	if err != nil {
		b.t.Fatalf("NewServer: %v", err)
	}
	return s
}

func TestRestartOnKafkaKeepsEverything(t *testing.T) {
	b := startBroker(t)
	s := b.serve(0)
	run(t, s.Handler(), []step{
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"POST", "/subjects/a/versions", schemaBody(userV2), 200, `{"id":2}`},
		{"POST", "/subjects/b/versions", schemaBody(other), 200, `{"id":3}`},
		{"POST", "/subjects/c/versions", schemaBody(`"int"`), 200, `{"id":4}`},
		{"PUT", "/config/a", `{"compatibility":"FORWARD"}`, 200, `~`},
		{"PUT", "/config/b", `{"compatibility":"NONE"}`, 200, `~`},
		{"DELETE", "/config/b", "", 200, `~`},
		{"PUT", "/mode/a", `{"mode":"READONLY"}`, 200, `~`},
		{"DELETE", "/subjects/b/versions/1", "", 200, `1`},
		{"DELETE", "/subjects/c", "", 200, `[1]`},
		{"DELETE", "/subjects/c?permanent=true", "", 200, `[1]`},
	})
	follower := b.serve(0) // a second server sees the same log
	same(t, s, follower)
	run(t, s.Handler(), []step{{"POST", "/subjects/d/versions", schemaBody(`"long"`), 200, `{"id":5}`}})
	run(t, follower.Handler(), []step{
		{"GET", "/schemas/ids/5", "", 200, `~long`},
		{"POST", "/subjects/d2/versions", schemaBody(`"long"`), 200, `{"id":5}`},
	})
	_ = follower.Close()
	run(t, s.Handler(), []step{{"GET", "/subjects/d2/versions", "", 200, `[1]`}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.start()
	again := b.serve(0)
	defer again.Close()
	same(t, s, again)
	run(t, again.Handler(), []step{
		{"GET", "/config", "", 200, `{"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"GET", "/config/a", "", 200, `{"compatibilityLevel":"FORWARD"}`},
		{"GET", "/config/b", "", 404, `~40408`},
		{"GET", "/mode/a", "", 200, `{"mode":"READONLY"}`},
		{"GET", "/subjects?deleted=true", "", 200, `["a","b","d","d2"]`},
		{"GET", "/subjects", "", 200, `["a","d","d2"]`},
		{"POST", "/subjects/c/versions", schemaBody(`"bytes"`), 200, `{"id":6}`},
	})
}

func TestServerOutlivesTheBroker(t *testing.T) {
	b := startBroker(t)
	s := b.serve(time.Second)
	defer s.Close()
	h := s.Handler()
	run(t, h, []step{{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`}})
	b.stop()
	run(t, h, []step{
		{"GET", "/schemas/ids/1", "", 200, `~User`},
		{"GET", "/schemas/ids/2", "", 500, `~5000`},
		{"POST", "/subjects/a/versions", schemaBody(userV2), 500, `~5000`},
	})
	b.start()
	deadline := time.Now().Add(20 * time.Second)
	for {
		status, body := ask(t, h, "POST", "/subjects/a/versions", schemaBody(userV2))
		if status == http.StatusOK && body == `{"id":2}` {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no change is taken after the broker came back: %d %s", status, body)
		}
	}
	run(t, h, []step{{"GET", "/subjects/a/versions", "", 200, `[1,2]`}})
}

func TestServerWaitsForTheBroker(t *testing.T) {
	b := startBroker(t)
	b.stop()
	ready := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		s, err := NewServer(ctx, Options{Cluster: b.cluster()})
		if err == nil {
			err = s.Close()
		}
		ready <- err
	}()
	select {
	case err := <-ready:
		t.Fatalf("server started without a broker: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	b.start()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
}

func TestUnfitTopicIsRefused(t *testing.T) {
	b := startBroker(t)
	transport := b.cluster().Transport()
	defer transport.CloseIdleConnections()
	client := b.cluster().Client(transport)
	for name, c := range map[string]struct {
		topic kafka.TopicConfig
		want  string
	}{
		"partitions": {kafka.TopicConfig{NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: []kafka.ConfigEntry{{ConfigName: "cleanup.policy", ConfigValue: "compact"}}}, "2 partitions"},
		"retention":  {kafka.TopicConfig{NumPartitions: 1, ReplicationFactor: 1, ConfigEntries: []kafka.ConfigEntry{{ConfigName: "cleanup.policy", ConfigValue: "delete"}}}, `cleanup.policy "delete"`},
	} {
		c.topic.Topic = name
		res, err := client.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{c.topic}})
		if err != nil || res.Errors[name] != nil {
			t.Fatal(err, res.Errors)
		}
		_, err = NewServer(t.Context(), Options{Cluster: b.cluster(), Topic: name})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

// TestOnTheKafkaOfTheEnvironment runs on Apache Kafka with WELFAREHUB_KAFKA=jars or container, and kills it.
func TestOnTheKafkaOfTheEnvironment(t *testing.T) {
	k := testkit.KafkaServer(t)
	opt := Options{Cluster: wkafka.Cluster{Brokers: []string{k.Addr}}, Topic: testkit.Name(t), Timeout: 5 * time.Second}
	open := func() *Server {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err := NewServer(ctx, opt)
		if err != nil {
			t.Fatalf("NewServer: %v", err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := open()
	run(t, s.Handler(), []step{
		{"POST", "/subjects/a/versions", schemaBody(userV1), 200, `{"id":1}`},
		{"POST", "/subjects/a/versions", schemaBody(userV2), 200, `{"id":2}`},
		{"POST", "/subjects/c/versions", schemaBody(`"int"`), 200, `{"id":3}`},
		{"PUT", "/config/a", `{"compatibility":"FORWARD"}`, 200, `~`},
		{"DELETE", "/config/a", "", 200, `~`},
		{"PUT", "/mode/a", `{"mode":"READONLY"}`, 200, `~`},
		{"DELETE", "/subjects/c", "", 200, `[1]`},
		{"DELETE", "/subjects/c?permanent=true", "", 200, `[1]`},
	})
	same(t, s, open())
	k.Kill(t)
	run(t, s.Handler(), []step{
		{"GET", "/schemas/ids/1", "", 200, `~User`},
		{"POST", "/subjects/b/versions", schemaBody(other), 500, `~5000`},
	})
	k.Start(t)
	deadline := time.Now().Add(30 * time.Second)
	for {
		status, body := ask(t, s.Handler(), "POST", "/subjects/b/versions", schemaBody(other))
		if status == http.StatusOK && body == `{"id":4}` {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no change is taken after Kafka came back: %d %s", status, body)
		}
	}
	again := open()
	same(t, s, again)
	run(t, again.Handler(), []step{
		{"GET", "/subjects", "", 200, `["a","b"]`},
		{"GET", "/mode/a", "", 200, `{"mode":"READONLY"}`},
		{"GET", "/schemas/ids/3", "", 404, `~40403`},
	})
}

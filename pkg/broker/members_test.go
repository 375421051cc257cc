package broker

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zaptest"
)

// TestMembersThatDieWhileTheyJoinLeave has eight send their JoinGroup and go, of which kfake forgets about half: the
// one that is left must get all partitions again.
func TestMembersThatDieWhileTheyJoinLeave(t *testing.T) {
	b, err := Start(t.Context(), Options{DataDir: t.TempDir(), MinFreeDisk: -1, Logger: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := EnsureTopics(t.Context(), b.Addr(), []TopicSpec{{Name: "t", Partitions: 4}}); err != nil {
		t.Fatal(err)
	}
	g, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: "g", Brokers: []string{b.Addr()}, Topics: []string{"t"}, GroupBalancers: []kafka.GroupBalancer{kafka.RoundRobinGroupBalancer{}},
		SessionTimeout: 2 * time.Second, HeartbeatInterval: 300 * time.Millisecond, RebalanceTimeout: 3 * time.Second, JoinGroupBackoff: 100 * time.Millisecond, Timeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if gen, err := g.Next(ctx); err != nil || len(gen.Assignments["t"]) != 4 {
		t.Fatalf("%+v, %v", gen, err)
	} else {
		gen.Start(func(ctx context.Context) { <-ctx.Done() })
	}

	member := kmsg.NewConsumerMemberMetadata()
	member.Topics = []string{"t"}
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = "roundrobin", member.AppendTo(nil)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = "g", "consumer", 2000, 3000
	join.Protocols = append(join.Protocols, protocol)
	join.SetVersion(1)
	var conns []net.Conn
	for range 8 {
		conn, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("gone")).AppendRequest(nil, join, 1)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	time.Sleep(100 * time.Millisecond) // they are in the group before the other one knows
	for _, conn := range conns {
		_ = conn.Close()
	}
	shared := false
	for {
		gen, err := g.Next(ctx)
		if err != nil {
			t.Fatalf("the partitions of the dead member come to nobody: %v", err)
		}
		n := len(gen.Assignments["t"])
		t.Logf("generation %d has %d partitions", gen.ID, n)
		shared = shared || n < 4
		if n == 4 && shared {
			return
		}
		gen.Start(func(ctx context.Context) { <-ctx.Done() })
	}
}

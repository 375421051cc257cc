package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

// TestMain lets this binary be a broker that a test can kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BROKER_TEST_CHILD"); dir != "" {
		retention, _ := strconv.ParseInt(os.Getenv("BROKER_TEST_RETENTION"), 10, 64)
		b, err := Start(context.Background(), Options{DataDir: dir, Addr: os.Getenv("BROKER_TEST_ADDR"), RetentionBytes: retention, RetentionInterval: 200 * time.Millisecond})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println("addr", b.Addr())
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends
		b.Close()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// process is a broker in a process of its own.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	addr  string
}

func startProcess(t *testing.T, dir, addr string, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(append(os.Environ(), "BROKER_TEST_CHILD="+dir, "BROKER_TEST_ADDR="+addr), env...)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill() })
	var word string
	if _, err := fmt.Fscan(out, &word, &p.addr); err != nil || word != "addr" {
		t.Fatalf("broker process said %q %q: %v", word, p.addr, err)
	}
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) end() {
	p.stdin.Close()
	_ = p.cmd.Wait()
}

func start1(t *testing.T, opts Options) *Broker {
	t.Helper()
	if opts.DataDir == "" {
		opts.DataDir = t.TempDir()
	}
	b, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func client(t *testing.T, addr string) *kafka.Client {
	t.Helper()
	transport := &kafka.Transport{MetadataTTL: 100 * time.Millisecond}
	t.Cleanup(transport.CloseIdleConnections)
	return &kafka.Client{Addr: kafka.TCP(addr), Transport: transport, Timeout: 10 * time.Second}
}

func topic(t *testing.T, addr string, spec TopicSpec) {
	t.Helper()
	if err := EnsureTopics(t.Context(), addr, []TopicSpec{spec}); err != nil {
		t.Fatal(err)
	}
}

// produce writes n records to partition 0 in batches, and returns the offset after the last.
func produce(t *testing.T, addr, topic string, n, perBatch, size int) int64 {
	t.Helper()
	conn, err := kafka.DialLeader(t.Context(), "tcp", addr, topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	value := bytes.Repeat([]byte("x"), size)
	for done := 0; done < n; done += perBatch {
		msgs := make([]kafka.Message, min(perBatch, n-done))
		for i := range msgs {
			msgs[i].Value = value
		}
		if _, err := conn.WriteMessages(msgs...); err != nil {
			t.Fatal(err)
		}
	}
	end, err := conn.ReadLastOffset()
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func ends(t *testing.T, addr, topic string) (first, last int64) {
	t.Helper()
	conn, err := kafka.DialLeader(t.Context(), "tcp", addr, topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	first, last, err = conn.ReadOffsets()
	if err != nil {
		t.Fatal(err)
	}
	return first, last
}

func commit(t *testing.T, addr, group, topic string, offset int64, metadata string) {
	t.Helper()
	resp, err := client(t, addr).OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
		GroupID: group, GenerationID: -1,
		Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: 0, Offset: offset, Metadata: metadata}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range resp.Topics[topic] {
		if p.Error != nil {
			t.Fatal(p.Error)
		}
	}
}

func committed(t *testing.T, addr, group, topic string) (int64, string) {
	t.Helper()
	resp, err := client(t, addr).OffsetFetch(t.Context(), &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: {0}}})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Error != nil || len(resp.Topics[topic]) != 1 || resp.Topics[topic][0].Error != nil {
		t.Fatalf("offset fetch: %+v", resp)
	}
	p := resp.Topics[topic][0]
	return p.CommittedOffset, p.Metadata
}

func TestRecordsAndOffsetsSurviveAKill(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "")
	topic(t, p.addr, TopicSpec{Name: "t", Configs: map[string]string{"max.message.bytes": "4000000"}})
	want := strings.Repeat("m", 4096)
	for round := 1; round <= 3; round++ {
		end := produce(t, p.addr, "t", 1000, 100, 100)
		if end != int64(round*1000) {
			t.Fatalf("round %d: log ends at %d", round, end)
		}
		metadata := strconv.Itoa(round) + want[1:]
		commit(t, p.addr, "loaders", "t", end-10, metadata)
		if round == 2 {
			p.end() // once in good order
		} else {
			p.kill()
		}
		addr := p.addr
		p = startProcess(t, dir, addr)
		if p.addr != addr {
			t.Errorf("round %d: address is %s, before %s", round, p.addr, addr)
		}
		if first, last := ends(t, addr, "t"); first != 0 || last != end {
			t.Errorf("round %d: log is [%d, %d), want [0, %d)", round, first, last, end)
		}
		if offset, m := committed(t, addr, "loaders", "t"); offset != end-10 || m != metadata {
			t.Errorf("round %d: committed offset %d with %d bytes of metadata, want %d with %d", round, offset, len(m), end-10, len(metadata))
		}
	}
	// A topic's settings survive as well.
	resp, err := client(t, p.addr).DescribeConfigs(t.Context(), &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: "t", ConfigNames: []string{"max.message.bytes"}}},
	})
	if err != nil || len(resp.Resources) != 1 || resp.Resources[0].ConfigEntries[0].ConfigValue != "4000000" {
		t.Errorf("topic settings are %+v, %v", resp, err)
	}
}

// TestOldGenerationsStayRefusedAfterAKill is what the loader's claims rest on.
func TestOldGenerationsStayRefusedAfterAKill(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "")
	topic(t, p.addr, TopicSpec{Name: "t"})
	join := func() *kafka.Generation {
		group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{ID: "g", Brokers: []string{p.addr}, Topics: []string{"t"}, JoinGroupBackoff: 50 * time.Millisecond, SessionTimeout: 2 * time.Second, HeartbeatInterval: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { group.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		gen, err := group.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return gen
	}
	old := join()
	commitAs := func(gen *kafka.Generation, offset int64) error {
		resp, err := client(t, p.addr).OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
			GroupID: "g", GenerationID: int(gen.ID), MemberID: gen.MemberID,
			Topics: map[string][]kafka.OffsetCommit{"t": {{Partition: 0, Offset: offset}}},
		})
		if err != nil {
			return err
		}
		return resp.Topics["t"][0].Error
	}
	if err := commitAs(old, 1); err != nil {
		t.Fatal(err)
	}
	p.kill()
	p = startProcess(t, dir, p.addr)
	young := join()
	if young.ID <= old.ID {
		t.Errorf("generation %d after %d", young.ID, old.ID)
	}
	if err := commitAs(young, 2); err != nil {
		t.Errorf("new generation: %v", err)
	}
	if err := commitAs(old, 3); !errors.Is(err, kafka.UnknownMemberId) && !errors.Is(err, kafka.IllegalGeneration) {
		t.Errorf("commit by an old generation: %v", err)
	}
	if offset, _ := committed(t, p.addr, "g", "t"); offset != 2 {
		t.Errorf("committed offset is %d", offset)
	}
}

func TestHalfWrittenGroupLogIsRepaired(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "")
	topic(t, p.addr, TopicSpec{Name: "t"})
	commit(t, p.addr, "g", "t", 1, "one")
	p.kill()
	path := filepath.Join(dir, "kafka", "groups.log")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("\xc8\x00\x00\x00half an entry"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	p = startProcess(t, dir, p.addr)
	commit(t, p.addr, "g", "t", 2, "two")
	p.kill()
	p = startProcess(t, dir, p.addr)
	if offset, m := committed(t, p.addr, "g", "t"); offset != 2 || m != "two" {
		t.Errorf("committed %d %q", offset, m)
	}
}

func TestRetentionByBytesBoundsTheLog(t *testing.T) {
	dir := t.TempDir()
	b := start1(t, Options{DataDir: dir, RetentionBytes: 4 << 20, RetentionInterval: 50 * time.Millisecond, Unsynced: true})
	topic(t, b.Addr(), TopicSpec{Name: "t"})
	topic(t, b.Addr(), CompactedTopic("compacted", 1))
	produce(t, b.Addr(), "compacted", 8000, 1000, 1000)
	end := produce(t, b.Addr(), "t", 30000, 500, 1000)
	deadline := time.Now().Add(5 * time.Second)
	for {
		size := b.cluster.PartitionInfo("t", 0).NumBytes
		if size <= 4<<20 && size > 3<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("partition has %d bytes", size)
		}
		time.Sleep(20 * time.Millisecond)
	}
	first, last := ends(t, b.Addr(), "t")
	if last != end || first == 0 {
		t.Errorf("log is [%d, %d), want end %d", first, last, end)
	}
	if used := diskUse(t, filepath.Join(dir, "kafka", "partitions", "t-0")); used > 6<<20 {
		t.Errorf("partition takes %d bytes on disk", used)
	}
	if first, last := ends(t, b.Addr(), "compacted"); first != 0 || last != 8000 {
		t.Errorf("compacted topic is [%d, %d)", first, last)
	}
}

func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}

// TestOffsetsNeverStartOver expires and deletes everything, and kills the broker.
func TestOffsetsNeverStartOver(t *testing.T) {
	for name, empty := range map[string]func(t *testing.T, p *process){
		"by age": func(t *testing.T, p *process) {
			for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
				if first, _ := ends(t, p.addr, "t"); first == 99 {
					return
				}
			}
			first, last := ends(t, p.addr, "t")
			t.Fatalf("log is [%d, %d) long after its retention", first, last)
		},
		"by request": func(t *testing.T, p *process) { deleteRecords(t, p.addr, "t", 100) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := startProcess(t, dir, "")
			spec := TopicSpec{Name: "t"}
			if name == "by age" {
				spec.Configs = map[string]string{"retention.ms": "500"}
			}
			topic(t, p.addr, spec)
			produce(t, p.addr, "t", 100, 1, 10)
			empty(t, p)
			p.kill()
			for range 2 {
				p = startProcess(t, dir, p.addr)
				if _, last := ends(t, p.addr, "t"); last != 100 {
					t.Fatalf("log ends at %d after a kill", last)
				}
				p.end()
			}
			p = startProcess(t, dir, p.addr)
			if end := produce(t, p.addr, "t", 5, 5, 10); end != 105 {
				t.Errorf("log ends at %d after five more", end)
			}
			// A reader passes the place that the old records leave.
			first, _ := ends(t, p.addr, "t")
			r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{p.addr}, Topic: "t", MaxWait: 100 * time.Millisecond})
			defer r.Close()
			if err := r.SetOffset(first); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for want := int64(100); want < 105; {
				m, err := r.ReadMessage(ctx)
				if err != nil {
					t.Fatalf("read at %d: %v", want, err)
				}
				if m.Offset < 100 {
					continue
				}
				if m.Offset != want {
					t.Fatalf("read offset %d, want %d", m.Offset, want)
				}
				want++
			}
		})
	}
}

func TestEnsureTopicsIsIdempotent(t *testing.T) {
	b := start1(t, Options{MaxMessageBytes: 1 << 20})
	specs := []TopicSpec{{Name: "t", Partitions: 3}, DeadLetterTopic("t", 1, 1<<20, time.Hour), CompactedTopic("state", 1)}
	for range 2 {
		if err := EnsureTopics(t.Context(), b.Addr(), specs); err != nil {
			t.Fatal(err)
		}
	}
	if err := EnsureTopics(t.Context(), b.Addr(), []TopicSpec{{Name: "t", Partitions: 4}}); err == nil || !strings.Contains(err.Error(), "has 3 partitions, 4 are needed") {
		t.Errorf("more partitions than there are: %v", err)
	}
	send := func(topic string, size int) error {
		transport := &kafka.Transport{}
		defer transport.CloseIdleConnections()
		w := &kafka.Writer{Addr: kafka.TCP(b.Addr()), Topic: topic, BatchBytes: 16 << 20, BatchTimeout: time.Millisecond, MaxAttempts: 1, RequiredAcks: kafka.RequireAll, Transport: transport}
		defer w.Close()
		err := w.WriteMessages(t.Context(), kafka.Message{Value: make([]byte, size)})
		var each kafka.WriteErrors
		if errors.As(err, &each) {
			return each[0]
		}
		return err
	}
	if err := send("t", 1<<20); !errors.Is(err, kafka.MessageSizeTooLarge) {
		t.Errorf("message over the limit: %v", err)
	}
	if err := send("t.dlq", 2<<20); err != nil {
		t.Errorf("dead letter of 2 MiB: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := EnsureTopics(ctx, "127.0.0.1:1", specs); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("no broker: %v", err)
	}
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	running := t.TempDir()
	start1(t, Options{DataDir: running})
	foreign := t.TempDir()
	if err := os.MkdirAll(filepath.Join(foreign, "kafka", "partitions"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		opts Options
		is   error
		text string
	}{
		"port in use":     {Options{Addr: busy.Addr().String(), DataDir: t.TempDir()}, ErrPortInUse, "choose another address"},
		"no folder":       {Options{}, datadir.ErrUnwritable, "no data folder"},
		"foreign folder":  {Options{DataDir: foreign}, datadir.ErrForeign, "holds partitions"},
		"second instance": {Options{DataDir: running}, datadir.ErrLocked, "process " + strconv.Itoa(os.Getpid())},
		"full disk":       {Options{DataDir: t.TempDir(), MinFreeDisk: 1 << 60}, datadir.ErrFull, "MiB are needed"},
		"bad address":     {Options{DataDir: t.TempDir(), Addr: "here"}, nil, "is not host:port"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := Start(t.Context(), tt.opts)
			if err == nil {
				b.Close()
				t.Fatal("it started")
			}
			if tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %q, want %v with %q on one line", err, tt.is, tt.text)
			}
		})
	}
}

// TestFailedWriteIsAFault takes the folder of a partition away under the broker.
func TestFailedWriteIsAFault(t *testing.T) {
	dir := t.TempDir()
	faults := make(chan error, 1)
	core, _ := observer.New(zapcore.ErrorLevel)
	b := start1(t, Options{DataDir: dir, OnFault: func(err error) { faults <- err }, Logger: zap.New(core)})
	topic(t, b.Addr(), TopicSpec{Name: "t"})
	path := filepath.Join(dir, "kafka", "partitions")
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{Addr: kafka.TCP(b.Addr()), Topic: "t", MaxAttempts: 1, BatchTimeout: time.Millisecond, RequiredAcks: kafka.RequireAll, Transport: transport}
	defer w.Close()
	if err := w.WriteMessages(t.Context(), kafka.Message{Value: []byte("x")}); err == nil {
		t.Error("a record that could not be written was acknowledged")
	}
	select {
	case err := <-faults:
		if !errors.Is(err, ErrNotDurable) {
			t.Errorf("fault is %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a write failed and nobody was told")
	}
}

// deleteRecords speaks the protocol itself: kafka-go has no such call.
func deleteRecords(t *testing.T, addr, topic string, offset int64) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	str := func(b []byte, s string) []byte { return append(append(b, byte(len(s)>>8), byte(len(s))), s...) }
	var b []byte
	b = append(b, 0, 21, 0, 0, 0, 0, 0, 7) // DeleteRecords v0, correlation id 7
	b = str(b, "test")
	b = append(b, 0, 0, 0, 1)
	b = str(b, topic)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0) // one partition, number 0
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	b = append(b, 0, 0, 3, 232) // one second
	if _, err := conn.Write(append([]byte{0, 0, 0, byte(len(b))}, b...)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	answer = make([]byte, answer[3])
	if _, err := io.ReadFull(conn, answer); err != nil || answer[len(answer)-1] != 0 {
		t.Fatalf("delete records answered % x, %v", answer, err)
	}
}

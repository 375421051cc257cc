//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/hamba/avro/v2"
	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/consumers/load"
	whclickhouse "github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/dedup"
	"github.com/welfarehub/welfarehub/pkg/event"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/record"
	"github.com/welfarehub/welfarehub/pkg/registry"
)

// contestantArgument is the hidden first argument of a contestant: a process of its own, so that its CPU
// time and memory are its own. It reads a spec from its input, and ends when the input does. On its output
// it says "begin" where its preparation is not to be measured, and "count <n>" when so many records are done, "bytes <n>" of what it holds.
const contestantArgument = "contestant"

// spec is what a contestant has to do.
type spec struct {
	Kind       string
	Brokers    []string
	DSN        string // native protocol
	Registry   string
	OutcomeID  int
	Group      string
	Table      string        // of a peer
	Bytes      bool          // pseudonyms go in as bytes
	Block      int           // rows of a block; 0: the default of ours
	BlockBytes int           // of ours; 0: the default
	Profile    string        // file for a CPU profile of ours
	FlushAge   time.Duration // 0: the default of ours
	Partitions int
	Events     int // limits: so many
	OnInsert   int // optimize_on_insert of a peer
}

// The kinds of contestants that are processes.
const (
	kindOurs        = "ours"
	kindOursSummed  = "ours, aggregates too"
	kindPlain       = "plain Go"
	kindFetch       = "fetch"
	kindFetchPlain  = "fetch, kafka-go"
	kindDecode      = "decode"
	kindDecodePlain = "decode, hamba/avro"
	kindInsert      = "insert"
	kindFilter      = "filter"
)

// contestant is main of the child process.
func contestant(in io.Reader, out io.Writer) error {
	input := bufio.NewReader(in)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	var s spec
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, input) // until the parent closes it, or is gone
		stop()
	}()
	tell := &teller{out: out}
	run, ok := map[string]func(context.Context, *spec, *teller) error{
		kindOurs: runOurs, kindOursSummed: runOurs, kindPlain: runPlain, kindFetch: runFetch, kindFetchPlain: runFetchPlain,
		kindDecode: runDecode, kindDecodePlain: runDecode, kindInsert: runInsert, kindFilter: runFilter,
	}[s.Kind]
	if !ok {
		return fmt.Errorf("no contestant %q", s.Kind)
	}
	if err := run(ctx, &s, tell); err != nil && ctx.Err() == nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// teller tells the parent. Not safe for concurrent use.
type teller struct{ out io.Writer }

func (t *teller) begin()      { fmt.Fprintln(t.out, "begin") }
func (t *teller) count(n int) { fmt.Fprintln(t.out, "count", n) }
func (t *teller) bytes(n int) { fmt.Fprintln(t.out, "bytes", n) }

// sum tells the running total of what the workers of a group count, until they end.
func (t *teller) sum(g *errgroup.Group, counts chan int) error {
	done := make(chan error, 1)
	go func() {
		done <- g.Wait()
		close(counts)
	}()
	total := 0
	for n := range counts {
		total += n
		t.count(total)
	}
	return <-done
}

func (s *spec) cluster() wkafka.Cluster { return wkafka.Cluster{Brokers: s.Brokers} }

// runOurs is the loader as `welfarehub load` runs it, without its aggregates unless asked for.
func runOurs(ctx context.Context, s *spec, tell *teller) error {
	schemas, err := registry.NewClient(registry.ClientOptions{URL: s.Registry})
	if err != nil {
		return err
	}
	log, err := zap.Config{Level: zap.NewAtomicLevelAt(zap.WarnLevel), Encoding: "console", OutputPaths: []string{"stderr"}, EncoderConfig: zap.NewDevelopmentEncoderConfig()}.Build()
	if err != nil {
		return fmt.Errorf("make logger: %w", err)
	}
	loader, err := load.New(load.Options{
		Cluster: s.cluster(), Group: s.Group, DSN: s.DSN, Schemas: schemas, OutcomeSchemaID: s.OutcomeID,
		MaxRecords: s.Block, MaxBytes: s.BlockBytes, FlushAge: s.FlushAge, Logger: log,
	})
	if err != nil {
		return err
	}
	if s.Profile != "" {
		file, err := os.Create(s.Profile)
		if err != nil {
			return fmt.Errorf("write profile: %w", err)
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return fmt.Errorf("write profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return loader.Run(ctx) })
	if s.Kind == kindOursSummed {
		db, err := whclickhouse.Open(ctx, s.DSN)
		if err != nil {
			return err
		}
		defer db.Close()
		g.Go(func() error { return aggregate.New(aggregate.Options{DB: db.Conn(), Logger: log}).Run(ctx) })
	}
	g.Go(func() error {
		for last := -1; ; {
			n := 0
			for _, c := range loader.Ends() {
				n += int(c.Read)
			}
			if n != last {
				tell.count(n)
				last = n
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	return g.Wait()
}

// runFetch reads all partitions once through the reader of record batches that the loader has.
func runFetch(ctx context.Context, s *spec, tell *teller) error {
	return s.eachPartition(ctx, tell, func(ctx context.Context, p int, add func(int)) error {
		f := wkafka.NewFetcher(s.cluster(), requested.Topic, p, nil)
		defer f.Close()
		var recs []wkafka.Record
		for at := int64(0); f.LogEnd() < 0 || at < f.LogEnd(); {
			var err error
			if recs, at, err = f.Fetch(ctx, recs[:0], at, 0, 100_000, 32<<20, time.Second); err != nil {
				return err
			}
			add(len(recs))
			f.Release()
		}
		return nil
	})
}

// runFetchPlain does the same through kafka-go.
func runFetchPlain(ctx context.Context, s *spec, tell *teller) error {
	return s.eachPartition(ctx, tell, func(ctx context.Context, p int, add func(int)) error {
		conn, err := kafka.DialLeader(ctx, "tcp", s.Brokers[0], requested.Topic, p)
		if err != nil {
			return fmt.Errorf("connect to partition %d: %w", p, err)
		}
		defer conn.Close()
		_, end, err := conn.ReadOffsets()
		if err != nil {
			return fmt.Errorf("read end of partition %d: %w", p, err)
		}
		for at := int64(0); at < end; {
			batch := conn.ReadBatchWith(kafka.ReadBatchConfig{MinBytes: 1, MaxBytes: 4 << 20, MaxWait: time.Second})
			n := 0
			for {
				m, err := batch.ReadMessage()
				if err != nil {
					break // the end of the answer; a real fault ends the next one without records
				}
				n++
				at = m.Offset + 1
			}
			if err := batch.Close(); err != nil && n == 0 && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read partition %d at offset %d: %w", p, at, err)
			}
			add(n)
		}
		return nil
	})
}

// eachPartition reads all partitions at once and tells the sum of what they add.
func (s *spec) eachPartition(ctx context.Context, tell *teller, read func(ctx context.Context, p int, add func(int)) error) error {
	counts := make(chan int, 64)
	tell.begin()
	g, ctx := errgroup.WithContext(ctx)
	for p := range s.Partitions {
		g.Go(func() error { return read(ctx, p, func(n int) { counts <- n }) })
	}
	return tell.sum(g, counts)
}

// values fetches up to n values of the topic.
func (s *spec) values(ctx context.Context, n int) ([][]byte, error) {
	f := wkafka.NewFetcher(s.cluster(), requested.Topic, 0, nil)
	defer f.Close()
	var out [][]byte
	var recs []wkafka.Record
	for at := int64(0); len(out) < n && (f.LogEnd() < 0 || at < f.LogEnd()); {
		var err error
		if recs, at, err = f.Fetch(ctx, recs[:0], at, 0, n, 64<<20, time.Second); err != nil {
			return nil, err
		}
		for i := range recs {
			out = append(out, append([]byte(nil), recs[i].Value...))
		}
		f.Release()
	}
	return out[:min(n, len(out))], nil
}

// inMemory is how many values the limits that need none of Kafka go round in.
const inMemory = 100_000

// runDecode decodes on one core, into a row as the loader does or into the generated struct.
func runDecode(ctx context.Context, s *spec, tell *teller) error {
	values, err := s.values(ctx, inMemory)
	if err != nil {
		return err
	}
	decoder, err := event.NewDecoder(requested, requested.Schema)
	if err != nil {
		return fmt.Errorf("make decoder: %w", err)
	}
	row := event.NewRow(requested)
	tell.begin()
	for i := range s.Events {
		value := values[i%len(values)][event.FrameSize:]
		if s.Kind == kindDecode {
			err = decoder.Decode(value, row)
		} else {
			var into event.ServiceRequested
			err = avro.Unmarshal(requested.Schema, value, &into)
		}
		if err != nil {
			return fmt.Errorf("decode value %d: %w", i, err)
		}
	}
	tell.count(s.Events)
	return ctx.Err()
}

// runInsert inserts native blocks that were built before, with two connections.
func runInsert(ctx context.Context, s *spec, tell *teller) error {
	values, err := s.values(ctx, inMemory)
	if err != nil {
		return err
	}
	decoder, err := event.NewDecoder(requested, requested.Schema)
	if err != nil {
		return fmt.Errorf("make decoder: %w", err)
	}
	o, err := clickhouse.ParseDSN(s.DSN)
	if err != nil {
		return fmt.Errorf("read address of ClickHouse: %w", err)
	}
	const connections = 2
	var blocks [connections]*record.Columns
	row := event.NewRow(requested)
	for c := range blocks {
		blocks[c] = record.NewColumns(requested)
		for i := range s.Block {
			if err := decoder.Decode(values[(i+c*s.Block)%len(values)][event.FrameSize:], row); err != nil {
				return fmt.Errorf("decode value %d: %w", i, err)
			}
			blocks[c].AppendRow(&record.Meta{Offset: int64(i), End: record.Loaded}, row.Vals)
		}
		blocks[c].Seal(0, 0, int64(s.Block), 0, time.Now())
	}
	counts := make(chan int)
	g, ctx := errgroup.WithContext(ctx)
	each := s.Events / s.Block / connections
	tell.begin()
	for c := range blocks {
		g.Go(func() error {
			client, err := ch.Dial(ctx, ch.Options{Address: o.Addr[0], Database: peerDatabase, User: o.Auth.Username, Password: o.Auth.Password, Compression: ch.CompressionDisabled})
			if err != nil {
				return fmt.Errorf("connect to ClickHouse: %w", err)
			}
			defer client.Close()
			for range each {
				if err := client.Do(ctx, ch.Query{Body: blocks[c].Input.Into(requested.Table), Input: blocks[c].Input, Settings: []ch.Setting{
					{Key: "async_insert", Value: "0"},
					{Key: "insert_deduplicate", Value: "0"},
					{Key: "optimize_on_insert", Value: "0"},
					{Key: "max_insert_block_size", Value: "16777216"},
					{Key: "min_insert_block_size_rows", Value: "16777216"},
				}}); err != nil {
					return fmt.Errorf("insert a block: %w", err)
				}
				counts <- s.Block
			}
			return nil
		})
	}
	return tell.sum(g, counts)
}

// runFilter adds ids to the filter of the loader, all new.
func runFilter(ctx context.Context, s *spec, tell *teller) error {
	var filter dedup.Filter
	rng := rand.NewPCG(1, 2)
	var id [16]byte
	tell.begin()
	for range s.Events {
		binary.LittleEndian.PutUint64(id[:], rng.Uint64())
		binary.LittleEndian.PutUint64(id[8:], rng.Uint64())
		filter.TestAndAdd(&id)
	}
	tell.bytes(filter.Bytes())
	tell.count(s.Events)
	return ctx.Err()
}

// runPlain is a loader as most teams write it: a reader in a group, a struct, a batch, and a commit after
// it. It finds no duplicates, checks nothing, and keeps no books.
func runPlain(ctx context.Context, s *spec, tell *teller) error {
	client, err := registry.NewClient(registry.ClientOptions{URL: s.Registry})
	if err != nil {
		return err
	}
	o, err := clickhouse.ParseDSN(s.DSN)
	if err != nil {
		return fmt.Errorf("read address of ClickHouse: %w", err)
	}
	o.Settings = clickhouse.Settings{"async_insert": 0, "optimize_on_insert": s.OnInsert}
	conn, err := clickhouse.Open(o)
	if err != nil {
		return fmt.Errorf("open ClickHouse: %w", err)
	}
	defer conn.Close()
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: s.Brokers, GroupID: s.Group, Topic: requested.Topic, StartOffset: kafka.FirstOffset,
		MinBytes: 1, MaxBytes: 10 << 20, MaxWait: 500 * time.Millisecond, QueueCapacity: 10_000,
	})
	defer reader.Close()
	schemas := map[uint32]avro.Schema{}
	columns := strings.Join(plainColumns(), ", ")
	for total := 0; total < s.Events; {
		batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+s.Table+" ("+columns+")")
		if err != nil {
			return fmt.Errorf("prepare batch: %w", err)
		}
		last := map[int]kafka.Message{} // by partition
		now := time.Now()
		for batch.Rows() < s.Block && total+batch.Rows() < s.Events {
			m, err := reader.FetchMessage(ctx)
			if err != nil {
				return fmt.Errorf("fetch: %w", err)
			}
			id := binary.BigEndian.Uint32(m.Value[1:])
			schema, ok := schemas[id]
			if !ok {
				text, err := client.SchemaByID(ctx, int(id))
				if err != nil {
					return err
				}
				if schema, err = avro.Parse(text); err != nil {
					return fmt.Errorf("parse schema %d: %w", id, err)
				}
				schemas[id] = schema
			}
			var e event.ServiceRequested
			if err := avro.Unmarshal(schema, m.Value[event.FrameSize:], &e); err != nil {
				return fmt.Errorf("decode %d/%d: %w", m.Partition, m.Offset, err)
			}
			row := plainRowOf(&e, s.Bytes)
			row.Partition, row.Offset, row.LoadedAt = uint32(m.Partition), uint64(m.Offset), now
			if err := batch.AppendStruct(&row); err != nil {
				return fmt.Errorf("append: %w", err)
			}
			last[m.Partition] = m
		}
		n := batch.Rows()
		if err := batch.Send(); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
		total += n
		tell.count(total)
		if err := reader.CommitMessages(ctx, slices.Collect(maps.Values(last))...); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	return nil
}

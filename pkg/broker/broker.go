// Package broker runs a Kafka broker inside the program, for one that has none. It promises that what it acknowledged
// (records, committed offsets with their metadata, topics) is there after a restart or a kill, at the same offsets, and
// that disk and memory stay within the retention.
//
// It is kfake with what a durable broker needs around it: a locked folder, repair of files that a kill tore, retention
// that never lets a partition's offsets start over, and a watch on writes that fail.
package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

// Start fails with one of these, wrapped in a line that says what to do, or with one of package datadir.
var (
	// ErrPortInUse: somebody else listens on the address.
	ErrPortInUse = errors.New("the address is in use")
	// ErrNotDurable is given to OnFault: a write failed. Producers get an error for their records, but topics, offsets
	// and settings that were acknowledged may be lost at the next start.
	ErrNotDurable = errors.New("the broker cannot write its data")
)

const (
	dataFormat   = 1
	lockPatience = 3 * time.Second
	never        = int64(10 * 365 * 24 * time.Hour / time.Millisecond)

	smallestSegment = 1 << 20
	largestSegment  = 64 << 20
)

// Options of Start. The zero value of each but DataDir is usable.
type Options struct {
	// Addr is host:port to listen on, 127.0.0.1:0 by default. Clients keep the address that they were told, so a
	// program that restarts gives the same port again.
	Addr string
	// DataDir is the program's data folder. The broker owns kafka/ in it.
	DataDir string
	// RetentionBytes is kept of each partition, where its topic does not say retention.bytes; 64 MiB by default. After
	// a kill, starting reads all of it, so it bounds memory as well as disk.
	RetentionBytes int64
	// RetentionInterval is how often retention is applied, 10 s by default.
	RetentionInterval time.Duration
	// MaxMessageBytes is the largest batch, where its topic does not say max.message.bytes; 2 MiB by default.
	MaxMessageBytes int
	// MinFreeDisk is the space that must be free at the start, in bytes; 256 MiB by default, negative for no check.
	MinFreeDisk int64
	// Unsynced leaves flushing to the system: a power cut may lose the last records, a kill does not.
	Unsynced bool
	// Logger gets starts, stops and faults.
	Logger *zap.Logger
	// OnFault is called at the first write that failed (ErrNotDurable). The program should stop. It must not block.
	OnFault func(error)
}

func (o *Options) setDefaults() {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.RetentionBytes == 0 {
		o.RetentionBytes = 64 << 20
	}
	if o.RetentionInterval == 0 {
		o.RetentionInterval = 10 * time.Second
	}
	if o.MaxMessageBytes == 0 {
		o.MaxMessageBytes = 2 << 20
	}
	if o.MinFreeDisk == 0 {
		o.MinFreeDisk = 256 << 20
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Broker is a running broker. Its methods may be called from any goroutine.
type Broker struct {
	opts    Options
	dir     *datadir.Dir
	cluster *kfake.Cluster
	addr    string

	transport *kafka.Transport // of our own requests
	members   members

	stop chan struct{}
	wg   sync.WaitGroup
	once sync.Once

	floorMu sync.Mutex // held while floors.json is written
}

// Start opens the data folder, repairs it, and listens. Cancelling ctx ends the attempt, not a started broker.
func Start(ctx context.Context, opts Options) (*Broker, error) {
	opts.setDefaults()
	if opts.DataDir == "" {
		return nil, fmt.Errorf("start broker: %w: no data folder was given", datadir.ErrUnwritable)
	}
	dir, err := datadir.Open(ctx, filepath.Join(opts.DataDir, "kafka"), datadir.Options{
		Part: "kafka", Format: dataFormat, MinFree: opts.MinFreeDisk, Wait: lockPatience,
	})
	if err != nil {
		return nil, fmt.Errorf("start broker: %w", err)
	}
	b, err := start(opts, dir)
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("start broker: %w", err)
	}
	return b, nil
}

func start(opts Options, dir *datadir.Dir) (*Broker, error) {
	begin := time.Now()
	b := &Broker{opts: opts, dir: dir, stop: make(chan struct{}), transport: &kafka.Transport{}, members: members{groups: map[string]*watched{}}}
	if err := repairLogs(dir.Path, opts.Logger); err != nil {
		return nil, err
	}
	if err := raiseFloors(dir.Path, opts.Logger); err != nil {
		return nil, err
	}
	if _, _, err := net.SplitHostPort(opts.Addr); err != nil {
		return nil, fmt.Errorf("address %q is not host:port: %w", opts.Addr, err)
	}
	segment := min(max(opts.RetentionBytes/4, smallestSegment), largestSegment)
	kopts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("welfarehub"),
		kfake.DataDir(dir.Path),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, opts.Addr) }),
		kfake.GroupMinSessionTimeout(time.Second),
		kfake.WithLogger(&watch{log: opts.Logger, fault: opts.OnFault}),
		kfake.BrokerConfigs(map[string]string{
			"message.max.bytes":         strconv.Itoa(opts.MaxMessageBytes),
			"log.segment.bytes":         strconv.FormatInt(segment, 10),
			"log.retention.bytes":       "-1", // retention is ours, see retention.go
			"log.retention.ms":          "-1",
			"log.cleaner.backoff.ms":    strconv.FormatInt(never, 10),
			"offsets.retention.minutes": strconv.FormatInt(never/60000, 10),
		}),
	}
	if !opts.Unsynced {
		kopts = append(kopts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(kopts...)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w: another process listens on %s; stop it, or choose another address (port 0 takes a free one)", ErrPortInUse, opts.Addr)
	case err != nil:
		return nil, fmt.Errorf("load %s: %w", dir.Path, err)
	}
	b.cluster = cluster
	b.addr = cluster.ListenAddrs()[0]
	b.guardDeletes()
	b.observeMembers()
	// Loading reads every segment whole; give that memory back at once.
	debug.FreeOSMemory()
	b.wg.Add(2)
	go b.retainForever()
	go b.tendMembers()
	opts.Logger.Info("broker started", zap.String("addr", b.addr), zap.Duration("took", time.Since(begin)))
	return b, nil
}

// Addr is the host:port that clients connect to, and are told.
func (b *Broker) Addr() string { return b.addr }

// Close writes everything and stops listening. A second Close does nothing.
func (b *Broker) Close() {
	b.once.Do(func() {
		begin := time.Now()
		close(b.stop)
		b.wg.Wait()
		b.transport.CloseIdleConnections()
		if err := b.saveFloors(); err != nil {
			b.opts.Logger.Error("broker could not save its offsets", zap.Error(err))
		}
		b.cluster.Close()
		b.dir.Close()
		b.opts.Logger.Info("broker stopped", zap.Duration("took", time.Since(begin)))
	})
}

//go:build linux

// Command aggregates measures, without Kafka and loader, what the aggregation costs: it drains a backlog, and then
// takes small cycles on top of what is stored.
//
//	bin/welfarehub up --once 1000000 --seed 7 --data scratch
//	go run ./bench/aggregates --data scratch --copies 4
//
// The rows are those of a stopped hub's data folder, which it spoils: what was aggregated is dropped, and the rows are
// copied under other sources and subjects, as many times as is told. The last tenth of the last copy is
// the tail: it comes in blocks as small as live traffic has them, each followed by a cycle, so that these meet
// groups of any age.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/consumers/aggregate"
	"github.com/welfarehub/welfarehub/pkg/child"
	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/engine"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// blockRecords is how many records a copied block has.
const blockRecords = 50_000

func main() {
	engine.RunIfChild()
	data := flag.String("data", "", "data folder of a stopped hub; it is spoiled")
	copies := flag.Int("copies", 1, "how many copies of its rows to add before they are aggregated")
	tail := flag.Int("tail", 20, "small cycles after the backlog, over a tenth of one more copy")
	cycleRecords := flag.Uint64("cycle-records", 0, "most records of a cycle; 0: the default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *data, *copies, *tail, *cycleRecords); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

type bench struct {
	engine *engine.Engine
	db     driver.Conn
	ends   map[string]uint64 // rows of each table's one partition, as the hub loaded them
	shift  map[string]uint64 // where the next copy begins
	agg    *aggregate.Aggregator
}

func run(ctx context.Context, data string, copies, tail int, cycleRecords uint64) (err error) {
	e, err := engine.Start(ctx, engine.Options{DataDir: data, MemoryLimit: 2 << 30})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, e.Stop(context.WithoutCancel(ctx)))
	}()
	// Version 2 is what the loader needs; the aggregates come after it.
	if err := clickhouse.MigrateDown(ctx, e.DSN(), 2, zap.NewNop()); err != nil {
		return err
	}
	if err := clickhouse.Migrate(ctx, e.DSN(), zap.NewNop()); err != nil {
		return err
	}
	db, err := clickhouse.Open(ctx, e.DSN())
	if err != nil {
		return err
	}
	defer db.Close()
	b := &bench{engine: e, db: db.Conn(), ends: map[string]uint64{}, shift: map[string]uint64{}}
	b.agg = aggregate.New(aggregate.Options{DB: b.db, MaxRecords: cycleRecords, SweepEvery: 30 * time.Second})
	for _, t := range event.Types {
		var end, at uint64
		query := fmt.Sprintf("SELECT max(_to) FROM store.%s WHERE NOT match(source, ':copy[0-9]+$')", t.Table)
		if err := b.db.QueryRow(ctx, query).Scan(&end); err != nil {
			return fmt.Errorf("read %s: %w", t.Table, err)
		}
		if err := b.db.QueryRow(ctx, "SELECT max(_to) FROM store."+t.Table).Scan(&at); err != nil {
			return fmt.Errorf("read %s: %w", t.Table, err)
		}
		b.ends[t.Table], b.shift[t.Table] = end, at
	}
	for i := range copies {
		if err := b.copy(ctx, fmt.Sprintf(":copy%d", time.Now().UnixNano()), 0, 1, blockRecords); err != nil {
			return err
		}
		fmt.Printf("copy %d is loaded\n", i+1)
	}
	last := fmt.Sprintf(":copy%d", time.Now().UnixNano())
	if tail > 0 {
		if err := b.copy(ctx, last, 0, .9, blockRecords); err != nil {
			return err
		}
	}
	if err := b.drain(ctx, "backlog"); err != nil {
		return err
	}
	for i := range tail {
		from := .9 + .1*float64(i)/float64(tail)
		if err := b.copy(ctx, last, from, from+.1/float64(tail), 1<<30); err != nil {
			return err
		}
		if err := b.drain(ctx, "live"); err != nil {
			return err
		}
	}
	return nil
}

// copy adds a part of the hub's rows under other sources, ids and subjects.
func (b *bench) copy(ctx context.Context, name string, from, to float64, block uint64) error {
	for _, t := range event.Types {
		end := b.ends[t.Table]
		lo, hi := uint64(from*float64(end)), uint64(to*float64(end))
		for ; lo < hi; lo += min(block, hi-lo) {
			n := min(block, hi-lo)
			at := b.shift[t.Table]
			b.shift[t.Table] += n
			replace := []string{
				fmt.Sprintf("_offset - %d + %d AS _offset", lo, at), fmt.Sprintf("toUInt64(%d) AS _from", at), fmt.Sprintf("toUInt64(%d) AS _to", at+n),
				fmt.Sprintf("substring(SHA256(concat(_id_hash, '%s')), 1, 16) AS _id_hash", name), "now64(3) AS _loaded_at",
			}
			for _, f := range t.Fields {
				switch {
				case f.Column == "source" || strings.HasSuffix(f.Column, "_source"):
					replace = append(replace, fmt.Sprintf("concat(%[1]s, '%[2]s') AS %[1]s", f.Column, name))
				case clickhouse.IsPseudonym(f):
					replace = append(replace, fmt.Sprintf("SHA256(concat(%[1]s, '%[2]s')) AS %[1]s", f.Column, name))
				}
			}
			query := fmt.Sprintf("INSERT INTO store.%[1]s SELECT * REPLACE (%[2]s) FROM (SELECT * FROM store.%[1]s WHERE _offset >= %[3]d AND _offset < %[4]d)",
				t.Table, strings.Join(replace, ", "), lo, lo+n)
			query += " SETTINGS min_insert_block_size_rows = 10000000, min_insert_block_size_bytes = 0, max_block_size = 10000000, max_insert_threads = 1, max_threads = 1, async_insert = 0"
			if err := b.db.Exec(ctx, query); err != nil {
				return fmt.Errorf("copy rows of %s: %w", t.Table, err)
			}
		}
	}
	return nil
}

// drain runs cycles until nothing is new, and prints what they cost.
func (b *bench) drain(ctx context.Context, what string) error {
	var records uint64
	engineAt, ownAt, begin := cpu(b.engine.PID()), cpu(os.Getpid()), time.Now()
	for {
		s, err := b.agg.Cycle(ctx)
		if err != nil {
			return err
		}
		if s.Cycle == 0 {
			break
		}
		records += s.Records
		fmt.Printf("%s: cycle %d: %d records, %d groups in %s: plan %s, settle %s, erase %s, touch %s, insert %s, sweep %s\n", what, s.Cycle, s.Records, s.Groups,
			ms(s.Took), ms(s.Steps.Plan), ms(s.Steps.Settle), ms(s.Steps.Erase), ms(s.Steps.Touch), ms(s.Steps.Insert), ms(s.Steps.Sweep))
	}
	took := time.Since(begin)
	var facts uint64
	if err := b.db.QueryRow(ctx, "SELECT count() FROM store.facts").Scan(&facts); err != nil {
		return fmt.Errorf("count facts: %w", err)
	}
	fmt.Printf("%s: %d records on %d facts: %s, engine %.2f CPU-s, own %.2f CPU-s, %.0f records/s\n", what, records, facts, ms(took),
		cpu(b.engine.PID())-engineAt, cpu(os.Getpid())-ownAt, float64(records)/took.Seconds())
	return nil
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// cpu is what a process has used, in seconds; 0 where it cannot be read.
func cpu(pid int) float64 {
	used, _ := child.Usage(pid)
	return used.Seconds()
}

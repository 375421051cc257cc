package aggregate

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	wclickhouse "github.com/welfarehub/welfarehub/pkg/clickhouse"
)

// feed makes facts of the rows of the batch's blocks, those of all events in one insert, and of revocations
// the rows of store.records. What carries a token that was used is left out. Facts that are there already
// become double otherwise, which is harmless: whoever reads facts takes each position once.
func (a *Aggregator) feed(ctx context.Context, batch *batch, token string) error {
	if ranges := batch.ranges(revocation, "partition", "offset"); ranges != "" {
		columns := names(recordColumns)
		query := fmt.Sprintf("INSERT INTO store.records (%s) SELECT %s FROM (%s) WHERE %s", columns, columns, a.sources[revocation], ranges)
		if err := a.feedOnce(ctx, "revocations/"+token, query); err != nil {
			return err
		}
	}
	facts := a.factsOfRows(batch)
	if facts == "" {
		return nil
	}
	return a.feedOnce(ctx, "facts/"+token, fmt.Sprintf("INSERT INTO store.facts (%s) %s", names(factColumns), facts))
}

// factsOfRows is the query that makes facts of the rows of the batch's blocks; empty where none can become one.
func (a *Aggregator) factsOfRows(batch *batch) string {
	var selects []string
	for _, no := range sorted(a.sources) {
		if ranges := batch.ranges(no, "partition", "offset"); ranges != "" && no != revocation {
			selects = append(selects, fmt.Sprintf("SELECT %s FROM (%s) WHERE %s", factExpressions(no), a.sources[no], ranges))
		}
	}
	return strings.Join(selects, "\nUNION ALL\n")
}

// feedOnce runs an INSERT SELECT as one block with a token, which the views on its table know too. The token is
// of one life of the engine: one that was taken without rows, or by a table and not by its views, is
// forgotten with it, and the cycle makes all of its facts again.
func (a *Aggregator) feedOnce(ctx context.Context, token, query string) error {
	epoch, err := wclickhouse.Epoch(ctx, a.opts.DB)
	if err != nil {
		return err
	}
	token = fmt.Sprintf("%s/%x", token, epoch)
	settings := a.settings()
	for name, value := range map[string]any{
		"async_insert": 0, "insert_deduplicate": 1, "insert_deduplication_token": token, "deduplicate_blocks_in_dependent_materialized_views": 1,
		"max_threads": 1, "max_insert_threads": 1, "max_block_size": 16777216, "max_insert_block_size": 16777216,
		"min_insert_block_size_rows": 16777216, "min_insert_block_size_bytes": 17179869184, "optimize_on_insert": 0,
	} {
		settings[name] = value
	}
	if err := a.opts.DB.Exec(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), query); err != nil {
		return fmt.Errorf("make facts of new rows: %w", err)
	}
	return nil
}

// key tells batches apart.
func (b *batch) key() string {
	h := fnv.New64a()
	places := make([]place, 0, len(b.spans))
	for p := range b.spans {
		places = append(places, p)
	}
	slices.SortFunc(places, comparePlaces)
	for _, p := range places {
		fmt.Fprintln(h, p, b.spans[p])
	}
	return fmt.Sprintf("%x", h.Sum64())
}

// column is a column with its type.
type column struct{ name, kind string }

func names(columns []column) string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.name
	}
	return strings.Join(out, ", ")
}

// recordColumns are the columns of store.records but gone.
var recordColumns = []column{
	{"rec", "UInt128"},
	{"type", "UInt8"},
	{"partition", "UInt32"},
	{"offset", "UInt64"},
	{"version", "Int64"},
	{"hash", "FixedString(16)"},
	{"grp", "UInt128"},
	{"revocation", "UInt128"},
	{"up_to", "Int64"},
}

// factColumns are the columns of store.facts that views give; the others are what an event says nothing of.
var factColumns = []column{
	{"grp", "UInt128"},
	{"rec", "UInt128"},
	{"type", "UInt8"},
	{"partition", "UInt32"},
	{"offset", "UInt64"},
	{"version", "Int64"},
	{"hash", "FixedString(16)"},
	{"occurred_at", "DateTime64(3, 'UTC')"},
	{"source", "String"},
	{"source_record_id", "String"},
	{"instant", "DateTime64(3, 'UTC')"},
	{"comune", "FixedString(6)"},
	{"nomenclature", "String"},
	{"area", "String"},
	{"kind", "UInt8"},
	{"unit", "String"},
	{"svc", "UInt128"},
	{"sid", "UInt64"},
	{"a", "Decimal(18, 3)"},
	{"b", "Decimal(18, 3)"},
	{"valid_from", "Date32"},
	{"valid_to", "Date32"},
}

// factCommon is how many of factColumns every view gives.
const factCommon = 11

// factGiven are the columns that the view of an event gives besides those.
var factGiven = map[uint8][]string{
	1: {"comune", "nomenclature", "area", "kind", "valid_from", "valid_to"},
	2: {"unit", "a", "b"},
	3: {"comune", "nomenclature", "area"},
	4: {"comune", "kind"},
	5: {"comune", "kind", "svc", "sid"},
	6: {"comune", "nomenclature", "area", "kind"},
	7: {"comune", "unit", "svc", "a", "b", "valid_from"},
	9: {"comune", "kind", "a", "b", "valid_from"},
}

// factExpressions are the columns of store.facts out of those that the view of an event gives.
func factExpressions(no uint8) string {
	out := make([]string, len(factColumns))
	for i, c := range factColumns {
		if i >= factCommon && !slices.Contains(factGiven[no], c.name) {
			out[i] = fmt.Sprintf("defaultValueOfTypeName(%s) AS %s", quote(c.kind), c.name)
			continue
		}
		out[i] = fmt.Sprintf("CAST(%s, %s) AS %s", c.name, quote(c.kind), c.name)
	}
	return strings.Join(out, ", ")
}

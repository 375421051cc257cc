package metrics

// Kind is what Prometheus calls the type of a metric.
type Kind string

// Kinds.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Metric is one metric, as operators read of it. Catalogue has them all; nothing else is exported but what
// the client library says of Go and of the process.
type Metric struct {
	Name    string
	Kind    Kind
	Labels  []string // each from a closed list, or bounded by configuration
	Where   string   // commands that export it
	Meaning string
	Do      string // what to do about it, and when
	buckets []float64
}

var (
	seconds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	records = []float64{1, 10, 100, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000}
)

const (
	inLoad  = "load, up"
	inServe = "serve, up"
)

// Catalogue lists all metrics of the hub. Names are stable: alerts and dashboards rest on them.
var Catalogue = []Metric{
	{
		Name: "welfarehub_build_info", Kind: Gauge, Labels: []string{"version"}, Where: "all",
		Meaning: "1, with the version of the program.", Do: "Compare after an upgrade.",
	},
	{
		Name: "welfarehub_load_records_total", Kind: Counter, Labels: []string{"topic", "end"}, Where: inLoad,
		Meaning: "Records that this instance read, by their end: `loaded`, `duplicate` or `rejected`.",
		Do:      "The rate is the throughput. Zero while the lag is not: see \"A partition lags\".",
	},
	{
		Name: "welfarehub_load_rejects_total", Kind: Counter, Labels: []string{"topic", "code"}, Where: inLoad,
		Meaning: "Records rejected, by the first code.", Do: "See \"Rejects rise\"; E11 at once.",
	},
	{
		Name: "welfarehub_load_erased_on_arrival_total", Kind: Counter, Labels: []string{"topic"}, Where: inLoad,
		Meaning: "Loaded records of subjects that were erased before: counted, not stored.", Do: "Ask a source why it still sends them.",
	},
	{
		Name: "welfarehub_load_lost_records_total", Kind: Counter, Labels: []string{"topic"}, Where: inLoad,
		Meaning: "Offsets that retention took before they were read.", Do: "See \"Records were lost to retention\".",
	},
	{
		Name: "welfarehub_load_blocks_without_rows_total", Kind: Counter, Labels: []string{"topic"}, Where: inLoad,
		Meaning: "Blocks that ClickHouse acknowledged, and of which it has no row: their partitions stand still.", Do: "See \"A block has no rows\".",
	},
	{
		Name: "welfarehub_load_block_records", Kind: Histogram, Where: inLoad, buckets: records,
		Meaning: "Records of a block.", Do: "Small ones while the lag grows: many partitions have little each, or `--in-work-bytes` is used up.",
	},
	{
		Name: "welfarehub_load_decide_duration_seconds", Kind: Histogram, Where: inLoad, buckets: seconds,
		Meaning: "Time to decide a block: decoding, rules, look-up of ids.", Do: "Long: a slow ClickHouse, or many duplicates.",
	},
	{
		Name: "welfarehub_load_insert_duration_seconds", Kind: Histogram, Where: inLoad, buckets: seconds,
		Meaning: "Time that an insert of a block took that succeeded, with its views.", Do: "Long: look at ClickHouse's disk and merges.",
	},
	{
		Name: "welfarehub_load_retries_total", Kind: Counter, Labels: []string{"step"}, Where: inLoad,
		Meaning: "Attempts of a step that failed and are made again: outages of Kafka (`fetch`, `claim`, `tell`, `settle`), ClickHouse (`decide`, `insert`, `verify`) or the registry (`decide`).",
		Do:      "See \"A partition lags\"; the log has the cause.",
	},
	{
		Name: "welfarehub_load_assigned_partitions", Kind: Gauge, Where: inLoad,
		Meaning: "Partitions that the group has given to this instance.", Do: "0 with lag: another instance has them, or the group is not joined (`/readyz`).",
	},
	{
		Name: "welfarehub_load_generations_total", Kind: Counter, Where: inLoad,
		Meaning: "Assignments since the start.", Do: "Often: loaders come and go, or sessions run out; raise `--session-timeout`.",
	},
	{
		Name: "welfarehub_load_filter_bytes", Kind: Gauge, Labels: []string{"topic"}, Where: inLoad,
		Meaning: "Memory of the filter of known ids.", Do: "Two to four bytes an id: plan the memory of the loader.",
	},
	{
		Name: "welfarehub_load_filter_ids", Kind: Gauge, Labels: []string{"topic"}, Where: inLoad,
		Meaning: "Ids in that filter.", Do: "",
	},
	{
		Name: "welfarehub_aggregate_step_duration_seconds", Kind: Histogram, Labels: []string{"step"}, Where: inLoad, buckets: seconds,
		Meaning: "Time of each step of a cycle that had something to do: `plan`, `settle`, `erase`, `touch`, `insert`; and, beside the cycles, `sweep` and `purge`.",
		Do:      "Growing `touch` or `insert`: many groups change at once.",
	},
	{
		Name: "welfarehub_aggregate_failures_total", Kind: Counter, Labels: []string{"step"}, Where: inLoad,
		Meaning: "Cycles (`cycle`), removals (`sweep`) and purges (`purge`) that failed and are made again.", Do: "See \"A partition lags\"; for `sweep` and `purge`, \"An erasure must be proved\".",
	},
	{
		Name: "welfarehub_aggregate_last_cycle_timestamp_seconds", Kind: Gauge, Where: inLoad,
		Meaning: "When a cycle last succeeded, one that found nothing to do included. 0: none yet.", Do: "Old: the log has `aggregate: cycle failed`.",
	},
	{
		Name: "welfarehub_aggregate_records_total", Kind: Counter, Where: inLoad,
		Meaning: "Records of the ledger that cycles of this instance took.", Do: "",
	},
	{
		Name: "welfarehub_aggregate_groups_total", Kind: Counter, Where: inLoad,
		Meaning: "Groups that cycles computed again.", Do: "Many to a record: corrections that touch large groups.",
	},
	{
		Name: "welfarehub_aggregate_healed_facts_total", Kind: Counter, Where: inLoad,
		Meaning: "Facts that a block lacked and that were restored.", Do: "More than 0: an instance or ClickHouse was killed within an insert. Nothing to do.",
	},
	{
		Name: "welfarehub_aggregate_superseded_records_total", Kind: Counter, Where: inLoad,
		Meaning: "Events that lost against a copy in another partition.", Do: "A source sends one event to two partitions: look at its keys.",
	},
	{
		Name: "welfarehub_aggregate_erased_rows_total", Kind: Counter, Where: inLoad,
		Meaning: "Rows of erased subjects found.", Do: "",
	},
	{
		Name: "welfarehub_lag_records", Kind: Gauge, Labels: []string{"topic", "partition"}, Where: inServe,
		Meaning: "Offsets between the ledger and the end of the log, both asked for by this process itself: it grows also when no loader runs.",
		Do:      "See \"A partition lags\".",
	},
	{
		Name: "welfarehub_lag_seconds", Kind: Gauge, Labels: []string{"topic", "partition"}, Where: inServe,
		Meaning: "Age, by its timestamp, of the oldest record that is not in the ledger; 0 where there is none.",
		Do:      "See \"A partition lags\". A simulated past is as old as it says.",
	},
	{
		Name: "welfarehub_lag_aggregate_records", Kind: Gauge, Labels: []string{"topic", "partition"}, Where: inServe,
		Meaning: "Offsets that are in the ledger and not yet in `supply_demand`.", Do: "See \"A partition lags\".",
	},
	{
		Name: "welfarehub_source_silence_seconds", Kind: Gauge, Labels: []string{"source"}, Where: inServe,
		Meaning: "Time since the hub took the last event of a source. The sources with the most events are named, `--metrics-sources` of them; the most recent of the others is `other`.",
		Do:      "Ask the source; no alert is shipped, since each has its own rhythm.",
	},
	{
		Name: "welfarehub_watch_last_look_timestamp_seconds", Kind: Gauge, Labels: []string{"of"}, Where: inServe,
		Meaning: "When this process last read `kafka` (log ends), `ledger` (ClickHouse) and `sources` (ClickHouse). 0: not yet; without `--kafka-brokers` only `sources`. While it cannot, lag in seconds goes on growing and lag in records stands.",
		Do:      "Old: that part is away, or a right is missing.",
	},
}

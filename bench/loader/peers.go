//go:build linux

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// terms are the table and the settings that a peer has.
type terms struct {
	name     string
	ours     bool // the table of the hub, its settings and its blocks
	plain    int  // rows of a batch of the plain loader
	engine   int  // rows of a block of the Kafka engine
	onInsert int  // optimize_on_insert
}

// termsOf are the two sets of terms. block is the size of the hub's blocks.
func termsOf(block int) []terms {
	return []terms{
		{name: "our table and settings", ours: true, plain: block, engine: block},
		{name: "as users have it", plain: 100_000, engine: 1_048_576, onInsert: 1},
	}
}

// peerDatabase has the table of the peer that runs; its name is that of the storage table.
const (
	peerDatabase = "bench"
	peerTable    = peerDatabase + ".service_requested"
)

// createPeerTable makes the target of a peer anew: a copy of the hub's storage table without the columns of
// its protocol, or what most would declare: LowCardinality for codes, and ReplacingMergeTree against duplicates.
func (l *lab) createPeerTable(ctx context.Context, t *terms) error {
	statements := []string{"CREATE DATABASE IF NOT EXISTS bench", "DROP TABLE IF EXISTS " + peerTable + " SYNC"}
	if t.ours {
		drop, err := l.protocolColumns(ctx)
		if err != nil {
			return err
		}
		statements = append(statements, "CREATE TABLE "+peerTable+" AS store."+requested.Table, "ALTER TABLE "+peerTable+" DROP INDEX ends"+drop)
	} else {
		columns := []string{"_partition UInt32", "_offset UInt64", "_loaded_at DateTime64(3, 'UTC')"}
		for i := range requested.Fields {
			columns = append(columns, requested.Fields[i].Column+" "+userType(&requested.Fields[i]))
		}
		statements = append(statements, "CREATE TABLE "+peerTable+" ("+strings.Join(columns, ", ")+") ENGINE = ReplacingMergeTree ORDER BY (source, event_id)")
	}
	for _, s := range statements {
		if err := l.db.Exec(ctx, s); err != nil {
			return fmt.Errorf("make table of a peer: %w", err)
		}
	}
	return nil
}

// protocolColumns are the clauses that drop what only the hub's protocol needs.
func (l *lab) protocolColumns(ctx context.Context) (string, error) {
	var columns []struct {
		Name string `ch:"name"`
	}
	err := l.db.Select(ctx, &columns, "SELECT name FROM system.columns WHERE database = 'store' AND table = '"+requested.Table+
		"' AND startsWith(name, '_') AND name NOT IN ('_partition', '_offset', '_loaded_at') ORDER BY default_kind = 'MATERIALIZED' DESC")
	if err != nil {
		return "", fmt.Errorf("read columns of store: %w", err)
	}
	var b strings.Builder
	for _, c := range columns {
		b.WriteString(", DROP COLUMN " + c.Name)
	}
	return b.String(), nil
}

// userType is the type that most would declare for a field.
func userType(f *event.Field) string {
	t := map[event.Kind]string{
		event.UUID: "UUID", event.Enum: "LowCardinality(String)", event.Bool: "Bool", event.Int: "Int32", event.Long: "Int64", event.Timestamp: "DateTime64(3, 'UTC')",
	}[f.Kind]
	switch {
	case isPseudonym(f):
		t = "FixedString(64)"
	case f.Kind != event.String:
	case strings.HasSuffix(f.Name, "Id") || f.Name == "traceparent":
		t = "String"
	case f.Nullable:
		return "LowCardinality(Nullable(String))"
	default:
		t = "LowCardinality(String)"
	}
	if f.Nullable {
		return "Nullable(" + t + ")"
	}
	return t
}

// engineConsumers is the most that the engine allows: a thread each.
func engineConsumers(partitions int) int { return min(partitions, runtime.NumCPU()) }

// startKafkaEngine makes a table of ClickHouse's Kafka engine and the view that moves its rows. The view runs
// as user hub, whose profile has optimize_on_insert = 0, or with the settings that nobody changed.
func (l *lab) startKafkaEngine(ctx context.Context, t *terms, group string, partitions int) error {
	var columns, selects []string
	for i := range requested.Fields {
		f := &requested.Fields[i]
		typ := map[event.Kind]string{
			event.UUID: "UUID", event.Enum: "String", event.String: "String", event.Bool: "Bool", event.Int: "Int32", event.Long: "Int64", event.Timestamp: "DateTime64(3, 'UTC')",
		}[f.Kind]
		if f.Nullable {
			typ = "Nullable(" + typ + ")"
		}
		name := "`" + f.Path + "`"
		columns = append(columns, name+" "+typ)
		if isPseudonym(f) && t.ours {
			name = "unhex(" + name + ")"
		}
		selects = append(selects, name+" AS "+f.Column)
	}
	security := "SQL SECURITY NONE"
	if t.onInsert == 0 {
		security = "DEFINER = hub SQL SECURITY DEFINER"
	}
	for _, s := range []string{
		"CREATE TABLE bench.queue (" + strings.Join(columns, ", ") + ") ENGINE = Kafka SETTINGS kafka_broker_list = '" + l.cluster.Brokers[0] +
			"', kafka_topic_list = '" + requested.Topic + "', kafka_group_name = '" + group + "', kafka_format = 'AvroConfluent'" +
			", format_avro_schema_registry_url = '" + l.registry + "', kafka_thread_per_consumer = 1, kafka_poll_max_batch_size = 65536" +
			fmt.Sprintf(", kafka_num_consumers = %d, kafka_max_block_size = %d", engineConsumers(partitions), t.engine),
		"CREATE MATERIALIZED VIEW bench.mover TO " + peerTable + " " + security + " AS SELECT toUInt32(_partition) AS _partition, _offset, now64(3) AS _loaded_at, " +
			strings.Join(selects, ", ") + " FROM bench.queue",
	} {
		if err := l.db.Exec(ctx, s); err != nil {
			return fmt.Errorf("start the Kafka engine: %w", err)
		}
	}
	return nil
}

func (l *lab) stopKafkaEngine(ctx context.Context) error {
	for _, s := range []string{"DROP VIEW IF EXISTS bench.mover SYNC", "DROP TABLE IF EXISTS bench.queue SYNC"} {
		if err := l.db.Exec(ctx, s); err != nil {
			return fmt.Errorf("stop the Kafka engine: %w", err)
		}
	}
	return nil
}

// committed sums the offsets of a group: what it has loaded, where all partitions begin at 0.
func (l *lab) committed(ctx context.Context, group string, partitions int) (int, error) {
	all := make([]int, partitions)
	for p := range all {
		all[p] = p
	}
	res, err := l.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{requested.Topic: all}})
	if err != nil {
		return 0, fmt.Errorf("read offsets of group %s: %w", group, err)
	}
	n := 0
	for _, p := range res.Topics[requested.Topic] {
		n += int(max(p.CommittedOffset, 0))
	}
	return n, nil
}

// plainRow is a row of the target as a Go struct.
type plainRow struct {
	Partition          uint32    `ch:"_partition"`
	Offset             uint64    `ch:"_offset"`
	LoadedAt           time.Time `ch:"_loaded_at"`
	EventID            string    `ch:"event_id"`
	Source             string    `ch:"source"`
	SourceRecordID     string    `ch:"source_record_id"`
	RecordVersion      int64     `ch:"record_version"`
	OccurredAt         time.Time `ch:"occurred_at"`
	RecordedAt         time.Time `ch:"recorded_at"`
	OrgCode            string    `ch:"org_code"`
	LegalBasis         *string   `ch:"legal_basis"`
	Traceparent        *string   `ch:"traceparent"`
	Pseudonym          string    `ch:"pseudonym"`
	KeyEpoch           int32     `ch:"key_epoch"`
	HouseholdPseudonym *string   `ch:"household_pseudonym"`
	BirthYear          *int32    `ch:"birth_year"`
	Sex                string    `ch:"sex"`
	Citizenship        string    `ch:"citizenship"`
	ComuneCode         string    `ch:"comune_code"`
	IseeBand           string    `ch:"isee_band"`
	RequestID          string    `ch:"request_id"`
	NomenclatureCode   string    `ch:"nomenclature_code"`
	InpsCode           *string   `ch:"inps_code"`
	ServiceID          *string   `ch:"service_id"`
	UserArea           string    `ch:"user_area"`
	AtsCode            string    `ch:"ats_code"`
	Channel            string    `ch:"channel"`
	Urgent             bool      `ch:"urgent"`
	RequestedAt        time.Time `ch:"requested_at"`
}

func plainColumns() []string {
	columns := []string{"_partition", "_offset", "_loaded_at"}
	for i := range requested.Fields {
		columns = append(columns, requested.Fields[i].Column)
	}
	return columns
}

func plainRowOf(e *event.ServiceRequested, bytes bool) plainRow {
	h, s := &e.Header, &e.Subject
	r := plainRow{
		EventID: h.EventID, Source: h.Source, SourceRecordID: h.SourceRecordID, RecordVersion: h.RecordVersion,
		OccurredAt: h.OccurredAt, RecordedAt: h.RecordedAt, OrgCode: h.OrgCode, LegalBasis: h.LegalBasis, Traceparent: h.Traceparent,
		Pseudonym: s.Pseudonym, KeyEpoch: int32(s.KeyEpoch), HouseholdPseudonym: s.HouseholdPseudonym,
		Sex: string(s.Sex), Citizenship: string(s.Citizenship), ComuneCode: s.ComuneCode, IseeBand: string(s.IseeBand),
		RequestID: e.RequestID, NomenclatureCode: e.NomenclatureCode, InpsCode: e.InpsCode, ServiceID: e.ServiceID,
		UserArea: string(e.UserArea), AtsCode: e.AtsCode, Channel: string(e.Channel), Urgent: e.Urgent, RequestedAt: e.RequestedAt,
	}
	if s.BirthYear != nil {
		year := int32(*s.BirthYear)
		r.BirthYear = &year
	}
	if !bytes {
		return r
	}
	r.Pseudonym = unhex(r.Pseudonym)
	if r.HouseholdPseudonym != nil {
		household := unhex(*r.HouseholdPseudonym)
		r.HouseholdPseudonym = &household
	}
	return r
}

func unhex(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("BUG: the data set has a pseudonym that is none")
	}
	return string(b)
}

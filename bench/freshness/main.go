// Command freshness measures, against a running `welfarehub up`, how long an event takes from the call
// that publishes it until a planner's query of welfare.supply_demand counts it.
//
//	bin/welfarehub up --rate 500 --ready-file ready.json &
//	go run ./bench/freshness --ready-file ready.json
//
// Probes are requests of a person who lives abroad (comune 999999, counted as UNMAPPED) for a service that
// the simulator offers to no mixed area of users, so that nobody else moves their cell. They
// go one after the other to one partition, so that a count of n means that the first n are there.
// Latencies include the query that found them; its own cost is printed beside.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/pkg/registry"
)

func main() {
	ready := flag.String("ready-file", "ready.json", "the ready file of the hub to measure")
	probes := flag.Int("probes", 300, "events to publish")
	every := flag.Duration("every", 200*time.Millisecond, "time between two probes")
	patience := flag.Duration("patience", time.Minute, "give up when a probe is not counted after this long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, *ready, *probes, *every, *patience, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, readyFile string, probes int, every, patience time.Duration, out io.Writer) error {
	raw, err := os.ReadFile(readyFile)
	if err != nil {
		return fmt.Errorf("read ready file: %w", err)
	}
	var hub struct {
		Kafka    string `json:"kafka"`
		Registry string `json:"registry"`
		HTTP     string `json:"clickhouse_http"`
	}
	if err := json.Unmarshal(raw, &hub); err != nil {
		return fmt.Errorf("read ready file %s: %w", readyFile, err)
	}
	client, err := registry.NewClient(registry.ClientOptions{URL: hub.Registry})
	if err != nil {
		return err
	}
	topic := "welfare.demand.request"
	schema, err := client.Latest(ctx, topic+"-value")
	if err != nil {
		return err
	}
	cluster := kafka.Cluster{Brokers: []string{hub.Kafka}}
	transport := cluster.Transport()
	defer transport.CloseIdleConnections()
	writer := cluster.Writer(transport, 1<<20)
	writer.BatchTimeout = time.Millisecond
	defer writer.Close()

	base, _, err := count(ctx, hub.HTTP)
	if err != nil {
		return err
	}
	sent := make([]time.Time, 0, probes)
	var latencies, queries []time.Duration
	next := time.Now()
	for len(latencies) < probes {
		if len(sent) < probes && !time.Now().Before(next) {
			key, value, headers, err := probe(schema.ID)
			if err != nil {
				return err
			}
			m := kafkago.Message{Topic: topic, Key: key, Value: value}
			for _, h := range headers {
				m.Headers = append(m.Headers, kafkago.Header(h))
			}
			sent = append(sent, time.Now())
			if err := writer.WriteMessages(ctx, m); err != nil {
				return fmt.Errorf("publish probe %d: %w", len(sent), err)
			}
			next = next.Add(every)
		}
		n, took, err := count(ctx, hub.HTTP)
		if err != nil {
			return err
		}
		at := time.Now()
		queries = append(queries, took)
		for len(latencies) < n-base {
			latencies = append(latencies, at.Sub(sent[len(latencies)]))
		}
		if i := len(latencies); i < len(sent) && at.Sub(sent[i]) > patience {
			return fmt.Errorf("probe %d is not counted after %s", i+1, patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	slices.Sort(latencies)
	slices.Sort(queries)
	fmt.Fprintf(out, "publish to supply_demand, %d events: p50 %s, p90 %s, p99 %s, max %s\n", probes,
		quantile(latencies, .5), quantile(latencies, .9), quantile(latencies, .99), quantile(latencies, 1))
	fmt.Fprintf(out, "the query itself, %d times: p50 %s, p99 %s\n", len(queries), quantile(queries, .5), quantile(queries, .99))
	return nil
}

// quantile returns the smallest value that at least the share q of the sorted values does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	i := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(i, 1), len(sorted))-1].Round(time.Millisecond)
}

// count asks, as a planner, how many requests from abroad there are.
func count(ctx context.Context, base string) (n int, took time.Duration, err error) {
	const query = "SELECT sum(requests) FROM welfare.supply_demand WHERE level = 'COMUNE' AND territory_code = 'UNMAPPED' AND nomenclature_code = '1.SSP' AND user_area = 'MULTI'"
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/?user=planner", strings.NewReader(query))
	if err != nil {
		return 0, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, fmt.Errorf("query supply_demand: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, 0, fmt.Errorf("query supply_demand: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("query supply_demand: %s: %s", resp.Status, body)
	}
	n, err = strconv.Atoi(strings.TrimSpace(string(body)))
	return n, time.Since(began), err
}

// probe builds a request of today.
func probe(schemaID int) (key, value []byte, headers []event.Header, err error) {
	var t *event.Type
	for _, have := range event.Types {
		if have.Name == "ServiceRequested" {
			t = have
		}
	}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, nil, nil, err
	}
	id := hex.EncodeToString(random[:])
	now := time.Now().UTC().Add(-time.Second).Format("2006-01-02T15:04:05.000Z")
	row := event.NewRow(t)
	if err := event.ParseJSON(t, fmt.Appendf(nil, `{"header": {"eventId": "%s-%s-7%s-8%s-%s", "source": "urn:welfare:bench:freshness",
		"sourceRecordId": "%[6]s", "recordVersion": 1, "occurredAt": "%[7]s", "recordedAt": "%[7]s", "orgCode": "F205", "legalBasis": null, "traceparent": null},
		"subject": {"pseudonym": "%[6]s%[6]s", "keyEpoch": 1, "householdPseudonym": null, "birthYear": null, "sex": "UNKNOWN",
			"citizenship": "UNKNOWN", "comuneCode": "999999", "iseeBand": "UNKNOWN"},
		"requestId": "%[6]s", "nomenclatureCode": "1.SSP", "inpsCode": null, "serviceId": null, "userArea": "MULTI",
		"atsCode": "BENCH", "channel": "PUA", "urgent": false, "requestedAt": "%[7]s"}`,
		id[:8], id[8:12], id[13:16], id[17:20], id[20:], id, now), row); err != nil {
		return nil, nil, nil, fmt.Errorf("build probe: %w", err)
	}
	key, value, headers = event.Message(row, schemaID)
	return key, value, headers, nil
}

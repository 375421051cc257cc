package load

import (
	"errors"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/metrics"
	"github.com/welfarehub/welfarehub/pkg/metrics/metricstest"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// TestLoadIsMeasured loads a good event, a copy of it, and two bad ones, while the registry is away at first.
func TestLoadIsMeasured(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	w := newWorld(t, 2)
	reg := metrics.New("test")
	schemas := &hubtest.Schemas{}
	schemas.SetDown(true)
	l, stop := w.start(schemas, func(o *Options) { o.Metrics = reg.Load() })
	if err := l.Ready(t.Context()); !errors.Is(err, errNoMember) {
		t.Errorf("ready before it has joined: %v", err)
	}
	bad := hubtest.Valid(typ, 2)
	bad.Set(typ.MustField("comuneCode"), "x")
	good, broken := message(hubtest.Valid(typ, 1), 0), message(hubtest.Valid(typ, 3), 0)
	broken.Value = []byte("x")
	w.publish(good, good, message(bad, 0), broken)
	for end := time.Now().Add(30 * time.Second); metricstest.Values(t, reg)["welfarehub_load_retries_total decide"] == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no retry is counted while the registry is away")
		}
	}
	if err := l.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	schemas.SetDown(false)
	w.await(typ.Topic, 4)
	stop() // all that is stored is counted now
	v := metricstest.Values(t, reg)
	for name, want := range map[string]float64{
		"welfarehub_load_records_total loaded " + typ.Topic: 1, "welfarehub_load_records_total duplicate " + typ.Topic: 1,
		"welfarehub_load_records_total rejected " + typ.Topic: 2, "welfarehub_load_rejects_total E04 " + typ.Topic: 1,
		"welfarehub_load_rejects_total P02 " + typ.Topic: 1, "welfarehub_load_filter_ids " + typ.Topic: 1,
		"welfarehub_load_assigned_partitions": 0, "welfarehub_load_block_records": 4,
	} {
		if v[name] != want {
			t.Errorf("%s is %v, want %v", name, v[name], want)
		}
	}
	for _, name := range []string{"welfarehub_load_insert_duration_seconds", "welfarehub_load_decide_duration_seconds", "welfarehub_load_generations_total", "welfarehub_load_filter_bytes " + typ.Topic} {
		if v[name] <= 0 {
			t.Errorf("%s is %v", name, v[name])
		}
	}
	if err := l.Ready(t.Context()); !errors.Is(err, errNoMember) {
		t.Errorf("ready after its end: %v", err)
	}
}

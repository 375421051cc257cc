package replay

import (
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/welfarehub/welfarehub/consumers/load"
	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/testkit/hubtest"
)

// TestABlockWithoutRowsIsReplayed does what the runbook says of "A block has no rows": the books have a block whose rows
// are gone, its partition stands still; replay restores them, and the loader goes on where it is started again.
func TestABlockWithoutRowsIsReplayed(t *testing.T) {
	h := newHub(t, 1)
	typ := event.ByName("ServiceRequested")
	valid := func(n int) kafka.Message { return hubtest.Message(hubtest.Valid(typ, n), typ.No) }
	stop := h.load(nil)
	h.publish(valid(1), valid(2), valid(3))
	stop()
	before := h.checksums()

	h.exec("TRUNCATE TABLE store." + typ.Table)
	// As if the loader had been killed before it said that nothing is stored beyond its offset.
	res, err := h.client.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
		GroupID: h.group, GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{typ.Topic: {{Partition: 0, Offset: 3}}},
	})
	if err != nil || res.Topics[typ.Topic][0].Error != nil {
		t.Fatal(err, res)
	}
	core, logs := observer.New(zap.ErrorLevel)
	stop = h.load(func(o *load.Options) { o.Logger = zap.New(zapcore.NewTee(core, o.Logger.Core())) })
	for end := time.Now().Add(time.Minute); logs.FilterMessageSnippet("has no row of it").Len() == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the partition goes on without the rows of its block")
		}
	}
	stop()

	if r := h.replay(h.options(typ.Topic)); r.Restored != 3 || r.Read != 3 {
		t.Errorf("replayed %+v", r.Counts)
	}
	h.same("replayed", before)
	stop = h.load(nil)
	h.publish(valid(4), valid(1))
	stop()
	h.balanced("after all")
	if n := h.count("count() FROM store." + typ.Table + " WHERE _end = 'loaded'"); n != 4 {
		t.Errorf("%d events are stored, want 4", n)
	}
}

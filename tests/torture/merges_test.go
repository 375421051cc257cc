package torture

import "testing"

// TestNoMergeIsNeeded stops all merges of the engine before the first event, and still all is as it should be; and no view
// reads with FINAL.
func TestNoMergeIsNeeded(t *testing.T) {
	gated(t, true)
	runs(t, "no merge at all", rounds(), func(t *testing.T, r run) {
		w := newWorld(t, r, "", 2)
		if err := w.db.Conn().Exec(t.Context(), "SYSTEM STOP MERGES"); err != nil {
			t.Fatal(err)
		}
		n, err := w.number(`SELECT count() FROM system.tables WHERE database IN ('welfare', 'store') AND match(as_select, '\\bFINAL\\b')`)
		if err != nil || n != 0 {
			t.Errorf("%d views read with FINAL; %v", n, err)
		}
		w.publish(1200)
		w.killing(kills[4], 2, 0)
		w.finish(nil)
		for _, event := range []string{"MergeParts", "MergePartsStart"} {
			n, err := w.number("SELECT count() FROM system.part_log WHERE event_type = '" + event + "' AND database = 'store'")
			if err == nil && n > 0 {
				t.Errorf("%d merges", n)
			}
		}
	})
}

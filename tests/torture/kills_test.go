package torture

import (
	"fmt"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/testkit"
)

// kill is a moment at which loaders are killed.
type kill struct {
	name  string
	plans []string // of loaders in turn; %d is a small number, %s a short time
	later int      // passages of a plan that a loader should live through at most
	crowd bool     // a second loader comes and goes meanwhile
}

// kills are the steps of the loader's work, each with the points at which a loader dies there.
var kills = []kill{
	{name: "after fetch", plans: []string{"kill:after-fetch:%d"}},
	{name: "after decide", plans: []string{"kill:after-decide:%d"}},
	{name: "after claim", plans: []string{"kill:after-claim:%d"}},
	{name: "during insert", plans: []string{"kill:before-insert:%d+%s"}},
	{name: "after insert, before verify", plans: []string{"kill:after-insert:%d"}},
	{name: "after verify, before tell", plans: []string{"kill:after-verify:%d"}},
	{name: "during tell", plans: []string{"kill:before-tell:%d+%s"}},
	{name: "after tell, before settle", plans: []string{"kill:after-tell:%d"}},
	{name: "after settle", plans: []string{"kill:after-settle:%d"}},
	{name: "during take-over", plans: []string{
		"kill:after-insert:%d", "kill:after-tail:%d", "kill:after-heal:1", "kill:after-position:%d", "kill:after-refetch:1",
		"kill:before-heal:1+%s", "kill:after-restore:1", "kill:after-learn:%d", "kill:after-gather:%d",
	}, later: 6},
	{name: "during rebalance", plans: []string{"kill:before-generation:2", "kill:before-generation:2+%s", "kill:before-position:20+%s"}, crowd: true},
	{name: "during filter rebuild", plans: []string{"kill:during-rebuild:%d", "kill:before-learn:%d+%s"}},
	{name: "during aggregate refresh", plans: []string{
		"kill:aggregate-settle:%d", "kill:aggregate-erase:%d", "kill:aggregate-touch:%d", "kill:aggregate-insert:%d", "kill:aggregate-touch:%d+%s",
	}, later: 4},
	{name: "at any moment", plans: []string{"kill:before-position:1+%s"}},
}

// plan is a fault of a kill, chosen.
func (k kill) plan(r run, n int) string {
	text := k.plans[n%len(k.plans)]
	later := k.later
	if later == 0 {
		later = 8
	}
	short := r.duration(0, 12*time.Millisecond)
	if k.name == "at any moment" {
		short = r.duration(0, 1500*time.Millisecond)
	}
	switch {
	case count(text, "%d") > 0 && count(text, "%s") > 0:
		return fmt.Sprintf(text, r.between(1, later), short)
	case count(text, "%d") > 0:
		return fmt.Sprintf(text, r.between(1, later))
	case count(text, "%s") > 0:
		return fmt.Sprintf(text, short)
	}
	return text
}

func count(s, part string) (n int) {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			n++
		}
	}
	return n
}

// TestKills kills loaders at each step, again and again, and lets others go on. In the long run each step has its
// runs; in the short one there is one run through all of them.
func TestKills(t *testing.T) {
	if !long() {
		t.Run("short", func(t *testing.T) {
			gated(t, false)
			runs(t, "every step in turn", 1, func(t *testing.T, r run) {
				w := newWorld(t, r, "", 2)
				w.publish(1200)
				for n, at := range r.rnd.Perm(len(kills)) {
					if n == 6 {
						break
					}
					w.killing(kills[at], 1, r.between(0, 20))
				}
				w.finish(nil)
			})
		})
		return
	}
	const eachRun = 8
	perStep := max(1, (*killsWanted+len(kills)-1)/len(kills))
	for _, k := range kills {
		t.Run(k.name, func(t *testing.T) {
			gated(t, true)
			runs(t, k.name, (perStep+eachRun-1)/eachRun, func(t *testing.T, r run) {
				w := newWorld(t, r, "", r.between(1, 4))
				w.publish(1500)
				w.killing(k, eachRun, 0)
				w.finish(nil)
			})
		})
	}
}

// killing lets n loaders die of k, one or two at a time.
func (w *world) killing(k kill, n, from int) {
	w.t.Helper()
	dead := map[*process]bool{}
	for _, p := range w.loaders {
		dead[p] = !p.Alive()
	}
	aim := w.kills + n
	at, planned, fed := 1+w.r.rnd.IntN(2), from, time.Time{}
	for begin, last := time.Now(), time.Now(); w.kills < aim; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > patient {
			w.t.Fatalf("%s: %d kills in %s", k.name, n-(aim-w.kills), patient)
		}
		for _, p := range w.loaders {
			if p.Alive() || dead[p] {
				continue
			}
			dead[p] = true
			if !p.killed() {
				w.t.Fatalf("%s: a loader ended by itself: %v\n%s", k.name, p.Err(), testkit.LastLines(p.Out.String(), 5))
			}
			w.kills++
			begin, last = time.Now(), time.Now()
		}
		// A plan may never come: where nothing was left half done, there is nothing to heal.
		if living := w.living(); time.Since(last) > 15*time.Second && len(living) > 0 {
			living[0].Kill()
			last = time.Now()
		}
		// A crowd grows until one of it dies of a generation that is not its first.
		living := w.living()
		if k.crowd {
			at = 1
			if len(living) > 0 && living[len(living)-1].assigned() {
				at = min(len(living)+1, 4)
			}
		}
		for w.kills < aim && len(w.living()) < at {
			w.load(k.plan(w.r, planned))
			planned++
		}
		if time.Since(fed) > 500*time.Millisecond && w.read() == w.sent { // nothing left to die at
			w.publish(200)
			fed = time.Now()
		}
	}
	for _, p := range w.living() { // they have a plan that is not wanted any more
		p.Kill()
		dead[p] = true
	}
}

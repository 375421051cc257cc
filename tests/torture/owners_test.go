package torture

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// TestZombies stops a loader at each step, for longer than its session, while another one takes its partitions, and wakes
// it then.
func TestZombies(t *testing.T) {
	for _, point := range []string{"after-fetch", "after-decide", "after-claim", "after-insert", "after-verify", "after-tell"} {
		t.Run(point, func(t *testing.T) {
			gated(t, point != "after-claim")
			runs(t, "zombie, stopped "+point, rounds(), func(t *testing.T, r run) {
				w := newWorld(t, r, "", 2)
				for range killsOf(4) {
					for _, p := range w.living() { // of the round before: the zombie must have all partitions at first
						p.Kill()
						w.kills++
					}
					w.publish(600)
					zombie := w.load(fmt.Sprintf("stop:%s:%d", point, r.between(1, 12)))
					fed := time.Now()
					w.eventually("the loader stops", func() bool {
						if time.Since(fed) > time.Second && w.read() == w.sent {
							w.publish(200)
							fed = time.Now()
						}
						return zombie.stopped()
					})
					heir := w.load("")
					w.eventually("another takes over", heir.assigned)
					if r.rnd.IntN(2) == 0 {
						w.drainAll() // the zombie finds that all is done
					} else {
						w.more(r.between(1, 300))
						sleep(t, r.duration(0, session))
					}
					zombie.Signal(syscall.SIGCONT)
					if r.rnd.IntN(2) == 0 {
						heir.Kill()
						w.kills++
					}
					w.publish(100)
					w.more(50)
				}
				w.finish(nil)
			})
		})
	}
}

// drainAll waits until all is read.
func (w *world) drainAll() {
	w.t.Helper()
	w.eventually("all is read", func() bool { return w.read() == w.sent })
}

// TestScale goes from one loader to four and back to two while events come in.
func TestScale(t *testing.T) {
	gated(t, true)
	runs(t, "1, 4, 2 loaders", rounds(), func(t *testing.T, r run) {
		w := newWorld(t, r, "", 4)
		for _, n := range []int{1, 4, 2, 4, 1} {
			for len(w.living()) < n {
				w.load("")
			}
			for living := w.living(); len(living) > n; living = living[1:] {
				if r.rnd.IntN(2) == 0 {
					living[0].Kill()
					w.kills++
				} else if code := living[0].end(time.Minute); code != 0 {
					t.Errorf("a loader ends with exit code %d", code)
				}
			}
			for range 6 {
				w.publish(100)
				sleep(t, r.duration(0, 500*time.Millisecond))
			}
			w.more(100)
		}
		w.finish(nil)
	})
}

// TestClockSetBack gives one of two loaders another clock, up to two days back, while both decide on the same ids: the one
// with the right clock takes so long from the decision to the insert that the other's block is in the aggregates by then.
func TestClockSetBack(t *testing.T) {
	gated(t, true)
	runs(t, "clock set back", rounds(), func(t *testing.T, r run) {
		w := newWorld(t, r, "", 2)
		w.race(func() {
			for _, clock := range []string{"-48h", "-20m", "24h"} {
				slow := w.load("sleep:after-decide:1+1500ms")
				w.eventually("partitions are assigned", slow.assigned)
				quick := w.loadWith([]string{"HUB_CLOCK=" + clock})
				w.eventually("partitions are assigned", quick.assigned)
				w.eventually("each has some", func() bool { return !w.alone() })
				for range 3 {
					w.publishTwice(60)
					sleep(t, r.duration(500*time.Millisecond, 2*time.Second))
				}
				for _, p := range []*process{slow, quick} {
					p.Kill()
					w.kills++
				}
			}
		})
	})
}

package torture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/engine"
)

// TestGates puts a gate between the loader and ClickHouse, then Kafka, and breaks it in each way, for longer than the
// session of the loader, while events come in.
func TestGates(t *testing.T) {
	for _, to := range []string{"ClickHouse", "Kafka"} {
		for _, m := range []mode{refuse, reset, hang, slow, lose} {
			name := fmt.Sprintf("%s %s", to, modeNames[m])
			t.Run(name, func(t *testing.T) {
				gated(t, m != lose)
				runs(t, name, rounds(), func(t *testing.T, r run) {
					w := newWorld(t, r, "", 2)
					var g *gate
					if to == "Kafka" {
						g = newGate(t, r, w.kafka.Addr, true)
						w.kafkaAt = g.addr
					} else {
						dsn, err := url.Parse(w.dsn)
						if err != nil {
							t.Fatal(err)
						}
						g = newGate(t, r, dsn.Host, false)
						dsn.Host = g.addr
						w.storeAt = dsn.String()
					}
					w.load("")
					if r.rnd.IntN(2) == 0 {
						w.load("")
					}
					for range min(r.between(1, 3), killsOf(3)) {
						w.publish(500)
						w.more(r.between(1, 300))
						g.set(m)
						w.publish(300)
						sleep(t, r.duration(100*time.Millisecond, 2*outage))
						g.set(pass)
						if len(w.living()) == 0 {
							t.Fatal("the loaders did not wait for the end of the outage")
						}
					}
					w.finish(nil)
					if m == lose {
						w.t.Logf("%d replies were lost", g.lost)
						if g.lost == 0 {
							t.Error("no reply was lost")
						}
					}
				})
			})
		}
	}
}

// TestReplyLostAndLoaderKilled loses the reply to an insert that was done, and kills the loader that waits for it.
func TestReplyLostAndLoaderKilled(t *testing.T) {
	gated(t, true)
	const fault = "insert applied, reply lost, killed"
	runs(t, fault, rounds(), func(t *testing.T, r run) {
		w := newWorld(t, r, "", 2)
		dsn, err := url.Parse(w.dsn)
		if err != nil {
			t.Fatal(err)
		}
		g := newGate(t, r, dsn.Host, false)
		dsn.Host = g.addr
		w.storeAt = dsn.String()
		w.publish(1500)
		for w.kills < killsOf(7) {
			p := w.load("")
			w.eventually("partitions are assigned", p.assigned)
			lost := g.replies()
			g.set(lose)
			w.eventually("a reply is lost", func() bool {
				if w.read() == w.sent {
					w.publish(200)
				}
				return g.replies() > lost
			})
			p.Kill()
			g.set(pass)
			w.kills++
		}
		w.finish(nil)
	})
}

func (g *gate) replies() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lost
}

// rounds is how many runs a fault has that is not a kill of its own.
func rounds() int {
	if long() {
		return *roundsWanted
	}
	return 1
}

// killsOf is n in the long run, and 1 in the short one.
func killsOf(n int) int {
	if long() {
		return n
	}
	return 1
}

func sleep(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// TestServersKilled kills the broker, the engine, and all of it at once, under loaders at work.
func TestServersKilled(t *testing.T) {
	for _, what := range []string{"broker killed", "engine killed", "everything killed at once"} {
		t.Run(what, func(t *testing.T) {
			gated(t, what != "everything killed at once")
			runs(t, what, rounds(), func(t *testing.T, r run) {
				w := newWorld(t, r, "", 2)
				for range killsOf(6) {
					w.publish(400)
					for len(w.living()) < r.between(1, 2) {
						w.load("")
					}
					w.more(r.between(1, 200))
					if what == "everything killed at once" {
						for _, p := range w.living() {
							p.Kill()
							w.kills++
						}
					}
					if what != "engine killed" {
						w.kafka.Kill(t)
						w.kills++
					}
					if what != "broker killed" {
						w.engine.Kill(t)
						w.kills++
					}
					sleep(t, r.duration(0, outage))
					if what != "engine killed" {
						w.kafka.Start(t)
					}
					w.engine.Start(t)
				}
				w.finish(nil)
			})
		})
	}
}

// TestDiskFull gives the engine a small disk and fills it while events are loaded.
func TestDiskFull(t *testing.T) {
	gated(t, false)
	runs(t, "disk full", rounds(), func(t *testing.T, r run) {
		for range 4 {
			broken := fullDisk(t, r)
			if broken == "" {
				return
			}
			t.Logf("the engine broke %s when its disk was full, which nothing can be shown on (docs/guarantees.md): once more", broken)
		}
		t.Error("the engine broke parts four times")
	})
}

// fullDisk loads on a disk that comes to be full, and is given space again. It returns a part that the engine
// itself broke meanwhile: then there is nothing to compare.
func fullDisk(t *testing.T, r run) (broken string) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=400m"); err != nil {
		if os.Getenv("WELFAREHUB_E2E") == "1" && os.Getuid() == 0 {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("a small disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	e, err := engine.Start(t.Context(), engine.Options{DataDir: disk, MinFreeDisk: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.Stop(ctx) // says that it killed it
	})
	w := newWorld(t, r, e.DSN(), 2)
	w.publish(800)
	p := w.load("")
	w.more(r.between(1, 400))
	full := filepath.Join(disk, "filler")
	fill(t, full)
	w.publish(800)
	stuck := 0
	w.eventually("the loader cannot store", func() bool {
		fill(t, full) // merges give space back
		before := stuck
		stuck = failures(p)
		return stuck > before && before > 0
	})
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Fatal("the loader did not wait for space")
	}
	if broken := emptyMarks(t, disk); broken != "" {
		p.end(time.Minute)
		return broken
	}
	w.note = fmt.Sprintf("%d inserts failed", failures(p))
	w.finish(nil)
	return ""
}

// emptyMarks finds a part in place, with rows, whose file of marks is empty.
func emptyMarks(t *testing.T, dir string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was of no part in place
		}
		ext, part := filepath.Ext(path), filepath.Base(filepath.Dir(path))
		if err != nil || found != "" || strings.HasPrefix(part, "tmp") || strings.HasPrefix(part, "delete_tmp") ||
			!strings.HasPrefix(ext, ".cmrk") && !strings.HasPrefix(ext, ".mrk") {
			return err
		}
		marks, err := os.ReadFile(path)
		if err != nil || len(marks) > 0 {
			return ignoreGone(err)
		}
		rows, err := os.ReadFile(filepath.Join(filepath.Dir(path), "count.txt"))
		if err == nil && string(rows) != "0" {
			found = part
		}
		return ignoreGone(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// failures is how many inserts of a loader failed.
func failures(p *process) int { return count(p.Out.String(), `"insert failed, trying again"`) }

// fill writes to a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 1<<20); len(b) > 0; {
		if _, err := f.Write(b); err != nil {
			b = b[:len(b)/2]
		}
	}
}

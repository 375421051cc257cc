//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func cores() int { return runtime.NumCPU() }

// median returns the middle of the values, and the least and the most.
func median(values []float64) (mid, least, most float64) {
	s := slices.Sorted(slices.Values(values))
	mid = s[len(s)/2]
	if len(s)%2 == 0 {
		mid = (s[len(s)/2-1] + mid) / 2
	}
	return mid, s[0], s[len(s)-1]
}

// spread is a median with its range, in the given format.
func spread(format string, values []float64) string {
	mid, least, most := median(values)
	if len(values) == 1 {
		return fmt.Sprintf(format, mid)
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", mid, least, most)
}

// group is the runs of one contestant under the same conditions.
type group struct {
	contestant, terms, share string
	runs                     []result
}

// grouped keeps the order in which they came first.
func grouped(results []result) []group {
	var out []group
	for _, r := range results {
		i := slices.IndexFunc(out, func(g group) bool { return g.contestant == r.contestant && g.terms == r.terms && g.share == r.share })
		if i < 0 {
			out = append(out, group{r.contestant, r.terms, r.share, nil})
			i = len(out) - 1
		}
		out[i].runs = append(out[i].runs, r)
	}
	return out
}

func (g *group) of(value func(*result) float64) []float64 {
	out := make([]float64, len(g.runs))
	for i := range g.runs {
		out[i] = value(&g.runs[i])
	}
	return out
}

func (g *group) mid(value func(*result) float64) float64 {
	mid, _, _ := median(g.of(value))
	return mid
}

const mb = 1 << 20

// table is one row for each group.
func table(results []result) string {
	var b strings.Builder
	b.WriteString("| contestant | on | with | runs | records | thousand/s to the last insert | from the first insert on | merges settled | CPU-s per million: loader | engine, to ack | settled | broker | peak MB: loader | engine | first insert s | busy cores before |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, g := range grouped(results) {
		per := func(d func(*result) time.Duration) string {
			return fmt.Sprintf("%.2f", g.mid(func(r *result) float64 { return r.perMillion(d(r)) }))
		}
		_, _, busy := median(g.of(func(r *result) float64 { return r.busy }))
		warn := ""
		if busy > 0.5 {
			warn = " **!**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %s | %.0f | %.0f | %s | %s | %s | %s | %.0f | %.0f | %.2f | %.2f%s |\n", g.contestant, g.terms, g.share, len(g.runs), g.runs[0].records,
			spread("%.0f", g.of(func(r *result) float64 { return r.rate() / 1000 })),
			g.mid(func(r *result) float64 { return r.running() / 1000 }),
			g.mid(func(r *result) float64 { return float64(r.records) / r.settled.Seconds() / 1000 }),
			per(func(r *result) time.Duration { return r.cpu.loader }), per(func(r *result) time.Duration { return r.cpu.engine }),
			per(func(r *result) time.Duration { return r.afterwards }), per(func(r *result) time.Duration { return r.cpu.broker }),
			g.mid(func(r *result) float64 { return float64(r.peak) / mb }), g.mid(func(r *result) float64 { return float64(r.enginePeak) / mb }),
			g.mid(func(r *result) float64 { return r.first.Seconds() }), busy, warn)
	}
	return b.String()
}

// targets are how many times faster than each peer ours is meant to be, by terms.
var targets = map[string]map[bool]float64{ // by peer, and whether it has our table
	kindPlain:       {true: 4, false: 9},
	kindKafkaEngine: {true: 5, false: 12},
}

// ratios compares ours with the peers.
func ratios(results []result, all []terms) string {
	var b strings.Builder
	b.WriteString("\n| duplicates | peer | on | ours is faster by | target |\n|---|---|---|---|---|\n")
	groups := grouped(results)
	rate := func(r *result) float64 { return r.rate() }
	for _, g := range groups {
		goal, isPeer := targets[g.contestant]
		ours := slices.IndexFunc(groups, func(o group) bool { return o.contestant == kindOurs && o.share == g.share })
		if !isPeer || ours < 0 {
			continue
		}
		same := g.terms == all[0].name
		times := groups[ours].mid(rate) / g.mid(rate)
		verdict := "met"
		if times < goal[same] {
			verdict = "**missed**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.1f | %.0f, %s |\n", g.share, g.contestant, g.terms, times, goal[same], verdict)
	}
	return b.String()
}

// conditions say on what, of what and when was measured.
func (l *lab) conditions(ctx context.Context, o *options, began time.Time) (string, error) {
	var version string
	if err := l.db.Scan(ctx, "SELECT version()", nil, &version); err != nil {
		return "", fmt.Errorf("ask for the engine's version: %w", err)
	}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo") // an unknown model is left out
	_, model, _ := strings.Cut(string(cpuinfo), "model name")
	model, _, _ = strings.Cut(strings.TrimLeft(model, "\t :"), "\n")
	meminfo, _ := os.ReadFile("/proc/meminfo") // as above
	var kB float64
	_, _ = fmt.Sscanf(string(meminfo), "MemTotal: %f kB", &kB) // as above
	load, _ := os.ReadFile("/proc/loadavg")                    // as above
	kafka := "unknown"
	if found, _ := filepath.Glob(".cache/kafka/lib/kafka_2.13-*.jar"); len(found) > 0 { // a malformed pattern only
		kafka = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), "kafka_2.13-"), ".jar")
	}
	return fmt.Sprintf("%d cores of %s, %.0f GB, broker, engine and contestants together. %s, %s, engine %s, Kafka %s. Seed %d. %s to %s UTC, load average at the end %.14s.\n",
		cores(), model, kB/(1<<20), o.commit, runtime.Version(), version, kafka, o.seed,
		began.UTC().Format("2006-01-02 15:04"), time.Now().UTC().Format("15:04"), load), nil
}

// commitNow is the commit of the work tree, before results are written into it.
func commitNow(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown commit"
	}
	return strings.TrimSpace(string(out))
}

// write prints an answer, appends it to the file of results, and puts it between its markers.
func (o *options) write(name, text string) error {
	fmt.Println(text)
	if o.out != "" {
		f, err := os.OpenFile(o.out, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("write results: %w", err)
		}
		if _, err := fmt.Fprintln(f, text); err != nil {
			f.Close()
			return fmt.Errorf("write results: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	if o.results == "" {
		return nil
	}
	raw, err := os.ReadFile(o.results)
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	if err := os.WriteFile(o.results, splice(raw, name, text), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// splice puts text between the markers of name, which it adds at the end where they are missing.
func splice(raw []byte, name, text string) []byte {
	begin, end := "<!-- bench "+name+" -->\n", "<!-- end of bench "+name+" -->\n"
	section := begin + text + end
	before, rest, found := bytes.Cut(raw, []byte(begin))
	_, after, closed := bytes.Cut(rest, []byte(end))
	if !found || !closed {
		return append(bytes.TrimRight(raw, "\n"), "\n\n"+section...)
	}
	return slices.Concat(before, []byte(section), after)
}

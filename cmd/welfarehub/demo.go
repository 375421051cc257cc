package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/welfarehub/welfarehub/producers/publish"
	"github.com/welfarehub/welfarehub/producers/simulate"
	"github.com/welfarehub/welfarehub/schemas"
)

// demoState is what the demo has published so far, kept in the data folder so that the next up goes on.
type demoState struct {
	Population bool `json:"population"` // the ISTAT file
	History    bool `json:"history"`
	Runs       int  `json:"runs"` // each run of the live simulator has a seed of its own
}

// demoFile is its name.
const demoFile = "demo.json"

// historySpan is the simulated past of the demo.
const historySpan = 365 * 24 * time.Hour

// startDemo publishes population and history, once, then live traffic until the stop.
func (h *hub) startDemo(ctx context.Context) error {
	path := filepath.Join(h.f.data, demoFile)
	var st demoState
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read the demo's state: %w", err)
	default:
		if err := json.Unmarshal(raw, &st); err != nil {
			return fmt.Errorf("read the demo's state %s: %w; remove it to begin the demo anew", path, err)
		}
	}
	save := func() error {
		raw, err := json.Marshal(st)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".tmp", raw, 0o600); err != nil {
			return fmt.Errorf("write the demo's state: %w", err)
		}
		return os.Rename(path+".tmp", path)
	}
	if !st.Population {
		if err := h.step(ctx, "ISTAT population", h.publishPopulation); err != nil {
			return err
		}
		st.Population = true
		if err := save(); err != nil {
			return err
		}
	}
	now := time.Now()
	if !st.History && h.f.history > 0 {
		// The past has a seed of its own: were it cut short, it is published again and ends as duplicates.
		cfg := h.f.sim.config()
		cfg.Count, cfg.Start, cfg.Step = h.f.history, now.Add(-historySpan).Truncate(24*time.Hour), historySpan/time.Duration(h.f.history)
		if err := h.step(ctx, "simulated past", func(ctx context.Context) error { return h.simulate(ctx, simulate.New(h.withIDs(cfg))) }); err != nil {
			return err
		}
		st.History = true
	}
	st.Runs++
	if err := save(); err != nil {
		return err
	}
	if h.f.rate <= 0 {
		return nil
	}
	cfg := h.f.sim.config()
	cfg.Seed += uint64(st.Runs) << 32
	cfg.Start = time.Now()
	sim := simulate.New(h.withIDs(cfg))
	h.background("simulated traffic", func(ctx context.Context) error { return h.simulateLive(ctx, sim) })
	return nil
}

func (h *hub) withIDs(cfg simulate.Config) simulate.Config {
	cfg.SchemaIDs, cfg.MaxValue = topicIDs(h.schemaIDs), h.f.load.maxValueBytes
	return cfg
}

// simulate sends all messages of a simulator of limited length, as fast as they go.
func (h *hub) simulate(ctx context.Context, sim *simulate.Simulator) error {
	if err := h.send(ctx, sim, simulate.Pace{}); err != nil {
		return err
	}
	return ctx.Err()
}

// simulateLive sends messages at --rate, their clock the wall's, until ctx ends.
func (h *hub) simulateLive(ctx context.Context, sim *simulate.Simulator) error {
	return h.send(ctx, sim, simulate.Pace{PerSecond: h.f.rate, Clock: time.Now})
}

func (h *hub) send(ctx context.Context, sim *simulate.Simulator, pace simulate.Pace) error {
	tr := h.cluster.Transport()
	defer tr.CloseIdleConnections()
	w := h.cluster.Writer(tr, brokerMessageBytes)
	defer w.Close()
	_, err := simulate.Run(ctx, sim, simulate.NewKafkaSink(w, false), pace)
	return err
}

// publishPopulation sends the ISTAT file through the ordinary publisher.
func (h *hub) publishPopulation(ctx context.Context) error {
	raw, err := schemas.Codes.ReadFile("codes/comuni.csv")
	if err != nil {
		return err
	}
	var first *publish.Problem
	_, err = publish.Run(ctx, publish.Options{
		Files: []string{"-"}, Stdin: bytes.NewReader(raw), Format: publish.CSV, Mapping: "istat_population",
		Cluster: h.cluster, SchemaID: schemaID(h.client), Check: newChecker(),
		OnProblem: func(p publish.Problem) {
			if first == nil {
				first = &p
			}
		},
	})
	if err != nil && first != nil {
		return fmt.Errorf("%w; first problem: %s", err, first)
	}
	return err
}

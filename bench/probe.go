package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"
)

// probes are what can be measured, by name.
var probes = map[string]func(*probe) error{
	"bare-post":     barePost,
	"bare-insert32": bareInsert32,
	"send-64":       send64,
	"send-1":        send1,
	"drain":         drain,
	"one":           oneEvent,

	"send-and-deliver": sendAndDeliver,
	"retries":          retriesAtOnce,
	"drain-10000":      drainDepth(10_000),
	"drain-1000000":    drainDepth(1_000_000),
	"drain-beside":     drainBeside,
	"drain-zipf":       drainZipf,
	"divert":           divert,
	"memory":           memory,
	"idle":             idle,
	"lists":            lists,
	"alone-50":         hanging(50, 0),
	"hang-50":          hanging(50, 50),
	"alone-5":          hanging(5, 0),
	"hang-95":          hanging(5, 95),
	"flooded":          flooded,
	"unsuspend":        unsuspended,

	"river-insert-1":   riverInsert(riverOnSQLite, 1),
	"river-insert-64":  riverInsert(riverOnSQLite, 64),
	"river-insert-100": riverInsert100,
	"river-work":       riverPosts(riverOnSQLite),
	"river-late":       riverLate,
	"goqite-send":      goqiteSend,
	"goqite-work":      goqiteWork,
	"goqite-late":      goqiteLate,
	"backlite-add":     backliteAdd,
	"backlite-work":    backliteWork,

	"pg-send-64":       withPostgres(send64),
	"pg-drain":         withPostgres(drain),
	"pg-drain-2":       withPostgres(drainBy(2)),
	"pg-drain-4":       withPostgres(drainBy(4)),
	"pg-drain-10000":   withPostgres(drainDepth(10_000)),
	"pg-drain-1000000": withPostgres(drainDepth(1_000_000)),

	"pg-river-insert-64": withPostgres(riverInsert(riverOnPostgres, 64)),
	"pg-river-work":      withPostgres(riverPosts(riverOnPostgres)),
}

// probe is a measurement under way, in a process of its own.
type probe struct {
	ctx     context.Context
	scale   float64
	dir     string // its own, empty at the beginning
	profile string
	figures map[string]float64
	// postgres is the URL of the database that the store is in. Empty: it is in SQLite.
	postgres string
}

// exitSkipped is the exit status of a probe that finds no server.
const exitSkipped = 3

func mainProbe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("probe", flag.ExitOnError)
	p := &probe{ctx: ctx, figures: map[string]float64{}}
	name := flags.String("name", "", "")
	flags.Float64Var(&p.scale, "scale", 1, "")
	flags.StringVar(&p.dir, "dir", "", "")
	flags.StringVar(&p.profile, "cpuprofile", "", "")
	flags.Parse(args)
	measure, ok := probes[*name]
	if !ok {
		return fmt.Errorf("there is no probe %q", *name)
	}
	switch err := measure(p); {
	case errors.Is(err, errNoServer):
		os.Exit(exitSkipped)
	case err != nil:
		return fmt.Errorf("%s: %w", *name, err)
	}
	return json.NewEncoder(os.Stdout).Encode(p.figures)
}

// set notes a figure.
func (p *probe) set(name string, value float64) { p.figures[name] = value }

// setTimes notes the median and the 99th percentile of durations, in milliseconds.
func (p *probe) setTimes(times []time.Duration) {
	p.set("p50", percentile(times, 50))
	p.set("p99", percentile(times, 99))
}

// percentile returns a percentile of durations, in milliseconds. It sorts them.
func percentile(times []time.Duration, percent int) float64 {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return float64(times[min(len(times)*percent/100, len(times)-1)]) / float64(time.Millisecond)
}

// count scales a number of events.
func (p *probe) count(full int) int { return max(int(float64(full)*p.scale), 200) }

// path returns a path in the probe's directory.
func (p *probe) path(name string) string { return filepath.Join(p.dir, name) }

// timed runs what is measured, and nothing else: what was prepared for it is collected before, and a
// profile, if one is asked for, covers it alone.
func (p *probe) timed(f func() error) (time.Duration, error) {
	runtime.GC()
	if p.profile != "" {
		file, err := os.Create(p.profile)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return 0, err
		}
		defer pprof.StopCPUProfile()
	}
	began := time.Now()
	err := f()
	return time.Since(began), err
}

// rate measures how many of n things a second f does, and notes it, with the processor time that this
// process spends on each, in microseconds: that hardly depends on what else the machine does.
func (p *probe) rate(n int, f func() error) error { return p.rateOf("rate", n, f) }

func (p *probe) rateOf(name string, n int, f func() error) error {
	before, err := cpuTime()
	if err != nil {
		return err
	}
	elapsed, err := p.timed(f)
	if err != nil {
		return err
	}
	after, err := cpuTime()
	p.set(name, float64(n)/elapsed.Seconds())
	p.set("cpu", float64((after-before).Microseconds())/float64(n))
	return err
}

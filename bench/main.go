// Command bench measures this library, the bare loops that are its limit, and its peers, in one run on
// one machine, and says which aims are met.
//
//	cd bench && go run . [-rows 1,3,6] [-runs 3] [-scale 0.1] [-out DIR] [-cpuprofile FILE]
//
// What it measures, and how, is told in docs/performance.md. Each measurement is a probe: it runs in a
// process of its own, which starts with an empty directory and has nothing left from the one before.
// Within a run the probes that are compared with each other follow each other, and a ratio is the median
// of those of the runs, so that a machine whose speed drifts changes figures more than ratios.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	role, args := "", os.Args[1:]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		role, args = args[0], args[1:]
	}
	var err error
	switch role {
	case "":
		err = mainRun(ctx, args)
	case "probe": // started by the run
		err = mainProbe(ctx, args)
	case "receiver": // started by a probe
		err = mainReceiver()
	case "dispatch": // started by a probe
		err = mainDispatch(ctx, args)
	case "load": // started by a probe
		err = mainLoad(ctx, args)
	default:
		err = fmt.Errorf("there is no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func mainRun(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	var r run
	chosen := flags.String("rows", "", "the rows to measure, such as 1,3,6; empty: all")
	out := flags.String("out", "", "write performance.csv, performance.svg and performance-table.md into this directory")
	flags.IntVar(&r.runs, "runs", 3, "how often each row is measured")
	flags.Float64Var(&r.scale, "scale", 1, "scales how much each row measures; aims hold for 1")
	flags.StringVar(&r.dir, "dir", ".", "where databases are made, for as long as they are measured; not a tmpfs")
	flags.StringVar(&r.profile, "cpuprofile", "", "write CPU profiles of what is under test, one a probe: cpu.prof gives cpu-drain-1.prof")
	flags.Parse(args)
	if flags.NArg() > 0 || r.runs < 1 || r.scale <= 0 {
		flags.Usage()
		os.Exit(2)
	}
	var rows []int
	for s := range strings.SplitSeq(*chosen, ",") {
		if s == "" {
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("-rows: %q is not a number", s)
		}
		rows = append(rows, n)
	}
	var probes []string
	r.aims, r.references, probes = selected(rows)
	if err := r.measure(ctx, probes); err != nil {
		return err
	}
	if err := r.report(os.Stdout, *out); err != nil {
		return err
	}
	if n := r.faults(); n > 0 {
		return fmt.Errorf("%d probes failed", n)
	}
	return nil
}

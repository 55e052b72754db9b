package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/divertedevents/diverted"
)

// memory compares the process of an idle dispatcher on a store with a million pending deliveries, which a
// suspended webhook holds, with that on an empty one.
func memory(p *probe) error {
	idle := func(name string) (map[string]float64, error) {
		cmd, err := self(p.ctx, "probe", "-name", "idle", "-scale", fmt.Sprint(p.scale), "-dir", p.path(name))
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil {
			return nil, err
		}
		var figures map[string]float64
		return figures, json.Unmarshal(out.Bytes(), &figures)
	}
	fill := func(name string, n int) error {
		dir := p.path(name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		o, err := openOurs(&probe{ctx: p.ctx, dir: dir}, diverted.Observer{})
		if err != nil {
			return err
		}
		defer o.store.Close()
		if err := o.addWebhooks(p.ctx, 1, "http://127.0.0.1:9/", nil); err != nil {
			return err
		}
		if err := o.store.Suspend(p.ctx, o.webhooks[0].Key()); err != nil {
			return err
		}
		return o.fill(p.ctx, 0, n, func(int) int { return 0 })
	}
	var figures [2]map[string]float64
	for i, n := range []int{0, p.count(1_000_000)} {
		name := fmt.Sprintf("pending-%d", n)
		if err := fill(name, n); err != nil {
			return err
		}
		var err error
		if figures[i], err = idle(name); err != nil {
			return err
		}
	}
	p.set("empty", figures[0]["resident"])
	p.set("full", figures[1]["resident"])
	p.set("over", figures[1]["resident"]-figures[0]["resident"])
	p.set("cpu", figures[1]["cpu"])
	return nil
}

// idle runs a dispatcher on a store that is there already, lets it come to rest, and reads what the process
// holds, in MiB, and what it uses of a core, in percent.
func idle(p *probe) error {
	o, err := openOurs(p, diverted.Observer{})
	if err != nil {
		return err
	}
	defer o.store.Close()
	stop := o.run(p.ctx)
	time.Sleep(3 * time.Second)
	before, err := cpuTime()
	if err != nil {
		return err
	}
	began := time.Now()
	time.Sleep(max(time.Duration(20*min(p.scale, 1)*float64(time.Second)), 2*time.Second))
	after, err := cpuTime()
	if err != nil {
		return err
	}
	p.set("cpu", 100*float64(after-before)/float64(time.Since(began)))
	resident, err := residentMiB()
	if err != nil {
		return err
	}
	p.set("resident", resident)
	return stop()
}

// cpuTime returns what this process has used of the CPU.
func cpuTime() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// residentMiB returns the resident set of this process, as Linux tells it.
func residentMiB() (float64, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident float64
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		return 0, err
	}
	return resident * float64(os.Getpagesize()) / (1 << 20), nil
}

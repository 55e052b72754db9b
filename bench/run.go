package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// run measures the probes of some aims, a number of times.
type run struct {
	aims       []aim
	references []reference
	runs       int
	scale      float64
	dir        string
	profile    string

	results  map[figure][]float64 // one for each run
	failures map[string]error     // by probe
}

// probeTimeout bounds a probe, so that one that hangs does not hold up the others.
const probeTimeout = 10 * time.Minute

// measure runs each probe once a run.
func (r *run) measure(ctx context.Context, names []string) error {
	r.results, r.failures = map[figure][]float64{}, map[string]error{}
	for i := range r.runs {
		for _, name := range names {
			if r.failures[name] != nil {
				continue
			}
			began := time.Now()
			figures, err := r.probe(ctx, name, i+1)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				r.failures[name] = err
				if err != errNoServer {
					err = fmt.Errorf("failed: %w", err)
				}
				fmt.Fprintf(os.Stderr, "run %d  %-16s %v\n", i+1, name, err)
				continue
			}
			var shown []string
			for key, value := range figures {
				r.results[figure{name, key}] = append(r.results[figure{name, key}], value)
				shown = append(shown, fmt.Sprintf("%s %.4g", key, value))
			}
			slices.Sort(shown)
			fmt.Fprintf(os.Stderr, "run %d  %-16s %s  (%.1fs)\n", i+1, name, strings.Join(shown, ", "), time.Since(began).Seconds())
		}
	}
	return nil
}

// probe runs one probe in a process and a directory of its own, and returns its figures.
func (r *run) probe(ctx context.Context, name string, run int) (map[string]float64, error) {
	dir, err := os.MkdirTemp(r.dir, "tmp-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	args := []string{"probe", "-name", name, "-scale", fmt.Sprint(r.scale), "-dir", dir}
	if r.profile != "" {
		stem, ext := r.profile, ""
		if i := strings.LastIndex(stem, "."); i > 0 {
			stem, ext = stem[:i], stem[i:]
		}
		args = append(args, "-cpuprofile", stem+"-"+name+"-"+strconv.Itoa(run)+ext)
	}
	cmd, err := self(ctx, args...)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitSkipped {
			return nil, errNoServer
		}
		return nil, err
	}
	var figures map[string]float64
	if err := json.Unmarshal(out.Bytes(), &figures); err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	return figures, nil
}

// faults is how many probes failed. Those that were skipped did not.
func (r *run) faults() (n int) {
	for _, err := range r.failures {
		if err != errNoServer {
			n++
		}
	}
	return n
}

// self returns this program in another role.
func self(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// startRole starts this program in another role, with pipes to it and from it.
func startRole(ctx context.Context, args ...string) (cmd *exec.Cmd, stdin io.WriteCloser, stdout io.Reader, err error) {
	if cmd, err = self(ctx, args...); err != nil {
		return nil, nil, nil, err
	}
	if stdin, err = cmd.StdinPipe(); err != nil {
		return nil, nil, nil, err
	}
	if stdout, err = cmd.StdoutPipe(); err != nil {
		return nil, nil, nil, err
	}
	return cmd, stdin, stdout, cmd.Start()
}

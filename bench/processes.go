package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/divertedevents/diverted"
)

// drainBy is drain with the dispatchers of several processes.
func drainBy(processes int) func(*probe) error {
	return func(p *probe) error {
		r, err := startReceiver(p.ctx)
		if err != nil {
			return err
		}
		defer r.stop()
		o, err := openOurs(p, diverted.Observer{})
		if err != nil {
			return err
		}
		defer o.store.Close()
		if err := o.addWebhooks(p.ctx, 10, r.url+pathOK, nil); err != nil {
			return err
		}
		n := p.count(100_000)
		if err := o.fill(p.ctx, 0, n, func(i int) int { return i % 10 }); err != nil {
			return err
		}
		settled := newCountdown(n)
		var all []*dispatching
		defer func() {
			for _, d := range all {
				d.stop()
			}
		}()
		for range processes {
			d, err := startDispatching(p, settled)
			if err != nil {
				return err
			}
			all = append(all, d)
		}
		return p.rate(n, func() error {
			for _, d := range all {
				if _, err := io.WriteString(d.stdin, "go\n"); err != nil {
					return err
				}
			}
			return settled.wait(p)
		})
	}
}

// mainDispatch is a process that delivers from its first line of input on until there is no more. It writes how
// many deliveries it has settled since it last wrote.
func mainDispatch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("dispatch", flag.ExitOnError)
	p := &probe{ctx: ctx, figures: map[string]float64{}}
	flags.StringVar(&p.postgres, "postgres", "", "")
	flags.Parse(args)
	var settled atomic.Int64
	o, err := openOurs(p, diverted.Observer{Delivered: func(diverted.Attempt) { settled.Add(1) }})
	if err != nil {
		return err
	}
	defer o.store.Close()
	fmt.Println(0) // ready
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return err
	}
	stop := o.run(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, input)
	}()
	for tick := time.Tick(time.Millisecond); ; {
		select {
		case <-tick:
			if n := settled.Swap(0); n > 0 {
				fmt.Println(n)
			}
		case <-over:
			return stop()
		}
	}
}

// dispatching is such a process, as a probe sees it.
type dispatching struct {
	stdin io.WriteCloser
	cmd   *exec.Cmd
	read  chan struct{} // closed at the end of its output
}

func startDispatching(p *probe, settled *countdown) (*dispatching, error) {
	cmd, stdin, stdout, err := startRole(p.ctx, "dispatch", "-postgres", p.postgres)
	if err != nil {
		return nil, err
	}
	d := &dispatching{stdin, cmd, make(chan struct{})}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		close(d.read)
		return nil, errors.Join(errors.New("a dispatching process does not begin"), d.stop())
	}
	go func() {
		defer close(d.read)
		for lines.Scan() {
			n, _ := strconv.Atoi(lines.Text())
			for range n {
				settled.count()
			}
		}
	}()
	return d, nil
}

func (d *dispatching) stop() error {
	d.stdin.Close()
	<-d.read
	return d.cmd.Wait()
}

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync/atomic"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/oklog/ulid/v2"
)

// drain delivers what was accepted before to 10 webhooks, until all is settled.
func drain(p *probe) error {
	return drainTo(p, 10, func(i int) int { return i % 10 })
}

// drainZipf is drain to 10,000 webhooks, of which the second gets half of what the first gets, the third a
// third, and so on.
func drainZipf(p *probe) error {
	const webhooks = 10_000
	sums := make([]float64, webhooks)
	sum := 0.0
	for i := range sums {
		sum += 1 / float64(i+1)
		sums[i] = sum
	}
	random := rand.New(rand.NewPCG(1, 2))
	return drainTo(p, webhooks, func(int) int { return sort.SearchFloat64s(sums, random.Float64()*sum) })
}

func drainTo(p *probe, webhooks int, to func(i int) int) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	n := p.count(100_000)
	settled := newCountdown(n)
	o, err := openOurs(p, diverted.Observer{Delivered: func(diverted.Attempt) { settled.count() }})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, webhooks, r.url+pathOK, nil); err != nil {
		return err
	}
	if err := o.fill(p.ctx, 0, n, to); err != nil {
		return err
	}
	return o.rateOf(p, "rate", settled, n)
}

// rateOf runs the dispatcher until n outcomes are settled, and notes how many that were a second.
func (o *ours) rateOf(p *probe, name string, settled *countdown, n int) error {
	var stop func() error
	err := p.rateOf(name, n, func() error {
		stop = o.run(p.ctx)
		return settled.wait(p)
	})
	return errors.Join(err, stop())
}

// drainDepth delivers 10,000 events of many that are pending for 10 webhooks, and then stops. The first
// thousand, in which connections are made, are not measured.
func drainDepth(pending int) func(*probe) error {
	return func(p *probe) error {
		return firstThousands(p, func(o *ours, url string) error {
			if err := o.addWebhooks(p.ctx, 10, url, nil); err != nil {
				return err
			}
			return o.fill(p.ctx, 0, max(p.count(pending), 10_000), func(i int) int { return i % 10 })
		})
	}
}

// drainBeside is drainDepth(10,000) in a store that holds 900,000 rows of the same webhooks and others, of
// which nothing is due: a third are held by suspended webhooks, a third wait for a retry, a third are diverted.
func drainBeside(p *probe) error {
	return firstThousands(p, func(o *ours, url string) error {
		if err := o.addWebhooks(p.ctx, 20, url, nil); err != nil {
			return err
		}
		third := p.count(300_000)
		all := diverted.ClaimRequest{Count: 1000, Bytes: 32 << 20, Lease: time.Minute}
		for _, kind := range []diverted.OutcomeKind{diverted.OutcomeRetry, diverted.OutcomeDivert} {
			if err := o.fill(p.ctx, 0, third, func(i int) int { return i % 10 }); err != nil {
				return err
			}
			failure := diverted.Failure{Trigger: "500", Message: "500 Internal Server Error", Status: 500, At: time.Now()}
			request := diverted.WorkRequest{Claim: &all, Refresh: true}
			for {
				result, err := o.store.Work(p.ctx, request)
				if err != nil {
					return err
				}
				if len(result.Claims) == 0 {
					break
				}
				request = diverted.WorkRequest{Claim: &all}
				for _, c := range result.Claims {
					request.Outcomes = append(request.Outcomes, diverted.Outcome{
						Key: c.Key, Token: c.Token, Epoch: c.Epoch, Kind: kind, Wait: 12 * time.Hour, Failure: &failure,
					})
				}
			}
		}
		for _, w := range o.webhooks[10:] {
			if err := o.store.Suspend(p.ctx, w.Key()); err != nil {
				return err
			}
		}
		if err := o.fill(p.ctx, 0, third, func(i int) int { return 10 + i%10 }); err != nil {
			return err
		}
		return o.fill(p.ctx, 0, 10_000, func(i int) int { return i % 10 })
	})
}

// firstThousands measures the deliveries from the 1,001st to the 10,000th.
func firstThousands(p *probe, fill func(o *ours, url string) error) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	first, last := newCountdown(1_000), newCountdown(10_000)
	o, err := openOurs(p, diverted.Observer{Delivered: func(diverted.Attempt) {
		first.count()
		last.count()
	}})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := fill(o, r.url+pathOK); err != nil {
		return err
	}
	var stop func() error
	var began time.Time
	_, err = p.timed(func() error {
		stop = o.run(p.ctx)
		if err := first.wait(p); err != nil {
			return err
		}
		began = time.Now()
		return last.wait(p)
	})
	p.set("rate", 9_000/time.Since(began).Seconds())
	return errors.Join(err, stop())
}

// divert has deliveries fail that have no retries, until all are diverted, and resends them all by the
// route, from 32 clients in another process, while no dispatcher runs.
func divert(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	n := p.count(100_000)
	settled := newCountdown(n)
	o, err := openOurs(p, diverted.Observer{Diverted: func(diverted.Attempt) { settled.count() }})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 10, r.url+pathFail, func(w *diverted.Webhook) {
		w.FailureHandling = &diverted.FailureHandling{Divert: true}
	}); err != nil {
		return err
	}
	if err := o.fill(p.ctx, 0, n, func(i int) int { return i % 10 }); err != nil {
		return err
	}
	if err := o.rateOf(p, "divert", settled, n); err != nil {
		return err
	}
	p.set("divert cpu", p.figures["cpu"])
	var paths []string
	for _, w := range o.webhooks {
		for after, more := (ulid.ULID{}), true; more; {
			page, err := o.store.ListDiverted(p.ctx, diverted.DivertedQuery{Webhook: w.Key(), After: after, Limit: diverted.MaxPage})
			if err != nil {
				return err
			}
			for _, e := range page.Events {
				paths = append(paths, divertedPath(e.Key)+"/resend")
				after = e.Event
			}
			more = page.More
		}
	}
	api, err := serveAPI(o.store, nil)
	if err != nil {
		return err
	}
	defer api.close()
	return p.rateOf("resend", len(paths), func() error {
		_, err := api.load(p.ctx, "POST", 32, paths)
		return err
	})
}

// countdown is done when it has counted to n.
type countdown struct {
	left atomic.Int64
	done chan struct{}
}

func newCountdown(n int) *countdown {
	c := &countdown{done: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *countdown) count() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

// wait returns when it is done, or with an error when nothing was counted for a minute.
func (c *countdown) wait(p *probe) error {
	for before := c.left.Load(); ; {
		select {
		case <-c.done:
			return nil
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-time.After(time.Minute):
			left := c.left.Load()
			if left == before {
				return fmt.Errorf("it stands still, with %d to go", left)
			}
			before = left
		}
	}
}

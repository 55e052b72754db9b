package main

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/divertedevents/diverted"
)

// seconds scales the length of a measurement.
func (p *probe) seconds(full float64) time.Duration {
	return time.Duration(max(full*min(p.scale, 1), 1) * float64(time.Second))
}

// hanging measures the throughput of webhooks that are well, in the first 10 s of a dispatcher that has much
// to do for each, while as many others as it says hang until the timeout.
func hanging(well, hang int) func(*probe) error {
	return func(p *probe) error {
		r, err := startReceiver(p.ctx)
		if err != nil {
			return err
		}
		defer r.stop()
		n := p.count(400_000)
		settled := newCountdown(n)
		var delivered atomic.Int64
		o, err := openOurs(p, diverted.Observer{Delivered: func(diverted.Attempt) {
			delivered.Add(1)
			settled.count()
		}}, func(c *diverted.Config) { c.GracePeriod = -1 })
		if err != nil {
			return err
		}
		defer o.store.Close()
		if err := o.addWebhooks(p.ctx, well, r.url+pathOK, nil); err != nil {
			return err
		}
		if err := o.addWebhooks(p.ctx, hang, r.url+pathHang, nil); err != nil {
			return err
		}
		if err := o.fill(p.ctx, 0, n, func(i int) int { return i % well }); err != nil {
			return err
		}
		if hang > 0 {
			if err := o.fill(p.ctx, 0, hang*1000, func(i int) int { return well + i%hang }); err != nil {
				return err
			}
		}
		var stop func() error
		elapsed, err := p.timed(func() error {
			stop = o.run(p.ctx)
			select {
			case <-settled.done:
			case <-time.After(p.seconds(10)):
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
			return nil
		})
		p.set("rate", float64(delivered.Load())/elapsed.Seconds())
		return errors.Join(err, stop())
	}
}

// flooded measures the time from Send to arrival of events that 99 webhooks get once a second each, while
// one webhook has a million that are due.
func flooded(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	o, err := openOurs(p, diverted.Observer{}, func(c *diverted.Config) { c.GracePeriod = -1 })
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 1, r.url+pathOK, nil); err != nil {
		return err
	}
	if err := o.addWebhooks(p.ctx, 99, r.url+pathRecord, nil); err != nil {
		return err
	}
	if err := o.fill(p.ctx, 0, p.count(1_000_000), func(int) int { return 0 }); err != nil {
		return err
	}
	n := int(99 * p.seconds(20).Seconds())
	all := events(n)
	moments := make([]time.Time, n)
	stop := o.run(p.ctx)
	_, err = p.timed(func() error {
		began := time.Now()
		for i := range moments {
			moments[i] = began.Add(time.Duration(i) * time.Second / 99)
		}
		if err := each(8, n, func(i int) error {
			time.Sleep(time.Until(moments[i]))
			_, err := o.dispatcher.Send(p.ctx, o.tenant, o.webhooks[1+i%99].Locator, all[i])
			return err
		}); err != nil {
			return err
		}
		time.Sleep(time.Second) // for the last to arrive
		return nil
	})
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	times, err := r.since(moments)
	if err != nil {
		return err
	}
	p.setTimes(times)
	return nil
}

// unsuspended unsuspends a webhook with many held deliveries whose receiver takes 500 a second and answers
// 429 beyond, without Retry-After, and watches for 20 s.
func unsuspended(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	var given atomic.Int64
	giveUp := func(diverted.Attempt) { given.Add(1) }
	o, err := openOurs(p, diverted.Observer{Diverted: giveUp, Dropped: giveUp, Held: giveUp},
		func(c *diverted.Config) { c.GracePeriod = -1 })
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 1, r.url+pathBear, nil); err != nil {
		return err
	}
	webhook := o.webhooks[0].Key()
	if err := o.store.Suspend(p.ctx, webhook); err != nil {
		return err
	}
	if err := o.fill(p.ctx, 0, p.count(100_000), func(int) int { return 0 }); err != nil {
		return err
	}
	stop := o.run(p.ctx)
	var began time.Time
	_, err = p.timed(func() error {
		began = time.Now()
		if err := o.store.Unsuspend(p.ctx, webhook); err != nil {
			return err
		}
		time.Sleep(20 * time.Second) // whatever the scale: how soon is the question
		return nil
	})
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	all, err := r.arrivals()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("nothing arrived")
	}
	seen, _ := busiestSecond(all, 1<<30)
	taken := slices.DeleteFunc(slices.Clone(all), func(a arrival) bool { return a.Status != 200 })
	_, reached := busiestSecond(taken, bearable*9/10)
	p.set("most", float64(seen))
	p.set("given-up", float64(given.Load()))
	p.set("taken", float64(len(taken))/20)
	p.set("reached", 20)
	if !reached.IsZero() {
		p.set("reached", reached.Sub(began.Round(0)).Seconds())
	}
	return nil
}

// busiestSecond returns the most arrivals within any second, and the end of the first second that had at
// least enough.
func busiestSecond(all []arrival, enough int) (most int, reached time.Time) {
	slices.SortFunc(all, func(a, b arrival) int { return int(a.At - b.At) })
	first := 0
	for i := range all {
		for all[i].At-all[first].At >= int64(time.Second) {
			first++
		}
		n := i - first + 1
		most = max(most, n)
		if n >= enough && reached.IsZero() {
			reached = all[i].time()
		}
	}
	return most, reached
}

package main

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/oklog/ulid/v2"
)

// oneEvent sends events one at a time to a dispatcher that has nothing else to do, each after the one
// before is settled and a pause in which everything comes to rest. Its times are from Send returning to
// the arrival at the receiver; they are negative where the event arrives first.
func oneEvent(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	settled := make(chan struct{}, 1)
	o, err := openOurs(p, diverted.Observer{Delivered: func(diverted.Attempt) { settled <- struct{}{} }})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 1, r.url+pathRecord, nil); err != nil {
		return err
	}
	all := events(p.count(500))
	returned := make([]time.Time, len(all))
	stop := o.run(p.ctx)
	_, err = p.timed(func() error {
		for i := range all {
			time.Sleep(5 * time.Millisecond)
			if _, err := o.dispatcher.Send(p.ctx, o.tenant, o.webhooks[0].Locator, all[i]); err != nil {
				return err
			}
			returned[i] = time.Now()
			select {
			case <-settled:
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
		}
		return nil
	})
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	times, err := r.since(returned)
	if err != nil {
		return err
	}
	p.setTimes(times)
	return nil
}

// sendAndDeliver accepts and delivers at once: first 64 goroutines send as fast as they can, which gives the
// greatest rate from the first Send until all is settled, then at half of it, in which an event's time is
// from the moment at which it was to be sent to its arrival, so that none is left out because the one before
// it was slow.
func sendAndDeliver(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	n := p.count(50_000)
	var settled atomic.Pointer[countdown]
	settled.Store(newCountdown(n))
	o, err := openOurs(p, diverted.Observer{Delivered: func(diverted.Attempt) { settled.Load().count() }})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 10, r.url+pathRecord, nil); err != nil {
		return err
	}
	send := func(e diverted.Event, i int) error {
		_, err := o.dispatcher.Send(p.ctx, o.tenant, o.webhooks[i%10].Locator, e)
		return err
	}
	all := events(n)
	stop := o.run(p.ctx)
	defer stop()
	began := time.Now()
	if err := each(64, n, func(i int) error { return send(all[i], i) }); err != nil {
		return err
	}
	if err := settled.Load().wait(p); err != nil {
		return err
	}
	most := float64(n) / time.Since(began).Seconds()
	p.set("rate", most)
	if _, err := r.arrivals(); err != nil { // and forget them
		return err
	}

	n = max(int(most/2*10*min(p.scale, 1)), 1000) // for 10 s
	all = events(n)
	settled.Store(newCountdown(n))
	moments := make([]time.Time, n)
	_, err = p.timed(func() error {
		began = time.Now()
		for i := range moments {
			moments[i] = began.Add(time.Duration(float64(i) / (most / 2) * float64(time.Second)))
		}
		if err := each(64, n, func(i int) error {
			time.Sleep(time.Until(moments[i]))
			return send(all[i], i)
		}); err != nil {
			return err
		}
		return settled.Load().wait(p)
	})
	if err != nil {
		return err
	}
	times, err := r.since(moments)
	if err != nil {
		return err
	}
	p.setTimes(times)
	return nil
}

// retriesAtOnce has many deliveries fail at one moment, and retry at one. A retry is due when its failure was
// known and its wait is over; lateness is from then to its arrival.
//
// Beside what all of ours sets, it sets Jitter, to none: otherwise the retries would not be due at one moment.
func retriesAtOnce(p *probe) error {
	const webhooks = 200 // so that all are attempted at once
	n := p.count(1_000)
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	var mu sync.Mutex
	due := make(map[ulid.ULID]time.Time, n)
	settled := newCountdown(n)
	o, err := openOurs(p, diverted.Observer{
		Retried: func(a diverted.Attempt) {
			mu.Lock()
			defer mu.Unlock()
			due[a.Key.Event] = a.Began.Add(a.Duration + a.Wait)
		},
		Delivered: func(diverted.Attempt) { settled.count() },
	}, func(c *diverted.Config) { c.Jitter = -1 })
	if err != nil {
		return err
	}
	defer o.store.Close()
	url := r.url + pathRetry + "?" + strconv.Itoa(n)
	if err := o.addWebhooks(p.ctx, webhooks, url, func(w *diverted.Webhook) {
		w.FailureHandling = &diverted.FailureHandling{Divert: true, Retry: &diverted.RetryStrategy{Interval: 2 * time.Second}}
	}); err != nil {
		return err
	}
	all := events(n)
	stop := o.run(p.ctx)
	_, err = p.timed(func() error {
		if err := each(64, n, func(i int) error {
			_, err := o.dispatcher.Send(p.ctx, o.tenant, o.webhooks[i%webhooks].Locator, all[i])
			return err
		}); err != nil {
			return err
		}
		return settled.wait(p)
	})
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	moments := make([]time.Time, n)
	for i, e := range all {
		moments[i] = due[e.Locator]
	}
	times, err := r.since(moments)
	if err != nil {
		return err
	}
	p.setTimes(times) // sorted
	p.set("earliest", float64(times[0])/float64(time.Millisecond))
	return nil
}

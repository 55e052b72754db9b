package main

import (
	"context"
	"time"

	"github.com/divertedevents/diverted"
)

// send64 accepts one event a call from 64 goroutines, with a dispatcher that does not run.
func send64(p *probe) error {
	o, err := openOurs(p, diverted.Observer{})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 1, "https://example.com/hook", nil); err != nil {
		return err
	}
	all := events(p.count(100_000))
	return p.rate(len(all), func() error {
		return each(64, len(all), func(i int) error {
			_, err := o.dispatcher.Send(p.ctx, o.tenant, o.webhooks[0].Locator, all[i])
			return err
		})
	})
}

// send1 accepts one event a call from one goroutine, and after each makes a bare INSERT of the same body, so
// that both meet the same disk.
func send1(p *probe) error {
	o, err := openOurs(p, diverted.Observer{})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 1, "https://example.com/hook", nil); err != nil {
		return err
	}
	db, err := openDB(p, "bare.db", 1, `CREATE TABLE events (id INTEGER PRIMARY KEY, body BLOB) STRICT`)
	if err != nil {
		return err
	}
	defer db.Close()
	insert, err := db.PrepareContext(p.ctx, "INSERT INTO events (body) VALUES (?)")
	if err != nil {
		return err
	}
	defer insert.Close()
	all := events(p.count(10_000))
	encoded, err := bodies(len(all))
	if err != nil {
		return err
	}
	var ours, bare time.Duration
	_, err = p.timed(func() error {
		for i := range all {
			began := time.Now()
			if _, err := o.dispatcher.Send(p.ctx, o.tenant, o.webhooks[0].Locator, all[i]); err != nil {
				return err
			}
			between := time.Now()
			if _, err := insert.ExecContext(context.Background(), encoded[i]); err != nil {
				return err
			}
			ours, bare = ours+between.Sub(began), bare+time.Since(between)
		}
		return nil
	})
	p.set("rate", float64(len(all))/ours.Seconds())
	p.set("bare", float64(len(all))/bare.Seconds())
	return err
}

package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"

	"github.com/divertedevents/diverted"
	"github.com/google/uuid"
)

// ours is the library under test: a store, in SQLite or PostgreSQL, and a dispatcher on it.
//
// Of diverted.Config it sets AllowedNetworks, since the receiver is on this machine; Logger, since a
// hundred thousand warnings are for a file and not for a terminal; and, where a probe has to know what was
// delivered, Observer. All else is the default.
type ours struct {
	store      diverted.Store
	dispatcher *diverted.Dispatcher
	tenant     uuid.UUID
	webhooks   []diverted.Webhook
}

// openOurs opens a store, new or not, and a dispatcher on it that does not run yet.
func openOurs(p *probe, observer diverted.Observer, change ...func(*diverted.Config)) (*ours, error) {
	o := &ours{tenant: tenant}
	var err error
	if p.postgres == "" {
		o.store, err = diverted.OpenSQLite(p.ctx, p.path("diverted.db"))
	} else {
		o.store, err = openStore(p.ctx, p.postgres)
	}
	if err != nil {
		return nil, err
	}
	config := diverted.Config{
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:          slog.New(slog.NewTextHandler(io.Discard, nil)),
		Observer:        observer,
	}
	for _, f := range change {
		f(&config)
	}
	o.dispatcher, err = diverted.NewDispatcher(o.store, config)
	if err != nil {
		o.store.Close()
		return nil, err
	}
	return o, nil
}

// tenant owns all webhooks.
var tenant = uuid.MustParse("5f0c1a52-6f6c-4d0e-9a53-1d1f9d8b6c11")

// addWebhooks creates n webhooks with an endpoint.
func (o *ours) addWebhooks(ctx context.Context, n int, url string, change func(*diverted.Webhook)) error {
	added := make([]diverted.Webhook, n)
	err := each(64, n, func(i int) error {
		w := diverted.NewWebhook(o.tenant, "bench", url, "*")
		if change != nil {
			change(&w)
		}
		var err error
		added[i], err = o.store.CreateWebhook(ctx, w)
		return err
	})
	o.webhooks = append(o.webhooks, added...)
	return err
}

// fill accepts events from first to end, in bulk, each for the webhook that to names by its place.
func (o *ours) fill(ctx context.Context, first, end int, to func(i int) int) error {
	const bulk = 1000
	for first < end {
		var request diverted.AcceptRequest
		for range min(bulk, end-first) {
			m, err := diverted.NewMessage(o.tenant, o.webhooks[to(first)].Locator, event(first))
			if err != nil {
				return err
			}
			request.Messages = append(request.Messages, m)
			first++
		}
		result, err := o.store.Accept(ctx, request)
		if err != nil {
			return err
		}
		for _, m := range result.Messages {
			if m.Err != nil {
				return m.Err
			}
		}
	}
	return nil
}

// run delivers until the function that it returns is called, which waits for the end.
func (o *ours) run(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- o.dispatcher.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

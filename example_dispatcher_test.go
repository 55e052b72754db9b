package diverted_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
)

// order is what the events of these examples tell of.
type order struct {
	Number string `json:"number"`
	Total  int    `json:"total"`
}

// answering is a transport in place of the network: every receiver answers with this status.
type answering int

func (status *answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(*status), Body: http.NoBody}, nil
}

// Send accepts an event for one webhook; it is durable when Send returns. Run delivers it.
func ExampleDispatcher_Send() {
	ctx := context.Background()
	store := diverted.NewMemoryStore() // in a service: diverted.OpenSQLite(ctx, "webhooks.db")
	defer store.Close()

	shop := uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")
	webhook, err := store.PutWebhook(ctx, diverted.NewWebhook(shop, "ERP", "https://erp.example/hooks", "order.*"))
	if err != nil {
		panic(err)
	}

	delivered := make(chan diverted.Attempt)
	status := answering(http.StatusOK)
	d, err := diverted.NewDispatcher(store, diverted.Config{
		Transport: &status, // in a service: leave it out
		Observer:  diverted.Observer{Delivered: func(a diverted.Attempt) { delivered <- a }},
	})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(ctx)
	ran := make(chan error)
	go func() { ran <- d.Run(ctx) }()

	event, err := diverted.NewEvent("order.paid", order{Number: "2026-0042", Total: 129_00})
	if err != nil {
		panic(err)
	}
	accepted, err := d.Send(ctx, shop, webhook.Locator, event)
	if err != nil {
		panic(err) // not accepted, or unknown: send the same event again
	}
	fmt.Println(accepted.Status)

	a := <-delivered
	fmt.Println(a.EventType, "delivered by attempt", a.Number, "with status", a.Status)

	stop()
	fmt.Println("run ended:", <-ran)
	// Output:
	// accepted
	// order.paid delivered by attempt 1 with status 200
	// run ended: <nil>
}

// Publish accepts an event for every enabled webhook that subscribes to its type.
func ExampleDispatcher_Publish() {
	ctx := context.Background()
	store := diverted.NewMemoryStore()
	defer store.Close()
	d, err := diverted.NewDispatcher(store, diverted.Config{})
	if err != nil {
		panic(err)
	}

	shop := uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")
	for name, eventType := range map[string]string{"ERP": "order.*", "mail": "order.paid", "search": "product.*"} {
		if _, err := store.PutWebhook(ctx, diverted.NewWebhook(shop, name, "https://hooks.example/"+name, eventType)); err != nil {
			panic(err)
		}
	}
	event, err := diverted.NewEvent("order.paid", order{Number: "2026-0042", Total: 129_00})
	if err != nil {
		panic(err)
	}
	for range 2 { // repeated, because the first answer was lost, say
		deliveries, err := d.Publish(ctx, shop, event)
		if err != nil {
			panic(err)
		}
		for _, a := range deliveries {
			fmt.Println(a.Status)
		}
	}
	// Output:
	// accepted
	// accepted
	// already pending
	// already pending
}

// A unit test needs no network, no file and no waiting: the memory store keeps the events, a transport
// takes the receiver's place, and Flush attempts what is due.
func ExampleDispatcher_Flush() {
	ctx := context.Background()
	store := diverted.NewMemoryStore()
	defer store.Close()
	status := answering(http.StatusServiceUnavailable)
	d, err := diverted.NewDispatcher(store, diverted.Config{Transport: &status})
	if err != nil {
		panic(err)
	}

	shop := uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")
	webhook, err := store.PutWebhook(ctx, diverted.NewWebhook(shop, "ERP", "https://erp.example/hooks", "*"))
	if err != nil {
		panic(err)
	}
	event, err := diverted.NewEvent("order.paid", order{Number: "2026-0042", Total: 129_00})
	if err != nil {
		panic(err)
	}
	if _, err := d.Send(ctx, shop, webhook.Locator, event); err != nil {
		panic(err)
	}
	if err := d.Flush(ctx); err != nil {
		panic(err)
	}

	pending, err := store.ListPending(ctx, diverted.DivertedQuery{Webhook: webhook.Key()})
	if err != nil {
		panic(err)
	}
	for _, p := range pending.Deliveries {
		fmt.Printf("%s: %d attempt, failed by %s, due again in about %s\n",
			p.EventType, p.Attempts, p.Failure.Trigger, time.Until(p.Due).Round(30*time.Second))
	}
	// Output: order.paid: 1 attempt, failed by 503, due again in about 1m0s
}

// What cannot be delivered is set aside, and delivered by a resend when the receiver is repaired.
func ExampleMemoryStore_Resend() {
	ctx := context.Background()
	store := diverted.NewMemoryStore()
	defer store.Close()
	status := answering(http.StatusNotFound)
	d, err := diverted.NewDispatcher(store, diverted.Config{Transport: &status, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}

	shop := uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")
	webhook := diverted.NewWebhook(shop, "ERP", "https://erp.example/hooks", "*")
	webhook.FailureHandling = &diverted.FailureHandling{Divert: true} // no retries
	if _, err := store.PutWebhook(ctx, webhook); err != nil {
		panic(err)
	}
	event, err := diverted.NewEvent("order.paid", order{Number: "2026-0042", Total: 129_00})
	if err != nil {
		panic(err)
	}
	if _, err := d.Send(ctx, shop, webhook.Locator, event); err != nil {
		panic(err)
	}
	diversions := func() []diverted.DivertedEvent {
		if err := d.Flush(ctx); err != nil {
			panic(err)
		}
		page, err := store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: webhook.Key()})
		if err != nil {
			panic(err)
		}
		return page.Events
	}

	set := diversions()
	fmt.Println(len(set), "diverted:", set[0].Failure.Message)

	status = http.StatusOK // the receiver is repaired
	if err := store.Resend(ctx, set[0].Key); err != nil {
		panic(err)
	}
	fmt.Println(len(diversions()), "diverted")
	// Output:
	// 1 diverted: 404 Not Found
	// 0 diverted
}

// A webhook whose handling says so is suspended when a delivery's budget is spent. Its events wait until
// it is unsuspended.
func ExampleMemoryStore_Unsuspend() {
	ctx := context.Background()
	store := diverted.NewMemoryStore()
	defer store.Close()
	status := answering(http.StatusGone) // which spends the budget at once
	delivered := 0
	d, err := diverted.NewDispatcher(store, diverted.Config{
		Transport: &status,
		Logger:    slog.New(slog.DiscardHandler),
		Observer:  diverted.Observer{Delivered: func(diverted.Attempt) { delivered++ }},
	})
	if err != nil {
		panic(err)
	}

	shop := uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")
	webhook := diverted.NewWebhook(shop, "ERP", "https://erp.example/hooks", "*")
	webhook.FailureHandling = &diverted.FailureHandling{Suspend: true}
	if _, err := store.PutWebhook(ctx, webhook); err != nil {
		panic(err)
	}
	send := func() {
		event, err := diverted.NewEvent("order.paid", order{Number: "2026-0042", Total: 129_00})
		if err != nil {
			panic(err)
		}
		if _, err := d.Send(ctx, shop, webhook.Locator, event); err != nil {
			panic(err)
		}
		if err := d.Flush(ctx); err != nil {
			panic(err)
		}
	}
	send() // suspends it
	send() // is accepted, and waits
	saved, err := store.FetchWebhook(ctx, webhook.Key())
	if err != nil {
		panic(err)
	}
	fmt.Println("suspended:", saved.Suspended(), "delivered:", delivered)

	status = http.StatusOK
	if err := store.Unsuspend(ctx, webhook.Key()); err != nil {
		panic(err)
	}
	if err := d.Flush(ctx); err != nil {
		panic(err)
	}
	fmt.Println("delivered:", delivered)
	// Output:
	// suspended: true delivered: 0
	// delivered: 2
}

// An observer counts what happens, for metrics.
func ExampleObserver() {
	ctx := context.Background()
	store := diverted.NewMemoryStore()
	defer store.Close()
	status := answering(http.StatusBadGateway)
	d, err := diverted.NewDispatcher(store, diverted.Config{
		Transport: &status,
		Observer: diverted.Observer{
			Accepted:  func(diverted.Key) { fmt.Println("accepted") },
			Attempted: func(a diverted.Attempt) { fmt.Println("attempted: status", a.Status) },
			Retried:   func(a diverted.Attempt) { fmt.Println("retried: next in about", a.Wait.Round(30*time.Second)) },
		},
	})
	if err != nil {
		panic(err)
	}
	shop := uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")
	webhook, err := store.PutWebhook(ctx, diverted.NewWebhook(shop, "ERP", "https://erp.example/hooks", "*"))
	if err != nil {
		panic(err)
	}
	event, err := diverted.NewEvent("order.paid", order{Number: "2026-0042", Total: 129_00})
	if err != nil {
		panic(err)
	}
	if _, err := d.Send(ctx, shop, webhook.Locator, event); err != nil {
		panic(err)
	}
	if err := d.Flush(ctx); err != nil {
		panic(err)
	}
	// Output:
	// accepted
	// attempted: status 502
	// retried: next in about 1m0s
}

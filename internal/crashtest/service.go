package crashtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

// senders is how many goroutines of the service accept events at once.
const senders = 16

// Service is the child of a [Run]. It returns at once in any other process, and never in a child.
func Service(open Open) {
	mode := os.Getenv("CRASHTEST_MODE")
	var err error
	switch mode {
	case "":
		return
	case modeShare, modeDeliver:
		err = serveCluster(open, mode)
	default:
		err = serve(open, mode)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(open Open, mode string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // should the parent die
	defer cancel()
	store, err := open(ctx, os.Getenv("CRASHTEST_DSN"))
	if err != nil {
		return err
	}
	if err := putWebhooks(ctx, store, os.Getenv("CRASHTEST_RECEIVER")); err != nil {
		return err
	}
	dispatcher, err := newDispatcher(store, attemptTimeout)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- dispatcher.Run(running) }()

	if mode == "drain" {
		if err := drain(ctx, store); err != nil {
			return err
		}
		stop()
		if err := <-ran; err != nil {
			return err
		}
		return store.Close()
	}
	seed, err := strconv.ParseUint(os.Getenv("CRASHTEST_SEED"), 10, 64)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	faults := make(chan error, senders+1)
	for i := range senders {
		group.Go(func() { faults <- send(ctx, dispatcher, rand.New(rand.NewPCG(seed, uint64(i))), false) })
	}
	group.Go(func() { faults <- meddle(ctx, store, rand.New(rand.NewPCG(seed, senders))) })
	return <-faults // until it is killed
}

func newDispatcher(store diverted.Store, timeout time.Duration) (*diverted.Dispatcher, error) {
	return diverted.NewDispatcher(store, diverted.Config{
		Timeout:         timeout,
		UserAgent:       "generation " + os.Getenv("CRASHTEST_GENERATION"),
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:          slog.New(slog.DiscardHandler),
		Observer: diverted.Observer{Attempted: func(a diverted.Attempt) {
			if a.Failure != nil && a.Failure.Trigger == diverted.TriggerTimeout {
				fmt.Printf("timeout %s %s\n", nameOf(a.Key.Webhook), a.Key.Event)
			}
		}, Delivered: func(a diverted.Attempt) {
			fmt.Printf("settled %s %s %s\n", os.Getenv("CRASHTEST_GENERATION"), nameOf(a.Key.Webhook), a.Key.Event)
		}},
	})
}

func nameOf(webhook ulid.ULID) string {
	for name, locator := range webhooks {
		if locator == webhook {
			return name
		}
	}
	return ""
}

func putWebhooks(ctx context.Context, store diverted.Store, receiver string) error {
	retry := &diverted.RetryStrategy{Attempts: 10, Interval: time.Second, Type: diverted.Linear}
	for name, locator := range webhooks {
		w := diverted.NewWebhook(tenant, name, receiver+"/"+name, "*")
		w.Locator = locator
		switch name {
		case "failing":
			w.FailureHandling = &diverted.FailureHandling{Divert: true}
		case "suspend":
			w.FailureHandling = &diverted.FailureHandling{Suspend: true}
		default:
			w.FailureHandling = &diverted.FailureHandling{Retry: retry, Divert: true}
		}
		if _, err := store.PutWebhook(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// send accepts events, and tells the parent of each that is durable. A line is written by one call, so
// that a kill cannot tear it. An error ends it, or, if it is to persist, has it send the same event again.
func send(ctx context.Context, d *diverted.Dispatcher, random *rand.Rand, persist bool) error {
	payloads := testdata.Payloads()
	names := []string{"good", "good", "good", "good", "slow", "flaky", "failing", "suspend"}
	for {
		name := names[random.IntN(len(names))]
		p := payloads[random.IntN(len(payloads))]
		event, err := diverted.NewEvent(p.Type, p.Data)
		if err != nil {
			return err
		}
		body, err := event.Encode()
		if err != nil {
			return err
		}
		for {
			_, err := d.Send(ctx, tenant, webhooks[name], event)
			if err == nil {
				break
			}
			if !persist || ctx.Err() != nil {
				return err
			}
			fmt.Printf("resending %s %s\n", name, event.Locator)
			pause(ctx, 50*time.Millisecond)
		}
		fmt.Printf("accepted %s %s %x\n", name, event.Locator, sha256.Sum256(body))
	}
}

// meddle resends and deletes diverted events, and suspends and unsuspends a webhook.
func meddle(ctx context.Context, store diverted.Store, random *rand.Rand) error {
	failing := diverted.WebhookKey{Tenant: tenant, Webhook: webhooks["failing"]}
	suspended := diverted.WebhookKey{Tenant: tenant, Webhook: webhooks["suspend"]}
	for {
		page, err := store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: failing, Limit: 50})
		if err != nil {
			return err
		}
		for _, e := range page.Events {
			if random.IntN(2) == 0 {
				err = store.Resend(ctx, e.Key)
			} else {
				fmt.Printf("deleting failing %s\n", e.Event) // from here on it may be gone
				err = store.DeleteDiverted(ctx, e.Key)
			}
			if err != nil && !errors.Is(err, diverted.ErrNotFound) {
				return err
			}
		}
		if random.IntN(2) == 0 {
			err = store.Suspend(ctx, suspended)
		} else {
			err = store.Unsuspend(ctx, suspended)
		}
		if err != nil {
			return err
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// drain waits until nothing is pending, once every webhook is unsuspended.
func drain(ctx context.Context, store diverted.Store) error {
	for {
		left := 0
		for _, locator := range webhooks {
			key := diverted.WebhookKey{Tenant: tenant, Webhook: locator}
			if err := store.Unsuspend(ctx, key); err != nil {
				return err
			}
			page, err := store.ListPending(ctx, diverted.DivertedQuery{Webhook: key, Limit: 1})
			if err != nil {
				return err
			}
			left += len(page.Deliveries)
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

package postgres_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/faultstore"
	"github.com/divertedevents/diverted/postgres"
)

// The methods and the faults are those of package faultstore that a server's answers can tell apart, for two
// seconds of real time at least.
var (
	faultMethods = []string{"Accept", "Work", "Resend", "DeleteDiverted", "Suspend", "Unsuspend", "UpdateWebhook", "ListDiverted"}
	faultKinds   = map[string]faultstore.Fault{
		"fails":                                  {Err: errors.New("the disk is on fire")},
		"loses the acknowledgement":              {Err: errors.New("the disk is on fire"), After: true},
		"is locked":                              {Err: diverted.ErrLocked},
		"is slow, and loses the acknowledgement": {Delay: 500 * time.Millisecond, Err: errors.New("the disk is on fire"), After: true},
	}
)

func TestWhateverFailsNothingIsLostAndNothingIsSentTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for the end of leases")
	}
	t.Parallel() // beside the kills, which mostly wait
	pool := newPool(t, poolOf(16))
	var cells sync.WaitGroup // all at once: they mostly wait
	for _, method := range faultMethods {
		for name, fault := range faultKinds {
			fault.Method = method
			s, err := postgres.Open(t.Context(), pool, postgres.Config{Schema: newSchema(), NoNotify: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			cells.Go(func() {
				c := &faultCell{store: faultstore.New(s), posts: map[string]int{}, arrived: map[string]int{}, again: map[string]bool{}, gone: map[string]bool{}}
				if err := c.play(t.Context(), fault); err != nil {
					t.Errorf("%s %s: %v", method, name, err)
				}
			})
		}
	}
	cells.Wait()
}

// faultCell is a service on a store that fails, and its receiver.
type faultCell struct {
	store *faultstore.Store

	mu             sync.Mutex
	posts, arrived map[string]int  // by event: requests, and those answered 200
	again, gone    map[string]bool // sent again after an error, deleted
}

// RoundTrip is the receivers: one that takes all, and one that takes an event when it is resent.
func (c *faultCell) RoundTrip(r *http.Request) (*http.Response, error) {
	_, err := io.Copy(io.Discard, r.Body)
	r.Body.Close()
	event := r.Header.Get("webhook-id")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.posts[event]++
	status := http.StatusOK
	if strings.HasSuffix(r.URL.Path, "failing") && c.posts[event] == 1 {
		status = http.StatusNotFound
	} else {
		c.arrived[event]++
	}
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: r}, err
}

// persist repeats a call until it succeeds, or says that there is nothing to do.
func persist(ctx context.Context, call func() error, nothing ...error) error {
	for tick := time.Tick(100 * time.Millisecond); ; {
		err := call()
		for _, n := range nothing {
			if errors.Is(err, n) {
				return nil
			}
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		<-tick
	}
}

func (c *faultCell) play(ctx context.Context, fault faultstore.Fault) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	tenant := uuid.New()
	hooks := map[string]diverted.Webhook{}
	for _, name := range []string{"good", "failing"} {
		w := diverted.NewWebhook(tenant, name, "https://receiver.example/"+name, "*")
		w.FailureHandling = &diverted.FailureHandling{Divert: true}
		w, err := c.store.CreateWebhook(ctx, w)
		if err != nil {
			return err
		}
		hooks[name] = w
	}
	d, err := diverted.NewDispatcher(c.store, diverted.Config{Timeout: time.Second, Transport: c, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- d.Run(running) }()
	defer stop()

	c.store.Break(fault)
	healed := make(chan struct{})
	go func() {
		defer close(healed)
		for began, tick := time.Now(), time.Tick(50*time.Millisecond); time.Since(began) < 2*time.Second || c.store.Failed(fault.Method) == 0; {
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
		c.store.Heal()
	}()
	sent := map[string]bool{}
	for after := 0; after < 5; {
		select {
		case <-healed:
			after++
		default:
		}
		for _, name := range []string{"good", "failing"} {
			e, err := diverted.NewEvent("order.paid", map[string]any{"amount": "12.50", "currency": "EUR"})
			if err != nil {
				return err
			}
			if err := persist(ctx, func() error {
				_, err := d.Send(ctx, tenant, hooks[name].Locator, e)
				c.mu.Lock()
				c.again[e.Locator.String()] = c.again[e.Locator.String()] || err != nil
				c.mu.Unlock()
				return err
			}); err != nil {
				return err
			}
			sent[e.Locator.String()] = true
		}
		if err := c.operate(ctx, hooks); err != nil {
			return err
		}
	}
	// Everything that is left is resent, and goes out.
	for tick := time.Tick(200 * time.Millisecond); ; {
		left, err := c.resend(ctx, hooks, false)
		if err != nil {
			return err
		}
		if left == 0 {
			break
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return errors.New("it does not come to rest")
		}
	}
	stop()
	if err := <-ran; err != nil {
		return err
	}
	if c.store.Failed(fault.Method) == 0 {
		return errors.New("it proves nothing: the fault befell no call")
	}
	return c.judge(sent)
}

// operate does what people do beside sending.
func (c *faultCell) operate(ctx context.Context, hooks map[string]diverted.Webhook) error {
	good := hooks["good"].Key()
	if err := persist(ctx, func() error { return c.store.Suspend(ctx, good) }); err != nil {
		return err
	}
	if err := persist(ctx, func() error { return c.store.Unsuspend(ctx, good) }); err != nil {
		return err
	}
	if err := persist(ctx, func() error {
		w, err := c.store.FetchWebhook(ctx, hooks["failing"].Key())
		if err != nil {
			return err
		}
		_, err = c.store.UpdateWebhook(ctx, w)
		return err
	}); err != nil {
		return err
	}
	_, err := c.resend(ctx, hooks, true)
	return err
}

// resend resends what is diverted, or deletes some of it, and says how much was left.
func (c *faultCell) resend(ctx context.Context, hooks map[string]diverted.Webhook, some bool) (left int, err error) {
	for _, w := range hooks {
		err := persist(ctx, func() error {
			// What is diverted meanwhile is not pending any more, so it must be looked for afterwards.
			pending, err := c.store.ListPending(ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: 1})
			if err != nil {
				return err
			}
			page, err := c.store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: diverted.MaxPage})
			if err != nil {
				return err
			}
			left += len(page.Events) + len(pending.Deliveries)
			for _, e := range page.Events {
				call := c.store.Resend
				if some && e.Event[15]%2 == 0 {
					call = c.store.DeleteDiverted
					c.mu.Lock()
					c.gone[e.Event.String()] = true
					c.mu.Unlock()
				}
				if err := persist(ctx, func() error { return call(ctx, e.Key) }, diverted.ErrNotFound); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return left, nil
}

func (c *faultCell) judge(sent map[string]bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(sent) < 4 {
		return errors.New("it proves nothing: hardly anything was sent")
	}
	for event := range sent {
		switch n := c.arrived[event]; {
		case n == 0 && !c.gone[event]:
			return errors.New(event + " is lost")
		case n > 1 && !c.again[event]:
			return errors.New(event + " arrived more than once")
		}
	}
	return nil
}

// Package faultstore is a store that fails on command, to test what those who use a store make of it.
package faultstore

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/divertedevents/diverted"
)

// Fault is what goes wrong with calls of a method. A fault that only has a Delay makes them slow.
type Fault struct {
	// Method is the method's name, such as Work. Empty: every method but Close.
	Method string
	// Delay passes before the call has its effect.
	Delay time.Duration
	// Err is returned in place of the effect, or if After, when the call has had it: the acknowledgement is
	// lost.
	Err   error
	After bool
	// Hang has the call go on, before its effect, or if After, behind it, until its context ends, and return
	// the context's error.
	Hang bool
	// Times is how many calls it befalls. 0: all.
	Times int
}

// Store is a store around another one. It is safe for concurrent use.
type Store struct {
	inner diverted.Store

	mu     sync.Mutex
	faults []*Fault
	calls  map[string]int
	failed map[string]int
}

var (
	_ diverted.Store   = (*Store)(nil)
	_ diverted.Watcher = (*Store)(nil)
)

// New returns a store that does as inner does until it is broken.
func New(inner diverted.Store) *Store {
	return &Store{inner: inner, calls: make(map[string]int), failed: make(map[string]int)}
}

// Break has a fault begin. Of several that befall a call the first one counts.
func (s *Store) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal ends all faults. Calls that hang go on hanging.
func (s *Store) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Calls returns how often a method was called, Failed how many of these calls a fault befell.
func (s *Store) Calls(method string) int  { return s.count(s.calls, method) }
func (s *Store) Failed(method string) int { return s.count(s.failed, method) }

func (s *Store) count(counts map[string]int, method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return counts[method]
}

// fault returns the fault that befalls a call that begins now, the zero fault if there is none.
func (s *Store) fault(method string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[method]++
	i := slices.IndexFunc(s.faults, func(f *Fault) bool { return f.Method == method || f.Method == "" && method != "Close" })
	if i < 0 {
		return Fault{}
	}
	s.failed[method]++
	f := *s.faults[i]
	if f.Times == 1 {
		s.faults = slices.Delete(s.faults, i, i+1)
	} else if f.Times > 1 {
		s.faults[i].Times--
	}
	return f
}

// do makes a call of the inner store, or has it go wrong.
func do[T any](ctx context.Context, s *Store, method string, call func() (T, error)) (T, error) {
	var none T
	f := s.fault(method)
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
	wrong := func() error {
		if f.Hang {
			<-ctx.Done()
			return ctx.Err()
		}
		return f.Err
	}
	if !f.After {
		if err := wrong(); err != nil {
			return none, err
		}
	}
	result, err := call()
	if f.After && err == nil {
		if err := wrong(); err != nil {
			return none, err
		}
	}
	return result, err
}

// run makes a call that has no result.
func run(ctx context.Context, s *Store, method string, call func() error) error {
	_, err := do(ctx, s, method, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

// Watch implements [diverted.Watcher]. If the inner store does not, nothing is told.
func (s *Store) Watch(f func(diverted.Change)) (stop func()) {
	if w, ok := s.inner.(diverted.Watcher); ok {
		return w.Watch(f)
	}
	return func() {}
}

// Close closes the inner store.
func (s *Store) Close() error {
	return run(context.Background(), s, "Close", s.inner.Close)
}

func (s *Store) Divert(ctx context.Context, event diverted.DivertedEvent) error {
	return run(ctx, s, "Divert", func() error { return s.inner.Divert(ctx, event) })
}

func (s *Store) FetchDiverted(ctx context.Context, key diverted.Key) (diverted.DivertedEvent, error) {
	return do(ctx, s, "FetchDiverted", func() (diverted.DivertedEvent, error) { return s.inner.FetchDiverted(ctx, key) })
}

func (s *Store) ListDiverted(ctx context.Context, query diverted.DivertedQuery) (diverted.DivertedPage, error) {
	return do(ctx, s, "ListDiverted", func() (diverted.DivertedPage, error) { return s.inner.ListDiverted(ctx, query) })
}

func (s *Store) Resend(ctx context.Context, key diverted.Key) error {
	return run(ctx, s, "Resend", func() error { return s.inner.Resend(ctx, key) })
}

func (s *Store) DeleteDiverted(ctx context.Context, key diverted.Key) error {
	return run(ctx, s, "DeleteDiverted", func() error { return s.inner.DeleteDiverted(ctx, key) })
}

func (s *Store) DeleteResent(ctx context.Context, event diverted.DivertedEvent) error {
	return run(ctx, s, "DeleteResent", func() error { return s.inner.DeleteResent(ctx, event) })
}

func (s *Store) PutWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	return do(ctx, s, "PutWebhook", func() (diverted.Webhook, error) { return s.inner.PutWebhook(ctx, webhook) })
}

func (s *Store) CreateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	return do(ctx, s, "CreateWebhook", func() (diverted.Webhook, error) { return s.inner.CreateWebhook(ctx, webhook) })
}

func (s *Store) UpdateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	return do(ctx, s, "UpdateWebhook", func() (diverted.Webhook, error) { return s.inner.UpdateWebhook(ctx, webhook) })
}

func (s *Store) FetchWebhook(ctx context.Context, key diverted.WebhookKey) (diverted.Webhook, error) {
	return do(ctx, s, "FetchWebhook", func() (diverted.Webhook, error) { return s.inner.FetchWebhook(ctx, key) })
}

func (s *Store) ListWebhooks(ctx context.Context, query diverted.WebhookQuery) (diverted.WebhookPage, error) {
	return do(ctx, s, "ListWebhooks", func() (diverted.WebhookPage, error) { return s.inner.ListWebhooks(ctx, query) })
}

func (s *Store) DeleteWebhook(ctx context.Context, key diverted.WebhookKey, discard bool) error {
	return run(ctx, s, "DeleteWebhook", func() error { return s.inner.DeleteWebhook(ctx, key, discard) })
}

func (s *Store) Suspend(ctx context.Context, key diverted.WebhookKey) error {
	return run(ctx, s, "Suspend", func() error { return s.inner.Suspend(ctx, key) })
}

func (s *Store) Unsuspend(ctx context.Context, key diverted.WebhookKey) error {
	return run(ctx, s, "Unsuspend", func() error { return s.inner.Unsuspend(ctx, key) })
}

func (s *Store) Accept(ctx context.Context, request diverted.AcceptRequest) (diverted.AcceptResult, error) {
	return do(ctx, s, "Accept", func() (diverted.AcceptResult, error) { return s.inner.Accept(ctx, request) })
}

func (s *Store) Work(ctx context.Context, request diverted.WorkRequest) (diverted.WorkResult, error) {
	return do(ctx, s, "Work", func() (diverted.WorkResult, error) { return s.inner.Work(ctx, request) })
}

func (s *Store) ListPending(ctx context.Context, query diverted.DivertedQuery) (diverted.PendingPage, error) {
	return do(ctx, s, "ListPending", func() (diverted.PendingPage, error) { return s.inner.ListPending(ctx, query) })
}

package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// claimConcurrently has workers claim and deliver until nothing is left, and fails the test unless they
// had total deliveries, each one once.
func (k *kit) claimConcurrently(workers, total int, request func() *diverted.ClaimRequest) {
	k.Helper()
	var mu sync.Mutex
	seen := map[diverted.Key]int{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var outcomes []diverted.Outcome
			for {
				r, err := k.store.Work(k.ctx, diverted.WorkRequest{Outcomes: outcomes, Claim: request()})
				if err != nil {
					k.Errorf("error: %v", err)
					return
				}
				for i, s := range r.Settled {
					if s.Stale {
						k.Errorf("the outcome of %s is stale", outcomes[i].Key)
					}
				}
				if len(r.Claims) == 0 {
					return
				}
				outcomes = outcomes[:0]
				mu.Lock()
				for _, c := range r.Claims {
					seen[c.Key]++
					outcomes = append(outcomes, delivered(c))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	k.equal(len(seen), total)
	for key, n := range seen {
		k.that(n == 1, "%s was claimed %d times", key, n)
	}
}

var concurrencyTests = []test{
	{rule: "of many callers who accept one event exactly one adds it", run: func(k *kit) {
		w := k.webhook()
		m := k.messages(w, 1)[0]
		var accepted, pending atomic.Int32
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}})
				if err != nil || r.Messages[0].Err != nil || len(r.Messages[0].Deliveries) != 1 {
					k.Errorf("got %+v, error: %v", r, err)
					return
				}
				switch r.Messages[0].Deliveries[0].Status {
				case diverted.Accepted:
					accepted.Add(1)
				case diverted.AlreadyPending:
					pending.Add(1)
				}
			})
		}
		wg.Wait()
		k.equal([]int32{accepted.Load(), pending.Load()}, []int32{1, 15})
		k.claims(m.Event)
	}},

	{rule: "what is accepted while its webhook changes is added, and nobody is told otherwise", run: func(k *kit) {
		w := k.webhook()
		messages := k.messages(w, 400)
		accepting, stop := context.WithCancel(k.ctx)
		var changes, accepts sync.WaitGroup
		changes.Go(func() {
			for accepting.Err() == nil {
				if err := errors.Join(k.store.Suspend(k.ctx, w.Key()), k.store.Unsuspend(k.ctx, w.Key())); err != nil {
					k.Error(err)
					return
				}
			}
		})
		for part := range slices.Chunk(messages, 50) {
			accepts.Go(func() {
				for _, m := range part {
					r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}})
					if err != nil || r.Messages[0].Err != nil || r.Messages[0].Deliveries[0].Status != diverted.Accepted {
						k.Errorf("got %+v, error: %v", r, err)
						return
					}
				}
			})
		}
		accepts.Wait()
		stop()
		changes.Wait()
		page, err := k.store.ListPending(k.ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: diverted.MaxPage})
		k.ok(err)
		k.equal(len(page.Deliveries), len(messages))
	}},

	{rule: "of many creations of one webhook exactly one wins", run: func(k *kit) {
		w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = k.store.CreateWebhook(k.ctx, w) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				k.fails(err, diverted.ErrConflict)
			}
		}
		k.equal(won, 1)
	}},

	{rule: "the cancellation or the fault of one caller does not fail the others", run: func(k *kit) {
		w := k.webhook()
		const n = 40
		messages := k.messages(w, n)
		errs := make([]error, n)
		results := make([]diverted.AcceptResult, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(k.ctx)
				defer cancel()
				request := diverted.AcceptRequest{Messages: messages[i : i+1]}
				switch i % 4 {
				case 1:
					wg.Go(cancel) // while it is under way, or before
				case 2:
					request.Messages[0].Webhook = ulid.Make() // unknown
				}
				results[i], errs[i] = k.store.Accept(ctx, request)
			})
		}
		wg.Wait()
		pending := map[ulid.ULID]bool{}
		for _, p := range k.pending(w) {
			pending[p.Event] = true
		}
		for i, m := range messages {
			switch {
			case i%4 == 1 && errs[i] != nil:
				k.fails(errs[i], context.Canceled) // and then the outcome is unknown
			case i%4 == 2:
				k.ok(errs[i])
				k.fails(results[i].Messages[0].Err, diverted.ErrNotFound)
			default:
				k.ok(errs[i])
				k.ok(results[i].Messages[0].Err)
				k.that(pending[m.Event], "an accepted event is not pending")
			}
		}
	}},

	{rule: "a call with a context that has ended fails by it, and the store goes on", run: func(k *kit) {
		w := k.webhook()
		ctx, cancel := context.WithCancel(k.ctx)
		cancel()
		for _, c := range calls {
			err := c.call(ctx, k, w)
			if !errors.Is(err, context.Canceled) {
				k.Errorf("%s: error is %v, want one that is %v", c.method, err, context.Canceled)
			}
		}
		k.sameWebhook(k.fetch(w), w)
		k.send(w, 1)
		k.claimOne()
	}},

	{rule: "everything at once loses nothing and doubles nothing", run: func(k *kit) {
		const webhooks, events = 4, 50
		var hooks []diverted.Webhook
		for range webhooks {
			hooks = append(hooks, k.webhook())
		}
		var messages [][]diverted.Message
		for _, w := range hooks {
			messages = append(messages, k.messages(w, events))
		}
		var accepted, done atomic.Int32
		var wg sync.WaitGroup
		for i, w := range hooks {
			wg.Go(func() { // a host that sends, each event twice
				for _, m := range messages[i] {
					for range 2 {
						r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}})
						if err != nil {
							k.Errorf("accept: %v", err)
						} else if r.Messages[0].Deliveries[0].Status == diverted.Accepted {
							accepted.Add(1)
						}
					}
				}
			})
			wg.Go(func() { // an operator who resends, looks, suspends and unsuspends
				for range 20 {
					page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: w.Key()})
					if err != nil {
						k.Errorf("list: %v", err)
					}
					for _, e := range page.Events {
						if err := k.store.Resend(k.ctx, e.Key); err != nil && !errors.Is(err, diverted.ErrNotFound) && !errors.Is(err, diverted.ErrSuspended) {
							k.Errorf("resend: %v", err)
						}
					}
					if err := k.store.Unsuspend(k.ctx, w.Key()); err != nil {
						k.Errorf("unsuspend: %v", err)
					}
				}
			})
		}
		for worker := range 4 {
			wg.Go(func() { // workers, whose attempts end in every way
				var outcomes []diverted.Outcome
				for range 60 {
					r, err := k.store.Work(k.ctx, diverted.WorkRequest{Outcomes: outcomes, Claim: upTo(8)})
					if err != nil {
						k.Errorf("work: %v", err)
						return
					}
					for i, s := range r.Settled {
						if s.Stale {
							k.Errorf("the outcome of %s is stale", outcomes[i].Key)
						} else if outcomes[i].Kind == diverted.OutcomeDelivered {
							done.Add(1)
						}
					}
					outcomes = outcomes[:0]
					for i, c := range r.Claims {
						switch (i + worker) % 5 {
						case 0:
							outcomes = append(outcomes, retry(c, 0))
						case 1:
							outcomes = append(outcomes, of(c, diverted.OutcomeDivert))
						case 2:
							outcomes = append(outcomes, hold(c))
						case 3:
							outcomes = append(outcomes, of(c, diverted.OutcomeReturn))
						default:
							outcomes = append(outcomes, delivered(c))
						}
					}
				}
				for i := range outcomes {
					outcomes[i].Kind = diverted.OutcomeReturn
				}
				if _, err := k.store.Work(k.ctx, diverted.WorkRequest{Outcomes: outcomes}); err != nil {
					k.Errorf("work: %v", err)
				}
			})
		}
		wg.Wait()
		left := 0
		for _, w := range hooks {
			k.unsuspend(w)
			left += len(k.pending(w)) + len(k.diverted(w))
		}
		k.that(int(accepted.Load()) >= webhooks*events, "accepted %d", accepted.Load())
		k.equal(left+int(done.Load()), int(accepted.Load()))
		due := 0
		for {
			claims := k.claim(1000)
			if len(claims) == 0 {
				break
			}
			due += len(claims)
		}
		pending := 0
		for _, w := range hooks {
			pending += len(k.pending(w))
		}
		k.equal(due, pending)
	}},

	{rule: "a page that says that there is more is full, whatever is settled and deleted meanwhile", run: func(k *kit) {
		const total, limit = 400, 3
		w, listed := k.webhook(), k.webhook()
		var diverting []diverted.DivertedEvent
		for range total {
			e := k.hostEvent(listed.Key())
			k.divert(e)
			diverting = append(diverting, e)
		}
		k.send(w, total)
		working, stop := context.WithCancel(k.ctx)
		var lists sync.WaitGroup
		full := func(what string, page func() (n int, more bool, err error)) {
			lists.Go(func() {
				for empty := false; working.Err() == nil; {
					n, more, err := page()
					switch {
					case err != nil:
						k.Errorf("list: %v", err)
						return
					case more && n < limit:
						k.Errorf("a page of %d %s, of %d, says that there is more", n, what, limit)
						return
					case empty && n > 0:
						k.Errorf("%s after a page that was empty", what)
						return
					}
					empty = n == 0
				}
			})
		}
		full("pending deliveries", func() (int, bool, error) {
			p, err := k.store.ListPending(k.ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: limit})
			return len(p.Deliveries), p.More, err
		})
		filtered := diverted.DivertedFilter{Trigger: diverting[0].Failure.Trigger}
		full("diverted events", func() (int, bool, error) {
			p, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: listed.Key(), Limit: limit, Filter: filtered})
			return len(p.Events), p.More, err
		})
		var work sync.WaitGroup
		work.Go(func() { k.claimConcurrently(2, total, func() *diverted.ClaimRequest { return upTo(2) }) })
		work.Go(func() {
			for _, e := range diverting {
				if err := k.store.DeleteDiverted(k.ctx, e.Key); err != nil {
					k.Errorf("delete: %v", err)
				}
			}
		})
		work.Wait()
		stop()
		lists.Wait()
	}},

	{rule: "claims of one webhook do not change while it is updated", run: func(k *kit) {
		w := k.webhook(everything, func(w *diverted.Webhook) { w.Enabled = true })
		k.send(w, 1)
		c := k.claimOne()
		var wg sync.WaitGroup
		wg.Go(func() { // the race detector sees a store that changes what it handed out
			for range 50 {
				if c.Webhook.Endpoint.Tag != w.Endpoint.Tag || c.Webhook.Suspended() {
					k.Errorf("the claim's webhook changed")
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				put := w
				put.Endpoint.Tag = "another"
				if _, err := k.store.PutWebhook(k.ctx, put); err != nil {
					k.Errorf("put: %v", err)
				}
				if err := k.store.Suspend(k.ctx, w.Key()); err != nil {
					k.Errorf("suspend: %v", err)
				}
			}
		})
		wg.Wait()
	}},
}

// calls are all methods of a store, on a webhook.
var calls = []struct {
	method string
	call   func(ctx context.Context, k *kit, w diverted.Webhook) error
}{
	{"Divert", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		return k.store.Divert(ctx, k.hostEvent(w.Key()))
	}},
	{"FetchDiverted", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.FetchDiverted(ctx, diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: ulid.Make()})
		return err
	}},
	{"ListDiverted", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: w.Key()})
		return err
	}},
	{"Resend", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		return k.store.Resend(ctx, diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: ulid.Make()})
	}},
	{"DeleteDiverted", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		return k.store.DeleteDiverted(ctx, diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: ulid.Make()})
	}},
	{"PutWebhook", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.PutWebhook(ctx, w)
		return err
	}},
	{"CreateWebhook", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		w.Locator = ulid.Make()
		_, err := k.store.CreateWebhook(ctx, w)
		return err
	}},
	{"UpdateWebhook", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.UpdateWebhook(ctx, w)
		return err
	}},
	{"FetchWebhook", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.FetchWebhook(ctx, w.Key())
		return err
	}},
	{"ListWebhooks", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.ListWebhooks(ctx, diverted.WebhookQuery{Tenant: w.Tenant})
		return err
	}},
	{"DeleteWebhook", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		return k.store.DeleteWebhook(ctx, w.Key(), true)
	}},
	{"Suspend", func(ctx context.Context, k *kit, w diverted.Webhook) error { return k.store.Suspend(ctx, w.Key()) }},
	{"Unsuspend", func(ctx context.Context, k *kit, w diverted.Webhook) error { return k.store.Unsuspend(ctx, w.Key()) }},
	{"Accept", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.Accept(ctx, diverted.AcceptRequest{Messages: []diverted.Message{k.message(w.Key())}})
		return err
	}},
	{"Work", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.Work(ctx, diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 1, Bytes: 1, Lease: time.Minute}})
		return err
	}},
	{"ListPending", func(ctx context.Context, k *kit, w diverted.Webhook) error {
		_, err := k.store.ListPending(ctx, diverted.DivertedQuery{Webhook: w.Key()})
		return err
	}},
}

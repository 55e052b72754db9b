package storetest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// changes collects what a watcher is told.
type changes struct {
	mu   sync.Mutex
	told []diverted.Change
}

func (c *changes) add(change diverted.Change) {
	if change.Kind == diverted.ChangeDue {
		return // a store may hear of others at any time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, change)
}

func (c *changes) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.told)
}

// take returns what was told since the last time.
func (c *changes) take() []diverted.Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.told
	c.told = nil
	return told
}

// watcher returns the store's power to tell of changes, or skips the test.
func (k *kit) watcher() diverted.Watcher {
	w, ok := k.store.(diverted.Watcher)
	if !ok {
		k.Skip("the store is no Watcher, which is optional")
	}
	return w
}

var lifecycleTests = []test{
	{rule: "after Close every method returns ErrClosed, and closing again does nothing", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.ok(k.store.Close())
		for _, c := range calls {
			if err := c.call(k.ctx, k, w); !errors.Is(err, diverted.ErrClosed) {
				k.Errorf("%s: error is %v, want one that is %v", c.method, err, diverted.ErrClosed)
			}
		}
		k.ok(k.store.Close())
	}},

	{rule: "Close waits for the calls under way, and those after it find the store closed", run: func(k *kit) {
		w := k.webhook()
		messages := k.messages(w, 40)
		var wg sync.WaitGroup
		for i := range messages {
			wg.Go(func() {
				_, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: messages[i : i+1]})
				if err != nil && !errors.Is(err, diverted.ErrClosed) {
					k.Errorf("error is %v, want none or one that is %v", err, diverted.ErrClosed)
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				if err := k.store.Close(); err != nil {
					k.Errorf("close: %v", err)
				}
			})
		}
		wg.Wait()
	}},

	{rule: "a watcher is told of every change after it is committed, in turn, but not of Work's", run: func(k *kit) {
		var got changes
		stop := k.watcher().Watch(got.add)
		defer stop()
		told := func(want ...diverted.Change) {
			k.Helper()
			for range 100 { // told after the commit, which may be after the return
				if got.len() >= len(want) {
					break
				}
				time.Sleep(k.short / 10)
			}
			if all := got.take(); !slices.Equal(all, want) {
				k.Fatalf("told\n\t%v\nwant\n\t%v", all, want)
			}
		}
		change := func(kind diverted.ChangeKind, w diverted.Webhook, event ulid.ULID) diverted.Change {
			return diverted.Change{Kind: kind, Key: diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: event}}
		}
		none := ulid.ULID{}

		w := k.webhook()
		m := k.messages(w, 2)
		k.accept(m...)
		told(change(diverted.ChangeAccepted, w, m[0].Event), change(diverted.ChangeAccepted, w, m[1].Event))
		k.accept(m...) // pending already: no change

		c := k.claims(m[0].Event, m[1].Event)
		k.settle(of(c[0], diverted.OutcomeDivert), hold(c[1])) // Work's
		k.suspend(w)                                           // suspended already: no change
		k.unsuspend(w)
		told(change(diverted.ChangeUnsuspended, w, none))
		k.unsuspend(w) // no change
		k.suspend(w)
		told(change(diverted.ChangeSuspended, w, none))
		k.fails(k.store.Resend(k.ctx, c[0].Key), diverted.ErrSuspended) // refused: no change
		k.unsuspend(w)
		told(change(diverted.ChangeUnsuspended, w, none))

		k.ok(k.store.Resend(k.ctx, c[0].Key))
		told(change(diverted.ChangeResent, w, m[0].Event))
		k.fails(k.store.Resend(k.ctx, c[0].Key), diverted.ErrNotFound)
		e := k.hostEvent(w.Key())
		k.divert(e)
		told(change(diverted.ChangeDiverted, w, e.Event))
		k.ok(k.store.DeleteDiverted(k.ctx, e.Key))
		told(change(diverted.ChangeDeleted, w, e.Event))
		k.divert(e)
		told(change(diverted.ChangeDiverted, w, e.Event))
		k.ok(k.store.DeleteResent(k.ctx, k.fetchDiverted(e.Key)))
		told(change(diverted.ChangeDeleted, w, e.Event))

		k.disable(w)
		w.Enabled = true
		_, err := k.store.PutWebhook(k.ctx, w)
		k.ok(err)
		told(change(diverted.ChangeEnabled, w, none))
		w.MaxPerSecond = 7
		_, err = k.store.PutWebhook(k.ctx, w) // enabled already: no change that is told
		k.ok(err)
		k.disable(w)
		w = k.fetch(w)
		w.Enabled = true
		_, err = k.store.UpdateWebhook(k.ctx, w)
		k.ok(err)
		told(change(diverted.ChangeEnabled, w, none))
		k.disable(w)
		k.suspend(w)
		_, err = k.store.PutWebhook(k.ctx, w) // enabled, though still suspended
		k.ok(err)
		told(change(diverted.ChangeSuspended, w, none), change(diverted.ChangeEnabled, w, none))
	}},

	{rule: "a watcher is not told of what is handed back claimed", run: func(k *kit) {
		var got changes
		defer k.watcher().Watch(got.add)()
		w := k.webhook()
		m := k.messages(w, 4)
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: m, Claim: upTo(2)})
		k.ok(err)
		back := locators(r.Claims)
		for range 100 {
			if got.len() >= len(m)-len(back) {
				break
			}
			time.Sleep(k.short / 10)
		}
		var told []ulid.ULID
		for _, c := range got.take() {
			told = append(told, c.Key.Event)
		}
		k.equal(ascending(slices.Concat(told, back)), ascending(eventsOf(m)))
	}},

	{rule: "several watchers are told, each until it stops", run: func(k *kit) {
		var a, b changes
		w := k.webhook()
		stopA := k.watcher().Watch(a.add)
		stopB := k.watcher().Watch(b.add)
		k.send(w, 1)
		time.Sleep(k.short / 3)
		k.equal([]int{a.len(), b.len()}, []int{1, 1})
		stopA()
		k.send(w, 1)
		time.Sleep(k.short / 3)
		k.equal([]int{a.len(), b.len()}, []int{1, 2})
		stopB()
		stopB() // again does nothing
		k.send(w, 1)
		time.Sleep(k.short / 3)
		k.equal([]int{a.len(), b.len()}, []int{1, 2})
	}},
}

var durabilityTests = []test{
	{rule: "webhooks outlive a restart, with suspension, secrets and version", needs: restart, run: func(k *kit) {
		w := k.webhook(everything)
		k.suspend(w)
		_, err := k.store.PutWebhook(k.ctx, w)
		k.ok(err)
		want := k.fetch(w)
		k.reopen()
		k.sameWebhook(k.fetch(w), want)
	}},

	{rule: "deliveries outlive a restart, each as it was and in the order of acceptance", needs: restart, run: func(k *kit) {
		w := k.webhook()
		key := k.aside(w)
		k.ok(k.store.Resend(k.ctx, key))
		resent := k.claimOne()
		events := k.send(w, 5)
		c := k.claim(3)
		k.settle(retry(resent, long), retry(c[0], k.short), hold(c[1]))
		k.unsuspend(w)
		released := k.claims(append([]ulid.ULID{key.Event}, events[0], events[1], events[3], events[4])...)
		k.settle(retry(released[0], 0), retry(released[1], long), of(released[2], diverted.OutcomeReturn), of(released[3], diverted.OutcomeReturn), of(released[4], diverted.OutcomeReturn))
		before := k.pending(w)

		k.reopen()
		k.equal(k.pending(w), before)
		c2 := k.claims(key.Event, events[1], events[3], events[4]) // events[0] waits, events[2] is claimed still
		k.equal([]bool{c2[0].Diverted, c2[1].Diverted}, []bool{true, false})
		k.equal([]bool{c2[0].Released, c2[1].Released}, []bool{false, true})
		k.equal(c2[0].Attempts, 2)
		k.settle(delivered(c[2])) // its token is good still
	}},

	{rule: "a claim outlives a restart until its lease is over", needs: restart, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.work(diverted.WorkRequest{Claim: leased(upTo(1), k.short)}).Claims[0]
		k.reopen()
		k.claims()
		time.Sleep(k.short + k.short/10)
		again := k.claimOne()
		k.equal(again.Losses, 1)
		k.that(again.Token != c.Token, "a new claim has the old token")
		k.stale(delivered(c))
	}},

	{rule: "the epoch outlives a restart", needs: restart, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		k.suspend(w)
		k.unsuspend(w)
		k.reopen()
		k.equal(k.settle(hold(c)), []diverted.Settled{{}})
	}},

	{rule: "diverted events outlive a restart", needs: restart, run: func(k *kit) {
		w := k.webhook()
		e := k.hostEvent(w.Key())
		k.divert(e)
		k.aside(w)
		before := k.diverted(w)
		k.reopen()
		k.equal(k.diverted(w), before)
		k.sameEvent(k.fetchDiverted(e.Key), e)
	}},

	{rule: "notices outlive a restart", needs: restart, run: func(k *kit) {
		w, v := k.webhook(), k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		first := k.work(diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 1, Lease: k.short}}).Notices[0]
		k.fail(w, diverted.OutcomeDivert)
		k.fail(v, diverted.OutcomeDivert)
		k.reopen()
		open := k.notice()
		k.equal(open.Webhook.Key(), v.Key())
		time.Sleep(k.short + k.short/3)
		again := k.notice() // the process that sent it has died
		k.equal(again.Notice.Locator, first.Notice.Locator)
		k.equal(again.Notice.Failures, 1)
		k.told(again, 0)
		k.equal(k.notice().Notice.Failures, 1)
	}},

	{rule: "what was deleted stays so after a restart", needs: restart, run: func(k *kit) {
		w, v := k.webhook(), k.webhook()
		key := k.aside(v)
		k.ok(k.store.DeleteDiverted(k.ctx, key))
		k.aside(w)
		k.send(w, 100)
		k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))
		k.reopen()
		_, err := k.store.FetchWebhook(k.ctx, w.Key())
		k.fails(err, diverted.ErrNotFound)
		k.equal(len(k.pending(w))+len(k.diverted(w))+len(k.diverted(v)), 0)
		k.claims()
	}},

	{rule: "many restarts lose nothing that was accepted", needs: restart, run: func(k *kit) {
		w := k.webhook()
		var want []ulid.ULID
		for range 5 {
			want = append(want, k.send(w, 10)...)
			k.reopen()
		}
		k.claims(want...)
	}},
}

package storetest

import (
	"context"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// bulkCall is a method of [diverted.BulkStore].
type bulkCall func(context.Context, diverted.BulkRequest) (diverted.BulkResult, error)

func (k *kit) bulk() diverted.BulkStore { return k.store.(diverted.BulkStore) }

// toTheEnd drives a bulk call to its end, and returns what it did in all. between is called after every step.
func (k *kit) toTheEnd(call bulkCall, r diverted.BulkRequest, between func()) (matched, done, steps int) {
	k.Helper()
	for {
		result, err := call(k.ctx, r)
		k.ok(err)
		matched += result.Matched
		done += result.Done
		steps++
		k.that(!result.Before.IsZero(), "the result does not say up to when it went")
		if !result.More {
			return matched, done, steps
		}
		k.that(result.After.Compare(r.After) > 0, "a step did not advance")
		k.that(r.Before.IsZero() || result.Before.Equal(r.Before), "Before changed from %s to %s", r.Before, result.Before)
		r.After, r.Before = result.After, result.Before
		if between != nil {
			between()
		}
	}
}

// divertMany diverts n events to a webhook and returns them ascending.
func (k *kit) divertMany(w diverted.WebhookKey, n int) []ulid.ULID {
	k.Helper()
	var l []ulid.ULID
	for range n {
		e := k.hostEvent(w)
		k.divert(e)
		l = append(l, e.Event)
	}
	return ascending(l)
}

func (k *kit) divertedLocators(w diverted.WebhookKey) []ulid.ULID {
	k.Helper()
	page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: w, Limit: diverted.MaxPage})
	k.ok(err)
	var l []ulid.ULID
	for _, e := range page.Events {
		l = append(l, e.Event)
	}
	return l
}

var bulkTests = []test{
	{rule: "a bulk resend resends all, each as a resend does", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(retry(k.claimOne(), 0))
		first := k.claimOne()
		k.settle(of(first, diverted.OutcomeDivert))
		events := append([]ulid.ULID{first.Key.Event}, k.divertMany(w.Key(), 24)...)
		other := k.aside(k.webhook())

		matched, done, _ := k.toTheEnd(k.bulk().ResendAll, diverted.BulkRequest{Webhook: w.Key(), Limit: 10}, nil)
		k.equal([]int{matched, done}, []int{25, 25})
		k.equal(len(k.diverted(w)), 0)
		k.fetchDiverted(other)
		claims := k.claim(100)
		k.equal(ascending(locators(claims)), ascending(events))
		k.equal(claims[0].Key, first.Key) // accepted first
		for _, c := range claims {
			k.equal([]int{c.Attempts, c.Losses}, []int{0, 0})
			k.equal([]bool{c.Diverted, c.Released}, []bool{true, false})
		}
	}},

	{rule: "a step leaves out what was set aside, or accepted, at its Before or later, and says where it ended", needs: bulk, run: func(k *kit) {
		w, unknown := k.webhook(), diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}
		k.suspend(w)
		var events []ulid.ULID
		for range 3 {
			events = append(events, k.send(w, 1)...)
			e := k.hostEvent(unknown)
			e.Event = events[len(events)-1]
			k.divert(e)
			time.Sleep(5 * time.Millisecond)
		}
		accepted := make(map[ulid.ULID]time.Time)
		for _, p := range k.pending(w) {
			accepted[p.Event] = p.AcceptedAt
		}
		set := k.fetchDiverted(diverted.Key{Tenant: k.tenant, Webhook: unknown.Webhook, Event: events[1]}).DivertedAt
		steps := []struct {
			call bulkCall
			r    diverted.BulkRequest
		}{
			{k.bulk().DivertAll, diverted.BulkRequest{Webhook: w.Key(), Before: accepted[events[1]]}},
			{k.bulk().DeleteAll, diverted.BulkRequest{Webhook: unknown, Before: set}},
		}
		for _, step := range steps {
			for _, dry := range []bool{true, false} {
				step.r.DryRun = dry
				result, err := step.call(k.ctx, step.r)
				k.ok(err)
				k.equal([]int{result.Matched, result.Done}, []int{1, map[bool]int{false: 1}[dry]})
				k.equal(result.After, events[0])
			}
			step.r.After = events[0]
			for range 2 {
				result, err := step.call(k.ctx, step.r) // selects nothing more
				k.ok(err)
				k.that(result.Before.Equal(step.r.Before), "Before changed from %s to %s", step.r.Before, result.Before)
				k.equal(result.After, step.r.After)
				k.equal([]any{result.Matched, result.Done, result.More}, []any{0, 0, false})
				step.r.After = ulid.ULID{0xff}
			}
		}
		k.equal(len(k.pending(w)), 2)
		k.equal(k.divertedLocators(unknown), ascending(events[1:]))
	}},

	{rule: "what was held with a spent budget, set aside and resent has a budget as everything that is resent", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(hold(k.claimOne()))
		matched, done, _ := k.toTheEnd(k.bulk().DivertAll, diverted.BulkRequest{Webhook: w.Key()}, nil)
		k.equal([]int{matched, done}, []int{1, 1})
		k.equal(k.diverted(w)[0].Attempts, 1)
		k.unsuspend(w)
		k.ok(k.store.Resend(k.ctx, k.diverted(w)[0].Key))
		c := k.claimOne()
		k.equal(c.Attempts, 0)
		k.equal([]bool{c.Diverted, c.Released}, []bool{true, false})
	}},

	{rule: "a bulk delete deletes all", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		kept := k.send(w, 2)
		k.divertMany(w.Key(), 25)
		unknown := diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}
		k.divertMany(unknown, 25)
		for _, key := range []diverted.WebhookKey{w.Key(), unknown} {
			matched, done, _ := k.toTheEnd(k.bulk().DeleteAll, diverted.BulkRequest{Webhook: key, Limit: 10}, nil)
			k.equal([]int{matched, done}, []int{25, 25})
			k.equal(len(k.divertedLocators(key)), 0)
		}
		k.claims(kept...)
	}},

	{rule: "a bulk divert sets aside what a suspended or disabled webhook holds, with its last failure", needs: bulk, run: func(k *kit) {
		for _, w := range []diverted.Webhook{k.webhook(), k.webhook(disabled)} {
			events := ascending(k.send(w, 12))
			if w.Enabled {
				c := k.claim(2)
				k.settle(failed(c[0], diverted.OutcomeRetry, 7))
				k.suspend(w)
				// The other one is claimed, and its attempt settles into nothing.
				defer func() { k.stale(delivered(c[1])) }()
				defer func() { k.failures(c[0].Key, 7) }()
			}
			matched, done, _ := k.toTheEnd(k.bulk().DivertAll, diverted.BulkRequest{Webhook: w.Key(), Limit: 5}, nil)
			k.equal([]int{matched, done}, []int{12, 12})
			k.equal(k.divertedLocators(w.Key()), events)
			k.equal(len(k.pending(w)), 0)
			for _, e := range k.diverted(w) {
				k.at(e.DivertedAt, time.Now())
				if e.Attempts == 0 {
					k.equal(e.Failure.Trigger, diverted.TriggerTimeout)
					k.equal(e.Failure.Message, diverted.AsideOnRequest(time.Now()).Message)
					k.at(e.Failure.At, time.Now())
					e = k.fetchDiverted(e.Key)
					k.equal(e.Failures, []diverted.Failure{e.Failure})
				}
			}
		}
	}},

	{rule: "a bulk divert tells the attempts of a spent budget, until a claim begins a fresh one", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 2)
		for _, c := range k.claim(2) {
			k.settle(of(c, diverted.OutcomeHold))
		}
		c := k.claim(1)[0]
		k.suspend(w)
		k.settle(of(c, diverted.OutcomeReturn))
		k.toTheEnd(k.bulk().DivertAll, diverted.BulkRequest{Webhook: w.Key()}, nil)
		for _, e := range k.diverted(w) {
			want := 1
			if e.Key == c.Key {
				want = 0
			}
			k.equal(e.Attempts, want)
		}
	}},

	{rule: "what a bulk divert set aside is resent once its webhook is active, in the order of acceptance", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 3)
		k.suspend(w)
		k.toTheEnd(k.bulk().DivertAll, diverted.BulkRequest{Webhook: w.Key()}, nil)
		k.unsuspend(w)
		k.claims()
		k.toTheEnd(k.bulk().ResendAll, diverted.BulkRequest{Webhook: w.Key()}, nil)
		k.claims(events...)
	}},

	{rule: "a bulk divert of a webhook that is active, or of none, changes nothing", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 2)
		for _, dryRun := range []bool{false, true} {
			_, err := k.bulk().DivertAll(k.ctx, diverted.BulkRequest{Webhook: w.Key(), DryRun: dryRun})
			k.fails(err, diverted.ErrConflict)
			for _, none := range []diverted.WebhookKey{
				{Tenant: k.tenant, Webhook: ulid.Make()}, {Tenant: [16]byte{1}, Webhook: w.Locator},
			} {
				_, err = k.bulk().DivertAll(k.ctx, diverted.BulkRequest{Webhook: none, DryRun: dryRun})
				k.fails(err, diverted.ErrNotFound)
			}
		}
		k.claims(events...)
	}},

	{rule: "a bulk divert takes an event type, and nothing else of a filter", needs: bulk, run: func(k *kit) {
		w := k.webhook(disabled)
		a, b := k.message(w.Key()), k.message(w.Key())
		a.EventType, b.EventType = "order.paid", "invoice.sent"
		k.accept(a, b)
		r := diverted.BulkRequest{Webhook: w.Key(), Filter: diverted.DivertedFilter{EventType: "invoice.sent"}}
		matched, done, _ := k.toTheEnd(k.bulk().DivertAll, r, nil)
		k.equal([]int{matched, done}, []int{1, 1})
		k.equal(k.divertedLocators(w.Key()), []ulid.ULID{b.Event})
		for _, f := range []diverted.DivertedFilter{{Trigger: "503"}, {Since: time.Unix(1, 0)}, {Until: time.Now()}} {
			_, err := k.bulk().DivertAll(k.ctx, diverted.BulkRequest{Webhook: w.Key(), Filter: f})
			k.fails(err, diverted.ErrInvalid)
		}
	}},

	{rule: "a dry run counts, step by step, and changes nothing", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		k.divertMany(w.Key(), 25)
		before := k.diverted(w)
		held := k.webhook(disabled)
		k.send(held, 25)
		for _, tt := range []struct {
			call    bulkCall
			webhook diverted.WebhookKey
		}{
			{k.bulk().ResendAll, w.Key()}, {k.bulk().DeleteAll, w.Key()}, {k.bulk().DivertAll, held.Key()},
		} {
			matched, done, steps := k.toTheEnd(tt.call, diverted.BulkRequest{Webhook: tt.webhook, Limit: 10, DryRun: true}, nil)
			k.equal([]int{matched, done, steps}, []int{25, 0, 3})
		}
		k.equal(k.diverted(w), before)
		k.equal(len(k.pending(held)), 25)
		k.claims()
	}},

	{rule: "a bulk resend that its webhook does not let go changes nothing, and a dry run of it counts", needs: bulk, run: func(k *kit) {
		off, sleeping, both := k.webhook(disabled), k.webhook(), k.webhook(disabled)
		k.suspend(sleeping)
		k.suspend(both)
		for _, tt := range []struct {
			webhook diverted.WebhookKey
			want    error
		}{
			{diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}, diverted.ErrWebhookUnknown},
			{off.Key(), diverted.ErrDisabled},
			{sleeping.Key(), diverted.ErrSuspended},
			{both.Key(), diverted.ErrDisabled},
		} {
			events := k.divertMany(tt.webhook, 3)
			_, err := k.bulk().ResendAll(k.ctx, diverted.BulkRequest{Webhook: tt.webhook})
			k.fails(err, tt.want)
			k.equal(k.divertedLocators(tt.webhook), events)
			matched, _, _ := k.toTheEnd(k.bulk().ResendAll, diverted.BulkRequest{Webhook: tt.webhook, DryRun: true}, nil)
			k.equal(matched, 3)
		}
		k.claims()
	}},

	{rule: "bulk calls take what their filter selects", needs: bulk, run: func(k *kit) {
		w := diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}
		all := k.mixed(w)
		for _, f := range filters(all) {
			for _, call := range []bulkCall{k.bulk().ResendAll, k.bulk().DeleteAll} {
				matched, _, _ := k.toTheEnd(call, diverted.BulkRequest{Webhook: w, Filter: f, DryRun: true, Limit: 7}, nil)
				k.that(matched == len(selected(all, f)), "%+v selects %d, want %d", f, matched, len(selected(all, f)))
			}
		}
		f := diverted.DivertedFilter{Trigger: "5xx", EventType: "order.paid"}
		gone := selected(all, f)
		matched, done, _ := k.toTheEnd(k.bulk().DeleteAll, diverted.BulkRequest{Webhook: w, Filter: f, Limit: 2}, nil)
		k.equal([]int{matched, done}, []int{len(gone), len(gone)})
		left := slices.DeleteFunc(selected(all, diverted.DivertedFilter{}), func(l ulid.ULID) bool { return slices.Contains(gone, l) })
		k.equal(k.divertedLocators(w), left)
	}},

	{rule: "what is diverted after the first step of a bulk call is not taken", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		k.divertMany(w.Key(), 20)
		var later []ulid.ULID
		add := func() {
			time.Sleep(k.short / 10)
			for range 3 {
				e := k.hostEvent(w.Key())
				e.Event = ulid.ULID{0: 0xff, 15: byte(len(later))} // behind all others
				k.divert(e)
				later = append(later, e.Event)
			}
		}
		matched, done, _ := k.toTheEnd(k.bulk().DeleteAll, diverted.BulkRequest{Webhook: w.Key(), Limit: 6}, add)
		k.equal([]int{matched, done}, []int{20, 20})
		k.equal(k.divertedLocators(w.Key()), later)
	}},

	{rule: "a bulk call takes what was diverted just now", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		k.divertMany(w.Key(), 3)
		matched, _, _ := k.toTheEnd(k.bulk().DeleteAll, diverted.BulkRequest{Webhook: w.Key()}, nil)
		k.equal(matched, 3)
	}},

	{rule: "a bulk call of an unknown webhook, or of another tenant's, finds nothing", needs: bulk, run: func(k *kit) {
		w := k.webhook()
		events := k.divertMany(w.Key(), 3)
		for _, key := range []diverted.WebhookKey{{Tenant: k.tenant, Webhook: ulid.Make()}, {Tenant: [16]byte{1}, Webhook: w.Locator}} {
			for _, dryRun := range []bool{false, true} {
				result, err := k.bulk().DeleteAll(k.ctx, diverted.BulkRequest{Webhook: key, DryRun: dryRun})
				k.ok(err)
				k.that(result.Matched == 0 && !result.More, "got %+v", result)
			}
		}
		k.equal(k.divertedLocators(w.Key()), events)
	}},

	{rule: "a bulk request that breaks a rule is invalid", needs: bulk, run: func(k *kit) {
		w := k.webhook(disabled).Key()
		for _, r := range []diverted.BulkRequest{
			{Webhook: w, Limit: -1},
			{Webhook: w, Limit: diverted.MaxBulk + 1},
			{Webhook: w, Filter: diverted.DivertedFilter{Trigger: "200"}},
		} {
			for _, call := range []bulkCall{k.bulk().ResendAll, k.bulk().DeleteAll, k.bulk().DivertAll} {
				_, err := call(k.ctx, r)
				k.fails(err, diverted.ErrInvalid)
			}
		}
	}},

	{rule: "bulk calls are told to watchers as single ones are", needs: bulk, run: func(k *kit) {
		watcher, ok := k.store.(diverted.Watcher)
		if !ok {
			k.Skip("needs a store that is a Watcher")
		}
		w := k.webhook()
		k.divertMany(w.Key(), 6)
		k.suspend(w)
		told := make(chan diverted.Change, 100)
		stop := watcher.Watch(func(c diverted.Change) {
			if c.Kind != diverted.ChangeDue {
				told <- c
			}
		})
		defer stop()
		// tells fails the test unless the call is told with all it took.
		tells := func(call bulkCall, limit int, kind diverted.ChangeKind, events []ulid.ULID) {
			k.Helper()
			result, err := call(k.ctx, diverted.BulkRequest{Webhook: w.Key(), Limit: limit})
			k.ok(err)
			k.equal(result.Done, len(events))
			var got []ulid.ULID
			for range events {
				select {
				case c := <-told:
					k.equal(c.Kind, kind)
					got = append(got, c.Key.Event)
				case <-time.After(long):
					k.Fatalf("%d of %d were told", len(got), len(events))
				}
			}
			k.equal(ascending(got), events)
			k.equal(len(told), 0)
		}
		tells(k.bulk().DeleteAll, 2, diverted.ChangeDeleted, k.divertedLocators(w.Key())[:2])
		sent := ascending(k.send(w, 2))
		for range sent {
			k.equal((<-told).Kind, diverted.ChangeAccepted)
		}
		tells(k.bulk().DivertAll, 0, diverted.ChangeDiverted, sent)
		k.unsuspend(w)
		k.equal((<-told).Kind, diverted.ChangeUnsuspended)
		tells(k.bulk().ResendAll, 0, diverted.ChangeResent, k.divertedLocators(w.Key()))
	}},
}

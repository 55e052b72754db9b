package storetest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// hostEvent is an event that a host diverts, which delivers by itself.
func (k *kit) hostEvent(w diverted.WebhookKey) diverted.DivertedEvent {
	k.Helper()
	m := k.message(w)
	return diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: w.Tenant, Webhook: w.Webhook, Event: m.Event},
		RequestLocator: m.RequestLocator,
		Failure:        *unavailable(),
		EventType:      m.EventType,
		Attempts:       4,
		Body:           m.Body,
	}
}

func (k *kit) divert(e diverted.DivertedEvent) {
	k.Helper()
	k.ok(k.store.Divert(k.ctx, e))
}

func (k *kit) fetchDiverted(key diverted.Key) diverted.DivertedEvent {
	k.Helper()
	e, err := k.store.FetchDiverted(k.ctx, key)
	k.ok(err)
	return e
}

// sameEvent fails the test unless both are the same but for the times that the store sets, and for their
// failures before the last, which have tests of their own.
func (k *kit) sameEvent(got, want diverted.DivertedEvent) {
	k.Helper()
	got.Failure, want.Failure = utc(got.Failure), utc(want.Failure)
	got.Failures, want.Failures = nil, nil
	got.AcceptedAt, got.DivertedAt, want.AcceptedAt, want.DivertedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	k.equal(got, want)
}

var divertedTests = []test{
	{rule: "an event that a host diverts comes back exactly, though its webhook is not known", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		e.AcceptedAt, e.DivertedAt = time.Unix(1, 0), time.Unix(2, 0) // the store's, not the caller's
		k.divert(e)
		got := k.fetchDiverted(e.Key)
		k.sameEvent(got, e)
		k.at(got.AcceptedAt, time.Now())
		k.at(got.DivertedAt, time.Now())
	}},

	{rule: "a failure without a time is of now", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		e.Failure.At = time.Time{}
		k.divert(e)
		k.at(k.fetchDiverted(e.Key).Failure.At, time.Now())
	}},

	{rule: "a failure's texts are cut to their bounds, and have one line", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		e.Failure.Message, e.Failure.Excerpt = "no\nanswer", strings.Repeat("x", 50_000)
		k.divert(e)
		got := k.fetchDiverted(e.Key).Failure
		k.equal(got.Message, `no\nanswer`)
		k.that(len(got.Excerpt) <= 1<<10 && strings.HasPrefix(got.Excerpt, "xxx"), "%d bytes of excerpt", len(got.Excerpt))
		page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: e.WebhookKey()})
		k.ok(err)
		k.equal(page.Events[0].Failure, got)
	}},

	{rule: "what its host delivered by itself is deleted, unless it was diverted again since", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		k.fails(k.store.DeleteResent(k.ctx, e), diverted.ErrNotFound)
		k.divert(e)
		first := k.fetchDiverted(e.Key)
		k.divert(e) // within the same millisecond, perhaps
		again := k.fetchDiverted(e.Key)
		k.that(again.DivertedAt.After(first.DivertedAt), "it was diverted at %s, and again at %s", first.DivertedAt, again.DivertedAt)
		k.fails(k.store.DeleteResent(k.ctx, first), diverted.ErrConflict)
		foreign := again
		foreign.Tenant = uuid.New()
		k.fails(k.store.DeleteResent(k.ctx, foreign), diverted.ErrNotFound)
		k.equal(k.fetchDiverted(e.Key).DivertedAt, again.DivertedAt)
		k.ok(k.store.DeleteResent(k.ctx, again))
		_, err := k.store.FetchDiverted(k.ctx, e.Key)
		k.fails(err, diverted.ErrNotFound)
		k.fails(k.store.DeleteResent(k.ctx, again), diverted.ErrNotFound)
	}},

	{rule: "diverting again replaces the failure, the attempts and the time, and keeps all else", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		k.divert(e)
		first := k.fetchDiverted(e.Key)
		time.Sleep(k.short / 10)
		e.Failure = diverted.Failure{Trigger: diverted.TriggerTimeout, Message: "connection refused", At: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)}
		e.Attempts++
		other := k.hostEvent(e.WebhookKey())
		other.Key, other.Failure, other.Attempts = e.Key, e.Failure, e.Attempts
		other.EventType, other.Body = "another.type", []byte(`{"another":"body"}`)
		k.divert(other)
		again := k.fetchDiverted(e.Key)
		k.sameEvent(again, e)
		k.equal(again.AcceptedAt.UTC(), first.AcceptedAt.UTC())
		k.that(again.DivertedAt.After(first.DivertedAt), "it was diverted at %s, and again at %s", first.DivertedAt, again.DivertedAt)
		page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: e.WebhookKey()})
		k.ok(err)
		k.equal(len(page.Events), 1)
	}},

	{rule: "an event that is pending cannot be diverted by a host", run: func(k *kit) {
		w := k.webhook()
		e := k.hostEvent(w.Key())
		e.Event = k.send(w, 1)[0]
		k.fails(k.store.Divert(k.ctx, e), diverted.ErrConflict)
		k.equal(len(k.diverted(w)), 0)
		c := k.claimOne()
		k.fails(k.store.Divert(k.ctx, e), diverted.ErrConflict) // in flight, too
		k.settle(of(c, diverted.OutcomeDivert))
		k.divert(e)
	}},

	{rule: "a diverted event that breaks a rule is invalid", run: func(k *kit) {
		for _, spoil := range []func(*diverted.DivertedEvent){
			func(e *diverted.DivertedEvent) { e.RequestLocator = ulid.ULID{} },
			func(e *diverted.DivertedEvent) { e.Failure.Trigger = diverted.Trigger5xx }, // a class is not what is observed
			func(e *diverted.DivertedEvent) { e.EventType = "" },
			func(e *diverted.DivertedEvent) { e.Body = nil },
		} {
			e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
			spoil(&e)
			k.fails(k.store.Divert(k.ctx, e), diverted.ErrInvalid)
			_, err := k.store.FetchDiverted(k.ctx, e.Key)
			k.fails(err, diverted.ErrNotFound)
		}
	}},

	{rule: "an event that is not diverted is not found", run: func(k *kit) {
		w := k.webhook()
		pending := diverted.Key{Tenant: k.tenant, Webhook: w.Locator, Event: k.send(w, 1)[0]}
		unknown := pending
		unknown.Event = ulid.Make()
		elsewhere := diverted.Key{Tenant: k.tenant, Webhook: ulid.Make(), Event: pending.Event}
		for _, key := range []diverted.Key{pending, unknown, elsewhere} {
			_, err := k.store.FetchDiverted(k.ctx, key)
			k.fails(err, diverted.ErrNotFound)
			k.fails(k.store.Resend(k.ctx, key), diverted.ErrNotFound)
			k.fails(k.store.DeleteDiverted(k.ctx, key), diverted.ErrNotFound)
		}
		k.claims(pending.Event)
	}},

	{rule: "the diverted events of an unknown webhook are none", run: func(k *kit) {
		page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}})
		k.ok(err)
		k.that(len(page.Events) == 0 && !page.More, "got %+v", page)
	}},

	{rule: "diverted events are listed without bodies", run: func(k *kit) {
		w := k.webhook()
		k.aside(w)
		e := k.hostEvent(w.Key())
		k.divert(e)
		for _, got := range k.diverted(w) {
			k.that(got.Body == nil, "a list has a body")
			want := k.fetchDiverted(got.Key)
			k.equal([]int64{got.AcceptedAt.UnixMilli(), got.DivertedAt.UnixMilli()}, []int64{want.AcceptedAt.UnixMilli(), want.DivertedAt.UnixMilli()})
			want.Body = nil
			k.sameEvent(got, want)
		}
	}},

	{rule: "diverted events are listed ascending by event locator, page by page, and deletions in between skip nothing", run: func(k *kit) {
		w := k.webhook()
		var want []ulid.ULID
		for _, m := range k.messages(w, 25) { // in no order of time
			e := k.hostEvent(w.Key())
			e.Event = m.Event
			k.divert(e)
			want = append(want, e.Event)
		}
		k.aside(k.webhook()) // another's
		want = ascending(want)

		list := func(q diverted.DivertedQuery) ([]ulid.ULID, bool) {
			q.Webhook = w.Key()
			page, err := k.store.ListDiverted(k.ctx, q)
			k.ok(err)
			var l []ulid.ULID
			for _, e := range page.Events {
				l = append(l, e.Event)
			}
			return l, page.More
		}
		checkPages(k, want, list)

		got := pages(k, 10, func(after ulid.ULID) ([]ulid.ULID, bool) {
			return list(diverted.DivertedQuery{After: after, Limit: 10})
		}, func(l ulid.ULID) ulid.ULID { return l }, func(page []ulid.ULID) {
			for _, l := range page {
				k.ok(k.store.DeleteDiverted(k.ctx, diverted.Key{Tenant: k.tenant, Webhook: w.Locator, Event: l}))
			}
		})
		k.equal(got, want)
	}},

	{rule: "a page of diverted events has 100 entries where a query names no number", run: func(k *kit) {
		w := k.webhook()
		for range diverted.DefaultPage + 1 {
			k.divert(k.hostEvent(w.Key()))
		}
		page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: w.Key()})
		k.ok(err)
		k.equal(len(page.Events), diverted.DefaultPage)
		k.that(page.More, "the list is said to end at its default page")
	}},

	{rule: "a resend makes a diverted event pending again, due now, with a fresh budget", run: func(k *kit) {
		w := k.webhook()
		m := k.messages(w, 1)[0]
		k.accept(m)
		k.settle(retry(k.claimOne(), 0))
		first := k.claimOne()
		k.settle(of(first, diverted.OutcomeDivert))
		key := first.Key
		k.equal(k.fetchDiverted(key).Attempts, 2)

		time.Sleep(2 * time.Millisecond) // so that it shows when it was accepted
		k.ok(k.store.Resend(k.ctx, key))
		_, err := k.store.FetchDiverted(k.ctx, key)
		k.fails(err, diverted.ErrNotFound)
		k.equal(len(k.diverted(w)), 0)
		p := k.pending(w)
		k.equal(len(p), 1)
		k.equal(p[0].Attempts, 0)
		k.that(p[0].Due.IsZero() && !p[0].Claimed, "%+v is not due", p[0])

		c := k.claimOne()
		k.equal(c.Key, key)
		k.equal([]int{c.Attempts, c.Losses}, []int{0, 0})
		k.equal([]bool{c.Diverted, c.Released}, []bool{true, false})
		k.equal(c.Body, m.Body)
		k.equal(c.AcceptedAt.UnixMilli(), first.AcceptedAt.UnixMilli())
		k.stale(of(first, diverted.OutcomeDrop))
		k.settle(delivered(c))
	}},

	{rule: "a resent delivery has its place in the order of acceptance again", run: func(k *kit) {
		w := k.webhook()
		hosts := k.hostEvent(w.Key())
		k.divert(hosts)
		events := k.send(w, 3)
		c := k.claims(events...)
		k.settle(of(c[0], diverted.OutcomeReturn), of(c[1], diverted.OutcomeDivert), of(c[2], diverted.OutcomeReturn))
		events = append(events, k.send(w, 1)...)
		k.ok(k.store.Resend(k.ctx, c[1].Key))
		k.ok(k.store.Resend(k.ctx, hosts.Key)) // accepted when it was diverted first
		k.claims(append([]ulid.ULID{hosts.Event}, events...)...)
	}},

	{rule: "a resent delivery is remembered as one through retries, holds and further resends", run: func(k *kit) {
		w := k.webhook()
		key := k.aside(w)
		k.ok(k.store.Resend(k.ctx, key))
		c := k.claimOne()
		k.equal(c.Diverted, true)
		k.settle(retry(c, 0))
		c = k.claimOne()
		k.equal(c.Diverted, true)
		k.settle(of(c, diverted.OutcomeHold))
		c = k.claimOne()
		k.equal([]bool{c.Diverted, c.Released}, []bool{true, true})
		k.settle(of(c, diverted.OutcomeDivert))
		k.equal(k.fetchDiverted(key).Attempts, 1) // since it was last resent, or held
		k.ok(k.store.Resend(k.ctx, key))
		c = k.claimOne()
		k.equal([]bool{c.Diverted, c.Released}, []bool{true, false})
	}},

	{rule: "a resend that its webhook does not let go changes nothing", run: func(k *kit) {
		unknown := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		k.divert(unknown)
		off, sleeping, both := k.webhook(disabled), k.webhook(), k.webhook(disabled)
		k.suspend(sleeping)
		k.suspend(both)
		for _, tt := range []struct {
			webhook diverted.WebhookKey
			want    error
		}{
			{unknown.WebhookKey(), diverted.ErrWebhookUnknown},
			{off.Key(), diverted.ErrDisabled},
			{sleeping.Key(), diverted.ErrSuspended},
			{both.Key(), diverted.ErrDisabled},
		} {
			e := k.hostEvent(tt.webhook)
			k.divert(e)
			k.fails(k.store.Resend(k.ctx, e.Key), tt.want)
			k.sameEvent(k.fetchDiverted(e.Key), e)
			e.Event = ulid.Make()
			k.fails(k.store.Resend(k.ctx, e.Key), diverted.ErrNotFound) // the event comes before its webhook
		}
		k.claims()
	}},

	{rule: "a webhook that is not known is deleted as others are, if it has diverted events", run: func(k *kit) {
		w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
		e := k.hostEvent(w.Key())
		for range 2 { // each time as if it had never been
			k.divert(e)
			k.divert(k.hostEvent(w.Key()))
			d, err := k.store.FetchDiverted(k.ctx, e.Key)
			k.ok(err)
			k.equal(len(d.Failures), 1)
			k.equal(len(k.diverted(w)), 2)

			elsewhere := w.Key()
			elsewhere.Tenant = uuid.New()
			k.fails(k.store.DeleteWebhook(k.ctx, elsewhere, true), diverted.ErrNotFound)
			k.fails(k.store.DeleteWebhook(k.ctx, w.Key(), false), diverted.ErrNotEmpty)
			k.equal(len(k.diverted(w)), 2)
			k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))
			k.equal(len(k.diverted(w)), 0)
			_, err = k.store.FetchDiverted(k.ctx, e.Key)
			k.fails(err, diverted.ErrNotFound)
			k.fails(k.store.DeleteWebhook(k.ctx, w.Key(), true), diverted.ErrNotFound)
		}
		k.divert(e)
		k.ok(k.store.DeleteDiverted(k.ctx, e.Key))
		k.fails(k.store.DeleteWebhook(k.ctx, w.Key(), true), diverted.ErrNotFound) // nothing is left of it

		created, err := k.store.CreateWebhook(k.ctx, w)
		k.ok(err)
		k.equal(created.Version, int64(1))
		k.equal(len(k.diverted(w)), 0)
	}},

	{rule: "an event diverted to an unknown webhook is the webhook's once it is created", run: func(k *kit) {
		w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
		e := k.hostEvent(w.Key())
		k.divert(e)
		_, err := k.store.FetchWebhook(k.ctx, w.Key())
		k.fails(err, diverted.ErrNotFound)
		k.fails(k.store.Suspend(k.ctx, w.Key()), diverted.ErrNotFound)
		list, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant})
		k.ok(err)
		k.equal(len(list.Webhooks), 0)
		k.equal(len(k.accept(k.message(diverted.WebhookKey{Tenant: k.tenant}))[0].Deliveries), 0)

		_, err = k.store.CreateWebhook(k.ctx, w)
		k.ok(err)
		k.ok(k.store.Resend(k.ctx, e.Key))
		c := k.claimOne()
		k.equal(c.Key, e.Key)
		k.equal(c.EventType, e.EventType)
		k.equal(c.RequestLocator, e.RequestLocator)
		k.equal(c.Body, e.Body)
	}},

	{rule: "a deleted diverted event is gone for good", run: func(k *kit) {
		w := k.webhook()
		key := k.aside(w)
		k.ok(k.store.DeleteDiverted(k.ctx, key))
		_, err := k.store.FetchDiverted(k.ctx, key)
		k.fails(err, diverted.ErrNotFound)
		k.fails(k.store.DeleteDiverted(k.ctx, key), diverted.ErrNotFound)
		k.fails(k.store.Resend(k.ctx, key), diverted.ErrNotFound)
		k.equal(len(k.diverted(w))+len(k.pending(w)), 0)
		k.claims()
	}},

	{rule: "of a resend and a delete that race exactly one wins", run: func(k *kit) {
		w := k.webhook()
		for range 20 {
			key := k.aside(w)
			var resent, deleted error
			var wg sync.WaitGroup
			wg.Go(func() { resent = k.store.Resend(k.ctx, key) })
			wg.Go(func() { deleted = k.store.DeleteDiverted(k.ctx, key) })
			wg.Wait()
			switch {
			case resent == nil && errors.Is(deleted, diverted.ErrNotFound):
				k.settle(delivered(k.claimOne()))
			case deleted == nil && errors.Is(resent, diverted.ErrNotFound):
				k.claims()
			default:
				k.Fatalf("resend: %v; delete: %v; want one of them to be nil and the other %v", resent, deleted, diverted.ErrNotFound)
			}
		}
	}},

	{rule: "of many resends of one event exactly one wins", run: func(k *kit) {
		w := k.webhook()
		key := k.aside(w)
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = k.store.Resend(k.ctx, key) })
		}
		wg.Wait()
		won := slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, diverted.ErrNotFound) })
		k.equal(won, []error{nil})
		k.claims(key.Event)
	}},

	{rule: "a fetched body is the caller's to change", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		want := slices.Clone(e.Body)
		k.divert(e)
		clear(e.Body)
		clear(k.fetchDiverted(e.Key).Body)
		k.equal(k.fetchDiverted(e.Key).Body, want)
	}},
}

// checkPages fails the test unless list gives these locators, of which there are 25, by every kind of page.
func checkPages(k *kit, want []ulid.ULID, list func(diverted.DivertedQuery) ([]ulid.ULID, bool)) {
	k.Helper()
	got := pages(k, 10, func(after ulid.ULID) ([]ulid.ULID, bool) {
		return list(diverted.DivertedQuery{After: after, Limit: 10})
	}, func(l ulid.ULID) ulid.ULID { return l }, nil)
	k.equal(got, want)
	before, gap := ulid.ULID{15: 1}, want[12]
	gap[15]++ // whether or not it is an event's
	for _, tt := range []struct {
		after         ulid.ULID
		offset, limit int
		want          []ulid.ULID
	}{
		{ulid.ULID{}, 0, 0, want},
		{ulid.ULID{}, 0, 25, want},
		{ulid.ULID{}, 5, 20, want[5:]},
		{ulid.ULID{}, 5, 19, want[5:24]},
		{ulid.ULID{}, 24, 5, want[24:]},
		{ulid.ULID{}, 25, 5, nil},
		{ulid.ULID{}, 1000, 5, nil},
		{want[9], 0, 5, want[10:15]},
		{want[9], 5, 5, want[15:20]},
		{want[24], 0, 5, nil},
		{before, 0, 5, want[:5]},
		{gap, 0, 5, after(want, gap)[:5]},
	} {
		got, more := list(diverted.DivertedQuery{After: tt.after, Offset: tt.offset, Limit: tt.limit})
		k.that(slices.Equal(got, tt.want), "after %s, offset %d, limit %d: got %v, want %v", tt.after, tt.offset, tt.limit, got, tt.want)
		left := len(after(want, tt.after)) - tt.offset - len(tt.want)
		k.that(more == (left > 0), "after %s, offset %d, limit %d: More is %v", tt.after, tt.offset, tt.limit, more)
	}
}

// after returns the locators that come after one, which need not be among them.
func after(l []ulid.ULID, one ulid.ULID) []ulid.ULID {
	return l[slices.IndexFunc(append(slices.Clone(l), ulid.ULID{255}), func(x ulid.ULID) bool { return x.Compare(one) > 0 }):]
}

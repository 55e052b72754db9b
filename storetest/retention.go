package storetest

import (
	"math"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

func (k *kit) retention() diverted.RetentionStore { return k.store.(diverted.RetentionStore) }

// purge purges in steps, to the end, and returns what was deleted of a webhook.
func (k *kit) purge(w diverted.WebhookKey, r diverted.Retention, limit int) (all diverted.Purged) {
	k.Helper()
	all.Webhook = w
	for {
		result, err := k.retention().Purge(k.ctx, diverted.PurgeRequest{Retention: r, Limit: limit})
		k.ok(err)
		n := 0
		for _, p := range result.Webhooks {
			k.that(p.Diverted+p.Pending > 0, "nothing was deleted of %s, and it is told", p.Webhook)
			n += p.Diverted + p.Pending
			if p.Webhook == w {
				all.Diverted += p.Diverted
				all.Pending += p.Pending
			}
		}
		if limit > 0 {
			k.that(n <= limit, "%d were deleted, and %d were allowed", n, limit)
		}
		if !result.More {
			return all
		}
		k.that(n > 0, "there is said to be more to delete, and nothing was deleted")
	}
}

var retentionTests = []test{
	{rule: "what was diverted longer ago than the age is purged, the oldest first", needs: retention | exactTime, run: func(k *kit) {
		w := k.webhook()
		unknown := diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}
		var events []ulid.ULID
		for range 5 {
			e := k.hostEvent(w.Key())
			e.Event = ulid.ULID{0: byte(100 - len(events))} // in no order of time
			k.divert(e)
			events = append(events, e.Event)
			k.divertMany(unknown, 1)
			time.Sleep(time.Hour)
		}
		kept := k.send(w, 2) // pending, at a webhook that is active
		r := diverted.Retention{MaxAge: 3 * time.Hour}
		result, err := k.retention().Purge(k.ctx, diverted.PurgeRequest{Retention: r, Limit: 1})
		k.ok(err)
		k.equal(result.More, true)
		k.purge(w.Key(), r, 1)
		k.equal(k.divertedLocators(w.Key()), ascending(events[3:]))
		k.equal(len(k.divertedLocators(unknown)), 2)
		k.equal(k.purge(w.Key(), r, 0), diverted.Purged{Webhook: w.Key()})
		k.claims(kept...)
	}},

	{rule: "an event is as old as when it was diverted last", needs: retention | exactTime, run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		k.divert(e)
		time.Sleep(time.Hour)
		k.divert(e)
		k.purge(e.WebhookKey(), diverted.Retention{MaxAge: time.Hour}, 0)
		k.fetchDiverted(e.Key)
		time.Sleep(time.Hour)
		k.purge(e.WebhookKey(), diverted.Retention{MaxAge: time.Hour}, 0)
		_, err := k.store.FetchDiverted(k.ctx, e.Key)
		k.fails(err, diverted.ErrNotFound)
	}},

	{rule: "what is beyond the cap of a webhook is purged, the oldest first", needs: retention, run: func(k *kit) {
		w := diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}
		var events []ulid.ULID
		for range 7 {
			e := k.hostEvent(w)
			e.Event = ulid.ULID{0: byte(100 - len(events))}
			k.divert(e)
			events = append(events, e.Event)
			time.Sleep(2 * time.Millisecond)
		}
		// Of another webhook too, in a store that tests share: a cap that spares them.
		k.equal(k.purge(w, diverted.Retention{MaxPerWebhook: 4}, 2).Diverted, 3)
		k.equal(k.divertedLocators(w), ascending(events[3:]))
		k.equal(k.purge(w, diverted.Retention{MaxPerWebhook: 4}, 2).Diverted, 0)
	}},

	{rule: "what suspended and disabled webhooks hold is purged too, but what is claimed", needs: retention, run: func(k *kit) {
		busy, off := k.webhook(), k.webhook(disabled)
		k.send(busy, 7)
		offs := k.send(off, 7)
		c := k.claim(3)
		k.settle(retry(c[1], long), of(c[2], diverted.OutcomeHold))
		k.suspend(busy)
		kept := k.webhook()
		k.send(kept, 7) // active

		r := diverted.Retention{MaxPerWebhook: 3}
		k.equal(k.purge(off.Key(), r, 2).Pending, 4)
		var left []ulid.ULID
		for _, p := range k.pending(off) {
			left = append(left, p.Event)
		}
		k.equal(left, ascending(offs[4:]))
		k.equal(len(k.pending(busy)), 3)
		k.equal(k.pending(busy)[len(k.pending(busy))-1].Claimed || k.pending(busy)[0].Claimed || k.pending(busy)[1].Claimed, true)
		k.equal(len(k.pending(kept)), 7)
		k.settle(delivered(c[0]))
		k.unsuspend(busy)
		k.equal(len(k.claim(20)), 9)
	}},

	{rule: "what waits for a retry is purged in the order of acceptance, and what is claimed keeps its claim", needs: retention | exactTime, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 7)
		c := k.work(diverted.WorkRequest{Claim: leased(upTo(6), time.Minute)}).Claims
		k.settle(retry(c[1], 3*time.Hour), retry(c[2], time.Hour), retry(c[4], 2*time.Hour))
		other := k.webhook()
		k.send(other, 1)
		time.Sleep(30 * time.Second)
		waits := k.claim(10) // the rest of both
		k.settle(retry(waits[0], time.Hour), retry(waits[1], time.Hour))
		k.suspend(w)
		k.equal(k.purge(w.Key(), diverted.Retention{MaxPerWebhook: 5}, 1).Pending, 2) // c[1] and c[2], as c[0] is claimed
		time.Sleep(time.Minute)
		k.equal(k.purge(w.Key(), diverted.Retention{MaxPerWebhook: 3}, 1).Pending, 2) // c[0], whose lease is over, and c[3]
		k.settle(delivered(c[5]))
		k.unsuspend(w)
		k.equal(len(k.claims(c[4].Key.Event, waits[0].Key.Event)), 2)
		k.equal(len(k.pending(other)), 1)
		k.that(!k.pending(other)[0].Due.IsZero(), "a retry of an active webhook waits no more")
	}},

	{rule: "what a suspended webhook holds is as old as its acceptance, if that came after the suspension", needs: retention | exactTime, run: func(k *kit) {
		w := k.webhook()
		old := k.send(w, 4)
		c := k.claim(2)
		k.settle(retry(c[1], 10*time.Hour))
		k.suspend(w)
		time.Sleep(time.Hour)
		young := k.send(w, 1)
		k.equal(k.purge(w.Key(), diverted.Retention{MaxAge: 61 * time.Minute}, 0).Pending, 0)
		time.Sleep(2 * time.Minute)
		// The lease is over, so nobody has it.
		k.equal(k.purge(w.Key(), diverted.Retention{MaxAge: time.Hour}, 1).Pending, len(old))
		k.unsuspend(w)
		k.claims(young...)
	}},

	{rule: "what was accepted before a suspension is as old as the suspension: retries, and what was resent, have their time", needs: retention | exactTime, run: func(k *kit) {
		w := k.webhook()
		resent := k.aside(w)
		k.send(w, 2)
		k.settle(retry(k.claim(1)[0], 10*time.Hour))
		time.Sleep(5 * time.Hour)
		k.ok(k.store.Resend(k.ctx, resent))
		k.suspend(w)
		r := diverted.Retention{MaxAge: time.Hour}
		k.equal(k.purge(w.Key(), r, 0).Pending, 0)
		time.Sleep(59 * time.Minute)
		k.equal(k.purge(w.Key(), r, 0).Pending, 0)
		k.unsuspend(w)
		k.suspend(w) // begins anew
		time.Sleep(59 * time.Minute)
		k.equal(k.purge(w.Key(), r, 0).Pending, 0)
		time.Sleep(2 * time.Minute)
		k.equal(k.purge(w.Key(), r, 0).Pending, 3)
	}},

	{rule: "what a webhook holds that is only disabled has no age, and the cap alone bounds it", needs: retention | exactTime, run: func(k *kit) {
		w := k.webhook(disabled)
		k.send(w, 3)
		time.Sleep(1000 * time.Hour)
		k.equal(k.purge(w.Key(), diverted.Retention{MaxAge: time.Hour}, 0).Pending, 0)
		k.equal(k.purge(w.Key(), diverted.Retention{MaxAge: time.Hour, MaxPerWebhook: 2}, 0).Pending, 1)
		k.suspend(w)
		time.Sleep(time.Hour)
		k.equal(k.purge(w.Key(), diverted.Retention{MaxAge: time.Hour}, 0).Pending, 2)
	}},

	{rule: "the limit of a purge bounds what it deletes of both kinds, and no watcher is told", needs: retention, run: func(k *kit) {
		w := k.webhook()
		for range 3 {
			k.aside(w)
		}
		k.suspend(w)
		k.send(w, 3)
		if watcher, ok := k.store.(diverted.Watcher); ok {
			defer watcher.Watch(func(c diverted.Change) { k.Errorf("a watcher is told of %v", c) })()
		}
		r, err := k.retention().Purge(k.ctx, diverted.PurgeRequest{Retention: diverted.Retention{MaxPerWebhook: 1}, Limit: 3})
		k.ok(err)
		k.equal(r, diverted.PurgeResult{Webhooks: []diverted.Purged{{Webhook: w.Key(), Diverted: 2, Pending: 1}}, More: true})
	}},

	{rule: "nothing is purged before its time, and a cap that nothing reaches changes nothing", needs: retention | exactTime, run: func(k *kit) {
		w := k.webhook()
		k.aside(w)
		k.suspend(w)
		k.send(w, 1)
		r := diverted.Retention{MaxAge: time.Hour, MaxPerWebhook: math.MaxInt}
		time.Sleep(time.Hour - time.Millisecond)
		k.equal(k.purge(w.Key(), r, 0), diverted.Purged{Webhook: w.Key()})
		young := k.hostEvent(w.Key())
		k.divert(young)
		time.Sleep(time.Millisecond)
		k.equal(k.purge(w.Key(), r, 0), diverted.Purged{Webhook: w.Key(), Diverted: 1, Pending: 1})
		k.fetchDiverted(young.Key)
	}},

	{rule: "retention of everything purges nothing, and one that breaks a rule is invalid", needs: retention, run: func(k *kit) {
		w := k.webhook()
		key := k.aside(w)
		k.equal(k.purge(w.Key(), diverted.Retention{}, 0), diverted.Purged{Webhook: w.Key()})
		k.fetchDiverted(key)
		for _, r := range []diverted.PurgeRequest{
			{Retention: diverted.Retention{MaxAge: time.Second}},
			{Retention: diverted.Retention{MaxAge: -time.Hour}},
			{Retention: diverted.Retention{MaxPerWebhook: -1}},
			{Limit: -1},
			{Limit: diverted.MaxBulk + 1},
		} {
			_, err := k.retention().Purge(k.ctx, r)
			k.fails(err, diverted.ErrInvalid)
		}
	}},

	{rule: "the numbers follow what is purged", needs: retention | stats, run: func(k *kit) {
		w := k.webhook()
		for range 4 {
			k.aside(w)
		}
		k.suspend(w)
		k.send(w, 3)
		k.purge(w.Key(), diverted.Retention{MaxPerWebhook: 1}, 0)
		k.equal(k.statsOf(w.Key()), diverted.Stats{
			Webhooks: 1, Suspended: 1, SuspendedAt: someTime, Pending: 1, OldestPending: someTime,
			Diverted: map[diverted.Trigger]int{"503": 1},
		})
	}},

	{rule: "an expunged event has no body and no answers left, and keeps the rest", needs: retention | bulk, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(failed(k.claimOne(), diverted.OutcomeRetry, 1))
		c := k.claimOne()
		k.settle(failed(c, diverted.OutcomeDivert, 2))
		want := k.fetchDiverted(c.Key)
		k.equal(want.Expunged, false)
		for range 2 {
			k.ok(k.retention().Expunge(k.ctx, c.Key))
		}
		got := k.fetchDiverted(c.Key)
		want.Body, want.Expunged = nil, true
		want.Failure = want.Failure.Expunged()
		for i := range want.Failures {
			want.Failures[i] = want.Failures[i].Expunged()
		}
		k.that(len(got.Body) == 0, "the body is still there")
		got.Body = nil
		for _, f := range got.Failures {
			k.equal(f.Message, "503 Service Unavailable")
			k.that(!strings.Contains(f.Excerpt+f.Message, "berlast"), "an answer is still there: %+v", f)
		}
		for i := range want.Failures {
			got.Failures[i], want.Failures[i] = utc(got.Failures[i]), utc(want.Failures[i])
		}
		k.equal(got.Failures, want.Failures)
		k.sameEvent(got, want)
		list := k.diverted(w)
		k.equal(len(list), 1)
		k.sameEvent(list[0], want)
	}},

	{rule: "an expunged event is not resent, and can be deleted", needs: retention | bulk, run: func(k *kit) {
		w := k.webhook()
		key, other := k.aside(w), k.aside(w)
		k.ok(k.retention().Expunge(k.ctx, key))
		k.fails(k.store.Resend(k.ctx, key), diverted.ErrExpunged)
		k.suspend(w)
		k.fails(k.store.Resend(k.ctx, key), diverted.ErrExpunged) // which is told first
		k.fails(k.store.Resend(k.ctx, other), diverted.ErrSuspended)
		k.unsuspend(w)
		unknown := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		k.divert(unknown)
		k.ok(k.retention().Expunge(k.ctx, unknown.Key))
		k.fails(k.store.Resend(k.ctx, unknown.Key), diverted.ErrExpunged)
		result, err := k.bulk().ResendAll(k.ctx, diverted.BulkRequest{Webhook: w.Key()})
		k.ok(err)
		k.equal([]int{result.Matched, result.Done}, []int{2, 1})
		k.equal(k.divertedLocators(w.Key()), []ulid.ULID{key.Event})
		k.claims(other.Event)
		k.equal(k.accept(k.messageOf(key))[0].Deliveries[0].Status, diverted.AlreadyDiverted)
		k.ok(k.store.DeleteDiverted(k.ctx, key))
		k.fails(k.retention().Expunge(k.ctx, key), diverted.ErrNotFound)
	}},

	{rule: "what is not diverted cannot be expunged", needs: retention, run: func(k *kit) {
		w := k.webhook()
		aside := k.aside(k.webhook())
		pending := diverted.Key{Tenant: k.tenant, Webhook: w.Locator, Event: k.send(w, 1)[0]}
		foreign := aside
		foreign.Tenant = [16]byte{1}
		for _, key := range []diverted.Key{pending, foreign, {Tenant: k.tenant, Webhook: w.Locator, Event: ulid.Make()}} {
			k.fails(k.retention().Expunge(k.ctx, key), diverted.ErrNotFound)
		}
		k.equal(k.fetchDiverted(aside).Expunged, false)
		k.that(len(k.claimOne().Body) > 0, "a pending delivery has lost its body")
	}},
}

// messageOf is a message for a delivery that is there already.
func (k *kit) messageOf(key diverted.Key) diverted.Message {
	k.Helper()
	m := k.message(key.WebhookKey())
	m.Event = key.Event
	return m
}

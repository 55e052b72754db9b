package storetest

import (
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

func (k *kit) stats(q diverted.StatsQuery) diverted.Stats {
	k.Helper()
	s, err := k.store.(diverted.StatsStore).Stats(k.ctx, q)
	k.ok(err)
	return s
}

// statsOf returns the numbers of a webhook that are exact, in a form that compares.
func (k *kit) statsOf(w diverted.WebhookKey) diverted.Stats {
	k.Helper()
	return exact(k.stats(diverted.StatsQuery{Tenant: w.Tenant, Webhook: w.Webhook}))
}

// exact returns what is exact of the numbers, and of their times whether there is one.
func exact(s diverted.Stats) diverted.Stats {
	some := func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return time.Unix(1, 0)
	}
	s.LastSuccess, s.LastFailure, s.Hours = time.Time{}, time.Time{}, nil
	s.OldestPending, s.SuspendedAt = some(s.OldestPending), some(s.SuspendedAt)
	if len(s.Diverted) == 0 {
		s.Diverted = nil
	}
	return s
}

// eventually fails the test unless it holds within what numbers may come late.
func (k *kit) eventually(what string, holds func() bool) {
	k.Helper()
	for waited := time.Duration(0); !holds(); waited += k.short {
		if waited > 20*time.Second {
			k.Fatalf("never came to be: %s", what)
		}
		time.Sleep(k.short)
	}
}

var someTime = time.Unix(1, 0)

var statsTests = []test{
	{rule: "the numbers of a webhook follow its events", needs: stats | bulk, run: func(k *kit) {
		w := k.webhook()
		k.equal(k.statsOf(w.Key()), diverted.Stats{Webhooks: 1})
		k.send(w, 5)
		k.equal(k.statsOf(w.Key()), diverted.Stats{Webhooks: 1, Pending: 5, Due: 5, OldestPending: someTime})
		c := k.claim(4)
		k.equal(k.statsOf(w.Key()), diverted.Stats{Webhooks: 1, Pending: 5, Due: 5, OldestPending: someTime})

		timeout := of(c[2], diverted.OutcomeDivert)
		timeout.Failure = &diverted.Failure{Trigger: diverted.TriggerTimeout, Message: "connection refused"}
		k.settle(delivered(c[0]), retry(c[1], long), timeout)
		k.equal(k.statsOf(w.Key()), diverted.Stats{
			Webhooks: 1, Pending: 3, Due: 2, OldestPending: someTime, Diverted: map[diverted.Trigger]int{"timeout": 1},
		})
		k.settle(of(c[3], diverted.OutcomeDivert))
		host := k.hostEvent(w.Key())
		k.divert(host)
		k.equal(k.statsOf(w.Key()), diverted.Stats{
			Webhooks: 1, Pending: 2, Due: 1, OldestPending: someTime, Diverted: map[diverted.Trigger]int{"timeout": 1, "503": 2},
		})
		host.Failure.Trigger = "404"
		k.divert(host)
		k.equal(k.statsOf(w.Key()).Diverted, map[diverted.Trigger]int{"timeout": 1, "503": 1, "404": 1})
		k.ok(k.store.Resend(k.ctx, c[2].Key))
		k.ok(k.store.DeleteDiverted(k.ctx, c[3].Key))
		k.equal(k.statsOf(w.Key()), diverted.Stats{
			Webhooks: 1, Pending: 3, Due: 2, OldestPending: someTime, Diverted: map[diverted.Trigger]int{"404": 1},
		})

		k.suspend(w)
		k.equal(k.statsOf(w.Key()), diverted.Stats{
			Webhooks: 1, Suspended: 1, SuspendedAt: someTime, Pending: 3, OldestPending: someTime, Diverted: map[diverted.Trigger]int{"404": 1},
		})
		k.toTheEnd(k.bulk().DivertAll, diverted.BulkRequest{Webhook: w.Key()}, nil)
		k.equal(k.statsOf(w.Key()), diverted.Stats{
			Webhooks: 1, Suspended: 1, SuspendedAt: someTime, Diverted: map[diverted.Trigger]int{"404": 1, "503": 1, "timeout": 2},
		})
		k.unsuspend(w)
		k.toTheEnd(k.bulk().ResendAll, diverted.BulkRequest{Webhook: w.Key(), Filter: diverted.DivertedFilter{Trigger: "timeout"}}, nil)
		k.toTheEnd(k.bulk().DeleteAll, diverted.BulkRequest{Webhook: w.Key(), Filter: diverted.DivertedFilter{Trigger: "5xx"}}, nil)
		k.equal(k.statsOf(w.Key()), diverted.Stats{
			Webhooks: 1, Pending: 2, Due: 2, OldestPending: someTime, Diverted: map[diverted.Trigger]int{"404": 1},
		})
	}},

	{rule: "the oldest pending delivery is the one accepted first, and a suspension has its first moment", needs: stats, run: func(k *kit) {
		w := k.webhook()
		q := diverted.StatsQuery{Tenant: k.tenant, Webhook: w.Locator}
		began := time.Now()
		k.send(w, 1)
		time.Sleep(k.short)
		k.send(w, 1)
		k.at(k.stats(q).OldestPending, began)
		k.settle(retry(k.claims(k.pending(w)[0].Event, k.pending(w)[1].Event)[0], long))
		k.at(k.stats(q).OldestPending, began)
		k.suspend(w)
		k.at(k.stats(q).SuspendedAt, k.fetch(w).SuspendedAt)
	}},

	{rule: "the numbers of a tenant are the sums of its webhooks'", needs: stats, run: func(k *kit) {
		a, b, off := k.webhook(), k.webhook(), k.webhook(disabled)
		k.aside(a)
		k.send(b, 2)
		k.suspend(b)
		k.send(off, 3)
		unknown := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		unknown.Failure.Trigger = "404"
		k.divert(unknown)
		before := exact(k.stats(diverted.StatsQuery{}))

		want := diverted.Stats{
			Webhooks: 3, Suspended: 1, Disabled: 1, SuspendedAt: someTime, Pending: 5, OldestPending: someTime,
			Diverted: map[diverted.Trigger]int{"503": 1, "404": 1},
		}
		k.equal(exact(k.stats(diverted.StatsQuery{Tenant: k.tenant})), want)
		k.equal(k.statsOf(unknown.WebhookKey()), diverted.Stats{Diverted: map[diverted.Trigger]int{"404": 1}})

		k.tenant = uuid.New()
		k.aside(k.webhook())
		k.equal(exact(k.stats(diverted.StatsQuery{Tenant: a.Tenant})), want)
		all := exact(k.stats(diverted.StatsQuery{})) // with those of tests before, in a store that they share
		k.equal([]int{all.Webhooks, all.Pending, all.DivertedInAll()}, []int{before.Webhooks + 1, before.Pending, before.DivertedInAll() + 1})
	}},

	{rule: "the numbers of what is unknown or deleted are zero", needs: stats, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 2)
		k.aside(w)
		k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))
		k.equal(k.statsOf(w.Key()), diverted.Stats{})
		k.equal(k.statsOf(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}), diverted.Stats{})
		k.equal(exact(k.stats(diverted.StatsQuery{Tenant: uuid.New()})), diverted.Stats{})
		k.equal(exact(k.stats(diverted.StatsQuery{Tenant: k.tenant})), diverted.Stats{})
	}},

	{rule: "the numbers of one tenant's webhook are not another's", needs: stats, run: func(k *kit) {
		w := k.webhook()
		k.aside(w)
		k.equal(k.statsOf(diverted.WebhookKey{Tenant: uuid.New(), Webhook: w.Locator}), diverted.Stats{})
	}},

	{rule: "hours tell what happened in them, and the last success and failure when", needs: stats, run: func(k *kit) {
		w, other := k.webhook(), k.webhook()
		q := diverted.StatsQuery{Tenant: k.tenant, Webhook: w.Locator, Hours: 2}
		s := k.stats(q)
		k.equal(len(s.Hours), 0)
		k.that(s.LastSuccess.IsZero() && s.LastFailure.IsZero(), "something happened before anything did: %+v", s)

		k.send(w, 5)
		c := k.claim(5)
		k.settle(delivered(c[0]), delivered(c[1]), retry(c[2], long), of(c[3], diverted.OutcomeDivert), of(c[4], diverted.OutcomeReturn))
		k.divert(k.hostEvent(w.Key()))
		k.aside(other)
		happened := time.Now()

		delivered, failed, aside := 0, 0, 0
		k.eventually("all is in the hours", func() bool {
			delivered, failed, aside = 0, 0, 0
			s = k.stats(q)
			for _, h := range s.Hours { // more than one, if it is just now that one ends
				delivered += h.Delivered
				failed += h.Failed
				aside += h.Diverted["503"]
				k.that(h.Hour.Equal(h.Hour.Truncate(time.Hour)), "%s is not the beginning of an hour", h.Hour)
				k.that(happened.Sub(h.Hour).Abs() < 2*time.Hour, "%s is not this hour", h.Hour)
			}
			return delivered == 2 && failed == 2 && aside == 2
		})
		k.that(s.LastSuccess.Sub(happened).Abs() < 10*time.Second, "the last success was at %s, not at %s", s.LastSuccess, happened)
		k.that(s.LastFailure.Sub(happened).Abs() < 10*time.Second, "the last failure was at %s, not at %s", s.LastFailure, happened)
		k.equal(len(k.stats(diverted.StatsQuery{Tenant: k.tenant, Webhook: w.Locator}).Hours), 0)

		q.Webhook = ulid.ULID{}
		k.eventually("the tenant's hours are those of its webhooks", func() bool {
			aside = 0
			for _, h := range k.stats(q).Hours {
				aside += h.Diverted["503"]
			}
			return aside == 3
		})
	}},

	{rule: "hours ascend, end at the present one, and begin as far back as was asked", needs: stats | exactTime, run: func(k *kit) {
		w := k.webhook()
		var hours []time.Time
		for range 5 {
			k.aside(w)
			hours = append(hours, time.Now().Truncate(time.Hour).UTC())
			time.Sleep(time.Hour)
		}
		for _, tt := range []struct{ hours, want int }{{0, 0}, {1, 0}, {2, 1}, {4, 3}, {6, 5}, {diverted.MaxStatsHours, 5}} {
			s := k.stats(diverted.StatsQuery{Tenant: k.tenant, Webhook: w.Locator, Hours: tt.hours})
			var got []time.Time
			for _, h := range s.Hours {
				got = append(got, h.Hour.UTC())
				k.equal([]int{h.Delivered, h.Failed}, []int{0, 1})
				k.equal(h.Diverted, map[diverted.Trigger]int{"503": 1})
			}
			k.equal(got, append([]time.Time(nil), hours[5-tt.want:]...))
		}
		time.Sleep(diverted.MaxStatsHours * time.Hour)
		s := k.stats(diverted.StatsQuery{Tenant: k.tenant, Webhook: w.Locator, Hours: diverted.MaxStatsHours})
		k.equal(len(s.Hours), 0)
		k.equal(s.DivertedInAll(), 5)
	}},

	{rule: "a query of numbers that breaks a rule is invalid", needs: stats, run: func(k *kit) {
		for _, q := range []diverted.StatsQuery{
			{Webhook: ulid.Make()},
			{Tenant: k.tenant, Hours: -1},
			{Tenant: k.tenant, Hours: diverted.MaxStatsHours + 1},
		} {
			_, err := k.store.(diverted.StatsStore).Stats(k.ctx, q)
			k.fails(err, diverted.ErrInvalid)
		}
	}},

	{rule: "numbers outlive a restart", needs: stats | restart, run: func(k *kit) {
		w := k.webhook()
		k.aside(w)
		k.send(w, 3)
		k.settle(delivered(k.claim(1)[0]))
		want := k.statsOf(w.Key())
		k.reopen()
		k.equal(k.statsOf(w.Key()), want)
		s := k.stats(diverted.StatsQuery{Tenant: k.tenant, Webhook: w.Locator, Hours: 2})
		k.that(len(s.Hours) > 0 && !s.LastSuccess.IsZero() && !s.LastFailure.IsZero(), "Close has lost %+v", s)
	}},
}

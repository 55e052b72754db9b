package storetest

import (
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

var settleTests = []test{
	{rule: "a delivered or dropped delivery is gone", run: func(k *kit) {
		w := k.webhook()
		c := k.claims(k.send(w, 2)...)
		k.settle(delivered(c[0]), of(c[1], diverted.OutcomeDrop))
		k.equal(len(k.pending(w))+len(k.diverted(w)), 0)
		k.claims()
		k.stale(delivered(c[0]))
		k.stale(delivered(c[1]))
	}},

	{rule: "a retry waits, with one attempt more and its failure", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		for n := 1; n <= 2; n++ {
			k.settle(retry(k.claimOne(), k.short))
			p := k.pending(w)[0]
			k.at(p.Due, time.Now().Add(k.short))
			k.equal(p.Claimed, false)
			k.equal(p.Attempts, n)
			k.that(p.Failure != nil, "the failure is not kept")
			k.equal(utc(*p.Failure), *unavailable())
			k.claims()
			time.Sleep(k.short + k.short/10)
			k.that(k.pending(w)[0].Due.IsZero(), "a retry that is due waits")
		}
		c := k.claimOne()
		k.equal(c.Attempts, 2)
		k.equal(c.Losses, 0)
	}},

	{rule: "due times are rounded up to milliseconds", needs: exactTime, run: func(k *kit) {
		w := k.webhook()
		time.Sleep(1700 * time.Microsecond)
		k.send(w, 1)
		now := time.Now()
		k.that(k.pending(w)[0].AcceptedAt.Sub(now).Abs() < time.Millisecond, "accepted at %v, now is %v", k.pending(w)[0].AcceptedAt, now)
		k.settle(retry(k.claimOne(), 10*time.Millisecond+time.Microsecond))
		due := k.pending(w)[0].Due
		k.equal(due.UTC(), now.Add(10*time.Millisecond+time.Microsecond).Truncate(time.Millisecond).Add(time.Millisecond).UTC())
		time.Sleep(time.Until(due) - time.Nanosecond)
		k.claims()
		time.Sleep(time.Nanosecond)
		k.claimOne()
	}},

	{rule: "recorded times are kept to the millisecond", run: func(k *kit) {
		for range 3 {
			time.Sleep(1700 * time.Microsecond)
			w := k.webhook()
			k.send(w, 1)
			c := k.claimOne()
			k.at(c.AcceptedAt, time.Now())
			k.at(k.pending(w)[0].AcceptedAt, c.AcceptedAt)
			r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: k.messages(w, 1), Claim: upTo(1)})
			k.ok(err)
			k.at(r.Claims[0].AcceptedAt, time.Now())
			k.settle(delivered(r.Claims[0]), of(c, diverted.OutcomeDivert))
			k.at(k.diverted(w)[0].DivertedAt, time.Now())
			e := k.hostEvent(w.Key())
			k.divert(e)
			k.at(k.fetchDiverted(e.Key).AcceptedAt, time.Now())
			k.at(k.fetchDiverted(e.Key).DivertedAt, time.Now())
			k.suspend(w)
			k.at(k.fetch(w).SuspendedAt, time.Now())
		}
	}},

	{rule: "the time of a failure is kept to the millisecond, wherever it shows", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		at := time.Date(2026, 11, 23, 17, 58, 0, 123_456_789, time.UTC)
		for _, kind := range []diverted.OutcomeKind{diverted.OutcomeRetry, diverted.OutcomeDivert} {
			o := of(k.claimOne(), kind)
			o.Failure.At, o.Alert = at, true
			k.settle(o)
			k.equal(o.Failure.At, at) // the caller's own
			if pending := k.pending(w); kind == diverted.OutcomeRetry {
				k.equal(utc(*pending[0].Failure).At, at.Truncate(time.Millisecond))
			}
		}
		k.equal(utc(k.diverted(w)[0].Failure).At, at.Truncate(time.Millisecond))
		n := k.notice().Notice
		k.equal(utc(n.First.Failure).At, at.Truncate(time.Millisecond))
		k.equal(utc(n.Last.Failure).At, at.Truncate(time.Millisecond))
	}},

	{rule: "a wait of a day is a day", needs: exactTime, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(retry(k.claimOne(), 24*time.Hour))
		time.Sleep(24*time.Hour - time.Millisecond)
		k.claims()
		time.Sleep(time.Millisecond)
		k.claimOne()
	}},

	{rule: "a divert sets the delivery aside with its failure and the attempts made", run: func(k *kit) {
		w := k.webhook()
		m := k.messages(w, 1)[0]
		k.accept(m)
		accepted := k.pending(w)[0].AcceptedAt
		k.settle(retry(k.claimOne(), k.short/10))
		time.Sleep(k.short / 5)
		c := k.claimOne()
		o := of(c, diverted.OutcomeDivert)
		o.Failure = &diverted.Failure{Trigger: "404", Message: "404 Not Found", Status: 404, At: time.Date(2026, 11, 24, 1, 2, 3, 4_000_000, time.UTC)}
		k.settle(o)
		k.equal(len(k.pending(w)), 0)
		k.claims()
		got := k.fetchDiverted(c.Key)
		k.sameEvent(got, diverted.DivertedEvent{
			Key: c.Key, RequestLocator: m.RequestLocator, Failure: *o.Failure, EventType: m.EventType, Attempts: 2, Body: m.Body,
		})
		k.equal(got.AcceptedAt.UTC(), accepted.UTC())
		k.at(got.DivertedAt, time.Now())
	}},

	{rule: "a delivery held by an active webhook is due at once with a fresh budget", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(retry(k.claimOne(), 0))
		k.settle(of(k.claimOne(), diverted.OutcomeHold))
		c := k.claimOne()
		k.equal(c.Attempts, 0)
		k.equal(c.Released, true)
	}},

	{rule: "a delivery held by a suspended webhook waits for it", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(hold(k.claimOne()))
		_, err := k.store.PutWebhook(k.ctx, w) // which does not end the suspension
		k.ok(err)
		p := k.pending(w)
		k.equal(len(p), 1)
		k.equal(p[0].Attempts, 1)
		k.that(p[0].Due.IsZero() && !p[0].Claimed, "%+v waits for more than its webhook", p[0])
		k.claims()
	}},

	{rule: "a return gives a delivery back as it was", run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 2)
		c := k.claims(events...)
		k.settle(of(c[0], diverted.OutcomeReturn), retry(c[1], 0))
		k.stale(of(c[0], diverted.OutcomeReturn))
		for range 2 {
			again := k.claim(10)
			k.equal(len(again), 2)
			for _, a := range again {
				want := 0
				if a.Key == c[1].Key {
					want = 1
				}
				k.equal([]int{a.Attempts, a.Losses}, []int{want, 0})
				k.settle(of(a, diverted.OutcomeReturn))
			}
		}
	}},

	{rule: "a stale outcome changes nothing", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		k.settle(of(c, diverted.OutcomeReturn))
		second := k.claimOne()
		before := k.pending(w)
		unknown := second
		unknown.Key.Event = ulid.Make()
		nowhere := second
		nowhere.Key.Webhook = ulid.Make()
		zero := second
		zero.Token = 0
		for _, stale := range []diverted.Claim{c, unknown, nowhere, zero} {
			for _, kind := range []diverted.OutcomeKind{
				diverted.OutcomeDelivered, diverted.OutcomeRetry, diverted.OutcomeDivert,
				diverted.OutcomeHold, diverted.OutcomeDrop, diverted.OutcomeReturn,
			} {
				o := of(stale, kind)
				o.Suspend, o.Alert = true, true
				k.stale(o)
			}
		}
		k.equal(k.pending(w), before)
		k.equal(len(k.diverted(w)), 0)
		k.that(!k.fetch(w).Suspended(), "a stale outcome suspended the webhook")
		r := upTo(10)
		r.Notices = 10
		k.equal(len(k.work(diverted.WorkRequest{Claim: r}).Notices), 0)
		k.settle(delivered(second))
	}},

	{rule: "the token of nobody's delivery is nobody's", run: func(k *kit) {
		w := k.webhook()
		event := k.send(w, 1)[0]
		k.stale(diverted.Outcome{Key: diverted.Key{Tenant: k.tenant, Webhook: w.Locator, Event: event}, Kind: diverted.OutcomeDelivered})
		k.claims(event)
	}},

	{rule: "of one outcome twice in a call the second is stale", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		o := retry(c, long)
		k.equal(k.work(diverted.WorkRequest{Outcomes: []diverted.Outcome{o, o}}).Settled, []diverted.Settled{{}, {Stale: true}})
		k.equal(k.pending(w)[0].Attempts, 1)
	}},

	{rule: "an outcome of no kind is invalid, and the call changes nothing", run: func(k *kit) {
		w := k.webhook()
		c := k.claims(k.send(w, 2)...)
		for _, kind := range []diverted.OutcomeKind{"", "Delivered"} {
			_, err := k.store.Work(k.ctx, diverted.WorkRequest{Outcomes: []diverted.Outcome{delivered(c[0]), of(c[1], kind)}})
			k.fails(err, diverted.ErrInvalid)
		}
		k.settle(delivered(c[0]), delivered(c[1]))
	}},

	{rule: "a negative wait is invalid, of an outcome or a notice, and the call changes nothing", run: func(k *kit) {
		w := k.webhook(everything, func(w *diverted.Webhook) { w.Enabled = true })
		c := k.claims(k.send(w, 2)...)
		failing := of(c[1], diverted.OutcomeDivert)
		failing.Alert = true
		k.settle(failing)
		n := k.notice()
		for field, r := range map[string]diverted.WorkRequest{
			"outcomes[1].wait": {Outcomes: []diverted.Outcome{delivered(c[0]), retry(c[0], -1)}},
			"notices[0].wait": {
				Outcomes: []diverted.Outcome{delivered(c[0])},
				Notices:  []diverted.NoticeOutcome{{Webhook: w.Key(), Token: n.Token, Wait: -time.Hour}},
			},
		} {
			_, err := k.store.Work(k.ctx, r)
			k.fails(err, diverted.ErrInvalid)
			k.that(strings.Contains(err.Error(), field), "the error does not name %s: %v", field, err)
		}
		k.settle(delivered(c[0]))
		k.told(n, 0)
	}},

	{rule: "of several outcomes of one claim the first counts, whatever lies between", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		old := k.claimOne()
		k.settle(of(old, diverted.OutcomeReturn))
		c := k.claimOne()
		k.equal(k.work(diverted.WorkRequest{Outcomes: []diverted.Outcome{
			retry(c, long), retry(old, long), delivered(c), delivered(old),
		}}).Settled, []diverted.Settled{{}, {Stale: true}, {Stale: true}, {Stale: true}})
		k.equal(k.pending(w)[0].Attempts, 1)
	}},

	{rule: "many outcomes of every kind are each answered in their place", run: func(k *kit) {
		a, b := k.webhook(), k.webhook()
		ca := k.claims(k.send(a, 6)...)
		cb := k.claims(k.send(b, 6)...)
		var outcomes []diverted.Outcome
		for i, kind := range []diverted.OutcomeKind{
			diverted.OutcomeDelivered, diverted.OutcomeRetry, diverted.OutcomeDivert,
			diverted.OutcomeHold, diverted.OutcomeDrop, diverted.OutcomeReturn,
		} {
			o := of(ca[i], kind)
			o.Wait = long
			stale := of(cb[i], kind)
			stale.Token = o.Token
			outcomes = append(outcomes, o, stale)
		}
		for i, s := range k.work(diverted.WorkRequest{Outcomes: outcomes}).Settled {
			k.that(s.Stale == (i%2 == 1), "outcome %d: Stale is %v", i, s.Stale)
		}
		k.equal(len(k.pending(a)), 3)
		k.equal(len(k.diverted(a)), 1)
		k.equal(len(k.pending(b)), 6)
		for _, c := range cb {
			k.settle(delivered(c))
		}
	}},

	{rule: "the caller's failure is not kept by reference", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		o := retry(k.claimOne(), long)
		k.settle(o)
		o.Failure.Message = "changed"
		k.pending(w)[0].Failure.Message = "changed"
		k.equal(k.pending(w)[0].Failure.Message, unavailable().Message)
	}},
}

package storetest

import (
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// activations are the ways in which a webhook that is not active becomes active again.
var activations = []struct {
	name       string
	deactivate func(*kit, diverted.Webhook)
	activate   func(*kit, diverted.Webhook)
}{
	{"unsuspend", (*kit).suspend, (*kit).unsuspend},
	{"enable by an update", (*kit).disable, func(k *kit, w diverted.Webhook) {
		w = k.fetch(w)
		w.Enabled = true
		_, err := k.store.UpdateWebhook(k.ctx, w)
		k.ok(err)
	}},
	{"enable by a put", (*kit).disable, func(k *kit, w diverted.Webhook) {
		w.Enabled = true
		_, err := k.store.PutWebhook(k.ctx, w)
		k.ok(err)
	}},
}

func (k *kit) disable(w diverted.Webhook) {
	k.Helper()
	w = k.fetch(w)
	w.Enabled = false
	_, err := k.store.UpdateWebhook(k.ctx, w)
	k.ok(err)
}

var suspensionTests = []test{
	{rule: "a suspension has the time at which it began, and keeps it", run: func(k *kit) {
		w := k.webhook()
		k.suspend(w)
		first := k.fetch(w).SuspendedAt
		k.at(first, time.Now())
		time.Sleep(k.short / 10)
		k.suspend(w)
		k.equal(k.fetch(w).SuspendedAt.UTC(), first.UTC())
		k.unsuspend(w)
		k.that(!k.fetch(w).Suspended(), "the webhook is suspended after Unsuspend")
		k.unsuspend(w) // does nothing
		k.that(!k.fetch(w).Suspended(), "the webhook is suspended after Unsuspend")
	}},

	{rule: "a suspension and its end are no new version of the webhook", run: func(k *kit) {
		w := k.webhook()
		k.suspend(w)
		k.equal(k.fetch(w).Version, w.Version)
		w.Name = "renamed"
		w, err := k.store.UpdateWebhook(k.ctx, w) // read before
		k.ok(err)
		k.that(w.Suspended(), "an update ended a suspension")
		k.unsuspend(w)
		k.equal(k.fetch(w).Version, w.Version)

		k.send(w, 1)
		k.settle(hold(k.claimOne())) // which suspends
		k.that(k.fetch(w).Suspended(), "an outcome did not suspend")
		k.equal(k.fetch(w).Version, w.Version)
		w.Name = "renamed again"
		_, err = k.store.UpdateWebhook(k.ctx, w)
		k.ok(err)
	}},

	{rule: "of a suspended or disabled webhook nothing is claimed", run: func(k *kit) {
		for _, a := range activations {
			w := k.webhook()
			k.send(w, 2)
			a.deactivate(k, w)
			k.send(w, 1) // accepted, and held
			k.claims()
			k.equal(len(k.pending(w)), 3)
			a.activate(k, w)
			for _, c := range k.claim(3) {
				k.settle(delivered(c))
			}
			k.equal(len(k.pending(w)), 0)
		}
	}},

	{rule: "when a webhook becomes active all that is pending is due in the order of acceptance", run: func(k *kit) {
		for _, a := range activations {
			w := k.webhook()
			events := k.send(w, 4)
			c := k.claims(events...)
			k.settle(
				retry(c[1], long),                // waits when the webhook becomes inactive
				retry(c[3], 0),                   // is due then
				of(c[2], diverted.OutcomeReturn), //
			)
			a.deactivate(k, w)
			k.settle(retry(c[0], long)) // comes while it is
			events = append(events, k.send(w, 2)...)
			k.claims()
			for _, p := range k.pending(w) {
				k.that(p.Due.IsZero() && !p.Claimed, "%s: %+v of an inactive webhook waits for more than its webhook", a.name, p)
			}
			a.activate(k, w)
			for _, p := range k.pending(w) {
				k.that(p.Due.IsZero(), "%s: %+v of the webhook waits on", a.name, p)
			}
			c = k.claims(events...)
			for i, attempts := range []int{1, 1, 0, 1, 0, 0} { // a budget that was not spent goes on
				k.equal(c[i].Attempts, attempts)
				k.equal(c[i].Released, false)
				k.settle(delivered(c[i]))
			}
		}
	}},

	{rule: "a delivery held with a spent budget gets a fresh one when its webhook becomes active", run: func(k *kit) {
		for _, a := range activations {
			w := k.webhook()
			events := k.send(w, 3)
			c := k.claims(events...)
			k.settle(retry(c[0], 0))
			c[0] = k.claimOne()
			k.equal(c[0].Attempts, 1)
			a.deactivate(k, w)
			k.settle(of(c[0], diverted.OutcomeHold), of(c[1], diverted.OutcomeReturn), retry(c[2], long))
			k.claims()
			k.equal(len(k.pending(w)), 3)

			a.activate(k, w)
			c = k.claims(events...)
			k.equal([]int{c[0].Attempts, c[1].Attempts, c[2].Attempts}, []int{0, 0, 1})
			k.equal([]bool{c[0].Released, c[1].Released, c[2].Released}, []bool{true, false, false})

			k.settle(retry(c[0], 0), delivered(c[1]), delivered(c[2])) // it is remembered until the budget's end
			again := k.claimOne()
			k.equal(again.Released, true)
			k.equal(again.Attempts, 1)
			k.settle(delivered(again))
		}
	}},

	{rule: "a fresh budget begins with the next claim, and the attempts of the spent one are told until then", run: func(k *kit) {
		for _, a := range activations {
			w := k.webhook()
			attempts := func(want int) {
				k.Helper()
				k.equal(k.pending(w)[0].Attempts, want)
			}
			k.send(w, 1)
			k.settle(retry(k.claimOne(), 0))
			c := k.claimOne()
			a.deactivate(k, w)
			k.settle(of(c, diverted.OutcomeHold))
			attempts(2)
			a.activate(k, w)
			attempts(2)
			a.deactivate(k, w)
			attempts(2)
			a.activate(k, w)
			c = k.claimOne()
			k.equal(c.Attempts, 0)
			attempts(0)
			a.deactivate(k, w) // it is spent once only
			k.settle(of(c, diverted.OutcomeReturn))
			attempts(0)
			a.activate(k, w)

			k.settle(of(k.claimOne(), diverted.OutcomeHold)) // of one that is active
			attempts(1)
			c = k.claimOne()
			k.equal(c.Attempts, 0)
			k.settle(delivered(c))
		}
	}},

	{rule: "a webhook that is both suspended and disabled becomes active with the last of the two", run: func(k *kit) {
		for _, first := range []int{0, 1} {
			w := k.webhook()
			events := k.send(w, 2)
			c := k.claims(events...)
			for _, a := range activations[:2] {
				a.deactivate(k, w)
			}
			k.settle(of(c[0], diverted.OutcomeHold), retry(c[1], long))
			activations[first].activate(k, w)
			k.claims()
			activations[1-first].activate(k, w)
			c = k.claims(events...)
			k.equal(c[0].Released, true)
			k.equal(c[1].Attempts, 1)
			k.settle(delivered(c[0]), delivered(c[1]))
		}
	}},

	{rule: "what is in flight at an unsuspend stays its worker's", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		claimed := k.pending(w)[0]
		k.suspend(w)
		k.equal(k.pending(w)[0], claimed) // until its lease is over
		k.unsuspend(w)
		k.claims()
		k.settle(delivered(c))
	}},

	{rule: "an outcome suspends its webhook, once", run: func(k *kit) {
		w := k.webhook()
		c := k.claims(k.send(w, 4)...)
		s := k.settle(hold(c[0]), hold(c[1]))
		k.equal([]bool{s[0].Suspended, s[1].Suspended}, []bool{true, false})
		k.at(k.fetch(w).SuspendedAt, time.Now())
		first := k.fetch(w).SuspendedAt
		time.Sleep(k.short / 10)
		k.equal(k.settle(hold(c[2])), []diverted.Settled{{}})
		k.equal(k.fetch(w).SuspendedAt.UTC(), first.UTC())

		o := of(c[3], diverted.OutcomeDivert) // whatever becomes of the delivery
		k.unsuspend(w)
		k.claim(3)
		o.Suspend = true
		k.equal(k.settle(o), []diverted.Settled{{}}) // it began before the unsuspend
		k.that(!k.fetch(w).Suspended(), "an attempt of the epoch before suspended the webhook")
	}},

	{rule: "an outcome that suspends keeps the delivery that it holds, and claims nothing more", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 3)
		c := k.claim(1)
		r := k.work(diverted.WorkRequest{Outcomes: []diverted.Outcome{hold(c[0])}, Claim: upTo(10)})
		k.equal(r.Settled, []diverted.Settled{{Suspended: true}})
		k.equal(len(r.Claims), 0)
		k.equal(len(k.pending(w)), 3)
	}},

	{rule: "an attempt that began before an unsuspend cannot suspend again, one that began after it can", run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 3)
		c := k.claims(events...)
		k.settle(hold(c[0]))
		k.unsuspend(w)

		k.equal(k.settle(hold(c[1])), []diverted.Settled{{}})
		k.that(!k.fetch(w).Suspended(), "an attempt of the epoch before suspended the webhook")
		again := k.claims(events[:2]...)
		k.equal(again[1].Released, true) // held by an active webhook: due at once with a fresh budget
		k.equal(again[1].Attempts, 0)
		k.that(again[0].Epoch > c[0].Epoch, "the unsuspend began no new epoch")

		k.equal(k.settle(hold(again[0])), []diverted.Settled{{Suspended: true}})
	}},

	{rule: "an unsuspend of a webhook that is not suspended begins no epoch", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		k.unsuspend(w)
		k.equal(k.settle(hold(c)), []diverted.Settled{{Suspended: true}})
	}},

	{rule: "the attempt of a webhook that was disabled meanwhile can suspend it", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		k.disable(w)
		k.equal(k.settle(hold(c)), []diverted.Settled{{Suspended: true}})
		w = k.fetch(w)
		k.that(w.Suspended() && !w.Enabled, "the webhook is %+v", w)
	}},

	{rule: "enabling a webhook that is enabled changes nothing of its waits", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(retry(k.claimOne(), long))
		_, err := k.store.PutWebhook(k.ctx, w)
		k.ok(err)
		_, err = k.store.UpdateWebhook(k.ctx, k.fetch(w))
		k.ok(err)
		k.unsuspend(w)
		k.claims()
	}},

	{rule: "a webhook's update applies from the next claim on", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 2)
		before := k.claim(1)[0]
		w.Endpoint.URL = "https://moved.example/"
		w, err := k.store.UpdateWebhook(k.ctx, w)
		k.ok(err)
		after := k.claimOne()
		k.equal(before.Webhook.Endpoint.URL, "https://receiver.example/hook")
		k.sameWebhook(*after.Webhook, w)
	}},

	{rule: "a thousand deliveries are released by one unsuspend", run: func(k *kit) {
		w := k.webhook()
		var events []ulid.ULID
		for range 4 {
			events = append(events, k.send(w, 250)...)
		}
		k.suspend(w)
		k.claims()
		k.unsuspend(w)
		k.claims(events...)
	}},
}

package storetest

import (
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// attempt is what somebody tries on a webhook and an event, by every method that names one of them.
var attempts = []struct {
	method string
	try    func(k *kit, w diverted.Webhook, event diverted.Key) error
}{
	{"FetchWebhook", func(k *kit, w diverted.Webhook, _ diverted.Key) error {
		_, err := k.store.FetchWebhook(k.ctx, w.Key())
		return err
	}},
	{"UpdateWebhook", func(k *kit, w diverted.Webhook, _ diverted.Key) error {
		_, err := k.store.UpdateWebhook(k.ctx, w)
		return err
	}},
	{"DeleteWebhook", func(k *kit, w diverted.Webhook, _ diverted.Key) error {
		return k.store.DeleteWebhook(k.ctx, w.Key(), true)
	}},
	{"Suspend", func(k *kit, w diverted.Webhook, _ diverted.Key) error { return k.store.Suspend(k.ctx, w.Key()) }},
	{"Unsuspend", func(k *kit, w diverted.Webhook, _ diverted.Key) error { return k.store.Unsuspend(k.ctx, w.Key()) }},
	{"Accept", func(k *kit, w diverted.Webhook, event diverted.Key) error {
		m := k.message(w.Key())
		m.Event = event.Event
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, Claim: upTo(10)})
		k.ok(err)
		k.equal(len(r.Messages[0].Deliveries)+len(r.Claims), 0)
		return r.Messages[0].Err
	}},
	{"FetchDiverted", func(k *kit, _ diverted.Webhook, event diverted.Key) error {
		_, err := k.store.FetchDiverted(k.ctx, event)
		return err
	}},
	{"Resend", func(k *kit, _ diverted.Webhook, event diverted.Key) error { return k.store.Resend(k.ctx, event) }},
	{"DeleteDiverted", func(k *kit, _ diverted.Webhook, event diverted.Key) error {
		return k.store.DeleteDiverted(k.ctx, event)
	}},
}

var tenantTests = []test{
	{rule: "to a tenant what belongs to another is unknown, by every method", run: func(k *kit) {
		w := k.webhook()
		aside := k.aside(w)
		waiting := k.send(w, 1)[0]
		before := k.fetch(w)

		foreign := w
		foreign.Tenant = uuid.New()
		inForeign := aside
		inForeign.Tenant = foreign.Tenant
		unknown, nowhere := w, aside
		unknown.Locator = ulid.Make()
		nowhere.Webhook, nowhere.Event = unknown.Locator, ulid.Make()
		for _, a := range attempts {
			err := a.try(k, foreign, inForeign)
			if err == nil {
				k.Fatalf("%s of another tenant's succeeds", a.method)
			}
			k.fails(err, diverted.ErrNotFound)
			k.fails(a.try(k, unknown, nowhere), diverted.ErrNotFound) // the same error as for what is not there
		}

		k.sameWebhook(k.fetch(w), before)
		k.equal(len(k.diverted(w)), 1)
		k.claims(waiting)
		k.ok(k.store.Resend(k.ctx, aside))
	}},

	{rule: "the lists of a tenant hold nothing of another", run: func(k *kit) {
		w := k.webhook()
		k.aside(w)
		k.send(w, 1)
		other := uuid.New()
		list, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: other})
		k.ok(err)
		foreign := w
		foreign.Tenant = other
		k.equal(len(list.Webhooks)+len(k.pending(foreign))+len(k.diverted(foreign)), 0)
	}},

	{rule: "outcomes with another tenant's key change nothing", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		o := hold(c)
		o.Key.Tenant = uuid.New()
		k.stale(o)
		k.settleNotice(diverted.NoticeOutcome{Webhook: o.Key.WebhookKey(), Done: true, Wait: long})
		k.that(!k.fetch(w).Suspended(), "another tenant's outcome suspended the webhook")
		k.settle(delivered(c))
	}},

	{rule: "the same locators in two tenants are two webhooks, two deliveries and two diverted events", run: func(k *kit) {
		w := k.webhook()
		twin := w
		twin.Tenant, twin.Endpoint.URL = uuid.New(), "https://twin.example/"
		twin, err := k.store.CreateWebhook(k.ctx, twin)
		k.ok(err)

		m := k.messages(w, 1)[0]
		same := m
		same.Tenant, same.Body = twin.Tenant, []byte(`"the twin's"`)
		k.accept(m)
		k.equal(statuses(k.accept(same)[0]), []diverted.AcceptStatus{diverted.Accepted})

		claims := k.claim(10)
		k.equal(len(claims), 2)
		for _, c := range claims {
			want, body := w, m.Body
			if c.Key.Tenant == twin.Tenant {
				want, body = twin, same.Body
			}
			k.sameWebhook(*c.Webhook, want)
			k.equal(c.Body, body)
			k.settle(of(c, diverted.OutcomeDivert))
		}
		k.suspend(twin)
		k.that(!k.fetch(w).Suspended(), "the suspension of one tenant's webhook is another's")
		k.ok(k.store.DeleteDiverted(k.ctx, diverted.Key{Tenant: twin.Tenant, Webhook: twin.Locator, Event: m.Event}))
		k.equal(len(k.diverted(w)), 1)
		k.ok(k.store.DeleteWebhook(k.ctx, twin.Key(), false))
		k.ok(k.store.Resend(k.ctx, diverted.Key{Tenant: k.tenant, Webhook: w.Locator, Event: m.Event}))
	}},
}

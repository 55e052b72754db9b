package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// statuses are what became of a message at its webhooks.
func statuses(r diverted.MessageResult) []diverted.AcceptStatus {
	var s []diverted.AcceptStatus
	for _, d := range r.Deliveries {
		s = append(s, d.Status)
	}
	return s
}

var acceptTests = []test{
	{rule: "an accepted event is pending and due now", run: func(k *kit) {
		w := k.webhook()
		m := k.messages(w, 1)[0]
		k.equal(k.accept(m), []diverted.MessageResult{{Deliveries: []diverted.Acceptance{{Webhook: w.Locator, Status: diverted.Accepted}}}})
		p := k.pending(w)
		k.equal(len(p), 1)
		k.at(p[0].AcceptedAt, time.Now())
		p[0].AcceptedAt = time.Time{}
		k.equal(p[0], diverted.PendingDelivery{
			Key: diverted.Key{Tenant: k.tenant, Webhook: w.Locator, Event: m.Event}, RequestLocator: m.RequestLocator, EventType: m.EventType,
		})
		k.claims(m.Event)
	}},

	{rule: "accepting nothing does nothing", run: func(k *kit) {
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Claim: upTo(10)})
		k.ok(err)
		k.equal(len(r.Messages)+len(r.Claims), 0)
	}},

	{rule: "each message is answered in its place, and one that is refused does not keep out the others", run: func(k *kit) {
		w := k.webhook()
		good := k.messages(w, 2)
		unknown := k.message(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		bad := []diverted.Message{k.message(w.Key()), k.message(w.Key()), k.message(w.Key()), k.message(w.Key()), k.message(w.Key()), k.message(w.Key())}
		bad[0].Event = ulid.ULID{}
		bad[1].RequestLocator = ulid.ULID{}
		bad[2].EventType = "order paid"
		bad[3].Body = nil
		bad[4].Body = make([]byte, diverted.MaxEventBytes+1)
		bad[5].Tenant = uuid.Nil
		messages := slices.Concat([]diverted.Message{unknown, good[0]}, bad, []diverted.Message{good[1]})
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: messages})
		k.ok(err)
		k.equal(len(r.Messages), len(messages))
		for i, m := range r.Messages {
			switch i {
			case 0:
				k.fails(m.Err, diverted.ErrNotFound)
				k.equal(len(m.Deliveries), 0)
			case 1, len(messages) - 1:
				k.ok(m.Err)
				k.equal(statuses(m), []diverted.AcceptStatus{diverted.Accepted})
			default:
				k.fails(m.Err, diverted.ErrInvalid)
				k.equal(len(m.Deliveries), 0)
			}
		}
		k.claims(good[0].Event, good[1].Event)
	}},

	{rule: "accepting an event again adds nothing while it is pending or diverted, and adds it anew once it is delivered", run: func(k *kit) {
		w := k.webhook()
		m := k.messages(w, 1)[0]
		again := func(want diverted.AcceptStatus) {
			k.Helper()
			other := m
			if want != diverted.Accepted {
				other.Body, other.EventType = []byte(`"another body"`), "another.type" // the first one stays
			}
			k.equal(statuses(k.accept(other)[0]), []diverted.AcceptStatus{want})
		}
		again(diverted.Accepted)
		again(diverted.AlreadyPending)
		c := k.claimOne()
		again(diverted.AlreadyPending) // in flight
		k.settle(retry(c, long))
		again(diverted.AlreadyPending) // waiting
		k.claims()
		k.suspend(w)
		again(diverted.AlreadyPending) // held
		k.unsuspend(w)
		c = k.claimOne()
		k.equal(c.Attempts, 1)
		k.settle(of(c, diverted.OutcomeDivert))
		again(diverted.AlreadyDiverted)
		k.claims()
		k.equal(k.fetchDiverted(c.Key).Body, m.Body)
		k.ok(k.store.Resend(k.ctx, c.Key))
		again(diverted.AlreadyPending)
		c = k.claimOne()
		k.equal(c.Body, m.Body)
		k.equal(c.EventType, m.EventType)
		k.settle(delivered(c))

		again(diverted.Accepted)
		c = k.claimOne()
		k.equal([]bool{c.Diverted, c.Released}, []bool{false, false}) // all of it is forgotten
		k.equal([]int{c.Attempts, c.Losses}, []int{0, 0})
		k.settle(of(c, diverted.OutcomeDrop))
		again(diverted.Accepted)

		key := k.aside(w)
		k.ok(k.store.DeleteDiverted(k.ctx, key))
		m.Event = key.Event
		again(diverted.Accepted)
	}},

	{rule: "an event that a host diverted is already diverted when it is accepted", run: func(k *kit) {
		w := k.webhook()
		e := k.hostEvent(w.Key())
		k.divert(e)
		m := k.messages(w, 1)[0]
		m.Event = e.Event
		k.equal(statuses(k.accept(m)[0]), []diverted.AcceptStatus{diverted.AlreadyDiverted})
		k.sameEvent(k.fetchDiverted(e.Key), e)
		k.claims()
	}},

	{rule: "an event twice in one request is accepted once", run: func(k *kit) {
		w := k.webhook()
		m := k.messages(w, 1)[0]
		r := k.accept(m, m)
		k.equal(statuses(r[0]), []diverted.AcceptStatus{diverted.Accepted})
		k.equal(statuses(r[1]), []diverted.AcceptStatus{diverted.AlreadyPending})
		k.claims(m.Event)
	}},

	{rule: "one event at several webhooks is several deliveries", run: func(k *kit) {
		a, b := k.webhook(), k.webhook()
		m := k.messages(a, 1)[0]
		k.accept(m)
		m.Webhook = b.Locator
		k.equal(statuses(k.accept(m)[0]), []diverted.AcceptStatus{diverted.Accepted})
		c := k.claim(10)
		k.equal(len(c), 2)
		k.settle(delivered(c[0]), of(c[1], diverted.OutcomeDivert))
		k.equal(len(k.pending(a))+len(k.pending(b)), 0)
		k.equal(len(k.diverted(a))+len(k.diverted(b)), 1)
	}},

	{rule: "publishing reaches every enabled webhook that subscribes, ascending by locator", run: func(k *kit) {
		subscribed := func(types ...string) func(*diverted.Webhook) {
			return func(w *diverted.Webhook) { w.EventTypes = types }
		}
		exact := k.webhook(subscribed("order.refunded", "order.paid"))
		prefix := k.webhook(subscribed("order.*"))
		all := k.webhook()
		sleeping := k.webhook()
		k.suspend(sleeping)
		k.webhook(subscribed("order"))
		k.webhook(subscribed("order.paid.twice"))
		k.webhook(subscribed("policy.*"))
		k.webhook(disabled)
		stranger := diverted.NewWebhook(uuid.New(), "another tenant's", "https://receiver.example/hook", "*")
		_, err := k.store.CreateWebhook(k.ctx, stranger)
		k.ok(err)

		m := k.message(diverted.WebhookKey{Tenant: k.tenant})
		m.EventType = "order.paid"
		want := ascending([]ulid.ULID{exact.Locator, prefix.Locator, all.Locator, sleeping.Locator})
		check := func(status diverted.AcceptStatus, m diverted.Message) {
			k.Helper()
			var accepted []diverted.Acceptance
			for _, l := range want {
				accepted = append(accepted, diverted.Acceptance{Webhook: l, Status: status})
			}
			k.equal(k.accept(m)[0].Deliveries, accepted)
		}
		check(diverted.Accepted, m)
		check(diverted.AlreadyPending, m)

		var claimed []ulid.ULID
		for _, c := range k.claim(10) {
			k.equal(c.Key.Event, m.Event)
			k.equal(c.Body, m.Body)
			claimed = append(claimed, c.Key.Webhook)
		}
		k.equal(ascending(claimed), ascending([]ulid.ULID{exact.Locator, prefix.Locator, all.Locator}))
		k.equal(len(k.pending(sleeping)), 1)
	}},

	{rule: "publishing tells of each webhook what became of the event there", run: func(k *kit) {
		a, b, c := k.webhook(), k.webhook(), k.webhook()
		m := k.message(b.Key())
		k.accept(m)
		e := k.hostEvent(c.Key())
		e.Event = m.Event
		k.divert(e)
		m.Webhook = ulid.ULID{}
		want := map[ulid.ULID]diverted.AcceptStatus{a.Locator: diverted.Accepted, b.Locator: diverted.AlreadyPending, c.Locator: diverted.AlreadyDiverted}
		got := map[ulid.ULID]diverted.AcceptStatus{}
		for _, d := range k.accept(m)[0].Deliveries {
			got[d.Webhook] = d.Status
		}
		k.equal(got, want)
	}},

	{rule: "publishing what nobody subscribes to is no error", run: func(k *kit) {
		k.webhook(func(w *diverted.Webhook) { w.EventTypes = []string{"policy.*"} })
		m := k.message(diverted.WebhookKey{Tenant: k.tenant})
		m.EventType = "order.paid"
		nobody := k.message(diverted.WebhookKey{Tenant: uuid.New()})
		for _, r := range k.accept(m, nobody) {
			k.equal(len(r.Deliveries), 0)
		}
	}},

	{rule: "a disabled or suspended webhook accepts events and holds them", run: func(k *kit) {
		off, sleeping := k.webhook(disabled), k.webhook()
		k.suspend(sleeping)
		for _, w := range []diverted.Webhook{off, sleeping} {
			m := k.messages(w, 1)[0]
			r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, Claim: upTo(10)})
			k.ok(err)
			k.equal(statuses(r.Messages[0]), []diverted.AcceptStatus{diverted.Accepted})
			k.equal(len(r.Claims), 0)
			p := k.pending(w)
			k.equal(len(p), 1)
			k.that(p[0].Due.IsZero() && !p[0].Claimed, "%+v waits for more than its webhook", p[0])
		}
		k.claims()
	}},

	{rule: "accepted deliveries are handed back claimed, as far as the claim allows", run: func(k *kit) {
		a, b := k.webhook(), k.webhook()
		ma, mb := k.messages(a, 4), k.messages(b, 1)
		request := upTo(3)
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: slices.Concat(ma, mb), Claim: request})
		k.ok(err)
		for _, m := range r.Messages {
			k.equal(statuses(m), []diverted.AcceptStatus{diverted.Accepted})
		}
		k.that(len(r.Claims) <= request.Count, "%d deliveries were handed back, want at most %d", len(r.Claims), request.Count)
		var fromA []ulid.ULID
		seen := map[diverted.Key]bool{}
		for _, c := range r.Claims {
			if c.Key.Webhook == a.Locator {
				fromA = append(fromA, c.Key.Event)
			}
			seen[c.Key] = true
			k.equal([]int{c.Attempts, c.Losses}, []int{0, 0})
		}
		k.that(len(fromA) <= len(ma) && slices.Equal(fromA, eventsOf(ma[:len(fromA)])), "handed back out of order: %v", fromA)
		for _, c := range k.claim(10) { // the rest, and nothing twice
			k.that(!seen[c.Key], "%s was handed back, and then claimed", c.Key)
			seen[c.Key] = true
		}
		k.equal(len(seen), 5)
		for _, c := range r.Claims {
			k.settle(delivered(c))
		}
	}},

	{rule: "what is handed back claimed is bounded by the room and the bytes that the caller has", run: func(k *kit) {
		a, b := k.webhook(), k.webhook()
		var asked []diverted.WebhookKey
		r := upTo(10)
		r.Reserve = func(w diverted.WebhookKey, want int) int {
			asked = append(asked, w)
			if w == a.Key() {
				return 0
			}
			return want
		}
		result, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: slices.Concat(k.messages(a, 2), k.messages(b, 2)), Claim: r})
		k.ok(err)
		for _, c := range result.Claims {
			k.equal(c.Key.Webhook, b.Locator)
			k.that(slices.Contains(asked, b.Key()), "no room was reserved for what was handed back")
		}
		k.claim(10)

		messages := k.messages(b, 3)
		for i := range messages {
			messages[i].Body = fmt.Appendf(nil, "%q", bytes.Repeat([]byte{'x'}, 998))
		}
		r = upTo(10)
		r.Bytes = 2100
		result, err = k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: messages, Claim: r})
		k.ok(err)
		k.that(len(result.Claims) <= 2, "%d deliveries of 1000 bytes were handed back, want at most 2", len(result.Claims))
	}},

	{rule: "nothing is handed back claimed while something of its webhook waits before it", run: func(k *kit) {
		w := k.webhook()
		first := k.send(w, 1)
		m := k.messages(w, 1)[0]
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, Claim: upTo(10)})
		k.ok(err)
		k.equal(len(r.Claims), 0)
		c := k.claims(first[0], m.Event)

		k.settle(retry(c[0], k.short), delivered(c[1]))
		time.Sleep(k.short + k.short/10) // the retry is due, and the store was not asked since
		m = k.messages(w, 1)[0]
		r, err = k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, Claim: upTo(10)})
		k.ok(err)
		k.equal(len(r.Claims), 0)
		k.claims(first[0], m.Event)
	}},

	{rule: "a body is not kept by reference", run: func(k *kit) {
		w := k.webhook()
		m := k.messages(w, 1)[0]
		want := slices.Clone(m.Body)
		k.accept(m)
		clear(m.Body)
		c := k.claimOne()
		k.equal(c.Body, want)
		clear(c.Body)
		k.settle(of(c, diverted.OutcomeReturn))
		k.equal(k.claimOne().Body, want)
	}},

	{rule: "bodies come back byte for byte, up to the greatest", run: func(k *kit) {
		w := k.webhook()
		messages := k.messages(w, len(payloads()))
		odd := k.message(w.Key())
		odd.Body = []byte("no JSON: \x00\xff\xfe'\";-- \r\n\u2028") // the store does not read it
		big := k.message(w.Key())
		big.Body = bytes.Repeat([]byte("0123456789abcdef"), diverted.MaxEventBytes/16)
		messages = append(messages, odd, big)
		k.accept(messages...)
		r := upTo(100)
		r.Bytes = 2 * diverted.MaxEventBytes
		claims := k.work(diverted.WorkRequest{Claim: r}).Claims
		k.equal(len(claims), len(messages))
		for i, c := range claims {
			k.that(bytes.Equal(c.Body, messages[i].Body), "body %d came back changed", i)
		}
		k.settle(of(claims[len(claims)-1], diverted.OutcomeDivert))
		k.that(bytes.Equal(k.fetchDiverted(claims[len(claims)-1].Key).Body, big.Body), "the greatest body came back changed")
	}},

	{rule: "ten thousand deliveries are accepted by one call, and each is claimed once", run: func(k *kit) {
		w := k.webhook()
		body := k.message(w.Key()).Body
		messages := make([]diverted.Message, 10_000)
		for i := range messages {
			messages[i] = diverted.Message{
				Tenant: k.tenant, Webhook: w.Locator, Event: ulid.Make(), RequestLocator: ulid.Make(),
				EventType: "order.paid", Body: body,
			}
		}
		k.accept(messages...)
		var got []ulid.ULID
		var outcomes []diverted.Outcome
		for {
			r := k.work(diverted.WorkRequest{Outcomes: outcomes, Claim: upTo(1000)})
			if len(r.Claims) == 0 {
				break
			}
			outcomes = nil
			for _, c := range r.Claims {
				got = append(got, c.Key.Event)
				outcomes = append(outcomes, delivered(c))
			}
		}
		k.that(slices.Equal(got, eventsOf(messages)), "claimed %d, want %d, in the order of acceptance", len(got), len(messages))
		k.equal(len(k.pending(w)), 0)
	}},

	{rule: "pending deliveries are listed ascending by event locator, page by page", run: func(k *kit) {
		w := k.webhook()
		want := ascending(k.send(w, 25))
		k.send(k.webhook(), 1) // another's
		checkPages(k, want, func(q diverted.DivertedQuery) ([]ulid.ULID, bool) {
			q.Webhook = w.Key()
			page, err := k.store.ListPending(k.ctx, q)
			k.ok(err)
			var l []ulid.ULID
			for _, p := range page.Deliveries {
				l = append(l, p.Event)
			}
			return l, page.More
		})
		page, err := k.store.ListPending(k.ctx, diverted.DivertedQuery{Webhook: diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}})
		k.ok(err)
		k.that(len(page.Deliveries) == 0 && !page.More, "an unknown webhook has %+v", page)
	}},
}

func eventsOf(messages []diverted.Message) []ulid.ULID {
	var l []ulid.ULID
	for _, m := range messages {
		l = append(l, m.Event)
	}
	return l
}

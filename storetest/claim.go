package storetest

import (
	"bytes"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// perWebhook counts claims.
func perWebhook(claims []diverted.Claim) map[diverted.WebhookKey]int {
	n := map[diverted.WebhookKey]int{}
	for _, c := range claims {
		n[c.Key.WebhookKey()]++
	}
	return n
}

var claimTests = []test{
	{rule: "a claim has all that an attempt needs", run: func(k *kit) {
		w := k.webhook(everything, func(w *diverted.Webhook) { w.Enabled = true })
		m := k.messages(w, 1)[0]
		k.accept(m)
		c := k.claimOne()
		k.equal(c.Key, diverted.Key{Tenant: k.tenant, Webhook: w.Locator, Event: m.Event})
		k.that(c.Token != 0, "the token is 0")
		k.that(c.Webhook != nil, "the claim has no webhook")
		k.sameWebhook(*c.Webhook, w)
		k.equal(c.RequestLocator, m.RequestLocator)
		k.equal(c.EventType, m.EventType)
		k.equal(c.Body, m.Body)
		k.at(c.AcceptedAt, time.Now())
		k.equal([]int{c.Attempts, c.Losses}, []int{0, 0})
		k.equal([]bool{c.Diverted, c.Released}, []bool{false, false})
		k.ok(c.Err)
	}},

	{rule: "deliveries are claimed once, in the order of acceptance", run: func(k *kit) {
		w := k.webhook()
		events := slices.Concat(k.send(w, 3), k.send(w, 3))
		k.equal(locators(k.claim(2)), events[:2])
		k.equal(locators(k.claim(2)), events[2:4])
		k.claims(events[4:]...)
		k.claims()
	}},

	{rule: "retries that are due come before what was never attempted", run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 4)
		c := k.claim(2)
		k.settle(retry(c[0], 0), retry(c[1], long))
		k.claims(events[0], events[2], events[3])
	}},

	{rule: "a call without a claim claims nothing", run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 2)
		r := k.work(diverted.WorkRequest{})
		k.equal(len(r.Claims)+len(r.Notices), 0)
		c := k.claim(1)
		r = k.work(diverted.WorkRequest{Outcomes: []diverted.Outcome{delivered(c[0])}})
		k.equal(len(r.Claims), 0)
		k.claims(events[1])
	}},

	{rule: "a call settles before it claims", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		r := k.work(diverted.WorkRequest{Outcomes: []diverted.Outcome{of(c, diverted.OutcomeReturn)}, Claim: upTo(1)})
		k.equal(locators(r.Claims), []ulid.ULID{c.Key.Event})
		k.that(r.Claims[0].Token != c.Token, "a new claim has the old token")
		k.stale(delivered(c))
	}},

	{rule: "a claim is bounded by the sum of the bodies, but one is claimed however large it is", run: func(k *kit) {
		w := k.webhook()
		messages := k.messages(w, 5)
		for i, size := range []int{5000, 1000, 1000, 1000, 5000} {
			messages[i].Body = bytes.Repeat([]byte{'1'}, size)
		}
		k.accept(messages...)
		var got []int
		for range 3 {
			r := upTo(10)
			r.Bytes = 3500
			result := k.work(diverted.WorkRequest{Claim: r})
			got = append(got, len(result.Claims))
			if len(got) < 3 {
				k.equal(result.Next, time.Duration(0)) // more is due than the bytes allowed
			}
		}
		k.equal(got, []int{1, 3, 1})
	}},

	{rule: "a claim says that its bytes were too few, though there was little room as well", run: func(k *kit) {
		w := k.webhook()
		messages := k.messages(w, 3)
		for i := range messages {
			messages[i].Body = bytes.Repeat([]byte{'1'}, 1000)
		}
		k.accept(messages...)
		r := upTo(10)
		r.Bytes = 1500
		r.Reserve = func(_ diverted.WebhookKey, want int) int { return min(want, 2) }
		result := k.work(diverted.WorkRequest{Claim: r})
		k.equal(len(result.Claims), 1)
		k.equal(result.Next, time.Duration(0))
	}},

	{rule: "a claim is bounded by its number, and says whether more is due", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 5)
		r := k.work(diverted.WorkRequest{Claim: upTo(3)})
		k.equal(len(r.Claims), 3)
		k.equal(r.Next, time.Duration(0))
		r = k.work(diverted.WorkRequest{Claim: upTo(3)})
		k.equal(len(r.Claims), 2)
		k.that(r.Next != 0, "more is said to be due")
	}},

	{rule: "a claim takes no more of a webhook than there is room for", run: func(k *kit) {
		a, b := k.webhook(), k.webhook()
		ea, eb := k.send(a, 20), k.send(b, 20)
		room := map[diverted.WebhookKey]int{a.Key(): 3, b.Key(): 0}
		r := upTo(30)
		r.Reserve = func(w diverted.WebhookKey, want int) int {
			if want <= 0 {
				k.Errorf("room was asked for %d deliveries", want)
			}
			granted := min(room[w], want)
			room[w] -= granted
			return granted
		}
		result := k.work(diverted.WorkRequest{Claim: r})
		k.equal(locators(result.Claims), ea[:3])
		k.that(result.Next != 0, "the caller is told to come again at once, though it has no room")

		result = k.work(diverted.WorkRequest{Claim: r}) // still none
		k.equal(len(result.Claims), 0)
		room[b.Key()] = 100
		result = k.work(diverted.WorkRequest{Claim: r}) // what had no room was not forgotten
		k.equal(locators(result.Claims), eb)
		room[a.Key()] = 100
		result = k.work(diverted.WorkRequest{Claim: r})
		k.equal(locators(result.Claims), ea[3:])
	}},

	{rule: "within one call a webhook without room is not asked again and again", run: func(k *kit) {
		full, free := k.webhook(), k.webhook()
		k.send(full, 50)
		k.send(free, 50)
		asked := 0
		r := upTo(50)
		r.Reserve = func(w diverted.WebhookKey, want int) int {
			if w == full.Key() {
				asked++
				return 0
			}
			return want
		}
		k.equal(len(k.work(diverted.WorkRequest{Claim: r}).Claims), 50)
		k.that(asked <= 2, "it was asked %d times", asked)
	}},

	{rule: "webhooks take turns within one call", run: func(k *kit) {
		for range 10 {
			k.send(k.webhook(), 64)
		}
		n := perWebhook(k.claim(64))
		k.that(len(n) >= 8, "64 claims went to %d of 10 webhooks", len(n))
	}},

	{rule: "webhooks take turns from call to call", run: func(k *kit) {
		for range 4 {
			k.send(k.webhook(), 100)
		}
		n := map[diverted.WebhookKey]int{}
		for range 40 {
			for w, i := range perWebhook(k.claim(1)) {
				n[w] += i
			}
		}
		k.equal(len(n), 4)
		for w, i := range n {
			k.that(i >= 5, "%s had %d of 40 claims, want about 10", w, i)
		}
	}},

	{rule: "tenants take turns, however many webhooks one has", run: func(k *kit) {
		for range 20 {
			k.send(k.webhook(), 20)
		}
		small, err := k.store.CreateWebhook(k.ctx, diverted.NewWebhook(uuid.New(), "small", "https://receiver.example/hook", "*"))
		k.ok(err)
		k.send(small, 20)
		n := perWebhook(k.claim(32))
		k.that(n[small.Key()] >= 8, "the tenant with one webhook had %d of 32 claims, want about half", n[small.Key()])
	}},

	{rule: "a webhook that fills up does not keep the others from being claimed", run: func(k *kit) {
		flooded, quiet := k.webhook(), k.webhook()
		k.send(flooded, 500)
		want := k.send(quiet, 1)
		k.that(slices.Contains(locators(k.claim(16)), want[0]), "a webhook with one delivery waits behind one with 500")
	}},

	{rule: "a claim that breaks a rule is invalid, and the call changes nothing", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 2)
		held := k.claim(1)[0]
		for _, spoil := range []func(*diverted.ClaimRequest){
			func(r *diverted.ClaimRequest) { r.Lease = 0 },
			func(r *diverted.ClaimRequest) { r.Lease = -1 },
			func(r *diverted.ClaimRequest) { r.Lease = diverted.MaxLease + 1 },
			func(r *diverted.ClaimRequest) { r.Count = -1 },
			func(r *diverted.ClaimRequest) { r.Bytes = -1 },
			func(r *diverted.ClaimRequest) { r.Notices = -1 },
		} {
			r := upTo(10)
			spoil(r)
			_, err := k.store.Work(k.ctx, diverted.WorkRequest{Outcomes: []diverted.Outcome{delivered(held)}, Claim: r})
			k.fails(err, diverted.ErrInvalid)
			_, err = k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: k.messages(w, 1), Claim: r})
			k.fails(err, diverted.ErrInvalid)
		}
		k.equal(len(k.pending(w)), 2)
		k.settle(delivered(held))
		k.equal(len(k.work(diverted.WorkRequest{Claim: leased(upTo(10), diverted.MaxLease)}).Claims), 1)
	}},

	{rule: "an empty store knows of nothing that becomes due", run: func(k *kit) {
		r := k.work(diverted.WorkRequest{Claim: upTo(10)})
		k.equal(len(r.Claims), 0)
		k.that(r.Next < 0, "something is said to be due in %v", r.Next)
	}},

	{rule: "Next is never later than what becomes due", run: func(k *kit) {
		w, v := k.webhook(), k.webhook()
		k.send(w, 1)
		first := k.claimOne()
		k.settle(retry(first, k.short))
		k.send(v, 1)
		second := k.claimOne()
		k.settle(retry(second, 2*k.short))
		began := time.Now()
		var got []ulid.ULID
		for range 20 {
			r := k.work(diverted.WorkRequest{Claim: upTo(10)})
			for _, c := range r.Claims {
				got = append(got, c.Key.Event)
				k.settle(delivered(c))
			}
			if len(got) == 2 {
				break
			}
			k.that(r.Next > 0, "Next is %v while a retry waits", r.Next) // it may be too early, but never too late
			time.Sleep(r.Next)
		}
		k.equal(got, []ulid.ULID{first.Key.Event, second.Key.Event})
		if took := time.Since(began); !k.harness.RealTime && took > 2*k.short+time.Millisecond {
			k.Fatalf("the second retry was due after %v, and claimed after %v", 2*k.short, took)
		}
	}},

	{rule: "a refresh finds what is due, too", run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 2)
		r := k.work(diverted.WorkRequest{Claim: upTo(1), Refresh: true})
		k.equal(locators(r.Claims), events[:1])
		r = k.work(diverted.WorkRequest{Claim: upTo(1), Refresh: true})
		k.equal(locators(r.Claims), events[1:])
		r = k.work(diverted.WorkRequest{Claim: upTo(1), Refresh: true})
		k.equal(len(r.Claims), 0)
	}},

	{rule: "the deliveries of many webhooks do not mix", run: func(k *kit) {
		const n = 200
		want := map[diverted.WebhookKey][]ulid.ULID{}
		for range n {
			w := k.webhook()
			want[w.Key()] = k.send(w, 3)
		}
		got := map[diverted.WebhookKey][]ulid.ULID{}
		for range 3 * n {
			r := k.work(diverted.WorkRequest{Claim: upTo(50)})
			if len(r.Claims) == 0 {
				break
			}
			for _, c := range r.Claims {
				got[c.Key.WebhookKey()] = append(got[c.Key.WebhookKey()], c.Key.Event)
			}
		}
		k.equal(got, want)
	}},
}

var leaseTests = []test{
	{rule: "when a lease is over the delivery is claimed again, and a claim is lost", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		first := k.work(diverted.WorkRequest{Claim: leased(upTo(1), k.short)}).Claims[0]
		p := k.pending(w)[0]
		k.that(p.Claimed, "a claimed delivery is not shown so")
		k.at(p.Due, time.Now().Add(k.short))
		k.claims()
		time.Sleep(k.short + k.short/10)
		k.that(!k.pending(w)[0].Claimed, "a delivery whose lease is over is shown as claimed")

		second := k.work(diverted.WorkRequest{Claim: leased(upTo(1), k.short)}).Claims[0]
		k.equal(second.Key, first.Key)
		k.equal([]int{second.Losses, second.Attempts}, []int{1, 0})
		k.equal(second.Body, first.Body)
		k.stale(delivered(first))
		time.Sleep(k.short + k.short/10)
		third := k.claimOne()
		k.equal(third.Losses, 2)
		k.stale(delivered(second))
		k.settle(delivered(third))
	}},

	{rule: "a lease that is over still settles if nobody claimed the delivery since", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.work(diverted.WorkRequest{Claim: leased(upTo(1), k.short)}).Claims[0]
		time.Sleep(k.short + k.short/10)
		k.settle(delivered(c))
		k.claims()
		k.equal(len(k.pending(w)), 0)
	}},

	{rule: "Next tells of the end of a lease", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		r := k.work(diverted.WorkRequest{Claim: leased(upTo(2), k.short)})
		k.that(r.Next > 0 && r.Next <= k.short+time.Millisecond, "the lease ends in %v, and Next is %v", k.short, r.Next)
	}},

	{rule: "an outcome other than a return forgets the claims that were lost", run: func(k *kit) {
		for _, tt := range []struct {
			kind diverted.OutcomeKind
			want int
		}{{diverted.OutcomeRetry, 0}, {diverted.OutcomeHold, 0}, {diverted.OutcomeReturn, 1}} {
			w := k.webhook()
			k.send(w, 1)
			k.work(diverted.WorkRequest{Claim: leased(upTo(1), k.short)})
			time.Sleep(k.short + k.short/10)
			c := k.claimOne()
			k.equal(c.Losses, 1)
			k.settle(of(c, tt.kind))
			c = k.claimOne()
			k.that(c.Losses == tt.want, "after %s Losses is %d, want %d", tt.kind, c.Losses, tt.want)
			k.settle(delivered(c))
		}
	}},

	{rule: "a delivery that the caller has in its hands stays claimed beyond its lease", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 2)
		claims := k.work(diverted.WorkRequest{Claim: leased(upTo(2), k.short)}).Claims
		mine := claims[0]
		time.Sleep(k.short + k.short/10)

		var asked []diverted.Key
		r := leased(upTo(10), long)
		r.InFlight = func(key diverted.Key) bool {
			asked = append(asked, key)
			return key == mine.Key
		}
		got := k.work(diverted.WorkRequest{Claim: r}).Claims
		k.equal(locators(got), []ulid.ULID{claims[1].Key.Event})
		k.equal(got[0].Losses, 1)
		k.that(slices.Contains(asked, mine.Key), "the caller was not asked")
		p := k.pending(w)
		i := slices.IndexFunc(p, func(p diverted.PendingDelivery) bool { return p.Event == mine.Key.Event })
		k.that(p[i].Claimed, "%+v is not claimed", p[i])
		k.at(p[i].Due, time.Now().Add(long))
		k.claims() // nor by others
		k.settle(delivered(mine))
		k.stale(delivered(claims[1]))
		k.settle(delivered(got[0]))
	}},

	{rule: "the caller is not asked of what is not claimed, or whose lease holds", run: func(k *kit) {
		w := k.webhook()
		events := k.send(w, 3)
		k.claim(1)
		r := upTo(10)
		r.InFlight = func(key diverted.Key) bool { return true }
		k.equal(locators(k.work(diverted.WorkRequest{Claim: r}).Claims), events[1:])
	}},

	{rule: "many workers share the work, and none has what another has", run: func(k *kit) {
		for range 4 {
			k.send(k.webhook(), 100)
		}
		k.claimConcurrently(8, 400, func() *diverted.ClaimRequest { return upTo(7) })
	}},
}

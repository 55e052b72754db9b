package storetest

import (
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// failed returns an outcome with a failure of its own.
func failed(c diverted.Claim, kind diverted.OutcomeKind, nth int) diverted.Outcome {
	o := of(c, kind)
	o.Failure = nthFailure(nth)
	return o
}

// nthFailure is a failure that no other n has.
func nthFailure(n int) *diverted.Failure {
	f := unavailable()
	f.Attempt, f.Duration = n, time.Duration(n)*time.Millisecond
	f.Message = fmt.Sprintf("503 Service Unavailable: “%d” — 🙈\\n", n)
	f.At = f.At.Add(time.Duration(n) * time.Minute)
	return f
}

// failures fails the test unless these, by their numbers, are the failures of a diverted event, wherever it
// is read.
func (k *kit) failures(key diverted.Key, numbers ...int) {
	k.Helper()
	var want []diverted.Failure
	for _, n := range numbers {
		want = append(want, *nthFailure(n))
	}
	same := func(e diverted.DivertedEvent) {
		k.Helper()
		for i := range e.Failures {
			e.Failures[i] = utc(e.Failures[i])
		}
		k.equal(e.Failures, want)
		k.equal(utc(e.Failure), want[len(want)-1])
		clear(e.Failures) // the caller's
	}
	same(k.fetchDiverted(key))
	page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: key.WebhookKey(), Failures: true})
	k.ok(err)
	for _, e := range page.Events {
		if e.Key == key {
			same(e)
		}
	}
	same(k.fetchDiverted(key))
	page, err = k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: key.WebhookKey()})
	k.ok(err)
	for _, e := range page.Events {
		k.that(e.Failures == nil, "a list has failures that nobody asked for")
	}
}

var failureTests = []test{
	{rule: "every failure is kept, oldest first, through resends and holds", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(failed(k.claimOne(), diverted.OutcomeRetry, 1))
		k.settle(of(k.claimOne(), diverted.OutcomeReturn)) // not an attempt
		k.settle(failed(k.claimOne(), diverted.OutcomeRetry, 2))
		c := k.claimOne()
		k.settle(failed(c, diverted.OutcomeDivert, 3))
		k.failures(c.Key, 1, 2, 3)

		k.ok(k.store.Resend(k.ctx, c.Key))
		k.equal(utc(*k.pending(w)[0].Failure), *nthFailure(3))
		k.settle(failed(k.claimOne(), diverted.OutcomeHold, 4))
		k.settle(failed(k.claimOne(), diverted.OutcomeDivert, 5))
		k.failures(c.Key, 1, 2, 3, 4, 5)
	}},

	{rule: "the first failure of a delivery is its only one", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		c := k.claimOne()
		k.settle(failed(c, diverted.OutcomeDivert, 1))
		k.failures(c.Key, 1)
	}},

	{rule: "the last 20 failures are kept", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		var last []int
		for n := range diverted.MaxFailures + 5 {
			k.settle(failed(k.claimOne(), diverted.OutcomeRetry, n))
		}
		for n := range diverted.MaxFailures {
			last = append(last, n+6)
		}
		c := k.claimOne()
		k.settle(failed(c, diverted.OutcomeDivert, diverted.MaxFailures+5))
		k.failures(c.Key, last...)
	}},

	{rule: "what a host diverts again has all its failures", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		var last []int
		for n := range diverted.MaxFailures + 2 {
			e.Failure = *nthFailure(n)
			e.Failures = []diverted.Failure{*unavailable()} // the store's, not the caller's
			k.divert(e)
			last = append(last, n)
			if n == 0 {
				k.failures(e.Key, last...)
			}
		}
		k.failures(e.Key, last[2:]...)
	}},

	{rule: "failures outlive a restart", needs: restart, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		k.settle(failed(k.claimOne(), diverted.OutcomeRetry, 1))
		k.reopen()
		c := k.claimOne()
		k.settle(failed(c, diverted.OutcomeDivert, 2))
		k.reopen()
		k.failures(c.Key, 1, 2)
	}},

	{rule: "a message's traceparent is its claims'", run: func(k *kit) {
		w := k.webhook()
		const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		m := k.message(w.Key())
		m.TraceParent = parent
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, Claim: upTo(1)})
		k.ok(err)
		claims := append(r.Claims, k.claim(1)...) // whether or not it was handed back
		k.equal(len(claims), 1)
		k.equal(claims[0].TraceParent, parent)
		k.settle(retry(claims[0], 0))
		c := k.claimOne()
		k.equal(c.TraceParent, parent)
		k.settle(of(c, diverted.OutcomeDivert))
		k.ok(k.store.Resend(k.ctx, c.Key))
		k.equal(k.claimOne().TraceParent, parent)
		k.send(w, 1)
		k.equal(k.claimOne().TraceParent, "")
	}},

	{rule: "a malformed traceparent is invalid", run: func(k *kit) {
		m := k.message(k.webhook().Key())
		m.TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}})
		k.ok(err)
		k.fails(r.Messages[0].Err, diverted.ErrInvalid)
	}},
}

package storetest

import (
	"bytes"
	"errors"
	"time"

	"github.com/divertedevents/diverted"
)

// offer has the store accept messages within bounds, and returns what became of each at its one webhook.
func (k *kit) offer(r diverted.AcceptRequest) (statuses []diverted.AcceptStatus) {
	k.Helper()
	result, err := k.store.Accept(k.ctx, r)
	k.ok(err)
	for _, m := range result.Messages {
		k.ok(m.Err)
		k.equal(len(m.Deliveries), 1)
		a := m.Deliveries[0]
		k.that(errors.Is(a.Err, diverted.ErrFull) == (a.Status == diverted.Refused), "status %q has the error %v", a.Status, a.Err)
		statuses = append(statuses, a.Status)
	}
	return statuses
}

var roomTests = []test{
	{rule: "no more is accepted of a webhook than the request allows to be pending", run: func(k *kit) {
		a, b := k.webhook(), k.webhook()
		m := append(k.messages(a, 3), k.messages(b, 1)...)
		const accepted, refused = diverted.Accepted, diverted.Refused
		k.equal(k.offer(diverted.AcceptRequest{Messages: m, MaxPending: 2}),
			[]diverted.AcceptStatus{accepted, accepted, refused, accepted})
		k.equal(len(k.pending(a)), 2)

		// It is neither refused nor added again what is there already.
		k.equal(k.offer(diverted.AcceptRequest{Messages: m, MaxPending: 2}),
			[]diverted.AcceptStatus{diverted.AlreadyPending, diverted.AlreadyPending, refused, diverted.AlreadyPending})

		k.suspend(b) // aside
		c := k.claims(m[0].Event, m[1].Event)
		k.equal(k.offer(diverted.AcceptRequest{Messages: m[2:3], MaxPending: 2}), []diverted.AcceptStatus{refused}) // claimed is pending
		k.settle(retry(c[0], long))
		k.equal(k.offer(diverted.AcceptRequest{Messages: m[2:3], MaxPending: 2}), []diverted.AcceptStatus{refused}) // and so is waiting
		k.settle(of(c[1], diverted.OutcomeDivert))
		k.equal(k.offer(diverted.AcceptRequest{Messages: m[1:3], MaxPending: 2}),
			[]diverted.AcceptStatus{diverted.AlreadyDiverted, accepted}) // diverted is not

		k.ok(k.store.Resend(k.ctx, c[1].Key)) // beyond the bound: what was accepted is never refused
		more := k.messages(a, 1)
		k.equal(k.offer(diverted.AcceptRequest{Messages: more, MaxPending: 3}), []diverted.AcceptStatus{refused})
		k.equal(k.offer(diverted.AcceptRequest{Messages: more}), []diverted.AcceptStatus{accepted}) // no bound
		for _, c := range k.claim(10) {
			k.settle(delivered(c))
		}
		k.equal(k.offer(diverted.AcceptRequest{Messages: k.messages(a, 2), MaxPending: 2}),
			[]diverted.AcceptStatus{accepted, refused})
	}},

	{rule: "publishing says which webhooks had no room", run: func(k *kit) {
		full, free := k.webhook(), k.webhook()
		if free.Locator.Compare(full.Locator) < 0 {
			full, free = free, full
		}
		k.send(full, 1)
		m := k.message(full.Key())
		m.Webhook = [16]byte{}
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, MaxPending: 1})
		k.ok(err)
		k.ok(r.Messages[0].Err)
		k.equal(statuses(r.Messages[0]), []diverted.AcceptStatus{diverted.Refused, diverted.Accepted})
		k.fails(r.Messages[0].Deliveries[0].Err, diverted.ErrFull)
		k.ok(r.Messages[0].Deliveries[1].Err)
	}},

	{rule: "what another store value or a restart left counts", needs: restart, run: func(k *kit) {
		w := k.webhook()
		k.send(w, 2)
		k.reopen()
		k.equal(k.offer(diverted.AcceptRequest{Messages: k.messages(w, 2), MaxPending: 3}),
			[]diverted.AcceptStatus{diverted.Accepted, diverted.Refused})
	}},

	{rule: "a store that takes more than the request allows refuses, and settles and deletes all the same", run: func(k *kit) {
		w := k.webhook()
		const bound = 1 << 20
		var events []diverted.Key
		for {
			m := k.message(w.Key())
			m.Body = bytes.Repeat([]byte{'1'}, 20_000)
			r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, MaxBytes: bound})
			if errors.Is(err, diverted.ErrUnsupported) {
				k.equal(len(k.pending(w)), 0)
				k.Skip("the store has no measure")
			}
			k.ok(err)
			if a := r.Messages[0].Deliveries[0]; a.Status == diverted.Refused {
				k.fails(a.Err, diverted.ErrFull)
				break
			}
			events = append(events, diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: m.Event})
			k.that(len(events) < 2*bound/20_000, "%d bodies of 20,000 bytes are within %d", len(events), bound)
		}
		k.that(len(events) > bound/20_000/2, "only %d bodies of 20,000 bytes are within %d", len(events), bound)
		k.equal(len(k.pending(w)), len(events))

		claims := k.claim(len(events))
		k.settle(of(claims[0], diverted.OutcomeDivert))
		for _, c := range claims[1:] {
			k.settle(delivered(c))
		}
		k.ok(k.store.DeleteDiverted(k.ctx, claims[0].Key))
		for wait := time.Duration(0); ; wait += k.short { // room may come a moment later
			m := k.message(w.Key())
			if k.offer(diverted.AcceptRequest{Messages: []diverted.Message{m}, MaxBytes: bound})[0] == diverted.Accepted {
				break
			}
			k.that(wait < long, "there is no room though nothing is kept")
			time.Sleep(k.short)
		}
	}},
}

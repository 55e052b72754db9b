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
		for _, free := range k.waysToFree() {
			w := k.webhook()
			n := 0
			for wait := time.Duration(0); ; wait += k.short { // room may come a moment later
				if n += k.fill(w); n > roomBytes/roomBody/2 {
					break
				}
				k.that(wait < long, "there is room for %d bodies of %d bytes, of %d in all, though nothing else is kept", n, roomBody, roomBytes)
				time.Sleep(k.short)
			}
			k.equal(len(k.pending(w)), n)
			free(w)
		}
	}},
}

const (
	roomBytes = 1 << 20
	roomBody  = 20_000
)

// fill sends events to a webhook until the store takes roomBytes, and returns how many it accepted. It skips the test of
// a store without a measure.
func (k *kit) fill(w diverted.Webhook) (n int) {
	k.Helper()
	for {
		m := k.message(w.Key())
		m.Body = bytes.Repeat([]byte{'1'}, roomBody)
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, MaxBytes: roomBytes})
		if errors.Is(err, diverted.ErrUnsupported) {
			k.equal(len(k.pending(w)), 0)
			k.Skip("the store has no measure")
		}
		k.ok(err)
		if a := r.Messages[0].Deliveries[0]; a.Status == diverted.Refused {
			k.fails(a.Err, diverted.ErrFull)
			return n
		}
		n++
		k.that(n < 2*roomBytes/roomBody, "%d bodies of %d bytes are within %d", n, roomBody, roomBytes)
	}
}

// waysToFree are all ways to have nothing left of what a webhook has pending, or next to nothing.
func (k *kit) waysToFree() []func(w diverted.Webhook) {
	settled := func(kind diverted.OutcomeKind) []diverted.Claim {
		claims := k.claim(2 * roomBytes / roomBody)
		for _, c := range claims {
			k.settle(of(c, kind))
		}
		return claims
	}
	diverting := func(each func(diverted.Key) error) {
		for _, c := range settled(diverted.OutcomeDivert) {
			k.ok(each(c.Key))
		}
	}
	ways := []func(w diverted.Webhook){
		func(diverted.Webhook) { settled(diverted.OutcomeDelivered) },
		func(diverted.Webhook) { settled(diverted.OutcomeDrop) },
		func(diverted.Webhook) {
			diverting(func(key diverted.Key) error { return k.store.DeleteDiverted(k.ctx, key) })
		},
		func(w diverted.Webhook) {
			k.settle(of(k.claim(1)[0], diverted.OutcomeDivert)) // both kinds
			k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))
		},
	}
	if s, ok := k.store.(diverted.RetentionStore); ok {
		purge := func(diverted.Webhook) {
			_, err := s.Purge(k.ctx, diverted.PurgeRequest{Retention: diverted.Retention{MaxPerWebhook: 1}})
			k.ok(err)
		}
		ways = append(ways, func(w diverted.Webhook) {
			k.suspend(w)
			purge(w)
		}, func(w diverted.Webhook) {
			settled(diverted.OutcomeDivert)
			purge(w)
		}, func(diverted.Webhook) {
			diverting(func(key diverted.Key) error { return s.Expunge(k.ctx, key) })
		})
	}
	return append(ways, func(diverted.Webhook) {})
}

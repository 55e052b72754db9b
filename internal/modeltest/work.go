package modeltest

import (
	"errors"
	"fmt"
	"time"

	"github.com/divertedevents/diverted"
)

// settle applies an outcome.
func (m *model) settle(o diverted.Outcome) diverted.Settled {
	w, d := m.find(o.Key)
	if d == nil || d.diverted || d.token == 0 || d.token != o.Token {
		return diverted.Settled{Stale: true}
	}
	var settled diverted.Settled
	if o.Suspend && d.epoch == w.epoch && !w.value.Suspended() {
		w.value.SuspendedAt = today()
		settled.Suspended = true
	}
	d.token, d.due, d.place = 0, time.Time{}, inOrder
	if o.Kind != diverted.OutcomeReturn {
		d.losses = 0
	}
	if o.Failure != nil {
		d.keep(o.Failure)
	}
	switch o.Kind {
	case diverted.OutcomeDelivered, diverted.OutcomeDrop:
		delete(w.deliveries, o.Key.Event)
	case diverted.OutcomeRetry:
		d.attempts++
		if w.active() {
			d.due, d.place = in(o.Wait), first
		}
	case diverted.OutcomeDivert:
		d.attempts++
		d.diverted, d.divertedAt = true, today()
	case diverted.OutcomeHold:
		d.attempts++
		d.spent = true
	case diverted.OutcomeReturn:
		if d.attempts > 0 && w.active() {
			d.place = anywhere
		}
	}
	if o.Alert {
		n := w.notice
		if n == nil || n.idle() && over(n.due) { // none, or its window passed in silence
			n = new(notice)
			w.notice = n
		}
		n.open.Add(diverted.FailedEvent{Event: o.Key.Event, RequestLocator: d.message.RequestLocator, Failure: *d.failure},
			o.Kind == diverted.OutcomeDivert, settled.Suspended)
	}
	return settled
}

// claim judges one claim, and makes it.
func (m *model) claim(c diverted.Claim, lease time.Duration) error {
	w, d := m.find(c.Key)
	switch {
	case d == nil || d.diverted:
		return fmt.Errorf("%s is claimed and is not pending", c.Key)
	case !w.active():
		return fmt.Errorf("%s is claimed and its webhook is not active", c.Key)
	case !over(d.due):
		return fmt.Errorf("%s is claimed and not due before %s", c.Key, d.due)
	case c.Token == 0 || c.Token == d.token:
		return fmt.Errorf("%s is claimed again with its token", c.Key)
	}
	if d.token != 0 {
		d.losses++
	}
	if d.spent {
		d.spent, d.attempts, d.released = false, 0, true
	}
	d.token, d.epoch, d.due, d.place = c.Token, w.epoch, in(lease), anywhere
	if err := m.sameWebhook(*c.Webhook, w.value); err != nil {
		return err
	}
	want := diverted.Claim{
		Key: c.Key, Token: c.Token, Webhook: c.Webhook, Epoch: c.Epoch,
		RequestLocator: d.message.RequestLocator, EventType: d.message.EventType, Body: d.message.Body,
		AcceptedAt: d.acceptedAt, Attempts: d.attempts, Losses: d.losses, Diverted: d.resent, Released: d.released,
	}
	c.AcceptedAt = m.near(c.AcceptedAt, d.acceptedAt)
	return differ("claim", c, want)
}

// bounds are those of a request to claim.
type bounds struct {
	count, bytes int
	lease        time.Duration
	room         map[diverted.WebhookKey]int  // nil: as much as is wanted
	short        map[diverted.WebhookKey]bool // those for which the store wanted more
	held         map[diverted.Key]bool        // those that the store asked for and the caller has in hand
}

// extend begins the leases anew of what the caller has in hand, as the store learned when it asked.
func (m *model) extend(b bounds) error {
	for key := range b.held {
		_, d := m.find(key)
		if d == nil || d.token == 0 || !over(d.due) {
			return fmt.Errorf("the store asks whether %s is in flight, and it has no lease that is over", key)
		}
		d.due, d.place = in(b.lease), anywhere
	}
	return nil
}

// claims judges the claims of a call of Work, and makes them. It says whether more is due than the bounds
// of count and bytes allowed.
func (m *model) claims(claims []diverted.Claim, b bounds) (more bool, err error) {
	size, allowed := 0, 0
	taken := make(map[diverted.WebhookKey][]diverted.Claim)
	for _, c := range claims {
		taken[c.Key.WebhookKey()] = append(taken[c.Key.WebhookKey()], c)
		size += len(c.Body)
	}
	for key, w := range m.webhooks {
		due, room := len(w.due()), b.count
		if b.room != nil {
			room = b.room[key]
		}
		allowed += min(due, room)
		if len(taken[key]) > room {
			return false, fmt.Errorf("%d of %s are claimed, and there was room for %d", len(taken[key]), key, room)
		}
		if err := rightOrder(w, taken[key]); err != nil {
			return false, err
		}
	}
	for _, c := range claims {
		if err := m.claim(c, b.lease); err != nil {
			return false, err
		}
	}
	ample := b.bytes >= 1<<20
	switch {
	case len(claims) > b.count:
		return false, fmt.Errorf("%d are claimed, and %d were allowed", len(claims), b.count)
	case size > b.bytes && len(claims) > 1:
		return false, fmt.Errorf("%d bytes are claimed, and %d were allowed", size, b.bytes)
	case allowed > 0 && len(claims) == 0 && len(b.held) == 0, // which may take the room
		ample && len(b.held) == 0 && len(claims) != min(allowed, b.count):
		return false, fmt.Errorf("%d are claimed, and %d are due with room", len(claims), min(allowed, b.count))
	}
	return allowed > len(claims) && len(b.held) == 0, nil
}

// rightOrder judges the order of the claims of one webhook: retries first, then the others as they were
// accepted, and none is left out.
func rightOrder(w *webhook, claims []diverted.Claim) error {
	var order []*delivery
	for _, c := range claims {
		if d := w.deliveries[c.Key.Event]; d != nil && d.place != anywhere {
			order = append(order, d)
		}
	}
	var want []*delivery
	for _, place := range []place{first, inOrder} {
		for _, d := range w.due() {
			if d.place == place {
				want = append(want, d)
			}
		}
	}
	for i, d := range order {
		if i < len(want) && d.place == first && want[i].place == first {
			continue // retries have no order among themselves
		}
		if i >= len(want) || want[i] != d {
			return fmt.Errorf("%s is claimed out of turn", d.message.Event)
		}
	}
	return nil
}

// next is the earliest time at which something becomes due of a webhook of which nothing is due now, zero
// for nothing. ready says whether something is due now. What the caller has no room for, webhooks that are
// short and notices unless it wants some, it has to remember itself.
func (m *model) next(short map[diverted.WebhookKey]bool, notices bool) (at time.Time, ready bool) {
	var waits []time.Time
	for key, w := range m.webhooks {
		if len(w.due()) > 0 {
			ready = true
		} else if w.active() && !short[key] {
			for _, d := range w.pending() {
				waits = append(waits, d.due)
			}
		}
		if notices && w.notice != nil && !w.notice.idle() {
			ready = ready || over(w.notice.due)
			waits = append(waits, w.notice.due)
		}
	}
	for _, due := range waits {
		if !over(due) && (at.IsZero() || due.Before(at)) {
			at = due
		}
	}
	return at, ready
}

// claimNotices judges the claims of notices, and makes them.
func (m *model) claimNotices(claims []diverted.NoticeClaim, most int, lease time.Duration) error {
	due := 0
	for _, w := range m.webhooks {
		if n := w.notice; n != nil && !n.idle() && over(n.due) {
			due++
		}
	}
	if len(claims) != min(due, most) {
		return fmt.Errorf("%d notices are claimed, want %d", len(claims), min(due, most))
	}
	for _, c := range claims {
		w := m.known(c.Webhook.Key())
		if w == nil || w.notice == nil || w.notice.idle() || !over(w.notice.due) {
			return fmt.Errorf("a notice of %s is claimed, and none is due", c.Webhook.Key())
		}
		n := w.notice
		if n.sending.Failures == 0 {
			n.sending, n.open = n.open, diverted.Notice{}
			n.sending.Locator = c.Notice.Locator // the store's choice, at the first claim
		}
		switch {
		case c.Notice.Locator.IsZero():
			return errors.New("a notice has no locator")
		case c.Token == 0 || c.Token == n.token:
			return errors.New("a notice is claimed again with its token")
		}
		if err := m.sameWebhook(*c.Webhook, w.value); err != nil {
			return err
		}
		want := diverted.NoticeClaim{Webhook: c.Webhook, Token: c.Token, Notice: n.sending, Tries: n.tries, Window: n.window}
		c.Notice.First.Failure.At = m.near(c.Notice.First.Failure.At, n.sending.First.Failure.At)
		c.Notice.Last.Failure.At = m.near(c.Notice.Last.Failure.At, n.sending.Last.Failure.At)
		if err := differ("notice", c, want); err != nil {
			return err
		}
		n.token, n.due = c.Token, in(lease)
	}
	return nil
}

func (m *model) settleNotice(o diverted.NoticeOutcome) {
	w := m.known(o.Webhook)
	if w == nil || w.notice == nil || w.notice.token == 0 || w.notice.token != o.Token {
		return
	}
	n := w.notice
	n.token, n.due = 0, in(o.Wait)
	if o.Done {
		n.sending, n.tries, n.window = diverted.Notice{}, 0, o.Wait
	} else {
		n.tries++
	}
}

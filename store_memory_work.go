package diverted

import (
	"bytes"
	"context"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/internal/turns"
)

// Accept implements [DeliveryStore].
func (s *MemoryStore) Accept(ctx context.Context, request AcceptRequest) (result AcceptResult, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		if err := request.Claim.Validate(); err != nil {
			return err
		}
		c := tx.claimer(request.Claim)
		result.Messages = make([]MessageResult, len(request.Messages))
		for i, m := range request.Messages {
			result.Messages[i] = tx.accept(m, c, &request)
		}
		result.Claims = c.claims
		return nil
	})
	return result, err
}

// accept makes the deliveries of one message.
func (tx *memoryTx) accept(m Message, c *memoryClaimer, r *AcceptRequest) MessageResult {
	if err := m.Validate(); err != nil {
		return MessageResult{Err: err}
	}
	var receivers []*memoryWebhook
	if !m.Webhook.IsZero() {
		w, err := tx.known(WebhookKey{Tenant: m.Tenant, Webhook: m.Webhook})
		if err != nil {
			return MessageResult{Err: err}
		}
		receivers = append(receivers, w)
	} else if tenant := tx.tenants[m.Tenant]; tenant != nil {
		for w := range tenant.from(ulid.ULID{}, 0) {
			if w.webhook != nil && w.webhook.Enabled && w.webhook.Subscribes(m.EventType) {
				receivers = append(receivers, w)
			}
		}
	}
	m.Body = bytes.Clone(m.Body) // once: deliveries share it
	var result MessageResult
	for _, w := range receivers {
		result.Deliveries = append(result.Deliveries, tx.add(w, m, c, r))
	}
	return result
}

// add makes a delivery of a message to one webhook.
func (tx *memoryTx) add(w *memoryWebhook, m Message, c *memoryClaimer, r *AcceptRequest) Acceptance {
	a := Acceptance{Webhook: w.key.Webhook, Status: Accepted}
	if _, found := w.pending.get(m.Event); found {
		a.Status = AlreadyPending
		return a
	}
	if _, found := w.diverted.get(m.Event); found {
		a.Status = AlreadyDiverted
		return a
	}
	if a.Err = r.refuse(w.pending.len(), tx.size); a.Err != nil {
		a.Status = Refused
		return a
	}
	tx.size += int64(len(m.Body))
	tx.order++
	d := &memoryDelivery{
		event: m.Event, request: m.RequestLocator, eventType: m.EventType,
		body: m.Body, traceParent: m.TraceParent, acceptedAt: tx.today(), order: tx.order,
	}
	alone := c.next(w) == nil
	w.pending.put(d)
	tx.await(w, d, time.Time{})
	if alone && w.active() && c.count > 0 && c.fits(d) && c.reserve(w.key, 1) > 0 {
		c.take(w, d)
	} else {
		tx.changed(ChangeAccepted, w.with(d.event))
	}
	tx.plan(w)
	return a
}

// Work implements [DeliveryStore].
func (s *MemoryStore) Work(ctx context.Context, request WorkRequest) (result WorkResult, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		if err := request.Validate(); err != nil {
			return err
		}
		c := tx.claimer(request.Claim)
		result.Settled = make([]Settled, len(request.Outcomes))
		for i, o := range request.Outcomes {
			result.Settled[i] = tx.settle(o)
		}
		for _, o := range request.Notices {
			tx.settleNotice(o)
		}
		more := c.round()
		if request.Claim != nil && request.Claim.Notices > 0 {
			var moreNotices bool
			result.Notices, moreNotices = tx.claimNotices(request.Claim.Notices, c.lease)
			more = more || moreNotices
		}
		result.Claims = c.claims
		result.Next = tx.next(more)
		return nil
	})
	return result, err
}

// next is how long from now something becomes due.
func (tx *memoryTx) next(more bool) time.Duration {
	if more {
		return 0
	}
	next := time.Duration(-1)
	for _, t := range []*turns.Turns[*memoryWebhook]{&tx.turns, &tx.notices} {
		if at, ok := t.NextDue(tx.now); ok {
			if wait := at.Sub(tx.now); next < 0 || wait < next {
				next = wait
			}
		}
	}
	return next
}

// settle applies an outcome to its delivery.
func (tx *memoryTx) settle(o Outcome) (settled Settled) {
	w := tx.find(o.Key.WebhookKey())
	if w == nil {
		return Settled{Stale: true}
	}
	d, found := w.pending.get(o.Key.Event)
	if !found || d.token == 0 || d.token != o.Token {
		return Settled{Stale: true}
	}
	d.queue.remove(d)
	d.token, d.due = 0, time.Time{}
	if o.Kind != OutcomeReturn {
		d.losses = 0
	}
	if o.Failure != nil {
		tx.fail(d, *o.Failure)
	}
	w.activity.settled(o.Kind, tx.now)

	// First, so that the webhook which this outcome suspends holds this delivery too.
	if o.Suspend && o.Epoch == w.epoch && !w.webhook.Suspended() {
		tx.suspend(w)
		settled.Suspended = true
	}
	switch o.Kind {
	case OutcomeDelivered, OutcomeDrop:
		w.pending.remove(d.event)
		tx.size -= int64(len(d.body))
	case OutcomeRetry:
		d.attempts++
		tx.await(w, d, tx.in(o.Wait))
	case OutcomeDivert:
		d.attempts++
		if d.failure() == nil {
			tx.fail(d, Failure{Trigger: TriggerTimeout})
		}
		tx.setAside(w, d)
	case OutcomeHold:
		d.attempts++
		d.spent = true
		tx.await(w, d, time.Time{})
	case OutcomeReturn:
		tx.await(w, d, time.Time{})
	}
	if o.Alert && d.failure() != nil {
		tx.alert(w, d, o.Kind == OutcomeDivert, settled.Suspended)
	}
	tx.plan(w)
	return settled
}

// memoryClaimer claims within the bounds of a request.
type memoryClaimer struct {
	tx       *memoryTx
	count    int // how many more may be claimed
	bytes    int // how much more
	lease    time.Duration
	reserve  func(WebhookKey, int) int
	inFlight func(Key) bool
	claims   []Claim
}

func (tx *memoryTx) claimer(r *ClaimRequest) *memoryClaimer {
	c := &memoryClaimer{
		tx:       tx,
		reserve:  func(_ WebhookKey, want int) int { return want },
		inFlight: func(Key) bool { return false },
	}
	if r == nil {
		return c
	}
	c.count, c.bytes, c.lease = r.Count, r.Bytes, r.Lease
	if r.Reserve != nil {
		c.reserve = r.Reserve
	}
	if r.InFlight != nil {
		c.inFlight = r.InFlight
	}
	return c
}

// fits says whether the body of a delivery is within the bounds.
func (c *memoryClaimer) fits(d *memoryDelivery) bool {
	return len(c.claims) == 0 || len(d.body) <= c.bytes
}

// next returns the delivery that is to be claimed next, nil if none is due. Those whose lease is over while
// the caller still has them stay claimed.
func (c *memoryClaimer) next(w *memoryWebhook) *memoryDelivery {
	for {
		d := w.timed.first()
		if d == nil || !c.tx.over(d.due) {
			d = w.ready.first()
		}
		if d == nil || d.token == 0 || !c.inFlight(w.with(d.event)) {
			return d
		}
		c.hold(w, d)
	}
}

// hold begins a lease, or extends it.
func (c *memoryClaimer) hold(w *memoryWebhook, d *memoryDelivery) {
	d.queue.remove(d)
	d.due = c.tx.in(c.lease)
	w.timed.add(d)
}

// take claims a delivery.
func (c *memoryClaimer) take(w *memoryWebhook, d *memoryDelivery) {
	if d.token != 0 {
		d.losses++
	}
	if d.spent {
		d.attempts, d.spent, d.released = 0, false, true
	}
	d.token = c.tx.token()
	c.hold(w, d)
	c.count--
	c.bytes -= len(d.body)
	c.claims = append(c.claims, Claim{
		Key:            w.with(d.event),
		Token:          d.token,
		Webhook:        w.webhook,
		Epoch:          w.epoch,
		RequestLocator: d.request,
		EventType:      d.eventType,
		Body:           bytes.Clone(d.body),
		AcceptedAt:     d.acceptedAt,
		TraceParent:    d.traceParent,
		Attempts:       d.attempts,
		Losses:         d.losses,
		Diverted:       d.resent,
		Released:       d.released,
	})
}

// memoryPerTurn is how many deliveries of a webhook are claimed at a turn, where others wait as well.
const memoryPerTurn = 8

// round claims what is due, in turns, and says whether more is than the bounds allow.
func (c *memoryClaimer) round() (more bool) {
	if c.count <= 0 {
		return false
	}
	share := 0
	c.tx.turns.Round(c.tx.now, func(w *memoryWebhook) turns.Answer {
		if share == 0 {
			share = min(max(c.count/c.tx.turns.Len(), 1), memoryPerTurn)
		}
		d := c.next(w)
		switch {
		case d == nil:
			return c.idle(w)
		case c.count == 0 || !c.fits(d):
			more = true
			return turns.Stop
		}
		want := min(share, c.count, w.ready.Len()+w.timed.Len())
		room := min(c.reserve(w.key, want), want)
		for taken := 0; taken < room && d != nil && c.fits(d); taken++ {
			c.take(w, d)
			d = c.next(w)
		}
		switch {
		case d == nil:
			return c.idle(w)
		case room < want && c.fits(d):
			return turns.NoRoom
		default:
			return turns.More
		}
	})
	return more
}

// idle ends the turn of a webhook of which nothing more is due, until a wait or a lease ends.
func (c *memoryClaimer) idle(w *memoryWebhook) turns.Answer {
	if first := w.timed.first(); first != nil {
		c.tx.turns.At(w.key.Tenant, w, first.due)
	}
	return turns.Idle
}

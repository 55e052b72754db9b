package diverted

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// Divert implements [DivertedStore].
func (s *MemoryStore) Divert(ctx context.Context, event DivertedEvent) error {
	return s.do(ctx, func(tx *memoryTx) error {
		if err := event.Validate(); err != nil {
			return err
		}
		w := tx.open(event.WebhookKey())
		if _, pending := w.pending.get(event.Event); pending {
			return fmt.Errorf("diverted: event %s is pending: %w", event.Key, ErrConflict)
		}
		d, found := w.diverted.get(event.Event)
		if !found {
			tx.order++
			d = &memoryDelivery{
				event: event.Event, request: event.RequestLocator, eventType: event.EventType,
				body: bytes.Clone(event.Body), acceptedAt: tx.today(), order: tx.order,
			}
			w.diverted.put(d)
			tx.size += int64(len(d.body))
		}
		d.attempts, d.failure, d.divertedAt = event.Attempts, tx.keep(event.Failure), tx.today()
		tx.changed(ChangeDiverted, w.with(d.event))
		return nil
	})
}

// keep returns a failure as it is kept.
func (tx *memoryTx) keep(f Failure) *Failure {
	if f.At.IsZero() {
		f.At = tx.now
	}
	f.At = f.At.UTC().Truncate(time.Millisecond)
	return &f
}

// FetchDiverted implements [DivertedStore].
func (s *MemoryStore) FetchDiverted(ctx context.Context, key Key) (event DivertedEvent, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		w, d, err := tx.aside(key)
		if err != nil {
			return err
		}
		event = d.divertedEvent(w)
		event.Body = bytes.Clone(d.body)
		return nil
	})
	return event, err
}

// ListDiverted implements [DivertedStore].
func (s *MemoryStore) ListDiverted(ctx context.Context, query DivertedQuery) (page DivertedPage, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		query, err := query.WithDefaults()
		if err != nil {
			return err
		}
		w := tx.find(query.Webhook)
		if w == nil {
			return nil
		}
		for d := range w.diverted.from(query.After, query.Offset) {
			if len(page.Events) == query.Limit {
				page.More = true
				break
			}
			page.Events = append(page.Events, d.divertedEvent(w))
		}
		return nil
	})
	return page, err
}

// Resend implements [DivertedStore].
func (s *MemoryStore) Resend(ctx context.Context, key Key) error {
	return s.do(ctx, func(tx *memoryTx) error {
		w, d, err := tx.aside(key)
		if err != nil {
			return err
		}
		switch {
		case w.webhook == nil:
			err = ErrWebhookUnknown
		case !w.webhook.Enabled:
			err = ErrDisabled
		case w.webhook.Suspended():
			err = ErrSuspended
		}
		if err != nil {
			return fmt.Errorf("diverted: resend %s: %w", key, err)
		}
		w.diverted.remove(d.event)
		w.pending.put(d)
		d.attempts, d.losses, d.released, d.resent, d.divertedAt = 0, 0, false, true, time.Time{}
		tx.await(w, d, time.Time{})
		tx.plan(w)
		tx.changed(ChangeResent, w.with(d.event))
		return nil
	})
}

// DeleteDiverted implements [DivertedStore].
func (s *MemoryStore) DeleteDiverted(ctx context.Context, key Key) error {
	return s.do(ctx, func(tx *memoryTx) error {
		w, d, err := tx.aside(key)
		if err != nil {
			return err
		}
		w.diverted.remove(d.event)
		tx.size -= int64(len(d.body))
		if w.webhook == nil && w.diverted.len() == 0 {
			tx.forget(w)
		}
		tx.changed(ChangeDeleted, w.with(d.event))
		return nil
	})
}

// aside returns a delivery that is diverted, else ErrNotFound.
func (tx *memoryTx) aside(key Key) (*memoryWebhook, *memoryDelivery, error) {
	if w := tx.find(key.WebhookKey()); w != nil {
		if d, found := w.diverted.get(key.Event); found {
			return w, d, nil
		}
	}
	return nil, nil, fmt.Errorf("diverted: event %s: %w", key, ErrNotFound)
}

// divertedEvent is the delivery as a caller sees it, without its body.
func (d *memoryDelivery) divertedEvent(w *memoryWebhook) DivertedEvent {
	return DivertedEvent{
		Key:            w.with(d.event),
		RequestLocator: d.request,
		Failure:        *d.failure,
		EventType:      d.eventType,
		Attempts:       d.attempts,
		AcceptedAt:     d.acceptedAt,
		DivertedAt:     d.divertedAt,
	}
}

// ListPending implements [DeliveryStore].
func (s *MemoryStore) ListPending(ctx context.Context, query DivertedQuery) (page PendingPage, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		query, err := query.WithDefaults()
		if err != nil {
			return err
		}
		w := tx.find(query.Webhook)
		if w == nil {
			return nil
		}
		for d := range w.pending.from(query.After, query.Offset) {
			if len(page.Deliveries) == query.Limit {
				page.More = true
				break
			}
			p := PendingDelivery{
				Key:            w.with(d.event),
				RequestLocator: d.request,
				EventType:      d.eventType,
				AcceptedAt:     d.acceptedAt,
				Attempts:       d.attempts,
			}
			if !tx.over(d.due) {
				p.Claimed = d.token != 0
				if p.Claimed || w.active() {
					p.Due = d.due
				}
			}
			if d.failure != nil {
				f := *d.failure
				p.Failure = &f
			}
			page.Deliveries = append(page.Deliveries, p)
		}
		return nil
	})
	return page, err
}

// DivertPending is as [SQLiteStore.DivertPending].
func (s *MemoryStore) DivertPending(ctx context.Context, request DivertPendingRequest) (diverted int, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		if err := request.Validate(); err != nil {
			return err
		}
		for _, tenant := range tx.tenants {
			for w := range tenant.from(ulid.ULID{}, 0) {
				if request.Webhook == (WebhookKey{}) || request.Webhook == w.key {
					diverted += tx.divertPending(w, request)
				}
			}
		}
		return nil
	})
	return diverted, err
}

func (tx *memoryTx) divertPending(w *memoryWebhook, request DivertPendingRequest) int {
	var old []*memoryDelivery
	for d := range w.pending.from(ulid.ULID{}, 0) {
		if d.acceptedAt.Before(request.Before) {
			old = append(old, d)
		}
	}
	for _, d := range old {
		d.queue.remove(d)
		d.token, d.due, d.losses, d.spent = 0, time.Time{}, 0, false
		d.failure, d.divertedAt = tx.keep(*request.Failure()), tx.today()
		w.pending.remove(d.event)
		w.diverted.put(d)
		tx.changed(ChangeDiverted, w.with(d.event))
	}
	tx.plan(w)
	return len(old)
}

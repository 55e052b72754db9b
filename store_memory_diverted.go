package diverted

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"
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
		tx.fail(d, event.Failure)
		again := d.divertedAt.Add(time.Millisecond) // later than before, by whatever clock
		if d.attempts, d.divertedAt = event.Attempts, tx.today(); found && d.divertedAt.Before(again) {
			d.divertedAt = again
		}
		w.activity.diverted(event.Failure.Trigger, tx.now)
		tx.changed(ChangeDiverted, w.with(d.event))
		return nil
	})
}

// FetchDiverted implements [DivertedStore].
func (s *MemoryStore) FetchDiverted(ctx context.Context, key Key) (event DivertedEvent, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		w, d, err := tx.aside(key)
		if err != nil {
			return err
		}
		event = d.divertedEvent(w)
		event.Body, event.Failures = bytes.Clone(d.body), slices.Clone(d.failures)
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
		for d := range w.diverted.from(query.After, 0) {
			event := d.divertedEvent(w)
			switch {
			case !query.Filter.Selects(&event):
				continue
			case query.Offset > 0:
				query.Offset--
				continue
			case len(page.Events) == query.Limit:
				page.More = true
				return nil
			case query.Failures:
				event.Failures = slices.Clone(d.failures)
			}
			page.Events = append(page.Events, event)
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
		if err = w.letsGo(); len(d.body) == 0 {
			err = ErrExpunged
		}
		if err != nil {
			return fmt.Errorf("diverted: resend %s: %w", key, err)
		}
		tx.resend(w, d)
		tx.plan(w)
		return nil
	})
}

// letsGo returns why the webhook does not let diverted events go, nil if it does.
func (w *memoryWebhook) letsGo() error {
	switch {
	case w == nil || w.webhook == nil:
		return ErrWebhookUnknown
	case !w.webhook.Enabled:
		return ErrDisabled
	case w.webhook.Suspended():
		return ErrSuspended
	}
	return nil
}

// resend makes a diverted delivery pending.
func (tx *memoryTx) resend(w *memoryWebhook, d *memoryDelivery) {
	w.diverted.remove(d.event)
	w.pending.put(d)
	d.attempts, d.losses, d.released, d.resent, d.divertedAt = 0, 0, false, true, time.Time{}
	tx.await(w, d, time.Time{})
	tx.changed(ChangeResent, w.with(d.event))
}

// setAside makes a pending delivery, which has a failure, diverted.
func (tx *memoryTx) setAside(w *memoryWebhook, d *memoryDelivery) {
	if d.queue != nil {
		d.queue.remove(d)
	}
	d.token, d.due, d.losses, d.spent = 0, time.Time{}, 0, false
	d.divertedAt = tx.today()
	w.pending.remove(d.event)
	w.diverted.put(d)
	w.activity.diverted(d.failure().Trigger, tx.now)
}

// DeleteDiverted implements [DivertedStore].
func (s *MemoryStore) DeleteDiverted(ctx context.Context, key Key) error {
	return s.do(ctx, func(tx *memoryTx) error {
		w, d, err := tx.aside(key)
		if err != nil {
			return err
		}
		tx.deleteDiverted(w, d)
		tx.changed(ChangeDeleted, w.with(d.event))
		return nil
	})
}

// DeleteResent implements [DivertedStore].
func (s *MemoryStore) DeleteResent(ctx context.Context, event DivertedEvent) error {
	return s.do(ctx, func(tx *memoryTx) error {
		w, d, err := tx.aside(event.Key)
		if err != nil {
			return err
		}
		if !d.divertedAt.Equal(event.DivertedAt) {
			return fmt.Errorf("diverted: event %s was diverted again: %w", event.Key, ErrConflict)
		}
		tx.deleteDiverted(w, d)
		tx.changed(ChangeDeleted, w.with(d.event))
		return nil
	})
}

func (tx *memoryTx) deleteDiverted(w *memoryWebhook, d *memoryDelivery) {
	w.diverted.remove(d.event)
	tx.size -= int64(len(d.body))
	if w.webhook == nil && w.diverted.len() == 0 {
		tx.forget(w)
	}
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
		Failure:        *d.failure(),
		EventType:      d.eventType,
		Attempts:       d.attempts,
		AcceptedAt:     d.acceptedAt,
		DivertedAt:     d.divertedAt,
		Expunged:       len(d.body) == 0,
	}
}

// ListPending implements [DeliveryStore].
func (s *MemoryStore) ListPending(ctx context.Context, query DivertedQuery) (page PendingPage, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		query, err := query.WithDefaults()
		if err == nil {
			err = query.ForPending()
		}
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
			p.Failure = d.failure()
			page.Deliveries = append(page.Deliveries, p)
		}
		return nil
	})
	return page, err
}

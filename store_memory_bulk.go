package diverted

import (
	"context"
	"fmt"
	"time"
)

// ResendAll implements [BulkStore].
func (s *MemoryStore) ResendAll(ctx context.Context, request BulkRequest) (BulkResult, error) {
	return s.bulk(ctx, request, func(tx *memoryTx, w *memoryWebhook, dryRun bool) (memoryBulk, error) {
		if err := w.letsGo(); err != nil && !dryRun {
			return memoryBulk{}, fmt.Errorf("diverted: resend all of %s: %w", request.Webhook, err)
		}
		return memoryBulk{selects: selectsDiverted, apply: func(d *memoryDelivery) bool {
			if len(d.body) == 0 {
				return false
			}
			tx.resend(w, d)
			return true
		}}, nil
	})
}

// DeleteAll implements [BulkStore].
func (s *MemoryStore) DeleteAll(ctx context.Context, request BulkRequest) (BulkResult, error) {
	return s.bulk(ctx, request, func(tx *memoryTx, w *memoryWebhook, _ bool) (memoryBulk, error) {
		return memoryBulk{selects: selectsDiverted, apply: func(d *memoryDelivery) bool {
			tx.deleteDiverted(w, d)
			tx.changed(ChangeDeleted, w.with(d.event))
			return true
		}}, nil
	})
}

// DivertAll implements [BulkStore].
func (s *MemoryStore) DivertAll(ctx context.Context, request BulkRequest) (BulkResult, error) {
	return s.bulk(ctx, request, func(tx *memoryTx, w *memoryWebhook, _ bool) (memoryBulk, error) {
		switch {
		case request.ForPending() != nil:
			return memoryBulk{}, request.ForPending()
		case w == nil || w.webhook == nil:
			return memoryBulk{}, fmt.Errorf("diverted: webhook %s: %w", request.Webhook, ErrNotFound)
		case w.active():
			return memoryBulk{}, fmt.Errorf("diverted: webhook %s is neither suspended nor disabled: %w", request.Webhook, ErrConflict)
		}
		return memoryBulk{
			pending: true,
			selects: func(r *BulkRequest, _ *memoryWebhook, d *memoryDelivery) bool {
				return (r.Filter.EventType == "" || r.Filter.EventType == d.eventType) && d.acceptedAt.Before(r.Before)
			},
			apply: func(d *memoryDelivery) bool {
				if d.failure() == nil {
					tx.fail(d, AsideOnRequest(tx.now))
				}
				tx.setAside(w, d)
				tx.changed(ChangeDiverted, w.with(d.event))
				return true
			},
		}, nil
	})
}

// memoryBulk is what a step of a [BulkStore] does: with the pending deliveries of a webhook, or else with the
// diverted ones, that selects selects. apply says whether it changed one.
type memoryBulk struct {
	pending bool
	selects func(*BulkRequest, *memoryWebhook, *memoryDelivery) bool
	apply   func(*memoryDelivery) bool
}

func selectsDiverted(r *BulkRequest, w *memoryWebhook, d *memoryDelivery) bool {
	event := d.divertedEvent(w)
	return r.Filter.Selects(&event) && d.divertedAt.Before(r.Before)
}

// bulk makes a step. prepare is told the webhook, which may be nil.
func (s *MemoryStore) bulk(ctx context.Context, request BulkRequest, prepare func(*memoryTx, *memoryWebhook, bool) (memoryBulk, error)) (result BulkResult, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		r, err := request.WithDefaults()
		if err != nil {
			return err
		}
		w := tx.find(r.Webhook)
		b, err := prepare(tx, w, r.DryRun)
		if err != nil {
			return err
		}
		if r.Before.IsZero() {
			r.Before = tx.today().Add(time.Millisecond)
		}
		result.After, result.Before = r.After, r.Before
		if w == nil {
			return nil
		}
		selected := tx.selectAll(&r, w, b)
		if result.More = len(selected) > r.Limit; result.More {
			selected = selected[:r.Limit]
		}
		for _, d := range selected {
			result.Matched++
			result.After = d.event
			if !r.DryRun && b.apply(d) {
				result.Done++
			}
		}
		if result.Done > 0 {
			tx.plan(w)
		}
		return nil
	})
	return result, err
}

// selectAll returns what a step selects, and one more if there are more.
func (tx *memoryTx) selectAll(r *BulkRequest, w *memoryWebhook, b memoryBulk) (selected []*memoryDelivery) {
	index := &w.diverted
	if b.pending {
		index = &w.pending
	}
	for d := range index.from(r.After, 0) {
		if b.selects(r, w, d) {
			if selected = append(selected, d); len(selected) > r.Limit {
				break
			}
		}
	}
	return selected
}

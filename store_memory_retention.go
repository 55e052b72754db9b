package diverted

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
)

// Purge implements [RetentionStore].
func (s *MemoryStore) Purge(ctx context.Context, request PurgeRequest) (result PurgeResult, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		r, err := request.WithDefaults()
		if err != nil {
			return err
		}
		var all []*memoryWebhook
		for _, tenant := range tx.tenants {
			all = slices.AppendSeq(all, tenant.from(ulid.ULID{}, 0))
		}
		for _, w := range all {
			purged := tx.purge(w, &r, &result.More)
			if purged.Diverted+purged.Pending > 0 {
				r.Limit -= purged.Diverted + purged.Pending
				result.Webhooks = append(result.Webhooks, purged)
			}
		}
		return nil
	})
	return result, err
}

// purge deletes at most r.Limit deliveries of a webhook, and sets more if it had to leave some.
func (tx *memoryTx) purge(w *memoryWebhook, r *PurgeRequest, more *bool) Purged {
	purged := Purged{Webhook: w.key}
	aside := slices.Collect(w.diverted.from(ulid.ULID{}, 0))
	old := tx.old(aside, len(aside), r.Retention, func(d *memoryDelivery) time.Time { return d.divertedAt })
	for _, d := range old[:min(len(old), r.Limit)] {
		tx.deleteDiverted(w, d)
		purged.Diverted++
	}
	*more = *more || purged.Diverted < len(old)

	if w.webhook == nil || w.active() {
		return purged
	}
	held := r.Retention
	if !w.webhook.Suspended() {
		held.MaxAge = 0 // what is only disabled has no age
	}
	old = tx.old(tx.held(w), w.pending.len(), held, func(d *memoryDelivery) time.Time { return later(d.acceptedAt, w.webhook.SuspendedAt) })
	for _, d := range old[:min(len(old), r.Limit-purged.Diverted)] {
		d.queue.remove(d)
		w.pending.remove(d.event)
		tx.size -= int64(len(d.body))
		purged.Pending++
	}
	*more = *more || purged.Pending < len(old)
	tx.plan(w)
	return purged
}

// held are the pending deliveries of a webhook that nobody has a lease of.
func (tx *memoryTx) held(w *memoryWebhook) (held []*memoryDelivery) {
	for d := range w.pending.from(ulid.ULID{}, 0) {
		if d.token == 0 || tx.over(d.due) {
			held = append(held, d)
		}
	}
	return held
}

// old returns those of all, of which the webhook has inAll, that are too old or beyond the cap, the
// oldest first.
func (tx *memoryTx) old(all []*memoryDelivery, inAll int, r Retention, since func(*memoryDelivery) time.Time) []*memoryDelivery {
	slices.SortFunc(all, func(a, b *memoryDelivery) int {
		return cmp.Or(since(a).Compare(since(b)), cmp.Compare(a.order, b.order))
	})
	n := 0
	for n < len(all) && (r.MaxAge > 0 && tx.over(since(all[n]).Add(r.MaxAge)) || r.MaxPerWebhook > 0 && inAll-n > r.MaxPerWebhook) {
		n++
	}
	return all[:n]
}

// Expunge implements [RetentionStore].
func (s *MemoryStore) Expunge(ctx context.Context, key Key) error {
	return s.do(ctx, func(tx *memoryTx) error {
		_, d, err := tx.aside(key)
		if err != nil {
			return fmt.Errorf("expunge: %w", err)
		}
		tx.size -= int64(len(d.body))
		d.body = nil
		failures := make([]Failure, len(d.failures))
		for i, f := range d.failures {
			failures[i] = f.Expunged()
		}
		d.failures = failures
		return nil
	})
}

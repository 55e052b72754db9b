package diverted

import (
	"context"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// PutWebhook implements [WebhookStore].
func (s *MemoryStore) PutWebhook(ctx context.Context, webhook Webhook) (saved Webhook, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		if err := webhook.Validate(); err != nil {
			return err
		}
		w := tx.open(webhook.Key())
		if w.webhook == nil {
			saved = tx.create(w, webhook)
			return nil
		}
		if saved = webhook.Replacing(*w.webhook, tx.today()); saved.Version != w.webhook.Version {
			saved = tx.save(w, saved)
		}
		return nil
	})
	return saved, err
}

// CreateWebhook implements [WebhookStore].
func (s *MemoryStore) CreateWebhook(ctx context.Context, webhook Webhook) (saved Webhook, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		if err := webhook.Validate(); err != nil {
			return err
		}
		w := tx.open(webhook.Key())
		if w.webhook != nil {
			return fmt.Errorf("diverted: webhook %s exists already: %w", w.key, ErrConflict)
		}
		saved = tx.create(w, webhook)
		return nil
	})
	return saved, err
}

// UpdateWebhook implements [WebhookStore].
func (s *MemoryStore) UpdateWebhook(ctx context.Context, webhook Webhook) (saved Webhook, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		if err := webhook.Validate(); err != nil {
			return err
		}
		w, err := tx.known(webhook.Key())
		if err != nil {
			return err
		}
		stand := w.webhook
		if webhook.Version != stand.Version {
			return fmt.Errorf("diverted: webhook %s is at version %d, not %d: %w", w.key, stand.Version, webhook.Version, ErrConflict)
		}
		webhook := webhook.clone()
		webhook.SuspendedAt, webhook.Version = stand.SuspendedAt, stand.Version+1
		saved = tx.save(w, webhook)
		return nil
	})
	return saved, err
}

// FetchWebhook implements [WebhookStore].
func (s *MemoryStore) FetchWebhook(ctx context.Context, key WebhookKey) (webhook Webhook, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		w, err := tx.known(key)
		if err != nil {
			return err
		}
		webhook = w.webhook.clone()
		return nil
	})
	return webhook, err
}

// ListWebhooks implements [WebhookStore].
func (s *MemoryStore) ListWebhooks(ctx context.Context, query WebhookQuery) (page WebhookPage, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		query, err := query.WithDefaults()
		if err != nil {
			return err
		}
		tenant := tx.tenants[query.Tenant]
		if tenant == nil {
			return nil
		}
		for w := range tenant.from(query.After, 0) {
			switch {
			case w.webhook == nil || !query.Selects(*w.webhook):
			case query.Offset > 0:
				query.Offset--
			case len(page.Webhooks) == query.Limit:
				page.More = true
				return nil
			default:
				page.Webhooks = append(page.Webhooks, w.webhook.clone())
			}
		}
		return nil
	})
	return page, err
}

// DeleteWebhook implements [WebhookStore].
func (s *MemoryStore) DeleteWebhook(ctx context.Context, key WebhookKey, discard bool) error {
	return s.do(ctx, func(tx *memoryTx) error {
		w := tx.find(key)
		if w == nil || w.webhook == nil && w.diverted.len() == 0 {
			return fmt.Errorf("diverted: webhook %s: %w", key, ErrNotFound)
		}
		if pending, diverted := w.pending.len(), w.diverted.len(); !discard && pending+diverted > 0 {
			return fmt.Errorf("diverted: webhook %s has %d pending and %d diverted: %w", key, pending, diverted, ErrNotEmpty)
		}
		tx.forget(w)
		return nil
	})
}

// Suspend implements [WebhookStore].
func (s *MemoryStore) Suspend(ctx context.Context, key WebhookKey) error {
	return s.do(ctx, func(tx *memoryTx) error {
		w, err := tx.known(key)
		if err != nil {
			return err
		}
		if !w.webhook.Suspended() {
			tx.suspend(w)
			tx.changed(ChangeSuspended, w.with(ulid.ULID{}))
		}
		return nil
	})
}

// Unsuspend implements [WebhookStore].
func (s *MemoryStore) Unsuspend(ctx context.Context, key WebhookKey) error {
	return s.do(ctx, func(tx *memoryTx) error {
		w, err := tx.known(key)
		if err != nil || !w.webhook.Suspended() {
			return err
		}
		w.epoch++
		webhook := *w.webhook
		webhook.SuspendedAt = time.Time{}
		tx.set(w, webhook)
		tx.changed(ChangeUnsuspended, w.with(ulid.ULID{}))
		return nil
	})
}

// create saves a webhook that is not there yet.
func (tx *memoryTx) create(w *memoryWebhook, webhook Webhook) Webhook {
	webhook = webhook.clone()
	webhook.SuspendedAt, webhook.Version = time.Time{}, 1
	tx.set(w, webhook)
	return webhook.clone()
}

// save replaces a webhook.
func (tx *memoryTx) save(w *memoryWebhook, webhook Webhook) Webhook {
	if webhook.Enabled && !w.webhook.Enabled {
		tx.changed(ChangeEnabled, w.with(ulid.ULID{}))
	}
	tx.set(w, webhook)
	return webhook.clone()
}

func (tx *memoryTx) suspend(w *memoryWebhook) {
	webhook := *w.webhook
	webhook.SuspendedAt = tx.today()
	tx.set(w, webhook)
}

// set puts a webhook in place, which shares no memory with a caller's, and lets its deliveries go if it
// has become active.
func (tx *memoryTx) set(w *memoryWebhook, webhook Webhook) {
	before := w.active()
	w.webhook = &webhook
	if w.active() && !before {
		tx.release(w)
	}
	tx.plan(w)
}

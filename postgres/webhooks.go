package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
)

// Every transaction that changes webhooks locks their rows first, then those of deliveries and notices, and
// the one of state last, so that none waits for another that waits for it.

const (
	findHook = `
		SELECT now(), ` + hookColumns + ` FROM diverted.webhooks
		WHERE tenant = $1 AND locator = $2 AND NOT deleted`
	lockHook = findHook + ` FOR NO KEY UPDATE`

	insertHook = `
		INSERT INTO diverted.webhooks (tenant, locator, record, enabled, suspended_at, epoch, version, changed)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0)
		ON CONFLICT (tenant, locator) WHERE NOT deleted DO NOTHING RETURNING id`

	// A record that could not be decoded stays as it is: it may be mended.
	updateHook = `
		UPDATE diverted.webhooks SET record = coalesce($2, record), enabled = $3, suspended_at = $4, epoch = $5, version = $6
		WHERE id = $1 RETURNING id`

	// bump begins a generation and puts webhooks into it. The row of state is locked to the commit, so
	// generations become visible in their order.
	bump = `
		WITH next AS (UPDATE diverted.state SET generation = generation + 1 RETURNING generation)
		UPDATE diverted.webhooks SET changed = next.generation FROM next WHERE id = ANY($1::bigint[])`

	suspendHooks = `
		UPDATE diverted.webhooks SET suspended_at = date_trunc('milliseconds', now())
		WHERE id = ANY($1::bigint[]) AND suspended_at IS NULL AND NOT deleted`

	// releaseStep is how many waiting retries become due in one transaction when a webhook becomes active.
	releaseStep = 1000

	releaseRetries = `
		UPDATE diverted.deliveries d SET due = '-infinity' FROM (
			SELECT webhook, event FROM diverted.deliveries
			WHERE webhook = $1 AND due > '-infinity' AND lease IS NULL LIMIT $2 FOR UPDATE) r
		WHERE d.webhook = r.webhook AND d.event = r.event`
)

// errAgain has a change look again: somebody else created the webhook meanwhile.
var errAgain = errors.New("created meanwhile")

// change makes a change to a webhook: decide is given the row that stands, or nil, and the server's time,
// and returns what to save, or nil or the row that stands to change nothing. If the webhook becomes active by
// it, what it has is released first, in steps.
func (s *Store) change(ctx context.Context, action string, key diverted.WebhookKey, decide func(stand *hook, now time.Time) (*hook, error), told ...diverted.ChangeKind) (*hook, error) {
	done, err := s.begin(ctx, action)
	if err != nil {
		return nil, err
	}
	defer done()
	var saved, stood *hook
	for more := true; more; {
		err := s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
			stand, now, err := s.lockHook(ctx, conn, key)
			if err != nil {
				return err
			}
			saved, stood, more = nil, stand, false
			next, err := decide(stand, now)
			if next == nil || err != nil {
				return err
			}
			if saved = next; next == stand {
				return nil
			}
			if next.active() && stand != nil && stand.known && !stand.active() {
				if more, err = s.release(ctx, conn, stand.id); more || err != nil {
					return err
				}
			}
			saved = next
			return s.save(ctx, conn, next)
		})
		if errors.Is(err, errAgain) {
			more = true
		} else if err != nil {
			return nil, wrap(action, err)
		}
	}
	if saved == nil || saved == stood {
		return saved, nil
	}
	s.hooks.spoil()
	if saved.active() && stood != nil && !stood.active() {
		s.hints.ready(key.Tenant, saved.id)
		s.news.add(saved.id)
	}
	if stood != nil && stood.known && saved.webhook.Enabled && !stood.webhook.Enabled {
		told = append(told, diverted.ChangeEnabled)
	}
	for _, kind := range told {
		s.watchers.Tell(webhookChange(kind, key))
	}
	return saved, nil
}

// lockHook locks and reads the row of a webhook, nil if there is none.
func (s *Store) lockHook(ctx context.Context, conn *pgxpool.Conn, key diverted.WebhookKey) (*hook, time.Time, error) {
	return s.readHook(ctx, conn, lockHook, key)
}

// readHook reads the row of a webhook, nil if there is none, and the server's time, by findHook or lockHook.
func (s *Store) readHook(ctx context.Context, conn *pgxpool.Conn, query string, key diverted.WebhookKey) (*hook, time.Time, error) {
	var now time.Time
	var row hookRow
	err := conn.QueryRow(ctx, s.q(query), pgUUID(key.Tenant), pgUUID(key.Webhook)).Scan(append([]any{&now}, row.dest()...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		err = conn.QueryRow(ctx, `SELECT now()`).Scan(&now)
		return nil, now, err
	}
	if err != nil {
		return nil, now, err
	}
	return row.hook(), now, nil
}

// release makes some of the waiting retries of a webhook due, in the order of acceptance, and says whether
// there may be more. Held and fresh deliveries are so already.
func (s *Store) release(ctx context.Context, conn *pgxpool.Conn, id int64) (more bool, err error) {
	if _, err := conn.Exec(ctx, byIndex); err != nil {
		return false, err
	}
	tag, err := conn.Exec(ctx, s.q(releaseRetries), id, releaseStep)
	return tag.RowsAffected() == releaseStep, err
}

// save writes a row, in a new generation. h.id is 0 for a new one.
func (s *Store) save(ctx context.Context, conn *pgxpool.Conn, h *hook) error {
	w := h.webhook
	var record pgtype.Text
	if h.known && h.err == nil {
		encoded, err := diverted.EncodeWebhook(*w)
		if err != nil {
			return err
		}
		record = pgtype.Text{String: string(encoded), Valid: true}
		w = &diverted.Webhook{Tenant: w.Tenant, Locator: w.Locator, Enabled: w.Enabled, SuspendedAt: w.SuspendedAt, Version: w.Version}
		if err := diverted.DecodeWebhook(encoded, w); err != nil {
			return err
		}
		h.webhook = w // shares no memory with what the caller gave
	}
	suspended := pgtype.Timestamptz{Time: w.SuspendedAt, Valid: w.Suspended()}
	var err error
	if h.id == 0 {
		err = conn.QueryRow(ctx, s.q(insertHook), pgUUID(w.Tenant), pgUUID(w.Locator), record, w.Enabled, suspended, h.epoch, w.Version).Scan(&h.id)
		if errors.Is(err, pgx.ErrNoRows) {
			return errAgain
		}
	} else {
		_, err = conn.Exec(ctx, s.q(updateHook), h.id, record, w.Enabled, suspended, h.epoch, w.Version)
	}
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, s.q(bump), []int64{h.id})
	return err
}

// suspendAll suspends webhooks that are locked.
func (s *Store) suspendAll(ctx context.Context, conn *pgxpool.Conn, ids []int64) error {
	b := new(pgx.Batch)
	b.Queue(s.q(suspendHooks), ids)
	b.Queue(s.q(bump), ids)
	return conn.SendBatch(ctx, b).Close()
}

// PutWebhook implements [diverted.WebhookStore].
func (s *Store) PutWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return diverted.Webhook{}, err
	}
	// Most change nothing, at a start of the service. A lock would cost each of them a flush of the server's log.
	stand, err := s.FetchWebhook(ctx, webhook.Key())
	if err == nil && webhook.Replacing(stand, s.hints.serverTime()).Version == stand.Version {
		return stand, nil
	}
	return result(s.change(ctx, "put webhook", webhook.Key(), func(stand *hook, now time.Time) (*hook, error) {
		if stand == nil {
			stand = &hook{webhook: &diverted.Webhook{}}
		}
		next := webhook.Replacing(*stand.webhook, now)
		if next.Version == stand.webhook.Version {
			return stand, nil
		}
		return &hook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next}, nil
	}))
}

// CreateWebhook implements [diverted.WebhookStore].
func (s *Store) CreateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return diverted.Webhook{}, err
	}
	return result(s.change(ctx, "create webhook", webhook.Key(), func(stand *hook, _ time.Time) (*hook, error) {
		if stand == nil {
			stand = &hook{}
		} else if stand.known {
			return nil, fmt.Errorf("create webhook: %w: %s exists", diverted.ErrConflict, webhook.Locator)
		}
		next := webhook
		next.Version, next.SuspendedAt = 1, time.Time{}
		return &hook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next}, nil
	}))
}

// UpdateWebhook implements [diverted.WebhookStore].
func (s *Store) UpdateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return diverted.Webhook{}, err
	}
	return result(s.change(ctx, "update webhook", webhook.Key(), func(stand *hook, _ time.Time) (*hook, error) {
		switch {
		case stand == nil || !stand.known:
			return nil, notFound(webhook.Key())
		case stand.webhook.Version != webhook.Version:
			return nil, fmt.Errorf("update webhook: %w: version %d stands, was given %d", diverted.ErrConflict, stand.webhook.Version, webhook.Version)
		}
		next := webhook
		next.Version, next.SuspendedAt = webhook.Version+1, stand.webhook.SuspendedAt
		return &hook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next}, nil
	}))
}

func result(h *hook, err error) (diverted.Webhook, error) {
	if h == nil || err != nil {
		return diverted.Webhook{}, err
	}
	return *h.webhook, nil
}

// Suspend implements [diverted.WebhookStore].
func (s *Store) Suspend(ctx context.Context, key diverted.WebhookKey) error {
	_, err := s.change(ctx, "suspend webhook", key, func(stand *hook, now time.Time) (*hook, error) {
		switch {
		case stand == nil || !stand.known:
			return nil, notFound(key)
		case stand.webhook.Suspended():
			return nil, nil
		}
		next := *stand.webhook
		next.SuspendedAt = now.UTC().Truncate(time.Millisecond)
		return &hook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next, err: stand.err}, nil
	}, diverted.ChangeSuspended)
	return err
}

// Unsuspend implements [diverted.WebhookStore].
func (s *Store) Unsuspend(ctx context.Context, key diverted.WebhookKey) error {
	_, err := s.change(ctx, "unsuspend webhook", key, func(stand *hook, _ time.Time) (*hook, error) {
		switch {
		case stand == nil || !stand.known:
			return nil, notFound(key)
		case !stand.webhook.Suspended():
			return nil, nil
		}
		next := *stand.webhook
		next.SuspendedAt = time.Time{}
		return &hook{id: stand.id, epoch: stand.epoch + 1, known: true, webhook: &next, err: stand.err}, nil
	}, diverted.ChangeUnsuspended)
	return err
}

// FetchWebhook implements [diverted.WebhookStore].
func (s *Store) FetchWebhook(ctx context.Context, key diverted.WebhookKey) (diverted.Webhook, error) {
	done, err := s.begin(ctx, "fetch webhook")
	if err != nil {
		return diverted.Webhook{}, err
	}
	defer done()
	var found *hook
	err = s.read(ctx, func(b *pgx.Batch) {
		found = nil
		b.Queue(s.q(`SELECT `+hookColumns+` FROM diverted.webhooks WHERE tenant = $1 AND locator = $2 AND NOT deleted AND record IS NOT NULL`),
			pgUUID(key.Tenant), pgUUID(key.Webhook)).Query(func(r pgx.Rows) error {
			for r.Next() {
				var row hookRow
				if err := r.Scan(row.dest()...); err != nil {
					return err
				}
				found = row.hook()
			}
			return r.Err()
		})
	})
	switch {
	case err != nil:
		return diverted.Webhook{}, wrap("fetch webhook", err)
	case found == nil:
		return diverted.Webhook{}, notFound(key)
	}
	return *found.webhook, wrap("fetch webhook", found.err)
}

// listChunk is how many webhooks a list reads at a time, of which it may select some.
const listChunk = 500

// ListWebhooks implements [diverted.WebhookStore].
func (s *Store) ListWebhooks(ctx context.Context, query diverted.WebhookQuery) (diverted.WebhookPage, error) {
	query, err := query.WithDefaults()
	if err != nil {
		return diverted.WebhookPage{}, err
	}
	done, err := s.begin(ctx, "list webhooks")
	if err != nil {
		return diverted.WebhookPage{}, err
	}
	defer done()
	var page diverted.WebhookPage
	after, skip := query.After, query.Offset
	for {
		var rows []*hook
		err := s.read(ctx, func(b *pgx.Batch) {
			rows = rows[:0]
			b.Queue(s.q(`
				SELECT `+hookColumns+` FROM diverted.webhooks
				WHERE tenant = $1 AND locator > $2 AND NOT deleted AND record IS NOT NULL
					AND ($3::bool IS NULL OR enabled = $3) AND ($4::bool IS NULL OR (suspended_at IS NOT NULL) = $4)
				ORDER BY locator LIMIT $5`), pgUUID(query.Tenant), pgUUID(after), query.Enabled, query.Suspended, listChunk).
				Query(func(r pgx.Rows) error {
					for r.Next() {
						var row hookRow
						if err := r.Scan(row.dest()...); err != nil {
							return err
						}
						rows = append(rows, row.hook())
					}
					return r.Err()
				})
		})
		if err != nil {
			return diverted.WebhookPage{}, wrap("list webhooks", err)
		}
		for _, h := range rows {
			after = h.webhook.Locator
			switch {
			case h.err != nil:
				return diverted.WebhookPage{}, wrap("list webhooks", h.err)
			case !query.Selects(*h.webhook):
			case skip > 0:
				skip--
			case len(page.Webhooks) == query.Limit:
				page.More = true
				return page, nil
			default:
				page.Webhooks = append(page.Webhooks, *h.webhook)
			}
		}
		if len(rows) < listChunk {
			return page, nil
		}
	}
}

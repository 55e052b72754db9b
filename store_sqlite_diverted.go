package diverted

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Divert is as in [DivertedStore].
func (s *SQLiteStore) Divert(ctx context.Context, event DivertedEvent) error {
	if err := event.Validate(); err != nil {
		return err
	}
	return s.write(ctx, "divert", func(tx *sqliteTx) error {
		row := tx.webhook(event.WebhookKey())
		if row == nil {
			row = &sqliteWebhook{webhook: &Webhook{Tenant: event.Tenant, Locator: event.Webhook}}
			if err := tx.saveWebhook(row); err != nil {
				return err
			}
		}
		var diverted bool
		if tx.query1(selectDue, []any{row.id, event.Event[:]}, &diverted) && !diverted {
			return fmt.Errorf("divert event %s: %w: it is pending", event.Event, ErrConflict)
		}
		now := tx.now.UnixMilli()
		tx.exec(`
			INSERT INTO diverted_deliveries
				(webhook, event, request, type, accepted_at, attempts, losses, was_diverted, released, diverted_at, failure, body)
			VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?, ?)
			ON CONFLICT (webhook, event) DO UPDATE SET attempts = excluded.attempts, diverted_at = excluded.diverted_at, failure = excluded.failure`,
			row.id, event.Event[:], event.RequestLocator[:], event.EventType, now, event.Attempts, now, encodeFailure(tx.keep(&event.Failure)), event.Body)
		tx.changed(ChangeDiverted, event.Key)
		return nil
	})
}

const divertedColumns = `event, request, type, accepted_at, diverted_at, attempts, failure`

func scanDiverted(row interface{ Scan(...any) error }, key WebhookKey, more ...any) (DivertedEvent, error) {
	var (
		d              = DivertedEvent{Key: Key{Tenant: key.Tenant, Webhook: key.Webhook}}
		event, request []byte
		accepted       int64
		divertedAt     sql.NullInt64
		encoded        []byte
	)
	err := scan(row, append([]any{&event, &request, &d.EventType, &accepted, &divertedAt, &d.Attempts, &encoded}, more...)...)
	if err == nil {
		d.Event, d.RequestLocator, err = locatorsOf(event, request)
	}
	if err != nil {
		return d, err
	}
	d.AcceptedAt, d.DivertedAt = fromMillis(accepted), fromMillis(divertedAt.Int64)
	failure, err := decodeFailure(encoded)
	if failure != nil {
		d.Failure = *failure
	}
	return d, err
}

// FetchDiverted is as in [DivertedStore].
func (s *SQLiteStore) FetchDiverted(ctx context.Context, key Key) (DivertedEvent, error) {
	var d DivertedEvent
	err := s.read(ctx, "fetch diverted event", func(db *sql.DB) error {
		var body []byte
		row := db.QueryRowContext(ctx, `
			SELECT `+divertedColumns+`, body FROM diverted_deliveries
			WHERE webhook = (SELECT id FROM diverted_webhooks WHERE tenant = ? AND locator = ? AND deleted = 0)
			AND event = ? AND due IS NULL`, key.Tenant[:], key.Webhook[:], key.Event[:])
		var err error
		d, err = scanDiverted(row, key.WebhookKey(), &body)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("diverted event %s: %w", key.Event, ErrNotFound)
		}
		d.Body = body
		return err
	})
	return d, err
}

// ListDiverted is as in [DivertedStore].
func (s *SQLiteStore) ListDiverted(ctx context.Context, query DivertedQuery) (DivertedPage, error) {
	var page DivertedPage
	more, err := s.list(ctx, "list diverted events", query, divertedColumns, "due IS NULL", func(rows *sql.Rows) error {
		d, err := scanDiverted(rows, query.Webhook)
		page.Events = append(page.Events, d)
		return err
	})
	page.Events, page.More = cut(page.Events, more)
	return page, err
}

// ListPending is as in [DeliveryStore].
func (s *SQLiteStore) ListPending(ctx context.Context, query DivertedQuery) (PendingPage, error) {
	// While its webhook is not active a delivery waits for nothing else, and so has no time.
	const columns = `event, request, type, accepted_at, due, token IS NOT NULL, attempts, released, failure,
		(SELECT enabled AND suspended_at IS NULL FROM diverted_webhooks WHERE id = webhook)`
	var page PendingPage
	now := s.writer.wall().UnixMilli()
	more, err := s.list(ctx, "list pending deliveries", query, columns, "due IS NOT NULL", func(rows *sql.Rows) error {
		var (
			d              = PendingDelivery{Key: Key{Tenant: query.Webhook.Tenant, Webhook: query.Webhook.Webhook}}
			event, request []byte
			accepted, due  int64
			released       int
			active         bool
			encoded        []byte
		)
		err := scan(rows, &event, &request, &d.EventType, &accepted, &due, &d.Claimed, &d.Attempts, &released, &encoded, &active)
		if err == nil {
			d.Event, d.RequestLocator, err = locatorsOf(event, request)
		}
		if err != nil {
			return err
		}
		if d.Claimed = d.Claimed && due > now; !d.Claimed && (due <= now || !active) {
			due = 0
		}
		if active && released == releasedHeld {
			d.Attempts = 0
		}
		d.AcceptedAt, d.Due = fromMillis(accepted), fromMillis(due)
		d.Failure, err = decodeFailure(encoded)
		page.Deliveries = append(page.Deliveries, d)
		return err
	})
	page.Deliveries, page.More = cut(page.Deliveries, more)
	return page, err
}

// list reads one row more than a page of deliveries, ascending by event, and says how many it read.
func (s *SQLiteStore) list(ctx context.Context, action string, query DivertedQuery, columns, where string, each func(*sql.Rows) error) (limit int, err error) {
	query, err = query.WithDefaults()
	if err != nil {
		return 0, err
	}
	return query.Limit, s.read(ctx, action, func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT `+columns+` FROM diverted_deliveries
			WHERE webhook = (SELECT id FROM diverted_webhooks WHERE tenant = ? AND locator = ? AND deleted = 0)
			AND event > ? AND `+where+` ORDER BY event LIMIT ? OFFSET ?`,
			query.Webhook.Tenant[:], query.Webhook.Webhook[:], query.After[:], query.Limit+1, query.Offset)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := each(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// cut takes from the rows of a page the one that only tells that there are more.
func cut[T any](rows []T, limit int) ([]T, bool) {
	if len(rows) > limit {
		return rows[:limit:limit], true
	}
	return rows, false
}

// Resend is as in [DivertedStore].
func (s *SQLiteStore) Resend(ctx context.Context, key Key) error {
	return s.write(ctx, "resend", func(tx *sqliteTx) error {
		row, err := tx.diverted(key)
		switch {
		case err != nil:
			return err
		case !row.known:
			return fmt.Errorf("resend event %s: %w", key.Event, ErrWebhookUnknown)
		case !row.webhook.Enabled:
			return fmt.Errorf("resend event %s: %w", key.Event, ErrDisabled)
		case row.webhook.Suspended():
			return fmt.Errorf("resend event %s: %w", key.Event, ErrSuspended)
		}
		tx.exec(`
			UPDATE diverted_deliveries
			SET due = 0, token = NULL, attempts = 0, losses = 0, was_diverted = 1, released = 0, diverted_at = NULL
			WHERE webhook = ? AND event = ?`, row.id, key.Event[:])
		tx.count(row.id, 1)
		tx.turns.Ready(key.Tenant, row.id)
		tx.changed(ChangeResent, key)
		return nil
	})
}

// DeleteDiverted is as in [DivertedStore].
func (s *SQLiteStore) DeleteDiverted(ctx context.Context, key Key) error {
	return s.write(ctx, "delete diverted event", func(tx *sqliteTx) error {
		row, err := tx.diverted(key)
		if err != nil {
			return err
		}
		tx.freedRows(tx.exec(`DELETE FROM diverted_deliveries WHERE webhook = ? AND event = ?`, row.id, key.Event[:]))
		tx.changed(ChangeDeleted, key)
		return nil
	})
}

// diverted returns the webhook of a diverted event, or ErrNotFound if there is no such event.
func (tx *sqliteTx) diverted(key Key) (*sqliteWebhook, error) {
	if row := tx.webhook(key.WebhookKey()); row != nil {
		var diverted bool
		if tx.query1(selectDue, []any{row.id, key.Event[:]}, &diverted) && diverted {
			return row, nil
		}
	}
	return nil, fmt.Errorf("diverted event %s: %w", key.Event, ErrNotFound)
}

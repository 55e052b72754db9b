package diverted

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// Divert implements [DivertedStore].
func (s *SQLiteStore) Divert(ctx context.Context, event DivertedEvent) error {
	if err := event.Validate(); err != nil {
		return err
	}
	if ctx.Done() != nil {
		event.Body = bytes.Clone(event.Body) // as ownMessages
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
		var before sql.NullString
		found := tx.query1(`SELECT due IS NULL, `+sqliteTrigger+` FROM diverted_deliveries WHERE webhook = ? AND event = ?`,
			[]any{row.id, event.Event[:]}, &diverted, &before)
		if found && !diverted {
			return fmt.Errorf("divert event %s: %w: it is pending", event.Event, ErrConflict)
		}
		now := tx.now.UnixMilli()
		tx.exec(`
			INSERT INTO diverted_deliveries
				(webhook, event, request, type, accepted_at, attempts, losses, was_diverted, released, diverted_at, failure, body)
			VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?, ?)
			ON CONFLICT (webhook, event) DO UPDATE 
			SET attempts = excluded.attempts, diverted_at = max(excluded.diverted_at, diverted_deliveries.diverted_at + 1), failures = `+appendFailure+`, failure = excluded.failure`,
			row.id, event.Event[:], event.RequestLocator[:], event.EventType, now, event.Attempts, now, encodeFailure(tx.keep(&event.Failure)), event.Body)
		if found {
			tx.aside(row.id, longTrigger(before.String), -1)
		}
		tx.aside(row.id, event.Failure.Trigger, 1)
		tx.changed(ChangeDiverted, event.Key)
		return nil
	})
}

const divertedColumns = `event, request, type, accepted_at, diverted_at, attempts, length(body) = 0, failure`

func scanDiverted(row interface{ Scan(...any) error }, key WebhookKey, more ...any) (DivertedEvent, error) {
	var (
		d              = DivertedEvent{Key: Key{Tenant: key.Tenant, Webhook: key.Webhook}}
		event, request []byte
		accepted       int64
		divertedAt     sql.NullInt64
		encoded        []byte
	)
	err := scan(row, append([]any{&event, &request, &d.EventType, &accepted, &divertedAt, &d.Attempts, &d.Expunged, &encoded}, more...)...)
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

// FetchDiverted implements [DivertedStore].
func (s *SQLiteStore) FetchDiverted(ctx context.Context, key Key) (DivertedEvent, error) {
	var d DivertedEvent
	err := s.read(ctx, "fetch diverted event", func(*sql.DB) error {
		stmt, err := s.often.get(ctx, `
			SELECT `+divertedColumns+`, body, failures FROM diverted_deliveries
			WHERE webhook = (SELECT id FROM diverted_webhooks WHERE tenant = ? AND locator = ? AND deleted = 0)
			AND event = ? AND due IS NULL`)
		if err != nil {
			return err
		}
		var body, failures []byte
		row := stmt.QueryRowContext(ctx, key.Tenant[:], key.Webhook[:], key.Event[:])
		d, err = scanDiverted(row, key.WebhookKey(), &body, &failures)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("diverted event %s: %w", key.Event, ErrNotFound)
		}
		if err != nil {
			return err
		}
		d.Body = body
		d.Failures, err = decodeFailures(failures, &d.Failure)
		return err
	})
	return d, err
}

// ListDiverted implements [DivertedStore].
func (s *SQLiteStore) ListDiverted(ctx context.Context, query DivertedQuery) (DivertedPage, error) {
	var page DivertedPage
	columns := divertedColumns + `, NULL`
	if query.Failures {
		columns = divertedColumns + `, failures`
	}
	finds := func(ctx context.Context, tx *sql.Tx, id int64, q DivertedQuery) ([][]byte, error) {
		events, err := selectEvents(ctx, tx, id, selection{filter: q.Filter, after: q.After[:], limit: q.Offset + q.Limit + 1})
		return events[min(q.Offset, len(events)):], err
	}
	if query.Filter.IsZero() {
		finds = nil
	}
	more, err := s.list(ctx, "list diverted events", query, columns, "due IS NULL", finds, func(row *sql.Rows) error {
		var failures []byte
		d, err := scanDiverted(row, query.Webhook, &failures)
		if err == nil && query.Failures {
			d.Failures, err = decodeFailures(failures, &d.Failure)
		}
		if err == nil {
			page.Events = append(page.Events, d)
		}
		return err
	})
	page.More = more
	return page, err
}

// ListPending implements [DeliveryStore].
func (s *SQLiteStore) ListPending(ctx context.Context, query DivertedQuery) (PendingPage, error) {
	// While its webhook is not active a delivery waits for nothing else, and so has no time.
	const columns = `event, request, type, accepted_at, due, token IS NOT NULL, attempts, failure,
		(SELECT enabled AND suspended_at IS NULL FROM diverted_webhooks WHERE id = webhook)`
	var page PendingPage
	if err := query.ForPending(); err != nil {
		return page, err
	}
	now := s.writer.wall().UnixMilli()
	finds := func(ctx context.Context, tx *sql.Tx, id int64, q DivertedQuery) ([][]byte, error) {
		return selectPending(ctx, tx, id, q.After[:], q.Offset, q.Limit+1, ``)
	}
	more, err := s.list(ctx, "list pending deliveries", query, columns, "due IS NOT NULL", finds, func(rows *sql.Rows) error {
		var (
			d              = PendingDelivery{Key: Key{Tenant: query.Webhook.Tenant, Webhook: query.Webhook.Webhook}}
			event, request []byte
			accepted, due  int64
			active         bool
			encoded        []byte
		)
		err := scan(rows, &event, &request, &d.EventType, &accepted, &due, &d.Claimed, &d.Attempts, &encoded, &active)
		if err == nil {
			d.Event, d.RequestLocator, err = locatorsOf(event, request)
		}
		if err != nil {
			return err
		}
		if d.Claimed = d.Claimed && due > now; !d.Claimed && (due <= now || !active) {
			due = 0
		}
		d.AcceptedAt, d.Due = fromMillis(accepted), fromMillis(due)
		d.Failure, err = decodeFailure(encoded)
		page.Deliveries = append(page.Deliveries, d)
		return err
	})
	page.More = more
	return page, err
}

// list reads a page of deliveries, and says whether there are more. finds returns the locators of the page, and
// one more; nil if the rows themselves are in the order of the index of what is diverted. All is of one moment: a
// page that lacked what was settled between the two steps would be short although there are more, and its reader
// would stop.
func (s *SQLiteStore) list(ctx context.Context, action string, query DivertedQuery, columns, where string,
	finds func(context.Context, *sql.Tx, int64, DivertedQuery) ([][]byte, error), each func(*sql.Rows) error) (more bool, err error) {
	query, err = query.WithDefaults()
	if err != nil {
		return false, err
	}
	return more, s.snapshot(ctx, action, func(tx *sql.Tx) error {
		id, err := webhookID(ctx, tx, query.Webhook)
		if id == 0 || err != nil {
			return err
		}
		// The planner would take the one index for the other, and read all that is pending or all that is diverted.
		index := "diverted_deliveries_diverted"
		selected, args := `event > ?`, []any{id, query.After[:], query.Limit + 1, query.Offset}
		if finds != nil {
			events, err := finds(ctx, tx, id, query)
			if err != nil || len(events) == 0 {
				return err
			}
			more = len(events) > query.Limit
			events = events[:min(query.Limit, len(events))]
			index = "diverted_deliveries_key"
			selected, args = `event IN (?`+strings.Repeat(`,?`, len(events)-1)+`)`, []any{id}
			for _, event := range events {
				args = append(args, event)
			}
			args = append(args, query.Limit, 0)
		}
		rows, err := tx.QueryContext(ctx, `SELECT `+columns+` FROM diverted_deliveries INDEXED BY `+index+`
			WHERE webhook = ? AND `+selected+` AND `+where+` ORDER BY event LIMIT ? OFFSET ?`, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for n := 0; rows.Next(); n++ {
			if n == query.Limit {
				more = true
				break
			}
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

// Resend implements [DivertedStore].
func (s *SQLiteStore) Resend(ctx context.Context, key Key) error {
	return s.write(ctx, "resend", func(tx *sqliteTx) error {
		row := tx.webhook(key.WebhookKey())
		if row != nil && row.letsGo() == nil && tx.resend(row, key.Event, selection{}) {
			return nil
		}
		row, err := tx.diverted(key)
		if err != nil {
			return err
		}
		err = row.letsGo()
		var expunged bool
		if tx.query1(`SELECT length(body) = 0 FROM diverted_deliveries WHERE webhook = ? AND event = ?`, []any{row.id, key.Event[:]}, &expunged) && expunged {
			err = ErrExpunged
		}
		return fmt.Errorf("resend event %s: %w", key.Event, err)
	})
}

// resend makes a diverted event pending that is selected and has a body, and says whether it did.
func (tx *sqliteTx) resend(row *sqliteWebhook, event ulid.ULID, s selection) bool {
	var trigger sql.NullString
	if !tx.query1(`
		UPDATE diverted_deliveries
		SET due = 0, token = NULL, attempts = 0, losses = 0, was_diverted = 1, released = 0, diverted_at = NULL
		WHERE length(body) > 0 AND `+stillSelected+` RETURNING `+sqliteTrigger, s.still(row, event), &trigger) {
		return false
	}
	tx.count(row.id, 1)
	tx.aside(row.id, longTrigger(trigger.String), -1)
	tx.turns.Ready(row.webhook.Tenant, row.id)
	tx.changed(ChangeResent, row.with(event))
	return true
}

// DeleteDiverted implements [DivertedStore].
func (s *SQLiteStore) DeleteDiverted(ctx context.Context, key Key) error {
	return s.write(ctx, "delete diverted event", func(tx *sqliteTx) error {
		row, err := tx.diverted(key)
		if err != nil {
			return err
		}
		tx.deleteDiverted(row, key.Event, selection{})
		return nil
	})
}

// deleteDiverted deletes a diverted event that is selected, and says whether it did.
func (tx *sqliteTx) deleteDiverted(row *sqliteWebhook, event ulid.ULID, s selection) bool {
	var trigger sql.NullString
	if !tx.query1(`DELETE FROM diverted_deliveries WHERE `+stillSelected+` RETURNING `+sqliteTrigger, s.still(row, event), &trigger) {
		return false
	}
	tx.freedRows(1)
	tx.aside(row.id, longTrigger(trigger.String), -1)
	tx.changed(ChangeDeleted, row.with(event))
	return true
}

// DeleteResent implements [DivertedStore].
func (s *SQLiteStore) DeleteResent(ctx context.Context, event DivertedEvent) error {
	then := DivertedFilter{Since: event.DivertedAt, Until: event.DivertedAt.Add(time.Millisecond)}
	return s.write(ctx, "delete resent event", func(tx *sqliteTx) error {
		row, err := tx.diverted(event.Key)
		if err == nil && !tx.deleteDiverted(row, event.Event, selection{filter: then}) {
			err = fmt.Errorf("delete resent event %s: %w: it was diverted again", event.Event, ErrConflict)
		}
		return err
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

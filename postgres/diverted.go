package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
)

const (
	// keepHook keeps a webhook from being deleted before the commit, and says whether it is there.
	keepHook = `SELECT id FROM diverted.webhooks WHERE tenant = $1 AND locator = $2 AND NOT deleted FOR KEY SHARE`

	upsertDiverted = `
		INSERT INTO diverted.deliveries AS d
			(webhook, event, request, accepted_at, diverted_at, attempts, type, failure, body)
		VALUES ($1, $2, $3, date_trunc('milliseconds', now()), date_trunc('milliseconds', now()), $4, $5, $6, $7)
		ON CONFLICT (webhook, event) DO UPDATE
			SET attempts = excluded.attempts, diverted_at = greatest(excluded.diverted_at, d.diverted_at + interval '1 millisecond'), failure = excluded.failure,
				earlier = ` + pushed + `
			WHERE d.due IS NULL`

	divertedColumns = `event, request, type, accepted_at, diverted_at, attempts, failure, body = ''`

	// columnEarlier is one that costs, so it is read on request.
	columnEarlier = `, earlier`
	columnNone    = `, NULL::text[]`

	// setResent is what becomes of a diverted event that is resent.
	setResent = `
		SET due = '-infinity', lease = NULL, token = NULL, attempts = 0, losses = 0,
			released = 0, was_diverted = true, diverted_at = NULL`

	updateResent = `
		UPDATE diverted.deliveries ` + setResent + `
		WHERE webhook = $1 AND event = $2 AND diverted_at IS NOT NULL
		RETURNING body = ''`

	deleteDiverted = `
		DELETE FROM diverted.deliveries WHERE diverted_at IS NOT NULL AND event = $3 AND webhook = ` + theHook

	deleteResent = deleteDiverted + ` AND diverted_at = $4`
)

// Divert implements [diverted.DivertedStore].
func (s *Store) Divert(ctx context.Context, event diverted.DivertedEvent) error {
	if err := event.Validate(); err != nil {
		return err
	}
	done, err := s.begin(ctx, "divert")
	if err != nil {
		return err
	}
	defer done()
	for {
		var id int64
		created := false
		err := s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
			created = false
			var now time.Time
			var err error
			if id, now, err = s.keepHook(ctx, conn, event.WebhookKey()); err != nil {
				return err
			}
			if id == 0 {
				created = true
				h := &hook{webhook: &diverted.Webhook{Tenant: event.Tenant, Locator: event.Webhook}}
				if err := s.save(ctx, own(conn), h); err != nil {
					return err
				}
				id = h.id
			}
			tag, err := conn.Exec(ctx, s.q(upsertDiverted), id, pgUUID(event.Event), pgUUID(event.RequestLocator),
				event.Attempts, event.EventType, encodeFailure(asKept(&event.Failure, now)), event.Body)
			if err == nil && tag.RowsAffected() == 0 {
				err = fmt.Errorf("divert event %s: %w: it is pending", event.Event, diverted.ErrConflict)
			}
			return err
		})
		if errors.Is(err, errAgain) {
			continue
		}
		if err != nil {
			return wrap("divert", err)
		}
		if created {
			s.hooks.spoil()
		}
		s.activity.diverted(id, string(event.Failure.Trigger), s.hints.serverTime())
		s.watchers.Tell(diverted.Change{Kind: diverted.ChangeDiverted, Key: event.Key})
		return nil
	}
}

// keepHook returns the row id of a webhook, 0 if there is none, and the server's time.
func (s *Store) keepHook(ctx context.Context, conn *pgxpool.Conn, key diverted.WebhookKey) (id int64, now time.Time, err error) {
	b := new(pgx.Batch)
	b.Queue(`SELECT now()`).QueryRow(func(r pgx.Row) error { return r.Scan(&now) })
	b.Queue(s.q(keepHook), pgUUID(key.Tenant), pgUUID(key.Webhook)).Query(func(r pgx.Rows) error {
		for r.Next() {
			if err := r.Scan(&id); err != nil {
				return err
			}
		}
		return r.Err()
	})
	return id, now, conn.SendBatch(ctx, b).Close()
}

// divertedRow is a row with divertedColumns.
type divertedRow struct {
	event, request       pgtype.UUID
	eventType            string
	accepted, divertedAt pgtype.Timestamptz
	attempts             int
	failure              []byte
	expunged             bool
	earlier              []string
}

func (r *divertedRow) dest() []any {
	return []any{&r.event, &r.request, &r.eventType, &r.accepted, &r.divertedAt, &r.attempts, &r.failure, &r.expunged, &r.earlier}
}

func (r *divertedRow) value(key diverted.WebhookKey) (diverted.DivertedEvent, error) {
	d := diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: key.Tenant, Webhook: key.Webhook, Event: r.event.Bytes},
		RequestLocator: r.request.Bytes, EventType: r.eventType, Attempts: r.attempts,
		AcceptedAt: timeOf(r.accepted), DivertedAt: timeOf(r.divertedAt), Expunged: r.expunged,
	}
	failure, err := decodeFailure(r.failure)
	if failure != nil {
		d.Failure = *failure
	}
	return d, err
}

// failures are those of all attempts, of which the last is d's.
func (r *divertedRow) failures(d *diverted.DivertedEvent) (all []diverted.Failure, err error) {
	for _, encoded := range r.earlier {
		f, err := decodeFailure([]byte(encoded))
		if err != nil {
			return nil, err
		}
		all = append(all, *f)
	}
	return append(all, d.Failure), nil
}

// FetchDiverted implements [diverted.DivertedStore].
func (s *Store) FetchDiverted(ctx context.Context, key diverted.Key) (diverted.DivertedEvent, error) {
	done, err := s.begin(ctx, "fetch diverted event")
	if err != nil {
		return diverted.DivertedEvent{}, err
	}
	defer done()
	var row divertedRow
	var body []byte
	var found bool
	err = s.read(ctx, func(b *pgx.Batch) {
		found = false
		b.Queue(s.q(`SELECT `+divertedColumns+columnEarlier+`, body FROM diverted.deliveries
			WHERE diverted_at IS NOT NULL AND event = $3 AND webhook = `+theHook),
			pgUUID(key.Tenant), pgUUID(key.Webhook), pgUUID(key.Event)).Query(func(r pgx.Rows) error {
			for r.Next() {
				row, body, found = divertedRow{}, nil, true
				if err := r.Scan(append(row.dest(), &body)...); err != nil {
					return err
				}
			}
			return r.Err()
		})
	})
	if err != nil {
		return diverted.DivertedEvent{}, wrap("fetch diverted event", err)
	}
	if !found {
		return diverted.DivertedEvent{}, fmt.Errorf("diverted event %s: %w", key.Event, diverted.ErrNotFound)
	}
	d, err := row.value(key.WebhookKey())
	if err == nil {
		d.Failures, err = row.failures(&d)
	}
	d.Body = body
	return d, wrap("fetch diverted event", err)
}

// ListDiverted implements [diverted.DivertedStore].
func (s *Store) ListDiverted(ctx context.Context, query diverted.DivertedQuery) (diverted.DivertedPage, error) {
	var page diverted.DivertedPage
	columns := divertedColumns + columnNone
	if query.Failures {
		columns = divertedColumns + columnEarlier
	}
	limit, err := s.list(ctx, "list diverted events", query, columns, &divertedKind,
		func() { page.Events = nil },
		func(r pgx.Rows) error {
			var row divertedRow
			if err := r.Scan(row.dest()...); err != nil {
				return err
			}
			d, err := row.value(query.Webhook)
			if err == nil && query.Failures {
				d.Failures, err = row.failures(&d)
			}
			page.Events = append(page.Events, d)
			return err
		})
	if err != nil {
		return diverted.DivertedPage{}, err
	}
	page.Events, page.More = cut(page.Events, limit)
	return page, nil
}

// ListPending implements [diverted.DeliveryStore].
func (s *Store) ListPending(ctx context.Context, query diverted.DivertedQuery) (diverted.PendingPage, error) {
	// While its webhook is not active a delivery waits for nothing else, and so has no time.
	const columns = `event, request, type, accepted_at, lease > now() AND NOT lease > now() + interval '15 minutes', lease,
		CASE WHEN due > now() THEN due END, attempts, failure,
		(SELECT enabled AND suspended_at IS NULL FROM diverted.webhooks WHERE id = webhook)`
	if err := query.ForPending(); err != nil {
		return diverted.PendingPage{}, err
	}
	var page diverted.PendingPage
	limit, err := s.list(ctx, "list pending deliveries", query, columns, &pendingKind,
		func() { page.Deliveries = nil },
		func(r pgx.Rows) error {
			var (
				d                    = diverted.PendingDelivery{Key: diverted.Key{Tenant: query.Webhook.Tenant, Webhook: query.Webhook.Webhook}}
				event, request       pgtype.UUID
				accepted, lease, due pgtype.Timestamptz
				claimed              pgtype.Bool
				encoded              []byte
				active               bool
			)
			err := r.Scan(&event, &request, &d.EventType, &accepted, &claimed, &lease, &due, &d.Attempts, &encoded, &active)
			if err != nil {
				return err
			}
			switch d.Claimed = claimed.Bool; {
			case d.Claimed:
				d.Due = timeOf(lease)
			case active:
				d.Due = timeOf(due)
			}
			d.Event, d.RequestLocator, d.AcceptedAt = event.Bytes, request.Bytes, timeOf(accepted)
			d.Failure, err = decodeFailure(encoded)
			page.Deliveries = append(page.Deliveries, d)
			return err
		})
	if err != nil {
		return diverted.PendingPage{}, err
	}
	page.Deliveries, page.More = cut(page.Deliveries, limit)
	return page, nil
}

// list reads one row more than a page of deliveries of a kind, ascending by event. It returns the size of the page.
func (s *Store) list(ctx context.Context, action string, query diverted.DivertedQuery, columns string, k *kind, begin func(), each func(pgx.Rows) error) (limit int, err error) {
	query, err = query.WithDefaults()
	if err != nil {
		return 0, err
	}
	done, err := s.begin(ctx, action)
	if err != nil {
		return 0, err
	}
	defer done()
	from, args, err := s.inOrder(ctx, k, query.Webhook, query.Filter, query.After, query.Offset+query.Limit+1, theHook,
		[]any{pgUUID(query.Webhook.Tenant), pgUUID(query.Webhook.Webhook), pgUUID(query.After), query.Limit + 1, query.Offset})
	if err != nil {
		return 0, wrap(action, err)
	}
	matches, args := matching(query.Filter, args)
	text := s.q(`SELECT ` + columns + ` FROM ` + from + ` WHERE webhook = ` + theHook + ` AND event > $3 AND ` + k.which + matches +
		` ORDER BY event LIMIT $4 OFFSET $5`)
	return query.Limit, wrap(action, s.read(ctx, func(b *pgx.Batch) {
		begin()
		b.Queue(text, args...).
			Query(func(r pgx.Rows) error {
				for r.Next() {
					if err := each(r); err != nil {
						return err
					}
				}
				return r.Err()
			})
	}))
}

// cut takes from the rows of a page the one that only tells that there are more.
func cut[T any](rows []T, limit int) ([]T, bool) {
	if len(rows) > limit {
		return rows[:limit:limit], true
	}
	return rows, false
}

// Resend implements [diverted.DivertedStore].
func (s *Store) Resend(ctx context.Context, key diverted.Key) error {
	done, err := s.begin(ctx, "resend")
	if err != nil {
		return err
	}
	defer done()
	var id int64
	err = s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		// The webhook's row is locked, so that none is resent to one that is being suspended.
		h, _, err := s.readHook(ctx, own(conn), lockHook, key.WebhookKey())
		if err != nil {
			return err
		}
		missing := fmt.Errorf("diverted event %s: %w", key.Event, diverted.ErrNotFound)
		if h == nil {
			return missing
		}
		id = h.id
		var expunged bool
		err = conn.QueryRow(ctx, s.q(updateResent), h.id, pgUUID(key.Event)).Scan(&expunged)
		switch {
		case err == pgx.ErrNoRows:
			return missing
		case err != nil:
			return err
		case expunged: // from here on what was changed is rolled back
			err = diverted.ErrExpunged
		default:
			err = h.letsGo()
		}
		if err != nil {
			return fmt.Errorf("resend event %s: %w", key.Event, err)
		}
		return nil
	})
	if err != nil {
		return wrap("resend", err)
	}
	s.hints.ready(key.Tenant, id)
	s.room.add(id)
	s.news.add(id)
	s.watchers.Tell(diverted.Change{Kind: diverted.ChangeResent, Key: key})
	return nil
}

// DeleteDiverted implements [diverted.DivertedStore].
func (s *Store) DeleteDiverted(ctx context.Context, key diverted.Key) error {
	deleted, err := s.deleteOne(ctx, "delete diverted event", deleteDiverted, key)
	if err == nil && !deleted {
		err = fmt.Errorf("diverted event %s: %w", key.Event, diverted.ErrNotFound)
	}
	return err
}

// DeleteResent implements [diverted.DivertedStore].
func (s *Store) DeleteResent(ctx context.Context, event diverted.DivertedEvent) error {
	deleted, err := s.deleteOne(ctx, "delete resent event", deleteResent, event.Key, event.DivertedAt)
	if deleted || err != nil {
		return err
	}
	if _, err := s.FetchDiverted(ctx, event.Key); err != nil {
		return err
	}
	return fmt.Errorf("delete resent event %s: %w: it was diverted again", event.Event, diverted.ErrConflict)
}

// deleteOne deletes a diverted event by a statement that may ask for more, and says whether it did.
func (s *Store) deleteOne(ctx context.Context, action, statement string, key diverted.Key, more ...any) (deleted bool, err error) {
	done, err := s.begin(ctx, action)
	if err != nil {
		return false, err
	}
	defer done()
	err = s.batch(ctx, beginTx, func(b *pgx.Batch) {
		b.Queue(byIndex)
		args := append([]any{pgUUID(key.Tenant), pgUUID(key.Webhook), pgUUID(key.Event)}, more...)
		b.Queue(s.q(statement), args...).Exec(func(tag pgconn.CommandTag) error {
			deleted = tag.RowsAffected() > 0
			return nil
		})
	})
	if err != nil {
		return false, wrap(action, err)
	}
	if deleted {
		s.watchers.Tell(diverted.Change{Kind: diverted.ChangeDeleted, Key: key})
	}
	return deleted, nil
}

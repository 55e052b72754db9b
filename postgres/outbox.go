package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// Their parameters are text, numbers and bytes alone, which every driver of database/sql knows to send.
const (
	outboxHooks = `
		SELECT id, locator::text, record, enabled, suspended_at IS NULL FROM diverted.webhooks
		WHERE tenant = $1::uuid AND NOT deleted AND record IS NOT NULL AND ($2::text = '' OR locator::text = $2::text)
		ORDER BY locator`

	// The webhooks are kept from being deleted until the host commits, as rows that a foreign key points at. Of each
	// that is there it says whether the event was added.
	outboxInsert = `
		WITH kept AS MATERIALIZED (
			SELECT id FROM diverted.webhooks WHERE id = ANY($1::bigint[]) AND NOT deleted FOR KEY SHARE
		), added AS (
			INSERT INTO diverted.deliveries (webhook, event, request, accepted_at, due, type, body)
			SELECT id, $2::uuid, $3::uuid, date_trunc('milliseconds', clock_timestamp()), '-infinity', $4::text, $5::bytea FROM kept
			ON CONFLICT (webhook, event) DO NOTHING
			RETURNING webhook
		)
		SELECT id, webhook IS NOT NULL FROM kept LEFT JOIN added ON webhook = id`

	outboxAside = `
		SELECT webhook FROM diverted.deliveries
		WHERE webhook = ANY($1::bigint[]) AND event = $2::uuid AND diverted_at IS NOT NULL`

	outboxNote = `SELECT pg_notify($1::text, $2::text)`
)

// SendTx is [diverted.Dispatcher.Send] as a part of the host's transaction: the event is sent if and only
// if tx commits. tx must be on the database of the store, through any pool.
//
// Call [diverted.Dispatcher.Wake] after the commit; otherwise a dispatcher finds the event within a second. As a
// rule it is sooner: dispatchers are told at the commit or, within 25 ms of another call, up to 50 ms after this one,
// which is in vain if tx is then still open (see [Config.NoNotify]).
//
// The store does not see the commit, and knows no [diverted.Config]: no [diverted.Observer] is told that the
// event was accepted, MaxPendingPerWebhook does not refuse it, and its attempts are not connected with the span
// of ctx.
//
// The errors are [diverted.ErrNotFound] for an unknown webhook, [diverted.ErrInvalid], and those of the
// database; after the latter roll back.
func (s *Store) SendTx(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, webhook ulid.ULID, event diverted.Event) (diverted.Acceptance, error) {
	if tx == nil {
		return diverted.Acceptance{}, invalid("tx", "must not be nil")
	}
	return s.sendTx(ctx, pgxTx{tx}, tenant, webhook, event)
}

// PublishTx is [diverted.Dispatcher.Publish] as a part of the host's transaction, as [Store.SendTx] is Send.
func (s *Store) PublishTx(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, event diverted.Event) ([]diverted.Acceptance, error) {
	if tx == nil {
		return nil, invalid("tx", "must not be nil")
	}
	return s.acceptTx(ctx, pgxTx{tx}, "publish", tenant, ulid.Zero, event)
}

// SendSQLTx is [Store.SendTx] for a transaction of package database/sql, through any driver of PostgreSQL.
func (s *Store) SendSQLTx(ctx context.Context, tx *sql.Tx, tenant uuid.UUID, webhook ulid.ULID, event diverted.Event) (diverted.Acceptance, error) {
	if tx == nil {
		return diverted.Acceptance{}, invalid("tx", "must not be nil")
	}
	return s.sendTx(ctx, sqlTx{tx}, tenant, webhook, event)
}

// PublishSQLTx is [Store.PublishTx] for a transaction of package database/sql, through any driver of
// PostgreSQL.
func (s *Store) PublishSQLTx(ctx context.Context, tx *sql.Tx, tenant uuid.UUID, event diverted.Event) ([]diverted.Acceptance, error) {
	if tx == nil {
		return nil, invalid("tx", "must not be nil")
	}
	return s.acceptTx(ctx, sqlTx{tx}, "publish", tenant, ulid.Zero, event)
}

// hostTx is a transaction of the host's, or one of the store's own in which the same is done.
type hostTx interface {
	query(ctx context.Context, text string, args []any, each func(scan func(...any) error) error) error
}

type pgxTx struct{ querier }

// querier is a transaction, or a connection that is in one.
type querier interface {
	Query(ctx context.Context, text string, args ...any) (pgx.Rows, error)
}

func (tx pgxTx) query(ctx context.Context, text string, args []any, each func(scan func(...any) error) error) error {
	rows, err := tx.Query(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ownTx is a transaction of the store's own.
type ownTx struct{ pgxTx }

func own(conn querier) hostTx { return ownTx{pgxTx{conn}} }

func isOwn(tx hostTx) bool {
	_, is := tx.(ownTx)
	return is
}

type sqlTx struct{ *sql.Tx }

func (tx sqlTx) query(ctx context.Context, text string, args []any, each func(scan func(...any) error) error) error {
	rows, err := tx.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (s *Store) sendTx(ctx context.Context, tx hostTx, tenant uuid.UUID, webhook ulid.ULID, event diverted.Event) (diverted.Acceptance, error) {
	if webhook.IsZero() {
		return diverted.Acceptance{}, invalid("webhookLocator", "must not be zero")
	}
	all, err := s.acceptTx(ctx, tx, "send", tenant, webhook, event)
	switch {
	case err != nil:
		return diverted.Acceptance{}, err
	case len(all) == 0:
		return diverted.Acceptance{}, notFound(diverted.WebhookKey{Tenant: tenant, Webhook: webhook})
	}
	return all[0], nil
}

func (s *Store) acceptTx(ctx context.Context, tx hostTx, action string, tenant uuid.UUID, webhook ulid.ULID, event diverted.Event) ([]diverted.Acceptance, error) {
	m, err := diverted.NewMessage(tenant, webhook, event)
	if err != nil {
		return nil, err
	}
	done, err := s.begin(ctx, action)
	if err != nil {
		return nil, err
	}
	defer done()
	receivers, err := s.outboxReceivers(ctx, tx, &m)
	if err != nil || len(receivers) == 0 {
		return nil, wrap(action, err)
	}
	all, err := s.outboxAccept(ctx, tx, &m, receivers)
	return all, wrap(action, err)
}

// outboxReceivers finds the webhooks of a message as the host's transaction sees them.
func (s *Store) outboxReceivers(ctx context.Context, tx hostTx, m *diverted.Message) ([]*hook, error) {
	only := ""
	if !m.Webhook.IsZero() {
		only = uuid.UUID(m.Webhook).String()
	}
	var found []*hook
	err := tx.query(ctx, s.q(outboxHooks), []any{m.Tenant.String(), only}, func(scan func(...any) error) error {
		h := &hook{known: true, webhook: &diverted.Webhook{Tenant: m.Tenant}}
		var locator string
		var record []byte
		var unsuspended bool
		if err := scan(&h.id, &locator, &record, &h.webhook.Enabled, &unsuspended); err != nil {
			return err
		}
		id, err := uuid.Parse(locator)
		if err != nil {
			return err
		}
		h.err = diverted.DecodeWebhook(record, h.webhook)
		h.webhook.Locator = ulid.ULID(id)
		if !unsuspended {
			h.webhook.SuspendedAt = longAgo
		}
		if !m.Webhook.IsZero() || h.publishes(m.EventType) {
			found = append(found, h)
		}
		return nil
	})
	return found, err
}

// outboxAccept accepts a message for webhooks, of which those that were deleted meanwhile are left out.
func (s *Store) outboxAccept(ctx context.Context, tx hostTx, m *diverted.Message, receivers []*hook) ([]diverted.Acceptance, error) {
	event := uuid.UUID(m.Event).String()
	statuses := make(map[int64]diverted.AcceptStatus)
	var id int64
	standing := false
	err := tx.query(ctx, s.q(outboxInsert), []any{bigints(receivers), event, uuid.UUID(m.RequestLocator).String(), m.EventType, m.Body},
		func(scan func(...any) error) error {
			var added bool
			err := scan(&id, &added)
			if statuses[id] = diverted.Accepted; !added {
				// One that was pending may have been delivered by now: it was pending nevertheless.
				statuses[id], standing = diverted.AlreadyPending, true
			}
			return err
		})
	if err == nil && standing {
		err = tx.query(ctx, s.q(outboxAside), []any{bigints(receivers), event}, func(scan func(...any) error) error {
			err := scan(&id)
			if statuses[id] == diverted.AlreadyPending {
				statuses[id] = diverted.AlreadyDiverted
			}
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	var all []diverted.Acceptance
	due := make(map[int64]bool)
	for _, h := range receivers {
		status, there := statuses[h.id]
		if !there {
			continue
		}
		if status == diverted.Accepted && h.active() {
			due[h.id] = true
		}
		all = append(all, diverted.Acceptance{Webhook: h.webhook.Locator, Status: status})
	}
	if !s.notify || len(due) == 0 {
		return all, nil
	}
	if !s.carries() {
		for id := range due {
			s.owed.add(id)
		}
		return all, nil
	}
	// From nobody, so that this process hears it too, at the commit.
	err = tx.query(ctx, outboxNote, []any{s.schema, "0:" + noteList(due)}, func(func(...any) error) error { return nil })
	return all, err
}

// bigints is a parameter of the type bigint[], as text.
func bigints(hooks []*hook) string {
	var ids []string
	for _, h := range hooks {
		ids = append(ids, strconv.FormatInt(h.id, 10))
	}
	slices.Sort(ids)
	return fmt.Sprintf("{%s}", strings.Join(ids, ","))
}

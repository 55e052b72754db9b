package diverted

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

const insertDelivery = `
	INSERT INTO diverted_deliveries
		(webhook, event, request, type, accepted_at, due, token, attempts, losses, was_diverted, released, body, trace)
	VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, ?, ?)
	ON CONFLICT DO NOTHING`

const selectDue = `SELECT due IS NULL FROM diverted_deliveries WHERE webhook = ? AND event = ?`

// Accept implements [DeliveryStore].
func (s *SQLiteStore) Accept(ctx context.Context, request AcceptRequest) (AcceptResult, error) {
	var result AcceptResult
	if err := request.Claim.Validate(); err != nil {
		return result, err
	}
	if ctx.Done() != nil {
		request.Messages = ownMessages(request.Messages)
	}
	err := s.write(ctx, "accept", func(tx *sqliteTx) error {
		result = AcceptResult{Messages: make([]MessageResult, len(request.Messages))}
		claims := tx.newClaims(request.Claim)
		for i := range request.Messages {
			result.Messages[i] = tx.accept(&request.Messages[i], claims, &request)
		}
		result.Claims = claims.taken
		return nil
	})
	if err != nil {
		return AcceptResult{}, err
	}
	return result, nil
}

// ownMessages returns a copy that shares no memory: a caller whose context ended may go, and change what is its
// own, while the writer is still at it.
func ownMessages(messages []Message) []Message {
	messages = slices.Clone(messages)
	for i := range messages {
		messages[i].Body = bytes.Clone(messages[i].Body)
	}
	return messages
}

func (tx *sqliteTx) accept(m *Message, claims *sqliteClaims, r *AcceptRequest) MessageResult {
	if err := m.Validate(); err != nil {
		return MessageResult{Err: err}
	}
	if !m.Webhook.IsZero() {
		row, err := tx.knownWebhook(WebhookKey{m.Tenant, m.Webhook})
		if err != nil {
			return MessageResult{Err: err}
		}
		return MessageResult{Deliveries: []Acceptance{tx.acceptFor(row, m, claims, r)}}
	}
	var result MessageResult
	for _, row := range tx.webhooks(m.Tenant) {
		if row.known && row.publishes(m.EventType) {
			result.Deliveries = append(result.Deliveries, tx.acceptFor(row, m, claims, r))
		}
	}
	return result
}

func (tx *sqliteTx) acceptFor(row *sqliteWebhook, m *Message, claims *sqliteClaims, r *AcceptRequest) Acceptance {
	if full := tx.full(row, r); full != nil {
		if status := tx.statusOf(row, m.Event); status != "" {
			return Acceptance{Webhook: row.webhook.Locator, Status: status}
		}
		return Acceptance{Webhook: row.webhook.Locator, Status: Refused, Err: full}
	}
	var due int64
	var token any
	claimed := claims.takesNew(row, len(m.Body))
	if claimed {
		due, token = claims.lease, claims.token
	}
	if tx.exec(insertDelivery, row.id, m.Event[:], m.RequestLocator[:], m.EventType, tx.now.UnixMilli(), due, token, m.Body, orNull(m.TraceParent)) == 0 {
		return Acceptance{Webhook: row.webhook.Locator, Status: tx.statusOf(row, m.Event)}
	}
	tx.count(row.id, 1)
	tx.grown += int64(len(m.Body))
	key := Key{m.Tenant, row.webhook.Locator, m.Event}
	if claimed {
		claims.add(row, Claim{
			Key: key, RequestLocator: m.RequestLocator, EventType: m.EventType, Body: m.Body,
			AcceptedAt: fromMillis(tx.now.UnixMilli()), TraceParent: m.TraceParent,
		})
	} else {
		if row.active() {
			tx.turns.Ready(m.Tenant, row.id)
		}
		tx.changed(ChangeAccepted, key)
	}
	return Acceptance{Webhook: row.webhook.Locator, Status: Accepted}
}

// orNull returns NULL for no text.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// statusOf says which an event is at a webhook, AlreadyPending or AlreadyDiverted, "" for neither.
func (tx *sqliteTx) statusOf(row *sqliteWebhook, event ulid.ULID) AcceptStatus {
	var diverted bool
	switch found := tx.query1(selectDue, []any{row.id, event[:]}, &diverted); {
	case !found:
		return ""
	case diverted:
		return AlreadyDiverted
	default:
		return AlreadyPending
	}
}

// SendTx is [Dispatcher.Send] as a part of the host's transaction: the event is sent if and only if tx
// commits. tx must be on the database of the store. Call [Dispatcher.Wake] after the commit; otherwise a
// dispatcher finds the event within a second.
//
// The store does not see the commit, and knows no [Config]: no [Observer] is told that the event was
// accepted, [Config.MaxPendingPerWebhook] and [Config.MaxStoreBytes] do not refuse it, and its attempts are
// not connected with the span of ctx.
//
// Once tx has written, and until it ends, call nothing else that writes, of the store or a dispatcher: it
// would wait for tx and tx for it, and fail with an [ErrLocked] after 5 s.
//
// The errors are [ErrNotFound] for an unknown webhook, [ErrInvalid], and those of the database; after the
// latter roll back, and after an [ErrLocked] repeat the transaction.
//
// The commit is as durable as tx's connection makes it: with synchronous=NORMAL a power cut may take the
// last transactions, with FULL, SQLite's default, it takes none.
func (s *SQLiteStore) SendTx(ctx context.Context, tx *sql.Tx, tenant uuid.UUID, webhook ulid.ULID, event Event) (Acceptance, error) {
	if webhook.IsZero() {
		return Acceptance{}, invalid("webhookLocator", "must not be zero")
	}
	all, err := s.acceptTx(ctx, tx, "send", tenant, webhook, event)
	if err != nil {
		return Acceptance{}, err
	}
	return all[0], nil
}

// PublishTx is [Dispatcher.Publish] as a part of the host's transaction, as [SQLiteStore.SendTx] is Send.
func (s *SQLiteStore) PublishTx(ctx context.Context, tx *sql.Tx, tenant uuid.UUID, event Event) ([]Acceptance, error) {
	return s.acceptTx(ctx, tx, "publish", tenant, ulid.Zero, event)
}

func (s *SQLiteStore) acceptTx(ctx context.Context, tx *sql.Tx, action string, tenant uuid.UUID, webhook ulid.ULID, event Event) ([]Acceptance, error) {
	m, err := NewMessage(tenant, webhook, event)
	if err != nil {
		return nil, err
	}
	done, err := s.beginTx(ctx, tx, action)
	if err != nil {
		return nil, err
	}
	defer done()
	rows, err := webhooksTx(ctx, tx, m)
	if err != nil {
		return nil, sqliteError(action, err)
	}
	var all []Acceptance
	for _, row := range rows {
		status := Accepted
		result, err := tx.ExecContext(ctx, insertDelivery, row.id, m.Event[:], m.RequestLocator[:], m.EventType, s.writer.wall().UnixMilli(), 0, nil, m.Body, orNull(m.TraceParent))
		if err != nil {
			return nil, sqliteError(action, err)
		}
		if n, err := result.RowsAffected(); err != nil {
			return nil, sqliteError(action, err)
		} else if n == 0 {
			var diverted bool
			if err := scan(tx.QueryRowContext(ctx, selectDue, row.id, m.Event[:]), &diverted); err != nil {
				return nil, sqliteError(action, err)
			}
			if status = AlreadyPending; diverted {
				status = AlreadyDiverted
			}
		}
		all = append(all, Acceptance{Webhook: row.webhook.Locator, Status: status})
	}
	return all, nil
}

// beginTx begins a method that is a part of the host's transaction. done ends it.
func (s *SQLiteStore) beginTx(ctx context.Context, tx *sql.Tx, action string) (done func(), err error) {
	if tx == nil {
		return nil, invalid("tx", "must not be nil")
	}
	s.mu.RLock()
	if s.closed {
		err = closedError(action)
	} else {
		// A transaction that reads before it writes is refused where another wrote in between, however long it would
		// wait. So this part of it begins with a write, of nothing.
		_, err = tx.ExecContext(ctx, `UPDATE diverted_deliveries SET due = due WHERE 0`)
	}
	if err != nil {
		s.mu.RUnlock()
		return nil, sqliteError(action, err)
	}
	return s.mu.RUnlock, nil
}

// webhooksTx finds the webhooks of a message as the host's transaction sees them.
func webhooksTx(ctx context.Context, tx *sql.Tx, m Message) ([]*sqliteWebhook, error) {
	rows, err := tx.QueryContext(ctx, `
		SELECT id, locator, record, enabled, suspended_at, epoch, version FROM diverted_webhooks
		WHERE tenant = ?1 AND deleted = 0 AND record IS NOT NULL AND (?2 OR locator = ?3) ORDER BY locator`,
		m.Tenant[:], m.Webhook.IsZero(), m.Webhook[:])
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []*sqliteWebhook
	for rows.Next() {
		row, err := scanWebhook(rows, m.Tenant)
		if err != nil {
			return nil, err
		}
		if !m.Webhook.IsZero() || row.publishes(m.EventType) {
			found = append(found, row)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if !m.Webhook.IsZero() && len(found) == 0 {
		return nil, fmt.Errorf("webhook %s: %w", m.Webhook, ErrNotFound)
	}
	return found, nil
}

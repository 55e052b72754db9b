package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
)

const (
	// lockHookToDelete waits for the host's transactions that have accepted something for the webhook and
	// are not over, and keeps new ones out.
	lockHookToDelete = `
		SELECT id, record IS NOT NULL FROM diverted.webhooks
		WHERE tenant = $1::uuid AND locator = $2::uuid AND NOT deleted FOR UPDATE`

	selectAny = `SELECT EXISTS (SELECT FROM diverted.deliveries WHERE webhook = $1::bigint)`

	// The secrets go at once, the rows by and by: a million of them would hold up everybody.
	markDeleted = `UPDATE diverted.webhooks SET deleted = true, record = NULL WHERE id = $1::bigint`

	// purgeRows is how many deliveries are purged in one transaction.
	purgeRows = 500
	// purgeLook is how often a process looks for webhooks that others deleted and did not purge.
	purgeLook = time.Minute

	purgeDeliveries = `
		DELETE FROM diverted.deliveries d USING (
			SELECT webhook, event FROM diverted.deliveries WHERE webhook = $1 LIMIT $2) r
		WHERE d.webhook = r.webhook AND d.event = r.event`

	purgeHook = `
		WITH gone AS (DELETE FROM diverted.webhooks WHERE id = $1 AND deleted RETURNING changed)
		UPDATE diverted.state SET floor = greatest(floor, gone.changed) FROM gone`
)

// DeleteWebhook implements [diverted.WebhookStore]. It waits for the host's transactions in which
// [Store.SendTx] and its like sent something to this webhook.
func (s *Store) DeleteWebhook(ctx context.Context, key diverted.WebhookKey, discard bool) error {
	done, err := s.begin(ctx, "delete webhook")
	if err != nil {
		return err
	}
	defer done()
	err = s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		return s.deleteIn(ctx, own(conn), key, discard)
	})
	if err != nil {
		return wrap("delete webhook", err)
	}
	s.hooks.spoil()
	select {
	case s.purging <- struct{}{}:
	default:
	}
	return nil
}

// DeleteWebhookTx is DeleteWebhook as a part of the host's transaction, as [Store.PutWebhookTx] is PutWebhook: the
// webhook is gone if and only if tx commits. Without discard, tx must be READ COMMITTED, and whatever is accepted for any
// webhook waits for it, in every process, and fails with a [diverted.ErrLocked] after 30 s: commit at once.
//
// The errors are [diverted.ErrNotEmpty], [diverted.ErrNotFound] and [diverted.ErrUnsupported] (the isolation), after which
// tx can go on, and those of the database.
func (s *Store) DeleteWebhookTx(ctx context.Context, tx pgx.Tx, key diverted.WebhookKey, discard bool) error {
	if tx == nil {
		return invalid("tx", "must not be nil")
	}
	return s.deleteTx(ctx, pgxTx{tx}, key, discard)
}

// DeleteWebhookSQLTx is [Store.DeleteWebhookTx] for a transaction of package database/sql, through any driver of
// PostgreSQL.
func (s *Store) DeleteWebhookSQLTx(ctx context.Context, tx *sql.Tx, key diverted.WebhookKey, discard bool) error {
	if tx == nil {
		return invalid("tx", "must not be nil")
	}
	return s.deleteTx(ctx, sqlTx{tx}, key, discard)
}

func (s *Store) deleteTx(ctx context.Context, tx hostTx, key diverted.WebhookKey, discard bool) error {
	done, err := s.begin(ctx, "delete webhook")
	if err != nil {
		return err
	}
	defer done()
	return wrap("delete webhook", s.deleteIn(ctx, tx, key, discard)) // its rows go when purge looks
}

// deleteIn deletes a webhook in a transaction.
func (s *Store) deleteIn(ctx context.Context, tx hostTx, key diverted.WebhookKey, discard bool) error {
	var id int64
	var known, holds bool
	err := tx.query(ctx, s.q(lockHookToDelete), keyParams(key), func(scan func(...any) error) error { return scan(&id, &known) })
	if err != nil {
		return err
	}
	if id == 0 {
		return notFound(key)
	}
	if !discard && !isOwn(tx) {
		var isolation string
		err := tx.query(ctx, `SELECT current_setting('transaction_isolation')`, nil, func(scan func(...any) error) error { return scan(&isolation) })
		if err == nil && isolation != "read committed" { // it would not see what was accepted since it began
			err = fmt.Errorf("%w: without discard the transaction must be READ COMMITTED, was %s", diverted.ErrUnsupported, isolation)
		}
		if err != nil {
			return err
		}
	}
	// What is being accepted at this moment is committed before the look, or finds the webhook gone. Where all goes in
	// any case, a transaction of the host's need not keep everybody waiting: what is still accepted goes with it.
	if !discard || isOwn(tx) {
		if err := run(ctx, tx, `SELECT pg_advisory_xact_lock($1::bigint)`, s.lock); err != nil {
			return err
		}
	}
	if err := tx.query(ctx, s.q(selectAny), []any{id}, func(scan func(...any) error) error { return scan(&holds) }); err != nil {
		return err
	}
	switch {
	case !known && !holds:
		return notFound(key)
	case holds && !discard:
		return fmt.Errorf("webhook %s: %w", key.Webhook, diverted.ErrNotEmpty)
	}
	for _, statement := range []string{markDeleted, `DELETE FROM diverted.notices WHERE webhook = $1::bigint`} {
		if err := run(ctx, tx, s.q(statement), id); err != nil {
			return err
		}
	}
	return s.bump(ctx, tx, &hook{id: id})
}

// purge is a goroutine of the store: it deletes the rows of deleted webhooks, in small steps.
func (s *Store) purge() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-s.background.Done():
			return
		case <-s.purging:
		case <-timer.C:
		}
		err := s.purgeAll(s.background)
		if err != nil && s.background.Err() == nil && !failing {
			s.log.Warn("diverted: the rows of deleted webhooks cannot be purged; it is tried every minute", "error", err)
		}
		failing = err != nil
		timer.Reset(purgeLook)
	}
}

func (s *Store) purgeAll(ctx context.Context) error {
	for {
		var ids []int64
		err := s.read(ctx, func(b *pgx.Batch) {
			ids = ids[:0]
			b.Queue(s.q(`SELECT id FROM diverted.webhooks WHERE deleted LIMIT 100`)).Query(func(r pgx.Rows) error {
				var id int64
				for r.Next() {
					if err := r.Scan(&id); err != nil {
						return err
					}
					ids = append(ids, id)
				}
				return r.Err()
			})
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		for _, id := range ids {
			if err := s.purgeOne(ctx, id); err != nil {
				return err
			}
		}
	}
}

// purgeOne deletes the rows of a webhook, and then the webhook itself. Several processes may do so at once.
func (s *Store) purgeOne(ctx context.Context, id int64) error {
	for {
		var n int64
		err := s.batch(ctx, beginTx, func(b *pgx.Batch) {
			b.Queue(byIndex)
			b.Queue(s.q(purgeDeliveries), id, purgeRows).Exec(func(tag pgconn.CommandTag) error {
				n = tag.RowsAffected()
				return nil
			})
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return s.batch(ctx, beginTx, func(b *pgx.Batch) {
				b.Queue(s.q(`DELETE FROM diverted.hours WHERE webhook = $1`), id)
				b.Queue(s.q(purgeHook), id)
			})
		}
	}
}

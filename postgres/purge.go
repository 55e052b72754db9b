package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

const (
	// isThere finds a webhook that is known, or has diverted events.
	isThere = `
		tenant = $1::uuid AND locator = $2::uuid AND NOT deleted
		AND (record IS NOT NULL OR EXISTS (SELECT FROM diverted.deliveries WHERE webhook = webhooks.id))`

	hookToDelete = `SELECT id FROM diverted.webhooks WHERE ` + isThere
	// lockHookToDelete waits for the host's transactions that have accepted something for the webhook and
	// are not over. While it waits PostgreSQL lets new ones overtake it.
	lockHookToDelete = hookToDelete + ` FOR UPDATE`

	// lockNotAccepting waits for what is being accepted at this moment, and keeps other accepts waiting.
	lockNotAccepting = `SELECT pg_advisory_xact_lock($1::bigint)`

	selectAny = `SELECT EXISTS (SELECT FROM diverted.deliveries WHERE webhook = $1::bigint)`

	// The secrets go at once, the rows by and by: a million of them would hold up everybody. No key changes, so it does not
	// wait for the host's transactions, which hold FOR KEY SHARE; lockDeleted heeds them.
	markDeleted = `
		UPDATE diverted.webhooks SET deleted = true, record = NULL
		WHERE ` + isThere + ` RETURNING id`

	// purgeRows is how many deliveries are purged in one transaction.
	purgeRows = 500
	// purgeLook is how often a process looks for webhooks that others deleted and did not purge, or that the host
	// was still sending to.
	purgeLook = time.Minute

	// purgeDeliveries goes on after the event $3. What was deleted stays in the index for as long as another transaction
	// may see it, and would be read again by each step from the beginning.
	purgeDeliveries = `
		WITH oldest AS MATERIALIZED (
			SELECT webhook, event FROM diverted.deliveries WHERE webhook = $1 AND event > $3 ORDER BY event LIMIT $2
		), gone AS (
			DELETE FROM diverted.deliveries d USING oldest WHERE d.webhook = oldest.webhook AND d.event = oldest.event)
		SELECT (array_agg(event ORDER BY event DESC))[1] FROM oldest`

	// lockDeleted finds nothing while a transaction of the host's that accepted something for the webhook is not over. Once
	// it is locked nothing is added any more.
	lockDeleted = `SELECT FROM diverted.webhooks WHERE id = $1 AND deleted FOR UPDATE SKIP LOCKED`

	purgeHook = `
		WITH gone AS (
			DELETE FROM diverted.webhooks
			WHERE id = $1 AND deleted AND NOT EXISTS (SELECT FROM diverted.deliveries WHERE webhook = $1)
			RETURNING changed)
		UPDATE diverted.state SET floor = greatest(floor, gone.changed) FROM gone`
)

// DeleteWebhook implements [diverted.WebhookStore].
//
// With discard it does not wait for transactions of the host's in which [Store.SendTx] and its like sent something
// to this webhook: what they add is purged once they are over. Without, it waits for them, since they may leave
// something pending, and fails after 30 seconds. Transactions that begin while it waits may overtake it, so under
// steady traffic it may never get its turn: disable the webhook first, so that [Store.PublishTx] leaves it out, and
// send nothing to it by its locator.
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
	if !discard {
		if err := s.lockEmpty(ctx, tx, key); err != nil {
			return err
		}
	}
	id, err := s.idToDelete(ctx, tx, markDeleted, key)
	if err == nil {
		err = run(ctx, tx, s.q(`DELETE FROM diverted.notices WHERE webhook = $1::bigint`), id)
	}
	if err != nil {
		return err
	}
	return s.bump(ctx, tx, &hook{id: id})
}

// idToDelete returns the row id that a query finds by the key of a webhook.
func (s *Store) idToDelete(ctx context.Context, tx hostTx, query string, key diverted.WebhookKey) (id int64, err error) {
	err = tx.query(ctx, s.q(query), keyParams(key), func(scan func(...any) error) error { return scan(&id) })
	if id == 0 && err == nil {
		err = notFound(key)
	}
	return id, err
}

// lockEmpty locks a webhook that has no deliveries. It looks before it locks, too, so that one that has some is
// not waited for.
func (s *Store) lockEmpty(ctx context.Context, tx hostTx, key diverted.WebhookKey) error {
	if !isOwn(tx) {
		var isolation string
		err := tx.query(ctx, `SELECT current_setting('transaction_isolation')`, nil, func(scan func(...any) error) error { return scan(&isolation) })
		if err == nil && isolation != "read committed" { // it would not see what was accepted since it began
			err = fmt.Errorf("%w: without discard the transaction must be READ COMMITTED, was %s", diverted.ErrUnsupported, isolation)
		}
		if err != nil {
			return err
		}
	}
	for _, query := range []string{hookToDelete, lockHookToDelete} {
		id, err := s.idToDelete(ctx, tx, query, key)
		if err == nil && query == lockHookToDelete {
			// What is being accepted at this moment is committed before the look, or finds the webhook gone.
			err = run(ctx, tx, lockNotAccepting, s.lock)
		}
		var holds bool
		if err == nil {
			err = tx.query(ctx, s.q(selectAny), []any{id}, func(scan func(...any) error) error { return scan(&holds) })
		}
		if err != nil {
			return err
		}
		if holds {
			return fmt.Errorf("webhook %s: %w", key.Webhook, diverted.ErrNotEmpty)
		}
	}
	return nil
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

// purgeAll purges every deleted webhook as far as it can be at this moment.
func (s *Store) purgeAll(ctx context.Context) error {
	for after := int64(0); ; {
		var ids []int64
		err := s.read(ctx, func(b *pgx.Batch) {
			ids = ids[:0]
			b.Queue(s.q(`SELECT id FROM diverted.webhooks WHERE deleted AND id > $1 ORDER BY id LIMIT 100`), after).Query(func(r pgx.Rows) error {
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
			after = id
		}
	}
}

// purgeOne deletes the rows of a webhook, and then the webhook itself, unless the host may still add some: then the
// next look goes on. Several processes may do so at once.
func (s *Store) purgeOne(ctx context.Context, id int64) error {
	none := pgUUID(ulid.Zero)
	for after, more := none, true; more; {
		var last pgtype.UUID
		err := s.batch(ctx, beginTx, func(b *pgx.Batch) {
			b.Queue(byIndex)
			b.Queue(s.q(purgeDeliveries), id, purgeRows, after).QueryRow(func(r pgx.Row) error { return r.Scan(&last) })
		})
		if err != nil {
			return err
		}
		if last.Valid {
			after = last
		} else { // what was added meanwhile may be anywhere, so the last look is one from the beginning
			after, more = none, after != none
		}
	}
	return s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		locked, err := conn.Exec(ctx, s.q(lockDeleted), id)
		if err != nil || locked.RowsAffected() == 0 {
			return err
		}
		// In statements of their own, which see what was added until the lock.
		b := new(pgx.Batch)
		b.Queue(byIndex)
		b.Queue(s.q(`DELETE FROM diverted.hours WHERE webhook = $1`), id)
		b.Queue(s.q(lockState))
		b.Queue(s.q(purgeHook), id)
		return conn.SendBatch(ctx, b).Close()
	})
}

package postgres

import (
	"context"
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
		WHERE tenant = $1 AND locator = $2 AND NOT deleted FOR UPDATE`

	selectAny = `SELECT EXISTS (SELECT FROM diverted.deliveries WHERE webhook = $1)`

	// The secrets go at once, the rows by and by: a million of them would hold up everybody.
	markDeleted = `UPDATE diverted.webhooks SET deleted = true, record = NULL WHERE id = $1`

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
		var id int64
		var known bool
		err := conn.QueryRow(ctx, s.q(lockHookToDelete), pgUUID(key.Tenant), pgUUID(key.Webhook)).Scan(&id, &known)
		if err == pgx.ErrNoRows {
			return notFound(key)
		} else if err != nil {
			return err
		}
		// What is being accepted at this moment is committed before the look, or finds the webhook gone.
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, s.lock); err != nil {
			return err
		}
		var any bool
		if err := conn.QueryRow(ctx, s.q(selectAny), id).Scan(&any); err != nil {
			return err
		}
		switch {
		case !known && !any:
			return notFound(key)
		case any && !discard:
			return fmt.Errorf("webhook %s: %w", key.Webhook, diverted.ErrNotEmpty)
		}
		b := new(pgx.Batch)
		b.Queue(s.q(markDeleted), id)
		b.Queue(s.q(`DELETE FROM diverted.notices WHERE webhook = $1`), id)
		b.Queue(s.q(bump), []int64{id})
		return conn.SendBatch(ctx, b).Close()
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

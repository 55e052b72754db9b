package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
)

const (
	// tooOld selects what is older than $1 microseconds, if there are any.
	tooOld = `($1::bigint > 0 AND %s <= now() - $1::bigint * interval '1 microsecond')`
	idle   = `record IS NOT NULL AND NOT (enabled AND suspended_at IS NULL)`
)

var (
	// selectToPurge finds the webhooks of which something may have to go, by its age or beyond $2, if that is
	// more than 0.
	selectToPurge = `
		SELECT w.id, w.tenant, w.locator, x.aside, x.held FROM diverted.webhooks w, LATERAL (
			SELECT EXISTS (SELECT FROM diverted.deliveries WHERE webhook = w.id AND due IS NULL AND ` + fmt.Sprintf(tooOld, "diverted_at") + `)
				OR $2::bigint > 0 AND EXISTS (SELECT FROM diverted.deliveries WHERE webhook = w.id AND due IS NULL OFFSET $2) AS aside,
			` + idle + ` AND (EXISTS (SELECT FROM diverted.deliveries WHERE webhook = w.id AND due IS NOT NULL AND ` + fmt.Sprintf(tooOld, "accepted_at") + ` AND ` + free + `)
				OR $2::bigint > 0 AND EXISTS (SELECT FROM diverted.deliveries WHERE webhook = w.id AND due IS NOT NULL OFFSET $2)) AS held) x
		WHERE NOT w.deleted AND (x.aside OR x.held)
		ORDER BY w.id`

	purgeDiverted = purgeOldest("due IS NULL", "due IS NULL", "diverted_at")
	purgeHeld     = purgeOldest("due IS NOT NULL", "due IS NOT NULL AND "+free, "accepted_at")

	// keepIdle keeps the webhook $1 from becoming active, and says whether it is not.
	keepIdle = `SELECT id FROM diverted.webhooks WHERE id = $1 AND NOT deleted AND ` + idle + ` FOR SHARE`
)

// purgeOldest deletes at most $4 deliveries of the webhook $3 that are too old or beyond the cap $2 of those that
// count, the oldest first.
func purgeOldest(counts, which, since string) string {
	return `
		WITH oldest AS (
			SELECT event, ` + since + ` AS since, id FROM diverted.deliveries
			WHERE webhook = $3 AND ` + which + ` ORDER BY ` + since + `, id LIMIT $4
		), numbered AS (
			SELECT event, since, row_number() OVER (ORDER BY since, id) AS n FROM oldest
		), gone AS (
			SELECT event FROM numbered WHERE ` + fmt.Sprintf(tooOld, "since") + ` OR $2::bigint > 0 AND n <=
				(SELECT count(*) FROM diverted.deliveries WHERE webhook = $3 AND ` + counts + `) - $2
		)
		DELETE FROM diverted.deliveries d USING gone WHERE d.webhook = $3 AND d.event = gone.event AND ` + which
}

// Purge is as in [diverted.RetentionStore].
func (s *Store) Purge(ctx context.Context, request diverted.PurgeRequest) (result diverted.PurgeResult, err error) {
	r, err := request.WithDefaults()
	if err != nil {
		return result, err
	}
	done, err := s.begin(ctx, "purge")
	if err != nil {
		return result, err
	}
	defer done()
	if r.Retention.IsZero() {
		return result, nil
	}
	type found struct {
		id          int64
		key         diverted.WebhookKey
		aside, held bool
	}
	var all []found
	age, most := r.Retention.MaxAge.Microseconds(), int64(r.Retention.MaxPerWebhook)
	err = s.read(ctx, func(b *pgx.Batch) {
		all = all[:0]
		b.Queue(s.q(selectToPurge), age, most).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var f found
				if err := rows.Scan(&f.id, (*[16]byte)(&f.key.Tenant), (*[16]byte)(&f.key.Webhook), &f.aside, &f.held); err != nil {
					return err
				}
				all = append(all, f)
			}
			return rows.Err()
		})
	})
	if err != nil {
		return result, wrap("purge", err)
	}
	left := int64(r.Limit)
	for _, f := range all {
		if left == 0 {
			result.More = true
			break
		}
		var aside, held int64
		err = s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
			aside, held = 0, 0
			if _, err := conn.Exec(ctx, byIndex); err != nil {
				return err
			}
			var tag pgconn.CommandTag
			if f.aside {
				if tag, err = conn.Exec(ctx, s.q(purgeDiverted), age, most, f.id, left); err != nil {
					return err
				}
				aside = tag.RowsAffected()
			}
			if !f.held || aside == left {
				return nil
			}
			tag, err := conn.Exec(ctx, s.q(keepIdle), f.id)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
			if tag, err = conn.Exec(ctx, s.q(purgeHeld), age, most, f.id, left-aside); err != nil {
				return err
			}
			held = tag.RowsAffected()
			return nil
		})
		if err != nil {
			if len(result.Webhooks) > 0 { // what was deleted must be told
				result.More = true
				return result, nil
			}
			return result, wrap("purge", err)
		}
		if aside+held > 0 {
			result.Webhooks = append(result.Webhooks, diverted.Purged{Webhook: f.key, Diverted: int(aside), Pending: int(held)})
		}
		if left -= aside + held; left == 0 {
			result.More = true // perhaps
		}
	}
	return result, nil
}

const (
	selectToExpunge = `
		SELECT d.webhook, d.failure, d.earlier FROM diverted.deliveries d JOIN diverted.webhooks w ON w.id = d.webhook
		WHERE w.tenant = $1 AND w.locator = $2 AND NOT w.deleted AND d.event = $3 AND d.due IS NULL FOR UPDATE OF d`

	expunge = `UPDATE diverted.deliveries SET body = '', failure = $3, earlier = $4 WHERE webhook = $1 AND event = $2`
)

// Expunge is as in [diverted.RetentionStore]. The old row is overwritten when the table is next vacuumed, and
// remains in the server's log as long as that is kept.
func (s *Store) Expunge(ctx context.Context, key diverted.Key) error {
	done, err := s.begin(ctx, "expunge")
	if err != nil {
		return err
	}
	defer done()
	return wrap("expunge", s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		if _, err := conn.Exec(ctx, byIndex); err != nil {
			return err
		}
		var id int64
		var failure pgtype.Text
		var earlier []string
		err := conn.QueryRow(ctx, s.q(selectToExpunge), pgUUID(key.Tenant), pgUUID(key.Webhook), pgUUID(key.Event)).Scan(&id, &failure, &earlier)
		if err == pgx.ErrNoRows {
			return fmt.Errorf("diverted event %s: %w", key.Event, diverted.ErrNotFound)
		} else if err != nil {
			return err
		}
		if failure.Valid {
			failure.String = expunged(failure.String)
		}
		for i := range earlier {
			earlier[i] = expunged(earlier[i])
		}
		_, err = conn.Exec(ctx, s.q(expunge), id, pgUUID(key.Event), failure, earlier)
		return err
	}))
}

// expunged returns an encoded failure without what an answer said; one that cannot be decoded is forgotten.
func expunged(encoded string) string {
	f, err := decodeFailure([]byte(encoded))
	if err != nil || f == nil {
		f = &diverted.Failure{Trigger: diverted.TriggerTimeout, At: time.Unix(0, 0).UTC()}
	}
	clean := f.Expunged()
	return encodeFailure(&clean).String
}

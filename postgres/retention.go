package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
)

// tooOld says whether a time is $1 microseconds ago, if that is more than 0.
func tooOld(since string) string {
	return `($1::bigint > 0 AND ` + since + ` <= now() - $1::bigint * interval '1 microsecond')`
}

// beyond says whether the webhook w has more than $2 deliveries of a kind, if that is more than 0.
func beyond(which string) string {
	return `($2::bigint > 0 AND EXISTS (SELECT FROM diverted.deliveries WHERE webhook = w.id AND ` + which + ` OFFSET $2))`
}

// idle says whether the webhook w holds what is pending.
const idle = `w.record IS NOT NULL AND NOT (w.enabled AND w.suspended_at IS NULL)`

var (
	// selectToPurge finds the webhooks of which something may have to go, without a lock. Of what is held it looks at the
	// first in the order of acceptance alone; retries that wait are not in it yet, and purgePart finds out.
	selectToPurge = `
		SELECT w.id, w.tenant, w.locator, x.aside, x.held FROM diverted.webhooks w, LATERAL (
			SELECT coalesce((SELECT ` + tooOld("diverted_at") + ` FROM diverted.deliveries
				WHERE webhook = w.id AND due IS NULL ORDER BY diverted_at, id LIMIT 1), false) OR ` + beyond("due IS NULL") + ` AS aside,
			` + idle + ` AND (coalesce(` + tooOld("w.suspended_at") + `, false) AND (
				coalesce((SELECT ` + tooOld("accepted_at") + ` FROM diverted.deliveries
					WHERE webhook = w.id AND due = '-infinity' AND ` + free + ` ORDER BY id LIMIT 1), false)
				OR coalesce((SELECT true FROM diverted.deliveries WHERE webhook = w.id AND due > '-infinity' ORDER BY due LIMIT 1), false)
				) OR ` + beyond("due IS NOT NULL") + `) AS held) x
		WHERE NOT w.deleted AND (x.aside OR x.held)
		ORDER BY w.id`

	// keepState keeps the webhook $2 as it is, suspended or not, and says whether it holds what is pending, and whether it
	// has been suspended for $1 microseconds.
	keepState = `
		SELECT ` + idle + `, coalesce(` + tooOld("w.suspended_at") + `, false)
		FROM diverted.webhooks w WHERE w.id = $2 AND NOT w.deleted FOR SHARE`

	purgeDiverted = purgeOldest(divertedKind, "true", `
			SELECT webhook, event, diverted_at AS since, id FROM diverted.deliveries
			WHERE webhook = $3 AND due IS NULL ORDER BY diverted_at, id LIMIT $4`)

	purgeHeld = purgeOldest(pendingKind, free, `
			SELECT webhook, event, accepted_at AS since, id FROM diverted.deliveries
			WHERE webhook = $3 AND due = '-infinity' AND `+free+` ORDER BY id LIMIT $4`)
)

// purgeOldest deletes at most $4 deliveries of the webhook $3 that are too old or beyond the cap $2 of those of their
// kind, the oldest first, if they are still as they were found: one that a statement waited for may have been diverted
// again. They are found by their key, one by one, as [kind.still] asks for.
func purgeOldest(k kind, and, oldest string) string {
	return `
		WITH oldest AS (` + oldest + `
		), numbered AS (
			SELECT webhook, event, since, row_number() OVER (ORDER BY since, id) AS n FROM oldest
		), gone AS MATERIALIZED (
			SELECT webhook, event, since FROM numbered WHERE n <= $4 AND (` + tooOld("since") + ` OR $2::bigint > 0 AND n <= (
				SELECT count(*) FROM (SELECT FROM diverted.deliveries WHERE webhook = $3 AND ` + k.which + ` LIMIT $2 + $4) counted) - $2)
		)
		DELETE FROM diverted.deliveries d USING gone
		WHERE d.webhook = gone.webhook AND d.event = gone.event AND d.` + k.since + ` = gone.since AND ` + k.still + ` AND ` + and
}

// toPurge is a webhook of which something has to go.
type toPurge struct {
	id  int64
	key diverted.WebhookKey
	// aside: diverted events; held: what it holds.
	aside, held bool
}

// Purge implements [diverted.RetentionStore].
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
	all, err := s.findToPurge(ctx, r.Retention)
	if err != nil {
		return result, wrap("purge", err)
	}
	left := r.Limit
	for _, w := range all {
		purged := diverted.Purged{Webhook: w.key}
		for part := (purgedPart{more: true, from: new(time.Time)}); part.more && left > 0; {
			part, err = s.purgePart(ctx, w, r.Retention, min(left, purgeRows), part.from)
			if err != nil {
				return tell(result, purged), wrap("purge", err)
			}
			purged.Diverted += part.aside
			purged.Pending += part.held
			left -= part.aside + part.held
		}
		result = tell(result, purged)
		if left == 0 {
			result.More = true // perhaps
			break
		}
	}
	return result, nil
}

// tell adds what was deleted of a webhook to the result.
func tell(result diverted.PurgeResult, purged diverted.Purged) diverted.PurgeResult {
	if purged.Diverted+purged.Pending > 0 {
		result.Webhooks = append(result.Webhooks, purged)
	}
	return result
}

func (s *Store) findToPurge(ctx context.Context, r diverted.Retention) (all []toPurge, err error) {
	err = s.read(ctx, func(b *pgx.Batch) {
		all = all[:0]
		b.Queue(s.q(selectToPurge), r.MaxAge.Microseconds(), int64(r.MaxPerWebhook)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var w toPurge
				if err := rows.Scan(&w.id, (*[16]byte)(&w.key.Tenant), (*[16]byte)(&w.key.Webhook), &w.aside, &w.held); err != nil {
					return err
				}
				all = append(all, w)
			}
			return rows.Err()
		})
	})
	return all, err
}

// purgedPart is what was deleted in one transaction.
type purgedPart struct {
	aside, held int
	more        bool       // there may be
	from        *time.Time // where the release goes on; nil: all is released
}

// purgePart deletes at most limit deliveries of a webhook in one transaction. The webhook's row is locked before them, as
// bulk steps and suspensions do. Of what the webhook holds, the retries that wait are released first, in parts of their
// own, so that all is found in the order of acceptance: while it is not active their times mean nothing, and when it
// becomes active they are released anyway.
func (s *Store) purgePart(ctx context.Context, w toPurge, r diverted.Retention, limit int, from *time.Time) (part purgedPart, err error) {
	age, most := r.MaxAge.Microseconds(), min(int64(r.MaxPerWebhook), math.MaxInt64-diverted.MaxBulk) // with a limit it is a bigint
	err = s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		part = purgedPart{from: from}
		if _, err := conn.Exec(ctx, byIndex); err != nil {
			return err
		}
		var holds, long bool
		err := conn.QueryRow(ctx, s.q(keepState), age, w.id).Scan(&holds, &long)
		if err == pgx.ErrNoRows {
			return nil
		} else if err != nil {
			return err
		}
		if w.aside {
			tag, err := conn.Exec(ctx, s.q(purgeDiverted), age, most, w.id, int64(limit))
			if err != nil {
				return err
			}
			part.aside = int(tag.RowsAffected())
			part.more = part.aside == limit
		}
		if !w.held || !holds || part.more {
			return nil
		}
		if from != nil {
			if part.from, err = s.release(ctx, own(conn), w.id, *from); err != nil {
				return err
			} else if part.from != nil {
				part.more = true
				return nil
			}
		}
		ageHeld := age
		if !long {
			ageHeld = 0
		}
		tag, err := conn.Exec(ctx, s.q(purgeHeld), ageHeld, most, w.id, int64(limit-part.aside))
		part.held = int(tag.RowsAffected())
		part.more = part.aside+part.held == limit
		return err
	})
	if err != nil {
		return purgedPart{}, err
	}
	return part, nil
}

const (
	selectToExpunge = `
		SELECT d.webhook, d.failure, d.earlier FROM diverted.deliveries d JOIN diverted.webhooks w ON w.id = d.webhook
		WHERE w.tenant = $1 AND w.locator = $2 AND NOT w.deleted AND d.event = $3 AND d.diverted_at IS NOT NULL FOR UPDATE OF d`

	expunge = `UPDATE diverted.deliveries SET body = '', failure = $3, earlier = $4 WHERE webhook = $1 AND event = $2`
)

// Expunge implements [diverted.RetentionStore]. The old row is overwritten when the table is next vacuumed,
// and remains in the server's log as long as that is kept.
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

package diverted

import (
	"context"
	"database/sql"
	"slices"
	"time"
)

// purgePart is how many deliveries are purged in one transaction.
const purgePart = 500

// old is a delivery that is to be purged: by its event, since SQLite gives row ids that were freed anew.
type old struct {
	event []byte
	at    int64 // when it was diverted, or, if it is pending, accepted
}

// Purge implements [RetentionStore]. A reader finds what is old, since it may have to look at many; the writer
// deletes what still is, since others may delete, resend and accept between the two.
func (s *SQLiteStore) Purge(ctx context.Context, request PurgeRequest) (PurgeResult, error) {
	var result PurgeResult
	r, err := request.WithDefaults()
	if err != nil || r.Retention.IsZero() {
		return result, err
	}
	const action = "purge"
	var diverting, holding []int64
	err = s.read(ctx, action, func(db *sql.DB) (err error) {
		diverting, err = queryIDs(ctx, db, divertingWebhooks)
		if err == nil {
			holding, err = queryIDs(ctx, db, `SELECT id FROM diverted_webhooks
				WHERE deleted = 0 AND record IS NOT NULL AND (enabled = 0 OR suspended_at IS NOT NULL)`)
		}
		return err
	})
	if err != nil {
		return result, err
	}
	left := r.Limit
	for _, webhooks := range []struct {
		ids     []int64
		pending bool
	}{{diverting, false}, {holding, true}} {
		for _, id := range webhooks.ids {
			if webhooks.pending {
				if err := s.releaseHeld(ctx, action, id); err != nil {
					return result, err
				}
			}
			var all []old
			err := s.read(ctx, action, func(db *sql.DB) (err error) {
				all, err = s.findOld(ctx, db, id, webhooks.pending, r.Retention, left+1)
				return err
			})
			if err != nil {
				return result, err
			}
			if len(all) > left {
				all, result.More = all[:left], true
			}
			for len(all) > 0 {
				part := all[:min(purgePart, len(all))]
				var key WebhookKey
				var n int
				err := s.write(ctx, action, func(tx *sqliteTx) error {
					key, n = tx.purgeOld(id, webhooks.pending, r.Retention, part)
					return nil
				})
				if err != nil {
					return result, err
				}
				result.add(key, n, webhooks.pending)
				left -= n
				all = all[len(part):]
			}
			if result.More {
				return result, nil
			}
		}
	}
	return result, nil
}

// releaseHeld has the retries that a webhook holds wait no more, in steps, so that all that it holds is found in the order of
// acceptance. While a webhook is not active their times mean nothing, and when it becomes active they are released anyway.
func (s *SQLiteStore) releaseHeld(ctx context.Context, action string, id int64) error {
	var waits bool
	err := s.read(ctx, action, func(db *sql.DB) error {
		return scan(db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM diverted_deliveries INDEXED BY diverted_deliveries_due
			WHERE webhook = ? AND due > 0 AND token IS NULL)`, id), &waits)
	})
	for err == nil && waits {
		err = s.write(ctx, action, func(tx *sqliteTx) error {
			row := tx.webhookByID(id)
			waits = row != nil && !row.active() && tx.release(row)
			return nil
		})
	}
	return err
}

// add counts what was purged of a webhook.
func (r *PurgeResult) add(key WebhookKey, n int, pending bool) {
	if n == 0 {
		return
	}
	i := slices.IndexFunc(r.Webhooks, func(p Purged) bool { return p.Webhook == key })
	if i < 0 {
		i = len(r.Webhooks)
		r.Webhooks = append(r.Webhooks, Purged{Webhook: key})
	}
	if pending {
		r.Webhooks[i].Pending += n
	} else {
		r.Webhooks[i].Diverted += n
	}
}

// divertingWebhooks skips through the index from one webhook with diverted events to the next.
const divertingWebhooks = `
	WITH RECURSIVE diverting (id) AS (
		SELECT min(webhook) FROM diverted_deliveries INDEXED BY diverted_deliveries_at WHERE due IS NULL
		UNION ALL
		SELECT (SELECT min(webhook) FROM diverted_deliveries INDEXED BY diverted_deliveries_at
			WHERE due IS NULL AND webhook > diverting.id)
		FROM diverting WHERE diverting.id IS NOT NULL
	)
	SELECT id FROM diverting WHERE id IN (SELECT id FROM diverted_webhooks WHERE deleted = 0)`

// cutoff returns the time at or before which deliveries are too old; negative: none is, whatever its age.
func (r Retention) cutoff(now time.Time) int64 {
	if r.MaxAge == 0 {
		return -1
	}
	return now.Add(-r.MaxAge).UnixMilli()
}

// heldCutoff is cutoff for what a webhook holds that was suspended at a time, 0 for one that is not. While the
// suspension is younger than the age, so is all that it holds.
func (r Retention) heldCutoff(now time.Time, suspended int64) int64 {
	if cutoff := r.cutoff(now); suspended > 0 && suspended <= cutoff {
		return cutoff
	}
	return -1
}

// countUpTo counts the deliveries of a webhook, old or not, but no more than a limit.
func countUpTo(pending bool) string {
	if pending {
		return `SELECT count(*) FROM (SELECT 1 FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = ? AND due IS NOT NULL LIMIT ?)`
	}
	return `SELECT count(*) FROM (SELECT 1 FROM diverted_deliveries INDEXED BY diverted_deliveries_at WHERE webhook = ? AND due IS NULL LIMIT ?)`
}

// findOld returns up to limit deliveries of a webhook that are too old or beyond the cap, the oldest first.
func (s *SQLiteStore) findOld(ctx context.Context, db *sql.DB, id int64, pending bool, r Retention, limit int) ([]old, error) {
	excess := 0
	if r.MaxPerWebhook > 0 {
		if err := scan(db.QueryRowContext(ctx, countUpTo(pending), id, r.MaxPerWebhook+limit), &excess); err != nil {
			return nil, err
		}
		excess -= r.MaxPerWebhook
	}
	now := s.writer.wall()
	cutoff := r.cutoff(now)
	query := oldestDiverted
	if pending {
		var suspended int64
		err := scan(db.QueryRowContext(ctx, `SELECT coalesce(max(suspended_at), 0) FROM diverted_webhooks WHERE id = ?`, id), &suspended)
		if err != nil {
			return nil, err
		}
		cutoff, query = r.heldCutoff(now, suspended), oldestHeld
	}
	if excess <= 0 && cutoff < 0 {
		return nil, nil
	}
	rows, err := db.QueryContext(ctx, query, id, now.UnixMilli(), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []old
	for rows.Next() {
		var o old
		var place int64
		if err := scan(rows, &o.event, &o.at, &place); err != nil {
			return nil, err
		}
		if len(all) >= excess && o.at > cutoff {
			break
		}
		all = append(all, o)
	}
	return all, rows.Err()
}

// The oldest deliveries of a webhook: of those it holds, what nobody has a lease of. Once its retries are released
// (releaseHeld), only claims have a time.
const (
	oldestDiverted = `
		SELECT event, diverted_at, 0 FROM diverted_deliveries INDEXED BY diverted_deliveries_at
		WHERE webhook = ?1 AND due IS NULL AND ?2 > 0 ORDER BY diverted_at LIMIT ?3`
	oldestHeld = `
		SELECT event, accepted_at, id FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = ?1 AND due = 0
		UNION ALL
		SELECT event, accepted_at, id FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = ?1 AND due > 0 AND due <= ?2
		ORDER BY id LIMIT ?3`
)

// purgeOld deletes deliveries of a webhook that are as they were found, and too old or beyond the cap still.
func (tx *sqliteTx) purgeOld(id int64, pending bool, r Retention, all []old) (key WebhookKey, n int) {
	row := tx.webhookByID(id)
	if row == nil || pending && row.active() {
		return WebhookKey{}, 0
	}
	cutoff := r.cutoff(tx.now)
	if pending {
		cutoff = r.heldCutoff(tx.now, millis(row.webhook.SuspendedAt))
	}
	excess := 0
	if r.MaxPerWebhook > 0 && all[len(all)-1].at > cutoff {
		tx.query1(countUpTo(pending), []any{id, r.MaxPerWebhook + len(all)}, &excess)
		excess -= r.MaxPerWebhook
	}
	for _, o := range all {
		if o.at > cutoff && n >= excess {
			break
		}
		if pending {
			if tx.exec(`DELETE FROM diverted_deliveries WHERE webhook = ? AND event = ? AND due IS NOT NULL AND accepted_at = ?
				AND (token IS NULL OR due <= ?)`, id, o.event, o.at, tx.now.UnixMilli()) > 0 {
				tx.count(id, -1)
				n++
			}
			continue
		}
		var trigger sql.NullString
		if tx.query1(`DELETE FROM diverted_deliveries WHERE webhook = ? AND event = ? AND due IS NULL AND diverted_at = ? RETURNING `+sqliteTrigger,
			[]any{id, o.event, o.at}, &trigger) {
			tx.aside(id, longTrigger(trigger.String), -1)
			n++
		}
	}
	tx.freedRows(int64(n))
	return row.webhook.Key(), n
}

func queryIDs(ctx context.Context, db *sql.DB, query string) (ids []int64, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := scan(rows, &id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// Expunge implements [RetentionStore]. What it forgets is overwritten with zeros in the row; the file keeps it until
// the next checkpoint, and the write-ahead log until it is overwritten in its turn. Copies left behind when the row
// was changed before, as by each attempt, or moved, stay in the file's free space until that is used again or the
// database is vacuumed.
func (s *SQLiteStore) Expunge(ctx context.Context, key Key) error {
	return s.write(ctx, "expunge", func(tx *sqliteTx) error {
		row, err := tx.diverted(key)
		if err != nil {
			return err
		}
		var last, before []byte
		var was, is sql.NullString
		tx.query1(`SELECT failure, failures, `+sqliteTrigger+` FROM diverted_deliveries WHERE webhook = ? AND event = ?`,
			[]any{row.id, key.Event[:]}, &last, &before, &was)
		earlier, latest := encodeFailures(tx.expungeFailures(before, last))
		ignore := func(*sql.Rows) error { return nil }
		tx.queryAll(`PRAGMA secure_delete = 1`, nil, ignore)
		tx.query1(`UPDATE diverted_deliveries SET body = x'', failure = ?, failures = ? WHERE webhook = ? AND event = ? RETURNING `+sqliteTrigger,
			[]any{latest, earlier, row.id, key.Event[:]}, &is)
		tx.queryAll(`PRAGMA secure_delete = 0`, nil, ignore)
		if was != is { // the last failure was damaged
			tx.countAside(row.id, longTrigger(was.String), -1)
			tx.countAside(row.id, longTrigger(is.String), 1)
		}
		return nil
	})
}

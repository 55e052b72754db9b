package diverted

import (
	"context"
	"database/sql"
)

// divertStep is how many deliveries DivertPending diverts in one transaction.
const divertStep = 500

// DivertPending diverts the pending deliveries that were accepted before a moment, and returns how many, even
// with an error, after which it can be repeated. It is for those who restored a backup (see
// [SQLiteStore.Backup]) and would rather look than send again. Call it before a dispatcher runs: a delivery
// under way is diverted too, and the outcome of its attempt then changes nothing, so an event may be both
// delivered and diverted. The failure of each says why it was set aside, its number of attempts stays, and
// nobody is alerted. Others work on between its steps.
//
// A request that breaks a rule is an [ErrInvalid]; the other errors are those of the database.
func (s *SQLiteStore) DivertPending(ctx context.Context, request DivertPendingRequest) (diverted int, err error) {
	if err := request.Validate(); err != nil {
		return 0, err
	}
	type pending struct {
		id, webhook int64
		event       []byte
	}
	const action = "divert pending deliveries"
	all := request.Webhook == WebhookKey{}
	before := millisUp(request.Before)
	var last int64 // what is accepted from now on is not looked at, so that this ends
	err = s.read(ctx, action, func(db *sql.DB) error {
		return scan(db.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) FROM diverted_deliveries`), &last)
	})
	for after := int64(0); err == nil; {
		// Found by a reader, since it may have to look at many that are none.
		var step []pending
		err = s.read(ctx, action, func(db *sql.DB) error {
			rows, err := db.QueryContext(ctx, `
				SELECT id, webhook, event FROM diverted_deliveries
				WHERE id > ?1 AND id <= ?2 AND due IS NOT NULL AND accepted_at < ?3
				AND (?4 OR webhook = (SELECT id FROM diverted_webhooks WHERE tenant = ?5 AND locator = ?6 AND deleted = 0))
				ORDER BY id LIMIT ?7`,
				after, last, before, all, request.Webhook.Tenant[:], request.Webhook.Webhook[:], divertStep)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var p pending
				if err := scan(rows, &p.id, &p.webhook, &p.event); err != nil {
					return err
				}
				step = append(step, p)
			}
			return rows.Err()
		})
		if err != nil || len(step) == 0 {
			break
		}
		after = step[len(step)-1].id
		var n int
		err = s.write(ctx, action, func(tx *sqliteTx) error {
			n = 0
			failure := encodeFailure(tx.keep(request.Failure()))
			for _, p := range step {
				row := tx.webhookByID(p.webhook)
				if row == nil || len(p.event) != len(Key{}.Event) {
					continue // deleted meanwhile, or damaged
				}
				changed := tx.exec(`
					UPDATE diverted_deliveries SET due = NULL, token = NULL, losses = 0, failures = `+appendFailure+`, failure = ?, diverted_at = ?
					WHERE webhook = ? AND event = ? AND due IS NOT NULL AND accepted_at < ?`,
					failure, tx.now.UnixMilli(), p.webhook, p.event, before)
				if changed > 0 {
					n++
					tx.count(row.id, -1)
					tx.aside(row.id, request.Failure().Trigger, 1)
					tx.changed(ChangeDiverted, Key{row.webhook.Tenant, row.webhook.Locator, [16]byte(p.event)})
				}
			}
			return nil
		})
		if err == nil {
			diverted += n
		}
	}
	return diverted, err
}

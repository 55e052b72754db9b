package diverted

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// A webhook has at most one row of notices: what is being told (sending), what happened since (open), and
// when to look at it again (due).

const (
	// deleteSilent forgets the windows that passed in silence.
	deleteSilent = `DELETE FROM diverted_notices WHERE due <= ? AND open IS NULL AND sending IS NULL`
	// selectNotices has tenants take turns, among the first ones that are due: an alert endpoint that hangs may be that of
	// all webhooks of a tenant.
	selectNotices = `
		SELECT webhook, tries, window, open, sending FROM diverted_notices WHERE webhook IN (
			SELECT webhook FROM (
				SELECT n.webhook, n.due, row_number() OVER (PARTITION BY w.tenant ORDER BY n.due) AS turn
				FROM (SELECT webhook, due FROM diverted_notices WHERE due <= ? ORDER BY due LIMIT 2000) n
				LEFT JOIN diverted_webhooks w ON w.id = n.webhook)
			ORDER BY turn, due LIMIT ?)`
	firstNotice = `SELECT min(due) FROM diverted_notices`
)

// alert adds the failure of an outcome to the open notice of its webhook.
func (tx *sqliteTx) alert(row *sqliteWebhook, o *Outcome, failed FailedEvent, suspended bool) {
	var (
		encoded sql.NullString
		idle    bool
		due     int64
	)
	found := tx.query1(`SELECT open, open IS NULL AND sending IS NULL, due FROM diverted_notices WHERE webhook = ?`, []any{row.id}, &encoded, &idle, &due)
	if found && idle && due <= tx.now.UnixMilli() {
		tx.exec(`DELETE FROM diverted_notices WHERE webhook = ?`, row.id) // its window passed in silence
		found = false
	}
	open, err := decodeNotice(encoded.String)
	if err != nil {
		open = Notice{} // damaged: begin anew, rather than never tell anything again
	}
	open.Add(failed, o.Kind == OutcomeDivert, suspended)
	if found {
		tx.exec(`UPDATE diverted_notices SET open = ? WHERE webhook = ?`, tx.encodeNotice(open), row.id)
		return
	}
	tx.exec(`INSERT INTO diverted_notices (webhook, due, tries, window, open) VALUES (?, 0, 0, 0, ?)`, row.id, tx.encodeNotice(open))
	tx.nextNotice = 0
}

// claimNotices takes notices that are due.
func (tx *sqliteTx) claimNotices(request *ClaimRequest) []NoticeClaim {
	now := tx.now.UnixMilli()
	if request.Notices <= 0 || tx.nextNotice < 0 || tx.nextNotice > now {
		return nil
	}
	type due struct {
		id            int64
		tries         int
		window        int64
		open, sending sql.NullString
	}
	tx.exec(deleteSilent, now)
	var all []due
	tx.queryAll(selectNotices, []any{now, request.Notices}, func(rows *sql.Rows) error {
		var d due
		err := scan(rows, &d.id, &d.tries, &d.window, &d.open, &d.sending)
		all = append(all, d)
		return err
	})
	var claims []NoticeClaim
	token, lease := tx.token(), millisUp(tx.now.Add(request.Lease))
	for _, d := range all {
		row := tx.webhookByID(d.id)
		if row == nil || row.err != nil { // the webhook is gone or damaged
			tx.exec(`DELETE FROM diverted_notices WHERE webhook = ?`, d.id)
			continue
		}
		if !d.sending.Valid {
			d.sending, d.open = d.open, sql.NullString{}
		}
		notice, err := decodeNotice(d.sending.String)
		if err != nil {
			tx.exec(`DELETE FROM diverted_notices WHERE webhook = ?`, d.id) // damaged: begin anew
			continue
		}
		if notice.Locator.IsZero() {
			notice.Locator = ulid.Make()
		}
		tx.exec(`UPDATE diverted_notices SET due = ?, token = ?, sending = ?, open = ? WHERE webhook = ?`,
			lease, token, tx.encodeNotice(notice), d.open, d.id)
		claims = append(claims, NoticeClaim{
			Webhook: row.webhook, Token: token, Notice: notice, Tries: d.tries, Window: time.Duration(d.window) * time.Millisecond,
		})
	}
	tx.lookForNotices()
	return claims
}

// lookForNotices finds out when the next notice is due.
func (tx *sqliteTx) lookForNotices() {
	tx.nextNotice = -1
	var next sql.NullInt64
	if tx.query1(firstNotice, nil, &next) && next.Valid {
		tx.nextNotice = next.Int64
	}
}

// settleNotice applies the outcome of a notice.
func (tx *sqliteTx) settleNotice(o NoticeOutcome) {
	row := tx.webhook(o.Webhook)
	if row == nil {
		return
	}
	due := millisUp(tx.now.Add(o.Wait))
	var changed int64
	if o.Done {
		changed = tx.exec(`UPDATE diverted_notices SET due = ?, token = NULL, tries = 0, window = ?, sending = NULL WHERE webhook = ? AND token = ?`,
			due, o.Wait.Milliseconds(), row.id, o.Token)
	} else {
		changed = tx.exec(`UPDATE diverted_notices SET due = ?, token = NULL, tries = tries + 1 WHERE webhook = ? AND token = ?`,
			due, row.id, o.Token)
	}
	if changed > 0 && (tx.nextNotice < 0 || due < tx.nextNotice) {
		tx.nextNotice = due
	}
}

func (tx *sqliteTx) encodeNotice(n Notice) any {
	encoded, err := json.Marshal(n)
	if err != nil {
		tx.fail(err)
	}
	return string(encoded)
}

func decodeNotice(encoded string) (Notice, error) {
	var n Notice
	if encoded == "" {
		return n, nil
	}
	if err := json.Unmarshal([]byte(encoded), &n); err != nil {
		return n, fmt.Errorf("%w: a notice cannot be decoded", ErrDamaged)
	}
	return n, nil
}

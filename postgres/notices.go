package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// A webhook has at most one row of notices: what is being told (sending), what happened since (open), and
// when to look at it again (due).

// alert is what outcomes add to the open notice of a webhook.
type alert struct {
	failed []failedOutcome
}

type failedOutcome struct {
	event               diverted.FailedEvent
	diverted, suspended bool
}

const (
	// Whoever comes here has the webhook's row locked, so the row of notices is nobody else's to add to.
	lockNotices = `
		SELECT webhook, open, open IS NULL AND sending IS NULL AND due <= now() FROM diverted.notices
		WHERE webhook = ANY($1::bigint[]) ORDER BY webhook FOR UPDATE`

	// A row whose window passed in silence begins anew, as one that was not there.
	upsertNotice = `
		INSERT INTO diverted.notices (webhook, due, tries, window_ms, open) VALUES ($1, '-infinity', 0, 0, $2)
		ON CONFLICT (webhook) DO UPDATE SET open = excluded.open,
			due = CASE WHEN $3 THEN excluded.due ELSE notices.due END,
			tries = CASE WHEN $3 THEN 0 ELSE notices.tries END,
			window_ms = CASE WHEN $3 THEN 0 ELSE notices.window_ms END`

	// selectNotices has tenants take turns, among the first ones that are due: an alert endpoint that hangs may be that of
	// all webhooks of a tenant.
	selectNotices = `
		WITH waiting AS MATERIALIZED (
			SELECT webhook, due FROM diverted.notices WHERE due <= now() ORDER BY due LIMIT 2000
		), ordered AS MATERIALIZED (
			SELECT waiting.webhook, waiting.due, row_number() OVER (PARTITION BY w.tenant ORDER BY waiting.due) AS turn
			FROM waiting LEFT JOIN diverted.webhooks w ON w.id = waiting.webhook
		)
		SELECT n.webhook, n.tries, n.window_ms, n.open, n.sending FROM ordered JOIN diverted.notices n ON n.webhook = ordered.webhook
		WHERE n.due <= now() ORDER BY ordered.turn, ordered.due LIMIT $1 FOR UPDATE OF n SKIP LOCKED`

	// deleteSilent forgets the windows that passed in silence. One that somebody looks at is left to the next
	// look.
	deleteSilent = `
		DELETE FROM diverted.notices n USING (
			SELECT webhook FROM diverted.notices WHERE due <= now() AND open IS NULL AND sending IS NULL
			FOR UPDATE SKIP LOCKED) s
		WHERE n.webhook = s.webhook`

	claimNotice = `
		UPDATE diverted.notices SET token = $2, sending = $3, open = $4,
			due = date_trunc('milliseconds', now() + $5::bigint * interval '1 microsecond' + interval '999 microseconds')
		WHERE webhook = $1`
)

// alert adds the failures of outcomes to the open notices of their webhooks.
func (s *Store) alert(ctx context.Context, conn *pgxpool.Conn, alerts map[int64]*alert) error {
	if len(alerts) == 0 {
		return nil
	}
	type standing struct {
		open diverted.Notice
		over bool
	}
	var ids []int64
	for id := range alerts {
		ids = append(ids, id)
	}
	stands := make(map[int64]standing)
	rows, err := conn.Query(ctx, s.q(lockNotices), ids)
	if err != nil {
		return err
	}
	for rows.Next() {
		var id int64
		var open pgtype.Text
		var x standing
		if err := rows.Scan(&id, &open, &x.over); err != nil {
			rows.Close()
			return err
		}
		if x.open, err = decodeNotice(open); err != nil {
			x.open = diverted.Notice{} // damaged: begin anew, rather than never tell anything again
		}
		stands[id] = x
	}
	if err := rows.Err(); err != nil {
		return err
	}
	b := new(pgx.Batch)
	for id, a := range alerts {
		x := stands[id]
		for _, f := range a.failed {
			x.open.Add(f.event, f.diverted, f.suspended)
		}
		open, err := encodeNotice(x.open)
		if err != nil {
			return err
		}
		b.Queue(s.q(upsertNotice), id, open, x.over)
	}
	return conn.SendBatch(ctx, b).Close()
}

// claimNotices adds notices that are due to the result.
func (s *Store) claimNotices(ctx context.Context, request *diverted.ClaimRequest, result *diverted.WorkResult) error {
	h := &s.hints
	h.mu.Lock()
	due := request.Notices > 0 && !h.notice.IsZero() && !h.notice.After(h.now())
	if due {
		h.notice = time.Time{}
	}
	h.mu.Unlock()
	if !due {
		return nil
	}
	var claims []diverted.NoticeClaim
	var next pgtype.Timestamptz
	err := s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		claims = nil
		if _, err := conn.Exec(ctx, s.q(deleteSilent)); err != nil {
			return err
		}
		rows, err := s.dueNotices(ctx, conn, request.Notices)
		if err != nil {
			return err
		}
		b := new(pgx.Batch)
		token := s.token()
		for _, n := range rows {
			claim, err := s.noticeClaim(ctx, conn, &n, token)
			switch {
			case err != nil:
				return err
			case claim == nil:
				b.Queue(s.q(`DELETE FROM diverted.notices WHERE webhook = $1`), n.id)
				continue
			}
			sending, err := encodeNotice(claim.Notice)
			if err != nil {
				return err
			}
			b.Queue(s.q(claimNotice), n.id, token, sending, n.open, request.Lease.Microseconds())
			claims = append(claims, *claim)
		}
		left := `SELECT min(due) FROM diverted.notices`
		if len(rows) == 0 {
			// What is due all the same somebody has locked, such as a transaction of the host's that deletes the webhook: it is
			// left to the look of every second.
			left += ` WHERE due > now()`
		}
		b.Queue(s.q(left)).QueryRow(func(r pgx.Row) error { return r.Scan(&next) })
		return conn.SendBatch(ctx, b).Close()
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.scan = true
		return err
	}
	result.Notices = claims
	h.noticeDue(next)
	return nil
}

// dueNotice is a row of notices that is locked.
type dueNotice struct {
	id            int64
	tries         int
	window        int64
	open, sending pgtype.Text
}

func (s *Store) dueNotices(ctx context.Context, conn *pgxpool.Conn, most int) ([]dueNotice, error) {
	rows, err := conn.Query(ctx, s.q(selectNotices), most)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (n dueNotice, err error) {
		err = r.Scan(&n.id, &n.tries, &n.window, &n.open, &n.sending)
		return n, err
	})
}

// noticeClaim is the claim of a notice, and takes over what is open if nothing is being sent. It is nil if
// the webhook is gone or damaged.
func (s *Store) noticeClaim(ctx context.Context, conn *pgxpool.Conn, n *dueNotice, token int64) (*diverted.NoticeClaim, error) {
	rows, err := conn.Query(ctx, s.q(`SELECT `+hookColumns+` FROM diverted.webhooks WHERE id = $1 AND NOT deleted`), n.id)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*hook, error) {
		var row hookRow
		err := r.Scan(row.dest()...)
		return row.hook(), err
	})
	if err != nil || len(found) == 0 || found[0].err != nil || !found[0].known {
		return nil, err
	}
	if !n.sending.Valid {
		n.sending, n.open = n.open, pgtype.Text{}
	}
	notice, err := decodeNotice(n.sending)
	if err != nil {
		return nil, nil // damaged: there is nothing to tell
	}
	if notice.Locator.IsZero() {
		notice.Locator = ulid.Make()
	}
	return &diverted.NoticeClaim{
		Webhook: found[0].webhook, Token: token, Notice: notice, Tries: n.tries, Window: time.Duration(n.window) * time.Millisecond,
	}, nil
}

func encodeNotice(n diverted.Notice) (string, error) {
	encoded, err := json.Marshal(n)
	return string(encoded), err
}

func decodeNotice(encoded pgtype.Text) (n diverted.Notice, err error) {
	if encoded.Valid {
		err = json.Unmarshal([]byte(encoded.String), &n)
	}
	return n, err
}

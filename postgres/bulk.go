package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
)

// bulkPart is how many events of a step are changed in one transaction.
const bulkPart = 1000

const (
	resendMany = `
		UPDATE diverted.deliveries SET due = '-infinity', lease = NULL, token = NULL, attempts = 0, losses = 0,
			released = 0, was_diverted = true, diverted_at = NULL, failed_by = NULL
		WHERE webhook = $1 AND event = ANY($2::uuid[]) AND due IS NULL AND body <> ''
		RETURNING event, ''`

	deleteMany = `
		DELETE FROM diverted.deliveries WHERE webhook = $1 AND event = ANY($2::uuid[]) AND due IS NULL
		RETURNING event, ''`

	divertMany = `
		UPDATE diverted.deliveries SET due = NULL, lease = NULL, token = NULL, losses = 0,
			failure = coalesce(failure, $3), failed_by = coalesce(failure::json ->> 'trigger', $4),
			diverted_at = date_trunc('milliseconds', now())
		WHERE webhook = $1 AND event = ANY($2::uuid[]) AND due IS NOT NULL
		RETURNING event, failed_by`
)

// bulk is a method of [diverted.BulkStore].
type bulk struct {
	action string
	// which selects the deliveries, and since is the column that a request's Before is about.
	which, since string
	// allow is given the webhook's row, or nil.
	allow func(*hook) error
	// change is given $1, the webhook, $2, events, and args.
	change string
	args   func(now time.Time) []any
	told   diverted.ChangeKind
}

// ResendAll is as in [diverted.BulkStore].
func (s *Store) ResendAll(ctx context.Context, request diverted.BulkRequest) (diverted.BulkResult, error) {
	return s.bulk(ctx, request, bulk{
		action: "resend diverted events", which: "due IS NULL", since: "diverted_at",
		allow: func(h *hook) error {
			if request.DryRun {
				return nil
			}
			return h.letsGo()
		},
		change: resendMany, told: diverted.ChangeResent,
	})
}

// DeleteAll is as in [diverted.BulkStore].
func (s *Store) DeleteAll(ctx context.Context, request diverted.BulkRequest) (diverted.BulkResult, error) {
	return s.bulk(ctx, request, bulk{
		action: "delete diverted events", which: "due IS NULL", since: "diverted_at",
		allow:  func(*hook) error { return nil },
		change: deleteMany, told: diverted.ChangeDeleted,
	})
}

// DivertAll is as in [diverted.BulkStore].
func (s *Store) DivertAll(ctx context.Context, request diverted.BulkRequest) (diverted.BulkResult, error) {
	if err := request.ForPending(); err != nil {
		return diverted.BulkResult{}, err
	}
	return s.bulk(ctx, request, bulk{
		action: "divert pending deliveries", which: "due IS NOT NULL", since: "accepted_at",
		allow: func(h *hook) error {
			switch {
			case h == nil || !h.known:
				return notFound(request.Webhook)
			case h.active():
				return fmt.Errorf("webhook %s is neither suspended nor disabled: %w", request.Webhook.Webhook, diverted.ErrConflict)
			}
			return nil
		},
		change: divertMany, told: diverted.ChangeDiverted,
		args: func(now time.Time) []any {
			f := diverted.AsideOnRequest(now)
			return []any{encodeFailure(asKept(&f, now)), triggerOf(&f)}
		},
	})
}

// bulk makes a step, in parts. When a part after the first fails the step ends before it.
func (s *Store) bulk(ctx context.Context, request diverted.BulkRequest, b bulk) (result diverted.BulkResult, err error) {
	r, err := request.WithDefaults()
	if err != nil {
		return result, err
	}
	done, err := s.begin(ctx, b.action)
	if err != nil {
		return result, err
	}
	defer done()
	result.After, result.Before, result.More = r.After, r.Before, true
	for result.More && result.Matched < r.Limit {
		var p bulkDone
		err := s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
			p, err = s.bulkPart(ctx, conn, &r, &result, &b)
			return err
		})
		if err != nil && result.Matched > 0 {
			return result, nil
		}
		if err != nil {
			return diverted.BulkResult{}, wrap(b.action, err)
		}
		result.Matched += p.matched
		result.Done += len(p.events)
		result.After, result.Before, result.More = p.after, p.before, p.more
		s.tellBulk(&r, &b, &p)
	}
	return result, nil
}

// bulkDone is what became of a part.
type bulkDone struct {
	hook     *hook
	matched  int
	more     bool
	after    [16]byte
	before   time.Time
	events   [][16]byte // that were changed
	triggers []string   // of them, if they were diverted
}

// bulkPart makes a part. The webhook's row is locked, so that it is neither suspended nor made active
// meanwhile.
func (s *Store) bulkPart(ctx context.Context, conn *pgxpool.Conn, r *diverted.BulkRequest, sofar *diverted.BulkResult, b *bulk) (p bulkDone, err error) {
	h, now, err := s.lockHook(ctx, conn, r.Webhook)
	if err != nil {
		return p, err
	}
	if err := b.allow(h); err != nil {
		return p, err
	}
	p = bulkDone{hook: h, after: sofar.After, before: sofar.Before}
	if p.before.IsZero() {
		p.before = now.UTC().Truncate(time.Millisecond).Add(time.Millisecond)
	}
	if h == nil {
		return p, nil
	}
	if _, err := conn.Exec(ctx, byIndex); err != nil {
		return p, err
	}
	size := min(r.Limit-sofar.Matched, bulkPart)
	matches, args := matching(r.Filter, []any{h.id, pgUUID(p.after), bound(p.before), size + 1})
	text := `SELECT event FROM diverted.deliveries
		WHERE webhook = $1 AND event > $2 AND ` + b.which + ` AND ` + b.since + ` < $3` + matches + ` ORDER BY event LIMIT $4`
	if !r.DryRun {
		text += ` FOR UPDATE`
	}
	rows, err := conn.Query(ctx, s.q(text), args...)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	var events uuids
	for rows.Next() {
		var event pgtype.UUID
		if err := rows.Scan(&event); err != nil {
			return p, err
		}
		events = append(events, event)
	}
	if err := rows.Err(); err != nil {
		return p, err
	}
	events, p.more = cut(events, size)
	if p.matched = len(events); p.matched == 0 {
		return p, nil
	}
	p.after = events[p.matched-1].Bytes
	if r.DryRun {
		return p, nil
	}
	args = []any{h.id, events}
	if b.args != nil {
		args = append(args, b.args(now)...)
	}
	rows, err = conn.Query(ctx, s.q(b.change), args...)
	if err != nil {
		return p, err
	}
	defer rows.Close()
	for rows.Next() {
		var event pgtype.UUID
		var trigger string
		if err := rows.Scan(&event, &trigger); err != nil {
			return p, err
		}
		p.events, p.triggers = append(p.events, event.Bytes), append(p.triggers, trigger)
	}
	return p, rows.Err()
}

// tellBulk tells of what a part changed, once it is committed.
func (s *Store) tellBulk(r *diverted.BulkRequest, b *bulk, p *bulkDone) {
	changes := make([]diverted.Change, len(p.events))
	for i, event := range p.events {
		changes[i] = diverted.Change{Kind: b.told, Key: diverted.Key{Tenant: r.Webhook.Tenant, Webhook: r.Webhook.Webhook, Event: event}}
		switch b.told {
		case diverted.ChangeResent:
			s.room.add(p.hook.id)
		case diverted.ChangeDiverted:
			s.activity.diverted(p.hook.id, p.triggers[i], s.hints.serverTime())
		}
	}
	if b.told == diverted.ChangeResent && len(p.events) > 0 {
		s.hints.ready(r.Webhook.Tenant, p.hook.id)
		s.news.add(p.hook.id)
	}
	s.watchers.tell(changes...)
}

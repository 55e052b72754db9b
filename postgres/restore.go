package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/divertedevents/diverted"
)

const (
	// divertStep is how many deliveries DivertPending diverts in one transaction.
	divertStep = 500

	// What is accepted from now on is not looked at, so that DivertPending ends.
	selectPending = `
		WITH ` + waitingWebhooks + `
		SELECT w.id, w.tenant, w.locator, least($1, now())
		FROM waiting JOIN diverted.webhooks w ON w.id = waiting.webhook
		WHERE NOT w.deleted AND ($2::uuid IS NULL OR w.tenant = $2 AND w.locator = $3)`

	// In the order of the index of what is pending, from one place in it to the next: in that of the key it would read
	// past what is diverted, which may be nearly all.
	divertPending = `
		WITH aside AS (
			UPDATE diverted.deliveries d SET due = NULL, lease = NULL, token = NULL, losses = 0, earlier = ` + pushed + `, failure = $6,
				diverted_at = date_trunc('milliseconds', now())
			FROM (
				SELECT webhook, event, due, id FROM diverted.deliveries
				WHERE webhook = $1 AND due IS NOT NULL AND accepted_at < $2 AND (due, id) > ($3, $4)
				ORDER BY due, id LIMIT $5 FOR UPDATE) p
			WHERE d.webhook = p.webhook AND d.event = p.event
			RETURNING d.event, p.due, p.id)
		SELECT event, due, id FROM aside ORDER BY due, id`
)

// DivertPending diverts the pending deliveries that were accepted before a moment, and returns how many, even
// with an error, after which it can be repeated. It is for those who restored a backup and would rather look than
// send again what may have been delivered since; see [diverted.SQLiteStore.DivertPending]. Call it before a
// dispatcher runs, on any machine: the outcome of an attempt under way then changes nothing.
func (s *Store) DivertPending(ctx context.Context, request diverted.DivertPendingRequest) (n int, err error) {
	if err := request.Validate(); err != nil {
		return 0, err
	}
	const action = "divert pending deliveries"
	done, err := s.begin(ctx, action)
	if err != nil {
		return 0, err
	}
	defer done()
	type place struct { // in the index of what is pending
		due pgtype.Timestamptz
		id  int64
	}
	type waiting struct {
		id     int64
		key    diverted.WebhookKey
		before time.Time
	}
	var all []waiting
	tenant := pgtype.UUID{Bytes: request.Webhook.Tenant, Valid: request.Webhook != diverted.WebhookKey{}}
	err = s.read(ctx, func(b *pgx.Batch) {
		all = all[:0]
		b.Queue(s.q(selectPending), bound(request.Before), tenant, pgUUID(request.Webhook.Webhook)).Query(func(r pgx.Rows) error {
			for r.Next() {
				var w waiting
				if err := r.Scan(&w.id, (*[16]byte)(&w.key.Tenant), (*[16]byte)(&w.key.Webhook), &w.before); err != nil {
					return err
				}
				all = append(all, w)
			}
			return r.Err()
		})
	})
	for i := 0; i < len(all) && err == nil; i++ {
		w := &all[i]
		from := place{due: pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}}
		for more := true; more && err == nil; {
			var events [][16]byte
			next := from
			failure := encodeFailure(asKept(request.Failure(), s.hints.serverTime()))
			err = s.batch(ctx, beginTx, func(b *pgx.Batch) {
				events = events[:0]
				b.Queue(byIndex)
				b.Queue(s.q(divertPending), w.id, w.before, from.due, from.id, divertStep, failure).Query(func(r pgx.Rows) error {
					var event [16]byte
					for r.Next() {
						if err := r.Scan(&event, &next.due, &next.id); err != nil {
							return err
						}
						events = append(events, event)
					}
					return r.Err()
				})
			})
			if err != nil {
				break
			}
			from = next
			n += len(events)
			more = len(events) == divertStep
			var changes []diverted.Change
			for _, event := range events {
				s.activity.diverted(w.id, string(request.Failure().Trigger), s.hints.serverTime())
				changes = append(changes, diverted.Change{
					Kind: diverted.ChangeDiverted, Key: diverted.Key{Tenant: w.key.Tenant, Webhook: w.key.Webhook, Event: event},
				})
			}
			s.watchers.Tell(changes...)
		}
	}
	return n, wrap(action, err)
}

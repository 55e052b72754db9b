package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// pushed is the column earlier of the delivery d with its last failure, which another one follows: at most
// diverted.MaxFailures are kept, of which that one is in a column of its own.
const pushed = `CASE WHEN d.failure IS NULL THEN d.earlier
	ELSE (array_append(d.earlier, d.failure))[greatest(coalesce(array_length(d.earlier, 1), 0) - 17, 1):] END`

var _ = [1]int{}[diverted.MaxFailures-3-17] // does not compile once the two differ

const (
	deleteSettled = `
		DELETE FROM diverted.deliveries d
		USING unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::int[]) AS o (webhook, event, token, place)
		WHERE d.webhook = o.webhook AND d.event = o.event AND d.token = o.token
		RETURNING o.place, d.request, NULL::timestamptz`

	// A retry of a webhook that is not active is held: due in the order of acceptance when it is again.
	updateSettled = `
		UPDATE diverted.deliveries d SET
			lease = NULL, token = NULL,
			due = CASE o.kind
				WHEN 'retry' THEN CASE WHEN w.enabled AND w.suspended_at IS NULL
					THEN date_trunc('milliseconds', now() + o.wait * interval '1 microsecond' + interval '999 microseconds')
					ELSE '-infinity' END
				WHEN 'hold' THEN '-infinity'
				WHEN 'divert' THEN NULL
				ELSE d.due END,
			attempts = CASE o.kind WHEN 'return' THEN d.attempts ELSE d.attempts + 1 END,
			losses = CASE o.kind WHEN 'return' THEN d.losses ELSE 0 END,
			released = CASE o.kind WHEN 'hold' THEN 2 ELSE d.released END,
			failure = coalesce(o.failure, d.failure),
			earlier = CASE WHEN o.failure IS NULL THEN d.earlier ELSE ` + pushed + ` END,
			diverted_at = CASE o.kind WHEN 'divert' THEN date_trunc('milliseconds', now()) ELSE d.diverted_at END
		FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::int[], $5::text[], $6::bigint[], $7::text[])
			AS o (webhook, event, token, place, kind, wait, failure)
		JOIN diverted.webhooks w ON w.id = o.webhook
		WHERE d.webhook = o.webhook AND d.event = o.event AND d.token = o.token
		RETURNING o.place, d.request, d.due`

	updateNotices = `
		UPDATE diverted.notices n SET
			due = date_trunc('milliseconds', now() + o.wait * interval '1 microsecond' + interval '999 microseconds'),
			token = NULL,
			tries = CASE WHEN o.done THEN 0 ELSE n.tries + 1 END,
			window_ms = CASE WHEN o.done THEN o.wait / 1000 ELSE n.window_ms END,
			sending = CASE WHEN o.done THEN NULL ELSE n.sending END
		FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bool[]) AS o (webhook, token, wait, done)
		WHERE n.webhook = o.webhook AND n.token = o.token
		RETURNING n.due`
)

// settlement is what a call settles.
type settlement struct {
	outcomes []diverted.Outcome
	notices  []diverted.NoticeOutcome
	settled  []diverted.Settled
	order    []settling
	told     []telling
	// suspends: some outcome may suspend its webhook or alert somebody, which takes more than one round trip.
	suspends bool

	// What the transaction answered.
	dues       []settledDue
	noticeDues []time.Time
}

// settling is an outcome that may change something.
type settling struct {
	place   int // in outcomes
	hook    *hook
	request ulid.ULID // of the delivery, once it is settled
}

// telling is the outcome of a notice that may change something.
type telling struct {
	hook    *hook
	outcome *diverted.NoticeOutcome
}

type settledDue struct {
	hook *hook
	due  pgtype.Timestamptz
}

// settlementOf looks the webhooks of the outcomes up. Those that change nothing, whatever the database
// holds, are answered here.
func (s *Store) settlementOf(ctx context.Context, request *diverted.WorkRequest) (*settlement, error) {
	st := &settlement{outcomes: request.Outcomes, notices: request.Notices, settled: make([]diverted.Settled, len(request.Outcomes))}
	if len(st.outcomes)+len(st.notices) == 0 {
		return st, nil
	}
	var want wanted
	var last uuid.UUID
	for i := range st.outcomes {
		o := &st.outcomes[i]
		if o.Key.Tenant != last {
			last = o.Key.Tenant
			want.tenants = append(want.tenants, last)
		}
	}
	for _, o := range st.notices {
		want.tenants = append(want.tenants, o.Webhook.Tenant)
	}
	if _, err := s.look(ctx, 0, want, func() error { st.find(&s.hooks); return nil }); err != nil {
		return nil, err
	}
	// In one order in all processes, so that none waits for another that waits for it; outcomes of one claim
	// are side by side.
	slices.SortStableFunc(st.order, func(a, b settling) int {
		x, y := &st.outcomes[a.place], &st.outcomes[b.place]
		return cmp.Or(cmp.Compare(a.hook.id, b.hook.id), x.Key.Event.Compare(y.Key.Event), cmp.Compare(x.Token, y.Token))
	})
	st.order = slices.DeleteFunc(st.order, func() func(settling) bool {
		var before settling
		return func(x settling) bool {
			o := &st.outcomes[x.place]
			again := before.hook != nil && before.hook.id == x.hook.id && st.outcomes[before.place].Key.Event == o.Key.Event &&
				st.outcomes[before.place].Token == o.Token
			if again { // of one outcome twice the second is stale
				st.settled[x.place].Stale = true
			} else {
				before = x
			}
			return again
		}
	}())
	return st, nil
}

// find looks the webhooks up.
func (st *settlement) find(c *hooks) {
	st.order, st.told, st.suspends = nil, nil, false
	for i := range st.outcomes {
		o := &st.outcomes[i]
		h := c.find(o.Key.WebhookKey())
		if st.settled[i].Stale = h == nil || !h.known; st.settled[i].Stale {
			continue
		}
		st.order = append(st.order, settling{place: i, hook: h})
		st.suspends = st.suspends || o.Suspend || o.Alert
	}
	for i := range st.notices {
		if h := c.find(st.notices[i].Webhook); h != nil {
			st.told = append(st.told, telling{h, &st.notices[i]})
		}
	}
}

// queue settles, as a part of a transaction.
func (st *settlement) queue(s *Store, b *pgx.Batch) {
	st.dues, st.noticeDues = st.dues[:0], st.noticeDues[:0]
	now := s.hints.serverTime()
	var gone, kept outcomeParams
	for i := range st.order {
		o := &st.outcomes[st.order[i].place]
		st.settled[st.order[i].place] = diverted.Settled{Stale: true} // until it is seen that it is not
		p := &kept
		if o.Kind == diverted.OutcomeDelivered || o.Kind == diverted.OutcomeDrop {
			p = &gone
		} else {
			p.kinds = append(p.kinds, string(o.Kind))
			p.waits = append(p.waits, o.Wait.Microseconds())
			p.failures = append(p.failures, encodeFailure(asKept(o.Failure, now)))
		}
		p.webhooks = append(p.webhooks, st.order[i].hook.id)
		p.events = append(p.events, pgUUID(o.Key.Event))
		p.tokens = append(p.tokens, o.Token)
		p.places = append(p.places, int32(i))
	}
	if len(gone.places) > 0 {
		b.Queue(s.q(deleteSettled), gone.webhooks, gone.events, gone.tokens, gone.places).Query(st.scan)
	}
	if len(kept.places) > 0 {
		b.Queue(s.q(updateSettled), kept.webhooks, kept.events, kept.tokens, kept.places, kept.kinds, kept.waits, kept.failures).Query(st.scan)
	}
	st.queueNotices(s, b)
}

// outcomeParams are the parameters of deleteSettled and updateSettled.
type outcomeParams struct {
	webhooks []int64
	events   uuids
	tokens   []int64
	places   []int32
	kinds    []string
	waits    []int64 // microseconds
	failures pgtype.FlatArray[pgtype.Text]
}

// scan reads which deliveries had the outcome's token.
func (st *settlement) scan(r pgx.Rows) error {
	var place int32
	var request [16]byte
	var due pgtype.Timestamptz
	for r.Next() {
		if err := r.Scan(&place, &request, &due); err != nil {
			return err
		}
		x := &st.order[place]
		x.request = request
		st.settled[x.place] = diverted.Settled{}
		if due.Valid {
			st.dues = append(st.dues, settledDue{x.hook, due})
		}
	}
	return r.Err()
}

func (st *settlement) queueNotices(s *Store, b *pgx.Batch) {
	var webhooks, tokens, waits []int64
	var done []bool
	for _, x := range st.told {
		o := x.outcome
		if o.Token == 0 {
			continue
		}
		webhooks, tokens = append(webhooks, x.hook.id), append(tokens, o.Token)
		waits, done = append(waits, o.Wait.Microseconds()), append(done, o.Done)
	}
	if len(webhooks) == 0 {
		return
	}
	b.Queue(s.q(updateNotices), webhooks, tokens, waits, done).Query(func(r pgx.Rows) error {
		var due time.Time
		for r.Next() {
			if err := r.Scan(&due); err != nil {
				return err
			}
			st.noticeDues = append(st.noticeDues, due)
		}
		return r.Err()
	})
}

// hint remembers what becomes due by the settlement, once it is committed. A claim beside it, or after it,
// has seen what became due at once, and so beside says.
func (st *settlement) hint(h *hints, beside bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range st.dues {
		if !d.hook.active() {
			continue // its activation finds all that it has
		}
		w := d.hook.webhook
		if d.due.InfinityModifier == pgtype.Finite {
			h.turns.At(w.Tenant, d.hook.id, d.due.Time)
		} else if !beside {
			h.readyAgain(w.Tenant, d.hook.id)
		}
	}
	for _, due := range st.noticeDues {
		h.noticeAt(due)
	}
}

// hintEarly makes ready, before the transaction, the webhooks whose deliveries it makes due now, so that
// the claim beside it looks at them.
func (st *settlement) hintEarly(h *hints) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range st.order {
		if kind := st.outcomes[x.place].Kind; (kind == diverted.OutcomeReturn || kind == diverted.OutcomeHold) && x.hook.active() {
			h.readyAgain(x.hook.webhook.Tenant, x.hook.id)
		}
	}
}

// lockHooks locks webhooks in one order in all processes, before anything else of the transaction.
const lockHooks = `
	SELECT id, epoch, suspended_at IS NOT NULL FROM diverted.webhooks
	WHERE id = ANY($1::bigint[]) AND NOT deleted ORDER BY id FOR NO KEY UPDATE`

// settleSlowly settles what may suspend webhooks or alert somebody.
func (s *Store) settleSlowly(ctx context.Context, st *settlement) error {
	var ids []int64
	for _, x := range st.order {
		if o := &st.outcomes[x.place]; (o.Suspend || o.Alert) && !slices.Contains(ids, x.hook.id) {
			ids = append(ids, x.hook.id)
		}
	}
	type standing struct {
		epoch     int64
		suspended bool
	}
	suspended := false
	err := s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		stands := make(map[int64]standing)
		b := new(pgx.Batch)
		b.Queue(byIndex)
		b.Queue(s.q(lockHooks), ids).Query(func(r pgx.Rows) error {
			for r.Next() {
				var id int64
				var x standing
				if err := r.Scan(&id, &x.epoch, &x.suspended); err != nil {
					return err
				}
				stands[id] = x
			}
			return r.Err()
		})
		st.queue(s, b)
		if err := conn.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		var suspend []int64
		alerts := make(map[int64]*alert)
		// In the order of the outcomes, which is that of the failures.
		inOrder := slices.SortedFunc(slices.Values(st.order), func(a, b settling) int { return cmp.Compare(a.place, b.place) })
		for _, x := range inOrder {
			o := &st.outcomes[x.place]
			if st.settled[x.place].Stale {
				continue
			}
			if w, there := stands[x.hook.id]; o.Suspend && there && w.epoch == o.Epoch && !w.suspended {
				w.suspended = true
				stands[x.hook.id] = w
				suspend = append(suspend, x.hook.id)
				st.settled[x.place].Suspended = true
			}
			if o.Alert && o.Failure != nil {
				if alerts[x.hook.id] == nil {
					alerts[x.hook.id] = new(alert)
				}
				failed := diverted.FailedEvent{Event: o.Key.Event, RequestLocator: x.request, Failure: *asKept(o.Failure, s.hints.serverTime())}
				alerts[x.hook.id].failed = append(alerts[x.hook.id].failed, failedOutcome{failed, o.Kind == diverted.OutcomeDivert, st.settled[x.place].Suspended})
			}
		}
		if err := s.alert(ctx, conn, alerts); err != nil {
			return err
		}
		suspended = len(suspend) > 0
		if suspended {
			return s.suspendAll(ctx, conn, suspend)
		}
		return nil
	})
	if suspended {
		s.hooks.spoil()
	}
	if err == nil && len(st.order) > 0 {
		s.hints.mu.Lock()
		s.hints.noticeAt(longAgo) // perhaps; the look finds out
		s.hints.mu.Unlock()
	}
	return err
}

// asKept returns a failure as the store keeps it, nil for none.
func asKept(f *diverted.Failure, now time.Time) *diverted.Failure {
	if f == nil {
		return nil
	}
	kept := f.Kept(now)
	return &kept
}

// encodeFailure returns the JSON of a failure for its column, NULL for none.
func encodeFailure(f *diverted.Failure) pgtype.Text {
	if f == nil {
		return pgtype.Text{}
	}
	encoded, err := json.Marshal(f)
	if err != nil {
		return pgtype.Text{} // a struct of strings, a number and a time in this century: it cannot fail
	}
	return pgtype.Text{String: string(encoded), Valid: true}
}

// decodeFailure reads a failure from its column, nil from NULL.
func decodeFailure(encoded []byte) (*diverted.Failure, error) {
	if encoded == nil {
		return nil, nil
	}
	var f diverted.Failure
	if err := json.Unmarshal(encoded, &f); err != nil {
		return nil, fmt.Errorf("%w: a failure cannot be decoded", diverted.ErrDamaged)
	}
	return &f, nil
}

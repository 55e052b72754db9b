package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/turns"
)

const (
	// maxTurn bounds the deliveries that one webhook gets at its turn, minus what others leave.
	maxTurn = 16
	// enough is how many claims a call is content with, though more are due than its first round found.
	enough = 128
	// maxRoom bounds the deliveries of one webhook in one statement; its LIMITs say so.
	maxRoom = 1024
)

// selectFree picks deliveries of the webhook p.webhook that nobody has, and locks them. The constant limit
// tells the planner that few are wanted; the true one is around it.
func selectFree(due, order string) string {
	return `SELECT * FROM (
			SELECT webhook, event, token, due, id, octet_length(body) AS size FROM diverted.deliveries
			WHERE webhook = p.webhook AND ` + due + ` AND ` + free + `
			ORDER BY ` + order + ` LIMIT 1024 FOR UPDATE SKIP LOCKED) free`
}

// The answers of claimDeliveries, for each delivery that it looked at.
const (
	claimedNow = 0 // it is the caller's
	leftMine   = 1 // its lease is over, and it was this store's: ask the caller first
	leftLarge  = 2 // its body is more than the request allows
	noneLeft   = 3 // it is none: nothing is due of a webhook
)

// claimSet is what a claim changes. The fresh budget of a delivery that was held begins here, and a wait is
// over for good, whatever the clock does.
const claimSet = `
	due = '-infinity',
	lease = date_trunc('milliseconds', now() + $1::bigint * interval '1 microsecond' + interval '999 microseconds'),
	token = $2,
	attempts = CASE WHEN d.released = 2 THEN 0 ELSE d.attempts END,
	losses = CASE WHEN d.token IS NULL THEN d.losses ELSE d.losses + 1 END,
	released = CASE WHEN d.released = 2 THEN 1 ELSE d.released END`

const claimReturning = `d.webhook, d.event, d.request, d.type, d.accepted_at, d.attempts, d.losses, d.was_diverted, d.released, d.body, d.trace`

// claimDeliveries claims what is due of the webhooks $3, up to the room $4 of each and $5 bytes in all, or one
// whatever its size if $8 allows it, if the webhooks are still of the generation $6: retries and lost leases
// that are due, then the others in the order of acceptance, the former from the time $9 on and the latter from the id
// $10. It leaves alone what the instance $7 had. Each row says when the look at its webhook began, that of one of which
// nothing is due too. The last webhook is none, and says when the others were looked at.
var claimDeliveries = `
	WITH picked AS MATERIALIZED (
		SELECT d.webhook, d.event, d.token,
			row_number() OVER inOrder AS place,
			row_number() OVER inOrder = 1 AND $8 OR sum(d.size) OVER inOrder <= $5 AS fits,
			d.token IS NOT NULL AND d.token >> 32 = $7 AS mine, d.due, d.id, p.turn, p.began
		FROM (
			SELECT *, clock_timestamp() AS began
			FROM unnest($3::bigint[], $4::int[], $9::timestamptz[], $10::bigint[]) WITH ORDINALITY AS p (webhook, room, since, floor, turn)
		) p
		LEFT JOIN LATERAL (
			` + selectFree(`due > '-infinity' AND due >= p.since AND due <= now()`, `due, id`) + `
			UNION ALL
			` + selectFree(`due = '-infinity' AND id >= p.floor`, `id`) + `
			LIMIT p.room
		) d ON true
		WHERE (SELECT generation FROM diverted.state) = $6
		WINDOW inOrder AS (ORDER BY d.id IS NULL, p.turn, d.due = '-infinity', d.due, d.id ROWS UNBOUNDED PRECEDING)
	), claimed AS (
		UPDATE diverted.deliveries d SET ` + claimSet + `
		FROM picked p
		WHERE d.webhook = p.webhook AND d.event = p.event AND p.fits AND NOT p.mine
		RETURNING p.place, 0 AS answer, ` + claimReturning + `, NULL::bigint AS old, p.due AS was, p.id, p.turn, p.began
	)
	SELECT * FROM claimed
	UNION ALL
	SELECT place, CASE WHEN id IS NULL THEN 3 WHEN fits THEN 1 ELSE 2 END, webhook, event,
		NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, token, due, id, turn, began
	FROM picked WHERE mine OR NOT fits OR id IS NULL`

const (
	// extendLeases extends claims of this store's that the caller still has in its hands.
	extendLeases = `
		UPDATE diverted.deliveries d
		SET lease = date_trunc('milliseconds', now() + $1::bigint * interval '1 microsecond' + interval '999 microseconds')
		FROM unnest($2::bigint[], $3::uuid[], $4::bigint[]) AS p (webhook, event, token)
		WHERE d.webhook = p.webhook AND d.event = p.event AND d.token = p.token`

	// reclaimDeliveries claims what was this store's and is lost.
	reclaimDeliveries = `
		UPDATE diverted.deliveries d SET ` + claimSet + `
		FROM unnest($3::bigint[], $4::uuid[], $5::bigint[], $6::bigint[]) AS p (webhook, event, token, place)
		WHERE d.webhook = p.webhook AND d.event = p.event AND d.token = p.token AND d.diverted_at IS NULL AND ` + free + `
			AND (SELECT generation FROM diverted.state) = $7
		RETURNING p.place, 0 AS answer, ` + claimReturning + `, NULL::bigint, NULL::timestamptz, NULL::bigint, NULL::bigint, NULL::timestamptz`
)

// claiming is a round of claims: what it plans, and what came of it.
type claiming struct {
	s          *Store
	request    *diverted.ClaimRequest // what is left of it
	first      bool                   // nothing is claimed yet
	generation int64                  // of the webhooks that it knows
	token      int64
	now        time.Time // the server's, as far as it was known
	turns      []turn
	byID       map[int64]int // in turns
	// more: the request's count kept webhooks that may have something due from being planned.
	more bool
	// noRoom is how many webhooks the caller has no room for at all.
	noRoom int
	// unknown are webhooks that are said to have something due and that this process does not know.
	unknown []int64
	// unsure are those of turns of which it is to be asked when something more becomes due.
	unsure []int64

	stands  int64       // the generation that the transaction found
	stood   time.Time   // when, by the server's clock
	began   []time.Time // the looks at those of turns, by it, and the last one's end
	last    int64       // the greatest id of what it found
	sent    time.Time   // when it was sent, and answered, by this process's
	answer  time.Time
	claimed []placed
	mine    []placed
	large   int
	seen    []seenDue
}

// turn is what one webhook may get.
type turn struct {
	hook *hook
	room int
	// short: the caller has no room for more, so more is not to be asked for.
	short bool
	found int // deliveries that are due
	// whole: everything is looked at, and not from a floor on.
	whole bool
	floor floor
	first floor // of what was found
}

// placed is a claim, or a delivery with an old token of this store's, and its place in the order.
type placed struct {
	place int64
	claim diverted.Claim
	id    deliveryID
	old   int64
}

// planClaims decides whose turn it is, and asks the caller for room.
func (s *Store) planClaims(request *diverted.ClaimRequest, generation int64, count, bytes int, first bool) *claiming {
	bounded := *request
	bounded.Count, bounded.Bytes = count, bytes
	c := &claiming{s: s, request: &bounded, first: first, generation: generation, byID: make(map[int64]int), token: s.token()}
	h := &s.hints
	h.mu.Lock()
	defer h.mu.Unlock()
	c.now = h.now()
	h.turns.NextDue(c.now) // so that Len counts what is due by now
	if h.turns.Len() == 0 || count <= 0 {
		return c
	}
	left, met := count, 0
	share := min(max(left/h.turns.Len(), 1), maxTurn) // shared out, if there is something for everybody
	h.turns.Round(c.now, func(id int64) turns.Answer {
		if left <= 0 {
			return turns.Stop
		}
		row := s.hooks.byID(id)
		switch {
		case row == nil:
			c.unknown = append(c.unknown, id)
			return turns.NoRoom
		case !row.active():
			h.drop(id)
			return turns.Idle
		}
		i, again := c.byID[id]
		low, whole := h.floors.whole(id)
		if !whole && low.id == 0 && !low.waits && !again {
			h.turns.At(row.webhook.Tenant, id, h.later(low.next))
			return turns.Idle // there is nothing yet to begin at
		}
		had := 0
		if again {
			had = c.turns[i].room
		}
		want := min(share, left, maxRoom-had)
		room := 0
		if want > 0 {
			room = want
			if request.Reserve != nil {
				room = min(request.Reserve(row.webhook.Key(), want), want)
			}
		}
		if !again {
			met++
		}
		if room <= 0 && !again {
			c.noRoom++
		}
		if room > 0 && !again {
			i = len(c.turns)
			c.byID[id] = i
			c.turns = append(c.turns, turn{hook: row, whole: whole, floor: low})
			h.floors.planned(id, whole)
		}
		if room > 0 {
			c.turns[i].room += room
			left -= room
		}
		if room < want || want == 0 {
			if room > 0 || again {
				c.turns[i].short = want > 0
			}
			return turns.NoRoom
		}
		return turns.More
	})
	c.more = h.turns.Len() > met
	for i := range c.turns {
		id := c.turns[i].hook.id
		h.turns.Rest(id) // what has more is ready again afterwards
		if c.turns[i].whole && h.unsure[id] {
			c.unsure = append(c.unsure, id)
		}
	}
	return c
}

// queue claims, as a part of a transaction.
func (c *claiming) queue(b *pgx.Batch) {
	c.sent = time.Now()
	c.claimed, c.mine, c.large, c.seen, c.last = nil, nil, 0, nil, 0
	for i := range c.turns {
		c.turns[i].found, c.turns[i].first = 0, floor{}
	}
	c.began = make([]time.Time, len(c.turns)+1)
	s := c.s
	b.Queue(s.q(selectGeneration)).QueryRow(func(r pgx.Row) error {
		c.answer = time.Now()
		return r.Scan(&c.stands, &c.stood)
	})
	if len(c.turns) == 0 {
		return
	}
	n := len(c.began)
	webhooks, rooms := make([]int64, n), make([]int32, n)
	since, ids := make([]pgtype.Timestamptz, n), make([]int64, n)
	for i := range c.turns {
		t := &c.turns[i]
		webhooks[i], rooms[i] = t.hook.id, int32(t.room)
		since[i], ids[i] = t.floor.since(), t.floor.from()
	}
	instance := s.instance
	if c.request.InFlight == nil {
		instance = 0
	}
	b.Queue(s.q(claimDeliveries), c.request.Lease.Microseconds(), c.token, webhooks, rooms, int64(c.request.Bytes), c.generation, instance, c.first, since, ids).
		Query(c.scan)
	if len(c.unsure) > 0 {
		b.Queue(s.q(selectDueOf), c.unsure).Query(func(r pgx.Rows) (err error) {
			c.seen, err = scanSeenDue(r)
			return err
		})
	}
}

// scan reads what was picked.
func (c *claiming) scan(r pgx.Rows) error {
	for r.Next() {
		var (
			p                placed
			answer           int
			webhook, turn    pgtype.Int8
			event, request   pgtype.UUID
			eventType, trace pgtype.Text
			accepted         pgtype.Timestamptz
			attempts, losses pgtype.Int4
			wasDiverted      pgtype.Bool
			released         pgtype.Int2
			body             []byte
			old              pgtype.Int8
			was, began       pgtype.Timestamptz
			id               pgtype.Int8
		)
		err := r.Scan(&p.place, &answer, &webhook, &event, &request, &eventType, &accepted, &attempts, &losses, &wasDiverted, &released, &body, &trace, &old, &was, &id, &turn, &began)
		if err != nil {
			return err
		}
		if turn.Valid {
			c.began[turn.Int64-1] = began.Time
		}
		if answer == noneLeft {
			continue
		}
		p.id.webhook = webhook.Int64
		i, planned := c.byID[p.id.webhook]
		if !planned {
			continue // it cannot be
		}
		t := &c.turns[i]
		t.found++
		if id.Valid {
			t.first.found(was, id.Int64)
			c.last = max(c.last, id.Int64)
		}
		p.id.event = event.Bytes
		w := t.hook.webhook
		key := diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: event.Bytes}
		switch answer {
		case leftLarge:
			c.large++
		case leftMine:
			p.claim.Key, p.old = key, old.Int64
			c.mine = append(c.mine, p)
		case claimedNow:
			p.claim = diverted.Claim{
				Key: key, Token: c.token, Webhook: w, Epoch: t.hook.epoch,
				RequestLocator: request.Bytes, EventType: eventType.String, Body: body, TraceParent: trace.String,
				AcceptedAt: timeOf(accepted), Attempts: int(attempts.Int32), Losses: int(losses.Int32),
				Diverted: wasDiverted.Bool, Released: released.Int16 == releasedOnce, Err: t.hook.err,
			}
			if len(body) == 0 && p.claim.Err == nil {
				p.claim.Err = fmt.Errorf("%w: a delivery has no body", diverted.ErrDamaged)
			}
			c.claimed = append(c.claimed, p)
		}
	}
	return r.Err()
}

// The states of deliveries.released.
const (
	releasedOnce = 1 // it was held, and has a fresh budget
	releasedHeld = 2 // it is held with its budget spent; the fresh one begins with its next claim
)

// reclaim looks at what was this store's and whose lease is over: what the caller still has in its hands
// stays claimed, the rest is claimed anew.
func (c *claiming) reclaim(ctx context.Context) error {
	if len(c.mine) == 0 {
		return nil
	}
	type params struct {
		webhooks, tokens, places []int64
		events                   uuids
	}
	var extend, claim params
	for _, p := range c.mine {
		to := &claim
		if c.request.InFlight(p.claim.Key) {
			to = &extend
		}
		to.webhooks, to.tokens, to.places = append(to.webhooks, p.id.webhook), append(to.tokens, p.old), append(to.places, p.place)
		to.events = append(to.events, pgUUID(p.id.event))
	}
	s, lease := c.s, c.request.Lease.Microseconds()
	before := len(c.claimed)
	err := s.batch(ctx, beginTx, func(b *pgx.Batch) {
		c.claimed = c.claimed[:before]
		b.Queue(byIndex)
		if len(extend.webhooks) > 0 {
			b.Queue(s.q(extendLeases), lease, extend.webhooks, extend.events, extend.tokens)
		}
		if len(claim.webhooks) > 0 {
			b.Queue(s.q(reclaimDeliveries), lease, c.token, claim.webhooks, claim.events, claim.tokens, claim.places, c.generation).Query(c.scan)
		}
	})
	if err != nil {
		c.claimed = c.claimed[:before]
	}
	return err
}

// failed gives the turns back after a transaction that failed.
func (c *claiming) failed() {
	h := &c.s.hints
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range c.turns {
		h.readyAgain(c.turns[i].hook.webhook.Tenant, c.turns[i].hook.id)
	}
	h.scan = true // it may have been committed all the same
}

// outdated says whether the webhooks had changed, so that nothing was claimed.
func (c *claiming) outdated() bool { return c.stands != c.generation }

// finish remembers what is left, and returns the claims in their order. full: more is due than the request
// allows; short is how many webhooks may have something due that the caller has no room for.
func (c *claiming) finish() (claims []diverted.Claim, full bool, short int) {
	full, short = c.more || c.large > 0, c.noRoom
	h := &c.s.hints
	h.mu.Lock()
	h.saw(c.stood, c.sent, c.answer)
	if c.last > 0 {
		h.floors.saw(c.last)
	}
	lease := c.stood.Add(c.request.Lease).Add(time.Millisecond)
	for i := range c.turns {
		t := &c.turns[i]
		w := t.hook.webhook
		if t.found > 0 {
			h.turns.At(w.Tenant, t.hook.id, lease)
		}
		if c.outdated() {
			h.floors.lookBelow(t.hook.id)
		} else {
			h.floors.looked(t.hook.id, t.first, t.found < t.room, c.stood, t.whole, c.began[i+1].Sub(c.began[i]))
			if low, dear := h.floors.of[t.hook.id]; dear && !t.whole && t.found < t.room {
				h.turns.At(w.Tenant, t.hook.id, h.later(low.next))
			}
		}
		if t.found >= t.room || c.large > 0 || c.outdated() {
			h.turns.Ready(w.Tenant, t.hook.id)
			if t.short {
				short++
			} else {
				full = full || !c.outdated()
			}
		}
	}
	for _, w := range c.seen {
		if !w.ready {
			delete(h.unsure, w.id)
			if w.due.Valid {
				h.turns.At(w.tenant.Bytes, w.id, w.due.Time)
			}
		}
	}
	h.mu.Unlock()
	slices.SortFunc(c.claimed, func(a, b placed) int { return cmp.Compare(a.place, b.place) })
	for i := range c.claimed {
		claims = append(claims, c.claimed[i].claim)
	}
	return claims, full, short
}

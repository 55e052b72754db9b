package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/divertedevents/diverted"
)

const (
	// accepters is how many transactions accept at a time: while one waits for the server's disk another
	// gathers what comes meanwhile.
	accepters = 2
	// loners is how many calls of a transaction that failed have one of their own at a time.
	loners = 4
	// maxMerged and mergedBytes bound the calls that share a transaction, and with it the time that one of
	// them waits for the others.
	maxMerged   = 256
	mergedBytes = 4 << 20
	// statementRows and statementBytes bound one statement of a transaction. A message of the protocol is
	// at most 1 GiB.
	statementRows  = 4096
	statementBytes = 32 << 20
)

// acceptCall is one caller's share of a transaction.
type acceptCall struct {
	ctx     context.Context // the caller's
	request diverted.AcceptRequest
	begun   atomic.Bool // by an accepter, or by the caller that gave up first
	result  diverted.AcceptResult
	err     error
	done    chan struct{}
}

func (c *acceptCall) bytes() (n int) {
	for i := range c.request.Messages {
		n += len(c.request.Messages[i].Body)
	}
	return n
}

// Accept implements [diverted.DeliveryStore].
func (s *Store) Accept(ctx context.Context, request diverted.AcceptRequest) (diverted.AcceptResult, error) {
	if err := request.Claim.Validate(); err != nil {
		return diverted.AcceptResult{}, err
	}
	done, err := s.begin(ctx, "accept")
	if err != nil {
		return diverted.AcceptResult{}, err
	}
	defer done()
	if request.MaxBytes != 0 {
		return diverted.AcceptResult{}, wrap("accept", fmt.Errorf("%w: PostgreSQL's space cannot be bounded by MaxBytes", diverted.ErrUnsupported))
	}
	if ctx.Done() != nil {
		// The caller may go, and change what is its own, while an accepter is still at it.
		request.Messages = slices.Clone(request.Messages)
		for i := range request.Messages {
			request.Messages[i].Body = bytes.Clone(request.Messages[i].Body)
		}
	}
	call := &acceptCall{ctx: ctx, request: request, done: make(chan struct{})}
	select {
	case s.accepting <- call:
	case <-ctx.Done():
		return diverted.AcceptResult{}, ctx.Err()
	}
	select {
	case <-call.done:
		return call.result, wrap("accept", call.err)
	case <-ctx.Done():
		call.begun.Swap(true) // if no accepter has begun yet, the call is left out
		return diverted.AcceptResult{}, ctx.Err()
	}
}

// accept is a goroutine of the store: it takes all calls that wait, accepts them in one transaction, and
// answers them when it is committed.
func (s *Store) accept() {
	calls := make([]*acceptCall, 0, maxMerged)
	for first := range s.accepting {
		calls = append(calls[:0], first)
		size := first.bytes()
	merge:
		for len(calls) < maxMerged && size < mergedBytes {
			select {
			case call, open := <-s.accepting:
				if !open {
					break merge
				}
				calls = append(calls, call)
				size += call.bytes()
			default:
				break merge
			}
		}
		s.serve(calls)
		clear(calls)
	}
}

// serve accepts the calls in one transaction. If it fails by what one of them asks, or one has to wait for
// somebody's lock, each gets one of its own, beside the accepters, so that this is not the trouble of the others.
func (s *Store) serve(calls []*acceptCall) {
	alive := make([]*acceptCall, 0, len(calls))
	for _, call := range calls {
		if !call.begun.Swap(true) {
			alive = append(alive, call)
		}
	}
	if len(alive) == 0 {
		return
	}
	// Not the context of a caller: the others must not suffer from its end.
	err := s.acceptAll(context.Background(), alive)
	state := sqlState(err)
	if state == lockNotAvailable || len(alive) > 1 && state != "" && !repeatable(err) {
		for _, call := range alive {
			s.group.Go(func() {
				call.err = s.acceptAlone(call)
				close(call.done)
			})
		}
		return
	}
	for _, call := range alive {
		call.err = err
		close(call.done)
	}
}

// acceptAlone accepts one call. Whoever waits for a lock in the server has a connection of the pool, and keeps
// webhooks from changing. So a call that has to wait does so here, and looks again and again, one such call at a time,
// however many there are.
func (s *Store) acceptAlone(call *acceptCall) error {
	end := time.Now().Add(patience)
	for turn := s.alone; ; turn = s.locked {
		select {
		case turn <- struct{}{}:
		case <-call.ctx.Done():
			return call.ctx.Err()
		}
		err := s.acceptAll(context.Background(), []*acceptCall{call})
		<-turn
		if sqlState(err) != lockNotAvailable || time.Now().After(end) {
			return err
		}
		call.request.Claim = nil // each time it would ask for room anew
		if err := pause(call.ctx, lockPause); err != nil {
			return err
		}
	}
}

const (
	// lockAccepting keeps a webhook from being deleted between the look at it and the commit.
	lockAccepting = `SELECT pg_advisory_xact_lock_shared($1)`
	// shortLocks bounds the wait for another transaction that is accepting the same event, such as one of the
	// host's, which may take its time.
	shortLocks = `SELECT set_config('lock_timeout', '250ms', true)`
	lockPause  = 250 * time.Millisecond // before it is waited for again

	selectGeneration = `SELECT generation, now() FROM diverted.state`

	// holdGeneration keeps webhooks from changing until the commit, before the look at their generation: whoever changes
	// them has [lockState]. Every statement of a transaction has a snapshot of its own: without the lock a change could
	// come between the look and the insert, which then adds nothing, and what was not added would pass for pending
	// already. The table is locked and not its row: a lock that several share would be written to the row by each accept,
	// as a multixact, of which the host's whole database has no more than so many before all of it has to be vacuumed.
	holdGeneration = `LOCK TABLE diverted.state IN ROW SHARE MODE`

	insertDeliveries = `
		INSERT INTO diverted.deliveries (webhook, event, request, accepted_at, due, lease, token, type, body, trace)
		SELECT r.webhook, r.event, r.request, date_trunc('milliseconds', now()), '-infinity',
			date_trunc('milliseconds', now() + r.lease * interval '1 microsecond' + interval '999 microseconds'),
			r.token, r.type, r.body, nullif(r.trace, '')
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::bytea[], $9::text[])
			AS r (webhook, event, request, lease, token, type, body, trace)
		WHERE (SELECT generation FROM diverted.state) = $8
		ON CONFLICT (webhook, event) DO NOTHING
		RETURNING webhook, event, id`

	selectThere = `
		SELECT d.webhook, d.event, d.due IS NULL FROM unnest($1::bigint[], $2::uuid[]) AS r (webhook, event)
		JOIN diverted.deliveries d ON d.webhook = r.webhook AND d.event = r.event`
)

// deliveryID is the identity of a delivery's row.
type deliveryID struct {
	webhook int64
	event   [16]byte
}

// newDelivery is a delivery that is being accepted, and where its answer goes.
type newDelivery struct {
	call    *acceptCall
	message int
	place   int // in MessageResult.Deliveries
	hook    *hook
	claims  *newClaims // that hand it back claimed; nil: it is not
	refused bool       // unless it is there already
}

func (d *newDelivery) id() deliveryID {
	return deliveryID{d.hook.id, d.call.request.Messages[d.message].Event}
}

// newClaims are the claims that one call is handed back.
type newClaims struct {
	request      *diverted.ClaimRequest
	token        int64
	count, bytes int
	any          bool // has one
}

// acceptAll accepts what the calls ask in one transaction, and fills in their answers.
func (s *Store) acceptAll(ctx context.Context, calls []*acceptCall) error {
	var want wanted
	for _, call := range calls {
		for i := range call.request.Messages {
			want.tenants = append(want.tenants, call.request.Messages[i].Tenant)
		}
	}
	var generation int64
	for {
		var a *acceptance
		var err error
		generation, err = s.look(ctx, generation, want, func() (err error) {
			a, err = s.planWithin(ctx, calls)
			return err
		})
		if err != nil {
			return err
		}
		stands, err := s.insert(ctx, a, generation)
		if err != nil {
			s.hints.forget() // what was handed back claimed may have been committed
			s.room.forget()
			return err
		}
		if stands == generation {
			return s.answer(ctx, a)
		}
		s.hooks.spoil()
		s.room.forget()
		generation = stands // webhooks have changed: look again
	}
}

// acceptance is a transaction that accepts.
type acceptance struct {
	calls []*acceptCall
	rows  []*newDelivery
	first map[deliveryID]*newDelivery // of several with one identity
	// refused: there was no room for some.
	refused bool
	// added are those that were not there before, and the ids of their rows.
	added map[deliveryID]int64
	now   time.Time // the server's
}

// plan decides by the webhooks that this process knows what is to be added, and what is handed back
// claimed.
func (s *Store) plan(calls []*acceptCall, there map[deliveryID]diverted.AcceptStatus) *acceptance {
	a := &acceptance{calls: calls, first: make(map[deliveryID]*newDelivery)}
	waiting := make(map[int64]bool) // webhooks with deliveries in here that are not handed back
	for _, call := range calls {
		call.result = diverted.AcceptResult{Messages: make([]diverted.MessageResult, len(call.request.Messages))}
		claims := s.newClaims(call.request.Claim)
		for i := range call.request.Messages {
			m, result := &call.request.Messages[i], &call.result.Messages[i]
			receivers, err := s.receivers(m)
			if err != nil {
				result.Err = err
				continue
			}
			for _, h := range receivers {
				d := &newDelivery{call: call, message: i, place: len(result.Deliveries), hook: h}
				result.Deliveries = append(result.Deliveries, diverted.Acceptance{Webhook: h.webhook.Locator})
				id := d.id()
				if a.first[id] == nil {
					a.first[id] = d
					if d.refused = there[id] == "" && !s.room.take(h, &call.request); d.refused {
						a.refused = true
						a.rows = append(a.rows, d)
						continue
					}
					if !waiting[h.id] && s.handsBack(claims, h, len(m.Body)) {
						d.claims = claims
					} else {
						waiting[h.id] = true
					}
				}
				a.rows = append(a.rows, d)
			}
		}
	}
	return a
}

// receivers returns the webhooks that a message goes to.
func (s *Store) receivers(m *diverted.Message) ([]*hook, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if m.Webhook.IsZero() {
		return s.hooks.subscribers(m.Tenant, m.EventType), nil
	}
	h, err := s.knownHook(diverted.WebhookKey{Tenant: m.Tenant, Webhook: m.Webhook})
	if err != nil {
		return nil, err
	}
	return []*hook{h}, nil
}

func (s *Store) newClaims(r *diverted.ClaimRequest) *newClaims {
	if r == nil {
		return nil
	}
	return &newClaims{request: r, token: s.token(), count: r.Count, bytes: r.Bytes}
}

// handsBack says whether a delivery that is being accepted is handed back claimed.
func (s *Store) handsBack(c *newClaims, h *hook, size int) bool {
	if c == nil || c.count <= 0 || size > c.bytes && c.any || !h.active() || h.err != nil {
		return false
	}
	s.hints.mu.Lock()
	waits := s.hints.scan || s.hints.turns.IsReady(s.hints.now(), h.id)
	s.hints.mu.Unlock()
	if waits || c.request.Reserve != nil && c.request.Reserve(h.webhook.Key(), 1) <= 0 {
		return false
	}
	c.count--
	c.bytes -= size
	c.any = true
	return true
}

// insert adds the deliveries, if the webhooks are still of this generation, and returns the one that they
// are of.
func (s *Store) insert(ctx context.Context, a *acceptance, generation int64) (stands int64, err error) {
	if len(a.first) == 0 {
		// That nobody is to get anything is to be proved too: another process may have created who is.
		err = s.read(ctx, func(b *pgx.Batch) {
			b.Queue(s.q(selectGeneration)).QueryRow(func(r pgx.Row) error { return r.Scan(&stands, &a.now) })
		})
		return stands, err
	}
	var sent, received time.Time
	err = s.batch(ctx, beginTx, func(b *pgx.Batch) {
		sent = time.Now()
		a.added = make(map[deliveryID]int64, len(a.first))
		b.Queue(shortLocks)
		b.Queue(lockAccepting, s.lock)
		b.Queue(s.q(holdGeneration))
		b.Queue(s.q(selectGeneration)).QueryRow(func(r pgx.Row) error {
			received = time.Now()
			return r.Scan(&stands, &a.now)
		})
		for rows := a.rows; len(rows) > 0; {
			var p deliveryParams
			rows = p.take(rows, a.first)
			b.Queue(s.q(insertDeliveries), p.webhooks, p.events, p.requests, p.leases, p.tokens, p.types, p.bodies, generation, p.traces).
				Query(func(r pgx.Rows) error {
					var id deliveryID
					var row int64
					for r.Next() {
						if err := r.Scan(&id.webhook, &id.event, &row); err != nil {
							return err
						}
						a.added[id] = row
					}
					return r.Err()
				})
		}
	})
	if err == nil {
		s.hints.mu.Lock()
		s.hints.saw(a.now, sent, received)
		s.hints.mu.Unlock()
	}
	return stands, err
}

// deliveryParams are the parameters of insertDeliveries.
type deliveryParams struct {
	webhooks         []int64
	events, requests uuids
	leases, tokens   pgtype.FlatArray[pgtype.Int8]
	types, traces    []string
	bodies           [][]byte
}

// take takes over as many rows as one statement holds, and returns the rest.
func (p *deliveryParams) take(rows []*newDelivery, first map[deliveryID]*newDelivery) (rest []*newDelivery) {
	size := 0
	for i, d := range rows {
		if first[d.id()] != d || d.refused {
			continue
		}
		m := &d.call.request.Messages[d.message]
		if size += len(m.Body); len(p.webhooks) > 0 && (len(p.webhooks) == statementRows || size > statementBytes) {
			return rows[i:]
		}
		p.webhooks = append(p.webhooks, d.hook.id)
		p.events = append(p.events, pgUUID(m.Event))
		p.requests = append(p.requests, pgUUID(m.RequestLocator))
		p.types = append(p.types, m.EventType)
		p.traces = append(p.traces, m.TraceParent)
		p.bodies = append(p.bodies, m.Body)
		var lease, token pgtype.Int8
		if d.claims != nil {
			lease = pgtype.Int8{Int64: d.claims.request.Lease.Microseconds(), Valid: true}
			token = pgtype.Int8{Int64: d.claims.token, Valid: true}
		}
		p.leases = append(p.leases, lease)
		p.tokens = append(p.tokens, token)
	}
	return nil
}

// answer fills in the answers, and tells of what was added.
func (s *Store) answer(ctx context.Context, a *acceptance) error {
	there, err := s.there(ctx, a)
	if err != nil {
		return err
	}
	var changes []diverted.Change
	h := &s.hints
	h.mu.Lock()
	for _, d := range a.rows {
		m := &d.call.request.Messages[d.message]
		answer := &d.call.result.Messages[d.message].Deliveries[d.place]
		id := d.id()
		switch {
		case there[id] == diverted.AlreadyDiverted:
			answer.Status = diverted.AlreadyDiverted
			continue
		case a.first[id].refused && there[id] == "":
			answer.Status = diverted.Refused
			answer.Err = fmt.Errorf("%w: the webhook has %d pending", diverted.ErrFull, d.call.request.MaxPending)
			continue
		case a.first[id] != d || a.added[id] == 0:
			answer.Status = diverted.AlreadyPending
			continue
		}
		answer.Status = diverted.Accepted
		key := diverted.Key{Tenant: m.Tenant, Webhook: d.hook.webhook.Locator, Event: m.Event}
		if d.claims == nil {
			if d.hook.active() {
				h.turns.Ready(m.Tenant, d.hook.id)
				h.floors.came(d.hook.id, a.added[id])
				s.news.add(d.hook.id)
			}
			changes = append(changes, diverted.Change{Kind: diverted.ChangeAccepted, Key: key})
			continue
		}
		h.turns.At(m.Tenant, d.hook.id, a.now.Add(d.claims.request.Lease).Add(time.Millisecond))
		d.call.result.Claims = append(d.call.result.Claims, diverted.Claim{
			Key: key, Token: d.claims.token, Webhook: d.hook.webhook, Epoch: d.hook.epoch,
			RequestLocator: m.RequestLocator, EventType: m.EventType, Body: m.Body, TraceParent: m.TraceParent,
			AcceptedAt: a.now.UTC().Truncate(time.Millisecond),
		})
	}
	h.mu.Unlock()
	s.watchers.Tell(changes...)
	return nil
}

// there says which of the deliveries that were not added are pending or diverted. It looks after the commit,
// when one that was pending may be gone: it was pending nevertheless.
func (s *Store) there(ctx context.Context, a *acceptance) (map[deliveryID]diverted.AcceptStatus, error) {
	if len(a.added) == len(a.first) {
		return nil, nil
	}
	var webhooks []int64
	var events uuids
	for id := range a.first {
		if a.added[id] == 0 {
			webhooks, events = append(webhooks, id.webhook), append(events, pgUUID(id.event))
		}
	}
	var there map[deliveryID]diverted.AcceptStatus
	err := s.read(ctx, func(b *pgx.Batch) {
		there = make(map[deliveryID]diverted.AcceptStatus)
		b.Queue(s.q(selectThere), webhooks, events).Query(func(r pgx.Rows) error {
			var id deliveryID
			var aside bool
			for r.Next() {
				if err := r.Scan(&id.webhook, &id.event, &aside); err != nil {
					return err
				}
				if there[id] = diverted.AlreadyPending; aside {
					there[id] = diverted.AlreadyDiverted
				}
			}
			return r.Err()
		})
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%d events were not added", len(webhooks)), err)
	}
	return there, nil
}

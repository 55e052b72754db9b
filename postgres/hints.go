package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/turns"
)

// hints are what this process remembers of what is due: what it did itself, what others told, and what the
// last scan saw. They may be wrong; the database decides.
type hints struct {
	mu    sync.Mutex
	turns turns.Turns[int64] // by the webhook's row id, in the server's time
	// heard are webhooks that others told of, of which this process may know nothing yet.
	heard map[int64]bool
	// unsure are webhooks that a scan found ready: when nothing more of them is due, others may still have
	// leases and waits that this process does not know.
	unsure map[int64]bool
	// floors are where the looks at some webhooks begin.
	floors floors
	// scan: everything has to be looked at, since something may have become due unnoticed.
	scan     bool
	scanned  time.Time     // the last time, by the monotonic clock
	scanCost time.Duration // of it
	// notice is when the next notice is due, by the server's clock; zero: there is none.
	notice time.Time
	// void: the server's clock was set back, and what lies ahead may be further than it was said to be.
	void bool
	// server is the server's time at the moment local of this process's, or a little less.
	server, local time.Time
}

func (h *hints) init() {
	h.heard, h.unsure = make(map[int64]bool), make(map[int64]bool)
	h.scan = true
	h.local = time.Now()
}

// now returns the server's time as far as this process knows it: by as little behind as an answer of the
// server ever took, and never ahead, lest something be looked for too early and then forgotten. mu is held.
func (h *hints) now() time.Time {
	if h.server.IsZero() {
		return time.Now()
	}
	return h.server.Add(time.Since(h.local))
}

// later returns the server's time at a moment of this process's to come. mu is held.
func (h *hints) later(at time.Time) time.Time { return h.now().Add(time.Until(at)) }

// serverTime is now for those who do not hold mu.
func (h *hints) serverTime() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now()
}

// saw notes a time that the server had between two moments of this process's. mu is held.
func (h *hints) saw(server, sent, received time.Time) {
	least, most := server.Add(h.local.Sub(received)), server.Add(h.local.Sub(sent)) // at the moment local
	switch {
	case h.server.IsZero(), least.After(h.server):
		h.server = least
	case h.server.After(most):
		if h.server.Sub(most) > clockSetBack {
			h.scan, h.void = true, true
		}
		h.server = least
	}
}

// clockSetBack is how far the server's clock must go back for its waits and leases to be looked at.
const clockSetBack = time.Second

// ready notes that something of a webhook is due that was accepted before: it was resent, or released.
func (h *hints) ready(tenant uuid.UUID, id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readyAgain(tenant, id)
}

// readyAgain is ready for those who hold mu.
func (h *hints) readyAgain(tenant uuid.UUID, id int64) {
	h.turns.Ready(tenant, id)
	h.floors.lookBelow(id)
}

// drop forgets a webhook that is gone or not active. mu is held.
func (h *hints) drop(id int64) {
	h.turns.Drop(id)
	delete(h.unsure, id)
	h.floors.forget(id)
}

// mustScan says whether a call has to look at everything first. A refresh is asked for every second; while
// a scan costs much it is made less often, so that all of them take about a tenth of the time at most.
func (h *hints) mustScan(refresh bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	const cheap = 100 * time.Millisecond
	return h.scan || refresh && time.Since(h.scanned) >= 10*max(h.scanCost-cheap, 0)
}

// forget has the next call look at everything: a transaction failed, and nobody knows how far it came.
func (h *hints) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scan = true
}

// noticeAt notes that a notice is due at a time. mu is held.
func (h *hints) noticeAt(at time.Time) {
	if h.notice.IsZero() || at.Before(h.notice) {
		h.notice = at
	}
}

// longAgo is the time of what is due at once. What this process takes for now can go back a little.
var longAgo = time.Unix(1, 0)

// noticeDue is noticeAt for a column. mu is held.
func (h *hints) noticeDue(due pgtype.Timestamptz) {
	switch {
	case !due.Valid:
	case due.InfinityModifier == pgtype.Finite:
		h.noticeAt(due.Time)
	default:
		h.noticeAt(longAgo)
	}
}

// takeHeard returns the webhooks that others told of.
func (h *hints) takeHeard() []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.heard) == 0 {
		return nil
	}
	var ids []int64
	for id := range h.heard {
		ids = append(ids, id)
	}
	clear(h.heard)
	return ids
}

// free is the condition of a delivery that nobody has: its lease is over, or further ahead than any can be.
const free = `(lease IS NULL OR lease <= now() OR lease > now() + interval '15 minutes')`

// waitingWebhooks is a table, waiting, of the ids of all webhooks with pending deliveries. It skips from
// one to the next in the index, whatever the number of deliveries. (For min the planner may read all of them, if by its
// statistics there are none.)
const waitingWebhooks = `RECURSIVE waiting (webhook) AS (
		SELECT (SELECT webhook FROM diverted.deliveries WHERE due IS NOT NULL ORDER BY webhook LIMIT 1)
		UNION ALL
		SELECT (SELECT webhook FROM diverted.deliveries WHERE due IS NOT NULL AND webhook > waiting.webhook ORDER BY webhook LIMIT 1)
		FROM waiting WHERE waiting.webhook IS NOT NULL
	)`

// dueOf says for each active webhook of the table waiting whether something is due, and else when: the end of
// a wait, or of a lease of one of the few that are due then.
const dueOf = `looked AS (
		SELECT w.id, w.tenant, EXISTS (
			SELECT FROM diverted.deliveries WHERE webhook = w.id AND due <= now() AND ` + free + `) AS ready
		FROM waiting JOIN diverted.webhooks w ON w.id = waiting.webhook
		WHERE w.enabled AND w.suspended_at IS NULL AND w.record IS NOT NULL AND NOT w.deleted
	)
	SELECT id, tenant, ready, CASE WHEN NOT ready THEN least(
		(SELECT due FROM diverted.deliveries WHERE webhook = looked.id AND due > now() ORDER BY due LIMIT 1),
		(SELECT min(lease) FROM diverted.deliveries WHERE webhook = looked.id AND due <= now())) END
	FROM looked`

const (
	selectDue   = `WITH ` + waitingWebhooks + `, ` + dueOf
	selectDueOf = `WITH waiting (webhook) AS (SELECT unnest($1::bigint[])), ` + dueOf
)

// seenDue is a row of selectDue.
type seenDue struct {
	id     int64
	tenant pgtype.UUID
	ready  bool
	due    pgtype.Timestamptz
}

func scanSeenDue(r pgx.Rows) (all []seenDue, err error) {
	for r.Next() {
		var w seenDue
		if err := r.Scan(&w.id, &w.tenant, &w.ready, &w.due); err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, r.Err()
}

// scanDue looks at everything, since others may have added something.
func (s *Store) scanDue(ctx context.Context) error {
	h := &s.hints
	h.mu.Lock()
	void := h.void
	h.scan, h.void, h.notice = false, false, time.Time{} // what comes from here on says so again
	h.mu.Unlock()
	if void {
		if err := s.voidDues(ctx); err != nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.scan, h.void = true, true
			return err
		}
	}
	var (
		all             []seenDue
		now             time.Time
		notice          pgtype.Timestamptz
		began, received time.Time
	)
	err := s.read(ctx, func(b *pgx.Batch) {
		began = time.Now()
		b.Queue(s.q(`SELECT now(), (SELECT min(due) FROM diverted.notices)`)).QueryRow(func(r pgx.Row) error {
			received = time.Now()
			return r.Scan(&now, &notice)
		})
		b.Queue(s.q(selectDue)).Query(func(r pgx.Rows) (err error) {
			all, err = scanSeenDue(r)
			return err
		})
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.scan = true
		return err
	}
	h.saw(now, began, received)
	for _, w := range all {
		switch {
		case w.ready:
			h.heard[w.id] = true
			h.unsure[w.id] = true
		case w.due.Valid:
			h.turns.At(w.tenant.Bytes, w.id, w.due.Time)
		}
	}
	h.noticeDue(notice)
	h.scanned, h.scanCost = time.Now(), time.Since(began)
	return nil
}

// updateVoidDues makes due what lies further ahead than any wait can: the server's clock was set back.
const updateVoidDues = `
	WITH ` + waitingWebhooks + `
	UPDATE diverted.deliveries d SET due = '-infinity'
	FROM waiting WHERE d.webhook = waiting.webhook AND d.due > now() + $1::bigint * interval '1 second'`

// voidDues makes due what the server's clock left too far ahead when it was set back. Leases too far ahead
// are void by themselves.
func (s *Store) voidDues(ctx context.Context) error {
	const most = int64(2 * diverted.MaxRetryInterval / time.Second)
	return s.batch(ctx, beginTx, func(b *pgx.Batch) {
		b.Queue(byIndex)
		b.Queue(s.q(updateVoidDues), most)
		b.Queue(s.q(`UPDATE diverted.notices SET due = now() WHERE due > now() + $1::bigint * interval '1 second'`), most)
	})
}

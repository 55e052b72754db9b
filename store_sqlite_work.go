package diverted

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/divertedevents/diverted/internal/turns"
	"github.com/oklog/ulid/v2"
)

// Work implements [DeliveryStore].
func (s *SQLiteStore) Work(ctx context.Context, request WorkRequest) (WorkResult, error) {
	var result WorkResult
	if err := request.Validate(); err != nil {
		return result, err
	}
	err := s.write(ctx, "work", func(tx *sqliteTx) error {
		result = WorkResult{Settled: make([]Settled, len(request.Outcomes))}
		for i := range request.Outcomes {
			result.Settled[i] = tx.settle(&request.Outcomes[i])
		}
		for _, outcome := range request.Notices {
			tx.settleNotice(outcome)
		}
		if tx.rescan || request.Refresh && tx.foreign {
			tx.scan()
		}
		full := false
		if request.Claim != nil {
			claims := tx.newClaims(request.Claim)
			full = claims.round()
			result.Claims = claims.taken
			result.Notices = tx.claimNotices(request.Claim)
			full = full || request.Claim.Notices > 0 && tx.nextNotice >= 0 && tx.nextNotice <= tx.now.UnixMilli()
		}
		result.Next = tx.next(full)
		return nil
	})
	if err != nil {
		return WorkResult{}, err
	}
	return result, nil
}

// settle applies one outcome.
func (tx *sqliteTx) settle(o *Outcome) Settled {
	row := tx.webhook(o.Key.WebhookKey())
	if row == nil || !row.known {
		return Settled{Stale: true}
	}
	var request ulid.ULID
	if o.Alert {
		request = tx.requestOf(row, o.Key.Event) // now, since the row may go
	}
	failure := tx.keep(o.Failure)
	if failure == nil && o.Kind == OutcomeDivert {
		failure = tx.keep(&Failure{Trigger: TriggerTimeout}) // whatever is diverted says why
	}
	var changed int64
	switch o.Kind {
	case OutcomeDelivered, OutcomeDrop:
		changed = tx.exec(`DELETE FROM diverted_deliveries WHERE webhook = ? AND event = ? AND token = ?`, row.id, o.Key.Event[:], o.Token)
		tx.freedRows(changed)
	case OutcomeReturn:
		changed = tx.exec(`UPDATE diverted_deliveries SET due = 0, token = NULL WHERE webhook = ? AND event = ? AND token = ?`,
			row.id, o.Key.Event[:], o.Token)
	case OutcomeRetry:
		var due int64 // held: in the order of acceptance
		if row.active() {
			due = millisUp(tx.now.Add(o.Wait))
		}
		changed = tx.exec(`
			UPDATE diverted_deliveries SET due = ?, token = NULL, attempts = attempts + 1, losses = 0, failures = `+appendFailure+`, failure = ?
			WHERE webhook = ? AND event = ? AND token = ?`,
			due, encodeFailure(failure), row.id, o.Key.Event[:], o.Token)
		if due > 0 && changed > 0 {
			tx.turns.At(o.Key.Tenant, row.id, time.UnixMilli(due))
		}
	case OutcomeHold:
		changed = tx.exec(`
			UPDATE diverted_deliveries SET due = 0, token = NULL, attempts = attempts + 1, losses = 0, released = ?, failures = `+appendFailure+`, failure = ?
			WHERE webhook = ? AND event = ? AND token = ?`,
			releasedHeld, encodeFailure(failure), row.id, o.Key.Event[:], o.Token)
	case OutcomeDivert:
		changed = tx.exec(`
			UPDATE diverted_deliveries SET due = NULL, token = NULL, attempts = attempts + 1, losses = 0, failures = `+appendFailure+`, failure = ?, diverted_at = ?
			WHERE webhook = ? AND event = ? AND token = ?`,
			encodeFailure(failure), tx.now.UnixMilli(), row.id, o.Key.Event[:], o.Token)
	}
	if changed == 0 {
		return Settled{Stale: true}
	}
	if o.Kind == OutcomeDelivered || o.Kind == OutcomeDrop || o.Kind == OutcomeDivert {
		tx.count(row.id, -1)
	}
	if o.Kind == OutcomeDivert {
		tx.aside(row.id, failure.Trigger, 1)
	}
	if o.Kind != OutcomeReturn {
		tx.happened = append(tx.happened, happening{webhook: row.id, kind: o.Kind})
	}
	var settled Settled
	if o.Suspend && row.epoch == o.Epoch && !row.webhook.Suspended() {
		if err := tx.suspend(row); err != nil {
			tx.fail(err)
		}
		row = tx.webhook(o.Key.WebhookKey())
		settled.Suspended = true
	}
	if o.Alert && o.Failure != nil {
		tx.alert(row, o, FailedEvent{o.Key.Event, request, *failure}, settled.Suspended)
	}
	if (o.Kind == OutcomeReturn || o.Kind == OutcomeHold) && row != nil && row.active() {
		tx.turns.Ready(o.Key.Tenant, row.id)
	}
	return settled
}

func (tx *sqliteTx) requestOf(row *sqliteWebhook, event ulid.ULID) (request ulid.ULID) {
	var bytes []byte
	if tx.query1(`SELECT request FROM diverted_deliveries WHERE webhook = ? AND event = ?`, []any{row.id, event[:]}, &bytes) {
		copy(request[:], bytes)
	}
	return request
}

// sqliteClaims are the claims that one call takes.
type sqliteClaims struct {
	tx      *sqliteTx
	request *ClaimRequest
	token   int64
	lease   int64 // when it ends
	count   int
	bytes   int
	taken   []Claim
}

// newClaims begins to claim; request may be nil.
func (tx *sqliteTx) newClaims(request *ClaimRequest) *sqliteClaims {
	c := &sqliteClaims{tx: tx, request: request}
	if request != nil {
		c.token = tx.token()
		c.lease = millisUp(tx.now.Add(request.Lease))
		c.count, c.bytes = request.Count, request.Bytes
	}
	return c
}

// takesNew says whether a delivery that is being accepted is claimed at once.
func (c *sqliteClaims) takesNew(row *sqliteWebhook, size int) bool {
	return c.request != nil && !c.full(size) && row.active() && row.err == nil &&
		!c.tx.rescan && !c.tx.turns.IsReady(c.tx.now, row.id) && c.reserve(row, 1) > 0
}

// full says whether a delivery of this size is too much. One may be claimed however large it is.
func (c *sqliteClaims) full(size int) bool {
	return c.count <= 0 || size > c.bytes && len(c.taken) > 0
}

// reserve asks the caller for room.
func (c *sqliteClaims) reserve(row *sqliteWebhook, want int) int {
	if c.request.Reserve == nil {
		return want
	}
	return min(c.request.Reserve(row.webhook.Key(), want), want)
}

func (c *sqliteClaims) add(row *sqliteWebhook, claim Claim) {
	claim.Token, claim.Webhook, claim.Epoch = c.token, row.webhook, row.epoch
	if claim.Err == nil {
		claim.Err = row.err
	}
	if len(claim.Body) == 0 && claim.Err == nil {
		claim.Err = fmt.Errorf("%w: a delivery has no body", ErrDamaged)
	}
	c.taken = append(c.taken, claim)
	c.count--
	c.bytes -= len(claim.Body)
	c.tx.turns.At(claim.Key.Tenant, row.id, time.UnixMilli(c.lease))
}

// maxTurn bounds the deliveries that one webhook gets at its turn, minus what others leave.
const maxTurn = 16

// round claims what is due, and says whether the request's bounds kept it from claiming more.
func (c *sqliteClaims) round() (full bool) {
	ready := max(c.tx.turns.Len(), 1)
	turn := min(max(c.count/ready, 1), maxTurn) // shared out, if there is something for everybody
	c.tx.turns.Round(c.tx.now, func(id int64) turns.Answer {
		if c.full(1) || c.tx.fault != nil {
			full = true
			return turns.Stop
		}
		row := c.tx.webhookByID(id)
		if row == nil || !row.active() {
			c.tx.turns.Drop(id)
			return turns.Idle
		}
		want := min(turn, c.count)
		room := c.reserve(row, want)
		if room <= 0 {
			return turns.NoRoom
		}
		switch c.take(row, room) {
		case tookAll:
			c.wait(row)
			return turns.Idle
		case tooLarge:
			full = true
			return turns.NoRoom
		}
		if room < want {
			return turns.NoRoom
		}
		return turns.More
	})
	return full
}

// taken is how a webhook's turn ended.
type taken int

const (
	tookAll  taken = iota // nothing more is due
	tookSome              // more is due than the room that the turn had
	tooLarge              // more is due than the request's bytes allow
)

const selectClaims = `
	SELECT id, event, request, type, accepted_at, due, token, attempts, losses, was_diverted, released, body, trace
	FROM diverted_deliveries `

// take claims up to room deliveries of one webhook: retries and lost leases that are due, then the others
// in the order of acceptance. The statements have no LIMIT: SQLite would plan them anew for each value
// that is bound to it, and the rows come in the order of the index, so that reading them just ends.
func (c *sqliteClaims) take(row *sqliteWebhook, room int) taken {
	looked, end := c.takeFrom(row, room, selectClaims+`WHERE webhook = ?1 AND due > 0 AND due <= ?2 ORDER BY due, id`,
		row.id, c.tx.now.UnixMilli())
	if end == tookAll {
		_, end = c.takeFrom(row, room-looked, selectClaims+`WHERE webhook = ?1 AND due = 0 ORDER BY id`, row.id)
	}
	return end
}

// The states of diverted_deliveries.released.
const (
	releasedNot  = 0 // the budget is the first one, or that of a resend
	releasedOnce = 1 // it was held, and has a fresh budget
	releasedHeld = 2 // it is held with its budget spent; the fresh one begins with its next claim
)

func (c *sqliteClaims) takeFrom(row *sqliteWebhook, room int, query string, args ...any) (looked int, end taken) {
	type change struct {
		id                         int64
		attempts, losses, released int
		extend                     bool
	}
	var (
		changes     []change // of rows of which more changes than their claim
		first, last int64    // of the fresh ones, which have no gaps
	)
	c.tx.queryAll(query, args, func(rows *sql.Rows) error {
		if looked == room {
			end = tookSome
			return errStopRows
		}
		var (
			claim             = Claim{Key: Key{Tenant: row.webhook.Tenant, Webhook: row.webhook.Locator}}
			id, accepted, due int64
			released          int
			token             sql.NullInt64
			trace             sql.NullString
			event, request    sql.RawBytes
		)
		err := scan(rows, &id, &event, &request, &claim.EventType, &accepted, &due, &token,
			&claim.Attempts, &claim.Losses, &claim.Diverted, &released, &claim.Body, &trace)
		if err == nil {
			claim.Key.Event, claim.RequestLocator, err = locatorsOf(event, request)
		}
		if err != nil {
			return err
		}
		claim.AcceptedAt, claim.TraceParent = fromMillis(accepted), trace.String
		if token.Valid && c.request.InFlight != nil && c.request.InFlight(claim.Key) {
			looked++
			changes = append(changes, change{id: id, extend: true})
			return nil
		}
		if c.full(len(claim.Body)) {
			end = tooLarge
			return errStopRows
		}
		looked++
		if token.Valid {
			claim.Losses++
		}
		if held := released == releasedHeld; held || due > 0 {
			if held {
				claim.Attempts, released = 0, releasedOnce
			}
			changes = append(changes, change{id: id, attempts: claim.Attempts, losses: claim.Losses, released: released})
		} else {
			if first == 0 {
				first = id
			}
			last = id
		}
		claim.Released = released == releasedOnce
		c.add(row, claim)
		return nil
	})
	for _, ch := range changes {
		if ch.extend {
			c.tx.exec(`UPDATE diverted_deliveries SET due = ? WHERE id = ?`, c.lease, ch.id)
			continue
		}
		c.tx.exec(`UPDATE diverted_deliveries SET due = ?, token = ?, attempts = ?, losses = ?, released = ? WHERE id = ?`,
			c.lease, c.token, ch.attempts, ch.losses, ch.released, ch.id)
	}
	if first > 0 {
		c.tx.exec(`UPDATE diverted_deliveries SET due = ?, token = ? WHERE webhook = ? AND due = 0 AND id BETWEEN ? AND ?`,
			c.lease, c.token, row.id, first, last)
	}
	return looked, end
}

// wait remembers when the next delivery of a webhook is due that has nothing due now.
func (c *sqliteClaims) wait(row *sqliteWebhook) {
	var due sql.NullInt64
	if c.tx.query1(`SELECT min(due) FROM diverted_deliveries WHERE webhook = ? AND due > 0`, []any{row.id}, &due) && due.Valid {
		c.tx.turns.At(row.webhook.Tenant, row.id, time.UnixMilli(due.Int64))
	}
}

// scan looks at all webhooks with pending deliveries, since others may have added some.
func (tx *sqliteTx) scan() {
	for _, w := range tx.waitingWebhooks() {
		switch row := tx.webhookByID(w.id); {
		case row == nil || !row.active():
		case w.due <= tx.now.UnixMilli():
			tx.turns.Ready(row.webhook.Tenant, w.id)
		default: // a turn for each of them that waits would hold up all who write
			tx.turns.At(row.webhook.Tenant, w.id, time.UnixMilli(w.due))
		}
	}
	tx.lookForNotices()
	if tx.fault == nil {
		tx.rescan, tx.foreign = false, false
	}
}

// next returns the time until something becomes due.
func (tx *sqliteTx) next(full bool) time.Duration {
	if full {
		return 0
	}
	next := time.Duration(-1)
	if at, ok := tx.turns.NextDue(tx.now); ok {
		next = max(at.Sub(tx.now), 0)
	}
	if tx.nextNotice >= 0 {
		// One that is due already waits for the caller's room, not for a time.
		if wait := time.UnixMilli(tx.nextNotice).Sub(tx.now); wait > 0 && (next < 0 || wait < next) {
			next = wait
		}
	}
	return next
}

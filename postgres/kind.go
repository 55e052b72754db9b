package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// kind is what a delivery is: pending, or diverted. The planner's statistics may be of another time, when there were
// none of the one or the other. By those every partial index finds at most one row, and any of them will do; so no
// statement leaves it the choice.
type kind struct {
	// which selects them, and has the planner take a partial index.
	which string
	// still says the same of rows that are found by their key, and implies no partial index, by which all that the webhook
	// has may be read for each of them. Where they are many they are listed with their webhook, so that both columns of
	// the key are joined.
	still string
	// since is the column with the time from which on it is what it is.
	since string
}

var (
	divertedKind = kind{which: "due IS NULL", still: "diverted_at IS NOT NULL", since: "diverted_at"}
	pendingKind  = kind{which: "due IS NOT NULL", still: "diverted_at IS NULL", since: "accepted_at"}
)

// theHook is the row id of the webhook $2 of the tenant $1.
const theHook = `(SELECT id FROM diverted.webhooks WHERE tenant = $1 AND locator = $2 AND NOT deleted)`

// few is how many deliveries are sorted rather than read in order: some 20 ms' worth.
const few = 10_000

// narrow is a part of what is asked for that few may meet: a column within bounds, whose index finds them.
type narrow struct {
	column   string
	from, to any
}

// narrow returns the parts of what is asked for. Their bounds may be wider than the filter's, which holds all the same.
func (k *kind) narrow(f diverted.DivertedFilter) (all []narrow) {
	always := pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	forever := pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	if k == &pendingKind {
		return []narrow{{"due", always, forever}}
	}
	if !f.Since.IsZero() || !f.Until.IsZero() {
		n := narrow{"diverted_at", always, forever}
		if !f.Since.IsZero() {
			n.from = bound(f.Since)
		}
		if !f.Until.IsZero() {
			n.to = bound(f.Until)
		}
		all = append(all, n)
	}
	if f.Trigger != "" {
		from, to, _ := triggers(f.Trigger)
		all = append(all, narrow{"diverted_by", from, to})
	}
	if f.EventType != "" {
		all = append(all, narrow{"type", f.EventType, f.EventType})
	}
	return all
}

// inOrder returns what a webhook's deliveries of a kind are selected from, ascending by event, where id is its row id,
// and args with what that needs. The key, and an index of what is diverted, have them in this order, but among others:
// those that are not pending, or not of the filter. So where few meet a part of it these are sorted. Of those after an
// event as many as are wanted are read. The ORDER BY within names the index, whatever the statistics say, and OFFSET keeps
// conditions from moving inside.
func (s *Store) inOrder(ctx context.Context, k *kind, webhook diverted.WebhookKey, f diverted.DivertedFilter, after ulid.ULID, want int, id string, args []any) (from string, _ []any, err error) {
	for _, part := range k.narrow(f) {
		rows := func(id string, n int) string {
			return fmt.Sprintf(` FROM diverted.deliveries WHERE webhook = %[1]s AND %[2]s AND %[3]s BETWEEN $%[4]d AND $%[5]d ORDER BY %[3]s`,
				id, k.which, part.column, n+1, n+2)
		}
		sorted := false
		if k == &pendingKind {
			sorted, err = s.sortsPending(ctx, webhook, after, want)
		} else {
			var n int
			n, err = s.countRows(ctx, "1", rows(theHook, 2), few, pgUUID(webhook.Tenant), pgUUID(webhook.Webhook), part.from, part.to)
			sorted = n < few
		}
		if err != nil {
			return "", nil, err
		}
		if sorted {
			return `(SELECT *` + rows(id, len(args)) + ` OFFSET 0) few`, append(args, part.from, part.to), nil
		}
	}
	return `diverted.deliveries`, args, nil
}

// sortsPending says whether the pending deliveries of a webhook are sorted. Else they are read in order, past the diverted
// events between them: if those are fewer, or if enough of the next events are pending, as where the two are mixed.
// It counts no further than it takes to know which are fewer.
func (s *Store) sortsPending(ctx context.Context, webhook diverted.WebhookKey, after ulid.ULID, want int) (bool, error) {
	const ofHook = ` FROM diverted.deliveries WHERE webhook = ` + theHook
	tenant, locator := pgUUID(webhook.Tenant), pgUUID(webhook.Webhook)
	for n := few; ; n *= 4 {
		pending, err := s.countRows(ctx, "1", ofHook+` AND due IS NOT NULL ORDER BY due`, n, tenant, locator)
		if err != nil || pending < n {
			return true, err
		}
		aside, err := s.countRows(ctx, "1", ofHook+` AND due IS NULL ORDER BY diverted_at`, n, tenant, locator)
		if err != nil || aside < n {
			return false, err
		}
		if n == few {
			next, err := s.countRows(ctx, "due", ofHook+` AND event > $3 ORDER BY event`, n, tenant, locator, pgUUID(after))
			if err != nil || next >= min(want, n/50) {
				return false, err
			}
		}
	}
}

// countRows counts of at most limit rows those in which an expression is not NULL.
func (s *Store) countRows(ctx context.Context, expression, from string, limit int, args ...any) (n int, err error) {
	text := s.q(fmt.Sprintf(`SELECT count(x) FROM (SELECT %s AS x%s LIMIT %d) counted`, expression, from, limit))
	err = s.read(ctx, func(b *pgx.Batch) {
		b.Queue(text, args...).QueryRow(func(r pgx.Row) error { return r.Scan(&n) })
	})
	return n, err
}

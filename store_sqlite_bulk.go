package diverted

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// bulkPart is how many events of a bulk step are changed in one transaction, which takes two milliseconds, and bulkShare
// how many are while others wait for the writer.
const (
	bulkPart  = 50
	bulkShare = 10
)

// sqliteBulk is what a step does. A reader selects, since it may have to look at many; the writer changes
// what still is as it was selected.
type sqliteBulk struct {
	action string
	// selects returns up to limit locators of events, ascending.
	selects func(ctx context.Context, tx *sql.Tx, webhook int64, r *BulkRequest, limit int) ([][]byte, error)
	// may says whether the webhook, nil if there is none, lets the step happen.
	may func(row *sqliteWebhook, r *BulkRequest) error
	// apply changes one event, and says whether it did.
	apply func(tx *sqliteTx, row *sqliteWebhook, event ulid.ULID, r *BulkRequest) bool
}

// ResendAll implements [BulkStore].
func (s *SQLiteStore) ResendAll(ctx context.Context, request BulkRequest) (BulkResult, error) {
	return s.bulk(ctx, request, sqliteResendAll)
}

var sqliteResendAll = sqliteBulk{
	action:  "resend all",
	selects: selectForBulk,
	may: func(row *sqliteWebhook, r *BulkRequest) error {
		if r.DryRun {
			return nil
		}
		return row.letsGo()
	},
	apply: func(tx *sqliteTx, row *sqliteWebhook, event ulid.ULID, r *BulkRequest) bool {
		return tx.resend(row, event, r.selection())
	},
}

// DeleteAll implements [BulkStore].
func (s *SQLiteStore) DeleteAll(ctx context.Context, request BulkRequest) (BulkResult, error) {
	return s.bulk(ctx, request, sqliteDeleteAll)
}

var sqliteDeleteAll = sqliteBulk{
	action:  "delete all diverted events",
	selects: selectForBulk,
	apply: func(tx *sqliteTx, row *sqliteWebhook, event ulid.ULID, r *BulkRequest) bool {
		return tx.deleteDiverted(row, event, r.selection())
	},
}

// DivertAll implements [BulkStore].
func (s *SQLiteStore) DivertAll(ctx context.Context, request BulkRequest) (BulkResult, error) {
	if err := request.ForPending(); err != nil {
		return BulkResult{}, err
	}
	return s.bulk(ctx, request, sqliteBulk{
		action: "divert all pending deliveries",
		selects: func(ctx context.Context, tx *sql.Tx, webhook int64, r *BulkRequest, limit int) ([][]byte, error) {
			return selectPending(ctx, tx, webhook, r.After[:], 0, limit, ` AND accepted_at < ? AND (? = '' OR type = ?)`,
				millisUp(r.Before), r.Filter.EventType, r.Filter.EventType)
		},
		may: func(row *sqliteWebhook, _ *BulkRequest) error {
			switch {
			case row == nil || !row.known:
				return ErrNotFound
			case row.active():
				return fmt.Errorf("%w: it is neither suspended nor disabled", ErrConflict)
			}
			return nil
		},
		apply: func(tx *sqliteTx, row *sqliteWebhook, event ulid.ULID, r *BulkRequest) bool {
			failure := AsideOnRequest(tx.now)
			var trigger string
			if !tx.query1(`
				UPDATE diverted_deliveries SET due = NULL, token = NULL, losses = 0, failure = coalesce(failure, ?), diverted_at = ?
				WHERE webhook = ? AND event = ? AND due IS NOT NULL AND accepted_at < ? RETURNING `+sqliteTrigger,
				[]any{encodeFailure(tx.keep(&failure)), tx.now.UnixMilli(), row.id, event[:], millisUp(r.Before)}, &trigger) {
				return false
			}
			tx.count(row.id, -1)
			tx.aside(row.id, longTrigger(trigger), 1)
			tx.changed(ChangeDiverted, row.with(event))
			return true
		},
	})
}

func selectForBulk(ctx context.Context, tx *sql.Tx, webhook int64, r *BulkRequest, limit int) ([][]byte, error) {
	selects := r.selection()
	selects.after, selects.limit = r.After[:], limit
	return selectEvents(ctx, tx, webhook, selects)
}

// selection is what a step selects of the diverted events, wherever it is and however many it takes.
func (r *BulkRequest) selection() selection {
	f := r.Filter
	if f.Until.IsZero() || r.Before.Before(f.Until) {
		f.Until = r.Before
	}
	return selection{filter: f}
}

// bulk makes a step.
func (s *SQLiteStore) bulk(ctx context.Context, request BulkRequest, b sqliteBulk) (BulkResult, error) {
	r, err := request.WithDefaults()
	if err != nil {
		return BulkResult{}, err
	}
	if r.Before.IsZero() {
		r.Before = fromMillis(s.writer.wall().UnixMilli()).Add(time.Millisecond)
	}
	result := BulkResult{After: r.After, Before: r.Before}
	if b.may != nil { // before anything is looked for
		if err := s.write(ctx, b.action, func(tx *sqliteTx) error { return b.allowed(tx, &r) }); err != nil {
			return BulkResult{}, err
		}
	}
	var events [][]byte
	err = s.snapshot(ctx, b.action, func(tx *sql.Tx) error {
		id, err := webhookID(ctx, tx, r.Webhook)
		if id != 0 && err == nil {
			events, err = b.selects(ctx, tx, id, &r, r.Limit+1)
		}
		return err
	})
	if err != nil {
		return BulkResult{}, err
	}
	events, result.More = cut(events, r.Limit)
	if r.DryRun {
		result.took(events, 0)
		return result, nil
	}
	for len(events) > 0 {
		began := time.Now()
		var taken, done int
		err := s.write(ctx, b.action, func(tx *sqliteTx) error {
			if err := b.allowed(tx, &r); err != nil {
				return err
			}
			row := tx.webhook(r.Webhook)
			done = 0
			for taken = 0; taken < min(bulkPart, len(events)) && (taken < bulkShare || !tx.awaited()); taken++ {
				event := events[taken]
				if row != nil && len(event) == len(ulid.ULID{}) && b.apply(tx, row, ulid.ULID(event), &r) {
					done++
				}
			}
			return nil
		})
		switch {
		case err != nil && result.Matched == 0:
			return BulkResult{}, err
		case err != nil:
			result.More = true // as if the limit had been less
			return result, nil
		}
		result.took(events[:taken], done)
		if events = events[taken:]; len(events) > 0 {
			select { // others have the writer for as long as this part took
			case <-time.After(time.Since(began)):
			case <-ctx.Done():
			}
		}
	}
	return result, nil
}

func (b *sqliteBulk) allowed(tx *sqliteTx, r *BulkRequest) error {
	if b.may == nil {
		return nil
	}
	if err := b.may(tx.webhook(r.Webhook), r); err != nil {
		return fmt.Errorf("%s of %s: %w", b.action, r.Webhook.Webhook, err)
	}
	return nil
}

func (r *BulkResult) took(events [][]byte, done int) {
	r.Matched += len(events)
	r.Done += done
	if n := len(events); n > 0 && len(events[n-1]) == len(r.After) {
		r.After = ulid.ULID(events[n-1])
	}
}

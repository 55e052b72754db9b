package diverted

import (
	"bytes"
	"context"
	"database/sql"
	"slices"

	"github.com/oklog/ulid/v2"
)

// Diverted events are selected in two steps: their locators, from an index that has all that a filter asks
// for, and then what is wanted of their rows, in one snapshot. A page comes ascending by event, so an index is of
// use if the events that it selects are in this order, or few.

// sqliteTrigger is the trigger of a row, cut to three characters, as the index diverted_deliveries_by has it.
const sqliteTrigger = `substr(failure, 13, 3)`

// shortTrigger returns a trigger as sqliteTrigger does, and longTrigger makes it whole again.
func shortTrigger(t Trigger) string { return string(t[:min(3, len(t))]) }

func longTrigger(short string) Trigger {
	if short == shortTrigger(TriggerTimeout) {
		return TriggerTimeout
	}
	return Trigger(short)
}

// selection is what is selected of the diverted events of one webhook.
type selection struct {
	filter DivertedFilter
	after  []byte // an event
	limit  int
}

// forever is later than any time that is kept.
const forever = int64(1) << 60

// times returns the filter's times, from inclusive and to exclusive.
func (s *selection) times() (from, to int64) {
	to = forever
	if !s.filter.Since.IsZero() {
		from = millisUp(s.filter.Since)
	}
	if !s.filter.Until.IsZero() {
		to = millisUp(s.filter.Until)
	}
	return from, to
}

// stillSelected is the condition that an event of a webhook is diverted, and selected however it was diverted
// anew; still has its arguments. An event keeps its type.
const stillSelected = `webhook = ? AND event = ? AND due IS NULL AND diverted_at >= ? AND diverted_at < ?
	AND coalesce(` + sqliteTrigger + `, '') GLOB ?`

func (s *selection) still(row *sqliteWebhook, event ulid.ULID) []any {
	from, to := s.times()
	triggers := "*"
	if t := s.filter.Trigger; t.isClass() {
		triggers = string(t[0]) + "??"
	} else if t != "" {
		triggers = shortTrigger(t)
	}
	return []any{row.id, event[:], from, to, triggers}
}

// fewEvents is how many events are sorted rather than read in order: some 10 ms' worth.
const fewEvents = 10_000

// selectEvents returns the locators of up to s.limit diverted events, ascending.
func selectEvents(ctx context.Context, tx *sql.Tx, webhook int64, s selection) ([][]byte, error) {
	from, to := s.times()
	f := s.filter
	if !f.Since.IsZero() || !f.Until.IsZero() {
		const within = `FROM diverted_deliveries INDEXED BY diverted_deliveries_at
			WHERE webhook = ? AND due IS NULL AND diverted_at >= ? AND diverted_at < ?`
		many, err := selectsMany(ctx, tx, fewEvents, within, webhook, from, to)
		if err != nil {
			return nil, err
		}
		if !many {
			few, err := queryEvents(ctx, tx, `SELECT event `+within, webhook, from, to)
			if err != nil {
				return nil, err
			}
			return someOf(ctx, tx, webhook, few, s)
		}
	}
	if f.Trigger == "" && f.EventType == "" {
		return queryEvents(ctx, tx, `
			SELECT event FROM diverted_deliveries INDEXED BY diverted_deliveries_diverted
			WHERE webhook = ? AND due IS NULL AND event > ? AND diverted_at >= ? AND diverted_at < ? ORDER BY event LIMIT ?`,
			webhook, s.after, from, to, s.limit)
	}
	// Within a trigger and a type events ascend: as many of each as are wanted, and the first of them all. What
	// is found bounds what the groups after it can add.
	var all [][]byte
	before := afterAll
	err := eachGroup(ctx, tx, webhook, f, func(trigger, eventType string) error {
		events, err := queryEvents(ctx, tx, `
			SELECT event FROM diverted_deliveries INDEXED BY diverted_deliveries_by
			WHERE webhook = ? AND due IS NULL AND `+sqliteTrigger+` = ? AND type = ? AND event > ? AND event < ?
			AND diverted_at >= ? AND diverted_at < ? ORDER BY event LIMIT ?`,
			webhook, trigger, eventType, s.after, before, from, to, s.limit)
		all = append(all, events...)
		slices.SortFunc(all, bytes.Compare)
		if len(all) >= s.limit {
			all = all[:s.limit]
			before = all[s.limit-1]
		}
		return err
	})
	return all, err
}

// afterAll is greater than every event.
var afterAll = bytes.Repeat([]byte{0xff}, len(ulid.ULID{})+1)

// someOf returns those of a few events that a selection selects, ascending.
func someOf(ctx context.Context, tx *sql.Tx, webhook int64, events [][]byte, s selection) (some [][]byte, err error) {
	slices.SortFunc(events, bytes.Compare)
	stmt, err := tx.PrepareContext(ctx, `SELECT coalesce(`+sqliteTrigger+`, ''), type FROM diverted_deliveries WHERE webhook = ? AND event = ?`)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	for _, event := range events {
		if len(some) == s.limit {
			break
		}
		if bytes.Compare(event, s.after) <= 0 {
			continue
		}
		if s.filter.Trigger != "" || s.filter.EventType != "" {
			var trigger, eventType string
			if err := scan(stmt.QueryRowContext(ctx, webhook, event), &trigger, &eventType); err == sql.ErrNoRows {
				continue
			} else if err != nil {
				return nil, err
			}
			if !s.filter.selectsGroup(trigger, eventType) {
				continue
			}
		}
		some = append(some, event)
	}
	return some, nil
}

// selectsGroup says whether the filter selects events of this trigger and type.
func (f DivertedFilter) selectsGroup(trigger, eventType string) bool {
	return (f.Trigger == "" || f.Trigger.Matches(longTrigger(trigger))) && (f.EventType == "" || f.EventType == eventType)
}

// eachGroup calls f with every trigger and type that a webhook has diverted events of and that the filter
// selects. It skips from one to the next in the index, whatever the number of events.
func eachGroup(ctx context.Context, db sqliteQueryer, webhook int64, f DivertedFilter, each func(trigger, eventType string) error) error {
	return eachTrigger(ctx, db, webhook, func(trigger string) error {
		if f.Trigger != "" && !f.Trigger.Matches(longTrigger(trigger)) {
			return nil
		}
		if f.EventType != "" {
			return each(trigger, f.EventType)
		}
		for eventType := ""; ; {
			err := scan(db.QueryRowContext(ctx, `
				SELECT type FROM diverted_deliveries INDEXED BY diverted_deliveries_by
				WHERE webhook = ? AND due IS NULL AND `+sqliteTrigger+` = ? AND type > ? ORDER BY type LIMIT 1`,
				webhook, trigger, eventType), &eventType)
			if err == sql.ErrNoRows {
				return nil
			}
			if err == nil {
				err = each(trigger, eventType)
			}
			if err != nil {
				return err
			}
		}
	})
}

// sqliteQueryer is a *sql.DB, *sql.Tx or *sql.Conn.
type sqliteQueryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// eachTrigger calls each with every trigger that a webhook has diverted events of.
func eachTrigger(ctx context.Context, db sqliteQueryer, webhook int64, each func(trigger string) error) error {
	for trigger := ""; ; {
		err := scan(db.QueryRowContext(ctx, `
			SELECT `+sqliteTrigger+` FROM diverted_deliveries INDEXED BY diverted_deliveries_by
			WHERE webhook = ? AND due IS NULL AND `+sqliteTrigger+` > ? ORDER BY `+sqliteTrigger+` LIMIT 1`,
			webhook, trigger), &trigger)
		if err == sql.ErrNoRows {
			return nil
		}
		if err == nil {
			err = each(trigger)
		}
		if err != nil {
			return err
		}
	}
}

// selectPending returns the locators of up to limit pending deliveries beyond an offset, ascending.
func selectPending(ctx context.Context, tx *sql.Tx, webhook int64, after []byte, offset, limit int, and string, args ...any) ([][]byte, error) {
	sorted, err := sortsPending(ctx, tx, webhook, after, offset+limit)
	if err != nil {
		return nil, err
	}
	index := "diverted_deliveries_key"
	if sorted {
		index = "diverted_deliveries_due"
	}
	return queryEvents(ctx, tx, `SELECT event FROM diverted_deliveries INDEXED BY `+index+`
		WHERE webhook = ? AND due IS NOT NULL AND event > ?`+and+` ORDER BY event LIMIT ? OFFSET ?`,
		append(append([]any{webhook, after}, args...), limit, offset)...)
}

// sortsPending says whether the pending deliveries of a webhook are sorted. Else they are read in order, past the diverted
// events between them: if those are fewer, or if enough of the next events are pending, as where the two are mixed.
// It counts no further than it takes to know which are fewer.
func sortsPending(ctx context.Context, tx *sql.Tx, webhook int64, after []byte, want int) (bool, error) {
	for n := fewEvents; ; n *= 4 {
		many, err := selectsMany(ctx, tx, n, `FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = ? AND due IS NOT NULL`, webhook)
		if err != nil || !many {
			return true, err
		}
		many, err = selectsMany(ctx, tx, n, `FROM diverted_deliveries INDEXED BY diverted_deliveries_diverted WHERE webhook = ? AND due IS NULL AND event > ?`, webhook, after)
		if err != nil || !many {
			return false, err
		}
		if n == fewEvents {
			var pending int
			err := scan(tx.QueryRowContext(ctx, `SELECT count(due) FROM (
				SELECT due FROM diverted_deliveries INDEXED BY diverted_deliveries_key WHERE webhook = ? AND event > ? ORDER BY event LIMIT ?)`,
				webhook, after, n), &pending)
			if err != nil || pending >= min(want, n/50) {
				return false, err
			}
		}
	}
}

// selectsMany says whether a query has n rows or more. It only counts, which takes a tenth of the time that it takes to fetch them.
func selectsMany(ctx context.Context, tx *sql.Tx, n int, from string, args ...any) (bool, error) {
	var counted int
	err := scan(tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 `+from+` LIMIT ?)`, append(args, n)...), &counted)
	return counted == n, err
}

func queryEvents(ctx context.Context, tx *sql.Tx, query string, args ...any) (events [][]byte, err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var event []byte
		if err := scan(rows, &event); err != nil {
			return nil, err
		}
		events = append(events, event)
	}
	return events, rows.Err()
}

// webhookID returns the row id of a webhook, 0 if there is none.
func webhookID(ctx context.Context, tx *sql.Tx, key WebhookKey) (id int64, err error) {
	err = scan(tx.QueryRowContext(ctx, `SELECT id FROM diverted_webhooks WHERE tenant = ? AND locator = ? AND deleted = 0`,
		key.Tenant[:], key.Webhook[:]), &id)
	if err == sql.ErrNoRows {
		return 0, nil
	}
	return id, err
}

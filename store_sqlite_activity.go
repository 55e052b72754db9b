package diverted

import (
	"context"
	"time"
)

// What happens at webhooks is counted in the writer's memory, and written now and then in a transaction that
// takes place anyway, when nobody calls, and at the end.

// The times of writing it.
const (
	activityEvery = 5 * time.Second
	activityQuiet = time.Second // without a call
)

// happening is an outcome, or, if it has a trigger, that an event was set aside.
type happening struct {
	webhook int64
	kind    OutcomeKind
	trigger Trigger
}

// remember counts what happened in a transaction that was committed.
func (w *sqliteWriter) remember(happened []happening, now time.Time) {
	for _, h := range happened {
		a := w.activity[h.webhook]
		if a == nil {
			a = new(activity)
			w.activity[h.webhook] = a
		}
		if h.trigger != "" {
			a.diverted(h.trigger, now)
		} else {
			a.settled(h.kind, now)
		}
	}
}

// writeActivity writes what was counted since it was written last.
func (tx *sqliteTx) writeActivity() error {
	for id, a := range tx.activity {
		if tx.webhookByID(id) == nil {
			continue // deleted meanwhile
		}
		last := func(what string, at time.Time) {
			if !at.IsZero() {
				tx.exec(`INSERT INTO diverted_activity (webhook, hour, what, n) VALUES (?, 0, ?, ?)
					ON CONFLICT DO UPDATE SET n = max(n, excluded.n)`, id, what, at.UnixMilli())
			}
		}
		last("delivered", a.lastSuccess)
		last("failed", a.lastFailure)
		for hour, h := range a.hours {
			add := func(what string, n int) {
				if n > 0 {
					tx.exec(`INSERT INTO diverted_activity (webhook, hour, what, n) VALUES (?, ?, ?, ?)
						ON CONFLICT DO UPDATE SET n = n + excluded.n`, id, hour, what, n)
				}
			}
			add("delivered", h.Delivered)
			add("failed", h.Failed)
			for trigger, n := range h.Diverted {
				add(shortTrigger(trigger), n)
			}
		}
		tx.exec(`DELETE FROM diverted_activity WHERE webhook = ? AND hour > 0 AND hour <= ?`, id, unixHour(tx.now)-MaxStatsHours)
	}
	tx.wroteActivity = true
	return nil
}

// readActivity adds what was written of the webhooks of a query.
func (s *SQLiteStore) readActivity(ctx context.Context, query StatsQuery, now time.Time, all *activity) error {
	where, args := statsWhere(query)
	read := func(columns, hour, group string, args []any, each func(hour int64, what string, n int64)) error {
		stmt, err := s.often.get(ctx, `SELECT `+columns+` FROM diverted_webhooks w
			CROSS JOIN diverted_activity a ON a.webhook = w.id WHERE `+where+` AND a.hour `+hour+` GROUP BY `+group)
		if err != nil {
			return err
		}
		rows, err := stmt.QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var hour, n int64
			var what string
			if err := scan(rows, &hour, &what, &n); err != nil {
				return err
			}
			each(hour, what, n)
		}
		return rows.Err()
	}
	err := read(`0, a.what, max(a.n)`, `= 0`, `a.what`, args, func(_ int64, what string, n int64) {
		if what == "delivered" {
			all.lastSuccess = fromMillis(n)
		} else {
			all.lastFailure = fromMillis(n)
		}
	})
	if err != nil || query.Hours == 0 {
		return err
	}
	since := unixHour(now) - int64(query.Hours)
	return read(`a.hour, a.what, sum(a.n)`, `> ?`, `a.hour, a.what`, append(args, since), func(hour int64, what string, n int64) {
		all.count(time.Unix(hour*3600, 0), what, int(n))
	})
}

// count adds to an hour.
func (a *activity) count(hour time.Time, what string, n int) {
	h := a.hour(hour)
	switch what {
	case "delivered":
		h.Delivered += n
	case "failed":
		h.Failed += n
	default:
		if h.Diverted == nil {
			h.Diverted = make(map[Trigger]int)
		}
		h.Diverted[longTrigger(what)] += n
	}
}

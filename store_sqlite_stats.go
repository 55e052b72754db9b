package diverted

import (
	"context"
	"database/sql"
	"time"
)

// Counting a million rows takes tenths of a second, so that the writer counts the diverted events of a webhook
// once, when it is asked first, and counts on with what it does itself. While other connections write, of which
// it does not know what, a reader counts anew, and the writer once a minute, in case they have ended. All else
// is read beside the writer, and costs it nothing.

// asideCount is how many diverted events a webhook has, by trigger.
type asideCount struct {
	n    map[Trigger]int // nil: not known any more
	seen int64           // sqliteWriter.dataSeen when it was counted
	at   time.Time       // when
}

// asideRecount is how long the writer leaves the counting to readers, once others were seen to write.
const asideRecount = time.Minute

// aside notes how many more events of a webhook are diverted.
func (tx *sqliteTx) aside(id int64, trigger Trigger, more int) {
	if more > 0 {
		tx.happened = append(tx.happened, happening{webhook: id, trigger: trigger})
	}
	tx.countAside(id, trigger, more)
}

// countAside is aside for what did not happen now. What has no trigger is not counted.
func (tx *sqliteTx) countAside(id int64, trigger Trigger, more int) {
	if c := tx.asides[id]; c != nil && c.n != nil && trigger != "" {
		if c.n[trigger] += more; c.n[trigger] == 0 {
			delete(c.n, trigger)
		}
	}
}

// countDiverted counts the diverted events of a webhook, by trigger.
func countDiverted(ctx context.Context, db sqliteQueryer, id int64) (map[Trigger]int, error) {
	counts := make(map[Trigger]int)
	err := eachTrigger(ctx, db, id, func(trigger string) error {
		var n int
		err := scan(db.QueryRowContext(ctx, `
			SELECT count(*) FROM diverted_deliveries INDEXED BY diverted_deliveries_by
			WHERE webhook = ? AND due IS NULL AND `+sqliteTrigger+` = ?`, id, trigger), &n)
		counts[longTrigger(trigger)] = n
		return err
	})
	return counts, err
}

// Stats implements [StatsStore].
func (s *SQLiteStore) Stats(ctx context.Context, query StatsQuery) (Stats, error) {
	if err := query.Validate(); err != nil {
		return Stats{}, err
	}
	const action = "read statistics"
	stats := Stats{Diverted: make(map[Trigger]int)}
	now := s.writer.wall()
	var webhooks, diverting []int64
	err := s.read(ctx, action, func(*sql.DB) (err error) {
		webhooks, diverting, err = s.readStats(ctx, query, now, &stats)
		return err
	})
	if err != nil {
		return Stats{}, err
	}
	var all, recent activity
	for known := false; !known; {
		all = activity{}
		wrote := s.writer.wrote.Load()
		err := s.read(ctx, action, func(*sql.DB) error { return s.readActivity(ctx, query, now, &all) })
		if err != nil {
			return Stats{}, err
		}
		err = s.write(ctx, action, func(tx *sqliteTx) error {
			// Else what was counted is in the database by now, and all lacks it or has it already.
			known, recent = tx.wrote.Load() == wrote, activity{}
			for _, id := range webhooks {
				if a := tx.activity[id]; a != nil {
					recent.add(a, query.Hours, now)
				}
			}
			return nil
		})
		if err != nil {
			return Stats{}, err
		}
	}
	all.add(&recent, query.Hours, now)
	all.tell(&stats)
	var foreign []int64
	for left := diverting; len(left) > 0; {
		var aside asideAnswer
		err := s.write(ctx, action, func(tx *sqliteTx) error {
			aside = tx.answerAside(left)
			return nil
		})
		if err != nil {
			return Stats{}, err
		}
		stats.addDiverted(aside.n)
		foreign, left = append(foreign, aside.foreign...), aside.left
	}
	err = s.read(ctx, action, func(db *sql.DB) error {
		for _, id := range foreign {
			n, err := countDiverted(ctx, db, id)
			if err != nil {
				return err
			}
			stats.addDiverted(n)
		}
		return nil
	})
	return stats, err
}

// asideAnswer is what the writer says of the diverted events of webhooks.
type asideAnswer struct {
	n       map[Trigger]int // in all, of those that it knows
	foreign []int64         // those that a reader is to count
	left    []int64         // those that another transaction is to be asked for
}

// answerAside says how many events webhooks have diverted. What it does not know it counts, of one webhook
// alone, so that the writer is not held up for longer.
func (tx *sqliteTx) answerAside(webhooks []int64) asideAnswer {
	answer := asideAnswer{n: make(map[Trigger]int)}
	counted := false
	for i, id := range webhooks {
		c := tx.asides[id]
		if c != nil && c.seen != tx.dataSeen {
			c.n = nil
		}
		switch {
		case c != nil && c.n != nil:
		case c != nil && tx.now.Sub(c.at).Abs() < asideRecount:
			answer.foreign = append(answer.foreign, id)
			continue
		case counted:
			answer.left = webhooks[i:]
			return answer
		default:
			n, err := countDiverted(context.Background(), tx.conn, id)
			if err != nil {
				tx.fail(err)
				return answer
			}
			c, counted = &asideCount{n: n, seen: tx.dataSeen, at: tx.now}, true
			tx.asides[id] = c
		}
		for trigger, n := range c.n {
			answer.n[trigger] += n
		}
	}
	return answer
}

func (s *Stats) addDiverted(counts map[Trigger]int) {
	for trigger, n := range counts {
		s.Diverted[trigger] += n
	}
}

// statsWhere returns the condition for the webhooks, as w, that a query is about.
func statsWhere(q StatsQuery) (where string, args []any) {
	switch {
	case !q.Webhook.IsZero():
		return `w.deleted = 0 AND w.tenant = ? AND w.locator = ?`, []any{q.Tenant[:], q.Webhook[:]}
	case q.Tenant != [16]byte{}:
		return `w.deleted = 0 AND w.tenant = ?`, []any{q.Tenant[:]}
	}
	return `w.deleted = 0`, nil
}

// readStats adds what is in the rows of the webhooks of a query and of their pending deliveries, and returns
// the webhooks, and those of them that have diverted events. It is one statement, and so of one moment. Its cost
// grows with the number of pending deliveries, 0.1 s for a million, since Due has to tell them apart.
func (s *SQLiteStore) readStats(ctx context.Context, query StatsQuery, now time.Time, stats *Stats) (webhooks, diverting []int64, err error) {
	where, args := statsWhere(query)
	stmt, err := s.often.get(ctx, `
		SELECT w.id, w.record IS NOT NULL, w.enabled, w.suspended_at,
			(SELECT count(*) FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = w.id AND due <= ?1),
			(SELECT count(*) FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = w.id AND due > ?1),
			(SELECT count(*) FROM diverted_deliveries INDEXED BY diverted_deliveries_due
				WHERE webhook = w.id AND due > ?1 AND due <= ?2 AND token IS NOT NULL),
			(SELECT accepted_at FROM diverted_deliveries INDEXED BY diverted_deliveries_due
				WHERE webhook = w.id AND due = 0 ORDER BY id LIMIT 1),
			(SELECT accepted_at FROM diverted_deliveries WHERE id = (
				SELECT min(id) FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = w.id AND due > 0)),
			EXISTS (SELECT 1 FROM diverted_deliveries INDEXED BY diverted_deliveries_diverted WHERE webhook = w.id AND due IS NULL)
		FROM diverted_webhooks w WHERE `+where)
	if err != nil {
		return nil, nil, err
	}
	// Of what is claimed before the statement is under way, the lease may end later than MaxLease from now.
	rows, err := stmt.QueryContext(ctx, append([]any{now.UnixMilli(), now.Add(2 * MaxLease).UnixMilli()}, args...)...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			w                    Webhook
			id                   int64
			known, diverts       bool
			due, waits, claimed  int
			suspended            sql.NullInt64
			oldestDue, oldestNot sql.NullInt64
		)
		if err := scan(rows, &id, &known, &w.Enabled, &suspended, &due, &waits, &claimed, &oldestDue, &oldestNot, &diverts); err != nil {
			return nil, nil, err
		}
		if w.SuspendedAt = fromMillis(suspended.Int64); known {
			stats.countWebhook(&w)
		}
		stats.Pending += due + waits
		if known && w.Active() {
			stats.Due += due + claimed
		}
		stats.OldestPending = earlier(stats.OldestPending, fromMillis(oldestDue.Int64))
		stats.OldestPending = earlier(stats.OldestPending, fromMillis(oldestNot.Int64))
		webhooks = append(webhooks, id)
		if diverts {
			diverting = append(diverting, id)
		}
	}
	return webhooks, diverting, rows.Err()
}

package diverted

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"time"
)

// Counting a million rows takes tenths of a second, so that the writer counts those of a webhook once, when
// it is asked first, and counts on with what it does itself. While other connections write, of which it does
// not know what, a reader counts anew.

// asideCount is how many diverted events a webhook has, by trigger.
type asideCount struct {
	n    map[Trigger]int
	seen int64 // sqliteWriter.dataSeen when it was counted
}

// aside notes that so many events more of a webhook are diverted.
func (tx *sqliteTx) aside(id int64, trigger Trigger, more int) {
	if more > 0 {
		tx.happened = append(tx.happened, happening{webhook: id, trigger: trigger})
	}
	if c := tx.asides[id]; c != nil {
		if c.n[trigger] += more; c.n[trigger] == 0 {
			delete(c.n, trigger)
		}
	}
}

// counts returns the numbers of a webhook as the writer knows them; ok says whether it does.
func (tx *sqliteTx) counts(id int64) (pending int, diverted map[Trigger]int, ok bool) {
	p, d := tx.pending[id], tx.asides[id]
	if p != nil && p.seen != tx.dataSeen || d != nil && d.seen != tx.dataSeen {
		return 0, nil, false
	}
	if d == nil {
		d = &asideCount{seen: tx.dataSeen}
		var err error
		d.n, err = countDiverted(context.Background(), tx.conn, id)
		if err != nil {
			tx.fail(err)
			return 0, nil, false
		}
		tx.asides[id] = d
	}
	return tx.pendingOf(id), maps.Clone(d.n), tx.fault == nil
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

// Stats is as in [StatsStore].
func (s *SQLiteStore) Stats(ctx context.Context, query StatsQuery) (Stats, error) {
	if err := query.Validate(); err != nil {
		return Stats{}, err
	}
	var stats Stats
	type counted struct {
		id     int64
		active bool
		known  bool // by the writer
	}
	var webhooks []counted
	var now time.Time
	err := s.write(ctx, "read statistics", func(tx *sqliteTx) error {
		stats, webhooks, now = Stats{Diverted: make(map[Trigger]int)}, nil, tx.now
		var all activity
		for _, row := range tx.statsWebhooks(query) {
			if row.known {
				stats.countWebhook(row.webhook)
			}
			pending, diverted, known := tx.counts(row.id)
			stats.addCounts(pending, diverted)
			webhooks = append(webhooks, counted{row.id, row.active(), known})
			tx.readActivity(row.id, query.Hours, &all)
		}
		all.tell(&stats)
		return nil
	})
	if err != nil {
		return Stats{}, err
	}
	err = s.read(ctx, "read statistics", func(db *sql.DB) error {
		for _, w := range webhooks {
			if !w.known {
				var pending int
				err := scan(db.QueryRowContext(ctx, countPending, w.id), &pending)
				if err != nil {
					return err
				}
				diverted, err := countDiverted(ctx, db, w.id)
				if err != nil {
					return err
				}
				stats.addCounts(pending, diverted)
			}
			if err := stats.readPending(ctx, db, w.id, w.active, now); err != nil {
				return err
			}
		}
		return nil
	})
	return stats, err
}

func (s *Stats) addCounts(pending int, diverted map[Trigger]int) {
	s.Pending += pending
	for trigger, n := range diverted {
		s.Diverted[trigger] += n
	}
}

// statsWebhooks returns the webhooks that a query is about.
func (tx *sqliteTx) statsWebhooks(q StatsQuery) []*sqliteWebhook {
	switch {
	case !q.Webhook.IsZero():
		if row := tx.webhook(WebhookKey{q.Tenant, q.Webhook}); row != nil {
			return []*sqliteWebhook{row}
		}
		return nil
	case q.Tenant != [16]byte{}:
		return tx.webhooks(q.Tenant)
	}
	var ids []int64
	tx.queryAll(`SELECT id FROM diverted_webhooks WHERE deleted = 0`, nil, func(rows *sql.Rows) error {
		var id int64
		err := scan(rows, &id)
		ids = append(ids, id)
		return err
	})
	var all []*sqliteWebhook
	for _, id := range ids {
		if row := tx.webhookByID(id); row != nil {
			all = append(all, row)
		}
	}
	return all
}

// readPending adds what is due of a webhook's pending deliveries, and finds the oldest. Its cost grows with
// the retries that wait, not with what is held or due.
func (s *Stats) readPending(ctx context.Context, db *sql.DB, id int64, active bool, now time.Time) error {
	for _, query := range []string{
		`SELECT accepted_at FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = ? AND due = 0 ORDER BY id LIMIT 1`,
		`SELECT accepted_at FROM diverted_deliveries WHERE id = (
			SELECT min(id) FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = ? AND due > 0)`,
	} {
		var accepted int64
		switch err := scan(db.QueryRowContext(ctx, query, id), &accepted); {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		default:
			s.OldestPending = earlier(s.OldestPending, fromMillis(accepted))
		}
	}
	if !active {
		return nil
	}
	var pending, waiting, claimed int
	err := scan(db.QueryRowContext(ctx, countPending, id), &pending)
	if err == nil {
		err = scan(db.QueryRowContext(ctx, `SELECT count(*) FROM diverted_deliveries INDEXED BY diverted_deliveries_due
			WHERE webhook = ? AND due > ?`, id, now.UnixMilli()), &waiting)
	}
	if err == nil {
		err = scan(db.QueryRowContext(ctx, `SELECT count(*) FROM diverted_deliveries INDEXED BY diverted_deliveries_due
			WHERE webhook = ? AND due > ? AND due <= ? AND token IS NOT NULL`,
			id, now.UnixMilli(), millisUp(now.Add(MaxLease))), &claimed)
	}
	s.Due += pending - waiting + claimed
	return err
}

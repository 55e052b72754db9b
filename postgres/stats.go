package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/divertedevents/diverted"
)

// asked is a table of the webhooks that a query of numbers is about.
const asked = `asked AS (
		SELECT id, enabled, suspended_at, record IS NOT NULL AS known FROM diverted.webhooks
		WHERE NOT deleted AND ($1::uuid IS NULL OR tenant = $1) AND ($2::uuid IS NULL OR locator = $2)
	)`

const (
	countHooks = `WITH ` + asked + `
		SELECT count(*) FILTER (WHERE known), count(*) FILTER (WHERE known AND suspended_at IS NOT NULL),
			count(*) FILTER (WHERE known AND NOT enabled), min(suspended_at) FILTER (WHERE known)
		FROM asked`

	// countAllPending reads indexes alone, as far as the table is vacuumed.
	countAllPending = `WITH ` + asked + `
		SELECT coalesce(sum(p.n), 0)::bigint, coalesce(sum(p.due) FILTER (WHERE enabled AND suspended_at IS NULL), 0)::bigint, min(p.oldest)
		FROM asked, LATERAL (
			SELECT count(*) AS n, count(*) FILTER (WHERE due <= now()) AS due, least(
				(SELECT accepted_at FROM diverted.deliveries WHERE webhook = asked.id AND due = '-infinity' ORDER BY id LIMIT 1),
				(SELECT min(accepted_at) FROM diverted.deliveries WHERE webhook = asked.id AND due > '-infinity')) AS oldest
			FROM diverted.deliveries WHERE webhook = asked.id AND due IS NOT NULL) p
		WHERE known`

	countDiverted = `WITH ` + asked + `
		SELECT d.diverted_by, count(*)
		FROM asked JOIN diverted.deliveries d ON d.webhook = asked.id AND d.due IS NULL GROUP BY 1`

	selectHours = `WITH ` + asked + `
		SELECT h.hour, h.what, sum(h.n)::bigint FROM asked JOIN diverted.hours h ON h.webhook = asked.id
		WHERE h.hour > date_trunc('hour', now(), 'UTC') - $3::bigint * interval '1 hour' GROUP BY 1, 2`
)

// selectLast finds the last hour of each webhook in which it was delivered to, and that in which it failed.
var selectLast = `WITH ` + asked + `
	SELECT max(d.last), max(f.last) FROM asked ` + lastHour("d", happenedDelivered) + lastHour("f", happenedFailed)

func lastHour(name, what string) string {
	return `LEFT JOIN LATERAL (
		SELECT last FROM diverted.hours WHERE webhook = asked.id AND what = '` + what + `'
			AND hour > date_trunc('hour', now(), 'UTC') - $3::bigint * interval '1 hour'
		ORDER BY hour DESC LIMIT 1) ` + name + ` ON true `
}

// Stats implements [diverted.StatsStore]. It counts in the indexes, which takes some tenths of a second for each
// million of deliveries.
func (s *Store) Stats(ctx context.Context, query diverted.StatsQuery) (diverted.Stats, error) {
	if err := query.Validate(); err != nil {
		return diverted.Stats{}, err
	}
	done, err := s.begin(ctx, "count")
	if err != nil {
		return diverted.Stats{}, err
	}
	defer done()
	tenant := pgtype.UUID{Bytes: query.Tenant, Valid: query.Tenant != uuid.Nil}
	webhook := pgtype.UUID{Bytes: query.Webhook, Valid: !query.Webhook.IsZero()}
	var stats diverted.Stats
	err = s.read(ctx, func(b *pgx.Batch) {
		stats = diverted.Stats{Diverted: make(map[diverted.Trigger]int)}
		b.Queue(s.q(countHooks), tenant, webhook).QueryRow(func(r pgx.Row) error {
			var since pgtype.Timestamptz
			err := r.Scan(&stats.Webhooks, &stats.Suspended, &stats.Disabled, &since)
			stats.SuspendedAt = timeOf(since)
			return err
		})
		b.Queue(s.q(countAllPending), tenant, webhook).QueryRow(func(r pgx.Row) error {
			var oldest pgtype.Timestamptz
			err := r.Scan(&stats.Pending, &stats.Due, &oldest)
			stats.OldestPending = timeOf(oldest)
			return err
		})
		b.Queue(s.q(countDiverted), tenant, webhook).Query(func(r pgx.Rows) error {
			for r.Next() {
				var trigger string
				var n int
				if err := r.Scan(&trigger, &n); err != nil {
					return err
				}
				stats.Diverted[diverted.Trigger(trigger)] = n
			}
			return r.Err()
		})
		b.Queue(s.q(selectLast), tenant, webhook, diverted.MaxStatsHours).QueryRow(func(r pgx.Row) error {
			var success, failure pgtype.Timestamptz
			err := r.Scan(&success, &failure)
			stats.LastSuccess, stats.LastFailure = timeOf(success), timeOf(failure)
			return err
		})
		if query.Hours > 0 {
			b.Queue(s.q(selectHours), tenant, webhook, query.Hours).Query(func(r pgx.Rows) error {
				return scanHours(r, &stats)
			})
		}
	})
	return stats, wrap("count", err)
}

func scanHours(r pgx.Rows, stats *diverted.Stats) error {
	hours := make(map[time.Time]*diverted.HourStats)
	for r.Next() {
		var hour time.Time
		var what string
		var n int
		if err := r.Scan(&hour, &what, &n); err != nil {
			return err
		}
		hour = hour.UTC()
		h := hours[hour]
		if h == nil {
			h = &diverted.HourStats{Hour: hour}
			hours[hour] = h
		}
		switch what {
		case happenedDelivered:
			h.Delivered = n
		case happenedFailed:
			h.Failed = n
		default:
			if h.Diverted == nil {
				h.Diverted = make(map[diverted.Trigger]int)
			}
			h.Diverted[diverted.Trigger(what)] = n
		}
	}
	for _, h := range hours {
		stats.Hours = append(stats.Hours, *h)
	}
	slices.SortFunc(stats.Hours, func(a, b diverted.HourStats) int { return cmp.Compare(a.Hour.Unix(), b.Hour.Unix()) })
	return r.Err()
}

package diverted

import (
	"cmp"
	"database/sql"
	"testing"
	"time"

	"github.com/divertedevents/diverted/internal/testenv"
)

// BenchmarkSQLiteOperator measures what an operator's page asks, beside many diverted events of one webhook,
// 10,000, or as many as the environment's DIVERTED_EVENTS says, and a tenth as many that are pending.
func BenchmarkSQLiteOperator(b *testing.B) {
	n := testenv.Number(b, "DIVERTED_EVENTS", 10_000)
	s, path := openTestStore(b)
	w, err := s.CreateWebhook(b.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	if err != nil {
		b.Fatal(err)
	}
	middle := fillDiverted(b, path, n)

	list := func(f DivertedFilter) func() error {
		return func() error {
			page, err := s.ListDiverted(b.Context(), DivertedQuery{Webhook: w.Key(), Filter: f})
			if err == nil && len(page.Events) != DefaultPage {
				b.Fatalf("%d events", len(page.Events))
			}
			return err
		}
	}
	for _, bench := range []struct {
		name string
		ask  func() error
	}{
		{"page", list(DivertedFilter{})},
		{"page of a trigger", list(DivertedFilter{Trigger: "404"})},
		{"page of a class", list(DivertedFilter{Trigger: "5xx"})},
		{"page of a type", list(DivertedFilter{EventType: "order.paid"})},
		{"page of a class and a type", list(DivertedFilter{Trigger: "5xx", EventType: "order.paid"})},
		{"page of the last 5,000", list(DivertedFilter{Since: middle.Add(time.Duration(n/2-5000) * time.Millisecond)})},
		{"page of the first half", list(DivertedFilter{Until: middle})},
		{"page of the last half", list(DivertedFilter{Since: middle})},
		{"page of the pending", func() error {
			page, err := s.ListPending(b.Context(), DivertedQuery{Webhook: w.Key()})
			return cmp.Or(err, wrongLength(len(page.Deliveries), min(DefaultPage, n/10)))
		}},
		{"statistics", func() error {
			stats, err := s.Stats(b.Context(), StatsQuery{Tenant: acme, Webhook: w.Locator, Hours: 24})
			return cmp.Or(err, wrongLength(stats.DivertedInAll(), n))
		}},
		{"step of a dry run", func() error {
			result, err := s.ResendAll(b.Context(), BulkRequest{Webhook: w.Key(), Filter: DivertedFilter{Trigger: "5xx"}, DryRun: true})
			return cmp.Or(err, wrongLength(result.Matched, DefaultBulk))
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			if err := bench.ask(); err != nil { // what is counted once is counted
				b.Fatal(err)
			}
			testenv.Median(b, bench.ask)
		})
	}
}

func wrongLength(got, want int) error {
	if got == want {
		return nil
	}
	return invalid("length", "must be %d, was %d", want, got)
}

// fillDiverted diverts n events to the first webhook of a file, a millisecond apart, has a tenth as many pending
// among them, and returns the time in the middle.
func fillDiverted(b *testing.B, path string, n int) time.Time {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=synchronous(OFF)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	began := time.Now().Add(-time.Duration(n) * time.Millisecond)
	_, err = db.ExecContext(b.Context(), `
		WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
		INSERT INTO diverted_deliveries (webhook, event, request, type, accepted_at, attempts, losses, was_diverted, released, diverted_at, failure, body)
		SELECT (SELECT min(id) FROM diverted_webhooks), CAST(printf('%016d', i) AS BLOB), CAST(printf('%016d', i) AS BLOB),
			CASE i % 5 WHEN 0 THEN 'order.paid' ELSE 'invoice.sent' END, ?2 + i, 11, 0, 0, 0, ?2 + i,
			'{"trigger":"' || CASE i % 7 WHEN 0 THEN '404' WHEN 1 THEN 'timeout' WHEN 2 THEN '500' ELSE '503' END
				|| '","message":"503 Service Unavailable","status":503,"at":"2026-11-23T17:58:00.123Z"}',
			CAST(printf('{"note":"%0480d"}', i) AS BLOB)
		FROM n`, n, began.UnixMilli())
	if err == nil {
		_, err = db.ExecContext(b.Context(), `
			INSERT INTO diverted_deliveries (webhook, event, request, type, accepted_at, due, attempts, losses, was_diverted, released, body)
			SELECT webhook, CAST(substr(event, 1, 15) || 'p' AS BLOB), request, type, accepted_at, 0, 0, 0, 0, 0, body
			FROM diverted_deliveries WHERE substr(event, 16) = x'35'`)
	}
	if err != nil {
		b.Fatal(err)
	}
	return began.Add(time.Duration(n/2) * time.Millisecond)
}

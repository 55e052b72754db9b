package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
)

// BenchmarkOperator measures what an operator's page asks, beside many diverted events of one webhook: 10,000, or as
// many as the environment's DIVERTED_EVENTS says.
func BenchmarkOperator(b *testing.B) {
	n := testenv.Number(b, "DIVERTED_EVENTS", 10_000)
	pool, schema := newPool(b), newSchema()
	s := open(b, pool, schema)
	w := newWebhook(b, s, uuid.New())
	// One vacuum, not two that are in each other's way.
	execute(b, pool, `ALTER TABLE `+schema+`.deliveries SET (autovacuum_enabled = off)`)
	// A millisecond apart, as if they had been diverted one after another.
	began := time.Now().Add(-time.Duration(n) * time.Millisecond)
	middle := began.Add(time.Duration(n/2) * time.Millisecond)
	execute(b, pool, `
		INSERT INTO `+schema+`.deliveries (webhook, event, request, type, accepted_at, attempts, diverted_at, failure, body)
		SELECT w.id, lpad(to_hex(i), 32, '0')::uuid, gen_random_uuid(), CASE i % 5 WHEN 0 THEN 'order.paid' ELSE 'invoice.sent' END, x.at, 11, x.at,
			'{"trigger":"' || CASE i % 7 WHEN 0 THEN '404' WHEN 1 THEN 'timeout' WHEN 2 THEN '500' ELSE '503' END
				|| '","message":"503 Service Unavailable","status":503,"at":"2026-11-23T17:58:00.123Z"}',
			convert_to('{"note":"' || lpad(i::text, 480, '0') || '"}', 'UTF8')
		FROM `+schema+`.webhooks w, generate_series(0, $1::int - 1) i, LATERAL (SELECT $2::timestamptz + i * interval '1 millisecond' AS at) x`, n, began)
	accept(b, s, message(b, w)) // its locator comes after all of them
	execute(b, pool, `VACUUM (ANALYZE, FREEZE) `+schema+`.deliveries`)

	page := func(f diverted.DivertedFilter) func() (int, error) {
		return func() (int, error) {
			page, err := s.ListDiverted(b.Context(), diverted.DivertedQuery{Webhook: w.Key(), Filter: f})
			return len(page.Events), err
		}
	}
	for _, bench := range []struct {
		name string
		want int
		ask  func() (int, error)
	}{
		{"page", diverted.DefaultPage, page(diverted.DivertedFilter{})},
		{"page of a trigger", diverted.DefaultPage, page(diverted.DivertedFilter{Trigger: "404"})},
		{"page of a class", diverted.DefaultPage, page(diverted.DivertedFilter{Trigger: "5xx"})},
		{"page of a class that is not there", 0, page(diverted.DivertedFilter{Trigger: "3xx"})},
		{"page of a type", diverted.DefaultPage, page(diverted.DivertedFilter{EventType: "order.paid"})},
		{"page of a type that is not there", 0, page(diverted.DivertedFilter{EventType: "order.lost"})},
		{"page of a class and a type", diverted.DefaultPage, page(diverted.DivertedFilter{Trigger: "5xx", EventType: "order.paid"})},
		{"page of the last 5,000", diverted.DefaultPage, page(diverted.DivertedFilter{Since: middle.Add(time.Duration(n/2-5000) * time.Millisecond)})},
		{"page of the first half", diverted.DefaultPage, page(diverted.DivertedFilter{Until: middle})},
		{"page of the last half", diverted.DefaultPage, page(diverted.DivertedFilter{Since: middle})},
		{"page of the pending", 1, func() (int, error) {
			page, err := s.ListPending(b.Context(), diverted.DivertedQuery{Webhook: w.Key()})
			return len(page.Deliveries), err
		}},
		{"statistics", n, func() (int, error) {
			stats, err := s.Stats(b.Context(), diverted.StatsQuery{Tenant: w.Tenant, Webhook: w.Locator, Hours: 24})
			return stats.DivertedInAll(), err
		}},
		{"step of a dry run", diverted.DefaultBulk, func() (int, error) {
			result, err := s.ResendAll(b.Context(), diverted.BulkRequest{Webhook: w.Key(), Filter: diverted.DivertedFilter{Trigger: "5xx"}, DryRun: true})
			return result.Matched, err
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			testenv.Median(b, func() error {
				got, err := bench.ask()
				if err == nil && got != bench.want {
					err = fmt.Errorf("%d, not %d", got, bench.want)
				}
				return err
			})
		})
	}
}

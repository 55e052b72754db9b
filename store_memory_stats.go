package diverted

import (
	"context"

	"github.com/oklog/ulid/v2"
)

// Stats implements [StatsStore]. It counts anew each time.
func (s *MemoryStore) Stats(ctx context.Context, query StatsQuery) (stats Stats, err error) {
	err = s.do(ctx, func(tx *memoryTx) error {
		if err := query.Validate(); err != nil {
			return err
		}
		stats.Diverted = make(map[Trigger]int)
		var all activity
		for tenant, webhooks := range tx.tenants {
			for w := range webhooks.from(ulid.ULID{}, 0) {
				if query.selects(WebhookKey{tenant, w.key.Webhook}) {
					tx.count(w, &stats)
					all.add(&w.activity, query.Hours, tx.now)
				}
			}
		}
		all.tell(&stats)
		return nil
	})
	return stats, err
}

// selects says whether the query is about a webhook.
func (q *StatsQuery) selects(w WebhookKey) bool {
	return (q.Tenant == w.Tenant || q.Tenant == [16]byte{}) && (q.Webhook == w.Webhook || q.Webhook.IsZero())
}

// count adds the numbers of a webhook.
func (tx *memoryTx) count(w *memoryWebhook, s *Stats) {
	if w.webhook != nil {
		s.countWebhook(w.webhook)
	}
	for d := range w.pending.from(ulid.ULID{}, 0) {
		s.Pending++
		if w.active() && (d.token != 0 || tx.over(d.due)) {
			s.Due++
		}
		s.OldestPending = earlier(s.OldestPending, d.acceptedAt)
	}
	for d := range w.diverted.from(ulid.ULID{}, 0) {
		s.Diverted[d.failure().Trigger]++
	}
}

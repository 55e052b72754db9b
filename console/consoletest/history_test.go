package consoletest

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// history is a store with a past that nobody has to wait for: it tells what its fields have otherwise than it was.
type history struct {
	*diverted.MemoryStore
	events   map[ulid.ULID]pastEvent                  // what is diverted, by event
	webhooks map[ulid.ULID]*pastWebhook               // by webhook
	pending  map[ulid.ULID][]diverted.PendingDelivery // by webhook, ascending by event
}

// pastEvent is what a diverted event went through.
type pastEvent struct {
	accepted time.Time
	failures []diverted.Failure
}

// pastWebhook is what a webhook went through.
type pastWebhook struct {
	suspended, success, failure time.Time
	hours                       map[time.Time]*diverted.HourStats
}

// hour returns the numbers of the hour that a moment is in.
func (w *pastWebhook) hour(at time.Time) *diverted.HourStats {
	hour := at.UTC().Truncate(time.Hour)
	if w.hours[hour] == nil {
		w.hours[hour] = &diverted.HourStats{Hour: hour, Diverted: map[diverted.Trigger]int{}}
	}
	return w.hours[hour]
}

// failed counts the attempts of a delivery, and if it was diverted that too.
func (w *pastWebhook) failed(failures []diverted.Failure, wasDiverted bool) {
	for _, f := range failures {
		w.hour(f.At).Failed++
		if f.At.After(w.failure) {
			w.failure = f.At
		}
	}
	if wasDiverted {
		last := failures[len(failures)-1]
		w.hour(last.At).Diverted[last.Trigger]++
	}
}

func (h *history) tell(e *diverted.DivertedEvent) {
	if past, known := h.events[e.Event]; known {
		e.AcceptedAt, e.Failures, e.Attempts = past.accepted, past.failures, len(past.failures)
		e.Failure = past.failures[len(past.failures)-1]
		e.DivertedAt = e.Failure.At
	}
}

func (h *history) FetchDiverted(ctx context.Context, key diverted.Key) (diverted.DivertedEvent, error) {
	e, err := h.MemoryStore.FetchDiverted(ctx, key)
	h.tell(&e)
	return e, err
}

func (h *history) ListDiverted(ctx context.Context, query diverted.DivertedQuery) (diverted.DivertedPage, error) {
	page, err := h.MemoryStore.ListDiverted(ctx, query)
	for i := range page.Events {
		h.tell(&page.Events[i])
	}
	return page, err
}

func (h *history) ListPending(ctx context.Context, query diverted.DivertedQuery) (diverted.PendingPage, error) {
	all, known := h.pending[query.Webhook.Webhook]
	if !known {
		return h.MemoryStore.ListPending(ctx, query)
	}
	all = slices.DeleteFunc(slices.Clone(all), func(d diverted.PendingDelivery) bool { return d.Event.Compare(query.After) <= 0 })
	n := min(len(all), query.Limit)
	return diverted.PendingPage{Deliveries: all[:n], More: n < len(all)}, nil
}

func (h *history) suspended(w *diverted.Webhook) {
	if past, known := h.webhooks[w.Locator]; known && w.Suspended() {
		w.SuspendedAt = past.suspended
	}
}

func (h *history) FetchWebhook(ctx context.Context, key diverted.WebhookKey) (diverted.Webhook, error) {
	w, err := h.MemoryStore.FetchWebhook(ctx, key)
	h.suspended(&w)
	return w, err
}

func (h *history) ListWebhooks(ctx context.Context, query diverted.WebhookQuery) (diverted.WebhookPage, error) {
	page, err := h.MemoryStore.ListWebhooks(ctx, query)
	for i := range page.Webhooks {
		h.suspended(&page.Webhooks[i])
	}
	return page, err
}

func (h *history) Stats(ctx context.Context, query diverted.StatsQuery) (diverted.Stats, error) {
	stats, err := h.MemoryStore.Stats(ctx, query)
	if query.Tenant == uuid.Nil || h.webhooks == nil {
		return stats, err
	}
	stats.Hours = nil
	for webhook, past := range h.webhooks {
		if query.Webhook != webhook && !query.Webhook.IsZero() {
			continue
		}
		for _, hour := range past.hours {
			if time.Since(hour.Hour) < time.Duration(query.Hours)*time.Hour {
				stats.Hours = append(stats.Hours, *hour)
			}
		}
		latest := func(a *time.Time, b time.Time) {
			if b.After(*a) {
				*a = b
			}
		}
		latest(&stats.LastSuccess, past.success)
		latest(&stats.LastFailure, past.failure)
		if !past.suspended.IsZero() && past.suspended.Before(stats.SuspendedAt) {
			stats.SuspendedAt = past.suspended
		}
		for _, d := range h.pending[webhook] {
			if stats.Pending++; stats.OldestPending.IsZero() || d.AcceptedAt.Before(stats.OldestPending) {
				stats.OldestPending = d.AcceptedAt
			}
		}
	}
	return stats, err
}

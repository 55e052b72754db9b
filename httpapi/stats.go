package httpapi

import (
	"time"

	"github.com/divertedevents/diverted"
)

// statsResponse are the numbers of a webhook on the wire.
type statsResponse struct {
	Pending           int                      `json:"pending"`
	Due               int                      `json:"due"`
	OldestPending     *string                  `json:"oldestPending"`
	Diverted          int                      `json:"diverted"`
	DivertedByTrigger map[diverted.Trigger]int `json:"divertedByTrigger"`
	LastSuccess       *string                  `json:"lastSuccess"`
	LastFailure       *string                  `json:"lastFailure"`
	SuspendedSince    *string                  `json:"suspendedSince"`
	// Hours is absent where it was not asked for.
	Hours []hourResponse `json:"hours,omitzero"`
}

// tenantStatsResponse are the numbers of all webhooks of a tenant.
type tenantStatsResponse struct {
	Webhooks  int `json:"webhooks"`
	Suspended int `json:"suspended"`
	Disabled  int `json:"disabled"`
	statsResponse
}

type hourResponse struct {
	Hour              string                   `json:"hour"`
	Delivered         int                      `json:"delivered"`
	Failed            int                      `json:"failed"`
	Diverted          int                      `json:"diverted"`
	DivertedByTrigger map[diverted.Trigger]int `json:"divertedByTrigger"`
}

func newStatsResponse(s diverted.Stats, hours bool) statsResponse {
	moment := func(t time.Time) *string {
		if t.IsZero() {
			return nil
		}
		return new(diverted.FormatTime(t))
	}
	r := statsResponse{
		Pending: s.Pending, Due: s.Due, OldestPending: moment(s.OldestPending),
		Diverted: s.DivertedInAll(), DivertedByTrigger: byTrigger(s.Diverted),
		LastSuccess: moment(s.LastSuccess), LastFailure: moment(s.LastFailure), SuspendedSince: moment(s.SuspendedAt),
	}
	if !hours {
		return r
	}
	r.Hours = make([]hourResponse, len(s.Hours))
	for i, hour := range s.Hours {
		r.Hours[i] = hourResponse{
			Hour: diverted.FormatTime(hour.Hour), Delivered: hour.Delivered, Failed: hour.Failed,
			Diverted: diverted.Stats{Diverted: hour.Diverted}.DivertedInAll(), DivertedByTrigger: byTrigger(hour.Diverted),
		}
	}
	return r
}

// byTrigger is {} where there are none, never null.
func byTrigger(counts map[diverted.Trigger]int) map[diverted.Trigger]int {
	if counts == nil {
		return map[diverted.Trigger]int{}
	}
	return counts
}

// stats reads what a route of numbers is asked, and asks the store. The query's webhook is zero on the route of a tenant.
func (h *Handler) stats(c *call) (stats diverted.Stats, hours bool, err error) {
	var f faults
	query := diverted.StatsQuery{Tenant: c.tenant, Webhook: c.webhook, Hours: c.number(&f, "hours", 0, 1, diverted.MaxStatsHours)}
	if err := f.Err(errParameter); err != nil {
		return diverted.Stats{}, false, err
	}
	stats, err = h.statistics.Stats(c.r.Context(), query)
	return stats, query.Hours > 0, err
}

func (h *Handler) tenantStats(c *call) (answer, error) {
	stats, hours, err := h.stats(c)
	if err != nil {
		return answer{}, err
	}
	return ok(tenantStatsResponse{stats.Webhooks, stats.Suspended, stats.Disabled, newStatsResponse(stats, hours)})
}

// webhookStats answers 404 for an unknown webhook where this API has webhooks; where it has none, as for a
// host that delivers by itself, any webhook may have diverted events.
func (h *Handler) webhookStats(c *call) (answer, error) {
	stats, hours, err := h.stats(c)
	if err == nil && h.config.Webhooks != nil {
		_, err = h.config.Webhooks.FetchWebhook(c.r.Context(), c.webhookKey())
	}
	if err != nil {
		return answer{}, err
	}
	return ok(newStatsResponse(stats, hours))
}

package httpapi

import (
	"context"

	"github.com/divertedevents/diverted"
)

// pendingStore lists what is on its way. Every [diverted.Store] does.
type pendingStore interface {
	ListPending(ctx context.Context, query diverted.DivertedQuery) (diverted.PendingPage, error)
}

// pendingResponse is a pending delivery on the wire. Its failure is the last one, and absent before the first.
type pendingResponse struct {
	EventLocator   string `json:"eventLocator"`
	RequestLocator string `json:"requestLocator"`
	EventType      string `json:"eventType"`
	AcceptedAt     string `json:"acceptedAt"`
	// Due is absent where that is now, or as soon as the webhook is active.
	Due              string `json:"due,omitempty"`
	Claimed          bool   `json:"claimed"`
	Attempts         int    `json:"attempts"`
	FailureMessage   string `json:"failureMessage,omitempty"`
	FailureTimestamp string `json:"failureTimestamp,omitempty"`
	FailureTrigger   string `json:"failureTrigger,omitempty"`
}

func newPendingResponse(d diverted.PendingDelivery) pendingResponse {
	r := pendingResponse{
		EventLocator:   d.Event.String(),
		RequestLocator: d.RequestLocator.String(),
		EventType:      d.EventType,
		AcceptedAt:     diverted.FormatTime(d.AcceptedAt),
		Claimed:        d.Claimed,
		Attempts:       d.Attempts,
	}
	if !d.Due.IsZero() {
		r.Due = diverted.FormatTime(d.Due)
	}
	if f := d.Failure; f != nil {
		r.FailureMessage, r.FailureTimestamp, r.FailureTrigger = f.Message, diverted.FormatTime(f.At), string(f.Trigger)
	}
	return r
}

func (h *Handler) listPending(c *call) (answer, error) {
	var f faults
	query := diverted.DivertedQuery{Webhook: c.webhookKey()}
	query.Offset, query.Limit, query.After = c.page(&f, diverted.MaxPage)
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}
	page, err := h.pending.ListPending(c.r.Context(), query)
	if err != nil {
		return answer{}, err
	}
	a, err := ok(each(page.Deliveries, newPendingResponse))
	if n := len(page.Deliveries); page.More && n > 0 {
		a.header = c.next(query.Limit, page.Deliveries[n-1].Event)
	}
	return a, err
}

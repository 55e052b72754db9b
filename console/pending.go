package console

import (
	"github.com/divertedevents/diverted"
)

// pendingView is the list of a webhook's pending deliveries.
type pendingView struct {
	frame
	webhookHead
	// Active: the webhook is delivered to.
	Active      bool
	Rows        []pendingRow
	First, Next string
	DivertAll   string
}

// pendingRow is a delivery on its way.
type pendingRow struct {
	Locator, Type string
	AcceptedAt    moment
	Attempts      int
	// Due is when it is attempted next. Zero: as soon as its turn comes, or its webhook is active.
	Due     moment
	Claimed bool
	// Trigger and Message are those of the last failure; empty: there is none.
	Trigger diverted.Trigger
	Message string
}

func (c *call) listPending() (answer, error) {
	var f faults
	after := c.query.locator(&f, "after")
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}
	w, known, err := c.fetchWebhook()
	if err != nil {
		return answer{}, err
	}
	page, err := c.h.config.Store.ListPending(c.r.Context(), diverted.DivertedQuery{Webhook: c.webhookKey(), After: after, Limit: eventsPage})
	if err != nil {
		return answer{}, err
	}
	n, err := c.numbersOf(c.webhook, 24)
	if err != nil {
		return answer{}, err
	}
	v := pendingView{frame: c.frame("Pending: " + w.Name), webhookHead: c.head(w, known, n, "pending"), Active: w.Active()}
	for _, d := range page.Deliveries {
		row := pendingRow{
			Locator: d.Event.String(), Type: d.EventType, AcceptedAt: c.moment(d.AcceptedAt), Attempts: d.Attempts,
			Due: c.moment(d.Due), Claimed: d.Claimed,
		}
		if d.Failure != nil {
			row.Trigger, row.Message = d.Failure.Trigger, visible(d.Failure.Message)
		}
		v.Rows = append(v.Rows, row)
	}
	if !after.IsZero() {
		v.First = c.webhookLink("pending")
	}
	if k := len(page.Deliveries); page.More && k > 0 {
		v.Next = c.webhookLink("pending") + "?after=" + page.Deliveries[k-1].Event.String()
	}
	if c.h.bulk != nil && known && !w.Active() && len(v.Rows) > 0 && c.may(divertAll.permissions...) {
		v.DivertAll = c.webhookLink(divertAll.path)
	}
	return render("pending", v), nil
}

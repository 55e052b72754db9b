package httpapi

import "github.com/divertedevents/diverted"

// divertedEventResponse is a diverted event on the wire.
type divertedEventResponse struct {
	EventLocator     string `json:"eventLocator"`
	RequestLocator   string `json:"requestLocator"`
	FailureMessage   string `json:"failureMessage"`
	FailureTimestamp string `json:"failureTimestamp"`
	FailureTrigger   string `json:"failureTrigger"`
}

func divertedResponse(e diverted.DivertedEvent) divertedEventResponse {
	return divertedEventResponse{
		EventLocator:     e.Event.String(),
		RequestLocator:   e.RequestLocator.String(),
		FailureMessage:   e.Failure.Message,
		FailureTimestamp: diverted.FormatTime(e.Failure.At),
		FailureTrigger:   string(e.Failure.Trigger),
	}
}

func (h *Handler) fetchDiverted(c *call) (answer, error) {
	var f faults
	extended := c.flag(&f, "extended")
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}
	if extended != nil && *extended {
		return h.fetchExtended(c)
	}
	event, err := h.config.Diverted.FetchDiverted(c.r.Context(), c.key())
	if err != nil {
		return answer{}, err
	}
	return ok(divertedResponse(event))
}

func (h *Handler) listDiverted(c *call) (answer, error) {
	var f faults
	query := diverted.DivertedQuery{Webhook: c.webhookKey(), Filter: c.filter(&f)}
	query.Offset, query.Limit, query.After = c.page(&f, diverted.MaxPage)
	if extended := c.flag(&f, "extended"); extended != nil {
		query.Failures = *extended
	}
	if query.Failures && query.Limit > maxExtended {
		f.Add("count", "must be a number from 1 to %d with extended=true, was %d", maxExtended, query.Limit)
	}
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}
	page, err := h.config.Diverted.ListDiverted(c.r.Context(), query)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if query.Failures {
		a, err = ok(each(page.Events, extendedResponse))
	} else {
		a, err = ok(each(page.Events, divertedResponse))
	}
	if n := len(page.Events); page.More && n > 0 {
		a.header = c.next(query.Limit, page.Events[n-1].Event)
	}
	return a, err
}

func (h *Handler) deleteDiverted(c *call) (answer, error) {
	if err := h.config.Diverted.DeleteDiverted(c.r.Context(), c.key()); err != nil {
		return answer{}, err
	}
	return ok(empty{})
}

func (h *Handler) expungeDiverted(c *call) (answer, error) {
	if err := h.retention.Expunge(c.r.Context(), c.key()); err != nil {
		return answer{}, err
	}
	return ok(empty{})
}

func (h *Handler) resendDiverted(c *call) (answer, error) {
	resend := h.config.Diverted.Resend
	if h.config.Resend != nil {
		resend = h.host.One
	}
	if err := resend(c.r.Context(), c.key()); err != nil {
		return answer{}, err
	}
	return ok(empty{})
}

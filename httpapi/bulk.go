package httpapi

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/divertedevents/diverted"
)

// bulkResponse is what a step did. Next is absent after the last one.
type bulkResponse struct {
	Matched int    `json:"matched"`
	Done    int    `json:"done"`
	Next    string `json:"next,omitempty"`
}

// stepFunc is a step of a [diverted.BulkStore].
type stepFunc func(context.Context, diverted.BulkRequest) (diverted.BulkResult, error)

func (h *Handler) resendAll(c *call) (answer, error) {
	if h.config.Resend != nil {
		return c.step(func(ctx context.Context, request diverted.BulkRequest) (diverted.BulkResult, error) {
			return h.host.All(ctx, c.report(), request)
		})
	}
	return c.step(h.bulk.ResendAll)
}

func (h *Handler) deleteAll(c *call) (answer, error) { return c.step(h.bulk.DeleteAll) }

func (h *Handler) divertAll(c *call) (answer, error) {
	a, err := c.step(h.bulk.DivertAll)
	if errors.Is(err, diverted.ErrConflict) {
		return a, errActive
	}
	return a, err
}

// step makes one step of a bulk call. Nothing is remembered between two of them.
func (c *call) step(do stepFunc) (answer, error) {
	request, err := c.readStep()
	if err != nil {
		return answer{}, err
	}
	result, err := do(c.r.Context(), request)
	if err != nil {
		return answer{}, err
	}
	response := bulkResponse{Matched: result.Matched, Done: result.Done}
	if result.More {
		response.Next = c.cursor(request, result)
	}
	return ok(response)
}

// readStep reads what a step selects. That it selects everything has to be said: a filter that was forgotten,
// or lost on the way, must not empty a webhook.
func (c *call) readStep() (diverted.BulkRequest, error) {
	var f faults
	request := diverted.BulkRequest{
		Webhook: c.webhookKey(),
		Filter:  c.filter(&f),
		Limit:   c.number(&f, "limit", diverted.DefaultBulk, 1, diverted.MaxBulk),
	}
	if dryRun := c.flag(&f, "dryRun"); dryRun != nil {
		request.DryRun = *dryRun
	}
	all := c.flag(&f, "all")
	if f.None() {
		switch everything := all != nil && *all; {
		case everything && !request.Filter.IsZero():
			f.Add("all", "contradicts the filter beside it")
		case !everything && request.Filter.IsZero():
			filters := slices.DeleteFunc(slices.Clone(c.route.query), func(name string) bool { return !slices.Contains(filterParameters, name) })
			f.Add("all", "must be true where there is no filter (%s)", strings.Join(filters, ", "))
		default:
			c.readCursor(&f, &request)
		}
	}
	return request, f.Err(errParameter)
}

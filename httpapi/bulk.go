package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

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
			return h.resendAllByHost(ctx, c, request)
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
	if len(f.fields) == 0 {
		switch everything := all != nil && *all; {
		case everything && !request.Filter.IsZero():
			f.add("all", "contradicts the filter beside it")
		case !everything && request.Filter.IsZero():
			filters := slices.DeleteFunc(slices.Clone(c.route.query), func(name string) bool { return !slices.Contains(filterParameters, name) })
			f.add("all", "must be true where there is no filter (%s)", strings.Join(filters, ", "))
		default:
			c.readCursor(&f, &request)
		}
	}
	return request, f.err(errParameter)
}

// hostResends is how many events of one step are at a host's resend at once.
const hostResends = 16

// resendAllByHost hands each event of a step to the host, and deletes those that it took. What the host does
// not take stays where it is, and is matched but not done. An error of the store ends the step; what the host
// took by then is deleted, and the step can be repeated.
func (h *Handler) resendAllByHost(ctx context.Context, c *call, request diverted.BulkRequest) (diverted.BulkResult, error) {
	// A dry run says which events the step has, and by whose clock it was first made.
	dry := request
	dry.DryRun = true
	result, err := h.bulk.ResendAll(ctx, dry)
	if err != nil || request.DryRun || result.Matched == 0 {
		return result, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu    sync.Mutex
		left  int
		why   error // of the first that is left
		group sync.WaitGroup
		keys  = make(chan diverted.Key)
	)
	for range min(hostResends, result.Matched) {
		group.Go(func() {
			for key := range keys {
				err := h.resendContained(ctx, c, key)
				mu.Lock()
				switch {
				case err == nil:
					result.Done++
				case isHosts(err):
					left++
					if why == nil {
						why = err
					}
				case !errors.Is(err, diverted.ErrNotFound) && !errors.Is(err, diverted.ErrExpunged):
					cancel(err)
				}
				mu.Unlock()
			}
		})
	}
	err = h.eachOfStep(ctx, request, result, func(key diverted.Key) bool {
		select {
		case keys <- key:
			return true
		case <-ctx.Done():
			return false
		}
	})
	close(keys)
	group.Wait()
	if left > 0 {
		h.log.LogAttrs(ctx, slog.LevelWarn, "httpapi: events stay diverted, the host did not take them",
			c.report().Attrs(slog.Int("events", left), slog.Any("error", why))...)
	}
	if cause := context.Cause(ctx); cause != nil {
		return diverted.BulkResult{}, cause
	}
	return result, err
}

// eachOfStep lists the events of a step whose dry run had this result, until do returns false.
func (h *Handler) eachOfStep(ctx context.Context, request diverted.BulkRequest, result diverted.BulkResult, do func(diverted.Key) bool) error {
	query := diverted.DivertedQuery{Webhook: request.Webhook, Filter: request.Filter, After: request.After, Limit: diverted.MaxPage}
	if until := query.Filter.Until; until.IsZero() || until.After(result.Before) {
		query.Filter.Until = result.Before
	}
	listed := 0
	for {
		page, err := h.config.Diverted.ListDiverted(ctx, query)
		if err != nil {
			return err
		}
		for _, event := range page.Events {
			// The step ends where its dry run did, and at its limit where that does not say.
			beyond := result.More && event.Event.Compare(result.After) > 0
			if listed == result.Matched || beyond || !do(event.Key) {
				return nil
			}
			listed++
			query.After = event.Event
		}
		if !page.More || len(page.Events) == 0 {
			return nil
		}
	}
}

// isHosts says whether it is the host that did not take an event.
func isHosts(err error) bool {
	return errors.Is(err, errResend) || errors.Is(err, diverted.ErrSuspended) ||
		errors.Is(err, diverted.ErrDisabled) || errors.Is(err, diverted.ErrWebhookUnknown)
}

// resendContained is resendByHost where no other goroutine contains its panics.
func (h *Handler) resendContained(ctx context.Context, c *call, key diverted.Key) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.report().Panicked(h.log, "httpapi", v)
			err = fmt.Errorf("%w: %w", errResend, errPanicked)
		}
	}()
	return h.resendByHost(ctx, key)
}

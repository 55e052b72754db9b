// Package hostresend hands diverted events to a host that delivers by itself, and deletes those that it took.
package hostresend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/reports"
)

// ErrFailed is the error of a host that says no more about why it did not take an event.
var ErrFailed = errors.New("the host's resend failed")

// ErrListed is the error of an event that the host took, and that the store could not delete then.
var ErrListed = errors.New("the host took the event, but it is still listed")

// Resender resends by a function of the host's. It is safe for concurrent use.
type Resender struct {
	Store diverted.DivertedStore
	// Bulk is the same store, for All alone.
	Bulk diverted.BulkStore
	// Resend is the host's: it is given the whole event, and returns nil if it takes it.
	Resend func(ctx context.Context, event diverted.DivertedEvent) error
	// Handler names who asks, and Log is told what was left.
	Handler string
	Log     *slog.Logger
}

// deleteTime bounds the deletion of an event that the host has resent.
const deleteTime = 30 * time.Second

// One hands the event to the host and deletes it if the host took it. An error of the host's is
// [diverted.ErrSuspended], [diverted.ErrDisabled], [diverted.ErrWebhookUnknown] or ErrFailed; any other is the
// store's, and ErrListed too if the host took it before.
func (r Resender) One(ctx context.Context, key diverted.Key) error {
	event, err := r.Store.FetchDiverted(ctx, key)
	if err != nil {
		return err
	}
	if event.Expunged {
		return diverted.ErrExpunged // there is nothing to hand over
	}
	switch err := r.Resend(ctx, event); {
	case err == nil:
	case errors.Is(err, diverted.ErrSuspended), errors.Is(err, diverted.ErrDisabled), errors.Is(err, diverted.ErrWebhookUnknown):
		return err
	default:
		return fmt.Errorf("%w: %v", ErrFailed, err) // whatever else it is, it is the host's
	}
	// The event was sent, so its row goes even if the client has gone meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTime)
	defer cancel()
	switch err := r.Store.DeleteResent(ctx, event); {
	case err == nil:
	case errors.Is(err, diverted.ErrNotFound): // somebody deleted it meanwhile, and it is sent
	case errors.Is(err, diverted.ErrConflict): // it failed again already, and the host set it aside anew
	default:
		return fmt.Errorf("%w: %w", ErrListed, err)
	}
	return nil
}

// atOnce is how many events of one step are at a host's resend at once.
const atOnce = 16

// All hands each event of a step to the host, and deletes those that it took. What the host does not take stays
// where it is, and is matched but not done. An error of the store ends the step; what the host took by then is
// deleted, and the step can be repeated. The error is ErrListed too if there is an event that could not be deleted.
func (r Resender) All(ctx context.Context, report reports.Request, request diverted.BulkRequest) (diverted.BulkResult, error) {
	// A dry run says which events the step has, and by whose clock it was first made.
	dry := request
	dry.DryRun = true
	result, err := r.Bulk.ResendAll(ctx, dry)
	if err != nil || request.DryRun || result.Matched == 0 {
		return result, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu    sync.Mutex
		left  int
		why   error // of the first that is left
		fault error // the store's
		group sync.WaitGroup
		keys  = make(chan diverted.Key)
	)
	for range min(atOnce, result.Matched) {
		group.Go(func() {
			for key := range keys {
				err := r.contained(ctx, report, key)
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
					// That the host was given something is what the client has to know, whoever else failed first.
					if fault == nil || errors.Is(err, ErrListed) {
						fault = err
					}
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	err = r.each(ctx, request, result, func(key diverted.Key) bool {
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
		r.Log.LogAttrs(ctx, slog.LevelWarn, r.Handler+": events stay diverted, the host did not take them",
			report.Attrs(slog.Int("events", left), slog.Any("error", why))...)
	}
	if fault != nil {
		return diverted.BulkResult{}, fault
	}
	if err := cmp.Or(err, ctx.Err()); err != nil {
		return diverted.BulkResult{}, err
	}
	return result, nil
}

// each lists the events of a step whose dry run had this result, until do returns false.
func (r Resender) each(ctx context.Context, request diverted.BulkRequest, result diverted.BulkResult, do func(diverted.Key) bool) error {
	query := diverted.DivertedQuery{Webhook: request.Webhook, Filter: request.Filter, After: request.After, Limit: diverted.MaxPage}
	if until := query.Filter.Until; until.IsZero() || until.After(result.Before) {
		query.Filter.Until = result.Before
	}
	listed := 0
	for {
		page, err := r.Store.ListDiverted(ctx, query)
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
	return errors.Is(err, ErrFailed) || errors.Is(err, diverted.ErrSuspended) ||
		errors.Is(err, diverted.ErrDisabled) || errors.Is(err, diverted.ErrWebhookUnknown)
}

// contained is One where no other goroutine contains its panics.
func (r Resender) contained(ctx context.Context, report reports.Request, key diverted.Key) (err error) {
	defer func() {
		if v := recover(); v != nil {
			report.Panicked(r.Log, r.Handler, v)
			err = fmt.Errorf("%w: panic", ErrFailed)
		}
	}()
	return r.One(ctx, key)
}

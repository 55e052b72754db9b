package diverted

import (
	"context"
	"time"

	"github.com/oklog/ulid/v2"
)

// What an operator needs beyond single events: many at once (BulkStore), numbers (StatsStore), and an end to
// what is kept (RetentionStore). These are optional powers of a [Store]. All stores of this project have them;
// package httpapi, the console and the dispatcher's retention ask for them.

// BulkStore is an optional power of a [Store]: it works on many events of one webhook in steps that the
// caller drives, so that no step holds others up, nothing has to be remembered between them, and a crash
// costs nothing:
//
//	for request := (diverted.BulkRequest{Webhook: key}); ; {
//		result, err := store.ResendAll(ctx, request)
//		if err != nil {
//			return err // the same step can be repeated
//		}
//		if !result.More {
//			return nil
//		}
//		request.After, request.Before = result.After, result.Before
//	}
//
// A step takes events ascending by locator. A store may commit it in parts, so that it holds nobody up; if a
// part fails, the result is that of the parts before it, as if the limit had been less. So an error means that
// nothing was changed, or that the outcome of the first part is unknown. Events that come to be selected after
// Before are not taken, so each is taken once however long the steps go on. If you may have to repeat the first
// step, set its Before: without one the repeated step would also take what was resent and failed again in
// between. How fast a receiver is fed with what was resent is the dispatcher's business. An unknown webhook has
// no events. A request that breaks a rule is an ErrInvalid.
type BulkStore interface {
	// ResendAll resends as [DivertedStore.Resend] does. ErrWebhookUnknown, ErrDisabled or ErrSuspended, in
	// this order, if the webhook does not let events go; a dry run counts all the same. Events without a body
	// (see [RetentionStore.Expunge]) are matched but not done.
	ResendAll(ctx context.Context, request BulkRequest) (BulkResult, error)

	// DeleteAll deletes as [DivertedStore.DeleteDiverted] does.
	DeleteAll(ctx context.Context, request BulkRequest) (BulkResult, error)

	// DivertAll sets aside the pending deliveries of a webhook that is suspended or disabled; ErrConflict if
	// it is neither, ErrNotFound if there is none, for a dry run too. Of the filter only EventType may be set,
	// and Before applies to when they were accepted. The failure of each is its last one, or, if it was never
	// attempted, one that says that it was set aside on request. A delivery that is claimed is taken too: the
	// outcome of its attempt then changes nothing.
	DivertAll(ctx context.Context, request BulkRequest) (BulkResult, error)
}

// The number of events that a step of a [BulkStore] takes.
const (
	// DefaultBulk is how many events a step takes where it names no limit.
	DefaultBulk = 1000
	// MaxBulk is the most events that a step takes.
	MaxBulk = 10_000
)

// BulkRequest is one step of a [BulkStore].
type BulkRequest struct {
	Webhook WebhookKey
	// Filter selects among the webhook's events. Zero: all.
	Filter DivertedFilter
	// After leaves out all up to and including this event locator. Zero: none.
	After ulid.ULID
	// Before leaves out what was set aside at this moment or later. Zero: the end of the present millisecond,
	// by the store's clock; the result has it, for the steps that follow.
	Before time.Time
	// Limit bounds the events of the step, 1 to [MaxBulk]. Zero: [DefaultBulk].
	Limit int
	// DryRun counts, and changes nothing.
	DryRun bool
}

// WithDefaults returns the request with its default limit, or an [InvalidError] if it breaks a rule. Every
// store calls it first.
func (r BulkRequest) WithDefaults() (BulkRequest, error) {
	var f faults
	if r.Limit < 0 || r.Limit > MaxBulk {
		f.add("limit", "must be 1 to %d, was %d", MaxBulk, r.Limit)
	}
	if r.Limit == 0 {
		r.Limit = DefaultBulk
	}
	f.merge("", r.Filter.Validate())
	r.Filter = r.Filter.normal()
	return r, f.err()
}

// ForPending returns nil if [BulkStore.DivertAll] may take the request, else an [InvalidError], for those who
// write a [Store].
func (r BulkRequest) ForPending() error {
	rest := r.Filter
	rest.EventType = ""
	if !rest.IsZero() {
		return invalid("filter", "must be of no more than an event type, since what is pending was not diverted yet")
	}
	return nil
}

// AsideOnRequest returns the failure of a delivery that was never attempted, and that [BulkStore.DivertAll]
// sets aside now, for those who write a [Store].
func AsideOnRequest(now time.Time) Failure {
	return Failure{Trigger: TriggerTimeout, Message: "set aside on request, before any attempt", At: now}
}

// BulkResult is what a step of a [BulkStore] did.
type BulkResult struct {
	// Matched counts the events that the step selected; Done, 0 in a dry run, those that it changed: not those
	// without a body, and not those that somebody else changed between their selection and their turn.
	Matched, Done int
	// More says that there may be further ones: the next step takes this After and Before. After is the last
	// event that was selected, or the request's if none was.
	More   bool
	After  ulid.ULID
	Before time.Time
}

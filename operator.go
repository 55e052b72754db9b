package diverted

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// What an operator needs beyond single events: many at once, numbers, and an end to what is kept. These are
// optional powers of a [Store]; all stores of this project have them, and package httpapi, the console and
// the dispatcher's retention ask for them.

// DivertedFilter selects diverted events. Conditions that are zero select all; those that are given must
// all hold.
type DivertedFilter struct {
	// Trigger selects what was set aside for this: an exact status, a class of them, or timeout.
	Trigger Trigger
	// EventType selects the events of exactly this type.
	EventType string
	// Since and Until select what was set aside at or after the one and before the other.
	Since, Until time.Time
}

// IsZero says whether the filter selects all.
func (f DivertedFilter) IsZero() bool {
	return f.Trigger == "" && f.EventType == "" && f.Since.IsZero() && f.Until.IsZero()
}

// Validate returns nil, or an [InvalidError] that names every condition at fault.
func (f DivertedFilter) Validate() error {
	var bad faults
	if f.Trigger != "" {
		if _, err := ParseTrigger(string(f.Trigger)); err != nil {
			bad.add("trigger", "must be %s, was %s", triggerRule, quote(string(f.Trigger)))
		}
	}
	if f.EventType != "" && !validEventType(f.EventType) {
		bad.add("eventType", "must be %s, was %s", eventTypeRule, quote(f.EventType))
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		bad.add("until", "must be after since")
	}
	return bad.err()
}

// Selects says whether the filter selects a diverted event, for those who write a [Store].
func (f DivertedFilter) Selects(e *DivertedEvent) bool {
	return (f.Trigger == "" || f.Trigger.Matches(e.Failure.Trigger)) &&
		(f.EventType == "" || f.EventType == e.EventType) &&
		(f.Since.IsZero() || !e.DivertedAt.Before(f.Since)) &&
		(f.Until.IsZero() || e.DivertedAt.Before(f.Until))
}

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
// Each step is one transaction, and takes events ascending by locator. Events that come to be selected after
// Before are not taken, so each is taken once however long the steps go on. How fast a receiver is fed with
// what was resent is the dispatcher's business. An unknown webhook has no events.
type BulkStore interface {
	// ResendAll resends as [DivertedStore.Resend] does. ErrWebhookUnknown, ErrDisabled or ErrSuspended, in
	// this order, if the webhook does not let events go; a dry run counts all the same. Events without a body
	// (see [RetentionStore.Expunge]) are matched and not done.
	ResendAll(ctx context.Context, request BulkRequest) (BulkResult, error)

	// DeleteAll deletes as [DivertedStore.DeleteDiverted] does.
	DeleteAll(ctx context.Context, request BulkRequest) (BulkResult, error)

	// DivertAll sets aside the pending deliveries of a webhook that is suspended or disabled; ErrConflict if
	// it is neither, ErrNotFound if there is none. Of the filter EventType alone may be set, and Before is when
	// they were accepted. The failure of each is its last one, or, if it was never attempted, one that says
	// that it was set aside on request. A delivery that is claimed is taken too: its attempt, under way,
	// settles into nothing.
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
	// Before leaves out what was set aside at this moment or later. Zero: now, by the store's clock, which
	// the result tells, for the steps that follow.
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
	return r, f.err()
}

// BulkResult is what a step of a [BulkStore] did.
type BulkResult struct {
	// Matched counts the events that the step selected, Done those that it changed; 0 in a dry run.
	Matched, Done int
	// More says that there may be further ones: the next step's After and Before are these.
	More   bool
	After  ulid.ULID
	Before time.Time
}

// StatsStore is an optional power of a [Store]: numbers for operators, cheap however many events there are.
type StatsStore interface {
	// Stats returns the numbers of a webhook, a tenant, or the whole store. What is unknown has zeros.
	Stats(ctx context.Context, query StatsQuery) (Stats, error)
}

// StatsQuery selects what [StatsStore.Stats] is about.
type StatsQuery struct {
	// Tenant selects one tenant, and with Webhook one of its webhooks. Zero: the whole store; then Webhook is
	// zero too.
	Tenant  uuid.UUID
	Webhook ulid.ULID
	// Hours asks for so many of the last hours, the current one included, 0 to [MaxStatsHours].
	Hours int
}

// MaxStatsHours is how far back [Stats] reach: 30 days.
const MaxStatsHours = 30 * 24

// Validate returns nil, or an [InvalidError]. Every store calls it first.
func (q StatsQuery) Validate() error {
	var f faults
	if q.Tenant == uuid.Nil && !q.Webhook.IsZero() {
		f.add("tenantLocator", "must not be zero beside a webhook")
	}
	if q.Hours < 0 || q.Hours > MaxStatsHours {
		f.add("hours", "must be 0 to %d, was %d", MaxStatsHours, q.Hours)
	}
	return f.err()
}

// Stats are numbers for operators. Pending, Due, OldestPending, Diverted and those of webhooks are exact.
// LastSuccess, LastFailure and Hours are kept beside the events, not in their transactions: they come a few
// seconds late, and a crash loses that much of them.
type Stats struct {
	// Webhooks counts webhooks, Suspended those that are suspended, Disabled those that are disabled.
	Webhooks, Suspended, Disabled int
	// SuspendedAt is since when a webhook, or the first of several, is suspended; zero: none is.
	SuspendedAt time.Time
	// Pending counts deliveries on their way, Due those that are due now and could be attempted, claimed ones
	// included.
	Pending, Due int
	// OldestPending is when the oldest of them was accepted; zero: there is none.
	OldestPending time.Time
	// Diverted counts diverted events by what was observed. Triggers without any are not in it.
	Diverted map[Trigger]int
	// LastSuccess is when a receiver last answered 2xx, LastFailure when an attempt last failed; zero: not
	// within what is remembered.
	LastSuccess, LastFailure time.Time
	// Hours are the hours of the query in which something happened, ascending.
	Hours []HourStats
}

// DivertedInAll is the sum of Diverted.
func (s Stats) DivertedInAll() int {
	sum := 0
	for _, n := range s.Diverted {
		sum += n
	}
	return sum
}

// HourStats are the numbers of one hour.
type HourStats struct {
	// Hour is its beginning, in UTC.
	Hour time.Time
	// Delivered and Failed count attempts.
	Delivered, Failed int
	// Diverted counts, by what was observed, how often an event was set aside.
	Diverted map[Trigger]int
}

// RetentionStore is an optional power of a [Store]: an end to what is kept.
type RetentionStore interface {
	// Purge deletes diverted events, and what suspended and disabled webhooks hold, that are older than the
	// request says or beyond its cap, the oldest first, at most request.Limit in one transaction. Claimed
	// deliveries stay.
	Purge(ctx context.Context, request PurgeRequest) (PurgeResult, error)

	// Expunge forgets the body of a diverted event, and the excerpts of answers to it, for good, and keeps
	// the rest. An event without a body can be deleted but not resent: [ErrExpunged]. Expunging again does
	// nothing. ErrNotFound if it is not diverted.
	Expunge(ctx context.Context, key Key) error
}

// Retention says how long a [Dispatcher] lets its store keep what nobody takes care of: diverted events, by
// when they were diverted, and what suspended or disabled webhooks hold, by when it was accepted. The zero
// value keeps everything.
type Retention struct {
	// MaxAge is the age at which they are deleted, 1 min or more. 0: none.
	MaxAge time.Duration
	// MaxPerWebhook is how many of each kind a webhook keeps; the oldest beyond it are deleted. 0: all.
	MaxPerWebhook int
}

// IsZero says whether everything is kept.
func (r Retention) IsZero() bool { return r == Retention{} }

// Validate returns nil, or an [InvalidError].
func (r Retention) Validate() error {
	var f faults
	if r.MaxAge < 0 || r.MaxAge > 0 && r.MaxAge < time.Minute {
		f.add("MaxAge", "must be 0 or at least 1m0s, was %s", r.MaxAge)
	}
	if r.MaxPerWebhook < 0 {
		f.add("MaxPerWebhook", "must be 0 or more, was %d", r.MaxPerWebhook)
	}
	return f.err()
}

// PurgeRequest is what [RetentionStore.Purge] is asked.
type PurgeRequest struct {
	Retention Retention
	// Limit bounds what is deleted, 1 to [MaxBulk]. Zero: [DefaultBulk].
	Limit int
}

// WithDefaults returns the request with its default limit, or an [InvalidError] if it breaks a rule. Every
// store calls it first.
func (r PurgeRequest) WithDefaults() (PurgeRequest, error) {
	var f faults
	if r.Limit < 0 || r.Limit > MaxBulk {
		f.add("limit", "must be 1 to %d, was %d", MaxBulk, r.Limit)
	}
	if r.Limit == 0 {
		r.Limit = DefaultBulk
	}
	f.merge("retention", r.Retention.Validate())
	return r, f.err()
}

// PurgeResult is what [RetentionStore.Purge] deleted.
type PurgeResult struct {
	// Webhooks has an entry for each webhook of which something was deleted.
	Webhooks []Purged
	// More says that there is more to delete.
	More bool
}

// Purged counts what was deleted of one webhook.
type Purged struct {
	Webhook WebhookKey
	// Diverted counts diverted events, Pending deliveries that the webhook held.
	Diverted, Pending int
}

// String says what was deleted.
func (p Purged) String() string {
	return fmt.Sprintf("%s: %d diverted, %d pending", p.Webhook, p.Diverted, p.Pending)
}

package diverted

import (
	"context"
	"fmt"
	"time"
)

// RetentionStore is an optional power of a [Store]: an end to what is kept.
type RetentionStore interface {
	// Purge deletes diverted events, and what suspended and disabled webhooks hold, that are as old as the
	// request says or beyond its cap, the oldest of each webhook first, at most request.Limit in a call. With
	// an error, the result tells what was deleted before it. Deliveries under a lease stay. What is deleted is
	// told by the result, not to watchers. A request that breaks a rule is an ErrInvalid.
	Purge(ctx context.Context, request PurgeRequest) (PurgeResult, error)

	// Expunge forgets the body of a diverted event, and what answers to it said ([Failure.Expunged]), and
	// keeps the rest. An event without a body can be deleted but not resent: [ErrExpunged]. Expunging again
	// does nothing. ErrNotFound if it is not diverted. Unsent notices and backups keep what they hold, and
	// copies that no method shows may remain on disk until their space is used again.
	Expunge(ctx context.Context, key Key) error
}

// Retention bounds what a [Dispatcher] lets its store keep that nobody takes care of: diverted events, as old
// as their diversion, and what suspended or disabled webhooks hold. What a suspended one holds is as old as
// its acceptance or the suspension, whichever came later, so that what waited for a retry, or was resent, has
// its time; what a webhook holds that is only disabled has no age, and the cap alone bounds it. The zero value
// keeps everything.
type Retention struct {
	// MaxAge is the age at which they are deleted, 1 min or more. 0: none.
	MaxAge time.Duration
	// MaxPerWebhook is how many of each kind a webhook keeps; the oldest beyond it, by when they were diverted
	// or accepted, are deleted. 0: all.
	MaxPerWebhook int
}

// IsZero reports whether everything is kept.
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

// PurgeRequest is the request of [RetentionStore.Purge].
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
	// More says that there may be more to delete: the limit ended the call.
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

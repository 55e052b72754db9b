package diverted

import (
	"context"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// Store keeps webhooks, deliveries and diverted events. [NewMemoryStore] makes one for unit tests,
// [OpenSQLite] and [NewSQLiteStore] make one for a service on one machine, and the module postgres has one
// for many machines. Package storetest holds the contract as a test suite, which every implementation runs.
//
// # What holds for every method
//
//   - A method that returns nil has made its change durable, as far as the store is; one that returns
//     an error that is [ErrInvalid], [ErrNotFound], [ErrConflict], [ErrSuspended], [ErrDisabled],
//     [ErrWebhookUnknown], [ErrExpunged], [ErrNotEmpty] or [ErrFull] has changed nothing. After any other error, such
//     as the end of ctx, the outcome is unknown; every method can be repeated.
//   - Methods are atomic, and safe for concurrent use by any number of goroutines and, for a store that
//     is on disk, processes. An implementation is free to do the work of many callers in one
//     transaction, but the error or the cancellation of one must not fail the others.
//   - Every operation is within a tenant. What belongs to another tenant is as if it did not exist.
//   - All times are by the store's clock: what is due, leases, and the times that are recorded. Times are
//     kept to the millisecond; due times are rounded up.
//   - Values that are passed in are not changed or kept, values that are returned are the caller's,
//     except that all claims of one webhook may share a [Webhook], which nobody may change.
//   - After Close every method returns [ErrClosed].
type Store interface {
	DivertedStore
	WebhookStore
	DeliveryStore

	// Close waits for the calls under way and frees what the store holds. Closing again does nothing and
	// returns nil.
	Close() error
}

// DivertedStore keeps what was set aside. It is all that package httpapi needs.
type DivertedStore interface {
	// Divert sets an event aside, for a host that delivers by itself; its webhook need not be known to the
	// store. If the event is diverted already, its Failure, Attempts and DivertedAt are replaced, the last by a
	// later one; its AcceptedAt, RequestLocator, EventType and Body stay as they are. Its Failure, cut to its
	// bounds ([Failure.Kept]), becomes the last of its Failures; the event's own Failures and Expunged are ignored.
	// If it is pending, Divert changes nothing and returns ErrConflict, since it is on its way. A zero Failure.At
	// is now. A value that breaks a rule is an ErrInvalid.
	Divert(ctx context.Context, event DivertedEvent) error

	// FetchDiverted returns a diverted event with its body and its failures, or ErrNotFound.
	FetchDiverted(ctx context.Context, key Key) (DivertedEvent, error)

	// ListDiverted returns diverted events of one webhook, ascending by event locator, without bodies. An
	// unknown webhook has none. A query that breaks a rule is an ErrInvalid.
	ListDiverted(ctx context.Context, query DivertedQuery) (DivertedPage, error)

	// Resend makes a diverted event pending again, due now, with a fresh budget, under the same locator,
	// and remembers that it was diverted once. Among what is due it has the place that it had in the order of
	// acceptance, and so comes before what was accepted after it. ErrNotFound if it is not diverted. If it has no
	// body or its webhook does not let it go, it stays diverted: ErrExpunged, ErrWebhookUnknown, ErrDisabled or
	// ErrSuspended, in this order. Of a Resend and a DeleteDiverted that race, one wins and the other gets
	// ErrNotFound.
	Resend(ctx context.Context, key Key) error

	// DeleteDiverted forgets a diverted event for good. ErrNotFound if it is not diverted.
	DeleteDiverted(ctx context.Context, key Key) error

	// DeleteResent is DeleteDiverted for an event that its host has delivered, or taken over, by itself, given as
	// FetchDiverted returned it. If it was diverted again since, which its DivertedAt tells, it stays, and the
	// error is ErrConflict.
	DeleteResent(ctx context.Context, event DivertedEvent) error
}

// DivertedQuery selects diverted events of one webhook.
type DivertedQuery struct {
	Webhook WebhookKey
	// Filter selects among the webhook's diverted events. Zero: all. For a list of pending deliveries it must
	// be zero.
	Filter DivertedFilter
	// Failures asks for the failures of all attempts, see [DivertedEvent.Failures].
	Failures bool
	// After leaves out all up to and including this event locator. Zero: none.
	After ulid.ULID
	// Offset leaves out that many of what remains, 0 to [MaxOffset]. Its cost grows with it; After costs the
	// same at any depth.
	Offset int
	// Limit is the size of the page, 1 to [MaxPage]. Zero: [DefaultPage].
	Limit int
}

// WithDefaults returns the query with its default limit, or an [InvalidError] if it breaks a rule. Every
// store calls it first.
func (q DivertedQuery) WithDefaults() (DivertedQuery, error) {
	var f faults
	f.merge("", q.Filter.Validate())
	q.Filter = q.Filter.normal()
	limit, err := page(q.Offset, q.Limit)
	q.Limit = limit
	f.merge("", err)
	return q, f.err()
}

// ForPending returns nil if [DeliveryStore.ListPending] may take the query, else an [InvalidError], for those
// who write a [Store].
func (q DivertedQuery) ForPending() error {
	if !q.Filter.IsZero() {
		return invalid("filter", "must be zero, since what is pending was not diverted yet")
	}
	return nil
}

func page(offset, limit int) (int, error) {
	var f faults
	if offset < 0 || offset > MaxOffset {
		f.add("offset", "must be 0 to %d, was %d; after goes deeper", MaxOffset, offset)
	}
	if limit < 0 || limit > MaxPage {
		f.add("count", "must be 1 to %d, was %d", MaxPage, limit)
	}
	if limit == 0 {
		limit = DefaultPage
	}
	return limit, f.err()
}

// DivertedPage is a page of diverted events.
type DivertedPage struct {
	Events []DivertedEvent
	// More says that the query has further events after the last of this page.
	More bool
}

// The bounds of a page.
const (
	// DefaultPage is the size of a page where a query names none.
	DefaultPage = 100
	// MaxPage is the largest size of a page.
	MaxPage = 1000
	// MaxOffset is the largest offset. Beyond it, go on After the last event, or webhook, of a page.
	MaxOffset = 100_000
)

// WebhookStore keeps webhooks. A webhook that was deleted is as if it had never been.
type WebhookStore interface {
	// PutWebhook creates or replaces the webhook of this identity, and returns it as it is saved. It is for
	// hosts that keep webhooks in a table of their own (see also [SQLiteStore.PutWebhookTx]): a webhook that is
	// new is saved as CreateWebhook would, OldSecrets too; else the suspension and the old secrets of the webhook
	// that it replaces remain, as [Webhook.Replacing] says. Enabling it is as in UpdateWebhook. Where it changes nothing, it writes nothing: the webhook that stands is returned,
	// with the version that it has. A value that breaks a rule is an ErrInvalid.
	PutWebhook(ctx context.Context, webhook Webhook) (Webhook, error)

	// CreateWebhook saves a webhook that is not there yet, as version 1 and not suspended, and returns it
	// as it is saved. ErrConflict if the tenant has it already, ErrInvalid if it breaks a rule.
	CreateWebhook(ctx context.Context, webhook Webhook) (Webhook, error)

	// UpdateWebhook replaces the webhook if its version is the one that stands, and returns it as it is
	// saved, with the next version. The suspension remains. All else is saved as it is given, OldSecrets too:
	// a secret that is merely overwritten stops signing at once, and receivers who have it refuse what
	// comes. To rotate it use [Webhook.Apply], which keeps it among the old ones. ErrConflict if the version
	// is another, ErrNotFound if there is none, ErrInvalid if it breaks a rule. Enabling it makes its pending
	// deliveries due, as Unsuspend does.
	UpdateWebhook(ctx context.Context, webhook Webhook) (Webhook, error)

	// FetchWebhook returns a webhook, or ErrNotFound.
	FetchWebhook(ctx context.Context, key WebhookKey) (Webhook, error)

	// ListWebhooks returns webhooks of one tenant, ascending by locator. A query that breaks a rule, such as one
	// of no tenant, is an ErrInvalid.
	ListWebhooks(ctx context.Context, query WebhookQuery) (WebhookPage, error)

	// DeleteWebhook deletes a webhook, with its deliveries, its diverted events and its notices. It is gone
	// from every method when DeleteWebhook returns, and the outcome of what is in flight changes nothing;
	// its rows may be purged in steps afterwards. If it has pending or diverted events and discard is
	// false, ErrNotEmpty. The same holds for a webhook that is not known but has diverted events, see
	// Divert. ErrNotFound if there is neither.
	DeleteWebhook(ctx context.Context, key WebhookKey, discard bool) error

	// Suspend suspends a webhook: nothing of it is claimed until Unsuspend. One that is suspended already
	// keeps its SuspendedAt. Neither this nor Unsuspend changes Webhook.Version, so they never make an
	// update fail. ErrNotFound if there is none.
	Suspend(ctx context.Context, key WebhookKey) error

	// Unsuspend ends a suspension and begins a new epoch, so that attempts claimed before it cannot suspend
	// again. All pending deliveries of the webhook become due now, in the order of acceptance, retries that
	// wait included; the next claim of those held with a spent budget begins a fresh one (see [Claim.Released]).
	// It does nothing where there is no suspension. ErrNotFound if there is no webhook.
	Unsuspend(ctx context.Context, key WebhookKey) error
}

// WebhookQuery selects webhooks of one tenant. Filters that are zero or nil select all; those that are
// given must all hold.
type WebhookQuery struct {
	// Tenant is whose webhooks they are. Required.
	Tenant uuid.UUID
	// Name selects the webhooks with exactly this name.
	Name string
	// Enabled, Suspended and Active select by these properties.
	Enabled, Suspended, Active *bool
	// EventTypes selects the webhooks that subscribe to at least one of these event types, as
	// [Webhook.Subscribes] says.
	EventTypes []string
	// After, Offset and Limit are as in [DivertedQuery].
	After  ulid.ULID
	Offset int
	Limit  int
}

// WithDefaults returns the query with its default limit, or an [InvalidError] if it breaks a rule. Every
// store calls it first.
func (q WebhookQuery) WithDefaults() (WebhookQuery, error) {
	var f faults
	if q.Tenant == uuid.Nil {
		f.add("tenantLocator", "must not be zero")
	}
	limit, err := page(q.Offset, q.Limit)
	f.merge("", err)
	q.Limit = limit
	return q, f.err()
}

// Selects reports whether the filters of the query hold for a webhook.
func (q WebhookQuery) Selects(w Webhook) bool {
	is := func(want *bool, have bool) bool { return want == nil || *want == have }
	if w.Tenant != q.Tenant || q.Name != "" && q.Name != w.Name ||
		!is(q.Enabled, w.Enabled) || !is(q.Suspended, w.Suspended()) || !is(q.Active, w.Active()) {
		return false
	}
	if len(q.EventTypes) == 0 {
		return true
	}
	for _, t := range q.EventTypes {
		if w.Subscribes(t) {
			return true
		}
	}
	return false
}

// WebhookPage is a page of webhooks.
type WebhookPage struct {
	Webhooks []Webhook
	// More says that the query has further webhooks after the last of this page.
	More bool
}

// Watcher is an optional power of a [Store]: it tells of changes as they are committed, so that a
// dispatcher need not poll. Both stores of this package have it.
type Watcher interface {
	// Watch calls f after every commit of a change made through this store value, except those made by
	// Work and those that are part of a transaction of the host's, until stop is called; and with a
	// [ChangeDue] where the store hears of others. f is called for one change after the other, must be quick,
	// and must call neither the store nor stop.
	Watch(f func(Change)) (stop func())
}

// Change is something that was committed.
type Change struct {
	Kind ChangeKind
	// Key is the delivery; for a change to a webhook, its Event is zero.
	Key Key
}

// ChangeKind is the kind of a [Change].
type ChangeKind string

// The kinds of change.
const (
	// ChangeAccepted: a delivery is newly pending, and not handed back claimed.
	ChangeAccepted ChangeKind = "accepted"
	// ChangeDiverted: an event was set aside by [DivertedStore.Divert], [BulkStore.DivertAll] or
	// [SQLiteStore.DivertPending].
	ChangeDiverted ChangeKind = "diverted"
	// ChangeResent: a diverted event is pending again.
	ChangeResent ChangeKind = "resent"
	// ChangeDeleted: a diverted event was deleted, not by [RetentionStore.Purge] or DeleteWebhook.
	ChangeDeleted ChangeKind = "deleted"
	// ChangeSuspended and ChangeUnsuspended: a webhook was suspended, or unsuspended.
	ChangeSuspended   ChangeKind = "suspended"
	ChangeUnsuspended ChangeKind = "unsuspended"
	// ChangeEnabled: a webhook was enabled.
	ChangeEnabled ChangeKind = "enabled"
	// ChangeDue: the store heard that another process, or a transaction of the host's, has made something
	// due, not through this store value. Its Key is zero.
	ChangeDue ChangeKind = "due"
)

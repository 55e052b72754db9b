package diverted

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// DeliveryStore keeps deliveries on their way. [Dispatcher] is its caller. Accept and Work take many
// deliveries at once, since it is the transaction that costs, not the row.
type DeliveryStore interface {
	// Accept makes deliveries of messages: durable, pending and due now. It answers each message in its
	// place; a message that is refused does not keep the others from being accepted. A delivery that is
	// pending or diverted already stays as it is, and the answer says so. Deliveries that it accepted may be
	// handed back already claimed, as far as request.Claim allows, if nothing of their webhook is waiting
	// before them.
	Accept(ctx context.Context, request AcceptRequest) (AcceptResult, error)

	// Work settles outcomes of attempts and claims what is due next, in one transaction: outcomes first.
	//
	// An outcome changes its delivery only if the delivery still has the claim's token; else it changes
	// nothing and its answer is Stale.
	//
	// A claim takes a pending delivery that is due, whose webhook is active, and that nobody has claimed or
	// whose lease is over. Claims take turns by tenant, then by webhook; within a webhook, retries that are
	// due come first, then the others in the order of acceptance. A claim is leased: when the lease is over
	// somebody else may claim the delivery, with [Claim.Losses] one higher. A lease that ends further in the
	// future than any can (the clock was set back) is void. A request that breaks a rule is an ErrInvalid.
	Work(ctx context.Context, request WorkRequest) (WorkResult, error)

	// ListPending returns pending deliveries of one webhook, ascending by event locator. An unknown webhook
	// has none. A query with a filter is an ErrInvalid.
	ListPending(ctx context.Context, query DivertedQuery) (PendingPage, error)
}

// Message is an event to be accepted: for one webhook, or for all that subscribe to it.
type Message struct {
	Tenant uuid.UUID
	// Webhook is the receiver; [ErrNotFound] if there is none. A disabled or suspended one accepts it and
	// holds it. Zero: every enabled webhook of the tenant that subscribes to EventType, which may be none.
	Webhook ulid.ULID
	// Event and RequestLocator are the event's locators, EventType is its type, Body its encoding, which
	// the store keeps and does not read.
	Event          ulid.ULID
	RequestLocator ulid.ULID
	EventType      string
	Body           []byte
	// TraceParent identifies the span that sends it: a traceparent header of version 00, see [Tracer]. Empty:
	// none.
	TraceParent string
}

// NewMessage encodes an event for one webhook, or for all that subscribe if webhook is zero. The error,
// if any, is an [InvalidError].
func NewMessage(tenant uuid.UUID, webhook ulid.ULID, event Event) (Message, error) {
	if tenant == uuid.Nil {
		return Message{}, invalid("tenantLocator", "must not be zero")
	}
	body, err := event.Encode()
	if err != nil {
		return Message{}, err
	}
	return Message{
		Tenant: tenant, Webhook: webhook,
		Event: event.Locator, RequestLocator: event.RequestLocator, EventType: event.Type, Body: body,
	}, nil
}

// Validate returns nil if a store may accept the message, else an [InvalidError].
func (m Message) Validate() error {
	var f faults
	if m.Tenant == uuid.Nil {
		f.add("tenantLocator", "must not be zero")
	}
	if m.Event.IsZero() {
		f.add("locator", "must not be zero; NewEvent assigns one")
	}
	if m.RequestLocator.IsZero() {
		f.add("requestId", "must not be zero; NewEvent assigns one")
	}
	if !validEventType(m.EventType) {
		f.add("type", "must be %s, was %s", eventTypeRule, quote(m.EventType))
	}
	if n := len(m.Body); n == 0 || n > MaxEventBytes {
		f.add("body", "must be 1 to %d bytes, was %d", MaxEventBytes, n)
	}
	if m.TraceParent != "" && !validTraceParent(m.TraceParent) {
		f.add("traceParent", "must be a header traceparent of version 00, or empty")
	}
	return f.err()
}

// AcceptRequest is the request of [DeliveryStore.Accept].
type AcceptRequest struct {
	Messages []Message
	// Claim allows deliveries to be handed back already claimed. Nil: none. One that breaks a rule makes the
	// whole call an ErrInvalid.
	Claim *ClaimRequest
	// MaxPending makes a delivery [Refused] while its webhook has that many pending. 0: no bound. What
	// other processes accept within the same second may not count.
	MaxPending int
	// MaxBytes makes deliveries Refused while all that the store keeps takes that many bytes, by its own
	// measure. 0: no bound. A store without a measure returns [ErrUnsupported] for any other value.
	MaxBytes int64
}

// refuse returns an ErrFull if there is no room for one delivery more of a webhook, by what is pending of it
// and by what the store takes.
func (r *AcceptRequest) refuse(pending int, bytes int64) error {
	switch {
	case r.MaxPending > 0 && pending >= r.MaxPending:
		return fmt.Errorf("%w: the webhook has %d pending, and may have %d", ErrFull, pending, r.MaxPending)
	case r.MaxBytes > 0 && bytes >= r.MaxBytes:
		return fmt.Errorf("%w: the store takes %d bytes, and may take %d", ErrFull, bytes, r.MaxBytes)
	}
	return nil
}

// AcceptResult is the result of [DeliveryStore.Accept].
type AcceptResult struct {
	// Messages has an answer for each message, in its place.
	Messages []MessageResult
	// Claims are those handed back.
	Claims []Claim
}

// MessageResult is what became of a message.
type MessageResult struct {
	// Deliveries has one entry for each webhook that the message went to, ascending by locator.
	Deliveries []Acceptance
	// Err is ErrNotFound for an unknown webhook, ErrInvalid for a message that breaks a rule.
	Err error
}

// Acceptance says what became of an event at one webhook.
type Acceptance struct {
	Webhook ulid.ULID
	Status  AcceptStatus
	// Err is ErrFull if Status is [Refused], else nil.
	Err error
}

// AcceptStatus is one of [Accepted], [AlreadyPending], [AlreadyDiverted] and [Refused].
type AcceptStatus string

// What can become of an event that is accepted.
const (
	// Accepted: it is newly pending.
	Accepted AcceptStatus = "accepted"
	// AlreadyPending: it was on its way already; nothing was added.
	AlreadyPending AcceptStatus = "already pending"
	// AlreadyDiverted: it is set aside; nothing was added. Resend it instead.
	AlreadyDiverted AcceptStatus = "already diverted"
	// Refused: there is no room for it; nothing was added.
	Refused AcceptStatus = "refused"
)

// WorkRequest is the request of [DeliveryStore.Work].
type WorkRequest struct {
	// Outcomes are those of attempts that ended.
	Outcomes []Outcome
	// Notices are the outcomes of notices that were claimed.
	Notices []NoticeOutcome
	// Claim allows what is due to be claimed. Nil: nothing is claimed.
	Claim *ClaimRequest
	// Refresh asks a store that remembers what is due to look at all that other processes and
	// transactions of the host may have added.
	Refresh bool
}

// Validate returns nil, or an [InvalidError] if the claim breaks a rule, an outcome is of no kind, or a wait is
// negative. Every store calls it first.
func (r WorkRequest) Validate() error {
	var f faults
	for i, o := range r.Outcomes {
		switch o.Kind {
		case OutcomeDelivered, OutcomeRetry, OutcomeDivert, OutcomeHold, OutcomeDrop, OutcomeReturn:
		default:
			f.add(fmt.Sprintf("outcomes[%d].kind", i), "must be one of the kinds of outcome, was %s", quote(string(o.Kind)))
		}
		if o.Wait < 0 {
			f.add(fmt.Sprintf("outcomes[%d].wait", i), "must be 0 or more, was %s", o.Wait)
		}
	}
	for i, o := range r.Notices {
		if o.Wait < 0 {
			f.add(fmt.Sprintf("notices[%d].wait", i), "must be 0 or more, was %s", o.Wait)
		}
	}
	f.merge("claim", r.Claim.Validate())
	return f.err()
}

// ClaimRequest bounds what a call may claim.
type ClaimRequest struct {
	// Count bounds the deliveries, Bytes the sum of their bodies, except that one delivery may be claimed
	// however large its body is. Neither is negative; Count 0: none.
	Count int
	Bytes int
	// Notices bounds the notices, and is not negative. 0: none.
	Notices int
	// Lease is how long the claims are the caller's: more than 0, at most [MaxLease].
	Lease time.Duration
	// Reserve is asked how many deliveries of a webhook may be claimed, want at most; the caller counts the
	// answer as taken until the call returns, and then frees what the call did not use. It must be quick,
	// safe for concurrent use, and must not call the store. A call that is repeated inside the store may
	// ask again. Nil: as many as are wanted.
	Reserve func(webhook WebhookKey, want int) int
	// InFlight says whether the caller has this delivery in its hands. The store asks before it claims one
	// whose lease is over, and if so extends that claim instead. The rules of Reserve hold. Nil: none.
	InFlight func(key Key) bool
}

// Validate returns nil, or an [InvalidError] that names every bound at fault. Nil, which claims nothing, is
// valid. Every store calls it first.
func (r *ClaimRequest) Validate() error {
	if r == nil {
		return nil
	}
	var f faults
	for _, bound := range []struct {
		path string
		n    int
	}{{"count", r.Count}, {"bytes", r.Bytes}, {"notices", r.Notices}} {
		if bound.n < 0 {
			f.add(bound.path, "must be 0 or more, was %d", bound.n)
		}
	}
	if r.Lease <= 0 || r.Lease > MaxLease {
		f.add("lease", "must be more than 0 and at most %s, was %s", MaxLease, r.Lease)
	}
	return f.err()
}

// MaxLease is the longest lease of a claim. One that ends later than this from now is void.
const MaxLease = 15 * time.Minute

// MaxLosses is how often the claim of a delivery may be lost before the [Dispatcher] diverts it instead of
// attempting it: it seems to kill the process.
const MaxLosses = 10

// WorkResult is the result of [DeliveryStore.Work].
type WorkResult struct {
	// Settled has an answer for each outcome, in its place.
	Settled []Settled
	// Claims are the deliveries to attempt.
	Claims []Claim
	// Notices are the notices to send.
	Notices []NoticeClaim
	// Next is how long from now until something that is not due yet becomes due, by the store's clock; 0
	// if more may be due than Count, Bytes or Notices allowed, negative if the store knows of nothing. Without a Claim
	// nothing is looked for, and Next means nothing.
	Next time.Duration
}

// Claim is a delivery that is the caller's to attempt until its lease is over.
type Claim struct {
	Key Key
	// Token is what an [Outcome] must show.
	Token int64
	// Webhook is the subscription as it stands at the claim: URL, headers, secrets and handling of this
	// attempt. It is shared, and must not be changed.
	Webhook *Webhook
	// Epoch is the webhook's, see [WebhookStore.Unsuspend].
	Epoch          int64
	RequestLocator ulid.ULID
	EventType      string
	Body           []byte
	AcceptedAt     time.Time
	// TraceParent is the message's.
	TraceParent string
	// Attempts counts those made in this budget. Losses counts the claims lost since the last outcome.
	Attempts int
	Losses   int
	// Diverted: it was diverted once, and resent. It is never dropped and never merely held.
	Diverted bool
	// Released: it was held with a spent budget and got a fresh one. If that is spent too, it is diverted.
	Released bool
	// Err is set if the row, or its webhook's, could not be decoded; all but Key, Token and Err may be
	// missing then.
	Err error
}

// Outcome is how an attempt ended, and what is to become of its delivery.
type Outcome struct {
	Key   Key
	Token int64
	Kind  OutcomeKind
	// Wait is the time until the next attempt of an [OutcomeRetry], counted from the store's now. It is not negative.
	Wait time.Duration
	// Failure is why the attempt failed; nil for OutcomeDelivered and OutcomeReturn.
	Failure *Failure
	// Suspend suspends the webhook if it is still in Epoch.
	Suspend bool
	Epoch   int64
	// Alert adds the failure to the notice of the webhook, in the same transaction.
	Alert bool
}

// OutcomeKind says what is to become of a delivery.
type OutcomeKind string

// The kinds of outcome.
const (
	// OutcomeDelivered: the row is gone.
	OutcomeDelivered OutcomeKind = "delivered"
	// OutcomeRetry: pending, due after Wait, with one attempt more. While its webhook is not active it is
	// held instead, due in the order of acceptance when the webhook is active again.
	OutcomeRetry OutcomeKind = "retry"
	// OutcomeDivert: diverted, with Failure.
	OutcomeDivert OutcomeKind = "divert"
	// OutcomeHold: pending with a spent budget, until its webhook is unsuspended or enabled; then, or at
	// once if the webhook is active, it is due, and its next claim begins a fresh budget, see [Claim.Released].
	OutcomeHold OutcomeKind = "hold"
	// OutcomeDrop: the row is gone, undelivered.
	OutcomeDrop OutcomeKind = "drop"
	// OutcomeReturn: given back without an attempt; due now, and no claim is lost.
	OutcomeReturn OutcomeKind = "return"
)

// Settled says what became of an [Outcome].
type Settled struct {
	// Stale: the delivery lacks the outcome's token: its lease was lost, or it is gone. Nothing changed.
	Stale bool
	// Suspended: this outcome suspended the webhook.
	Suspended bool
}

// NoticeClaim is a notice for the alert endpoint of a webhook, the caller's to send.
type NoticeClaim struct {
	// Webhook is the subscription as it stands at the claim.
	Webhook *Webhook
	Token   int64
	Notice  Notice
	// Tries counts the outcomes that were not Done. A claim that was lost is not among them: nobody knows
	// whether it was tried.
	Tries int
	// Window is the Wait with which the notice before this one was Done; 0 for the first.
	Window time.Duration
}

// Notice tells of budgets that were spent at one webhook. It is sent to the webhook's alert endpoint as
// JSON, with the headers of every message:
//
//	{
//	  "tenantLocator": "7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11",
//	  "webhookLocator": "01KAR4ZQ9N4YV3T0N6C4W2M8XJ",
//	  "webhookName": "billing",
//	  "failures": 12,
//	  "diverted": 12,
//	  "suspended": false,
//	  "first": {
//	    "eventLocator": "01KAR4ZRR0Y9T3M5QX7V1B6KDE",
//	    "requestLocator": "01KAR4ZRR0Y9T3M5QX7V1B6KDF",
//	    "failureMessage": "503 Service Unavailable",
//	    "failureTimestamp": "2026-11-23T17:58:00.000Z",
//	    "failureTrigger": "503"
//	  },
//	  "last": { … as first … }
//	}
//
// The first failure is told at once; those of the minute that follows are gathered into one notice, sent at
// its end; the interval doubles, up to an hour, while failures go on. A notice is tried five times within
// ten minutes, then given up and logged; [Observer.Alerted] is told when it was sent, or given up.
type Notice struct {
	// Locator identifies the notice; it is the webhook-id header on every try.
	Locator ulid.ULID
	// Failures counts the budgets that were spent, Diverted those of them that were diverted.
	Failures, Diverted int
	// Suspended says whether the webhook was suspended by them.
	Suspended bool
	// First and Last are the failures that this notice begins and ends with.
	First, Last FailedEvent
}

// Add counts a budget that was spent, for those who write a [Store].
func (n *Notice) Add(failed FailedEvent, diverted, suspended bool) {
	if n.Failures == 0 {
		n.First = failed
	}
	n.Last = failed
	n.Failures++
	if diverted {
		n.Diverted++
	}
	n.Suspended = n.Suspended || suspended
}

// FailedEvent is an event and its failure.
type FailedEvent struct {
	Event          ulid.ULID
	RequestLocator ulid.ULID
	Failure        Failure
}

// NoticeOutcome is how the sending of a notice ended. A notice whose claim is lost is claimed again by
// somebody; an outcome with another token changes nothing.
type NoticeOutcome struct {
	Webhook WebhookKey
	Token   int64
	// Done ends the notice: failures that come within Wait join the next one, which is due after it. If
	// there are none the webhook begins anew: the next failure is told at once. Not Done: the same notice
	// is due again after Wait, with one try more. Wait is not negative.
	Done bool
	Wait time.Duration
}

// PendingDelivery is a delivery on its way.
type PendingDelivery struct {
	Key
	RequestLocator ulid.ULID
	EventType      string
	AcceptedAt     time.Time
	// Due is when it is attempted next: zero if that is now, or as soon as its webhook is active. Claimed
	// says that somebody attempts it, and then Due is the end of the lease.
	Due     time.Time
	Claimed bool
	// Attempts counts those made in this budget. Those of a spent budget are shown until the next claim
	// begins a fresh one.
	Attempts int
	// Failure is the last one, nil before the first.
	Failure *Failure
}

// String says which delivery it is, how far it has come, and why it failed last.
func (p PendingDelivery) String() string {
	text := fmt.Sprintf("%s %s: %d attempts", p.Key, p.EventType, p.Attempts)
	switch {
	case p.Claimed:
		text += ", under way"
	case !p.Due.IsZero():
		text += ", due " + FormatTime(p.Due)
	}
	if p.Failure != nil {
		text += ": " + p.Failure.Message
	}
	return text
}

// PendingPage is a page of pending deliveries.
type PendingPage struct {
	Deliveries []PendingDelivery
	// More says that the query has further deliveries after the last of this page.
	More bool
}

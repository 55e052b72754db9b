package diverted

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// Observer is told what happened, after it was committed: metrics, traces and audit logs are built on it.
// Every function is optional. They are called concurrently, by goroutines that deliver or commit, so they
// must be quick and safe for concurrent use, and must not call the store or the dispatcher, which may be
// waiting for them. A panic in one is contained and logged.
//
// Accepted, Resent, Deleted, Suspended, Unsuspended and Diverted are told of every change made through the
// same store value, by whomever (see [Watcher]), whether Run runs or not; the others only of what this
// dispatcher did. If the store is no Watcher, all are told only of that. Each change is told once.
type Observer struct {
	// Accepted: a delivery is newly pending. It is not told of what the host's own transaction accepted
	// ([SQLiteStore.SendTx] and its like), since the store does not see that commit.
	Accepted func(Key)
	// Attempted: an attempt ended, whatever its outcome. It alone is called before the outcome is settled.
	Attempted func(Attempt)
	// Delivered: a receiver answered 2xx, and the delivery is forgotten.
	Delivered func(Attempt)
	// Retried: an attempt failed, and the next is due after Attempt.Wait.
	Retried func(Attempt)
	// Held: a budget was spent, and the delivery waits for its webhook to be unsuspended.
	Held func(Attempt)
	// Diverted: a delivery was set aside. If a call of the store did it (see [ChangeDiverted]), only Key is
	// set.
	Diverted func(Attempt)
	// Dropped: a delivery failed for good and is gone, not set aside. An operator should want to know.
	Dropped func(Attempt)
	// Suspended: a webhook was suspended; Unsuspended: it is no longer.
	Suspended   func(WebhookKey)
	Unsuspended func(WebhookKey)
	// Alerted: a notice was sent, or was given up after its last try; then err says why.
	Alerted func(webhook WebhookKey, notice Notice, err error)
	// Offline: 50 attempts in a row, to 10 hosts or more, got no response at all, so the fault is presumed to
	// be in the network of this machine. Until a receiver responds, one attempt is made each second, and no
	// failure counts. Online: one did, after that time; or Run ended before one did, and the outage with it,
	// since nothing looks for its end any more.
	Offline func()
	Online  func(after time.Duration)
	// Resent: a diverted event is pending again. Deleted: it is gone, see [ChangeDeleted].
	Resent  func(Key)
	Deleted func(Key)
	// Purged: Config.Retention deleted events of a webhook.
	Purged func(Purged)
}

// Tracer connects attempts with the spans that sent their events, see [Config.Tracer]. Its methods must be
// quick and safe for concurrent use; one that panics is contained and logged.
type Tracer interface {
	// Accepting returns the traceparent header of W3C Trace Context (https://www.w3.org/TR/trace-context/)
	// that identifies the span of ctx; "" for none. It is kept with what Send and Publish of the [Dispatcher]
	// accept in ctx, if it is of version 00, which has 55 characters; anything else is ignored. What a store
	// accepts in the host's transaction ([SQLiteStore.SendTx]) has none.
	Accepting(ctx context.Context) (traceparent string)
	// Attempting begins the span of an attempt, whose Failure, Status and Duration are not known yet. The
	// request carries traceparent, if it is of version 00. end, if it is not nil, ends the span.
	Attempting(attempt Attempt) (traceparent string, end func(Attempt))
}

// Attempt is one HTTP POST of a delivery, for an [Observer].
type Attempt struct {
	Key       Key
	EventType string
	// Number counts the attempts of this budget, from 1. It is 0 where the delivery was diverted without
	// an attempt.
	Number int
	// Began is when it began, Duration how long it took.
	Began    time.Time
	Duration time.Duration
	// AcceptedAt is when the delivery was accepted, by the store's clock.
	AcceptedAt time.Time
	// Status is the answer's status code, 0 where there was none.
	Status int
	// Failure is nil if the attempt succeeded.
	Failure *Failure
	// Wait is the time until the next attempt, if this one is retried.
	Wait time.Duration
	// TraceParent is what the [Tracer] returned when the event was accepted, "" for nothing.
	TraceParent string
}

// observed calls a function of the [Observer], if there is one, and contains its panics.
func observed[T any](d *Dispatcher, f func(T), what T) {
	if f == nil {
		return
	}
	defer d.contain("observer")
	f(what)
}

// contain logs a panic in a function of the host's, and ends it. It must be deferred itself. What the
// function panicked with is told by its type alone, since it may hold anything.
func (d *Dispatcher) contain(where string) {
	if v := recover(); v != nil {
		d.log.Error("diverted: panic contained", "in", where, "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
	}
}

func logWebhook(k WebhookKey) []any {
	return []any{"tenant", k.Tenant.String(), "webhook", k.Webhook.String()}
}

func logAttempt(a *Attempt) []any {
	args := append(logWebhook(a.Key.WebhookKey()), "event", a.Key.Event.String(), "attempts", a.Number)
	if a.Failure != nil {
		// Without what the receiver answered, who may quote what it was sent: logs go to others.
		args = append(args, "trigger", string(a.Failure.Trigger), "message", a.Failure.Expunged().Message)
	}
	return args
}

// suspended tells of a webhook that was suspended.
func (d *Dispatcher) suspended(webhook WebhookKey) {
	d.log.Info("diverted: webhook suspended", logWebhook(webhook)...)
	observed(d, d.config.Observer.Suspended, webhook)
}

// tell says what became of an attempt, once the store has settled it.
func (d *Dispatcher) tell(e *ended) {
	o := &d.config.Observer
	switch e.outcome.Kind {
	case OutcomeDelivered:
		observed(d, o.Delivered, e.attempt)
	case OutcomeRetry:
		d.log.Debug("diverted: attempt failed, and is made again", append(logAttempt(&e.attempt), "wait", e.attempt.Wait)...)
		observed(d, o.Retried, e.attempt)
	case OutcomeHold:
		observed(d, o.Held, e.attempt)
	case OutcomeDivert:
		d.log.Warn("diverted: event diverted", logAttempt(&e.attempt)...)
		observed(d, o.Diverted, e.attempt)
	case OutcomeDrop:
		d.log.Warn("diverted: event dropped", logAttempt(&e.attempt)...)
		observed(d, o.Dropped, e.attempt)
	}
}

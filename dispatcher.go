package diverted

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// Dispatcher accepts events and delivers them. [Dispatcher.Send] and [Dispatcher.Publish] accept at any
// time; deliveries are attempted while [Dispatcher.Run] runs, here or in another process on the same
// store.
//
// Its [Observer] and its log are told of changes made through the store as long as the dispatcher is in
// use, whether Run runs or not. There is nothing to close: a dispatcher that is dropped unsubscribes from
// the store when it is garbage-collected, and one that does not run has no goroutine.
type Dispatcher struct {
	store   Store
	config  Config
	log     *slog.Logger
	sender  *sender
	watches bool // the store tells of changes
	// session is that of the Run or Flush under way, nil if there is none.
	session atomic.Pointer[session]
}

// NewDispatcher returns a dispatcher on the store. It attempts nothing until [Dispatcher.Run] is called.
// A nil store, a configuration that breaks a rule, and a Retention on a store that is no [RetentionStore]
// are an [ErrInvalid].
func NewDispatcher(store Store, config Config) (*Dispatcher, error) {
	if store == nil {
		return nil, invalid("store", "must not be nil")
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if _, ok := store.(RetentionStore); !ok && !config.Retention.IsZero() {
		return nil, invalid("Retention", "needs a store that is a RetentionStore, was %T", store)
	}
	config = config.WithDefaults()
	d := &Dispatcher{store: store, config: config, log: config.Logger, sender: newSender(config)}
	if watcher, ok := store.(Watcher); ok {
		d.watches = true
		// The store must not keep a dispatcher that nobody else does.
		self := weak.Make(d)
		stop := watcher.Watch(func(c Change) {
			if d := self.Value(); d != nil {
				d.changed(c)
			}
		})
		runtime.AddCleanup(d, func(stop func()) { stop() }, stop)
	}
	return d, nil
}

// Send accepts an event for one webhook. When it returns nil the delivery is durable: it is pending, or
// it was pending or diverted already, as the answer's Status says. If the webhook is disabled or suspended
// it is held until the webhook is active again.
//
// The error is [ErrNotFound] for a webhook that the tenant does not have, [ErrInvalid] for an event that
// breaks a rule, [ErrFull] if there is no room for it (by a bound of [Config] the answer's Status is [Refused];
// where the disk is full there is no answer), or the store's. After an error that is none of these three, such
// as the end of ctx, the outcome is unknown: repeat with the same event, which adds nothing if it was accepted.
func (d *Dispatcher) Send(ctx context.Context, tenant uuid.UUID, webhook ulid.ULID, event Event) (Acceptance, error) {
	if webhook.IsZero() {
		return Acceptance{}, invalid("webhookLocator", "must not be zero")
	}
	deliveries, err := d.accept(ctx, tenant, webhook, event)
	switch {
	case err != nil:
		return Acceptance{}, err
	case len(deliveries) != 1:
		return Acceptance{}, fmt.Errorf("diverted: the store answered for %d webhooks, not for 1", len(deliveries))
	}
	return deliveries[0], refusal(deliveries[0])
}

// refusal is the error of a delivery that was refused, nil if it was not.
func refusal(a Acceptance) error {
	if a.Err == nil {
		return nil
	}
	return fmt.Errorf("webhook %s: %w", a.Webhook, a.Err)
}

// Publish accepts an event for every enabled webhook of the tenant that subscribes to its type, in one
// transaction, and says for each what became of it, ascending by locator; there may be none. When it
// returns nil they are all durable.
//
// The errors are those of [Dispatcher.Send]. An [ErrFull] comes with the whole answer, and the webhooks that
// had room have accepted the event; where the disk is full it comes with none, and nothing was accepted.
func (d *Dispatcher) Publish(ctx context.Context, tenant uuid.UUID, event Event) ([]Acceptance, error) {
	deliveries, err := d.accept(ctx, tenant, ulid.ULID{}, event)
	if err != nil {
		return nil, err
	}
	var refused []error
	for _, a := range deliveries {
		if a.Err != nil {
			refused = append(refused, refusal(a))
		}
	}
	return deliveries, errors.Join(refused...)
}

func (d *Dispatcher) accept(ctx context.Context, tenant uuid.UUID, webhook ulid.ULID, event Event) ([]Acceptance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m, err := NewMessage(tenant, webhook, event)
	if err != nil {
		return nil, err
	}
	m.TraceParent = d.accepting(ctx)
	r := d.reservation()
	if r == nil || ctx.Done() == nil {
		return d.acceptWith(ctx, m, r)
	}
	// What the store hands back claimed must reach this process, or it would lie still until its lease is
	// over. So the call goes on when ctx ends, and only the caller stops waiting.
	type answer struct {
		deliveries []Acceptance
		err        error
	}
	answers := make(chan answer, 1)
	go func() {
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		defer context.AfterFunc(r.s.settling, cancel)() // with the end of Run at the latest
		deliveries, err := d.acceptWith(call, m, r)
		answers <- answer{deliveries, err}
	}()
	select {
	case a := <-answers:
		return a.deliveries, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reservation returns what a call of Accept may claim at most, nil if it may claim nothing: then what is
// accepted waits for a claim by Work.
func (d *Dispatcher) reservation() *reservation {
	if s := d.session.Load(); s != nil {
		return s.openReservation()
	}
	return nil
}

// acceptWith has the store accept a message, reports what it accepted, and starts the attempts of what it
// handed back, if r allows any.
func (d *Dispatcher) acceptWith(ctx context.Context, m Message, r *reservation) ([]Acceptance, error) {
	request := AcceptRequest{
		Messages:   []Message{m},
		MaxPending: d.config.MaxPendingPerWebhook,
		MaxBytes:   d.config.MaxStoreBytes,
	}
	var claims []Claim
	if r != nil {
		request.Claim = &r.request
		began := time.Now()
		defer func() { r.s.accepted(r, claims, began) }()
	}
	result, err := d.store.Accept(ctx, request)
	if err != nil {
		return nil, err
	}
	claims = result.Claims
	if len(result.Messages) != 1 {
		return nil, fmt.Errorf("diverted: the store answered %d messages, not 1", len(result.Messages))
	}
	answer := result.Messages[0]
	if d.watches { // then it tells of all that were not handed back
		for i := range claims {
			observed(d, d.config.Observer.Accepted, claims[i].Key)
		}
		return answer.Deliveries, answer.Err
	}
	for _, a := range answer.Deliveries {
		if a.Status == Accepted {
			d.changed(Change{ChangeAccepted, Key{m.Tenant, a.Webhook, m.Event}})
		}
	}
	return answer.Deliveries, answer.Err
}

// Run delivers until ctx ends. Then it lets the attempts under way go on for [Config.GracePeriod], gives up
// those that are not over by then, to be made again later, and returns nil if everything was settled in the
// store. Otherwise its error says how many outcomes were not, and those deliveries are attempted again once
// their leases are over. An [ErrClosed] of the store ends Run with that error. No goroutine is left when it
// returns, unless Config.Transport does not let go of a request whose context has ended.
//
// Only one Run or Flush works at a time, another returns an [ErrConflict]; Run may be called again once it
// has returned. Any number of processes may run on one store.
//
// New work, resends and unsuspends made through the same store wake it at once, as does
// [Dispatcher.Wake]; it finds the work of other processes within a second. While the store cannot settle,
// the outcomes wait in memory and nothing is claimed, so that no event is sent again and again because of
// a full disk.
func (d *Dispatcher) Run(ctx context.Context) error { return d.work(ctx, false) }

// Flush attempts everything that is due, and what becomes due meanwhile, and returns when nothing is due or
// under way. What waits for a retry, or because its receiver asked for a pause (Retry-After), is left; the next
// Flush, or Run, knows of no pause. It is for tests and for jobs that run now and then: it works without Run,
// and returns an [ErrConflict] while Run runs. It returns the first error of the store. When ctx ends it stops
// as Run does, and returns ctx's error.
func (d *Dispatcher) Flush(ctx context.Context) error { return d.work(ctx, true) }

// Wake makes a Run under way look for work at once, for instance after a transaction of the host's that
// accepted something. It does not block, and does nothing while nothing runs.
func (d *Dispatcher) Wake() {
	if s := d.session.Load(); s != nil {
		s.wakeUp(true)
	}
}

func (d *Dispatcher) work(ctx context.Context, flush bool) error {
	if ctx.Err() != nil { // nothing is to be begun
		if flush {
			return ctx.Err()
		}
		return nil
	}
	s := newSession(ctx, d, flush)
	if !d.session.CompareAndSwap(nil, s) {
		return fmt.Errorf("diverted: Run or Flush is under way already: %w", ErrConflict)
	}
	defer d.session.Store(nil)
	defer d.sender.close()
	return s.run(ctx)
}

// changed is told of every change that was committed through the store, except those made by Work and
// those that Accept handed back claimed.
func (d *Dispatcher) changed(c Change) {
	s := d.session.Load()
	o := &d.config.Observer
	switch c.Kind {
	case ChangeAccepted:
		if s != nil {
			s.added(c.Key.WebhookKey())
		}
		observed(d, o.Accepted, c.Key)
	case ChangeResent:
		if s != nil {
			s.added(c.Key.WebhookKey())
		}
		observed(d, o.Resent, c.Key)
	case ChangeDiverted:
		observed(d, o.Diverted, Attempt{Key: c.Key})
	case ChangeDeleted:
		observed(d, o.Deleted, c.Key)
	case ChangeSuspended:
		if s != nil {
			s.suspended(c.Key.WebhookKey())
		}
		d.suspended(c.Key.WebhookKey())
	case ChangeUnsuspended:
		if s != nil {
			s.unsuspended(c.Key.WebhookKey())
		}
		d.log.Info("diverted: webhook unsuspended", logWebhook(c.Key.WebhookKey())...)
		observed(d, o.Unsuspended, c.Key.WebhookKey())
	case ChangeEnabled, ChangeDue:
		if s != nil {
			s.wakeUp(false)
		}
	}
}

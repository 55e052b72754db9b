package modeltest

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// model is a store as the contract in store.go tells it, and nothing else: maps and lists that are
// searched from end to end. It answers what a store must answer, but for claims, where the contract leaves
// a store some choice. There the store goes first, and the model judges: see [model.claims].
type model struct {
	webhooks map[diverted.WebhookKey]*webhook
	order    int
	slack    time.Duration     // within which times are the same
	changes  []diverted.Change // what a watcher must have been told since the last step
}

// webhook is all that belongs to a webhook.
type webhook struct {
	known      bool // else the store holds diverted events of it alone
	value      diverted.Webhook
	epoch      int
	deliveries map[ulid.ULID]*delivery
	notice     *notice
}

// delivery is an event at a webhook, pending or diverted.
type delivery struct {
	message    diverted.Message
	acceptedAt time.Time
	order      int // of acceptance
	failure    *diverted.Failure
	failures   []diverted.Failure

	diverted   bool // else pending
	divertedAt time.Time

	token    int64     // of its claim; 0: nobody's
	epoch    int       // of its webhook at the claim
	due      time.Time // the end of its wait or of its lease; zero: now
	place    place
	attempts int
	losses   int
	spent    bool // held with its budget spent
	resent   bool // was diverted once
	released bool // has a fresh budget after it was held
}

// place is where a delivery stands among those of its webhook that are due.
type place int

const (
	inOrder  place = iota // in the order of acceptance
	first                 // a retry, before all that are in order
	anywhere              // the contract does not say: a lost lease, a retry that was returned
)

// notice is what an alert endpoint is told.
type notice struct {
	open, sending diverted.Notice // no failures: none
	tries         int
	window        time.Duration
	token         int64
	due           time.Time
}

func (n *notice) idle() bool { return n.open.Failures == 0 && n.sending.Failures == 0 }

func now() time.Time { return time.Now().UTC().Round(0) }

// today is the time that is recorded for what happens now.
func today() time.Time { return now().Truncate(time.Millisecond) }

// in is when something is due after a wait: rounded up.
func in(wait time.Duration) time.Time {
	return now().Add(max(wait, 0) + time.Millisecond - 1).Truncate(time.Millisecond)
}

func over(due time.Time) bool { return !due.After(now()) }

func (m *model) changed(kind diverted.ChangeKind, key diverted.WebhookKey, event ulid.ULID) {
	m.changes = append(m.changes, diverted.Change{
		Kind: kind, Key: diverted.Key{Tenant: key.Tenant, Webhook: key.Webhook, Event: event},
	})
}

// open returns the webhook of a key, and begins one that is not known if there is none.
func (m *model) open(key diverted.WebhookKey) *webhook {
	if m.webhooks[key] == nil {
		m.webhooks[key] = &webhook{deliveries: make(map[ulid.ULID]*delivery)}
	}
	return m.webhooks[key]
}

// known returns the webhook of a key, nil if the store does not know it.
func (m *model) known(key diverted.WebhookKey) *webhook {
	if w := m.webhooks[key]; w != nil && w.known {
		return w
	}
	return nil
}

func (m *model) find(key diverted.Key) (*webhook, *delivery) {
	if w := m.webhooks[key.WebhookKey()]; w != nil {
		return w, w.deliveries[key.Event]
	}
	return nil, nil
}

func (w *webhook) active() bool { return w.known && w.value.Active() }

// pending and aside are the deliveries of a webhook by event locator, as lists show them.
func (w *webhook) pending() []*delivery { return w.sorted(false) }
func (w *webhook) aside() []*delivery   { return w.sorted(true) }

func (w *webhook) sorted(diverted bool) []*delivery {
	var all []*delivery
	if w != nil {
		for _, d := range w.deliveries {
			if d.diverted == diverted {
				all = append(all, d)
			}
		}
	}
	slices.SortFunc(all, func(a, b *delivery) int { return a.message.Event.Compare(b.message.Event) })
	return all
}

// due are the deliveries that may be claimed, in the order of acceptance.
func (w *webhook) due() []*delivery {
	if !w.active() {
		return nil
	}
	all := slices.DeleteFunc(w.pending(), func(d *delivery) bool { return !over(d.due) })
	slices.SortFunc(all, func(a, b *delivery) int { return cmp.Compare(a.order, b.order) })
	return all
}

// put saves a webhook, and lets go what it held if it becomes active.
func (m *model) put(w *webhook, value diverted.Webhook) diverted.Webhook {
	before := w.active()
	if w.known && value.Enabled && !w.value.Enabled {
		m.changed(diverted.ChangeEnabled, value.Key(), ulid.ULID{})
	}
	w.known, w.value = true, value
	if w.active() && !before {
		for _, d := range w.pending() {
			switch {
			case d.token == 0:
				d.due, d.place = time.Time{}, inOrder
			case over(d.due):
				d.place = anywhere
			}
		}
	}
	return value
}

func (m *model) putWebhook(value diverted.Webhook) (diverted.Webhook, error) {
	w := m.open(value.Key())
	if !w.known {
		return m.createWebhook(value)
	}
	value = value.Replacing(w.value, today())
	if value.Version == w.value.Version {
		return w.value, nil // and nobody is told
	}
	return m.put(w, value), nil
}

func (m *model) createWebhook(value diverted.Webhook) (diverted.Webhook, error) {
	if m.known(value.Key()) != nil {
		return diverted.Webhook{}, diverted.ErrConflict
	}
	value.Version, value.SuspendedAt = 1, time.Time{}
	return m.put(m.open(value.Key()), value), nil
}

func (m *model) updateWebhook(value diverted.Webhook) (diverted.Webhook, error) {
	w := m.known(value.Key())
	switch {
	case w == nil:
		return diverted.Webhook{}, diverted.ErrNotFound
	case w.value.Version != value.Version:
		return diverted.Webhook{}, diverted.ErrConflict
	}
	value.Version, value.SuspendedAt = value.Version+1, w.value.SuspendedAt
	return m.put(w, value), nil
}

func (m *model) deleteWebhook(key diverted.WebhookKey, discard bool) error {
	w := m.webhooks[key]
	switch {
	case w == nil || !w.known && len(w.deliveries) == 0:
		return diverted.ErrNotFound
	case len(w.deliveries) > 0 && !discard:
		return diverted.ErrNotEmpty
	}
	delete(m.webhooks, key)
	return nil
}

func (m *model) suspend(key diverted.WebhookKey) error {
	w := m.known(key)
	if w == nil {
		return diverted.ErrNotFound
	}
	if !w.value.Suspended() {
		w.value.SuspendedAt = today()
		m.changed(diverted.ChangeSuspended, key, ulid.ULID{})
	}
	return nil
}

func (m *model) unsuspend(key diverted.WebhookKey) error {
	w := m.known(key)
	if w == nil {
		return diverted.ErrNotFound
	}
	if w.value.Suspended() {
		w.epoch++
		value := w.value
		value.SuspendedAt = time.Time{}
		m.put(w, value)
		m.changed(diverted.ChangeUnsuspended, key, ulid.ULID{})
	}
	return nil
}

func (m *model) divert(e diverted.DivertedEvent) error {
	_, d := m.find(e.Key)
	if d != nil && !d.diverted {
		return diverted.ErrConflict
	}
	var again time.Time
	if d != nil {
		again = d.divertedAt.Add(time.Millisecond)
	}
	if d == nil {
		m.order++
		d = &delivery{message: diverted.Message{
			Tenant: e.Tenant, Webhook: e.Webhook, Event: e.Event,
			RequestLocator: e.RequestLocator, EventType: e.EventType, Body: e.Body,
		}, acceptedAt: today(), order: m.order, diverted: true}
		m.open(e.WebhookKey()).deliveries[e.Event] = d
	}
	d.keep(&e.Failure)
	if d.attempts, d.divertedAt = e.Attempts, today(); d.divertedAt.Before(again) {
		d.divertedAt = again
	}
	m.changed(diverted.ChangeDiverted, e.WebhookKey(), e.Event)
	return nil
}

// keep remembers a failure as the last one.
func (d *delivery) keep(f *diverted.Failure) {
	kept := *f
	if kept.At.IsZero() {
		kept.At = now()
	}
	kept.At = kept.At.UTC().Truncate(time.Millisecond)
	d.failure = &kept
	d.failures = append(d.failures, kept)
	d.failures = d.failures[max(0, len(d.failures)-diverted.MaxFailures):]
}

func (m *model) resend(key diverted.Key) error {
	w, d := m.find(key)
	switch {
	case d == nil || !d.diverted:
		return diverted.ErrNotFound
	case len(d.message.Body) == 0:
		return diverted.ErrExpunged
	case w.letsGo() != nil:
		return w.letsGo()
	}
	d.diverted, d.resent, d.released = false, true, false
	d.due, d.place = time.Time{}, inOrder
	d.attempts, d.losses = 0, 0
	m.changed(diverted.ChangeResent, key.WebhookKey(), key.Event)
	return nil
}

func (m *model) deleteDiverted(key diverted.Key) error {
	w, d := m.find(key)
	if d == nil || !d.diverted {
		return diverted.ErrNotFound
	}
	delete(w.deliveries, key.Event)
	m.changed(diverted.ChangeDeleted, key.WebhookKey(), key.Event)
	return nil
}

// accept accepts a message, if not most are pending already. handed are the claims that the store handed back
// at once.
func (m *model) accept(msg diverted.Message, most int, handed map[diverted.Key]diverted.Claim, lease time.Duration) (diverted.MessageResult, error) {
	var receivers []diverted.WebhookKey
	if !msg.Webhook.IsZero() {
		key := diverted.WebhookKey{Tenant: msg.Tenant, Webhook: msg.Webhook}
		if m.known(key) == nil {
			return diverted.MessageResult{Err: diverted.ErrNotFound}, nil
		}
		receivers = append(receivers, key)
	} else {
		for key, w := range m.webhooks {
			if key.Tenant == msg.Tenant && w.known && w.value.Enabled && w.value.Subscribes(msg.EventType) {
				receivers = append(receivers, key)
			}
		}
		slices.SortFunc(receivers, func(a, b diverted.WebhookKey) int { return a.Webhook.Compare(b.Webhook) })
	}
	var result diverted.MessageResult
	for _, key := range receivers {
		w := m.webhooks[key]
		status := diverted.Accepted
		switch d := w.deliveries[msg.Event]; {
		case d != nil && d.diverted:
			status = diverted.AlreadyDiverted
		case d != nil:
			status = diverted.AlreadyPending
		case most > 0 && len(w.pending()) >= most:
			result.Deliveries = append(result.Deliveries, diverted.Acceptance{Webhook: key.Webhook, Status: diverted.Refused, Err: diverted.ErrFull})
			continue
		default:
			ahead := w.due()
			m.order++
			d = &delivery{message: msg, acceptedAt: today(), order: m.order}
			d.message.Webhook = key.Webhook
			w.deliveries[msg.Event] = d
			claim, claimed := handed[diverted.Key{Tenant: key.Tenant, Webhook: key.Webhook, Event: msg.Event}]
			switch {
			case !claimed:
				m.changed(diverted.ChangeAccepted, key, msg.Event)
			case len(ahead) > 0:
				return result, fmt.Errorf("%s is handed back claimed, but %s waits before it", msg.Event, ahead[0].message.Event)
			default:
				delete(handed, claim.Key)
				if err := m.claim(claim, lease); err != nil {
					return result, err
				}
			}
		}
		result.Deliveries = append(result.Deliveries, diverted.Acceptance{Webhook: key.Webhook, Status: status})
	}
	return result, nil
}

// shift moves every due time by d: forwards, it is as if the clock had been set back while the store was
// closed. What is then further ahead than any lease or wait can be is void.
func (m *model) shift(d time.Duration) {
	for _, w := range m.webhooks {
		for _, v := range w.pending() {
			switch {
			case v.due.IsZero():
			case v.token != 0:
				if v.due = v.due.Add(d); v.due.After(now().Add(diverted.MaxLease)) {
					v.due = today()
				}
			default:
				if v.due = v.due.Add(d); v.due.After(now().Add(farthest)) {
					v.due, v.place = time.Time{}, anywhere
				}
			}
		}
		if n := w.notice; n != nil && !n.due.IsZero() {
			if n.idle() && over(n.due) {
				w.notice = nil
				continue
			}
			if n.due = n.due.Add(d); n.due.After(now().Add(farthest)) {
				n.due = today()
			}
		}
	}
}

// farthest is further ahead than any wait.
const farthest = 2 * diverted.MaxRetryInterval

// pendingDelivery is a delivery as ListPending shows it.
func (w *webhook) pendingDelivery(d *delivery) diverted.PendingDelivery {
	p := diverted.PendingDelivery{
		Key:            diverted.Key{Tenant: d.message.Tenant, Webhook: d.message.Webhook, Event: d.message.Event},
		RequestLocator: d.message.RequestLocator, EventType: d.message.EventType,
		AcceptedAt: d.acceptedAt, Attempts: d.attempts, Failure: d.failure,
	}
	if !over(d.due) {
		p.Claimed = d.token != 0
		if p.Claimed || w.active() {
			p.Due = d.due
		}
	}
	return p
}

// divertedEvent is a delivery as FetchDiverted shows it.
func (d *delivery) divertedEvent() diverted.DivertedEvent {
	return diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: d.message.Tenant, Webhook: d.message.Webhook, Event: d.message.Event},
		RequestLocator: d.message.RequestLocator, EventType: d.message.EventType, Body: d.message.Body,
		Failure: *d.failure, Attempts: d.attempts, AcceptedAt: d.acceptedAt, DivertedAt: d.divertedAt,
		Expunged: len(d.message.Body) == 0,
	}
}

// near returns want if got is the same time, else got.
func (m *model) near(got, want time.Time) time.Time {
	if got.Sub(want).Abs() <= m.slack && got.IsZero() == want.IsZero() {
		return want
	}
	return got
}

// sameWebhook says how two webhooks differ, if they do.
func (m *model) sameWebhook(got, want diverted.Webhook) error {
	got.SuspendedAt = m.near(got.SuspendedAt, want.SuspendedAt)
	if g, w := got.Endpoint.OldSecrets, want.Endpoint.OldSecrets; len(g) == len(w) {
		got.Endpoint.OldSecrets = slices.Clone(g)
		for i := range g {
			// Stores keep this time in the record, some to the nanosecond.
			if g[i].Until.Sub(w[i].Until).Abs() < m.slack+time.Millisecond {
				got.Endpoint.OldSecrets[i].Until = w[i].Until
			}
		}
	}
	return differ("webhook", got, want)
}

// differ says in which fields two structs differ, if they do. It goes by field, since many types print
// less than they hold.
func differ(what string, got, want any) error {
	var all []error
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if g, w := g.Field(i).Interface(), w.Field(i).Interface(); !reflect.DeepEqual(g, w) {
			all = append(all, fmt.Errorf("the %s's %s is %+v, want %+v", what, reflect.TypeOf(got).Field(i).Name, g, w))
		}
	}
	return errors.Join(all...)
}

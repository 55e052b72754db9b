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
			d.renew()
		}
	}
	return value
}

// renew gives a delivery that is held a fresh budget.
func (d *delivery) renew() {
	if d.spent {
		d.spent, d.attempts, d.released = false, 0, true
	}
}

func (m *model) putWebhook(value diverted.Webhook) (diverted.Webhook, error) {
	w := m.open(value.Key())
	if !w.known {
		return m.createWebhook(value)
	}
	return m.put(w, value.Replacing(w.value, today())), nil
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
	w := m.known(key)
	switch {
	case w == nil:
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
	if d == nil {
		m.order++
		d = &delivery{message: diverted.Message{
			Tenant: e.Tenant, Webhook: e.Webhook, Event: e.Event,
			RequestLocator: e.RequestLocator, EventType: e.EventType, Body: e.Body,
		}, acceptedAt: today(), order: m.order, diverted: true}
		m.open(e.WebhookKey()).deliveries[e.Event] = d
	}
	d.keep(&e.Failure)
	d.attempts, d.divertedAt = e.Attempts, today()
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
}

func (m *model) resend(key diverted.Key) error {
	w, d := m.find(key)
	switch {
	case d == nil || !d.diverted:
		return diverted.ErrNotFound
	case !w.known:
		return diverted.ErrWebhookUnknown
	case !w.value.Enabled:
		return diverted.ErrDisabled
	case w.value.Suspended():
		return diverted.ErrSuspended
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

// settle applies an outcome.
func (m *model) settle(o diverted.Outcome) diverted.Settled {
	w, d := m.find(o.Key)
	if d == nil || d.diverted || d.token == 0 || d.token != o.Token {
		return diverted.Settled{Stale: true}
	}
	var settled diverted.Settled
	if o.Suspend && d.epoch == w.epoch && !w.value.Suspended() {
		w.value.SuspendedAt = today()
		settled.Suspended = true
	}
	d.token, d.due, d.place = 0, time.Time{}, inOrder
	if o.Kind != diverted.OutcomeReturn {
		d.losses = 0
	}
	if o.Failure != nil {
		d.keep(o.Failure)
	}
	switch o.Kind {
	case diverted.OutcomeDelivered, diverted.OutcomeDrop:
		delete(w.deliveries, o.Key.Event)
	case diverted.OutcomeRetry:
		d.attempts++
		if w.active() {
			d.due, d.place = in(o.Wait), first
		}
	case diverted.OutcomeDivert:
		d.attempts++
		d.diverted, d.divertedAt = true, today()
	case diverted.OutcomeHold:
		d.attempts++
		d.spent = true
		if w.active() {
			d.renew()
		}
	case diverted.OutcomeReturn:
		if d.attempts > 0 && w.active() {
			d.place = anywhere
		}
	}
	if o.Alert {
		n := w.notice
		if n == nil || n.idle() && over(n.due) { // none, or its window passed in silence
			n = new(notice)
			w.notice = n
		}
		n.open.Add(diverted.FailedEvent{Event: o.Key.Event, RequestLocator: d.message.RequestLocator, Failure: *d.failure},
			o.Kind == diverted.OutcomeDivert, settled.Suspended)
	}
	return settled
}

// claim judges one claim, and makes it.
func (m *model) claim(c diverted.Claim, lease time.Duration) error {
	w, d := m.find(c.Key)
	switch {
	case d == nil || d.diverted:
		return fmt.Errorf("%s is claimed and is not pending", c.Key)
	case !w.active():
		return fmt.Errorf("%s is claimed and its webhook is not active", c.Key)
	case !over(d.due):
		return fmt.Errorf("%s is claimed and not due before %s", c.Key, d.due)
	case c.Token == 0 || c.Token == d.token:
		return fmt.Errorf("%s is claimed again with its token", c.Key)
	}
	if d.token != 0 {
		d.losses++
	}
	d.token, d.epoch, d.due, d.place = c.Token, w.epoch, in(lease), anywhere
	if err := m.sameWebhook(*c.Webhook, w.value); err != nil {
		return err
	}
	want := diverted.Claim{
		Key: c.Key, Token: c.Token, Webhook: c.Webhook, Epoch: c.Epoch,
		RequestLocator: d.message.RequestLocator, EventType: d.message.EventType, Body: d.message.Body,
		AcceptedAt: d.acceptedAt, Attempts: d.attempts, Losses: d.losses, Diverted: d.resent, Released: d.released,
	}
	c.AcceptedAt = m.near(c.AcceptedAt, d.acceptedAt)
	return differ("claim", c, want)
}

// bounds are those of a request to claim.
type bounds struct {
	count, bytes int
	lease        time.Duration
	room         map[diverted.WebhookKey]int  // nil: as much as is wanted
	short        map[diverted.WebhookKey]bool // those for which the store wanted more
	held         map[diverted.Key]bool        // those that the store asked for and the caller has in hand
}

// extend begins the leases anew of what the caller has in hand, as the store learned when it asked.
func (m *model) extend(b bounds) error {
	for key := range b.held {
		_, d := m.find(key)
		if d == nil || d.token == 0 || !over(d.due) {
			return fmt.Errorf("the store asks whether %s is in flight, and it has no lease that is over", key)
		}
		d.due, d.place = in(b.lease), anywhere
	}
	return nil
}

// claims judges the claims of a call of Work, and makes them. It says whether more is due than the bounds
// of count and bytes allowed.
func (m *model) claims(claims []diverted.Claim, b bounds) (more bool, err error) {
	size, allowed := 0, 0
	taken := make(map[diverted.WebhookKey][]diverted.Claim)
	for _, c := range claims {
		taken[c.Key.WebhookKey()] = append(taken[c.Key.WebhookKey()], c)
		size += len(c.Body)
	}
	for key, w := range m.webhooks {
		due, room := len(w.due()), b.count
		if b.room != nil {
			room = b.room[key]
		}
		allowed += min(due, room)
		if len(taken[key]) > room {
			return false, fmt.Errorf("%d of %s are claimed, and there was room for %d", len(taken[key]), key, room)
		}
		if err := rightOrder(w, taken[key]); err != nil {
			return false, err
		}
	}
	for _, c := range claims {
		if err := m.claim(c, b.lease); err != nil {
			return false, err
		}
	}
	ample := b.bytes >= 1<<20
	switch {
	case len(claims) > b.count:
		return false, fmt.Errorf("%d are claimed, and %d were allowed", len(claims), b.count)
	case size > b.bytes && len(claims) > 1:
		return false, fmt.Errorf("%d bytes are claimed, and %d were allowed", size, b.bytes)
	case allowed > 0 && len(claims) == 0 && len(b.held) == 0, // which may take the room
		ample && len(b.held) == 0 && len(claims) != min(allowed, b.count):
		return false, fmt.Errorf("%d are claimed, and %d are due with room", len(claims), min(allowed, b.count))
	}
	return allowed > len(claims) && len(b.held) == 0, nil
}

// rightOrder judges the order of the claims of one webhook: retries first, then the others as they were
// accepted, and none is left out.
func rightOrder(w *webhook, claims []diverted.Claim) error {
	var order []*delivery
	for _, c := range claims {
		if d := w.deliveries[c.Key.Event]; d != nil && d.place != anywhere {
			order = append(order, d)
		}
	}
	var want []*delivery
	for _, place := range []place{first, inOrder} {
		for _, d := range w.due() {
			if d.place == place {
				want = append(want, d)
			}
		}
	}
	for i, d := range order {
		if i < len(want) && d.place == first && want[i].place == first {
			continue // retries have no order among themselves
		}
		if i >= len(want) || want[i] != d {
			return fmt.Errorf("%s is claimed out of turn", d.message.Event)
		}
	}
	return nil
}

// next is the earliest time at which something becomes due of a webhook of which nothing is due now, zero
// for nothing. ready says whether something is due now. What the caller has no room for, webhooks that are
// short and notices unless it wants some, it has to remember itself.
func (m *model) next(short map[diverted.WebhookKey]bool, notices bool) (at time.Time, ready bool) {
	var waits []time.Time
	for key, w := range m.webhooks {
		if len(w.due()) > 0 {
			ready = true
		} else if w.active() && !short[key] {
			for _, d := range w.pending() {
				waits = append(waits, d.due)
			}
		}
		if notices && w.notice != nil && !w.notice.idle() {
			ready = ready || over(w.notice.due)
			waits = append(waits, w.notice.due)
		}
	}
	for _, due := range waits {
		if !over(due) && (at.IsZero() || due.Before(at)) {
			at = due
		}
	}
	return at, ready
}

// claimNotices judges the claims of notices, and makes them.
func (m *model) claimNotices(claims []diverted.NoticeClaim, most int, lease time.Duration) error {
	due := 0
	for _, w := range m.webhooks {
		if n := w.notice; n != nil && !n.idle() && over(n.due) {
			due++
		}
	}
	if len(claims) != min(due, most) {
		return fmt.Errorf("%d notices are claimed, want %d", len(claims), min(due, most))
	}
	for _, c := range claims {
		w := m.known(c.Webhook.Key())
		if w == nil || w.notice == nil || w.notice.idle() || !over(w.notice.due) {
			return fmt.Errorf("a notice of %s is claimed, and none is due", c.Webhook.Key())
		}
		n := w.notice
		if n.sending.Failures == 0 {
			n.sending, n.open = n.open, diverted.Notice{}
			n.sending.Locator = c.Notice.Locator // the store's choice, at the first claim
		}
		switch {
		case c.Notice.Locator.IsZero():
			return errors.New("a notice has no locator")
		case c.Token == 0 || c.Token == n.token:
			return errors.New("a notice is claimed again with its token")
		}
		if err := m.sameWebhook(*c.Webhook, w.value); err != nil {
			return err
		}
		want := diverted.NoticeClaim{Webhook: c.Webhook, Token: c.Token, Notice: n.sending, Tries: n.tries, Window: n.window}
		c.Notice.First.Failure.At = m.near(c.Notice.First.Failure.At, n.sending.First.Failure.At)
		c.Notice.Last.Failure.At = m.near(c.Notice.Last.Failure.At, n.sending.Last.Failure.At)
		if err := differ("notice", c, want); err != nil {
			return err
		}
		n.token, n.due = c.Token, in(lease)
	}
	return nil
}

func (m *model) settleNotice(o diverted.NoticeOutcome) {
	w := m.known(o.Webhook)
	if w == nil || w.notice == nil || w.notice.token == 0 || w.notice.token != o.Token {
		return
	}
	n := w.notice
	n.token, n.due = 0, in(o.Wait)
	if o.Done {
		n.sending, n.tries, n.window = diverted.Notice{}, 0, o.Wait
	} else {
		n.tries++
	}
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

package diverted

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/internal/turns"
	"github.com/divertedevents/diverted/internal/watchers"
)

// MemoryStore is a [Store] that keeps everything in memory, for unit tests: what it holds ends with the
// process. In every other respect it keeps the contract, and it has every optional power. Its measure of
// what it keeps, for [AcceptRequest.MaxBytes], is the sum of the bodies.
//
// Its clock is the process's monotonic one, started at the wall clock's time: setting the wall clock makes
// nothing due and no lease void. Within a bubble of testing/synctest it has the bubble's time.
type MemoryStore struct {
	start    time.Time
	watchers watchers.Watchers[Change]
	telling  sync.Mutex // held while the watchers are told, so that changes are in the order they were made in

	mu      sync.Mutex // guards what follows
	closed  bool
	tenants map[uuid.UUID]*memoryIndex[*memoryWebhook]
	turns   turns.Turns[*memoryWebhook] // whose deliveries are due, or when they will be
	notices turns.Turns[*memoryWebhook] // whose notices are
	size    int64                       // of all bodies
	tokens  int64                       // the last one given
	order   int64                       // the place in the order of acceptance that was given last
}

var (
	_ Store          = (*MemoryStore)(nil)
	_ Watcher        = (*MemoryStore)(nil)
	_ BulkStore      = (*MemoryStore)(nil)
	_ StatsStore     = (*MemoryStore)(nil)
	_ RetentionStore = (*MemoryStore)(nil)
)

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{start: time.Now(), tenants: make(map[uuid.UUID]*memoryIndex[*memoryWebhook])}
}

// Close implements [Store].
func (s *MemoryStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.tenants = nil
	s.turns, s.notices = turns.Turns[*memoryWebhook]{}, turns.Turns[*memoryWebhook]{}
	return nil
}

// memoryTx is what a method does with the store while it is the only one: a transaction, but without a
// way back, so that a method finds every fault before its first change.
type memoryTx struct {
	*MemoryStore
	now     time.Time
	changes []Change
}

// do runs f as a transaction, and then tells the watchers of its changes.
func (s *MemoryStore) do(ctx context.Context, f func(tx *memoryTx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("diverted: memory store: %w", err)
	}
	tx := &memoryTx{MemoryStore: s}
	err := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return fmt.Errorf("diverted: memory store: %w", ErrClosed)
		}
		tx.now = s.start.Add(time.Since(s.start)).Round(0).UTC()
		err := f(tx)
		if len(tx.changes) > 0 {
			s.telling.Lock() // before mu is free
		}
		return err
	}()
	if len(tx.changes) > 0 {
		defer s.telling.Unlock()
		s.watchers.Tell(tx.changes...)
	}
	return err
}

// today is the time that is recorded for what happens now.
func (tx *memoryTx) today() time.Time { return tx.now.Truncate(time.Millisecond) }

// in is the time that is a wait away from now, rounded up to milliseconds.
func (tx *memoryTx) in(wait time.Duration) time.Time {
	at := tx.now.Add(wait)
	if rounded := at.Truncate(time.Millisecond); rounded.Before(at) {
		return rounded.Add(time.Millisecond)
	}
	return at
}

func (tx *memoryTx) over(at time.Time) bool { return !at.After(tx.now) }

func (tx *memoryTx) changed(kind ChangeKind, key Key) {
	tx.changes = append(tx.changes, Change{kind, key})
}

func (tx *memoryTx) token() int64 {
	tx.tokens++
	return tx.tokens
}

// memoryWebhook is all that the store holds of one webhook, known or only diverted to.
type memoryWebhook struct {
	key WebhookKey
	// webhook is replaced, never changed, since claims share it. Nil: the store does not know it.
	webhook *Webhook
	epoch   int64
	// pending and diverted hold its deliveries by event locator. Every pending one is also in one of the two
	// queues: ready in the order of acceptance, or timed, which are the retries that wait and the claims.
	pending, diverted memoryIndex[*memoryDelivery]
	ready, timed      memoryQueue
	notice            *memoryNotice
	activity          activity
}

func (w *memoryWebhook) locator() ulid.ULID { return w.key.Webhook }

// with returns the identity of an event at this webhook; the zero event stands for the webhook itself.
func (w *memoryWebhook) with(event ulid.ULID) Key {
	return Key{Tenant: w.key.Tenant, Webhook: w.key.Webhook, Event: event}
}

func (w *memoryWebhook) active() bool { return w.webhook != nil && w.webhook.Active() }

// memoryDelivery is a delivery, pending or diverted.
type memoryDelivery struct {
	event, request ulid.ULID
	eventType      string
	body           []byte // none: expunged
	traceParent    string
	acceptedAt     time.Time
	order          int64 // its place in the order of acceptance

	attempts, losses int
	failures         []Failure // oldest first, at most MaxFailures
	resent           bool      // it was diverted once
	released, spent  bool
	divertedAt       time.Time

	token int64     // of its claim; 0: nobody's
	due   time.Time // when its wait or its lease ends; zero: it waits for nothing
	queue *memoryQueue
	at    int // its index in queue
}

func (d *memoryDelivery) locator() ulid.ULID { return d.event }

// failure returns a copy of the last failure, nil for none.
func (d *memoryDelivery) failure() *Failure {
	if len(d.failures) == 0 {
		return nil
	}
	f := d.failures[len(d.failures)-1]
	return &f
}

// fail adds a failure to those that are kept.
func (tx *memoryTx) fail(d *memoryDelivery, f Failure) {
	if len(d.failures) == MaxFailures {
		d.failures = d.failures[1:]
	}
	d.failures = append(d.failures, f.Kept(tx.now))
}

// known returns a webhook that the store knows, else ErrNotFound.
func (tx *memoryTx) known(key WebhookKey) (*memoryWebhook, error) {
	w := tx.find(key)
	if w == nil || w.webhook == nil {
		return nil, fmt.Errorf("diverted: webhook %s: %w", key, ErrNotFound)
	}
	return w, nil
}

// find returns what the store holds of a webhook, nil for nothing.
func (tx *memoryTx) find(key WebhookKey) *memoryWebhook {
	tenant := tx.tenants[key.Tenant]
	if tenant == nil {
		return nil
	}
	w, _ := tenant.get(key.Webhook)
	return w
}

// open returns what the store holds of a webhook, and begins with nothing.
func (tx *memoryTx) open(key WebhookKey) *memoryWebhook {
	if w := tx.find(key); w != nil {
		return w
	}
	tenant := tx.tenants[key.Tenant]
	if tenant == nil {
		tenant = new(memoryIndex[*memoryWebhook])
		tx.tenants[key.Tenant] = tenant
	}
	w := &memoryWebhook{key: key, epoch: 1}
	w.ready.less = func(a, b *memoryDelivery) bool { return a.order < b.order }
	w.timed.less = func(a, b *memoryDelivery) bool {
		if !a.due.Equal(b.due) {
			return a.due.Before(b.due)
		}
		return a.order < b.order
	}
	tenant.put(w)
	return w
}

// forget ends all that the store holds of a webhook.
func (tx *memoryTx) forget(w *memoryWebhook) {
	tx.turns.Drop(w)
	tx.notices.Drop(w)
	for _, held := range []*memoryIndex[*memoryDelivery]{&w.pending, &w.diverted} {
		for d := range held.from(ulid.ULID{}, 0) {
			tx.size -= int64(len(d.body))
		}
	}
	tenant := tx.tenants[w.key.Tenant]
	tenant.remove(w.key.Webhook)
	if tenant.len() == 0 {
		delete(tx.tenants, w.key.Tenant)
	}
}

// plan tells turns when the webhook is next due. It follows every change to its queues or its state.
func (tx *memoryTx) plan(w *memoryWebhook) {
	first := w.timed.first()
	switch {
	case w.active() && (w.ready.Len() > 0 || first != nil && tx.over(first.due)):
		tx.turns.Ready(w.key.Tenant, w)
	case w.active() && first != nil:
		tx.turns.Drop(w)
		tx.turns.At(w.key.Tenant, w, first.due)
	default:
		tx.turns.Drop(w)
	}
}

// await queues a pending delivery that nobody has claimed: as a retry that is due at a time, or, if that is
// zero, in the order of acceptance. If the webhook is not active, release sees to the rest.
func (tx *memoryTx) await(w *memoryWebhook, d *memoryDelivery, due time.Time) {
	d.token, d.due = 0, due
	if due.IsZero() {
		w.ready.add(d)
	} else {
		w.timed.add(d)
	}
}

// release makes everything pending due now in the order of acceptance, since the webhook has become
// active, but for what is claimed.
func (tx *memoryTx) release(w *memoryWebhook) {
	for _, d := range slices.Clone(w.timed.items) {
		if d.token == 0 {
			w.timed.remove(d)
			d.due = time.Time{}
			w.ready.add(d)
		}
	}
}

// Watch implements [Watcher]. After stop has returned f is not called.
func (s *MemoryStore) Watch(f func(Change)) (stop func()) { return s.watchers.Add(f) }

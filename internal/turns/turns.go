// Package turns says whose turn it is: it remembers which webhooks may have something due, and hands
// them out fairly, by tenant and then by webhook. Stores share it.
//
// What it remembers is a hint. It may be too early (the store looks, and finds nothing) but must never be
// too late, so a store tells it of everything that becomes due. Webhooks of which nothing is told cost
// nothing. Every operation is O(log n) in the webhooks that wait for a time, or better.
package turns

import (
	"container/heap"
	"container/list"
	"time"

	"github.com/google/uuid"
)

// Turns is the order in which webhooks, each known to the store as a K, have their turns. Its zero value
// is empty and ready for use. It is not safe for concurrent use.
type Turns[K comparable] struct {
	entries map[K]*entry[K]
	tenants map[uuid.UUID]*tenant
	ring    list.List // of *tenant: those with a ready webhook, the next one in front
	ready   int
	waiting waiting[K]
}

// tenant is a tenant with at least one ready webhook.
type tenant struct {
	id   uuid.UUID
	here *list.Element // in Turns.ring
	ring list.List     // of *entry: its ready webhooks, the next one in front
}

// entry is a webhook that is ready, or waits for a time, or both.
type entry[K comparable] struct {
	key    K
	tenant uuid.UUID
	ready  bool
	here   *list.Element // in tenant.ring; nil if not ready, or set aside for the rest of the round
	at     time.Time     // zero: waits for no time
	index  int           // in Turns.waiting, while at is not zero
}

// Answer is what became of a turn.
type Answer int

// The answers to a turn.
const (
	// Idle: nothing more is due. The webhook is forgotten, but for a time that At was told.
	Idle Answer = iota
	// More: more is due, and could be taken at the next turn, which comes after those of the others.
	More
	// NoRoom: more is due or may be, but it cannot be taken in this round. The webhook stays ready, for the
	// next round.
	NoRoom
	// Stop ends the round. Nothing was taken at this turn: the webhook has the first one of the next round.
	Stop
)

// Ready remembers that something of the webhook is due now. A webhook that is ready keeps its place.
func (t *Turns[K]) Ready(tenant uuid.UUID, k K) {
	e := t.entry(tenant, k)
	if e.ready {
		return
	}
	e.ready = true
	t.ready++
	t.enqueue(e)
}

// At remembers that something of the webhook is due at a time. Of several times it keeps the earliest.
func (t *Turns[K]) At(tenant uuid.UUID, k K, at time.Time) {
	if at.IsZero() {
		t.Ready(tenant, k)
		return
	}
	e := t.entry(tenant, k)
	switch {
	case e.at.IsZero():
		e.at = at
		heap.Push(&t.waiting, e)
	case at.Before(e.at):
		e.at = at
		heap.Fix(&t.waiting, e.index)
	}
}

// Drop forgets a webhook. It does nothing where there is nothing to forget.
func (t *Turns[K]) Drop(k K) {
	e := t.entries[k]
	if e == nil {
		return
	}
	if !e.at.IsZero() {
		heap.Remove(&t.waiting, e.index)
		e.at = time.Time{}
	}
	t.rest(e)
}

// Rest takes back that something of a webhook is due now; a time that At was told stays. It does nothing
// where nothing is due. A store that claims outside of a round rests what it is about to claim, and makes
// ready again what then has more.
func (t *Turns[K]) Rest(k K) {
	if e := t.entries[k]; e != nil {
		t.rest(e)
	}
}

// IsReady says whether the webhook is remembered as having something due at the time now.
func (t *Turns[K]) IsReady(now time.Time, k K) bool {
	e := t.entries[k]
	return e != nil && (e.ready || !e.at.IsZero() && !e.at.After(now))
}

// Len returns how many webhooks are ready, so that a caller can share out what it may take.
func (t *Turns[K]) Len() int { return t.ready }

// NextDue returns the earliest time after now that At was told; false if there is none. Webhooks whose
// time has come are ready from then on, and do not count.
func (t *Turns[K]) NextDue(now time.Time) (time.Time, bool) {
	t.wake(now)
	if len(t.waiting) == 0 {
		return time.Time{}, false
	}
	return t.waiting[0].at, true
}

// Round gives turns to all that is ready at the time now, until nothing is left or an answer is Stop.
// Tenants take turns, and within a tenant its webhooks; the next round goes on where this one ended. A
// turn may call every method but Round; the answer counts last.
func (t *Turns[K]) Round(now time.Time, turn func(K) Answer) {
	t.wake(now)
	var aside []*entry[K]
	// Deferred, so that a turn that panics loses none.
	defer func() {
		for _, e := range aside {
			if e.ready && e.here == nil {
				t.enqueue(e)
			}
		}
	}()
	for t.ring.Len() > 0 {
		tenant := t.ring.Front().Value.(*tenant)
		e := tenant.ring.Front().Value.(*entry[K])
		answer := turn(e.key)
		if answer == Stop {
			return
		}
		if !e.ready {
			continue // dropped meanwhile
		}
		// Whatever came of it, this was the tenant's turn: one that has many webhooks with little room each
		// must not take them all in a row.
		tenant.ring.MoveToBack(e.here)
		t.ring.MoveToBack(tenant.here)
		switch answer {
		case NoRoom:
			t.dequeue(e)
			aside = append(aside, e)
		case Idle:
			t.rest(e)
		}
	}
}

// wake makes ready all whose time has come.
func (t *Turns[K]) wake(now time.Time) {
	for len(t.waiting) > 0 && !t.waiting[0].at.After(now) {
		e := heap.Pop(&t.waiting).(*entry[K])
		e.at = time.Time{}
		t.Ready(e.tenant, e.key)
	}
}

func (t *Turns[K]) entry(tenant uuid.UUID, k K) *entry[K] {
	e := t.entries[k]
	if e == nil {
		if t.entries == nil {
			t.entries = make(map[K]*entry[K])
		}
		e = &entry[K]{key: k, tenant: tenant}
		t.entries[k] = e
	}
	return e
}

// rest makes an entry not ready, and forgets it unless it waits for a time.
func (t *Turns[K]) rest(e *entry[K]) {
	if e.ready {
		e.ready = false
		t.ready--
		t.dequeue(e)
	}
	if e.at.IsZero() {
		delete(t.entries, e.key)
	}
}

func (t *Turns[K]) enqueue(e *entry[K]) {
	n := t.tenants[e.tenant]
	if n == nil {
		if t.tenants == nil {
			t.tenants = make(map[uuid.UUID]*tenant)
		}
		n = &tenant{id: e.tenant}
		n.here = t.ring.PushBack(n)
		t.tenants[e.tenant] = n
	}
	e.here = n.ring.PushBack(e)
}

func (t *Turns[K]) dequeue(e *entry[K]) {
	if e.here == nil {
		return
	}
	n := t.tenants[e.tenant]
	n.ring.Remove(e.here)
	e.here = nil
	if n.ring.Len() == 0 {
		t.ring.Remove(n.here)
		delete(t.tenants, n.id)
	}
}

// waiting is a heap of entries, the earliest time first.
type waiting[K comparable] []*entry[K]

func (w waiting[K]) Len() int           { return len(w) }
func (w waiting[K]) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w waiting[K]) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}

func (w *waiting[K]) Push(x any) {
	e := x.(*entry[K])
	e.index = len(*w)
	*w = append(*w, e)
}

func (w *waiting[K]) Pop() any {
	last := len(*w) - 1
	e := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	return e
}

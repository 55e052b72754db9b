package postgres

import (
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// What is deleted stays in the table and its indexes for as long as any transaction of the database's is open that
// began before: a backup's may be for an hour. Meanwhile every look at a webhook from the beginning reads all that was
// delivered since. While that takes its time, most claims begin where the ones before found something, at the floor of
// the webhook. Below it there may be what was lost, or what another process or the host released, resent or committed
// late, so that from time to time one looks at everything; with looks that take no time, each does. What this process
// makes due below it, it knows.
const (
	dearLook = 5 * time.Millisecond
	// lookEvery is how many times as long as such a look took, beyond dearLook, the next one waits.
	lookEvery = 10
	lookPause = 30 * time.Second // at most
	// oldID is how long what has a lesser id than something that was seen has had to be committed.
	oldID = 5 * time.Second
)

// floor is from where on a claim looks at a webhook: waits from due on, and what is due at once from id on.
type floor struct {
	due time.Time
	id  int64
	// waits: more waits were over than there was room for, so that nobody came to what is due at once. Claims go on with
	// the waits, until none is left.
	waits bool
	// next is when everything is to be looked at again, by this process's clock.
	next time.Time
}

// floors are those of the webhooks that took long to look at.
type floors struct {
	of map[int64]floor
	// below are webhooks of which this process made something due that may be below the floor.
	below map[int64]bool
	// late is the least id of what this process accepted for a webhook and nobody looked for yet. While it was being
	// accepted something with a greater id may have been found.
	late map[int64]int64
	// last is the greatest id of a delivery that was seen; before is what that was when the time turned, and old what it was
	// when it turned before, oldID ago at least.
	last, before, old int64
	turned            time.Time
}

// whole says whether everything of a webhook is to be looked at, and where the look begins if not. Whoever looks calls
// planned.
func (f *floors) whole(webhook int64) (floor, bool) {
	low, dear := f.of[webhook]
	if !dear || f.below[webhook] || !time.Now().Before(low.next) {
		return floor{}, true
	}
	if id := f.late[webhook]; id != 0 && (low.id == 0 || id < low.id) {
		low.id = id
	}
	return low, false
}

// planned notes that a look at a webhook begins, at everything or not.
func (f *floors) planned(webhook int64, whole bool) {
	delete(f.late, webhook)
	if whole {
		delete(f.below, webhook)
	}
}

// came notes that this process accepted a delivery.
func (f *floors) came(webhook, id int64) {
	if f.late == nil {
		f.late = make(map[int64]int64)
	}
	if least := f.late[webhook]; least == 0 || id < least {
		f.late[webhook] = id
	}
}

// forget forgets a webhook that is gone or not active.
func (f *floors) forget(webhook int64) {
	delete(f.of, webhook)
	delete(f.below, webhook)
	delete(f.late, webhook)
}

// lookBelow has the next look at a webhook be one at everything. A look under way may not have seen why, or may have come
// to nothing.
func (f *floors) lookBelow(webhook int64) {
	if f.below == nil {
		f.below = make(map[int64]bool)
	}
	f.below[webhook] = true
}

// saw notes the id of a delivery.
func (f *floors) saw(id int64) {
	if now := time.Now(); now.Sub(f.turned) >= oldID {
		f.old, f.before, f.turned = f.before, f.last, now
	}
	f.last = max(f.last, id)
}

// looked notes what a look at a webhook found: first are the least wait and id of it, at the server's time now.
// exhausted: there was no more. cost is how long the look took, if it was at everything.
func (f *floors) looked(webhook int64, first floor, exhausted bool, now time.Time, whole bool, cost time.Duration) {
	if whole && cost <= dearLook {
		delete(f.of, webhook)
		return
	}
	low := f.of[webhook]
	switch {
	case whole:
		low.next = time.Now().Add(min(lookEvery*(cost-dearLook), lookPause))
		low.waits = low.id == 0 && first.id == 0 && !exhausted
	case low.waits && exhausted:
		low.next = time.Now() // now for the others
	}
	switch {
	case !first.due.IsZero():
		low.due = first.due
	case exhausted || first.id != 0:
		low.due = now
	}
	switch {
	case first.id != 0:
		low.id = first.id
	case exhausted && !low.waits:
		low.id = max(low.id, f.old)
	}
	if f.of == nil {
		f.of = make(map[int64]floor)
	}
	f.of[webhook] = low
}

// found lowers the floor to a delivery that was found.
func (low *floor) found(due pgtype.Timestamptz, id int64) {
	switch {
	case due.InfinityModifier != pgtype.Finite:
		if low.id == 0 || id < low.id {
			low.id = id
		}
	case low.due.IsZero() || due.Time.Before(low.due):
		low.due = due.Time
	}
}

// from is the id of the floor as a parameter.
func (low *floor) from() int64 {
	if low.waits {
		return math.MaxInt64
	}
	return low.id
}

// since is the time of the floor as a parameter.
func (low *floor) since() pgtype.Timestamptz {
	if low.due.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: low.due, Valid: true}
}

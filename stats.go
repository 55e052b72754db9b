package diverted

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// StatsStore is an optional power of a [Store]: numbers for operators, cheap however many events there are.
type StatsStore interface {
	// Stats returns the numbers of a webhook, a tenant, or the whole store. What is unknown has zeros. A
	// query that breaks a rule is an ErrInvalid.
	Stats(ctx context.Context, query StatsQuery) (Stats, error)
}

// StatsQuery selects what [StatsStore.Stats] is about.
type StatsQuery struct {
	// Tenant selects one tenant, and with Webhook one of its webhooks. Zero: the whole store; then Webhook is
	// zero too.
	Tenant  uuid.UUID
	Webhook ulid.ULID
	// Hours asks for that many of the last hours, the current one included, 0 to [MaxStatsHours].
	Hours int
}

// MaxStatsHours is how far back [Stats] reach: 30 days.
const MaxStatsHours = 30 * 24

// Validate returns nil, or an [InvalidError]. Every store calls it first.
func (q StatsQuery) Validate() error {
	var f faults
	if q.Tenant == uuid.Nil && !q.Webhook.IsZero() {
		f.add("tenantLocator", "must not be zero beside a webhook")
	}
	if q.Hours < 0 || q.Hours > MaxStatsHours {
		f.add("hours", "must be 0 to %d, was %d", MaxStatsHours, q.Hours)
	}
	return f.err()
}

// Stats are numbers for operators. Pending, Due, OldestPending, Diverted and the counts of webhooks are exact.
// Pending and Due are of one moment. LastSuccess, LastFailure and Hours are kept beside the events, not in their
// transactions: they come a few seconds late, and a crash loses that much of them.
type Stats struct {
	// Webhooks counts webhooks, Suspended those that are suspended, Disabled those that are disabled.
	Webhooks, Suspended, Disabled int
	// SuspendedAt is since when a webhook, or the first of several, has been suspended; zero: none is.
	SuspendedAt time.Time
	// Pending counts deliveries on their way, Due those of them that are due now and whose webhook is active:
	// claimed ones, and what waits for nothing but its turn or its webhook's pause (Retry-After), window or
	// rate, which a store does not know of. So a single receiver that hangs may keep many due.
	Pending, Due int
	// OldestPending is when the oldest of them was accepted; zero: there is none.
	OldestPending time.Time
	// Diverted counts diverted events by what was observed. Triggers without any are not in it.
	Diverted map[Trigger]int
	// LastSuccess is when a receiver last answered 2xx, LastFailure when an attempt last failed; zero: not
	// within what is remembered.
	LastSuccess, LastFailure time.Time
	// Hours are the hours of the query in which something happened, ascending.
	Hours []HourStats
}

// DivertedInAll is the sum of Diverted.
func (s Stats) DivertedInAll() int {
	sum := 0
	for _, n := range s.Diverted {
		sum += n
	}
	return sum
}

// countWebhook adds a webhook, but not its events.
func (s *Stats) countWebhook(w *Webhook) {
	s.Webhooks++
	if !w.Enabled {
		s.Disabled++
	}
	if w.Suspended() {
		s.Suspended++
		s.SuspendedAt = earlier(s.SuspendedAt, w.SuspendedAt)
	}
}

// HourStats are the numbers of one hour.
type HourStats struct {
	// Hour is its beginning, in UTC.
	Hour time.Time
	// Delivered and Failed count attempts.
	Delivered, Failed int
	// Diverted counts, by what was observed, how often an event was set aside.
	Diverted map[Trigger]int
}

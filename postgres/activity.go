package postgres

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/divertedevents/diverted"
)

// activity gathers what happens at webhooks, for Stats. A goroutine of the store adds it to the table hours a
// second after it began to gather: deliveries must not wait for each other at a counter.
type activity struct {
	mu      sync.Mutex
	gathers map[happening]*tally
	ready   chan struct{} // has room for one

	cleaned time.Time // the hour in which old hours were deleted last; the goroutine's own
}

// happening is what happens at a webhook within an hour.
type happening struct {
	webhook int64
	hour    int64  // since 1970
	what    string // delivered, failed, or the trigger of what was diverted
}

type tally struct {
	n    int64
	last time.Time
}

const (
	happenedDelivered = "delivered"
	happenedFailed    = "failed"

	gatherTime  = time.Second
	gatherAgain = 5 * time.Second // after an error

	// addHours finds the rows in one order in all processes. What was deleted meanwhile is left out.
	addHours = `
		INSERT INTO diverted.hours AS h (webhook, hour, what, n, last)
		SELECT r.webhook, to_timestamp(r.hour * 3600), r.what, r.n, r.last
		FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::timestamptz[]) AS r (webhook, hour, what, n, last)
		WHERE EXISTS (SELECT FROM diverted.webhooks w WHERE w.id = r.webhook AND NOT w.deleted)
		ORDER BY 1, 2, 3
		ON CONFLICT (webhook, hour, what) DO UPDATE SET n = h.n + excluded.n, last = greatest(h.last, excluded.last)`

	deleteHours = `DELETE FROM diverted.hours WHERE hour <= date_trunc('hour', now(), 'UTC') - $1::bigint * interval '1 hour'`
)

func (a *activity) init() {
	a.gathers = make(map[happening]*tally)
	a.ready = make(chan struct{}, 1)
}

func (a *activity) add(webhook int64, what string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := happening{webhook, now.Unix() / 3600, what}
	t := a.gathers[k]
	if t == nil {
		t = new(tally)
		a.gathers[k] = t
	}
	t.n++
	t.last = now
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

// diverted counts an event that was set aside.
func (a *activity) diverted(webhook int64, trigger string, now time.Time) {
	a.add(webhook, cmp.Or(trigger, string(diverted.TriggerTimeout)), now)
}

// settled counts what a settlement settled, once it is committed.
func (a *activity) settled(st *settlement, now time.Time) {
	for _, x := range st.order {
		if st.settled[x.place].Stale {
			continue
		}
		o := &st.outcomes[x.place]
		switch o.Kind {
		case diverted.OutcomeDelivered:
			a.add(x.hook.id, happenedDelivered, now)
		case diverted.OutcomeRetry, diverted.OutcomeDivert, diverted.OutcomeHold, diverted.OutcomeDrop:
			a.add(x.hook.id, happenedFailed, now)
		}
		if o.Kind == diverted.OutcomeDivert {
			var trigger string
			if o.Failure != nil {
				trigger = string(o.Failure.Trigger)
			}
			a.diverted(x.hook.id, trigger, now)
		}
	}
}

// gather is a goroutine of the store: it writes down what happened, at the latest when the store is closed.
func (s *Store) gather() {
	a := &s.activity
	for open := true; open; {
		select {
		case <-a.ready:
		case <-s.background.Done():
		}
		open = s.wait(gatherTime)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.background), patience)
		err := s.writeHours(ctx)
		cancel()
		if err != nil && open {
			open = s.wait(gatherAgain)
		}
	}
}

// writeHours adds what was gathered to the table. After an error it gathers on; what was added by a
// transaction whose commit was not told counts twice.
func (s *Store) writeHours(ctx context.Context) error {
	a := &s.activity
	a.mu.Lock()
	gathered := a.gathers
	a.gathers = make(map[happening]*tally)
	a.mu.Unlock()
	if len(gathered) == 0 {
		return nil
	}
	var webhooks, hours, counts []int64
	var whats []string
	var lasts []pgtype.Timestamptz
	for k, t := range gathered {
		webhooks, hours, whats = append(webhooks, k.webhook), append(hours, k.hour), append(whats, k.what)
		counts, lasts = append(counts, t.n), append(lasts, pgtype.Timestamptz{Time: t.last.Truncate(time.Millisecond), Valid: true})
	}
	hour := s.hints.serverTime().Truncate(time.Hour)
	err := s.batch(ctx, beginTx, func(b *pgx.Batch) {
		b.Queue(noteAsync)
		b.Queue(s.q(addHours), webhooks, hours, whats, counts, lasts)
		if hour != a.cleaned {
			b.Queue(s.q(deleteHours), diverted.MaxStatsHours)
		}
	})
	if err == nil {
		a.cleaned = hour
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, t := range gathered {
		if newer := a.gathers[k]; newer != nil {
			t.n += newer.n
			t.last = slices.MaxFunc([]time.Time{t.last, newer.last}, time.Time.Compare)
		}
		a.gathers[k] = t
	}
	select {
	case a.ready <- struct{}{}:
	default:
	}
	return err
}

package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/divertedevents/diverted"
)

// countPending counts what is pending of webhooks, as far as $2.
const countPending = `
	SELECT w.id, (SELECT count(*) FROM (SELECT FROM diverted.deliveries WHERE webhook = w.id AND due IS NOT NULL LIMIT $2) d)
	FROM unnest($1::bigint[]) AS w (id)`

// recount is how long a count of what is pending stands.
const recount = time.Second

// room is what is known to be pending of the webhooks that a bound was asked for, by diverted.AcceptRequest's
// MaxPending. It counts on with what this process accepts and resends, and not with what is settled: so it is
// too high, but for what other processes do, and before it refuses anything it counts anew.
type room struct {
	mu      sync.Mutex
	pending map[int64]pendingCount
}

type pendingCount struct {
	n  int
	at time.Time
}

func (r *room) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = nil
}

// planWithin plans within the bounds that the calls ask for. What is refused at first sight is planned again,
// now that it matters which events are there already and take no room.
func (s *Store) planWithin(ctx context.Context, calls []*acceptCall) (*acceptance, error) {
	if err := s.count(ctx, calls); err != nil {
		return nil, err
	}
	a := s.plan(calls, nil)
	if !a.refused {
		return a, nil
	}
	there, err := s.there(ctx, a)
	if err != nil {
		return nil, err
	}
	s.room.forget()
	if err := s.count(ctx, calls); err != nil {
		return nil, err
	}
	return s.plan(calls, there), nil
}

// count counts what is pending of the receivers of calls that are bounded, where that is not known well
// enough.
func (s *Store) count(ctx context.Context, calls []*acceptCall) error {
	want := make(map[int64]int) // how many are to be added
	most := 0
	for _, call := range calls {
		bound := call.request.MaxPending
		if bound <= 0 {
			continue
		}
		most = max(most, bound)
		for i := range call.request.Messages {
			receivers, _ := s.receivers(&call.request.Messages[i])
			for _, h := range receivers {
				want[h.id]++
			}
		}
	}
	var ids []int64
	now := time.Now()
	s.room.mu.Lock()
	for id, more := range want {
		if c, ok := s.room.pending[id]; !ok || now.Sub(c.at) >= recount || c.n+more > most {
			ids = append(ids, id)
		}
	}
	s.room.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	counts := make(map[int64]pendingCount, len(ids))
	err := s.read(ctx, func(b *pgx.Batch) {
		b.Queue(s.q(countPending), ids, most).Query(func(r pgx.Rows) error {
			for r.Next() {
				var id int64
				c := pendingCount{at: now}
				if err := r.Scan(&id, &c.n); err != nil {
					return err
				}
				if c.n == most {
					c.at = time.Time{} // and perhaps more, for a greater bound
				}
				counts[id] = c
			}
			return r.Err()
		})
	})
	if err != nil {
		return err
	}
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if s.room.pending == nil {
		s.room.pending = make(map[int64]pendingCount)
	}
	for id, c := range counts {
		s.room.pending[id] = c
	}
	return nil
}

// add counts a delivery that is pending from now on.
func (r *room) add(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.pending[id]; ok {
		c.n++
		r.pending[id] = c
	}
}

// take counts a delivery that is to be added, if there is room for it.
func (r *room) take(h *hook, request *diverted.AcceptRequest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.pending[h.id]
	if request.MaxPending > 0 && c.n >= request.MaxPending {
		return false
	}
	if ok {
		c.n++
		r.pending[h.id] = c
	}
	return true
}

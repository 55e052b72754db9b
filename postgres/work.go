package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/divertedevents/diverted"
)

// Work implements [diverted.DeliveryStore]. Where nothing suspends a webhook and nobody is alerted it is one
// round trip: the settlement and the claim are sent together, and the commit with them.
func (s *Store) Work(ctx context.Context, request diverted.WorkRequest) (diverted.WorkResult, error) {
	if err := request.Validate(); err != nil {
		return diverted.WorkResult{}, err
	}
	done, err := s.begin(ctx, "work")
	if err != nil {
		return diverted.WorkResult{}, err
	}
	defer done()
	result, err := s.work(ctx, &request)
	return result, wrap("work", err)
}

func (s *Store) work(ctx context.Context, request *diverted.WorkRequest) (diverted.WorkResult, error) {
	st, err := s.settlementOf(ctx, request)
	if err != nil {
		return diverted.WorkResult{}, err
	}
	result := diverted.WorkResult{Settled: st.settled}
	settled := len(st.order)+len(st.notices) == 0
	if st.suspends || request.Claim == nil {
		if !settled {
			if err := s.settle(ctx, st); err != nil {
				return diverted.WorkResult{}, err
			}
			settled = true
		}
		if request.Claim == nil {
			result.Next = s.next(-1, false)
			return result, nil
		}
	}
	full, short, err := s.claim(ctx, request, st, settled, &result)
	if err != nil {
		return diverted.WorkResult{}, err
	}
	if !full {
		result.Next = s.next(short, request.Claim.Notices > 0)
	}
	return result, nil
}

// settle settles alone, without a claim.
func (s *Store) settle(ctx context.Context, st *settlement) (err error) {
	if st.suspends {
		err = s.settleSlowly(ctx, st)
	} else {
		err = s.batch(ctx, beginTx, func(b *pgx.Batch) {
			b.Queue(byIndex)
			st.queue(s, b)
		})
	}
	if err != nil {
		s.hints.forget()
		return err
	}
	s.settled(st, false)
	return nil
}

// settled remembers what a settlement changed, once it is committed; beside is as of hint.
func (s *Store) settled(st *settlement, beside bool) {
	st.hint(&s.hints, beside)
	s.activity.settled(st, s.hints.serverTime())
}

// claim claims what is due, round by round, and settles with the first of them unless that is done. full:
// more is due than the request allows; short is how many webhooks may have something due that the caller
// has no room for, -1 if nobody looked. Once something is settled or claimed, a failure is not the call's:
// its answer must not be lost, and the next call meets the same trouble.
func (s *Store) claim(ctx context.Context, request *diverted.WorkRequest, st *settlement, settled bool, result *diverted.WorkResult) (full bool, short int, err error) {
	answered := settled && len(st.order)+len(st.notices) > 0
	giveUp := func(err error) (bool, int, error) {
		if answered || len(result.Claims) > 0 {
			return true, 0, nil
		}
		return false, 0, err
	}
	if s.hints.mustScan(request.Refresh) {
		if err := s.scanDue(ctx); err != nil {
			return giveUp(err)
		}
	}
	if err := s.takeOver(ctx); err != nil {
		return giveUp(err)
	}
	st.hintEarly(&s.hints)
	count, bytes := request.Claim.Count, request.Claim.Bytes
	var generation int64
	for {
		if generation, err = s.know(ctx, generation, wanted{}); err != nil {
			return giveUp(err)
		}
		c := s.planClaims(request.Claim, generation, count, bytes, len(result.Claims) == 0)
		if len(c.unknown) > 0 {
			if err := s.meet(ctx, c.unknown); err != nil {
				c.failed()
				return giveUp(err)
			}
			if len(c.turns) == 0 {
				continue
			}
		}
		full, short = c.more, c.noRoom
		if len(c.turns) == 0 && settled {
			break
		}
		err := s.batch(ctx, beginTx, func(b *pgx.Batch) {
			b.Queue(byIndex)
			if !settled {
				st.queue(s, b)
			}
			c.queue(b)
		})
		if err != nil {
			c.failed()
			return giveUp(err)
		}
		if !settled {
			settled, answered = true, true
			s.settled(st, true)
		}
		lost := c.reclaim(ctx) != nil
		if lost {
			s.hints.forget() // what is in hand is not extended; the next call finds it again
		}
		var claims []diverted.Claim
		claims, full, short = c.finish()
		result.Claims = append(result.Claims, claims...)
		for i := range claims {
			count--
			bytes -= len(claims[i].Body)
		}
		if c.outdated() {
			generation = c.stands
			s.hooks.spoil()
			continue
		}
		if !full || lost || c.large > 0 || count <= 0 || bytes <= 0 || len(result.Claims) >= enough {
			break
		}
	}
	if err := s.claimNotices(ctx, request.Claim, result); err != nil {
		return giveUp(err)
	}
	if request.Claim.Count <= 0 {
		short = -1
	}
	return full, short, nil
}

// takeOver makes ready the webhooks that others told of.
func (s *Store) takeOver(ctx context.Context) error {
	h := &s.hints
	heard := h.takeHeard()
	if len(heard) == 0 {
		return nil
	}
	for _, id := range heard {
		if row := s.hooks.byID(id); row != nil && !row.active() {
			s.hooks.spoil() // it must have become active since
			break
		}
	}
	_, err := s.know(ctx, 0, wanted{ids: heard})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range heard {
		if err != nil {
			h.heard[id] = true
		} else if row := s.hooks.byID(id); row != nil {
			h.turns.Ready(row.webhook.Tenant, id)
		}
	}
	return err
}

// meet reads webhooks that are said to have something due and that this process does not know, and forgets
// those that are gone.
func (s *Store) meet(ctx context.Context, ids []int64) error {
	if _, err := s.know(ctx, 0, wanted{ids: ids}); err != nil {
		return err
	}
	s.hints.mu.Lock()
	defer s.hints.mu.Unlock()
	for _, id := range ids {
		if s.hooks.byID(id) == nil {
			s.hints.drop(id)
		}
	}
	return nil
}

// next returns the time until something becomes due, a notice only if the caller wants any. short is as of
// claim: what became due besides, while the call was under way, is due now.
func (s *Store) next(short int, notices bool) time.Duration {
	h := &s.hints
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	next := time.Duration(-1)
	if at, ok := h.turns.NextDue(now); ok {
		next = max(at.Sub(now), 0)
	}
	if short >= 0 && h.turns.Len() > short {
		return 0
	}
	if notices && !h.notice.IsZero() {
		if wait := max(h.notice.Sub(now), 0); next < 0 || wait < next {
			next = wait
		}
	}
	return next
}

package diverted

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/divertedevents/diverted/internal/guard"
)

// ended is an attempt that is over, or a claim that needs none, on its way to be settled.
type ended struct {
	outcome Outcome
	attempt Attempt
	// leaseEnd is until when nobody else can have claimed the delivery, by this process's clock.
	leaseEnd time.Time
	// repeated: a call that was to settle it failed, perhaps after it did.
	repeated bool
}

// attempt sees a claim to its end. leased is a moment before its lease began.
func (s *session) attempt(c *Claim, leased time.Time) {
	e := ended{
		outcome:  Outcome{Key: c.Key, Token: c.Token, Epoch: c.Epoch},
		attempt:  Attempt{Key: c.Key, EventType: c.EventType, AcceptedAt: c.AcceptedAt, Began: time.Now()},
		leaseEnd: leased.Add(s.lease),
	}
	var answer response
	var traced func(Attempt) // ends the span
	// Whatever happens the attempt ends, even if a transport of the host's ends the goroutine.
	defer func() {
		if e.outcome.Kind == "" {
			if v := recover(); v != nil {
				s.d.log.Error("diverted: panic contained", "in", "attempt", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
			}
			now := time.Now()
			s.d.conclude(c, response{
				began: e.attempt.Began, duration: now.Sub(e.attempt.Began),
				failure: &Failure{
					Trigger: TriggerTimeout, Message: "the attempt broke off by a fault of the sending service", At: now,
					Duration: now.Sub(e.attempt.Began),
				},
			}, &e)
		}
		observed(s.d, traced, e.attempt)
		c.Body = nil // the claims of one call share their memory, and others may go on for long
		s.warnOfMisfit(c, &answer)
		s.attempted(c, &e, &answer)
	}()

	switch {
	case c.Err != nil || c.Webhook == nil:
		s.d.log.Error("diverted: a delivery's record cannot be decoded", append(logAttempt(&e.attempt), "error", c.Err)...)
		e.divert("not attempted: the delivery's record cannot be decoded")
	case c.Losses >= MaxLosses:
		e.divert(fmt.Sprintf("not attempted: its claim was lost %d times, as if the attempt ended the process each time", c.Losses))
	case !s.begin(c, leased):
		e.outcome.Kind = OutcomeReturn
	default:
		e.attempt.Number, e.attempt.TraceParent = c.Attempts+1, c.TraceParent
		r := request{endpoint: &c.Webhook.Endpoint, id: c.Key.Event.String(), body: c.Body}
		r.traceParent, traced = s.d.attempting(e.attempt)
		answer = s.d.sender.send(s.attempting, r)
		s.d.conclude(c, answer, &e)
		if s.presume(c, &answer) {
			e.outcome = Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeReturn}
		}
		observed(s.d, s.d.config.Observer.Attempted, e.attempt)
	}
}

// begin waits until the rate of the webhook lets the attempt begin. It returns false if the lease does not cover it then,
// if the webhook is paused or suspended by then, or if the session ends before. One that would begin too late does not
// take the place of those that can begin: a claim may have been made before it was known that the rate is as low.
func (s *session) begin(c *Claim, leased time.Time) bool {
	now, latest := time.Now(), leased.Add(s.lease-s.d.config.Timeout)
	s.mu.Lock()
	w := s.in.window(c.Key.WebhookKey())
	if !w.may(leased, now) || w.turn(now).After(latest) {
		s.mu.Unlock()
		return false
	}
	wait := w.begin(now).Sub(now)
	s.mu.Unlock()
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.halt:
		return false
	}
	now = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.may(leased, now) && !now.After(latest) // the machine may have been busy
}

// attempted leaves the outcome for the loop to settle, frees the room of the attempt, and has the
// webhook's window learn from it.
func (s *session) attempted(c *Claim, e *ended, r *response) {
	webhook := c.Key.WebhookKey()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.in.window(webhook)
	if !r.began.IsZero() && e.outcome.Kind != OutcomeReturn {
		s.in.learn(w, r, now)
	}
	s.in.free(w, 1)
	if s.in.missed(w, now) {
		s.due = true
	}
	s.attempts--
	s.ended = append(s.ended, *e)
	s.hush()
	s.signal()
}

// warnOfMisfit logs that attempts of a webhook do not leave this process, once for as long as its window is
// remembered, which is an hour at least while there are attempts: the fault is on our side, and no receiver will ever
// mend it. The attempt counts as under way until then, so that Run waits for the log.
func (s *session) warnOfMisfit(c *Claim, r *response) {
	if r.local == nil || r.failure == nil {
		return
	}
	s.mu.Lock()
	w := s.in.window(c.Key.WebhookKey())
	told := w.misfit
	w.misfit = true
	s.mu.Unlock()
	if told {
		return
	}
	args := append(logWebhook(c.Key.WebhookKey()), "message", r.failure.Message)
	switch r.local {
	case guard.ErrNotAllowed:
		args = append(args, "see", "Config.AllowedNetworks")
	case errInsecure:
		args = append(args, "see", "Config.AllowInsecureTLS")
	}
	s.d.log.Warn("diverted: attempts of a webhook do not leave this process", args...)
}

// divert sets a delivery aside that is not attempted.
func (e *ended) divert(why string) {
	e.outcome.Kind = OutcomeDivert
	e.outcome.Failure = &Failure{Trigger: TriggerTimeout, Message: why, At: time.Now()}
	e.attempt.Failure = e.outcome.Failure
}

// conclude decides what follows from an attempt.
func (d *Dispatcher) conclude(c *Claim, r response, e *ended) {
	a := &e.attempt
	a.Number, a.Began, a.Duration, a.Status, a.Failure = c.Attempts+1, r.began, r.duration, r.status, r.failure
	switch {
	case r.aborted:
		e.outcome.Kind = OutcomeReturn
		a.Failure = &Failure{Trigger: TriggerTimeout, Message: "given up, since the dispatcher stops", At: time.Now()}
		return
	case r.failure == nil:
		e.outcome.Kind = OutcomeDelivered
		return
	}
	r.failure.Attempt = a.Number
	e.outcome.Failure = r.failure
	handling := c.Webhook.Handling()
	v := judge(handling, *r.failure, past{retries: c.Attempts, diverted: c.Diverted, released: c.Released})
	e.outcome.Kind, e.outcome.Suspend, e.outcome.Alert = v.kind, v.suspend, v.alert
	if v.kind == OutcomeRetry {
		a.Wait, _ = nextWait(*handling.Retry, c.Attempts+1, max(d.config.Jitter, 0), rand.Float64(), r.retryAfter)
		e.outcome.Wait = a.Wait
	}
}

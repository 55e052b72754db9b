package diverted

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// The bounds of a session that nobody needs to change.
const (
	leaseSlack      = 10 * time.Second // of a lease beyond the attempt's timeout
	maxClaimBytes   = 32 << 20         // of the bodies that one call claims
	maxAcceptClaims = 256              // that one message is handed back as
	maxBatch        = 256              // outcomes, and claims, of one call of Work
	maxNotices      = 16               // under way
	fallback        = time.Second      // between looks at what others may have added
	storeTimeout    = time.Minute      // of one call of the store, which is then repeated
	settleTime      = 10 * time.Second // to settle what is left, after the last attempt
	firstBackoff    = 100 * time.Millisecond
	lastBackoff     = 5 * time.Second
	idleBackoff     = 10 * time.Millisecond // after a claim that found nothing of what is due
)

// session is one Run or Flush: a loop that settles and claims, and the attempts that it has under way.
//
// The loop is the only one that calls Work. Each call takes the outcomes that gathered during the one
// before, and claims what there is room for, so that batches grow by themselves under load. Attempts and
// accepts run beside it; they leave what they have under mu, and wake it.
type session struct {
	d     *Dispatcher
	flush bool
	lease time.Duration // of every claim

	// attempting is the context of the attempts, and giveUp ends it. settling is that of the store's calls,
	// and abandon ends it. Neither ends with the context of Run.
	attempting, settling context.Context
	giveUp, abandon      context.CancelFunc
	// stop begins the end; its cause, if any, is why a session ends by itself.
	stop context.CancelCauseFunc

	// The loop's own.
	backoff   time.Duration // 0 while the store settles
	brokenAt  time.Time
	retryAt   time.Time // when the store is tried again
	refreshAt time.Time // when the fallback is due
	dueAt     time.Time // when something becomes due; zero: not known
	outcomes  []Outcome // reused
	spare     []ended   // reused
	fault     error     // of the store's last call

	wake chan struct{} // has room for one

	mu       sync.Mutex
	in       inFlight
	out      outage
	ended    []ended       // attempts to settle
	noticed  []endedNotice // tries to settle
	attempts int           // under way
	notices  int           // under way
	accepts  int           // calls of Accept under way that may hand claims back
	due      bool          // there may be something to claim
	again    bool          // there may be, though the last claim found nothing
	refresh  bool          // and somebody else may have added it
	waiting  bool          // the loop waits for wake
	stopping bool          // nothing is claimed any more
	broken   bool          // the store does not settle
	over     bool          // the loop has ended
	quiet    chan struct{} // closed when stopping and nothing is under way
	halt     chan struct{} // closed when stopping: what has not begun does not begin
}

func newSession(ctx context.Context, d *Dispatcher, flush bool) *session {
	s := &session{
		d: d, flush: flush,
		lease: min(d.config.Timeout+leaseSlack, MaxLease),
		wake:  make(chan struct{}, 1),
		in:    newInFlight(d.config),
		quiet: make(chan struct{}),
		halt:  make(chan struct{}),
	}
	lasting := context.WithoutCancel(ctx)
	s.attempting, s.giveUp = context.WithCancel(lasting)
	s.settling, s.abandon = context.WithCancel(lasting)
	return s
}

// run works until ctx ends, or a flush has nothing left to do.
func (s *session) run(ctx context.Context) error {
	stopping, stop := context.WithCancelCause(ctx)
	s.stop = stop
	var shutdown sync.WaitGroup
	done := make(chan struct{})
	shutdown.Go(func() { s.shutdown(stopping, done) })
	retaining, endRetention := context.WithCancel(stopping)
	if !s.flush && !s.d.config.Retention.IsZero() {
		shutdown.Go(func() { s.d.retain(retaining) })
	}
	defer func() {
		close(done)
		endRetention()
		shutdown.Wait()
		stop(nil)
		s.giveUp()
		s.abandon()
	}()

	left := s.loop()
	s.endOutage()

	cause := context.Cause(stopping)
	ownFault := stopping.Err() != nil && ctx.Err() == nil
	switch {
	case left > 0 && s.fault != nil:
		return fmt.Errorf("diverted: %d outcomes could not be settled: %w", left, s.fault)
	case left > 0:
		return fmt.Errorf("diverted: %d attempts did not end", left)
	case ownFault:
		return cause
	case s.flush:
		return ctx.Err()
	default:
		return nil
	}
}

// shutdown takes the session down in steps, once ctx has ended.
func (s *session) shutdown(ctx context.Context, done <-chan struct{}) {
	wait := func(d time.Duration, quiet <-chan struct{}) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-quiet:
		case <-done:
		}
	}
	select {
	case <-ctx.Done():
	case <-done:
		return
	}
	s.mu.Lock()
	s.stopping = true
	close(s.halt)
	s.hush()
	s.signal()
	s.mu.Unlock()

	wait(max(s.d.config.GracePeriod, 0), s.quiet)
	s.giveUp()
	wait(settleTime, nil)
	s.abandon()
	s.wakeUp(false)
}

// hush closes quiet if nothing is under way any more. mu is held.
func (s *session) hush() {
	if !s.stopping || s.attempts > 0 || s.notices > 0 {
		return
	}
	select {
	case <-s.quiet:
	default:
		close(s.quiet)
	}
}

// signal wakes the loop if it waits. mu is held.
func (s *session) signal() {
	if !s.waiting {
		return
	}
	s.waiting = false
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wakeUp has the loop look for work, also for what others may have added if refresh says so.
func (s *session) wakeUp(refresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = true
	s.refresh = s.refresh || refresh
	s.signal()
}

// added says that something of a webhook is due. While there is no room for it, the end of an attempt
// will have the loop look, and nothing is to be done now.
func (s *session) added(webhook WebhookKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.in.windows[webhook]; w != nil && !s.in.short(w, time.Now()) {
		return
	}
	s.due = true
	s.signal()
}

// suspended has what a webhook has claimed, and not begun, given back.
func (s *session) suspended(webhook WebhookKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.window(webhook).suspended = time.Now()
}

// unsuspended has a webhook begin slowly, whatever has gathered.
func (s *session) unsuspended(webhook WebhookKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.in.window(webhook)
	s.in.restart(w, time.Now())
	s.due = true
	s.signal()
}

// loop settles and claims until the session is over. It returns how many outcomes are left that could
// not be settled.
func (s *session) loop() (left int) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due, s.refresh = true, true
	s.refreshAt = time.Now().Add(fallback)
	for {
		now := time.Now()
		if !now.Before(s.refreshAt) {
			s.refreshAt = now.Add(fallback)
			s.due, s.refresh = true, true
			s.in.sweep(now)
		}
		if !s.dueAt.IsZero() && !now.Before(s.dueAt) {
			s.dueAt = time.Time{}
			s.due = true
		}
		if s.in.resumed(now) {
			s.due = true
		}

		underWay := s.attempts > 0 || s.notices > 0 || s.accepts > 0
		settle := len(s.ended) > 0 || len(s.noticed) > 0
		// After a settle that failed nothing is claimed until one succeeds.
		claim := s.due && !s.stopping && s.in.room() > 0 && !(s.broken && settle) && !s.out.holds(now)
		paused := s.broken && now.Before(s.retryAt)
		closed := errors.Is(s.fault, ErrClosed)
		switch {
		case s.settling.Err() != nil,
			!underWay && s.stopping && (!settle || closed),
			!underWay && s.flush && !settle && !s.due && !s.again:
			s.over = true
			return len(s.ended) + s.attempts
		case (settle || claim) && !paused && !closed:
			s.step(claim)
		default:
			s.waiting = true
			timer.Reset(s.nextLook(now).Sub(now))
			s.mu.Unlock()
			select {
			case <-s.wake:
			case <-timer.C:
			}
			s.mu.Lock()
			s.waiting = false
		}
	}
}

// nextLook returns when the loop must look again if nothing wakes it. mu is held. It is a second away at most, so that
// a clock that was set, or a machine that slept, is noticed soon. It is no time that has passed: what the loop could not
// do now although it is time, such as a probe without room, something else wakes it for.
func (s *session) nextLook(now time.Time) time.Time {
	at := s.refreshAt
	if !s.dueAt.IsZero() && s.dueAt.Before(at) {
		at = s.dueAt
	}
	if !s.in.resume.IsZero() && s.in.resume.Before(at) {
		at = s.in.resume
	}
	if s.out.holds(now) && s.due && s.out.probe.Before(at) {
		at = s.out.probe
	}
	if s.broken && s.retryAt.After(now) && s.retryAt.Before(at) {
		at = s.retryAt
	}
	return at
}

// step settles what ended, and claims. mu is held, and released meanwhile.
func (s *session) step(claim bool) {
	batch, noticed := s.ended, s.noticed
	s.ended, s.noticed, s.spare = s.spare[:0], nil, nil
	if len(batch) > maxBatch {
		s.ended = append(s.ended, batch[maxBatch:]...)
		clear(batch[maxBatch:])
		batch = batch[:maxBatch]
	}
	var r *reservation
	refresh := s.refresh && claim
	if claim {
		room := s.in.room()
		if s.out.on {
			room, s.out.probe = 1, time.Now().Add(outageProbe)
		}
		if s.broken {
			room = 1 // if it is the answers that are lost, the claims are too, and count as lost
		}
		r = s.newReservation(min(room, maxBatch))
		r.request.Notices = maxNotices - s.notices
		s.due, s.refresh = false, false
	}
	s.mu.Unlock()

	err := s.call(batch, noticed, r, refresh)
	claimed := claim && err == nil
	if errors.Is(err, ErrInvalid) && len(batch)+len(noticed) > 0 {
		batch, noticed, err = s.callEach(batch, noticed)
	}
	if err != nil {
		s.failed(err)
	}

	s.mu.Lock()
	if claim && !claimed {
		s.due, s.refresh = true, s.refresh || refresh
	}
	if err == nil {
		clear(batch)
		s.spare = batch[:0]
		return
	}
	for i := range batch {
		batch[i].repeated = true
	}
	s.ended = append(batch, s.ended...)
	s.noticed = append(noticed, s.noticed...)
}

// call makes one call of Work, takes what it claimed in hand, and tells what it settled.
func (s *session) call(batch []ended, noticed []endedNotice, r *reservation, refresh bool) error {
	request := WorkRequest{Refresh: refresh}
	s.outcomes = s.outcomes[:0]
	for i := range batch {
		s.outcomes = append(s.outcomes, batch[i].outcome)
	}
	request.Outcomes = s.outcomes
	for i := range noticed {
		request.Notices = append(request.Notices, noticed[i].outcome)
	}
	if r != nil {
		request.Claim = &r.request
	}
	ctx, cancel := context.WithTimeout(s.settling, storeTimeout)
	defer cancel()
	began := time.Now()
	result, err := s.d.store.Work(ctx, request)
	now := time.Now()

	s.mu.Lock()
	if err != nil {
		s.outcomes = nil // a store whose call timed out may still be reading them
		if r != nil && r.close(nil, false) {
			s.due = true
		}
		s.mu.Unlock()
		return err
	}
	for len(result.Settled) < len(batch) {
		result.Settled = append(result.Settled, Settled{}) // which a store owes for each
	}
	for i := range batch {
		o := &batch[i].outcome
		s.in.forget(o.Key, o.Token)
		if result.Settled[i].Suspended {
			s.in.window(o.Key.WebhookKey()).suspended = now
		}
	}
	if r != nil && r.close(result.Claims, true) {
		s.due = true
	}
	s.schedule(batch, noticed, r != nil, &result, now)
	recovered := s.broken
	s.broken = false
	start := !s.stopping
	if start {
		s.attempts += len(result.Claims)
		s.notices += len(result.Notices)
	} else {
		s.giveBackLater(result.Claims) // and notices lapse
	}
	s.mu.Unlock()

	s.fault, s.backoff = nil, 0
	if start {
		for i := range result.Claims {
			go s.attempt(&result.Claims[i], began)
		}
		for i := range result.Notices {
			go s.notify(&result.Notices[i], began)
		}
	}
	if recovered {
		s.d.log.Info("diverted: the store settles again", "after", now.Sub(s.brokenAt))
	}
	for i := range batch {
		s.tell(&batch[i], result.Settled[i], now)
	}
	for i := range noticed {
		s.d.tellNotice(&noticed[i])
	}
	return nil
}

// callEach settles one by one what the store refused for what it is, so that one does not hold up the
// others, and gives up what it refuses again. If the store fails meanwhile it returns what is left.
func (s *session) callEach(batch []ended, noticed []endedNotice) ([]ended, []endedNotice, error) {
	for len(batch) > 0 {
		e := &batch[0]
		switch err := s.call(batch[:1], nil, nil, false); {
		case errors.Is(err, ErrInvalid):
			// Its lease runs out, and it is claimed again: too often, and it is diverted.
			s.d.log.Error("diverted: the store refuses an outcome", append(logAttempt(&e.attempt), "error", err)...)
			s.mu.Lock()
			s.in.forget(e.outcome.Key, e.outcome.Token)
			s.mu.Unlock()
		case err != nil:
			return batch, noticed, err
		}
		batch = batch[1:]
	}
	for len(noticed) > 0 {
		switch err := s.call(nil, noticed[:1], nil, false); {
		case errors.Is(err, ErrInvalid):
			s.d.log.Error("diverted: the store refuses the outcome of a notice", append(logWebhook(noticed[0].outcome.Webhook), "error", err)...)
		case err != nil:
			return batch, noticed, err
		}
		noticed = noticed[1:]
	}
	return nil, nil, nil
}

// schedule notes when there is something to claim next. mu is held.
func (s *session) schedule(batch []ended, noticed []endedNotice, claimed bool, result *WorkResult, now time.Time) {
	if claimed { // after the outcomes, so Next knows of them
		s.again = false
		switch {
		case result.Next > 0:
			s.dueAt = now.Add(result.Next)
		case result.Next < 0:
			s.dueAt = time.Time{}
		case len(result.Claims) > 0 || len(result.Notices) > 0:
			s.due = true
		case s.notices == maxNotices:
			s.dueAt = time.Time{} // notices are due, and the end of one will have the loop look
		default:
			s.dueAt, s.again = now.Add(idleBackoff), true
		}
		return
	}
	soon := func(wait time.Duration) {
		if at := now.Add(wait); s.dueAt.IsZero() || at.Before(s.dueAt) {
			s.dueAt = at
		}
	}
	for i := range batch {
		o := &batch[i].outcome
		switch o.Kind {
		case OutcomeRetry:
			soon(o.Wait)
		case OutcomeHold, OutcomeReturn:
			s.due = true
		}
		s.due = s.due || o.Alert
	}
	for i := range noticed {
		soon(noticed[i].outcome.Wait)
	}
}

// failed notes that the store does not settle. It is logged once, until the store settles again.
func (s *session) failed(err error) {
	if s.settling.Err() != nil && s.fault != nil {
		return // abandoned: what it failed by before says more
	}
	s.fault = err
	now := time.Now()
	s.backoff = min(max(2*s.backoff, firstBackoff), lastBackoff)
	s.retryAt = now.Add(s.backoff)
	s.mu.Lock()
	first := !s.broken
	s.broken = true
	s.mu.Unlock()
	if first {
		s.brokenAt = now
		s.d.log.Error("diverted: the store fails; nothing is claimed until it settles again", "error", err)
	}
	switch {
	case errors.Is(err, ErrClosed): // for good
		s.giveUp()
		s.stop(err)
	case s.flush:
		s.stop(err)
	}
}

// tell says what became of an outcome that was committed.
func (s *session) tell(e *ended, settled Settled, now time.Time) {
	if e.outcome.Kind == OutcomeReturn {
		return
	}
	// If the call before this one failed, the store may have settled it then, and that answer was lost. That
	// it is Stale shows it, as long as nobody else can have claimed it. (Whether it suspended the webhook is
	// lost with that answer.)
	if settled.Stale && !(e.repeated && now.Before(e.leaseEnd)) {
		s.d.log.Warn("diverted: outcome came too late, its lease was lost or the delivery is gone", logAttempt(&e.attempt)...)
		return
	}
	s.d.tell(e)
	if settled.Suspended {
		s.d.suspended(e.outcome.Key.WebhookKey())
	}
}

// openReservation returns what a call of Accept may claim at most, nil if nothing.
func (s *session) openReservation() *reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Outcomes that wait to be settled count, and calls under way, lest they grow without bound while the
	// store is slow.
	room := min(s.in.room(), s.in.limit-len(s.ended), s.in.limit-s.accepts, maxAcceptClaims)
	if room <= 0 || s.flush || s.stopping || s.broken || s.over || s.out.on {
		return nil
	}
	s.accepts++
	return s.newReservation(room)
}

// accepted ends the call of Accept that r is for, and starts the attempts of what it handed back.
func (s *session) accepted(r *reservation, claims []Claim, began time.Time) {
	s.mu.Lock()
	if r.close(claims, false) {
		s.due = true
	}
	s.accepts--
	start, late := !s.stopping, s.over
	switch {
	case late:
	case start:
		s.attempts += len(claims)
	default:
		s.giveBackLater(claims)
	}
	if s.due || s.stopping {
		s.signal()
	}
	s.mu.Unlock()

	switch {
	case late:
		s.giveBack(claims)
	case start:
		for i := range claims {
			go s.attempt(&claims[i], began)
		}
	}
}

// giveBackLater leaves it to the loop to give claims back that came too late to be attempted. mu is held.
func (s *session) giveBackLater(claims []Claim) {
	for i := range claims {
		c := &claims[i]
		s.in.free(s.in.window(c.Key.WebhookKey()), 1)
		s.ended = append(s.ended, ended{outcome: Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeReturn}})
	}
}

// giveBack gives claims back that came when the loop had ended already.
func (s *session) giveBack(claims []Claim) {
	if len(claims) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.settling), settleTime)
	defer cancel()
	outcomes := make([]Outcome, len(claims))
	for i := range claims {
		outcomes[i] = Outcome{Key: claims[i].Key, Token: claims[i].Token, Kind: OutcomeReturn}
	}
	if _, err := s.d.store.Work(ctx, WorkRequest{Outcomes: outcomes}); err != nil {
		s.d.log.Error("diverted: claims could not be given back; they are attempted when their leases are over",
			"claims", len(claims), "error", err)
	}
}

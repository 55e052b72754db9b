package diverted

import "time"

// inFlight is what a session has in its hands: the room for attempts, in all and for each webhook, and
// the deliveries from their claim until their outcome is settled. The mutex of the session guards it.
type inFlight struct {
	limit, perWebhook int
	// taken counts the attempts under way and the room that is granted to calls of the store; slow those of
	// webhooks whose last attempt was a timeout, which share half of the room.
	taken, slow int
	// full: more is due than there was room for in all. slowFull: or for those that are slow.
	full, slowFull bool
	// resume is when the first pause ends of those that kept something due waiting. Zero: none.
	resume  time.Time
	windows map[WebhookKey]*window
	tokens  map[Key]int64
}

func newInFlight(c Config) inFlight {
	return inFlight{
		limit: c.MaxInFlight, perWebhook: c.MaxInFlightPerWebhook,
		windows: map[WebhookKey]*window{}, tokens: map[Key]int64{},
	}
}

func (f *inFlight) room() int { return max(f.limit-f.taken, 0) }

// slowRoom returns how many more attempts of slow webhooks there is room for. Half of one is one, or a webhook that
// is slow would never be tried again.
func (f *inFlight) slowRoom() int { return max(max(f.limit/2, 1)-f.slow, 0) }

func (f *inFlight) window(webhook WebhookKey) *window {
	w := f.windows[webhook]
	if w == nil {
		w = newWindow(f.perWebhook)
		f.windows[webhook] = w
	}
	return w
}

// roomFor returns how many more attempts of a webhook there is room for.
func (f *inFlight) roomFor(w *window, now time.Time) int {
	room := min(w.room(now), f.room())
	if w.slow {
		room = min(room, f.slowRoom())
	}
	return room
}

// take counts n more as taken, free n fewer.
func (f *inFlight) take(w *window, n int) {
	f.taken, w.taken = f.taken+n, w.taken+n
	if w.slow {
		f.slow += n
	}
}

func (f *inFlight) free(w *window, n int) { f.take(w, -n) }

// learn has the window of a webhook learn from an attempt, meet from a claim, and restart begin anew.
func (f *inFlight) learn(w *window, r *response, now time.Time) {
	f.keepSlow(w, func() { w.learn(r, now) })
}
func (f *inFlight) meet(w *window, c *Claim, now time.Time) { f.keepSlow(w, func() { w.meet(c, now) }) }
func (f *inFlight) restart(w *window, now time.Time)        { f.keepSlow(w, func() { w.restart(now) }) }

// keepSlow keeps the count of what slow webhooks have taken right while change may make w slow, or not.
func (f *inFlight) keepSlow(w *window, change func()) {
	was := w.slow
	change()
	switch {
	case w.slow && !was:
		f.slow += w.taken
	case was && !w.slow:
		f.slow -= w.taken
	}
}

// missed says, after some room of w was freed, whether it is room that something due is waiting for.
func (f *inFlight) missed(w *window, now time.Time) bool {
	starved := w.starved && w.room(now) > 0
	if f.room() == 0 {
		f.full = f.full || starved
		return false
	}
	if starved {
		w.starved = false
	}
	slow := f.slowFull && f.slowRoom() > 0
	if slow {
		f.slowFull = false
	}
	full := f.full
	f.full = false
	return starved || full || slow
}

// short notes that more of a webhook is due than there was room for. It answers true if there is room by
// now.
func (f *inFlight) short(w *window, now time.Time) bool {
	switch {
	case now.Before(w.paused):
		if f.resume.IsZero() || w.paused.Before(f.resume) {
			f.resume = w.paused
		}
	case w.room(now) == 0:
		w.starved = true
	case f.room() == 0:
		f.full = true
	case f.roomFor(w, now) == 0:
		f.slowFull = true
	default:
		return true
	}
	return false
}

// resumed says whether a pause is over that kept something due waiting.
func (f *inFlight) resumed(now time.Time) bool {
	if f.resume.IsZero() || now.Before(f.resume) {
		return false
	}
	f.resume = time.Time{}
	return true
}

// hold takes a claim in hand. Until it is forgotten the store is told that it is in flight.
func (f *inFlight) hold(c *Claim) { f.tokens[c.Key] = c.Token }

// forget ends the hold of a delivery whose outcome is settled. Accept may have handed the same delivery
// back anew in between, and then it is in hand still.
func (f *inFlight) forget(key Key, token int64) {
	if held, ok := f.tokens[key]; ok && held == token {
		delete(f.tokens, key)
	}
}

// sweep forgets the windows of which there is nothing to remember.
func (f *inFlight) sweep(now time.Time) {
	for key, w := range f.windows {
		if w.forgettable(now) {
			delete(f.windows, key)
		}
	}
}

// reservation is the room that was granted to one call of the store. It is closed exactly once, when the
// call has returned; what a store asks of it later is refused.
type reservation struct {
	s       *session
	request ClaimRequest
	grants  []grant
	closed  bool
	one     [1]grant // the grant of a call for one webhook needs no memory of its own
}

type grant struct {
	w           *window
	want, given int
}

// newReservation allows count claims, as far as there is room when the store asks.
func (s *session) newReservation(count int) *reservation {
	r := &reservation{s: s}
	r.grants = r.one[:0]
	r.request = ClaimRequest{
		Count: count, Bytes: maxClaimBytes, Lease: s.lease,
		Reserve: r.reserve, InFlight: s.inFlight,
	}
	return r
}

// reserve is [ClaimRequest.Reserve].
func (r *reservation) reserve(webhook WebhookKey, want int) int {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.closed || want <= 0 {
		return 0
	}
	w := r.s.in.window(webhook)
	given := min(want, r.s.in.roomFor(w, time.Now()))
	r.s.in.take(w, given)
	r.grants = append(r.grants, grant{w, want, given})
	return given
}

// inFlight is [ClaimRequest.InFlight].
func (s *session) inFlight(key Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, held := s.in.tokens[key]
	return held
}

// close puts the claims that the call returned in the place of the room that was granted to it. It says
// whether room was freed that something due is waiting for. With seek, what found no room in this call
// is such a thing from now on. The session's mutex is held.
func (r *reservation) close(claims []Claim, seek bool) (missed bool) {
	in, now := &r.s.in, time.Now()
	r.closed = true
	for i := range claims {
		w := in.window(claims[i].Key.WebhookKey())
		in.meet(w, &claims[i], now)
		in.take(w, 1)
		w.claimed++
		in.hold(&claims[i])
	}
	for _, g := range r.grants {
		in.free(g.w, g.given)
	}
	for _, g := range r.grants {
		used := min(g.given, g.w.claimed)
		g.w.claimed -= used
		missed = in.missed(g.w, now) || missed
		// Room was short if more was wanted and all that was given was used. Otherwise the store wanted more
		// than it has, and to look again would find nothing.
		if seek && g.given < g.want && used == g.given {
			missed = in.short(g.w, now) || missed
		}
	}
	for i := range claims {
		in.window(claims[i].Key.WebhookKey()).claimed = 0
	}
	return missed
}

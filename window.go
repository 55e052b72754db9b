package diverted

import "time"

// The bounds of a window.
const (
	firstWindow = 8        // attempts under way for a webhook that nothing is known of
	firstRate   = 20.0     // attempts a second of a webhook that was unsuspended, to begin with
	freeRate    = 10_000.0 // beyond it a rate is no bound any more
	steepness   = 1.0      // growth of a rate by each success: it doubles in a second
	flatness    = 0.03     // growth of a rate that is near what was too much: 3 % in a second
	headroom    = 0.85     // of a rate that was too much: up to there it grows steeply again
	maxPause    = 24 * time.Hour
	windowRest  = time.Minute // that a window is remembered which had no trouble, while nothing is due
	windowTTL   = time.Hour   // and one that had
)

// window bounds what is under way for one webhook, so that a receiver that hangs holds its own deliveries
// only, and one that is overrun is given time. The mutex of its [session] guards it.
//
// It learns from every attempt. The number of attempts under way begins at 8, grows by one with each
// answer, and is halved by a timeout, a 429 and a 503. A 429 also bounds the rate, since a receiver that
// answers within a millisecond is not held by a number: half of what it was sent, growing again, steeply
// at first and then by 3 % a second. Retry-After pauses the webhook, so that the deliveries behind the one
// that was told spend no budget. A webhook that was unsuspended begins with one attempt, and slowly,
// whatever has gathered.
type window struct {
	most  int // of limit
	limit int // attempts under way
	taken int // those under way, with the room that is granted to calls of the store
	// starved: more of the webhook is due than there was room for, so that whoever frees some looks again.
	starved bool
	// claimed counts what a call of the store claimed, while its reservation is being closed.
	claimed int

	// slow: the last attempt was a timeout. Such webhooks share half of the room in all.
	slow bool
	// cut is when the bounds were last lowered. Attempts that began before say nothing new.
	cut time.Time
	// paused is until when, and since when without a success, the receiver asked for a pause.
	paused, pausedSince time.Time
	// suspended is when the webhook was last suspended, as far as it is known here.
	suspended time.Time

	// misfit: it was logged that its attempts do not leave this process.
	misfit bool

	epoch int64 // of the last claim
	met   bool  // there was one
	used  time.Time

	cap       float64   // the webhook's own MaxPerSecond, 0: none
	rate      float64   // attempts a second that the receiver seems to bear, 0: no bound
	threshold float64   // up to it rate grows steeply
	rateCut   time.Time // when rate was last lowered
	next      time.Time // when the next attempt may begin
	second    time.Time // since when answers are counted, to know the rate when it turns out too high
	answers   float64
}

func newWindow(most int) *window { return &window{most: most, limit: min(firstWindow, most)} }

// room returns how many more attempts there is room for.
func (w *window) room(now time.Time) int {
	if now.Before(w.paused) {
		return 0
	}
	limit := w.limit
	if rate := w.bound(); rate > 0 {
		limit = min(limit, int(rate)+1) // what can begin within a second
	}
	return max(limit-w.taken, 0)
}

// bound returns the attempts a second that may begin, 0 for any number.
func (w *window) bound() float64 {
	switch {
	case w.cap > 0 && w.rate > 0:
		return min(w.cap, w.rate)
	default:
		return w.cap + w.rate
	}
}

// turn returns when the next attempt may begin.
func (w *window) turn(now time.Time) time.Time {
	if w.bound() > 0 && w.next.After(now) {
		return w.next
	}
	return now
}

// begin is turn, and counts the attempt as begun.
func (w *window) begin(now time.Time) time.Time {
	w.used = now
	at := w.turn(now)
	if rate := w.bound(); rate > 0 {
		w.next = at.Add(time.Duration(float64(time.Second) / rate))
	}
	return at
}

// may says whether an attempt may begin, now that it is its turn, whose lease began after leased: since then the receiver
// may have asked for a pause, or the webhook may have been suspended, at the same moment by a clock that is coarse.
func (w *window) may(leased, now time.Time) bool {
	return !now.Before(w.paused) && leased.After(w.suspended)
}

// meet learns what a claim tells of its webhook.
func (w *window) meet(c *Claim, now time.Time) {
	if w.met && w.epoch != c.Epoch {
		w.restart(now)
	}
	w.met, w.epoch, w.used = true, c.Epoch, now
	if c.Webhook != nil {
		w.cap = float64(c.Webhook.MaxPerSecond)
	}
}

// restart begins with one attempt, and slowly: the webhook was unsuspended.
func (w *window) restart(now time.Time) {
	w.limit, w.slow, w.paused, w.pausedSince, w.suspended = 1, false, time.Time{}, time.Time{}, time.Time{}
	w.rate, w.threshold, w.cut, w.used = firstRate, freeRate, now, now
}

// learn takes the outcome of an attempt into account.
func (w *window) learn(r *response, now time.Time) {
	w.count(now)
	pressed := r.status == 429 || r.status == 503
	w.slow = r.failure != nil && r.failure.Trigger == TriggerTimeout
	switch {
	case pressed || w.slow:
		w.lower(r, now)
	default:
		w.raise()
	}
	if r.failure == nil {
		w.pausedSince = time.Time{}
	}
	if pressed && r.retryAfter > 0 {
		w.pause(now, r.retryAfter)
	}
}

// raise is for an answer that is no sign of pressure.
func (w *window) raise() {
	w.limit = min(w.limit+1, w.most)
	switch {
	case w.rate == 0:
	case w.rate >= freeRate:
		w.rate = 0
	case w.rate < w.threshold:
		w.rate += steepness
	default:
		w.rate += flatness
	}
}

// lower is for a sign of pressure.
func (w *window) lower(r *response, now time.Time) {
	if r.began.Before(w.cut) {
		return
	}
	w.cut = now
	w.limit = max(w.limit/2, 1)
	// A receiver that counts by the second refuses everything until the next one: that is one sign, not many.
	if r.status != 429 || now.Sub(w.rateCut) < time.Second {
		return
	}
	w.rateCut = now
	if w.rate == 0 {
		w.rate = w.answers / max(now.Sub(w.second).Seconds(), 0.01)
	}
	w.threshold = headroom * w.rate
	w.rate = max(w.rate/2, 1)
}

// pause holds the webhook as the receiver asked, but no longer than a day in all without a success.
func (w *window) pause(now time.Time, wait time.Duration) {
	if w.pausedSince.IsZero() {
		w.pausedSince = now
	}
	until := now.Add(wait)
	if end := w.pausedSince.Add(maxPause); until.After(end) {
		until = end
	}
	if until.After(w.paused) {
		w.paused = until
	}
}

// count counts an answer, over the last second or two.
func (w *window) count(now time.Time) {
	if passed := now.Sub(w.second); passed > 2*time.Second {
		w.second, w.answers = now, 0
	} else if passed > time.Second { // keep half of it, so that there is always something to go by
		w.second, w.answers = now.Add(-passed/2), w.answers/2
	}
	w.answers++
}

// forgettable says whether the window has been at rest for long enough to be thrown away.
func (w *window) forgettable(now time.Time) bool {
	if w.taken > 0 || now.Before(w.paused) {
		return false
	}
	rest := windowRest
	if w.limit < min(firstWindow, w.most) || w.slow || w.rate > 0 || !w.pausedSince.IsZero() {
		rest = windowTTL
	}
	return now.Sub(w.used) > rest
}

package diverted

import (
	"testing"
	"time"

	"github.com/matryer/is"
)

var (
	windowNow = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	answered  = func(at time.Time, status int) *response {
		r := &response{status: status, began: at}
		if trigger := StatusTrigger(status); trigger != "" {
			r.failure = &Failure{Trigger: trigger, Status: status}
		}
		return r
	}
	timedOut = func(at time.Time) *response {
		return &response{began: at, failure: &Failure{Trigger: TriggerTimeout}}
	}
)

func TestTheWindowGrowsByOneWithEachAnswerAndIsHalvedByATimeoutA429AndA503(t *testing.T) {
	is := is.New(t)
	now := windowNow
	step := func() time.Time { now = now.Add(time.Millisecond); return now }
	w := newWindow(20)
	is.Equal(w.room(now), 8)
	w.learn(answered(step(), 200), step())
	w.learn(answered(step(), 404), step()) // the receiver is there, and answers
	is.Equal(w.limit, 10)
	for range 30 {
		w.learn(answered(step(), 200), step())
	}
	is.Equal(w.limit, 20) // the most
	w.learn(timedOut(step()), step())
	is.Equal(w.limit, 10)
	is.True(w.slow)
	is.Equal(w.rate, 0.0) // a timeout says nothing of a rate
	w.learn(answered(step(), 429), step())
	is.Equal(w.limit, 5)
	is.True(!w.slow)
	is.True(w.rate > 0)
	w.learn(answered(step(), 503), step())
	is.Equal(w.limit, 2)
	for range 5 {
		w.learn(answered(step(), 503), step())
	}
	is.Equal(w.limit, 1) // never nothing
}

func TestAttemptsThatBeganBeforeTheWindowWasHalvedDoNotHalveItAgain(t *testing.T) {
	is := is.New(t)
	w := newWindow(64)
	began := windowNow
	for i := range 8 { // eight were under way when the receiver fell silent
		w.learn(timedOut(began), windowNow.Add(time.Duration(i+1)*time.Millisecond))
	}
	is.Equal(w.limit, 4)
}

func TestRetryAfterPausesTheWebhookForADayInAllWithoutASuccess(t *testing.T) {
	is := is.New(t)
	now := windowNow
	w := newWindow(8)
	told := answered(now, 503)
	told.retryAfter = time.Hour
	w.learn(told, now)
	is.Equal(w.room(now), 0)
	is.Equal(w.room(now.Add(time.Hour-1)), 0)
	is.True(w.room(now.Add(time.Hour)) > 0)

	for range 40 { // again and again
		now = now.Add(time.Hour)
		told := answered(now, 503)
		told.retryAfter = time.Hour
		w.learn(told, now)
	}
	is.True(w.room(windowNow.Add(24*time.Hour)) > 0)
	is.True(w.room(now) > 0)

	w.learn(answered(now.Add(time.Second), 200), now.Add(time.Second))
	now = now.Add(time.Minute)
	told = answered(now, 429)
	told.retryAfter = time.Minute
	w.learn(told, now)
	is.Equal(w.room(now.Add(time.Minute-1)), 0) // a success begins the day anew
}

func TestAnUnsuspendedWebhookBeginsWithOneAttemptAndSlowly(t *testing.T) {
	is := is.New(t)
	now := windowNow
	w := newWindow(128)
	w.meet(&Claim{Epoch: 3}, now)
	is.Equal(w.room(now), 8)
	w.meet(&Claim{Epoch: 4}, now) // the unsuspend was in another process
	is.Equal(w.room(now), 1)
	is.Equal(w.begin(now), now)
	is.Equal(w.begin(now), now.Add(50*time.Millisecond))
}

func TestTheRateFollowsWhatTheReceiverBears(t *testing.T) {
	is := is.New(t)
	// A receiver that answers within a millisecond, takes 500 a second, and answers 429 beyond.
	now := windowNow
	w := newWindow(128)
	w.restart(now)
	var second time.Time
	var seen, taken, refused int
	var rates []int
	for range 60_000 {
		if w.room(now) == 0 {
			t.Fatal("no room, although nothing is under way")
		}
		now = w.begin(now)
		if now.Sub(second) >= time.Second {
			if !second.IsZero() {
				is.True(seen <= 1000) // never more than twice what it bears
				rates = append(rates, taken)
			}
			second, seen, taken = now, 0, 0
		}
		seen++
		status := 200
		if seen > 500 {
			status = 429
			refused++
		} else {
			taken++
		}
		w.learn(answered(now, status), now.Add(time.Millisecond))
	}
	is.True(len(rates) > 60)
	for i, rate := range rates {
		if i >= 10 && rate < 200 {
			t.Errorf("second %d: %d", i, rate)
		}
	}
	reached := false
	for _, rate := range rates[:10] {
		reached = reached || rate >= 450
	}
	is.True(reached) // within ten seconds
	t.Logf("taken a second: %v; refused in all: %d", rates[:20], refused)
	is.True(refused < 60_000/50)
}

func TestMaxPerSecondBoundsTheRateOutright(t *testing.T) {
	is := is.New(t)
	w := newWindow(128)
	w.meet(&Claim{Webhook: &Webhook{MaxPerSecond: 4}}, windowNow)
	is.Equal(w.room(windowNow), 5)
	at := windowNow
	for range 8 {
		at = w.begin(windowNow)
		w.learn(answered(at, 200), at)
	}
	is.Equal(at, windowNow.Add(7*250*time.Millisecond))
}

func TestWebhooksThatTimeOutShareHalfOfTheRoom(t *testing.T) {
	is := is.New(t)
	f := newInFlight(Config{MaxInFlight: 20, MaxInFlightPerWebhook: 20})
	a, b, good := f.window(WebhookKey{Tenant: acme}), newWindow(20), newWindow(20)
	f.take(a, 8)
	f.learn(a, timedOut(windowNow), windowNow.Add(time.Second))
	is.Equal(f.slow, 8)
	b.slow = true
	is.Equal(f.roomFor(b, windowNow), 2) // of the ten
	f.take(b, 2)
	is.Equal(f.roomFor(b, windowNow), 0)
	is.Equal(f.roomFor(good, windowNow), 8)
	is.True(!f.short(b, windowNow))
	f.free(a, 1)
	is.True(f.missed(a, windowNow)) // b may have it
	f.learn(a, answered(windowNow.Add(2*time.Second), 200), windowNow.Add(3*time.Second))
	is.Equal(f.slow, 2)
}

func TestAWindowIsRememberedForAMinuteAndOneThatHadTroubleForAnHour(t *testing.T) {
	is := is.New(t)
	w := newWindow(8)
	w.begin(windowNow)
	is.True(!w.forgettable(windowNow.Add(windowRest)))
	is.True(w.forgettable(windowNow.Add(windowRest + 1)))
	w.taken = 1
	is.True(!w.forgettable(windowNow.Add(windowTTL + 1)))
	w.taken = 0
	w.learn(timedOut(windowNow), windowNow)
	is.True(!w.forgettable(windowNow.Add(windowTTL)))
	is.True(w.forgettable(windowNow.Add(windowTTL + 1)))
}

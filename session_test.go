package diverted_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
)

var errDisk = errors.New("no space left on device")

// A store that fails.

func TestWhileTheStoreCannotSettleNothingIsClaimedAndNothingSentAgain(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		s := w.tamper()
		hook := w.webhook("a")
		var full atomic.Bool
		failed, claims := false, 0
		s.before = func(r diverted.WorkRequest) error {
			if !full.Load() {
				return nil
			}
			if failed && r.Claim != nil {
				claims++
			}
			failed = failed || len(r.Outcomes) > 0
			return errDisk
		}
		w.receiver.answers(func(message, int) response {
			full.Store(true) // the disk fills up while the first ones are on their way
			return response{status: 200}
		})
		w.run()
		for range 20 {
			w.send(hook)
		}
		w.sleep(10 * time.Minute)
		sent := len(w.receiver.got())
		w.is.Equal(sent, 1) // neither again, nor any other
		w.is.Equal(claims, 0)
		w.is.Equal(len(w.pending(hook)), 20)
		w.is.Equal(w.seen("delivered"), 0)
		w.is.Equal(w.log.count("level=ERROR"), 1)
		w.is.True(s.works.Load() < 150) // it backs off

		w.receiver.answers(nil)
		full.Store(false)
		w.sleep(5 * time.Second)
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), 20)
		w.is.Equal(w.seen("delivered"), 20)
		w.is.Equal(w.log.count(`msg="diverted: the store settles again"`), 1)
		w.is.Equal(w.log.count("level=ERROR"), 1)
	})
}

func TestALostAcknowledgementOfASettleIsNoLostLease(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		s := w.tamper()
		hook := w.webhook("a")
		lost := 0
		s.after = func(r diverted.WorkRequest) error {
			if len(r.Outcomes) > 0 && lost < 3 {
				lost++
				return errDisk
			}
			return nil
		}
		w.run()
		w.send(hook)
		w.sleep(time.Minute)
		w.is.Equal(lost, 3)
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.Equal(w.seen("delivered"), 1)
		w.is.Equal(w.log.count("came too late"), 0)
	})
}

func TestClaimsOfALostAcknowledgementComeBackWhenTheirLeaseIsOver(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := w.tamper()
		hook := w.webhook("a")
		w.send(hook)
		lost := 0
		s.after = func(r diverted.WorkRequest) error {
			if r.Claim != nil && lost == 0 {
				lost++
				return errDisk
			}
			return nil
		}
		w.run()
		w.sleep(10 * time.Second)
		w.is.Equal(len(w.receiver.got()), 0)
		w.sleep(20 * time.Second)
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.True(w.gone(hook))
	})
}

func TestAnOutcomeThatTheStoreRefusesDoesNotHoldUpTheOthers(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		s := w.tamper()
		hook := w.webhook("a")
		keys := make([]diverted.Key, 5)
		for i := range keys {
			keys[i] = w.send(hook)
		}
		s.before = func(r diverted.WorkRequest) error {
			for _, o := range r.Outcomes {
				if o.Key == keys[2] {
					return &diverted.InvalidError{Fields: []diverted.FieldError{{Path: "outcome", Detail: "must not be this one"}}}
				}
			}
			return nil
		}
		w.run()
		w.sleep(time.Second)
		w.is.Equal(w.seen("delivered"), 4)
		w.is.Equal(len(w.pending(hook)), 1)
		w.is.Equal(w.log.count("refuses an outcome"), 1)
		s.do(func() { s.before = nil })
		w.sleep(time.Minute) // its lease is over
		w.is.True(w.gone(hook))
		w.is.Equal(w.seen("delivered"), 5)
	})
}

func TestAClosedStoreEndsRun(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.webhook("a")
		w.run()
		w.is.NoErr(w.store.Close())
		err := <-w.ran
		w.is.True(errors.Is(err, diverted.ErrClosed))
		w.cancel = nil
		w.is.Equal(w.log.count("level=ERROR"), 1)
	})
}

func TestAnswersThatAreLostForLongAreNotTakenForDeliveriesThatEndTheProcess(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := w.tamper()
		hook := w.webhook("a")
		for range 100 {
			w.send(hook)
		}
		s.after = func(diverted.WorkRequest) error { return errDisk }
		w.run()
		w.sleep(10 * time.Minute)
		s.do(func() { s.after = nil })
		w.sleep(2 * time.Minute)
		w.is.Equal(len(w.pending(hook)), 0)
		w.is.True(len(w.receiver.got("a")) >= 90) // all but those by which the store was tried
	})
}

func TestFlushReturnsTheFaultOfTheStore(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := w.tamper()
		hook := w.webhook("a")
		w.send(hook)
		s.before = func(diverted.WorkRequest) error { return errDisk }
		w.is.True(errors.Is(w.d.Flush(w.ctx), errDisk))
		s.before = func(r diverted.WorkRequest) error {
			if len(r.Outcomes) > 0 {
				return errDisk
			}
			return nil
		}
		err := w.d.Flush(w.ctx)
		w.is.True(errors.Is(err, errDisk))
		w.is.True(strings.Contains(err.Error(), "1 outcomes could not be settled"))
	})
}

// The end of Run.

func TestRunLetsAttemptsEndWithinTheGracePeriodAndGivesUpTheRest(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		w.config.Timeout = time.Minute
		w.config.GracePeriod = 10 * time.Second
		quick, slow, waiting := w.webhook("quick"), w.webhook("slow"), w.webhook("waiting")
		w.receiver.answers(func(m message, _ int) response {
			switch m.path {
			case "/quick":
				return response{status: 200, after: 5 * time.Second}
			default:
				return response{status: 200, after: 50 * time.Second}
			}
		})
		w.run()
		w.send(quick)
		w.send(slow)
		w.is.NoErr(w.store.Suspend(w.ctx, waiting))
		w.send(waiting)
		began := time.Now()
		w.stop() // nil: everything is settled
		w.is.Equal(time.Since(began), 10*time.Second)
		w.is.True(w.gone(quick))
		w.is.Equal(w.seen("delivered"), 1)
		pending := w.pending(slow)
		w.is.Equal(len(pending), 1)
		w.is.True(!pending[0].Claimed) // given back
		w.is.Equal(pending[0].Attempts, 0)
		w.is.Equal(w.seen("retried"), 0)

		w.receiver.answers(nil)
		w.run() // at once, not when the lease is over
		w.is.True(w.gone(slow))
		w.is.Equal(w.log.count("level=WARN")+w.log.count("level=ERROR"), 0)
	})
}

func TestRunEndsWithoutDelayWhenNothingIsUnderWay(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.send(w.webhook("a"))
		w.run()
		began := time.Now()
		w.stop()
		w.is.Equal(time.Since(began), time.Duration(0))
	})
}

func TestRunSaysHowManyOutcomesCouldNotBeSettled(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := w.tamper()
		hook := w.webhook("a")
		for range 3 {
			w.send(hook)
		}
		s.before = func(r diverted.WorkRequest) error {
			if len(r.Outcomes) > 0 {
				return errDisk
			}
			return nil
		}
		w.run()
		w.sleep(time.Minute)
		began := time.Now()
		w.cancel()
		w.cancel = nil
		err := <-w.ran
		w.is.True(errors.Is(err, errDisk))
		w.is.True(strings.Contains(err.Error(), "3 outcomes could not be settled"))
		w.is.True(time.Since(began) <= 10*time.Second)
	})
}

func TestASendThatRacesWithTheEndOfRunGivesItsClaimsBack(t *testing.T) {
	for _, when := range []time.Duration{time.Second, 15 * time.Second} { // while Run waits for it, and after it gave up
		t.Run(when.String(), func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, w *world) {
				s := w.tamper()
				hook := w.webhook("a")
				w.run()
				claims := 0
				s.accepted = func(r diverted.AcceptResult) {
					claims += len(r.Claims)
					time.Sleep(when)
				}
				sent := make(chan error)
				event := w.event()
				go func() {
					_, err := w.d.Send(w.ctx, tenant, hook.Webhook, event)
					sent <- err
				}()
				synctest.Wait()
				w.is.Equal(claims, 1)
				w.stop()
				w.is.NoErr(<-sent)
				synctest.Wait()
				pending := w.pending(hook)
				w.is.Equal(len(pending), 1)
				w.is.True(!pending[0].Claimed)
				w.is.Equal(len(w.receiver.got()), 0)
			})
		})
	}
}

func TestACallerThatLeavesDuringSendLeavesNoClaimBehind(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := w.tamper()
		hook := w.webhook("a")
		w.run()
		s.accepted = func(diverted.AcceptResult) { time.Sleep(5 * time.Second) }
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		began := time.Now()
		_, err := w.d.Send(ctx, tenant, hook.Webhook, w.event())
		w.is.True(errors.Is(err, context.DeadlineExceeded)) // the outcome is unknown
		w.is.Equal(time.Since(began), time.Second)
		w.sleep(4 * time.Second)
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.True(w.gone(hook))
	})
}

// Leases.

func TestAnAttemptThatItsLeaseNoLongerCoversIsNotBegun(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := w.tamper()
		hook := w.webhook("a")
		w.send(hook)
		slow := true
		claims := 0
		s.result = func(r *diverted.WorkResult) {
			claims += len(r.Claims)
			if slow && len(r.Claims) > 0 {
				slow = false
				time.Sleep(11 * time.Second) // the disk was busy
			}
		}
		w.run()
		w.sleep(10 * time.Second)
		w.is.Equal(len(w.receiver.got()), 0)
		w.sleep(2 * time.Second)
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.Equal(claims, 2) // given back, and claimed anew
		w.is.True(w.gone(hook))
		w.is.Equal(w.log.count("came too late"), 0)
	})
}

func TestAnOutcomeAfterALostLeaseChangesNothingAndIsNotReported(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true}))
		w.receiver.answers(func(message, int) response { return response{status: 500, after: 10 * time.Second} })
		w.run()
		key := w.send(hook)
		// Somebody else settles it, as if the lease had been theirs.
		w.is.NoErr(w.store.DeleteWebhook(w.ctx, hook, true))
		w.sleep(time.Minute)
		w.is.Equal(w.seen("diverted"), 0)
		w.is.Equal(w.log.count("came too late"), 1)
		w.is.True(strings.Contains(w.log.String(), key.Event.String()))
	})
}

// Waits.

func TestRetryAfterLengthensAWaitAndNeverShortensIt(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", handling(diverted.FailureHandling{Retry: retries(3), Divert: true}))
		w.receiver.answers(func(_ message, n int) response {
			return response{status: 429, header: http.Header{"Retry-After": {[]string{"", "300", "5", "7200"}[n%4]}}}
		})
		w.run()
		began := time.Now()
		w.send(hook)
		w.sleep(3 * time.Hour)
		var at []time.Duration
		for _, m := range w.receiver.got() {
			at = append(at, m.at.Sub(began))
		}
		// 5 min as asked, the strategy's minute, and an hour at most.
		w.is.Equal(at, []time.Duration{0, 5 * time.Minute, 6 * time.Minute, 66 * time.Minute})
	})
}

func TestWaitsAreSpreadByTheJitter(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.Jitter = 0 // 10 %
		hook := w.webhook("a", handling(diverted.FailureHandling{Retry: retries(1), Divert: true}))
		w.receiver.answers(status(500))
		w.run()
		began := time.Now()
		for range 100 {
			w.send(hook)
		}
		w.sleep(2 * time.Minute)
		var at []time.Duration
		for _, m := range w.receiver.got()[100:] {
			at = append(at, m.at.Sub(began))
		}
		w.is.Equal(len(at), 100)
		w.is.True(slices.Min(at) >= 54*time.Second && slices.Min(at) < 58*time.Second)
		w.is.True(slices.Max(at) <= 66*time.Second+time.Millisecond && slices.Max(at) > 62*time.Second)
	})
}

func TestARetryIsMadeWhenItsWaitIsOverHoweverShort(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.Jitter = 0.5
		var failed diverted.Attempt
		w.config.Observer.Retried = func(a diverted.Attempt) { failed = a }
		hook := w.webhook("a", handling(diverted.FailureHandling{Retry: &diverted.RetryStrategy{Attempts: 1, Interval: time.Second}}))
		w.receiver.answers(func(_ message, n int) response { return response{status: []int{200, 500}[n%2]} })
		w.run()
		for range 20 {
			w.sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
			w.send(hook)
			w.sleep(2 * time.Second)
			got := w.receiver.got()
			late := got[len(got)-1].at.Sub(failed.Began) - failed.Wait
			w.is.True(late >= 0 && late <= time.Millisecond) // due times round up
		}
	})
}

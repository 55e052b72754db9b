package diverted_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

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

// Bounds.

func TestAttemptsStayWithinTheBoundsInAllAndForEachWebhook(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.MaxInFlight, w.config.MaxInFlightPerWebhook = 20, 3
		var hooks []diverted.WebhookKey
		for i := range 12 {
			hooks = append(hooks, w.webhook(fmt.Sprint(i)))
		}
		var mu sync.Mutex
		underWay, most := map[string]int{}, map[string]int{}
		begin := func(path string, n int) {
			mu.Lock()
			defer mu.Unlock()
			underWay[path] += n
			most[path] = max(most[path], underWay[path])
		}
		w.receiver.answers(func(m message, _ int) response {
			begin(m.path, 1)
			begin("all", 1)
			time.Sleep(time.Duration(1+rand.IntN(5)) * time.Millisecond)
			begin(m.path, -1)
			begin("all", -1)
			return response{status: 200}
		})
		for range 300 { // half before Run, half beside it
			w.send(hooks[rand.IntN(len(hooks))])
		}
		w.run()
		for range 300 {
			_, err := w.d.Send(w.ctx, tenant, hooks[rand.IntN(len(hooks))].Webhook, w.event())
			w.is.NoErr(err)
		}
		w.sleep(900 * time.Millisecond) // sooner than the fallback
		w.is.Equal(len(w.receiver.got()), 600)
		for path, n := range most {
			if path == "all" {
				w.is.Equal(n, 20) // full, and not more
			} else {
				w.is.True(n <= 3)
			}
		}
	})
}

func TestAReceiverThatHangsHoldsItsOwnDeliveriesOnly(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hung, good := w.webhook("hung"), w.webhook("good")
		w.receiver.answers(func(m message, _ int) response {
			if m.path == "/hung" {
				return response{status: 200, after: time.Hour}
			}
			return response{status: 200}
		})
		w.run()
		for range 100 {
			w.send(hung)
			w.send(good)
		}
		w.is.Equal(len(w.receiver.got("good")), 100)
		w.is.Equal(len(w.receiver.got("hung")), 8)
		w.sleep(15 * time.Second) // the timeout
		w.is.Equal(len(w.receiver.got("hung")), 8+4)
		w.is.Equal(len(w.pending(hung)), 100)
	})
}

func TestOutcomesThatWaitForASlowStoreAreBounded(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.MaxInFlight = 10
		s := w.tamper()
		hook := w.webhook("a")
		s.before = func(r diverted.WorkRequest) error {
			if len(r.Outcomes) > 0 {
				time.Sleep(time.Second)
			}
			return nil
		}
		w.run()
		for range 100 {
			w.send(hook)
		}
		w.is.True(len(w.receiver.got()) <= 1+10) // what is being settled, and what waits
		w.sleep(time.Minute)
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), 100)
	})
}

func TestNoWakeUpIsLost(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		w.config.MaxInFlight, w.config.MaxInFlightPerWebhook = 7, 2
		var hooks []diverted.WebhookKey
		for i := range 5 {
			hooks = append(hooks, w.webhook(fmt.Sprint(i), handling(diverted.FailureHandling{Divert: true})))
		}
		w.receiver.answers(func(_ message, n int) response {
			return response{status: []int{200, 500}[n%2], after: time.Duration(rand.IntN(3)) * time.Millisecond}
		})
		w.run()
		const rounds, senders, each = 3, 8, 12
		for range rounds {
			var all sync.WaitGroup
			for range senders {
				all.Go(func() {
					for range each {
						event, err := diverted.NewEvent("push", []byte(`"x"`))
						if err == nil {
							_, err = w.d.Send(w.ctx, tenant, hooks[rand.IntN(len(hooks))].Webhook, event)
						}
						if err != nil {
							t.Error(err)
						}
						time.Sleep(time.Duration(rand.IntN(2)) * time.Millisecond)
					}
				})
			}
			all.Wait()
			w.sleep(600 * time.Millisecond) // the fallback must not be what finds them
			for _, h := range hooks {
				w.is.Equal(len(w.pending(h)), 0)
			}
			var resent sync.WaitGroup
			for _, h := range hooks {
				for _, e := range w.diverted(h) {
					resent.Go(func() {
						if err := w.store.Resend(w.ctx, e.Key); err != nil {
							t.Error(err)
						}
					})
				}
			}
			resent.Wait()
			w.sleep(600 * time.Millisecond)
			for _, h := range hooks {
				w.is.Equal(len(w.pending(h)), 0)
			}
		}
		w.is.Equal(w.seen("accepted"), rounds*senders*each)
		w.is.Equal(w.seen("attempted"), len(w.receiver.got()))
		w.is.Equal(w.seen("attempted"), w.seen("delivered")+w.seen("diverted"))
		w.is.Equal(w.seen("attempted"), w.seen("accepted")+w.seen("resent"))
	})
}

// Rest.

func TestAnIdleDispatcherOnlyLooksOnceASecond(t *testing.T) {
	for _, tt := range []struct {
		name string
		with func(w *world)
	}{
		{"empty", func(w *world) { w.webhook("a") }},
		{"held", func(w *world) {
			hook := w.webhook("a", disabled)
			for range 50 {
				w.send(hook)
			}
		}},
		{"waiting for retries", func(w *world) {
			hook := w.webhook("a", handling(diverted.FailureHandling{Retry: &diverted.RetryStrategy{Interval: 24 * time.Hour}}))
			w.receiver.answers(status(503))
			for range 50 {
				w.send(hook)
			}
		}},
		{"no room", func(w *world) {
			w.config.MaxInFlight, w.config.MaxInFlightPerWebhook = 2, 2
			w.config.Timeout = 5 * time.Minute
			w.receiver.answers(func(message, int) response { return response{status: 200, after: time.Hour} })
			hook := w.webhook("a")
			for range 50 {
				w.send(hook)
			}
		}},
		{"no room for a webhook", func(w *world) {
			w.config.Timeout = 5 * time.Minute
			w.receiver.answers(func(message, int) response { return response{status: 200, after: time.Hour} })
			hook := w.webhook("a")
			for range 50 {
				w.send(hook)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, w *world) {
				s := &counted{Store: w.store, Watcher: w.store.(diverted.Watcher)}
				w.store = s
				tt.with(w)
				w.run()
				w.sleep(10 * time.Second)
				before := s.works.Load()
				w.sleep(100 * time.Second)
				w.is.True(s.works.Load()-before <= 101)
			})
		})
	}
}

// counted is a store that counts the calls of Work.
type counted struct {
	diverted.Store
	diverted.Watcher
	works atomic.Int64
}

func (s *counted) Work(ctx context.Context, r diverted.WorkRequest) (diverted.WorkResult, error) {
	s.works.Add(1)
	return s.Store.Work(ctx, r)
}

func TestSendsToAWebhookWithoutRoomDoNotWakeTheDispatcher(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := &counted{Store: w.store, Watcher: w.store.(diverted.Watcher)}
		w.store = s
		hook := w.webhook("a")
		w.receiver.answers(func(message, int) response { return response{status: 200, after: 14 * time.Second} })
		w.run()
		for range 100 {
			w.send(hook)
		}
		w.is.True(s.works.Load() < 5)
		w.sleep(15 * time.Second)
		w.is.Equal(len(w.receiver.got()), 8+16)
	})
}

func TestWorkOfAnotherProcessIsFoundByWakeAndWithinASecond(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.tamper() // tells of no changes
		hook := w.webhook("a")
		w.run()
		accept := func() {
			m, err := diverted.NewMessage(tenant, hook.Webhook, w.event())
			w.is.NoErr(err)
			_, err = w.store.Accept(w.ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}})
			w.is.NoErr(err)
			synctest.Wait()
		}
		w.sleep(1500 * time.Millisecond)
		accept()
		w.is.Equal(len(w.receiver.got()), 0)
		w.d.Wake()
		synctest.Wait()
		w.is.Equal(len(w.receiver.got()), 1)
		accept()
		w.sleep(time.Second)
		w.is.Equal(len(w.receiver.got()), 2)
	})
}

func TestWakeFindsWhatWasAcceptedThroughAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		path := filepath.Join(t.TempDir(), "webhooks.db")
		ours, err := diverted.OpenSQLite(t.Context(), path)
		is.NoErr(err)
		defer ours.Close()
		theirs, err := diverted.OpenSQLite(t.Context(), path)
		is.NoErr(err)
		defer theirs.Close()

		w := &world{t: t, is: is, ctx: t.Context(), store: ours, receiver: &receiver{}}
		w.config.Transport = w.receiver
		hook := w.webhook("a")
		w.run()
		defer w.stop()
		w.sleep(1500 * time.Millisecond)
		other, err := diverted.NewDispatcher(theirs, w.config)
		is.NoErr(err)
		_, err = other.Send(w.ctx, tenant, hook.Webhook, w.event())
		is.NoErr(err)
		synctest.Wait()
		is.Equal(len(w.receiver.got()), 0)
		w.d.Wake()
		synctest.Wait()
		is.Equal(len(w.receiver.got()), 1)
		is.True(w.gone(hook))
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

// Faults of the host's own code.

func TestAPanicInTheTransportIsAFailureWithTriggerTimeout(t *testing.T) {
	for _, how := range []string{"panics", "ends the goroutine"} {
		t.Run(how, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, w *world) {
				hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true}))
				w.receiver.answers(func(message, int) response {
					if how == "panics" {
						panic("the secret is s3cret")
					}
					runtime.Goexit()
					return response{}
				})
				w.run()
				w.send(hook)
				w.is.Equal(w.diverted(hook)[0].Failure.Trigger, diverted.TriggerTimeout)
				w.is.Equal(w.log.count("s3cret"), 0)
				w.receiver.answers(nil)
				w.send(hook)
				w.is.Equal(len(w.pending(hook)), 0)
			})
		})
	}
}

func TestAPanicInAnObserverIsContainedAndLogged(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		fault := func() { panic("observer at fault") }
		w.config.Observer = diverted.Observer{
			Accepted: func(diverted.Key) { fault() }, Attempted: func(diverted.Attempt) { fault() },
			Delivered: func(diverted.Attempt) { fault() }, Diverted: func(diverted.Attempt) { fault() },
			Suspended: func(diverted.WebhookKey) { fault() },
			Alerted:   func(diverted.WebhookKey, diverted.Notice, error) { fault() },
		}
		hook := w.webhook("a", handling(diverted.FailureHandling{
			Divert: true, Suspend: true, Alert: &diverted.Endpoint{URL: "https://receiver.example/alert"},
		}))
		w.run()
		w.send(hook)
		w.is.True(w.gone(hook))
		w.receiver.answers(notAlerts(500))
		w.send(hook)
		w.is.Equal(len(w.diverted(hook)), 1)
		w.is.True(w.suspended(hook))
		w.is.Equal(len(w.receiver.got("alert")), 1)
		w.is.Equal(w.log.count("panic contained"), 8)
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

// The observer.

func TestTheObserverIsToldOfChangesWhetherRunRunsOrNotAndOfEachOnce(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true}))
		w.receiver.answers(status(500))
		w.send(hook) // claimed by nobody
		w.run()
		keys := []diverted.Key{w.send(hook), w.send(hook)} // handed back claimed
		w.is.Equal(w.seen("accepted"), 3)
		w.is.Equal(w.seen("attempted"), 3)
		w.stop()
		w.is.NoErr(w.store.DeleteDiverted(w.ctx, keys[0]))
		w.is.NoErr(w.store.Resend(w.ctx, keys[1]))
		w.is.NoErr(w.store.Suspend(w.ctx, hook))
		w.is.NoErr(w.store.Unsuspend(w.ctx, hook))
		for what, n := range map[string]int{"deleted": 1, "resent": 1, "suspended": 1, "unsuspended": 1, "diverted": 3} {
			if w.seen(what) != n {
				t.Errorf("%s: seen %d times, want %d", what, w.seen(what), n)
			}
		}
	})
}

func TestADispatcherOnAStoreThatTellsOfNoChangesReportsWhatItAcceptedItself(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.tamper()
		w.observe()
		hook := w.webhook("a")
		w.send(hook)
		w.run()
		w.send(hook)
		w.is.Equal(w.seen("accepted"), 2)
		w.is.Equal(w.seen("delivered"), 2)
	})
}

// watched is a store that counts its watchers.
type watched struct {
	*diverted.MemoryStore
	n atomic.Int64
}

func (s *watched) Watch(f func(diverted.Change)) func() {
	s.n.Add(1)
	stop := s.MemoryStore.Watch(f)
	return func() { s.n.Add(-1); stop() }
}

func TestADroppedDispatcherIsCollectedAndUnsubscribes(t *testing.T) {
	is := is.New(t)
	s := &watched{MemoryStore: diverted.NewMemoryStore()}
	for range 10 {
		d, err := diverted.NewDispatcher(s, diverted.Config{})
		is.NoErr(err)
		is.NoErr(d.Flush(t.Context()))
	}
	for range 100 {
		runtime.GC()
		if s.n.Load() == 0 {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("%d dispatchers are subscribed still", s.n.Load())
}

// Ping.

func TestPingMakesOneSignedAttemptOutsideTheQueue(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", disabled, func(w *diverted.Webhook) {
			w.Endpoint.HMACEnabled, w.Endpoint.Secret = true, alertSecret
		})
		result, err := w.dispatcher().Ping(w.ctx, hook)
		w.is.NoErr(err)
		w.is.True(result.Delivered)
		m := w.receiver.got()[0]
		w.is.NoErr(diverted.Verify(m.header, m.body, alertSecret))
		event, err := diverted.DecodeEvent(m.body)
		w.is.NoErr(err)
		w.is.Equal(event.Type, diverted.PingType)
		w.is.Equal(m.id, event.Locator.String())

		w.receiver.answers(status(503))
		result, err = w.d.Ping(w.ctx, hook)
		w.is.NoErr(err)
		w.is.True(!result.Delivered)
		w.is.Equal(result.Failure.Trigger, diverted.Trigger("503"))
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), 2)

		_, err = w.d.Ping(w.ctx, diverted.WebhookKey{Tenant: tenant, Webhook: ulid.Make()})
		w.is.True(errors.Is(err, diverted.ErrNotFound))
	})
}

// Notices.

func TestNoticesThatHangDelayNoDeliveryAndAreAllSentInTheEnd(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := &counted{Store: w.store, Watcher: w.store.(diverted.Watcher)}
		w.store = s
		w.observe()
		good := w.webhook("good")
		hang := true
		w.receiver.inTurn = true
		w.receiver.answers(func(m message, _ int) response {
			switch m.path {
			case "/good":
				return response{status: 200}
			case "/alert":
				if hang {
					return response{status: 200, after: time.Hour}
				}
				return response{status: 200}
			default:
				return response{status: 404}
			}
		})
		w.run()
		for i := range 40 {
			w.send(w.webhook(fmt.Sprint(i), handling(diverted.FailureHandling{
				Alert: &diverted.Endpoint{URL: "https://receiver.example/alert"},
			})))
		}
		before := s.works.Load()
		w.sleep(10 * time.Second)
		w.is.Equal(len(w.receiver.got("alert")), 16)
		w.is.True(s.works.Load()-before <= 11) // no busy loop
		w.send(good)
		w.is.Equal(len(w.receiver.got("good")), 1)
		w.sleep(time.Minute)
		w.receiver.do(func() { hang = false })
		w.sleep(10 * time.Minute)
		w.is.Equal(w.seen("alerted"), 40)
	})
}

func TestANoticeWhoseEndpointWasRemovedIsForgotten(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := alerting(w)
		w.receiver.answers(notAlerts(404))
		w.run()
		w.send(hook)
		w.send(hook) // joins the notice of the first window
		stand, err := w.store.FetchWebhook(w.ctx, hook)
		w.is.NoErr(err)
		stand.FailureHandling = &diverted.FailureHandling{Divert: true}
		_, err = w.store.UpdateWebhook(w.ctx, stand)
		w.is.NoErr(err)
		w.sleep(time.Hour)
		w.is.Equal(len(w.receiver.got("alert")), 1)
		w.is.Equal(w.seen("alerted")+w.seen("alert given up"), 1)
	})
}

func TestANoticeThatTheEndOfRunCutsOffIsSentByTheNext(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		w.config.GracePeriod = -1
		hook := alerting(w)
		w.receiver.answers(func(m message, n int) response {
			if m.path == "/alert" {
				return response{status: 200, after: 10 * time.Second}
			}
			return response{status: 404}
		})
		w.run()
		w.send(hook)
		w.is.Equal(len(w.receiver.got("alert")), 1)
		w.stop()
		w.is.Equal(w.seen("alerted"), 0)
		w.run()
		w.sleep(time.Minute)
		notices := w.receiver.got("alert")
		w.is.Equal(len(notices), 2)
		w.is.Equal(notices[0].id, notices[1].id)
		w.is.Equal(w.seen("alerted"), 1)
	})
}

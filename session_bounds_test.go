package diverted_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

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

func TestAWebhookThatTimedOutIsTriedAgainThoughThereIsRoomForOneAttemptAlone(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.MaxInFlight = 1
		hook, other := w.webhook("a"), w.webhook("b")
		w.receiver.answers(func(m message, n int) response {
			if m.path == "/a" && n == 1 {
				return response{after: time.Hour}
			}
			return response{status: 200}
		})
		w.run()
		w.send(hook)
		w.send(hook)
		w.sleep(15 * time.Second) // the timeout
		w.send(other)
		w.sleep(time.Second)
		w.is.Equal(len(w.receiver.got("a")), 2)
		w.is.True(w.gone(other))
		w.sleep(time.Minute) // the retry
		w.is.True(w.gone(hook))
	})
}

func TestALowerMaxPerSecondKeepsAWebhookFromNothingThatItAllows(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a")
		w.run()
		for range 200 { // its window grows
			w.send(hook)
		}
		w.is.Equal(len(w.receiver.got("a")), 200)
		slower := func(h *diverted.Webhook) { h.Locator, h.MaxPerSecond = hook.Webhook, 1 }
		w.webhook("a", slower, disabled)
		for range 200 {
			w.send(hook)
		}
		w.webhook("a", slower)
		w.sleep(time.Minute)
		n := len(w.receiver.got("a")) - 200
		w.is.True(n >= 55 && n <= 62)
	})
}

func TestWhatWaitsForItsTurnIsNotSentIntoAPauseThatTheReceiverAskedFor(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true, Retry: retries(1)}), func(h *diverted.Webhook) { h.MaxPerSecond = 20 })
		for range 10 {
			w.send(hook)
		}
		w.receiver.answers(func(_ message, n int) response {
			if n == 1 {
				return response{status: 429, header: http.Header{"Retry-After": {"60"}}}
			}
			return response{status: 200}
		})
		w.run() // claims eight at once, which may begin every 50 ms
		w.sleep(time.Minute - time.Millisecond)
		w.is.Equal(len(w.receiver.got()), 1)
		w.sleep(10 * time.Second)
		w.is.Equal(w.seen("delivered"), 10)
		w.is.Equal(w.seen("retried"), 1) // and none of the others spent anything
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

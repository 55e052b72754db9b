package diverted_test

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

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

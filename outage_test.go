package diverted_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
)

// hosts saves n webhooks that go to as many hosts, with two retries at intervals of a minute, and suspend.
func (w *world) hosts(n int) []diverted.WebhookKey {
	var keys []diverted.WebhookKey
	for i := range n {
		keys = append(keys, w.webhook(fmt.Sprint(i), func(hook *diverted.Webhook) {
			hook.Endpoint.URL = fmt.Sprintf("https://host-%d.example/hook", i)
			hook.FailureHandling = &diverted.FailureHandling{
				Retry: &diverted.RetryStrategy{Attempts: 2, Interval: time.Minute, Type: diverted.Linear}, Divert: true, Suspend: true,
			}
		}))
	}
	return keys
}

// outage has no receiver respond until what it returns is false.
func (w *world) outage() (down *atomic.Bool) {
	down = new(atomic.Bool)
	down.Store(true)
	w.receiver.answers(func(message, int) response {
		if down.Load() {
			return response{err: io.ErrUnexpectedEOF}
		}
		return response{status: 200}
	})
	return down
}

func TestWhenNoHostRespondsTheFaultIsOursAndNothingIsSpent(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		var began, ended int
		var lasted time.Duration
		w.config.Observer = diverted.Observer{
			Offline: func() { began++ },
			Online:  func(after time.Duration) { ended, lasted = ended+1, after },
		}
		down := w.outage()
		w.receiver.inTurn = true
		hooks := w.hosts(20)
		w.run()
		for range 10 {
			for _, hook := range hooks {
				w.send(hook)
			}
		}
		w.sleep(0)
		w.is.Equal(began, 1)

		before := len(w.receiver.got())
		w.sleep(time.Hour)
		probes := len(w.receiver.got()) - before
		w.is.True(probes >= 3500 && probes <= 3700) // one a second
		for _, hook := range hooks {
			stand, err := w.store.FetchWebhook(w.ctx, hook)
			w.is.NoErr(err)
			w.is.True(!stand.Suspended())
			w.is.Equal(len(w.pending(hook)), 10)
			for _, p := range w.pending(hook) {
				w.is.True(p.Attempts <= 1) // what was under way before it was noticed
			}
		}
		w.is.Equal(w.log.count("no receiver can be reached"), 1)

		down.Store(false)
		w.sleep(10 * time.Minute)
		w.is.Equal(ended, 1)
		w.is.True(lasted >= time.Hour && lasted <= time.Hour+2*time.Second)
		w.is.Equal(began, 1)
		for _, hook := range hooks {
			w.is.True(w.gone(hook))
		}
	})
}

func TestANoticeOutlivesAnOutageOfOurOwn(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		down := w.outage()
		w.receiver.inTurn = true
		hook := w.webhook("a", handling(diverted.FailureHandling{
			Divert: true, Alert: &diverted.Endpoint{URL: "https://alerts.example/alert"},
		}))
		w.run()
		w.send(hook) // before it is noticed, and so alerted
		for _, hook := range w.hosts(60) {
			w.send(hook)
		}
		w.is.Equal(w.log.count("no receiver can be reached"), 1)
		w.sleep(20 * time.Minute) // twice as long as a notice is tried otherwise
		w.is.Equal(w.seen("alert given up"), 0)

		down.Store(false)
		w.sleep(time.Minute)
		w.is.Equal(w.seen("alerted"), 1)
	})
}

func TestAnOutageEndsWithTheRunThatNoticedIt(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		var began int
		var lasted []time.Duration
		w.config.Observer = diverted.Observer{
			Offline: func() { began++ },
			Online:  func(after time.Duration) { lasted = append(lasted, after) },
		}
		down := w.outage()
		w.receiver.inTurn = true
		hooks := w.hosts(60)
		w.run()
		for _, hook := range hooks {
			w.send(hook)
		}
		w.sleep(time.Minute)
		w.is.Equal(began, 1)
		w.is.Equal(len(lasted), 0)
		w.stop()
		w.is.Equal(lasted, []time.Duration{time.Minute}) // nobody would be told of its end later
		w.is.Equal(w.log.count("a receiver responds again"), 0)

		down.Store(false)
		w.run()
		w.sleep(time.Hour)
		w.stop()
		w.is.Equal(began, 1)
		w.is.Equal(len(lasted), 1)
		for _, hook := range hooks {
			w.is.True(w.gone(hook))
		}
	})
}

func TestAHostWithFewWebhooksKeepsTheOrdinaryRules(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.Observer = diverted.Observer{Offline: func() { t.Error("nine hosts are too few") }}
		w.receiver.answers(func(message, int) response { return response{err: io.ErrUnexpectedEOF} })
		hooks := w.hosts(9)
		w.run()
		for range 20 {
			for _, hook := range hooks {
				w.send(hook)
			}
		}
		w.sleep(time.Hour)
		for _, hook := range hooks {
			stand, err := w.store.FetchWebhook(w.ctx, hook)
			w.is.NoErr(err)
			w.is.True(stand.Suspended())
		}
	})
}

// slowLog keeps whoever logs a text until it is let go.
type slowLog struct {
	slog.Handler
	text string
	let  chan struct{}
}

func (l slowLog) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, l.text) {
		<-l.let
	}
	return l.Handler.Handle(ctx, r)
}

func TestTheEndOfAnOutageIsToldAfterItsBeginning(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		var told []string
		tell := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what)
		}
		log := slowLog{w.config.Logger.Handler(), "no receiver can be reached", make(chan struct{})}
		w.config.Logger = slog.New(log)
		w.config.Observer = diverted.Observer{Offline: func() { tell("offline") }, Online: func(time.Duration) { tell("online") }}
		n := 0
		w.receiver.answers(func(message, int) response {
			if n++; n <= 50 {
				return response{err: io.ErrUnexpectedEOF}
			}
			return response{after: time.Second, status: 200}
		})
		w.receiver.inTurn = true
		hooks := w.hosts(60)
		for _, hook := range hooks {
			w.send(hook)
		}
		w.run()
		time.AfterFunc(time.Minute, func() { close(log.let) })
		w.sleep(2 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		w.is.Equal(told, []string{"offline", "online"})
	})
}

func TestAnObserverOfOutagesMayEndItsGoroutine(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		online := 0
		w.config.Observer = diverted.Observer{
			Offline: runtime.Goexit, // as t.FailNow does
			Online:  func(time.Duration) { online++ },
		}
		down := w.outage()
		w.receiver.inTurn = true
		for _, hook := range w.hosts(60) {
			w.send(hook)
		}
		w.run()
		w.sleep(time.Minute)
		down.Store(false)
		w.sleep(time.Minute)
		w.is.Equal(online, 1)
	})
}

func TestPortsOfAHostAreNoHostsOfTheirOwn(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.Observer = diverted.Observer{Offline: func() { t.Error("it is one host that is down") }}
		w.receiver.answers(func(message, int) response { return response{err: io.ErrUnexpectedEOF} })
		for i := range 12 {
			hook := w.webhook(fmt.Sprint(i), func(hook *diverted.Webhook) {
				hook.Endpoint.URL = fmt.Sprintf("https://host.example:%d/hook", 8000+i)
			})
			for range 10 {
				w.send(hook)
			}
		}
		w.run()
		w.sleep(time.Minute)
	})
}

func TestOneHostThatRespondsNowAndThenKeepsTheOrdinaryRules(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.Observer = diverted.Observer{Offline: func() { t.Error("a host responded in between") }}
		n := 0
		w.receiver.answers(func(message, int) response {
			if n++; n%10 == 0 {
				return response{status: 500}
			}
			return response{err: io.ErrUnexpectedEOF}
		})
		w.receiver.inTurn = true
		hooks := w.hosts(20)
		w.run()
		for _, hook := range hooks {
			for range 10 {
				w.send(hook)
			}
		}
		w.sleep(time.Hour)
		for _, hook := range hooks {
			w.is.Equal(len(w.receiver.got()) > 200, true)
			w.is.True(len(w.pending(hook)) < 10)
		}
	})
}

func TestTheLoopRestsWhileProbesHangWithoutRoomForAnotherOne(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) { // in which no time passes while a loop is busy
		n := 0
		w.receiver.answers(func(message, int) response {
			if n++; n <= 50 {
				return response{err: io.ErrUnexpectedEOF}
			}
			return response{after: time.Hour}
		})
		w.receiver.inTurn = true
		w.config.MaxInFlight = 8
		hooks := w.hosts(60)
		w.run()
		for _, hook := range hooks {
			w.send(hook)
		}
		w.is.Equal(w.log.count("no receiver can be reached"), 1)
		before := len(w.receiver.got())
		w.sleep(time.Minute)
		probes := len(w.receiver.got()) - before
		w.is.True(probes >= 24 && probes <= 32) // eight at once, of 15 s each
		w.stop()                                // nor is the loop busy while it waits for those under way
	})
}

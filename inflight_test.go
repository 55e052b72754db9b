package diverted

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

func newTestSession(inAll, perWebhook int) *session {
	d := &Dispatcher{config: Config{MaxInFlight: inAll, MaxInFlightPerWebhook: perWebhook}.WithDefaults()}
	return newSession(context.Background(), d, false)
}

func TestAReservationGrantsRoomInAllAndForEachWebhookOnceAndGivesBackWhatIsNotUsed(t *testing.T) {
	is := is.New(t)
	s := newTestSession(5, 3)
	tenant := uuid.New()
	a, b := WebhookKey{tenant, ulid.Make()}, WebhookKey{tenant, ulid.Make()}
	claim := func(w WebhookKey) Claim { return Claim{Key: Key{w.Tenant, w.Webhook, ulid.Make()}, Token: 1} }

	r := s.newReservation(5)
	is.Equal(r.reserve(a, 2), 2)
	is.Equal(r.reserve(a, 8), 1) // its window is full
	is.Equal(r.reserve(b, 8), 2) // all is full
	is.Equal(r.reserve(b, 8), 0)
	is.Equal(r.reserve(a, 0), 0)

	claims := []Claim{claim(a), claim(b)}
	is.True(!r.close(claims, false))
	is.Equal(s.in.taken, 2)
	is.Equal(s.in.window(a).taken, 1)
	is.Equal(s.in.window(b).taken, 1)
	is.True(s.inFlight(claims[0].Key))
	is.Equal(r.reserve(a, 1), 0) // the call is over
	is.Equal(s.in.taken, 2)

	s.in.forget(claims[0].Key, 2) // another claim of the same delivery
	is.True(s.inFlight(claims[0].Key))
	s.in.forget(claims[0].Key, 1)
	is.True(!s.inFlight(claims[0].Key))
}

func TestRoomThatWasShortIsMissedByWhoeverFreesSome(t *testing.T) {
	is := is.New(t)
	tenant := uuid.New()
	hook := func() WebhookKey { return WebhookKey{tenant, ulid.Make()} }
	claims := func(w WebhookKey, n int) []Claim {
		all := make([]Claim, n)
		for i := range all {
			all[i] = Claim{Key: Key{w.Tenant, w.Webhook, ulid.Make()}, Token: 1}
		}
		return all
	}
	free := func(s *session, w WebhookKey) bool {
		s.in.free(s.in.window(w), 1)
		return s.in.missed(s.in.window(w), time.Now())
	}

	// A webhook's window.
	s, a := newTestSession(10, 2), hook()
	r := s.newReservation(10)
	r.reserve(a, 5)
	is.True(!r.close(claims(a, 2), true))
	is.True(free(s, a))
	is.True(!free(s, a)) // told once

	// More wanted than there was: to look again would find nothing.
	r = s.newReservation(10)
	r.reserve(a, 5)
	is.True(!r.close(claims(a, 1), true))
	is.True(!free(s, a))

	// Room in all, freed by another webhook.
	s, b := newTestSession(2, 2), hook()
	r = s.newReservation(2)
	r.reserve(b, 2)
	r.close(claims(b, 2), true)
	r = s.newReservation(0)
	r.reserve(a, 1)
	is.True(!r.close(nil, true))
	is.True(free(s, b))

	// Room that came free while the call went on.
	s = newTestSession(1, 1)
	r = s.newReservation(1)
	r.reserve(a, 1)
	r.close(claims(a, 1), true)
	r = s.newReservation(1)
	is.Equal(r.reserve(a, 1), 0)
	is.True(!free(s, a))
	is.True(r.close(nil, true))
}

// slowly is a transport that answers after up to 3 ms, mostly well.
type slowly struct{}

func (slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: []int{200, 200, 500, 404, 410}[rand.IntN(5)], Body: http.NoBody}, nil
}

func TestNothingIsLeftInHandWhenAllIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		store := NewMemoryStore()
		d, err := NewDispatcher(store, Config{Transport: slowly{}, MaxInFlight: 9, MaxInFlightPerWebhook: 2, Logger: slog.New(slog.DiscardHandler)})
		is.NoErr(err)
		var hooks []WebhookKey
		for i := range 6 {
			w := NewWebhook(uuid.New(), fmt.Sprint(i), "https://receiver.example/", "*")
			w.FailureHandling = &FailureHandling{
				Divert: i%2 == 0, Suspend: i%3 == 0, Retry: &RetryStrategy{Attempts: 2, Interval: time.Second},
				Alert: &Endpoint{URL: "https://receiver.example/alert"},
			}
			_, err := store.PutWebhook(t.Context(), w)
			is.NoErr(err)
			hooks = append(hooks, w.Key())
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- d.Run(ctx) }()

		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				for range 100 {
					hook := hooks[rand.IntN(len(hooks))]
					event, err := NewEvent("push", []byte(`{"ref":"refs/heads/main"}`))
					if err != nil {
						t.Error(err)
					}
					// Some callers leave before the answer.
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(2))*time.Microsecond)
					if _, err := d.Send(ctx, hook.Tenant, hook.Webhook, event); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
					cancel()
					time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
					if rand.IntN(20) == 0 {
						if err := store.Unsuspend(t.Context(), hook); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		all.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()

		s := d.session.Load()
		s.mu.Lock()
		taken, tokens, windows := s.in.taken, len(s.in.tokens), 0
		for _, w := range s.in.windows {
			windows += w.taken
		}
		underWay, waiting := s.attempts+s.notices+s.accepts, len(s.ended)+len(s.noticed)
		s.mu.Unlock()
		cancel()
		is.NoErr(<-ran)
		is.Equal(taken, 0)
		is.Equal(tokens, 0)
		is.Equal(windows, 0)
		is.Equal(underWay, 0)
		is.Equal(waiting, 0)
	})
}

package diverted_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

// divertSome diverts n events to a webhook, as a host does.
func divertSome(t *testing.T, s diverted.DivertedStore, key diverted.WebhookKey, n int) {
	t.Helper()
	for i := range n {
		p := testdata.Payloads()[i%8]
		event, err := diverted.NewEvent(p.Type, p.Data)
		if err != nil {
			t.Fatal(err)
		}
		body, err := event.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Divert(t.Context(), diverted.DivertedEvent{
			Key:            diverted.Key{Tenant: key.Tenant, Webhook: key.Webhook, Event: event.Locator},
			RequestLocator: event.RequestLocator, EventType: event.Type, Body: body,
			Failure: diverted.Failure{Trigger: "503", Status: 503, Message: "503 Service Unavailable"},
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRunDeletesWhatIsNoLongerKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		store := diverted.NewMemoryStore()
		key := diverted.WebhookKey{Tenant: uuid.New(), Webhook: ulid.Make()}
		divertSome(t, store, key, 2500) // more than a step takes

		purged := make(chan int, 10)
		told := func() (all []int) {
			synctest.Wait()
			for len(purged) > 0 {
				all = append(all, <-purged)
			}
			return all
		}
		var log bytes.Buffer
		d, err := diverted.NewDispatcher(store, diverted.Config{
			Retention: diverted.Retention{MaxAge: time.Hour, MaxPerWebhook: 300},
			Logger:    slog.New(slog.NewTextHandler(&log, nil)),
			Observer: diverted.Observer{Purged: func(p diverted.Purged) {
				is.Equal(p.Webhook, key)
				is.Equal(p.Pending, 0)
				purged <- p.Diverted
			}},
		})
		is.NoErr(err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()

		is.Equal(told(), []int{1000, 1000, 200}) // at once, in steps, up to the cap
		time.Sleep(59 * time.Minute)
		is.Equal(len(told()), 0)
		time.Sleep(2 * time.Minute)
		is.Equal(told(), []int{300}) // by age
		cancel()
		is.NoErr(<-ended)
		is.Equal(strings.Count(log.String(), "retention deleted events"), 4)
		is.True(strings.Contains(log.String(), key.Webhook.String()))
	})
}

// brokenRetention is a store whose Purge fails.
type brokenRetention struct {
	*diverted.MemoryStore
	calls int
}

func (s *brokenRetention) Purge(context.Context, diverted.PurgeRequest) (diverted.PurgeResult, error) {
	s.calls++
	return diverted.PurgeResult{More: true}, errors.New("out of order")
}

func TestRetentionThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		store := &brokenRetention{MemoryStore: diverted.NewMemoryStore()}
		var log bytes.Buffer
		d, err := diverted.NewDispatcher(store, diverted.Config{
			Retention: diverted.Retention{MaxPerWebhook: 1}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		is.NoErr(err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		time.Sleep(150 * time.Second)
		cancel()
		is.NoErr(<-ended)
		is.Equal(store.calls, 3)
		is.Equal(strings.Count(log.String(), "out of order"), 3)
	})
}

func TestFlushDeletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		store := diverted.NewMemoryStore()
		key := diverted.WebhookKey{Tenant: uuid.New(), Webhook: ulid.Make()}
		divertSome(t, store, key, 2)
		d, err := diverted.NewDispatcher(store, diverted.Config{Retention: diverted.Retention{MaxPerWebhook: 1}})
		is.NoErr(err)
		is.NoErr(d.Flush(t.Context()))
		page, err := store.ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: key})
		is.NoErr(err)
		is.Equal(len(page.Events), 2)
	})
}

func TestRetentionNeedsAStoreThatOffersIt(t *testing.T) {
	is := is.New(t)
	limited := diverted.Config{Retention: diverted.Retention{MaxAge: time.Hour}}
	_, err := diverted.NewDispatcher(struct{ diverted.Store }{diverted.NewMemoryStore()}, limited)
	is.True(errors.Is(err, diverted.ErrInvalid))
	_, err = diverted.NewDispatcher(diverted.NewMemoryStore(), limited)
	is.NoErr(err)
	_, err = diverted.NewDispatcher(diverted.NewMemoryStore(), diverted.Config{Retention: diverted.Retention{MaxAge: time.Second}})
	is.True(errors.Is(err, diverted.ErrInvalid))
}

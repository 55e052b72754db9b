package diverted_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

// A store does not know what a dispatcher waits for: what its receiver keeps back is due.
func TestWhatWaitsForItsWebhookIsDue(t *testing.T) {
	for name, receiver := range map[string]roundTrip{
		"a receiver that asks for a pause": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3600"}}, Body: http.NoBody}, nil
		},
		"a receiver that hangs": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				store := diverted.NewMemoryStore()
				defer store.Close()
				dispatcher, err := diverted.NewDispatcher(store, diverted.Config{Logger: slog.New(slog.DiscardHandler), Transport: receiver})
				is.NoErr(err)
				tenant := uuid.New()
				_, err = store.CreateWebhook(t.Context(), diverted.NewWebhook(tenant, "billing", "https://customer.example/hook", "*"))
				is.NoErr(err)
				for range 1_500 {
					event, err := diverted.NewEvent("order.paid", 1)
					is.NoErr(err)
					_, err = dispatcher.Publish(t.Context(), tenant, event)
					is.NoErr(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- dispatcher.Run(ctx) }()
				time.Sleep(15 * time.Minute)
				stats, err := store.Stats(t.Context(), diverted.StatsQuery{})
				is.NoErr(err)
				is.Equal(stats.Pending, 1_500)
				is.True(stats.Due > 1_000)
				stop()
				is.NoErr(<-ended)
			})
		})
	}
}

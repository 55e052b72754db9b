package hostresend_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/hostresend"
	"github.com/divertedevents/diverted/internal/reports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var webhook = diverted.WebhookKey{Tenant: uuid.MustParse("7f1f6a0e-4c5b-4a54-9a0e-2f6f4f3f1c11"), Webhook: ulid.ULID{1, 15: 1}}

// divert sets n events aside, of a webhook that the store does not know.
func divert(t *testing.T, store diverted.Store, n byte) {
	t.Helper()
	for i := range n {
		err := store.Divert(t.Context(), diverted.DivertedEvent{
			Key:            diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: ulid.ULID{1, 15: i + 1}},
			RequestLocator: ulid.ULID{2}, EventType: "order.paid", Body: []byte(`{}`),
			Failure: diverted.Failure{Trigger: "503", Message: "503 Service Unavailable", At: time.Now()},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func held(t *testing.T, store diverted.Store) int {
	t.Helper()
	page, err := store.ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: webhook, Limit: diverted.MaxPage})
	if err != nil {
		t.Fatal(err)
	}
	return len(page.Events)
}

func TestWhatTheHostSaysOfOneEvent(t *testing.T) {
	for _, c := range []struct{ says, want error }{
		{nil, nil},
		{diverted.ErrSuspended, diverted.ErrSuspended},
		{fmt.Errorf("at 10.0.0.7: %w", diverted.ErrDisabled), diverted.ErrDisabled},
		{diverted.ErrWebhookUnknown, diverted.ErrWebhookUnknown},
		{diverted.ErrNotFound, hostresend.ErrFailed}, // the host's own, not the event's
		{errors.New("the queue is full"), hostresend.ErrFailed},
	} {
		is := is.New(t)
		store := diverted.NewMemoryStore()
		divert(t, store, 1)
		r := hostresend.Resender{Store: store, Resend: func(_ context.Context, e diverted.DivertedEvent) error {
			is.Equal(string(e.Body), `{}`) // the whole event
			return c.says
		}}
		err := r.One(t.Context(), diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: ulid.ULID{1, 15: 1}})
		is.True(errors.Is(err, c.want))
		is.True(!errors.Is(err, diverted.ErrNotFound))
		is.Equal(held(t, store) == 0, c.says == nil)
		is.NoErr(store.Close())
	}
}

func TestAStepLeavesWhatTheHostDoesNotTake(t *testing.T) {
	is := is.New(t)
	store := diverted.NewMemoryStore()
	defer store.Close()
	divert(t, store, 40)
	var log bytes.Buffer
	r := hostresend.Resender{
		Store: store, Bulk: store, Handler: "console", Log: slog.New(slog.NewTextHandler(&log, nil)),
		Resend: func(_ context.Context, e diverted.DivertedEvent) error {
			switch e.Event[15] {
			case 3:
				return diverted.ErrDisabled
			case 4:
				panic("s3cret")
			}
			return nil
		},
	}
	report := reports.Request{HTTP: httptest.NewRequest("POST", "/", nil)}
	request := diverted.BulkRequest{Webhook: webhook, DryRun: true}
	result, err := r.All(t.Context(), report, request)
	is.NoErr(err)
	is.Equal([2]int{result.Matched, result.Done}, [2]int{40, 0})
	is.Equal(held(t, store), 40)

	request.DryRun, request.Limit = false, 10
	result, err = r.All(t.Context(), report, request)
	is.NoErr(err)
	is.Equal([2]int{result.Matched, result.Done}, [2]int{10, 8})
	is.True(result.More)
	is.Equal(held(t, store), 32)
	is.True(strings.Contains(log.String(), "console: events stay diverted"))
	is.True(strings.Contains(log.String(), "console: panic"))
	is.True(!strings.Contains(log.String(), "s3cret"))
}

// It failed again before it was deleted: what the host set aside anew must not go with what it was given.
func TestAnEventThatFailsAgainAtOnceStays(t *testing.T) {
	is := is.New(t)
	store := diverted.NewMemoryStore()
	defer store.Close()
	divert(t, store, 40)
	r := hostresend.Resender{Store: store, Bulk: store, Log: slog.New(slog.DiscardHandler), Resend: func(ctx context.Context, e diverted.DivertedEvent) error {
		e.Failure = diverted.Failure{Trigger: "500", Message: "500 Internal Server Error"}
		return store.Divert(ctx, e)
	}}
	result, err := r.All(t.Context(), reports.Request{HTTP: httptest.NewRequest("POST", "/", nil)}, diverted.BulkRequest{Webhook: webhook})
	is.NoErr(err)
	is.Equal(result.Matched, 40)
	is.Equal(result.Done, 40) // the host took each, once
	is.Equal(held(t, store), 40)
	is.NoErr(r.One(t.Context(), diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: ulid.ULID{1, 15: 1}}))
	is.Equal(held(t, store), 40)
}

// stuck deletes nothing.
type stuck struct{ *diverted.MemoryStore }

func (stuck) DeleteResent(context.Context, diverted.DivertedEvent) error { return diverted.ErrLocked }

func TestAnEventThatTheHostTookAndThatCannotBeDeletedIsToldAsThat(t *testing.T) {
	is := is.New(t)
	store := stuck{diverted.NewMemoryStore()}
	defer store.Close()
	divert(t, store, 1)
	r := hostresend.Resender{Store: store, Resend: func(context.Context, diverted.DivertedEvent) error { return nil }}
	err := r.One(t.Context(), diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: ulid.ULID{1, 15: 1}})
	is.True(errors.Is(err, hostresend.ErrListed))
	is.True(errors.Is(err, diverted.ErrLocked))
}

// half gives out one event, and does not delete it.
type half struct{ *diverted.MemoryStore }

func (s half) FetchDiverted(ctx context.Context, key diverted.Key) (diverted.DivertedEvent, error) {
	if key.Event[15] != 1 {
		time.Sleep(time.Second) // by then the host has taken the first
		return diverted.DivertedEvent{}, diverted.ErrLocked
	}
	return s.MemoryStore.FetchDiverted(ctx, key)
}

func (half) DeleteResent(context.Context, diverted.DivertedEvent) error {
	time.Sleep(2 * time.Second) // by then the fetch of another has failed
	return fmt.Errorf("delete: %w", diverted.ErrLocked)
}

// Whichever of the two errors comes first: the client has to know that a repeated step sends an event again.
func TestAStepThatTheStoreEndsTellsWhatTheHostWasGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		store := half{diverted.NewMemoryStore()}
		defer store.Close()
		divert(t, store, 40)
		given := 0
		r := hostresend.Resender{Store: store, Bulk: store, Log: slog.New(slog.DiscardHandler), Resend: func(context.Context, diverted.DivertedEvent) error {
			given++
			return nil
		}}
		result, err := r.All(t.Context(), reports.Request{HTTP: httptest.NewRequest("POST", "/", nil)}, diverted.BulkRequest{Webhook: webhook})
		is.Equal(given, 1)
		is.True(errors.Is(err, hostresend.ErrListed))
		is.Equal(result, diverted.BulkResult{})
		is.Equal(held(t, store), 40)
	})
}

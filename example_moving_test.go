package diverted_test

// The code of docs/moving.md, compiled and run. TestMovingShowsCodeThatCompiles holds the two together.

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

//go:embed docs/moving.md
var moving string

//go:embed example_moving_test.go
var movingCode string

func TestMovingShowsCodeThatCompiles(t *testing.T) {
	showsCodeOf(t, "docs/moving.md", moving, movingCode)
}

// failed is a row of the table in which failures were kept until now.
type failed struct {
	ID, Webhook uuid.UUID
	Type        string
	Payload     json.RawMessage
	Status      int // 0: there was no answer
	Error       string
	FailedAt    time.Time
}

func move(ctx context.Context, store diverted.DivertedStore, tenant uuid.UUID, row failed) error {
	event, err := diverted.NewEvent(row.Type, row.Payload)
	if err != nil {
		return err
	}
	event.Locator = ulid.ULID(row.ID) // so that a row that is moved twice is there once
	event.Timestamp = row.FailedAt
	body, err := event.Encode()
	if err != nil {
		return err
	}
	return store.Divert(ctx, diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: tenant, Webhook: ulid.ULID(row.Webhook), Event: event.Locator},
		RequestLocator: event.RequestLocator,
		EventType:      event.Type,
		Body:           body,
		Failure: diverted.Failure{
			Trigger: diverted.StatusTrigger(row.Status), Status: row.Status, Message: row.Error, At: row.FailedAt,
		},
	})
}

func TestMovingARowTwiceDivertsItOnce(t *testing.T) {
	is := is.New(t)
	store := diverted.NewMemoryStore()
	defer store.Close()
	tenant := uuid.New()
	at := time.Date(2026, 8, 30, 12, 0, 0, 0, time.UTC)
	row := failed{uuid.New(), uuid.New(), "order.paid", json.RawMessage(`{"ID":"o-1"}`), 503, "503 Service Unavailable", at}
	unanswered := failed{uuid.New(), row.Webhook, "order.paid", json.RawMessage(`{"ID":"o-2"}`), 0, "dial tcp: connection refused", at}
	is.NoErr(move(t.Context(), store, tenant, row))
	is.NoErr(move(t.Context(), store, tenant, row))
	is.NoErr(move(t.Context(), store, tenant, unanswered))

	webhook := diverted.WebhookKey{Tenant: tenant, Webhook: ulid.ULID(row.Webhook)}
	page, err := store.ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: webhook})
	is.NoErr(err)
	is.Equal(len(page.Events), 2)
	moved, err := store.FetchDiverted(t.Context(), diverted.Key{Tenant: tenant, Webhook: webhook.Webhook, Event: ulid.ULID(row.ID)})
	is.NoErr(err)
	is.Equal(moved.Failure.Trigger, diverted.Trigger("503"))
	is.True(moved.Failure.At.Equal(at))
	event, err := diverted.DecodeEvent(moved.Body)
	is.NoErr(err)
	is.Equal(string(event.Data), `{"ID":"o-1"}`)
	moved, err = store.FetchDiverted(t.Context(), diverted.Key{Tenant: tenant, Webhook: webhook.Webhook, Event: ulid.ULID(unanswered.ID)})
	is.NoErr(err)
	is.Equal(moved.Failure.Trigger, diverted.TriggerTimeout)
}

func secretOf(key []byte) (diverted.Secret, error) {
	if n := len(key); n > 0 && n < 24 {
		key = append(key[:n:n], make([]byte, 24-n)...) // HMAC fills a key up with zeros itself: RFC 2104, section 2
	}
	secret := diverted.Secret("whsec_" + base64.StdEncoding.EncodeToString(key))
	return secret, secret.Validate()
}

func TestAShortKeySignsAsItDidBefore(t *testing.T) {
	is := is.New(t)
	short, err := secretOf([]byte("a key of 20 letters."))
	is.NoErr(err)
	long, err := secretOf([]byte("a key of 20 letters.\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	is.NoErr(err)
	at := time.Unix(1795456680, 0)
	one, err := diverted.Sign("id", at, []byte("body"), short)
	is.NoErr(err)
	other, err := diverted.Sign("id", at, []byte("body"), long)
	is.NoErr(err)
	is.Equal(one, other)
	_, err = secretOf(nil)
	is.True(errors.Is(err, diverted.ErrInvalid))
	_, err = secretOf(make([]byte, 65))
	is.True(errors.Is(err, diverted.ErrInvalid))
}

func replaceLeaked(ctx context.Context, store diverted.WebhookStore, key diverted.WebhookKey, secret diverted.Secret) error {
	webhook, err := store.FetchWebhook(ctx, key)
	if err != nil {
		return err
	}
	webhook, err = webhook.Apply(diverted.WebhookUpdate{
		Endpoint: &diverted.EndpointUpdate{Secret: &secret, RevokeOldSecrets: true},
	})
	if err != nil {
		return err
	}
	_, err = store.UpdateWebhook(ctx, webhook) // ErrConflict: somebody else changed it, so begin again
	return err
}

func TestALeakedSecretSignsNothingMore(t *testing.T) {
	is := is.New(t)
	store := diverted.NewMemoryStore()
	defer store.Close()
	webhook := diverted.NewWebhook(uuid.New(), "billing", "https://customer.example/hook", "order.*")
	webhook.Endpoint.HMACEnabled, webhook.Endpoint.Secret = true, diverted.GenerateSecret()
	_, err := store.PutWebhook(t.Context(), webhook)
	is.NoErr(err)
	fresh := diverted.GenerateSecret()
	is.NoErr(replaceLeaked(t.Context(), store, webhook.Key(), fresh))
	webhook.Endpoint.Secret = fresh // as the host's own table has it by now
	saved, err := store.PutWebhook(t.Context(), webhook)
	is.NoErr(err)
	is.Equal(saved.Endpoint.Secret, fresh)
	is.Equal(len(saved.Endpoint.OldSecrets), 0)
}

type outbox interface {
	PublishTx(ctx context.Context, tx *sql.Tx, tenant uuid.UUID, event diverted.Event) ([]diverted.Acceptance, error)
}

// testOutbox is the outbox of a unit test, which has no transaction.
type testOutbox struct{ *diverted.Dispatcher }

func (o testOutbox) PublishTx(ctx context.Context, _ *sql.Tx, tenant uuid.UUID, event diverted.Event) ([]diverted.Acceptance, error) {
	return o.Publish(ctx, tenant, event)
}

var (
	_ outbox = (*diverted.SQLiteStore)(nil)
	_ outbox = testOutbox{}
)

func forget(ctx context.Context, store diverted.WebhookStore, tenant uuid.UUID) error {
	for {
		page, err := store.ListWebhooks(ctx, diverted.WebhookQuery{Tenant: tenant})
		if err != nil || len(page.Webhooks) == 0 {
			return err
		}
		for _, webhook := range page.Webhooks {
			err := store.DeleteWebhook(ctx, webhook.Key(), true) // and all that is pending or diverted
			if err != nil && !errors.Is(err, diverted.ErrNotFound) {
				return err
			}
		}
	}
}

func TestAForgottenTenantLeavesNothing(t *testing.T) {
	is := is.New(t)
	store := diverted.NewMemoryStore()
	defer store.Close()
	tenant := uuid.New()
	for range 250 { // of more than a page
		webhook, err := store.PutWebhook(t.Context(), diverted.NewWebhook(tenant, "billing", "https://customer.example/hook", "order.*"))
		is.NoErr(err)
		is.NoErr(move(t.Context(), store, tenant, failed{uuid.New(), uuid.UUID(webhook.Locator), "order.paid", json.RawMessage(`1`), 503, "", time.Now()}))
	}
	is.NoErr(forget(t.Context(), store, tenant))
	stats, err := store.Stats(t.Context(), diverted.StatsQuery{Tenant: tenant})
	is.NoErr(err)
	is.Equal(stats.Webhooks, 0)
	is.Equal(len(stats.Diverted), 0)
}

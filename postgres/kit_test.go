package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
	"github.com/divertedevents/diverted/postgres"
)

func isError(err, want error) bool { return errors.Is(err, want) }

// message encodes a new event for a webhook.
func message(t testing.TB, w diverted.Webhook) diverted.Message {
	t.Helper()
	m, err := diverted.NewMessage(w.Tenant, w.Locator, newEvent(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// setAside diverts a new event of a webhook, as a host does that delivers by itself.
func setAside(t testing.TB, s *postgres.Store, w diverted.WebhookKey, trigger diverted.Trigger) diverted.Key {
	t.Helper()
	m := message(t, diverted.Webhook{Tenant: w.Tenant, Locator: w.Webhook})
	e := diverted.DivertedEvent{
		Key: diverted.Key{Tenant: w.Tenant, Webhook: w.Webhook, Event: m.Event}, RequestLocator: m.RequestLocator,
		EventType: m.EventType, Attempts: 1, Body: m.Body, Failure: diverted.Failure{Trigger: trigger, Message: "it failed"},
	}
	if err := s.Divert(context.Background(), e); err != nil {
		t.Fatal(err)
	}
	return e.Key
}

// waitForWaiter waits until a statement about a schema waits for a lock.
func waitForWaiter(t testing.TB, pool *pgxpool.Pool, schema string) {
	t.Helper()
	testenv.Await(t, "a statement waits for a lock", func() bool {
		return holds(t, pool, `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
				AND pid <> pg_backend_pid() AND strpos(query, $1) > 0)`, `"`+schema+`".`)
	})
}

// waitForListener waits until the store listens, which it begins beside Open.
func waitForListener(t testing.TB, s *postgres.Store) {
	t.Helper()
	pool := newPool(t, poolOf(1))
	defer pool.Close()
	testenv.Await(t, "the store listens", func() bool {
		return holds(t, pool, `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query = $1 AND state = 'idle')`,
			`LISTEN "`+s.Schema()+`"`)
	})
}

// holds asks the server whether something holds.
func holds(t testing.TB, pool *pgxpool.Pool, question string, args ...any) (holds bool) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), question, args...).Scan(&holds); err != nil {
		t.Fatal(err)
	}
	return holds
}

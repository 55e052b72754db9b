package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/divertedevents/diverted"
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

// waitForListener waits until the store listens, which it begins beside Open.
func waitForListener(t testing.TB, s *postgres.Store) {
	t.Helper()
	config := server.Copy()
	config.Database = database
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for range 500 {
		var listens bool
		err := conn.QueryRow(context.Background(), `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query = $1 AND state = 'idle')`,
			`LISTEN "`+s.Schema()+`"`).Scan(&listens)
		if err != nil {
			t.Fatal(err)
		}
		if listens {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the store does not listen")
}

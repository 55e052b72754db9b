package diverted_test

// The programs of README.md, compiled. TestReadmeShowsCodeThatCompiles holds the two together.

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
)

type Order struct{ ID string }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func Example_service() {
	tenant := uuid.MustParse("7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	store, err := diverted.OpenSQLite(ctx, "webhooks.db")
	check(err)
	defer store.Close()

	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
	check(err)
	ran := make(chan error, 1)
	go func() { ran <- dispatcher.Run(ctx) }() // delivers until ctx ends, and what is under way then

	// A customer subscribes, once: each NewWebhook is another webhook. The secret is for the customer, to verify by.
	webhook := diverted.NewWebhook(tenant, "billing", "https://customer.example/hook", "order.*")
	webhook.Endpoint.HMACEnabled, webhook.Endpoint.Secret = true, diverted.GenerateSecret()
	_, err = store.CreateWebhook(ctx, webhook)
	check(err)

	// Something happens. When Publish returns nil, the event is on disk and will not be lost.
	event, err := diverted.NewEvent("order.paid", Order{ID: "o-1234"})
	check(err)
	_, err = dispatcher.Publish(ctx, tenant, event)
	check(err)

	// What could not be delivered is served by the Diverted Events API: fetch, list, resend, delete.
	api, err := httpapi.New(httpapi.Config{Diverted: store, Authorize: httpapi.AllowAll}) // your rules instead of AllowAll
	check(err)
	http.Handle("/event/", api)
	server := &http.Server{Addr: "127.0.0.1:8080"}
	go func() {
		if err := server.ListenAndServe(); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()

	<-ctx.Done() // then requests under way end, and attempts, and only then is the store closed
	grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	check(errors.Join(server.Shutdown(grace), <-ran))
}

func Example_transaction() {
	var (
		ctx        = context.Background()
		dispatcher *diverted.Dispatcher
		tenant     uuid.UUID
		event      diverted.Event
	)
	db, err := sql.Open("sqlite", "file:app.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	check(err)
	store, err := diverted.NewSQLiteStore(ctx, db) // beside your own tables
	check(err)

	tx, err := db.BeginTx(ctx, nil)
	check(err)
	defer tx.Rollback()
	_, err = tx.ExecContext(ctx, `UPDATE orders SET paid = 1 WHERE id = ?`, "o-1234")
	check(err)
	_, err = store.PublishTx(ctx, tx, tenant, event)
	check(err)
	check(tx.Commit())
	dispatcher.Wake()
}

func TestPaidOrderIsPublished(t *testing.T) {
	ctx, tenant := t.Context(), uuid.New()
	store := diverted.NewMemoryStore()
	defer store.Close()
	_, err := store.CreateWebhook(ctx, diverted.NewWebhook(tenant, "billing", "https://customer.example/hook", "order.*"))
	if err != nil {
		t.Fatal(err)
	}
	var sent []string
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header.Get("webhook-id"))
			return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}

	event, err := diverted.NewEvent("order.paid", Order{ID: "o-1234"}) // the code under test would do this
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dispatcher.Publish(ctx, tenant, event); err != nil {
		t.Fatal(err)
	}

	if err := dispatcher.Flush(ctx); err != nil { // attempts all that is due, then returns
		t.Fatal(err)
	}
	if len(sent) != 1 || sent[0] != event.Locator.String() {
		t.Fatalf("sent %v", sent)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func Example_console() {
	store := diverted.NewMemoryStore()
	defer store.Close()
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
	check(err)
	authorize := httpapi.AllowAll

	operators, err := console.New(console.Config{
		Store: store, Pinger: dispatcher, Authorize: authorize,
		Challenge: `Basic realm="webhooks"`, // a browser asks for a name and a password, and authorize reads them
	})
	check(err)
	http.Handle("/console/", operators)
}

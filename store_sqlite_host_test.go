package diverted

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

const (
	oldKey = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	newKey = Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
)

// hosted is a store in a database of the host's, and another one on the same database, as of another process. Both
// remember the webhook that is there.
type hosted struct {
	is       *is.I
	ctx      context.Context
	db       *sql.DB
	s, other *SQLiteStore
	w        Webhook
}

func newHosted(t *testing.T) *hosted {
	h := &hosted{is: is.New(t), ctx: t.Context(), db: openHost(t, walOptions)}
	for _, s := range []**SQLiteStore{&h.s, &h.other} {
		var err error
		*s, err = NewSQLiteStore(h.ctx, h.db)
		h.is.NoErr(err)
		t.Cleanup(func() { (*s).Close() })
	}
	w := NewWebhook(acme, "billing", "https://example.com/hook", "*")
	w.Endpoint.HMACEnabled, w.Endpoint.Secret = true, oldKey
	var err error
	h.w, err = h.s.PutWebhook(h.ctx, w)
	h.is.NoErr(err)
	h.knows(h.w)
	return h
}

// knows fails unless both stores deliver to the webhook as it is given.
func (h *hosted) knows(w Webhook) {
	for _, s := range []*SQLiteStore{h.s, h.other} {
		got, err := s.FetchWebhook(h.ctx, w.Key())
		h.is.NoErr(err)
		h.is.True(got.sameRecord(w))
		h.is.Equal(got.Version, w.Version)
		m := Message{Tenant: w.Tenant, Webhook: w.Locator, Event: ulid.Make(), RequestLocator: w.Locator, EventType: "order.paid", Body: []byte(`{}`)}
		_, err = s.Accept(h.ctx, AcceptRequest{Messages: []Message{m}})
		h.is.NoErr(err)
		r, err := s.Work(h.ctx, WorkRequest{Claim: claimAll(10), Refresh: true})
		h.is.NoErr(err)
		h.is.True(len(r.Claims) > 0)
		var outcomes []Outcome
		for _, c := range r.Claims {
			h.is.True(c.Webhook.sameRecord(w))
			h.is.Equal(c.Webhook.Version, w.Version)
			o := Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeReturn}
			if c.Key.Event == m.Event {
				o.Kind = OutcomeDelivered
			}
			outcomes = append(outcomes, o)
		}
		_, err = s.Work(h.ctx, WorkRequest{Outcomes: outcomes})
		h.is.NoErr(err)
	}
}

// begin begins a transaction of the host's.
func (h *hosted) begin() *sql.Tx {
	tx, err := h.db.BeginTx(h.ctx, nil)
	h.is.NoErr(err)
	return tx
}

func (h *hosted) generation() (n int) {
	h.is.NoErr(h.db.QueryRow(`SELECT generation FROM diverted_state`).Scan(&n))
	return n
}

func TestAWebhookPutInATransactionOfTheHostIsSavedExactlyIfItCommits(t *testing.T) {
	h := newHosted(t)
	is := h.is
	is.NoErr(h.s.Suspend(h.ctx, h.w.Key())) // which remains
	suspended, err := h.s.FetchWebhook(h.ctx, h.w.Key())
	is.NoErr(err)
	given := h.w
	given.Name, given.Endpoint.URL, given.Endpoint.Secret = "billing 2", "https://example.com/new", newKey
	given.Version, given.SuspendedAt = 99, time.Time{} // the store's, not the caller's

	tx := h.begin()
	_, err = h.s.PutWebhookTx(h.ctx, tx, given)
	is.NoErr(err)
	is.NoErr(tx.Rollback())
	got, err := h.s.FetchWebhook(h.ctx, h.w.Key())
	is.NoErr(err)
	is.Equal(got, suspended)
	is.NoErr(h.s.Unsuspend(h.ctx, h.w.Key()))
	h.knows(h.w)
	is.NoErr(h.s.Suspend(h.ctx, h.w.Key()))
	suspended, err = h.s.FetchWebhook(h.ctx, h.w.Key())
	is.NoErr(err)

	tx = h.begin()
	saved, err := h.s.PutWebhookTx(h.ctx, tx, given)
	is.NoErr(err)
	is.Equal(saved.Version, h.w.Version+1)
	is.Equal(saved.SuspendedAt, suspended.SuspendedAt)
	is.Equal(len(saved.Endpoint.OldSecrets), 1)
	is.Equal(saved.Endpoint.OldSecrets[0].Secret, oldKey)
	got, err = h.s.FetchWebhook(h.ctx, h.w.Key())
	is.NoErr(err)
	is.Equal(got, suspended) // not yet
	is.NoErr(tx.Commit())
	is.NoErr(h.s.Unsuspend(h.ctx, h.w.Key()))
	h.knows(saved)

	_, err = h.s.UpdateWebhook(h.ctx, h.w)
	is.True(errors.Is(err, ErrConflict)) // its version is of the past
	_, err = h.s.UpdateWebhook(h.ctx, saved)
	is.NoErr(err)
}

func TestAWebhookPutInATransactionAsItStandsWritesNothing(t *testing.T) {
	h := newHosted(t)
	is := h.is
	before := h.generation()
	tx := h.begin()
	saved, err := h.s.PutWebhookTx(h.ctx, tx, h.w)
	is.NoErr(err)
	is.Equal(saved, h.w)
	is.NoErr(tx.Commit())
	is.Equal(h.generation(), before)
	h.knows(h.w)
}

func TestATransactionPublishesToTheWebhookThatItPuts(t *testing.T) {
	h := newHosted(t)
	is := h.is
	tenant := uuid.New()
	is.Equal(len(accepted(h, tenant)), 0) // both remember that there is none
	put := NewWebhook(tenant, "orders", "https://example.com/orders", "*")
	disabled := NewWebhook(tenant, "nothing", "https://example.com/nothing", "*")
	disabled.Enabled = false

	tx := h.begin()
	for _, w := range []Webhook{put, disabled} {
		saved, err := h.s.PutWebhookTx(h.ctx, tx, w)
		is.NoErr(err)
		is.Equal(saved.Version, int64(1))
	}
	all, err := h.s.PublishTx(h.ctx, tx, tenant, realEvent(t, 0))
	is.NoErr(err)
	is.Equal(all, []Acceptance{{Webhook: put.Locator, Status: Accepted}})
	_, err = h.s.SendTx(h.ctx, tx, tenant, disabled.Locator, realEvent(t, 1))
	is.NoErr(err)
	is.NoErr(tx.Commit())
	r, err := h.other.Work(h.ctx, WorkRequest{Claim: claimAll(10), Refresh: true}) // as after Wake, or each second
	is.NoErr(err)
	is.Equal(len(r.Claims), 1)
	is.Equal(r.Claims[0].Webhook.Endpoint.URL, put.Endpoint.URL)
	is.Equal(len(accepted(h, tenant)), 1)

	tx = h.begin() // what was held is let go
	disabled.Enabled = true
	_, err = h.s.PutWebhookTx(h.ctx, tx, disabled)
	is.NoErr(err)
	is.NoErr(tx.Commit())
	r, err = h.other.Work(h.ctx, WorkRequest{Claim: claimAll(10), Refresh: true})
	is.NoErr(err)
	is.Equal(len(r.Claims), 2) // and what accepted has published just now
}

// accepted publishes an event through the other store, and returns who gets it.
func accepted(h *hosted, tenant uuid.UUID) []Acceptance {
	m := Message{Tenant: tenant, Event: ulid.Make(), RequestLocator: ulid.Make(), EventType: "order.paid", Body: []byte(`{}`)}
	for _, s := range []*SQLiteStore{h.s, h.other} {
		r, err := s.Accept(h.ctx, AcceptRequest{Messages: []Message{m}})
		h.is.NoErr(err)
		if s == h.other {
			return r.Messages[0].Deliveries
		}
	}
	return nil
}

func TestAWebhookEnabledInATransactionIsRetriedAtOnce(t *testing.T) {
	h := newHosted(t)
	is := h.is
	_, err := h.s.Accept(h.ctx, AcceptRequest{Messages: []Message{realMessage(t, h.w, 0)}})
	is.NoErr(err)
	r, err := h.s.Work(h.ctx, WorkRequest{Claim: claimAll(1)})
	is.NoErr(err)
	failure := Failure{Trigger: TriggerTimeout, Message: "no answer"}
	_, err = h.s.Work(h.ctx, WorkRequest{Outcomes: []Outcome{{Key: r.Claims[0].Key, Token: r.Claims[0].Token, Kind: OutcomeRetry, Wait: time.Hour, Failure: &failure}}})
	is.NoErr(err)
	for _, enabled := range []bool{false, true} {
		w := h.w
		w.Enabled = enabled
		tx := h.begin()
		_, err = h.s.PutWebhookTx(h.ctx, tx, w)
		is.NoErr(err)
		is.NoErr(tx.Commit())
	}
	r, err = h.s.Work(h.ctx, WorkRequest{Claim: claimAll(1), Refresh: true})
	is.NoErr(err)
	is.Equal(len(r.Claims), 1)
}

func TestAWebhookDeletedInATransactionOfTheHostIsGoneExactlyIfItCommits(t *testing.T) {
	h := newHosted(t)
	is := h.is
	m := realMessage(t, h.w, 0)
	_, err := h.s.Accept(h.ctx, AcceptRequest{Messages: []Message{m}})
	is.NoErr(err)

	tx := h.begin()
	is.True(errors.Is(h.s.DeleteWebhookTx(h.ctx, tx, h.w.Key(), false), ErrNotEmpty))
	is.True(errors.Is(h.s.DeleteWebhookTx(h.ctx, tx, WebhookKey{uuid.New(), h.w.Locator}, true), ErrNotFound)) // another tenant's
	is.NoErr(h.s.DeleteWebhookTx(h.ctx, tx, h.w.Key(), true))
	is.True(errors.Is(h.s.DeleteWebhookTx(h.ctx, tx, h.w.Key(), true), ErrNotFound))
	is.NoErr(tx.Rollback())
	h.knows(h.w)

	tx = h.begin()
	is.NoErr(h.s.DeleteWebhookTx(h.ctx, tx, h.w.Key(), true))
	again, err := h.s.PutWebhookTx(h.ctx, tx, h.w) // as if it had never been
	is.NoErr(err)
	is.Equal(again.Version, int64(1))
	is.NoErr(h.s.DeleteWebhookTx(h.ctx, tx, h.w.Key(), false))
	is.NoErr(tx.Commit())
	for _, s := range []*SQLiteStore{h.s, h.other} {
		_, err = s.FetchWebhook(h.ctx, h.w.Key())
		is.True(errors.Is(err, ErrNotFound))
		r, err := s.Accept(h.ctx, AcceptRequest{Messages: []Message{m}})
		is.NoErr(err)
		is.True(errors.Is(r.Messages[0].Err, ErrNotFound))
		page, err := s.ListPending(h.ctx, DivertedQuery{Webhook: h.w.Key()})
		is.NoErr(err)
		is.Equal(len(page.Deliveries), 0)
	}
	for rows := 1; rows > 0; { // the rows go, too
		is.NoErr(h.db.QueryRow(`SELECT (SELECT count(*) FROM diverted_deliveries) + (SELECT count(*) FROM diverted_webhooks)`).Scan(&rows))
	}
}

func TestWhatATransactionCannotPutLeavesItUsable(t *testing.T) {
	h := newHosted(t)
	is := h.is
	_, err := h.s.PutWebhookTx(h.ctx, nil, h.w)
	is.True(errors.Is(err, ErrInvalid))
	is.True(errors.Is(h.s.DeleteWebhookTx(h.ctx, nil, h.w.Key(), true), ErrInvalid))
	tx := h.begin()
	defer tx.Rollback()
	_, err = h.s.PutWebhookTx(h.ctx, tx, Webhook{})
	is.True(errors.Is(err, ErrInvalid))
	w := h.w
	w.Name = "renamed"
	saved, err := h.s.PutWebhookTx(h.ctx, tx, w)
	is.NoErr(err)
	is.NoErr(tx.Commit())
	h.knows(saved)

	is.NoErr(h.s.Close())
	tx = h.begin()
	defer tx.Rollback()
	_, err = h.s.PutWebhookTx(h.ctx, tx, w)
	is.True(errors.Is(err, ErrClosed))
}

func TestADispatcherSeesWhatATransactionPutWithinASecondAndAtOnceIfItIsWoken(t *testing.T) {
	for _, wake := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			is := is.New(t)
			db := openHost(t, walOptions)
			defer db.Close()
			s, err := NewSQLiteStore(t.Context(), db)
			is.NoErr(err)
			defer s.Close()
			sent := make(chan string, 1)
			d, err := NewDispatcher(s, Config{Transport: transport(func(r *http.Request) (*http.Response, error) {
				sent <- r.URL.String()
				return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
			})})
			is.NoErr(err)
			ctx, stop := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- d.Run(ctx) }()
			synctest.Wait()

			w := NewWebhook(acme, "billing", "https://example.com/hook", "*")
			for _, w.Endpoint.URL = range []string{"https://example.com/old", "https://example.com/new"} {
				tx, err := db.BeginTx(t.Context(), nil)
				is.NoErr(err)
				_, err = s.PutWebhookTx(t.Context(), tx, w)
				is.NoErr(err)
				_, err = s.PublishTx(t.Context(), tx, acme, realEvent(t, 0))
				is.NoErr(err)
				is.NoErr(tx.Commit())
				committed := time.Now()
				if wake {
					d.Wake()
				}
				is.Equal(<-sent, w.Endpoint.URL)
				within := time.Second
				if wake {
					within = 0
				}
				is.True(time.Since(committed) <= within+200*time.Millisecond) // the writer may have waited for tx, 100 ms at a time
			}
			stop()
			is.NoErr(<-ran)
		})
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

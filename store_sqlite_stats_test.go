package diverted

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// rowOf returns the row id of a webhook.
func rowOf(t *testing.T, s *SQLiteStore, key WebhookKey) (id int64) {
	t.Helper()
	err := s.snapshot(t.Context(), "look", func(tx *sql.Tx) (err error) {
		id, err = webhookID(t.Context(), tx, key)
		return err
	})
	is.New(t).NoErr(err)
	return id
}

// divertSome diverts n events at a webhook, a few milliseconds apart.
func divertSome(t *testing.T, s *SQLiteStore, webhook WebhookKey, n int) (keys []Key) {
	t.Helper()
	jump := setClock(t, s)
	for i := range n {
		jump.Add(int64(10 * time.Millisecond))
		e := realEvent(t, i)
		body, err := e.Encode()
		is.New(t).NoErr(err)
		key := Key{webhook.Tenant, webhook.Webhook, e.Locator}
		is.New(t).NoErr(s.Divert(t.Context(), DivertedEvent{
			Key: key, RequestLocator: e.RequestLocator, EventType: e.Type, Body: body,
			Failure: Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503},
		}))
		keys = append(keys, key)
	}
	return keys
}

func TestDueIsNeverMoreThanPending(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	var messages []Message
	for i := range 200 {
		messages = append(messages, realMessage(t, w, i))
	}
	// All of them come, wait for a retry, and go, again and again.
	rounds := make(chan error, 1)
	go func() {
		defer close(rounds)
		for range 25 {
			if err := comeAndGo(t.Context(), s, w, messages); err != nil {
				rounds <- err
				return
			}
		}
	}()
	for {
		stats, err := s.Stats(t.Context(), StatsQuery{Tenant: acme, Webhook: w.Locator})
		is.NoErr(err)
		if stats.Due < 0 || stats.Due > stats.Pending {
			t.Errorf("%d are due of %d", stats.Due, stats.Pending)
		}
		select {
		case err := <-rounds:
			is.NoErr(err)
			return
		default:
		}
	}
}

func comeAndGo(ctx context.Context, s *SQLiteStore, w Webhook, messages []Message) error {
	if _, err := s.Accept(ctx, AcceptRequest{Messages: messages}); err != nil {
		return err
	}
	result, err := s.Work(ctx, WorkRequest{Claim: claimAll(len(messages))})
	if err != nil {
		return err
	}
	var outcomes []Outcome
	for _, c := range result.Claims {
		outcomes = append(outcomes, Outcome{
			Key: c.Key, Token: c.Token, Kind: OutcomeRetry, Wait: time.Hour, Failure: &Failure{Trigger: "503", Message: "503 Service Unavailable"},
		})
	}
	if _, err := s.Work(ctx, WorkRequest{Outcomes: outcomes}); err != nil {
		return err
	}
	if err := s.Suspend(ctx, w.Key()); err != nil {
		return err
	}
	if _, err := s.DivertAll(ctx, BulkRequest{Webhook: w.Key()}); err != nil {
		return err
	}
	if _, err := s.DeleteAll(ctx, BulkRequest{Webhook: w.Key()}); err != nil {
		return err
	}
	return s.Unsuspend(ctx, w.Key())
}

func TestDueCountsWhatWasClaimedSinceTheStatisticsLookedAtTheClock(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	claim := claimAll(1)
	claim.Lease = MaxLease
	jump := setClock(t, s)
	jump.Store(int64(500 * time.Millisecond))
	_, err = s.Accept(t.Context(), AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
	is.NoErr(err)
	result, err := s.Work(t.Context(), WorkRequest{Claim: claim})
	is.NoErr(err)
	is.Equal(len(result.Claims), 1)
	jump.Store(0)
	stats, err := s.Stats(t.Context(), StatsQuery{})
	is.NoErr(err)
	is.Equal([]int{stats.Pending, stats.Due}, []int{1, 1})
}

func TestDivertedEventsAreCountedWhileOthersWriteAndAfter(t *testing.T) {
	is := is.New(t)
	s, path := openTestStore(t)
	other, err := OpenSQLite(t.Context(), path)
	is.NoErr(err)
	defer other.Close()
	webhook := WebhookKey{acme, ulid.Make()}
	counted := func() int {
		stats, err := s.Stats(t.Context(), StatsQuery{})
		is.NoErr(err)
		return stats.DivertedInAll()
	}
	known := func() (known bool) {
		id := rowOf(t, s, webhook)
		is.NoErr(s.write(t.Context(), "look", func(tx *sqliteTx) error {
			known = tx.asides[id] != nil && tx.asides[id].n != nil
			return nil
		}))
		return known
	}
	divertSome(t, s, webhook, 2)
	is.Equal(counted(), 2)
	is.True(known())
	for n := range 3 {
		divertSome(t, other, webhook, 1)
		divertSome(t, s, webhook, 1)
		is.Equal(counted(), 4+2*n)
		is.True(!known())
	}
	jump := setClock(t, s)
	jump.Store(int64(2 * asideRecount)) // they have ended
	is.Equal(counted(), 8)
	is.True(known())
	divertSome(t, s, webhook, 1)
	is.Equal(counted(), 9)
}

package postgres_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
	"github.com/divertedevents/diverted/postgres"
)

// claimAbove claims all that is due from the floors on.
func claimAbove(t testing.TB, s *postgres.Store) []diverted.Claim {
	t.Helper()
	r, err := s.Work(context.Background(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 100, Bytes: 32 << 20, Lease: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Claims
}

// hold keeps a transaction open until the test is over, as a backup does: whatever is deleted from now on stays.
func hold(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	tx, err := pool.BeginTx(context.Background(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err == nil {
		_, err = tx.Exec(context.Background(), `SELECT FROM pg_class LIMIT 1`)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
}

func TestABacklogIsReadOnceWhileATransactionKeepsWhatWasDelivered(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	w := newWebhook(t, open(t, pool, schema), uuid.New())
	hold(t, pool)
	const rounds, batch = 60, 50
	n := reads(t, schema, func(s *postgres.Store) {
		accept(t, s, message(t, w))
		s.BeginAtFloor(w.Key(), time.Hour)
		var request diverted.WorkRequest
		done := 0
		for range rounds {
			messages := make([]diverted.Message, batch)
			for i := range messages {
				messages[i] = message(t, w)
			}
			accept(t, s, messages...)
			request.Claim = &diverted.ClaimRequest{Count: batch, Bytes: 32 << 20, Lease: time.Minute}
			r, err := s.Work(t.Context(), request)
			is.NoErr(err)
			request.Outcomes = allDelivered(r.Claims)
			done += len(r.Claims)
		}
		is.Equal(done, rounds*batch)
	})
	t.Log(n)
	is.True(n < 10*rounds*batch) // from the beginning it would be half the square of the rounds, for each of the batch
}

// fail settles the failure of a claim.
func fail(t *testing.T, s *postgres.Store, c diverted.Claim, kind diverted.OutcomeKind, wait time.Duration) {
	t.Helper()
	o := delivered(c)
	o.Kind, o.Wait, o.Failure = kind, wait, &diverted.Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503}
	settle(t, s, o)
}

// release has a claim wait for a retry, and releases it by suspending and unsuspending its webhook in a process.
func release(t *testing.T, s, by *postgres.Store, w diverted.Webhook, c diverted.Claim) {
	t.Helper()
	fail(t, s, c, diverted.OutcomeRetry, 3*time.Hour)
	for _, change := range []func(context.Context, diverted.WebhookKey) error{by.Suspend, by.Unsuspend} {
		if err := change(t.Context(), w.Key()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatAnotherProcessMakesDueBelowTheFloorIsFoundWhenAllIsLookedAt(t *testing.T) {
	const wait = 500 * time.Millisecond
	for _, tt := range []struct {
		name  string
		below func(t *testing.T, s, other *postgres.Store, w diverted.Webhook, c diverted.Claim)
	}{
		{"released", func(t *testing.T, s, other *postgres.Store, w diverted.Webhook, c diverted.Claim) {
			release(t, s, other, w, c)
		}},
		{"resent", func(t *testing.T, s, other *postgres.Store, w diverted.Webhook, c diverted.Claim) {
			fail(t, s, c, diverted.OutcomeDivert, 0)
			is.New(t).NoErr(other.Resend(t.Context(), c.Key))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			s, other := twoProcesses(t)
			w := newWebhook(t, s, uuid.New())
			accept(t, s, message(t, w))
			first := claimAbove(t, s)
			is.Equal(len(first), 1)
			accept(t, s, message(t, w))
			s.BeginAtFloor(w.Key(), wait)
			is.Equal(len(claimAbove(t, s)), 1) // so that the floor is above the first
			tt.below(t, s, other, w, first[0])

			look := func() diverted.WorkResult {
				r, err := s.Work(t.Context(), diverted.WorkRequest{
					Claim: &diverted.ClaimRequest{Count: 100, Bytes: 32 << 20, Lease: time.Minute}, Refresh: true,
				})
				is.NoErr(err)
				return r
			}
			testenv.Await(t, "it is claimed again", func() bool {
				r := look()
				if len(r.Claims) == 0 {
					is.True(r.Next >= 0 && r.Next <= wait) // somebody has to look again by then
				}
				return len(r.Claims) == 1 && r.Claims[0].Key == first[0].Key
			})
			is.Equal(len(look().Claims), 0)
		})
	}
}

// bury leaves n deliveries of a webhook in the index that were deleted, for as long as somebody may see them.
func bury(t testing.TB, pool *pgxpool.Pool, s *postgres.Store, w diverted.Webhook, n int) {
	t.Helper()
	table := `"` + s.Schema() + `".deliveries`
	hold(t, pool)
	execute(t, pool, `
		INSERT INTO `+table+` (webhook, event, request, accepted_at, due, type, body)
		SELECT w.id, gen_random_uuid(), gen_random_uuid(), now(), '-infinity', 'a.b', '{}'
		FROM "`+s.Schema()+`".webhooks w, generate_series(1, $2::int) WHERE w.locator = $1`, uuid.UUID(w.Locator), n)
	execute(t, pool, `DELETE FROM `+table+` WHERE type = 'a.b' AND body = '{}'`)
}

func TestRetriesAreFlushedThoughALookAtAWebhookTakesLong(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer receiver.Close()
	there := func(w *diverted.Webhook) { w.Endpoint.URL = receiver.URL }
	tenant := uuid.New()
	dear, other := newWebhook(t, s, tenant, there), newWebhook(t, s, tenant, there)
	for range 40 {
		accept(t, s, message(t, dear), message(t, other))
	}
	execute(t, pool, `UPDATE "`+s.Schema()+`".deliveries SET due = now() - interval '1 hour'`)
	bury(t, pool, s, dear, 200_000)
	d, err := diverted.NewDispatcher(s, diverted.Config{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	is.NoErr(err)
	is.NoErr(d.Flush(t.Context()))
	for _, w := range []diverted.Webhook{dear, other} {
		page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w.Key()})
		is.NoErr(err)
		is.Equal(len(page.Deliveries), 0)
	}
	is.True(s.HasFloor(dear.Key())) // or this says nothing
}

func TestAWebhookIsNotTakenForAnotherThatTakesLongToLookAt(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	before := newWebhook(t, s, uuid.New())
	dear := newWebhook(t, s, before.Tenant)
	after := newWebhook(t, s, before.Tenant)
	bury(t, pool, s, dear, 200_000)
	// On a busy machine any look may take long.
	testenv.Await(t, "only one of them does", func() bool {
		s := open(t, pool, s.Schema()) // which has seen none of them
		accept(t, s, message(t, before), message(t, dear), message(t, after))
		is.Equal(len(settle(t, s, allDelivered(claimAbove(t, s))...)), 3)
		is.True(s.HasFloor(dear.Key()))
		others := s.HasFloor(before.Key()) || s.HasFloor(after.Key())
		is.NoErr(s.Close())
		return !others
	})
}

func TestWhatAProcessMakesDueItselfIsFoundBelowTheFloorAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		below func(t *testing.T, s *postgres.Store, w diverted.Webhook, c diverted.Claim)
	}{
		{"given back", func(t *testing.T, s *postgres.Store, _ diverted.Webhook, c diverted.Claim) {
			back := delivered(c)
			back.Kind = diverted.OutcomeReturn
			settle(t, s, back)
		}},
		{"released", func(t *testing.T, s *postgres.Store, w diverted.Webhook, c diverted.Claim) { release(t, s, s, w, c) }},
		{"resent", func(t *testing.T, s *postgres.Store, w diverted.Webhook, c diverted.Claim) {
			fail(t, s, c, diverted.OutcomeDivert, 0)
			is.New(t).NoErr(s.Resend(t.Context(), c.Key))
		}},
		{"resent with others", func(t *testing.T, s *postgres.Store, w diverted.Webhook, c diverted.Claim) {
			fail(t, s, c, diverted.OutcomeDivert, 0)
			r, err := s.ResendAll(t.Context(), diverted.BulkRequest{Webhook: w.Key()})
			is.New(t).NoErr(err)
			is.New(t).Equal(r.Done, 1)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			s := open(t, newPool(t), newSchema())
			w := newWebhook(t, s, uuid.New())
			accept(t, s, message(t, w))
			first := claimAbove(t, s)
			is.Equal(len(first), 1)
			accept(t, s, message(t, w))
			s.BeginAtFloor(w.Key(), time.Hour)
			is.Equal(len(claimAbove(t, s)), 1)
			tt.below(t, s, w, first[0])
			again := claimAbove(t, s)
			is.Equal(len(again), 1)
			is.Equal(again[0].Key, first[0].Key)
			settle(t, s, delivered(again[0]))
		})
	}
}

func TestWhatAProcessAcceptsIsFoundThoughOthersOvertookIt(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	schema := `"` + s.Schema() + `"`
	execute(t, pool, `CREATE FUNCTION `+schema+`.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA)); RETURN NULL; END $$`)
	execute(t, pool, `CREATE TRIGGER wait AFTER INSERT ON `+schema+`.deliveries FOR EACH ROW WHEN (NEW.type = 'slow') EXECUTE FUNCTION `+schema+`.wait()`)
	tx, err := pool.Begin(t.Context())
	is.NoErr(err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtext($1))`, s.Schema())
	is.NoErr(err)
	first, second := message(t, w), message(t, w)
	first.EventType = "slow"
	accepted := make(chan error, 1)
	go func() {
		_, err := s.Accept(context.Background(), diverted.AcceptRequest{Messages: []diverted.Message{first}})
		accepted <- err
	}()
	waitForWaiter(t, pool, s.Schema())
	accept(t, s, second)
	s.BeginAtFloor(w.Key(), time.Hour)
	c := claimAbove(t, s)
	is.Equal(len(c), 1)
	is.Equal(c[0].Key.Event, second.Event)
	is.NoErr(tx.Commit(t.Context()))
	is.NoErr(<-accepted)
	c = claimAbove(t, s)
	is.Equal(len(c), 1)
	is.Equal(c[0].Key.Event, first.Event)
}

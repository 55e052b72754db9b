package postgres_test

import (
	"context"
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

const (
	oldKey = diverted.Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	newKey = diverted.Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
)

// knows fails unless both stores deliver to the webhook as it is given.
func knows(t *testing.T, is *is.I, w diverted.Webhook, stores ...*postgres.Store) {
	t.Helper()
	for _, s := range stores {
		_, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
		is.NoErr(err)
		claims := claim(t, s)
		is.Equal(len(claims), 1)
		is.Equal(claims[0].Webhook.Endpoint.URL, w.Endpoint.URL)
		is.Equal(claims[0].Webhook.Version, w.Version)
		_, err = s.Work(t.Context(), diverted.WorkRequest{Outcomes: []diverted.Outcome{{Key: claims[0].Key, Token: claims[0].Token, Kind: diverted.OutcomeDelivered}}})
		is.NoErr(err)
	}
}

func TestAWebhookPutInATransactionIsSavedExactlyIfItCommits(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		other := open(t, newPool(t), s.Schema()) // of another process
		w := newWebhook(t, s, uuid.New(), func(w *diverted.Webhook) { w.Endpoint.HMACEnabled, w.Endpoint.Secret = true, oldKey })
		knows(t, is, w, s, other)
		given := w
		given.Endpoint.URL, given.Endpoint.Secret = "https://receiver.example/new", newKey
		given.Version, given.SuspendedAt = 99, time.Now() // the store's, not the caller's

		tx := o.begin(t, s)
		_, err := tx.put(given)
		is.NoErr(err)
		is.NoErr(tx.rollback())
		knows(t, is, w, s, other)

		is.NoErr(s.Suspend(t.Context(), w.Key())) // which remains
		tx = o.begin(t, s)
		saved, err := tx.put(given)
		is.NoErr(err)
		is.Equal(saved.Version, w.Version+1)
		is.True(saved.Suspended())
		is.Equal(len(saved.Endpoint.OldSecrets), 1)
		is.Equal(saved.Endpoint.OldSecrets[0].Secret, oldKey)
		got, err := s.FetchWebhook(t.Context(), w.Key())
		is.NoErr(err)
		is.Equal(got.Version, w.Version) // not yet
		is.NoErr(tx.commit())
		got, err = other.FetchWebhook(t.Context(), w.Key())
		is.NoErr(err)
		is.Equal(got, saved)
		is.NoErr(s.Unsuspend(t.Context(), w.Key()))
		knows(t, is, saved, s, other)

		_, err = s.UpdateWebhook(t.Context(), w)
		is.True(isError(err, diverted.ErrConflict)) // its version is of the past
		updated, err := s.UpdateWebhook(t.Context(), saved)
		is.NoErr(err)

		tx = o.begin(t, s)
		_, err = tx.put(diverted.Webhook{})
		is.True(isError(err, diverted.ErrInvalid)) // and tx goes on
		same, err := tx.put(updated)
		is.NoErr(err)
		is.Equal(same, updated) // nothing is written
		is.NoErr(tx.commit())
	})
}

func TestATransactionPublishesToTheWebhookThatItPuts(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		other := open(t, newPool(t), s.Schema())
		w := diverted.NewWebhook(uuid.New(), "orders", "https://receiver.example/hook", "*")
		for _, s := range []*postgres.Store{s, other} { // both remember that there is none
			r, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, diverted.Webhook{Tenant: w.Tenant})}})
			is.NoErr(err)
			is.Equal(len(r.Messages[0].Deliveries), 0)
		}
		tx := o.begin(t, s)
		saved, err := tx.put(w)
		is.NoErr(err)
		is.Equal(saved.Version, int64(1))
		all, err := tx.publish(w.Tenant, newEvent(t))
		is.NoErr(err)
		is.Equal(all, []diverted.Acceptance{{Webhook: w.Locator, Status: diverted.Accepted}})
		is.NoErr(tx.commit())
		claims := claim(t, other)
		is.Equal(len(claims), 1)
		is.Equal(claims[0].Webhook.Endpoint.URL, w.Endpoint.URL)
		knows(t, is, saved, s, other)
	})
}

func TestDispatchersAreToldAtTheCommitThatAWebhookIsEnabled(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w := newWebhook(t, s, uuid.New())
		_, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
		is.NoErr(err)
		c := claim(t, s)[0]
		failure := diverted.Failure{Trigger: diverted.TriggerTimeout, Message: "no answer"}
		_, err = s.Work(t.Context(), diverted.WorkRequest{Outcomes: []diverted.Outcome{{
			Key: c.Key, Token: c.Token, Kind: diverted.OutcomeRetry, Wait: time.Hour, Failure: &failure,
		}}})
		is.NoErr(err)
		waitForListener(t, s)
		for _, w.Enabled = range []bool{false, true} {
			is.Equal(len(claim(t, s)), 0)
			told := make(chan diverted.Change, 16)
			stop := s.Watch(func(c diverted.Change) { told <- c })
			defer stop()
			tx := o.begin(t, s)
			_, err = tx.put(w)
			is.NoErr(err)
			is.NoErr(tx.exec(`DO $$ BEGIN ASSERT current_setting('enable_seqscan') = 'on'; END $$`)) // it keeps its settings
			is.NoErr(tx.commit())
			if w.Enabled {
				is.Equal(<-told, diverted.Change{Kind: diverted.ChangeDue})
			}
		}
		r, err := s.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 1, Bytes: 1, Lease: time.Minute}})
		is.NoErr(err)
		is.Equal(len(r.Claims), 1) // without a refresh
	})
}

func TestAWebhookDeletedInATransactionIsGoneExactlyIfItCommits(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		other := open(t, newPool(t), s.Schema())
		w := newWebhook(t, s, uuid.New())
		knows(t, is, w, s, other)
		setAside(t, s, w.Key(), "503")
		foreign := w
		foreign.Tenant = uuid.New()

		tx := o.begin(t, s)
		refused, discard := diverted.ErrNotEmpty, false
		if o.name != "pgx" { // which is REPEATABLE READ, and would not see all that was accepted
			refused, discard = diverted.ErrUnsupported, true
		}
		is.True(isError(tx.remove(w.Key(), false), refused))
		is.True(isError(tx.remove(foreign.Key(), true), diverted.ErrNotFound))
		is.NoErr(tx.remove(w.Key(), true))
		is.True(isError(tx.remove(w.Key(), true), diverted.ErrNotFound))
		is.NoErr(tx.rollback())
		knows(t, is, w, s, other)

		tx = o.begin(t, s)
		is.NoErr(tx.remove(w.Key(), true))
		again, err := tx.put(w) // as if it had never been
		is.NoErr(err)
		is.Equal(again.Version, int64(1))
		is.NoErr(tx.remove(w.Key(), discard))
		is.NoErr(tx.commit())
		for _, s := range []*postgres.Store{s, other} {
			r, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
			is.NoErr(err)
			is.True(isError(r.Messages[0].Err, diverted.ErrNotFound))
			page, err := s.ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: w.Key()})
			is.NoErr(err)
			is.Equal(len(page.Events), 0)
		}
	})
}

func TestOfTwoTransactionsOnAWebhookTheSecondSeesWhatTheFirstSaved(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w := diverted.NewWebhook(uuid.New(), "orders", "https://receiver.example/hook", "*")
	for version := int64(1); version <= 3; version += 2 { // the first time neither is there yet
		first, err := pool.Begin(t.Context())
		is.NoErr(err)
		defer first.Rollback(context.Background())
		w.Name += "!"
		_, err = s.PutWebhookTx(t.Context(), first, w)
		is.NoErr(err)
		second := make(chan diverted.Webhook, 1)
		go func(w diverted.Webhook) {
			defer close(second)
			w.Name += "!"
			tx, err := pool.Begin(context.Background())
			if err != nil {
				return
			}
			defer tx.Rollback(context.Background())
			if w, err = s.PutWebhookTx(context.Background(), tx, w); err == nil && tx.Commit(context.Background()) == nil {
				second <- w
			}
		}(w)
		waitForWaiter(t, pool, s.Schema())
		is.NoErr(first.Commit(t.Context()))
		saved := <-second
		is.Equal(saved.Version, version+1)
		got, err := s.FetchWebhook(t.Context(), w.Key())
		is.NoErr(err)
		is.Equal(got, saved)
		w = saved
	}
}

func TestNobodyElseWaitsForATransactionThatPutsOrDiscards(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w, gone, other := newWebhook(t, s, uuid.New()), newWebhook(t, s, uuid.New()), newWebhook(t, s, uuid.New())
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		tx := o.begin(t, s)
		given := w
		given.Endpoint.URL = "https://receiver.example/new"
		saved, err := tx.put(given)
		is.NoErr(err)
		is.NoErr(tx.remove(gone.Key(), true))
		_, err = s.Accept(ctx, diverted.AcceptRequest{Messages: []diverted.Message{message(t, w), message(t, gone), message(t, other)}})
		is.NoErr(err)
		if o.name == "pgx" { // with REPEATABLE READ the commit would fail
			is.NoErr(s.Suspend(ctx, other.Key()))
			is.NoErr(s.Unsuspend(ctx, other.Key()))
		}
		is.NoErr(tx.commit())
		// What was accepted meanwhile goes where the webhook leads by now, or is gone with it.
		got := make(map[string]int)
		for _, c := range claim(t, s) {
			got[c.Webhook.Endpoint.URL]++
		}
		is.Equal(got, map[string]int{saved.Endpoint.URL: 1, other.Endpoint.URL: 1})
	})
}

func TestWhoeverAcceptsDoesNotOvertakeAChangeOfAWebhook(t *testing.T) {
	changes := map[string]func(s *postgres.Store, w diverted.Webhook) error{
		"put": func(s *postgres.Store, w diverted.Webhook) error {
			w.MaxPerSecond = 7
			_, err := s.PutWebhook(context.Background(), w)
			return err
		},
		"suspension by a dispatcher": func(s *postgres.Store, w diverted.Webhook) error {
			if _, err := s.Accept(context.Background(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}}); err != nil {
				return err
			}
			c := claim(t, s)[0]
			failure := diverted.Failure{Trigger: diverted.TriggerTimeout, Message: "no answer"}
			_, err := s.Work(context.Background(), diverted.WorkRequest{Outcomes: []diverted.Outcome{{
				Key: c.Key, Token: c.Token, Kind: diverted.OutcomeHold, Failure: &failure, Suspend: true, Epoch: c.Epoch,
			}}})
			return err
		},
	}
	for _, o := range outboxes(t) {
		changes["commit of the host's through "+o.name] = func(s *postgres.Store, w diverted.Webhook) error {
			tx := o.begin(t, s)
			w.MaxPerSecond = 7
			if _, err := tx.put(w); err != nil {
				return err
			}
			return tx.commit()
		}
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			pool := newPool(t)
			s := open(t, pool, newSchema())
			w := newWebhook(t, s, uuid.New())
			// accept begins to accept, as far as it concerns others. A COMMIT ends it.
			accept := func() (conn *pgxpool.Conn, err error) {
				conn, err = newPool(t).Acquire(t.Context())
				is.NoErr(err)
				t.Cleanup(conn.Release)
				for _, text := range []string{`BEGIN`, `SET LOCAL lock_timeout = '100ms'`, `LOCK TABLE "` + s.Schema() + `".state IN ROW SHARE MODE`} {
					if _, err = conn.Exec(t.Context(), text); err != nil {
						break
					}
				}
				return conn, err
			}
			first, err := accept()
			is.NoErr(err)
			changed := make(chan error, 1)
			go func() { changed <- change(s, w) }()
			testenv.Await(t, "the change waits for it", func() bool { // whose statement may be a COMMIT, which names nothing
				return holds(t, pool, `
					SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND $1 = ANY(pg_blocking_pids(pid)))`,
					first.Conn().PgConn().PID())
			})
			second, err := accept()
			is.True(err != nil) // it waits its turn
			for _, conn := range []*pgxpool.Conn{second, first} {
				_, err = conn.Exec(t.Context(), `COMMIT`)
				is.NoErr(err)
			}
			is.NoErr(<-changed)
		})
	}
}

func TestWhoeverAcceptsWritesNothingOfWebhooks(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	accept(t, s, message(t, w))
	var lockers string // of the row that each of them looks at
	is.NoErr(pool.QueryRow(t.Context(), `SELECT xmax FROM "`+s.Schema()+`".state`).Scan(&lockers))
	is.Equal(lockers, "0")
}

func TestADispatcherDoesNotAskAgainAtOnceForANoticeThatATransactionDeletes(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w := newWebhook(t, s, uuid.New())
		accept(t, s, message(t, w))
		c := claim(t, s)[0]
		settle(t, s, diverted.Outcome{
			Key: c.Key, Token: c.Token, Kind: diverted.OutcomeDivert, Failure: &diverted.Failure{Trigger: "503"}, Alert: true,
		})
		tx := o.begin(t, s)
		is.NoErr(tx.remove(w.Key(), true))
		look := func(refresh bool) diverted.WorkResult {
			r, err := s.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 5, Lease: time.Minute}, Refresh: refresh})
			is.NoErr(err)
			return r
		}
		r := look(false)
		is.Equal(len(r.Notices), 0)
		is.True(r.Next != 0)
		is.NoErr(tx.rollback())
		is.Equal(len(look(true).Notices), 1)
	})
}

func TestATransactionPutsWebhooksInASchemaThatWasRenamed(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	is.NoErr(s.Close())
	renamed := newSchema() + ` "of" their's`
	_, err := pool.Exec(t.Context(), `ALTER SCHEMA "`+s.Schema()+`" RENAME TO `+pgx.Identifier{renamed}.Sanitize())
	is.NoErr(err)
	s = open(t, pool, renamed)
	knows(t, is, w, s)
	tx, err := pool.Begin(t.Context())
	is.NoErr(err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `CREATE TEMPORARY TABLE webhooks (id bigint, changed bigint) ON COMMIT DROP`)
	is.NoErr(err)
	w.Endpoint.URL = "https://receiver.example/new"
	w, err = s.PutWebhookTx(t.Context(), tx, w)
	is.NoErr(err)
	_, err = tx.Exec(t.Context(), `SET LOCAL search_path TO "$user", public; SET CONSTRAINTS ALL IMMEDIATE`)
	is.NoErr(err)
	var path string
	is.NoErr(tx.QueryRow(t.Context(), `SHOW search_path`).Scan(&path))
	is.Equal(path, `"$user", public`) // the host's own
	is.NoErr(tx.Commit(t.Context()))
	knows(t, is, w, s)
}

func TestATransactionThatPutsManyWebhooksBeginsOneGeneration(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		pool := newPool(t)
		other := open(t, newPool(t), s.Schema())
		generation := func() (n int) {
			is.NoErr(pool.QueryRow(t.Context(), `SELECT generation FROM "`+s.Schema()+`".state`).Scan(&n))
			return n
		}
		tenant := uuid.New()
		gone := newWebhook(t, s, tenant)
		before := generation()
		tx := o.begin(t, s)
		var all []diverted.Webhook
		for range 3 {
			w, err := tx.put(diverted.NewWebhook(tenant, "orders", "https://receiver.example/hook", "*"))
			is.NoErr(err)
			w.MaxPerSecond = 7
			w, err = tx.put(w) // again
			is.NoErr(err)
			all = append(all, w)
		}
		is.NoErr(tx.remove(gone.Key(), true))
		is.NoErr(tx.commit())
		is.Equal(generation(), before+1)
		var left int
		is.NoErr(pool.QueryRow(t.Context(), `SELECT count(*) FROM "`+s.Schema()+`".webhooks WHERE changed < 0`).Scan(&left))
		is.Equal(left, 0)
		for _, w := range all {
			knows(t, is, w, s, other)
		}
	})
}

package postgres_test

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/divertedevents/diverted/postgres"
)

// outbox is the same power through pgx and through database/sql.
type outbox struct {
	name string
	// begin begins a transaction of the host's, and returns what can be done with it.
	begin func(t *testing.T, s *postgres.Store) hostTx
}

type hostTx struct {
	send     func(webhook diverted.Webhook, e diverted.Event) (diverted.Acceptance, error)
	publish  func(tenant uuid.UUID, e diverted.Event) ([]diverted.Acceptance, error)
	put      func(webhook diverted.Webhook) (diverted.Webhook, error)
	remove   func(webhook diverted.WebhookKey, discard bool) error
	exec     func(text string) error
	commit   func() error
	rollback func() error
}

func outboxes(t *testing.T) []outbox {
	pool := newPool(t)
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { db.Close() })
	ctx := context.Background()
	return []outbox{
		{"pgx", func(t *testing.T, s *postgres.Store) hostTx {
			tx, err := pool.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { tx.Rollback(ctx) })
			return hostTx{
				func(w diverted.Webhook, e diverted.Event) (diverted.Acceptance, error) {
					return s.SendTx(ctx, tx, w.Tenant, w.Locator, e)
				},
				func(tenant uuid.UUID, e diverted.Event) ([]diverted.Acceptance, error) {
					return s.PublishTx(ctx, tx, tenant, e)
				},
				func(w diverted.Webhook) (diverted.Webhook, error) { return s.PutWebhookTx(ctx, tx, w) },
				func(w diverted.WebhookKey, discard bool) error { return s.DeleteWebhookTx(ctx, tx, w, discard) },
				func(text string) error { _, err := tx.Exec(ctx, text); return err },
				func() error { return tx.Commit(ctx) },
				func() error { return tx.Rollback(ctx) },
			}
		}},
		{"database/sql", func(t *testing.T, s *postgres.Store) hostTx {
			tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { tx.Rollback() })
			return hostTx{
				func(w diverted.Webhook, e diverted.Event) (diverted.Acceptance, error) {
					return s.SendSQLTx(ctx, tx, w.Tenant, w.Locator, e)
				},
				func(tenant uuid.UUID, e diverted.Event) ([]diverted.Acceptance, error) {
					return s.PublishSQLTx(ctx, tx, tenant, e)
				},
				func(w diverted.Webhook) (diverted.Webhook, error) { return s.PutWebhookSQLTx(ctx, tx, w) },
				func(w diverted.WebhookKey, discard bool) error { return s.DeleteWebhookSQLTx(ctx, tx, w, discard) },
				func(text string) error { _, err := tx.ExecContext(ctx, text); return err },
				tx.Commit,
				tx.Rollback,
			}
		}},
	}
}

func eachOutbox(t *testing.T, test func(t *testing.T, is *is.I, s *postgres.Store, o outbox)) {
	for _, o := range outboxes(t) {
		t.Run(o.name, func(t *testing.T) {
			test(t, is.New(t), open(t, newPool(t), newSchema()), o)
		})
	}
}

var payload = func() func() testdata.Payload {
	i := 0
	return func() testdata.Payload { i++; return testdata.Payloads()[i%len(testdata.Payloads())] }
}()

func newEvent(t testing.TB) diverted.Event {
	t.Helper()
	p := payload()
	e, err := diverted.NewEvent(p.Type, p.Data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func newWebhook(t testing.TB, s *postgres.Store, tenant uuid.UUID, change ...func(*diverted.Webhook)) diverted.Webhook {
	t.Helper()
	w := diverted.NewWebhook(tenant, "orders", "https://receiver.example/hook", "*")
	for _, f := range change {
		f(&w)
	}
	w, err := s.CreateWebhook(context.Background(), w)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// claim claims all that is due, by whoever it was sent.
func claim(t testing.TB, s *postgres.Store) []diverted.Claim {
	t.Helper()
	s.ScanAtOnce()
	r, err := s.Work(context.Background(), diverted.WorkRequest{
		Claim: &diverted.ClaimRequest{Count: 100, Bytes: 32 << 20, Lease: time.Minute}, Refresh: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.Claims
}

func TestATransactionThatRollsBackSendsNothing(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w := newWebhook(t, s, uuid.New())
		tx := o.begin(t, s)
		a, err := tx.send(w, newEvent(t))
		is.NoErr(err)
		is.Equal(a, diverted.Acceptance{Webhook: w.Locator, Status: diverted.Accepted})
		_, err = tx.publish(w.Tenant, newEvent(t))
		is.NoErr(err)
		is.Equal(len(claim(t, s)), 0) // not yet
		is.NoErr(tx.rollback())
		is.Equal(len(claim(t, s)), 0)
		page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w.Key()})
		is.NoErr(err)
		is.Equal(len(page.Deliveries), 0)
	})
}

func TestATransactionThatCommitsSendsOnce(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w := newWebhook(t, s, uuid.New())
		e := newEvent(t)
		tx := o.begin(t, s)
		is.NoErr(tx.exec(`CREATE TEMPORARY TABLE orders (id int) ON COMMIT DROP; INSERT INTO orders VALUES (1)`)) // the host's own
		for _, want := range []diverted.AcceptStatus{diverted.Accepted, diverted.AlreadyPending} {
			a, err := tx.send(w, e)
			is.NoErr(err)
			is.Equal(a.Status, want)
		}
		is.Equal(len(claim(t, s)), 0)
		is.NoErr(tx.commit())
		claims := claim(t, s)
		is.Equal(len(claims), 1)
		body, err := e.Encode()
		is.NoErr(err)
		is.Equal(claims[0].Key, diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: e.Locator})
		is.Equal(claims[0].Body, body)
		is.Equal(claims[0].RequestLocator, e.RequestLocator)
		is.Equal(claims[0].EventType, e.Type)
		is.Equal(len(claim(t, s)), 0)
	})
}

func TestPublishInATransactionReachesThoseThatSubscribe(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		tenant := uuid.New()
		e := newEvent(t)
		all := newWebhook(t, s, tenant)
		exact := newWebhook(t, s, tenant, func(w *diverted.Webhook) { w.EventTypes = []string{e.Type} })
		newWebhook(t, s, tenant, func(w *diverted.Webhook) { w.EventTypes = []string{"another.type"} })
		newWebhook(t, s, tenant, func(w *diverted.Webhook) { w.Enabled = false })
		newWebhook(t, s, uuid.New())
		asleep := newWebhook(t, s, tenant)
		is.NoErr(s.Suspend(t.Context(), asleep.Key()))
		aside := newWebhook(t, s, tenant)
		is.NoErr(s.Divert(t.Context(), diverted.DivertedEvent{
			Key:            diverted.Key{Tenant: tenant, Webhook: aside.Locator, Event: e.Locator},
			RequestLocator: e.RequestLocator, EventType: e.Type, Body: e.Data,
			Failure: diverted.Failure{Trigger: diverted.TriggerTimeout, Message: "no answer"},
		}))

		tx := o.begin(t, s)
		got, err := tx.publish(tenant, e)
		is.NoErr(err)
		is.Equal(got, []diverted.Acceptance{ // ascending by locator, which is their order of creation
			{Webhook: all.Locator, Status: diverted.Accepted},
			{Webhook: exact.Locator, Status: diverted.Accepted},
			{Webhook: asleep.Locator, Status: diverted.Accepted},
			{Webhook: aside.Locator, Status: diverted.AlreadyDiverted},
		})
		nobody, err := tx.publish(uuid.New(), newEvent(t))
		is.NoErr(err)
		is.Equal(len(nobody), 0)
		is.NoErr(tx.commit())
		is.Equal(len(claim(t, s)), 2)
	})
}

func TestWhatATransactionCannotSendLeavesItUsable(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w := newWebhook(t, s, uuid.New())
		unknown, foreign := w, w
		unknown.Locator, foreign.Tenant = ulid.Make(), uuid.New()
		tx := o.begin(t, s)
		for _, nowhere := range []diverted.Webhook{unknown, foreign} {
			_, err := tx.send(nowhere, newEvent(t))
			is.True(isError(err, diverted.ErrNotFound))
		}
		_, err := tx.send(w, diverted.Event{})
		is.True(isError(err, diverted.ErrInvalid))
		_, err = tx.send(diverted.Webhook{Tenant: w.Tenant}, newEvent(t))
		is.True(isError(err, diverted.ErrInvalid))
		_, err = tx.send(w, newEvent(t))
		is.NoErr(err)
		is.NoErr(tx.commit())
		is.Equal(len(claim(t, s)), 1)
	})
}

// watched is a transaction that tells of each statement before it is run.
type watched struct {
	pgx.Tx
	before func(text string)
}

func (tx watched) Query(ctx context.Context, text string, args ...any) (pgx.Rows, error) {
	tx.before(text)
	return tx.Tx.Query(ctx, text, args...)
}

func TestAnEventThatIsDeliveredWhileATransactionSendsItAgainWasPending(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w, e := newWebhook(t, s, uuid.New()), newEvent(t)
	m, err := diverted.NewMessage(w.Tenant, w.Locator, e)
	is.NoErr(err)
	for name, send := range map[string]func(tx pgx.Tx) ([]diverted.Acceptance, error){
		"send": func(tx pgx.Tx) ([]diverted.Acceptance, error) {
			a, err := s.SendTx(t.Context(), tx, w.Tenant, w.Locator, e)
			return []diverted.Acceptance{a}, err
		},
		"publish": func(tx pgx.Tx) ([]diverted.Acceptance, error) { return s.PublishTx(t.Context(), tx, w.Tenant, e) },
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			_, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{m}})
			is.NoErr(err)
			c := claim(t, s)[0]
			tx, err := pool.Begin(t.Context())
			is.NoErr(err)
			defer tx.Rollback(context.Background())
			inserted, delivered := false, false
			all, err := send(watched{tx, func(text string) {
				if inserted && !delivered {
					delivered = true
					_, err := s.Work(context.Background(), diverted.WorkRequest{Outcomes: []diverted.Outcome{{Key: c.Key, Token: c.Token, Kind: diverted.OutcomeDelivered}}})
					is.NoErr(err)
				}
				inserted = inserted || strings.Contains(text, "INSERT")
			}})
			is.NoErr(err)
			is.True(delivered)
			is.Equal(all, []diverted.Acceptance{{Webhook: w.Locator, Status: diverted.AlreadyPending}})
		})
	}
}

func TestAWebhookIsNotDeletedUnderATransactionThatSendsToIt(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w, other := newWebhook(t, s, uuid.New()), newWebhook(t, s, uuid.New())
		tx := o.begin(t, s)
		_, err := tx.send(w, newEvent(t))
		is.NoErr(err)
		deleted := make(chan error)
		go func() { deleted <- s.DeleteWebhook(context.Background(), w.Key(), false) }()
		select {
		case err := <-deleted:
			t.Fatalf("it is deleted under a transaction that sends to it: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		// Nobody else has to wait for the host.
		_, err = s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, other)}})
		is.NoErr(err)
		is.NoErr(tx.commit())
		is.True(isError(<-deleted, diverted.ErrNotEmpty))
		is.Equal(len(claim(t, s)), 2)
		is.NoErr(s.DeleteWebhook(t.Context(), w.Key(), true))
		_, err = o.begin(t, s).send(w, newEvent(t))
		is.True(isError(err, diverted.ErrNotFound))
	})
}

func TestDispatchersAreToldAtTheCommit(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w := newWebhook(t, s, uuid.New())
		is.Equal(len(claim(t, s)), 0)
		told := make(chan diverted.Change, 16)
		defer s.Watch(func(c diverted.Change) { told <- c })()
		waitForListener(t, s)
		tx := o.begin(t, s)
		_, err := tx.send(w, newEvent(t))
		is.NoErr(err)
		select {
		case c := <-told:
			t.Fatalf("told of %v before the commit", c)
		case <-time.After(50 * time.Millisecond):
		}
		is.NoErr(tx.commit())
		select {
		case c := <-told:
			is.Equal(c, diverted.Change{Kind: diverted.ChangeDue})
		case <-time.After(time.Minute):
			t.Fatal("nobody is told")
		}
		r, err := s.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 1, Bytes: 1, Lease: time.Minute}})
		is.NoErr(err)
		is.Equal(len(r.Claims), 1) // without a refresh
	})
}

// PostgreSQL commits those that notify one after the other.
func TestOfManyTransactionsFewCarryANote(t *testing.T) {
	is := is.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pool := newPool(t)
	s := open(t, newPool(t), newSchema())
	first, last := newWebhook(t, s, uuid.New()), newWebhook(t, s, uuid.New())
	ids := make(map[ulid.ULID]string)
	for _, w := range []diverted.Webhook{first, last} {
		var id string
		is.NoErr(pool.QueryRow(ctx, `SELECT id::text FROM `+s.Schema()+`.webhooks WHERE locator = $1`, uuid.UUID(w.Locator)).Scan(&id))
		ids[w.Locator] = id
	}
	listener, err := pool.Acquire(ctx)
	is.NoErr(err)
	defer listener.Release()
	_, err = listener.Exec(ctx, `LISTEN `+s.Schema())
	is.NoErr(err)
	host, err := pool.Acquire(ctx)
	is.NoErr(err)
	defer host.Release()
	send := func(w diverted.Webhook) {
		t.Helper()
		tx, err := host.Begin(ctx)
		is.NoErr(err)
		_, err = s.SendTx(ctx, tx, w.Tenant, w.Locator, newEvent(t))
		is.NoErr(err)
		is.NoErr(tx.Commit(ctx))
	}
	// carried waits for a note of a webhook, and counts those that the host's transactions carried until then.
	carried := func(of diverted.Webhook) (n int) {
		t.Helper()
		for {
			note, err := listener.Conn().WaitForNotification(ctx)
			is.NoErr(err)
			if note.PID == host.Conn().PgConn().PID() {
				n++
			}
			_, list, _ := strings.Cut(note.Payload, ":")
			if slices.Contains(strings.Fields(list), ids[of.Locator]) {
				return n
			}
		}
	}
	began := time.Now()
	for range 200 {
		send(first)
	}
	send(last) // told of too, though it is the last
	most := int(time.Since(began)/postgres.NewsPause) + 1
	n := carried(last)
	is.True(1 <= n && n <= most)

	_, err = host.Exec(ctx, `SELECT pg_sleep(0.2)`)
	is.NoErr(err)
	send(last)
	is.Equal(carried(last), 1)
}

func TestANilTransactionIsInvalid(t *testing.T) {
	is := is.New(t)
	s := open(t, newPool(t), newSchema())
	w := newWebhook(t, s, uuid.New())
	_, err := s.SendTx(t.Context(), nil, w.Tenant, w.Locator, newEvent(t))
	is.True(isError(err, diverted.ErrInvalid))
	_, err = s.PublishTx(t.Context(), nil, w.Tenant, newEvent(t))
	is.True(isError(err, diverted.ErrInvalid))
	_, err = s.SendSQLTx(t.Context(), nil, w.Tenant, w.Locator, newEvent(t))
	is.True(isError(err, diverted.ErrInvalid))
	_, err = s.PublishSQLTx(t.Context(), nil, w.Tenant, newEvent(t))
	is.True(isError(err, diverted.ErrInvalid))
	_, err = s.PutWebhookTx(t.Context(), nil, w)
	is.True(isError(err, diverted.ErrInvalid))
	_, err = s.PutWebhookSQLTx(t.Context(), nil, w)
	is.True(isError(err, diverted.ErrInvalid))
	is.True(isError(s.DeleteWebhookTx(t.Context(), nil, w.Key(), true), diverted.ErrInvalid))
	is.True(isError(s.DeleteWebhookSQLTx(t.Context(), nil, w.Key(), true), diverted.ErrInvalid))
	is.NoErr(s.Close())
	var tx pgx.Tx = struct{ pgx.Tx }{}
	_, err = s.SendTx(t.Context(), tx, w.Tenant, w.Locator, newEvent(t))
	is.True(isError(err, diverted.ErrClosed))
	_, err = s.PutWebhookTx(t.Context(), tx, w)
	is.True(isError(err, diverted.ErrClosed))
	is.True(isError(s.DeleteWebhookTx(t.Context(), tx, w.Key(), true), diverted.ErrClosed))
}

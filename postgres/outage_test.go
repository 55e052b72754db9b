package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
	"github.com/divertedevents/diverted/postgres"
)

// named gives the connections of a pool a name, by which they can be ended.
func named(name string) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["application_name"] = name }
}

// terminate ends all connections of that name to the tests' database, as an administrator or a failover does. Those of
// another run on the same server have the same names.
func terminate(t testing.TB, admin *pgxpool.Pool, name string) (n int) {
	t.Helper()
	err := admin.QueryRow(context.Background(), `
		SELECT count(*) FROM (
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1) x`, name).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestConnectionsThatDiedInThePoolAreNobodysTrouble(t *testing.T) {
	is := is.New(t)
	admin, name := newPool(t), newSchema()
	s := open(t, newPool(t, named(name)), name)
	w := newWebhook(t, s, uuid.New())
	for range 5 {
		is.True(terminate(t, admin, name) > 0)
		is.NoErr(accept(t, s, message(t, w))[0].Err)
		terminate(t, admin, name)
		is.Equal(len(claim(t, s)), 1)
		terminate(t, admin, name)
		_, err := s.FetchWebhook(t.Context(), w.Key())
		is.NoErr(err)
	}
}

func TestWorkGoesOnThroughLostConnections(t *testing.T) {
	is := is.New(t)
	admin, name := newPool(t), newSchema()
	s := open(t, newPool(t, named(name)), name)
	w := newWebhook(t, s, uuid.New())
	var mu sync.Mutex
	deliveries := map[diverted.Key]int{}
	d, err := diverted.NewDispatcher(s, diverted.Config{
		Timeout: time.Second, Transport: answered{}, Logger: slog.New(slog.DiscardHandler),
		Observer: diverted.Observer{Delivered: func(a diverted.Attempt) {
			mu.Lock()
			defer mu.Unlock()
			deliveries[a.Key]++
		}},
	})
	is.NoErr(err)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- d.Run(ctx) }()

	chaos, calm := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	var killed atomic.Int64
	killer.Go(func() {
		for tick := time.Tick(20 * time.Millisecond); ; {
			killed.Add(int64(terminate(t, admin, name)))
			select {
			case <-tick:
			case <-chaos.Done():
				return
			}
		}
	})
	sent := 0
	var uncertain int
	for sent < 500 || killed.Load() < 10 && sent < 50_000 { // a busy machine may send hundreds before the second kill
		e := newEvent(t)
		for {
			_, err := d.Send(t.Context(), w.Tenant, w.Locator, e)
			if err == nil {
				break
			}
			uncertain++ // nobody can know, so it is repeated with the same event
		}
		sent++
	}
	calm()
	killer.Wait()
	is.True(killed.Load() >= 10)
	testenv.Await(t, "nothing is pending", func() bool { // some wait for the end of a lease
		page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w.Key(), Limit: 1})
		return err == nil && len(page.Deliveries) == 0
	})
	stop()
	is.NoErr(<-ran)
	mu.Lock()
	defer mu.Unlock()
	is.Equal(len(deliveries), sent)
	t.Logf("%d connections ended, %d sends repeated", killed.Load(), uncertain)
}

func TestTheListenerReturns(t *testing.T) {
	is := is.New(t)
	admin, schema := newPool(t), newSchema()
	a := open(t, newPool(t), schema)
	b := open(t, newPool(t, named(schema)), schema)
	w := newWebhook(t, a, uuid.New())
	is.Equal(len(claim(t, b)), 0)
	told := make(chan diverted.Change, 100)
	defer b.Watch(func(c diverted.Change) { told <- c })()
	waitForListener(t, b)
	terminate(t, admin, schema)
	hear := func() {
		t.Helper()
		select {
		case <-told:
		case <-time.After(time.Minute):
			t.Fatal("it is not told")
		}
	}
	hear() // at its return, since it may have missed something
	waitForListener(t, b)
	for len(told) > 0 {
		<-told
	}
	accept(t, a, message(t, w))
	hear()
}

// A standby that took over may lack the last changes of webhooks, and begin their generations anew with other ones.
func TestAfterAFailoverWebhooksAreNotThoseOfALostGeneration(t *testing.T) {
	is := is.New(t)
	admin, schema := newPool(t), newSchema()
	a := open(t, newPool(t, named(schema)), schema)
	b := open(t, newPool(t), schema)
	lost := newWebhook(t, a, uuid.New())
	w := newWebhook(t, a, lost.Tenant)
	knows(t, is, w, a, b)
	waitForListener(t, a)

	before := lost
	lost.Endpoint.URL = "https://receiver.example/lost"
	_, err := a.UpdateWebhook(t.Context(), lost)
	is.NoErr(err)
	lost.Version++
	knows(t, is, lost, a)
	record, err := diverted.EncodeWebhook(before)
	is.NoErr(err)
	_, err = admin.Exec(t.Context(), `UPDATE "`+schema+`".webhooks SET record = $1, version = $2, changed = changed - 1 WHERE locator = $3`,
		string(record), before.Version, uuid.UUID(lost.Locator))
	is.NoErr(err)
	_, err = admin.Exec(t.Context(), `UPDATE "`+schema+`".state SET generation = generation - 1`)
	is.NoErr(err)
	w.Endpoint.URL = "https://receiver.example/new"
	w, err = b.UpdateWebhook(t.Context(), w)
	is.NoErr(err)

	told := make(chan diverted.Change, 100)
	defer a.Watch(func(c diverted.Change) { told <- c })()
	terminate(t, admin, schema)
	<-told // it listens again
	knows(t, is, w, a)
	knows(t, is, before, a)
}

func TestAFullPoolHoldsUpACallNoLongerThanItsContext(t *testing.T) {
	is := is.New(t)
	pool := newPool(t, poolOf(1))
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	m := message(t, w)
	taken, err := pool.Acquire(t.Context())
	is.NoErr(err)
	for _, call := range []func(ctx context.Context) error{
		func(ctx context.Context) error {
			_, err := s.Accept(ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}})
			return err
		},
		func(ctx context.Context) error {
			_, err := s.Work(ctx, diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 1, Bytes: 1, Lease: time.Minute}, Refresh: true})
			return err
		},
		func(ctx context.Context) error { _, err := s.FetchWebhook(ctx, w.Key()); return err },
		func(ctx context.Context) error { return s.Suspend(ctx, w.Key()) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		is.True(isError(call(ctx), context.DeadlineExceeded))
		cancel()
	}
	taken.Release()
	accept(t, s, m) // whether it was accepted or not
	is.Equal(len(claim(t, s)), 1)
}

func TestAStatementTimeoutIsTheCallersError(t *testing.T) {
	is := is.New(t)
	admin, schema := newPool(t), newSchema()
	var hasty atomic.Bool // only while there is a lock: a busy machine may take as long for any statement
	s := open(t, newPool(t, func(c *pgxpool.Config) {
		c.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
			timeout := "0"
			if hasty.Load() {
				timeout = "100"
			}
			_, err := conn.Exec(ctx, `SET statement_timeout = `+timeout)
			return err == nil, err
		}
	}), schema)
	w := newWebhook(t, s, uuid.New())
	tx, err := admin.Begin(t.Context())
	is.NoErr(err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE `+schema+`.deliveries IN ACCESS EXCLUSIVE MODE`)
	is.NoErr(err)
	hasty.Store(true)
	m := message(t, w)
	_, err = s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{m}})
	answer, ok := errors.AsType[*pgconn.PgError](err)
	is.True(ok)
	is.Equal(answer.Code, "57014") // query_canceled
	_, err = s.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 1, Bytes: 1, Lease: time.Minute}, Refresh: true})
	_, ok = errors.AsType[*pgconn.PgError](err)
	is.True(ok)
	hasty.Store(false)
	is.NoErr(tx.Rollback(t.Context()))
	is.Equal(accept(t, s, m)[0].Deliveries[0].Status, diverted.Accepted) // nothing was changed
	is.Equal(len(claim(t, s)), 1)
}

func TestAServerThatBecomesReadOnlyIsNamed(t *testing.T) {
	is := is.New(t)
	var readOnly atomic.Bool
	pool := newPool(t, func(c *pgxpool.Config) {
		c.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
			value := "off"
			if readOnly.Load() {
				value = "on"
			}
			_, err := conn.Exec(ctx, `SET default_transaction_read_only = `+value)
			return err == nil, err
		}
	})
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	m := message(t, w)
	accept(t, s, m)
	readOnly.Store(true)
	_, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
	is.True(isError(err, diverted.ErrReadOnly))
	_, err = s.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 1, Bytes: 1, Lease: time.Minute}, Refresh: true})
	is.True(isError(err, diverted.ErrReadOnly))
	is.True(isError(s.Suspend(t.Context(), w.Key()), diverted.ErrReadOnly))
	page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w.Key()}) // reading goes on
	is.NoErr(err)
	is.Equal(len(page.Deliveries), 1)
	is.True(isError(tryOpen(pool, s.Schema()), diverted.ErrReadOnly))
	readOnly.Store(false)
	is.Equal(len(claim(t, s)), 1)
}

func TestATransactionThatTheServerRefusesToSerializeIsRepeated(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	// A sequence goes on when a transaction rolls back: of three transactions two fail.
	execute(t, pool, `
		CREATE SEQUENCE `+schema+`.tries;
		CREATE FUNCTION `+schema+`.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('`+schema+`.tries') % 3 <> 0 THEN
				RAISE EXCEPTION 'could not serialize access' USING ERRCODE = TG_ARGV[0];
			END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER fail AFTER INSERT OR UPDATE OR DELETE ON `+schema+`.deliveries FOR EACH STATEMENT EXECUTE FUNCTION `+schema+`.fail('40001')`)
	for range 5 {
		is.Equal(accept(t, s, message(t, w))[0].Deliveries[0].Status, diverted.Accepted)
		c := claim(t, s)
		is.Equal(len(c), 1)
		is.Equal(settle(t, s, delivered(c[0])), []diverted.Settled{{}})
	}
	// One that goes on failing is told, and not for ever repeated.
	execute(t, pool, `DROP TRIGGER fail ON `+schema+`.deliveries;
		CREATE FUNCTION `+schema+`.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';
		END $$;
		CREATE TRIGGER fail AFTER INSERT ON `+schema+`.deliveries FOR EACH STATEMENT EXECUTE FUNCTION `+schema+`.fails()`)
	_, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
	is.True(isError(err, diverted.ErrLocked))
}

func TestAHostsTransactionHoldsUpNobodyButThoseWhoSendTheSameEvent(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	e := newEvent(t)
	tx, err := pool.Begin(t.Context())
	is.NoErr(err)
	_, err = s.SendTx(t.Context(), tx, w.Tenant, w.Locator, e)
	is.NoErr(err)
	same, err := diverted.NewMessage(w.Tenant, w.Locator, e)
	is.NoErr(err)
	waits := make(chan diverted.MessageResult, 3)
	for range 3 { // more than there are accepters
		go func() { waits <- accept(t, s, same)[0] }()
	}
	began := time.Now()
	for time.Since(began) < time.Second {
		is.NoErr(accept(t, s, message(t, w))[0].Err)
	}
	is.Equal(len(waits), 0)
	is.NoErr(tx.Commit(t.Context()))
	for range 3 {
		is.Equal((<-waits).Deliveries[0].Status, diverted.AlreadyPending)
	}
}

func TestWhoeverGoesOnSendingAnEventThatAHostsTransactionHoldsHoldsUpNobody(t *testing.T) {
	is := is.New(t)
	host := newPool(t)
	s := open(t, newPool(t, poolOf(4)), newSchema())
	w := newWebhook(t, s, uuid.New())
	e := newEvent(t)
	tx, err := host.Begin(t.Context())
	is.NoErr(err)
	_, err = s.SendTx(t.Context(), tx, w.Tenant, w.Locator, e)
	is.NoErr(err)
	same, err := diverted.NewMessage(w.Tenant, w.Locator, e)
	is.NoErr(err)
	for range 8 { // more than there are connections, one after the other
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		_, err := s.Accept(ctx, diverted.AcceptRequest{Messages: []diverted.Message{same}})
		is.True(isError(err, context.DeadlineExceeded))
		cancel()
	}
	waits := make(chan diverted.MessageResult, 8)
	var reserved atomic.Int64
	request := diverted.AcceptRequest{Messages: []diverted.Message{same}, Claim: &diverted.ClaimRequest{
		Count: 1, Bytes: 1, Lease: time.Minute,
		Reserve: func(diverted.WebhookKey, int) int { reserved.Add(1); return 1 },
	}}
	for range cap(waits) { // and as many at once
		go func() {
			r, err := s.Accept(context.Background(), request)
			if err != nil {
				t.Error(err)
			}
			waits <- r.Messages[0]
		}()
	}
	began := time.Now()
	for time.Since(began) < time.Second {
		is.NoErr(accept(t, s, message(t, w))[0].Err)
	}
	is.True(len(claim(t, s)) > 0)
	is.True(time.Since(began) < 20*time.Second) // and the transaction lasts for ever
	is.Equal(len(waits), 0)
	is.NoErr(tx.Commit(t.Context()))
	is.True(reserved.Load() <= 2*int64(cap(waits))) // however often it is tried
	for range cap(waits) {
		is.Equal((<-waits).Deliveries[0].Status, diverted.AlreadyPending)
	}
}

func TestAFaultOfOneCallIsNotThatOfTheOthers(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	execute(t, pool, `ALTER TABLE `+schema+`.deliveries ADD CHECK (type <> 'bad.type')`) // stands for any fault of a row
	var group sync.WaitGroup
	errs := make([]error, 40)
	for i := range errs {
		m := message(t, w)
		if i%4 == 0 {
			m.EventType = "bad.type"
		}
		group.Go(func() {
			_, errs[i] = s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{m}})
		})
	}
	group.Wait()
	for i, err := range errs {
		is.Equal(err != nil, i%4 == 0)
	}
	is.Equal(len(claim(t, s)), 30)
}

var _ diverted.Store = (*postgres.Store)(nil)

package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/postgres"
)

// rowsOf counts the rows of the webhooks of a schema, and of all that belongs to them.
func rowsOf(t *testing.T, pool *pgxpool.Pool, schema string) (webhooks, others int) {
	t.Helper()
	err := pool.QueryRow(t.Context(), fmt.Sprintf(`
		SELECT (SELECT count(*) FROM %[1]s.webhooks),
			(SELECT count(*) FROM %[1]s.deliveries) + (SELECT count(*) FROM %[1]s.hours) + (SELECT count(*) FROM %[1]s.notices)`,
		schema)).Scan(&webhooks, &others)
	if err != nil {
		t.Fatal(err)
	}
	return webhooks, others
}

// purge purges until so many webhooks are left, and nothing that belongs to others. (The store purges too, and skips
// what it meets the test at.)
func purge(t *testing.T, s *postgres.Store, left int) {
	t.Helper()
	is := is.New(t)
	pool := newPool(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		is.NoErr(s.PurgeDeleted(ctx))
		if webhooks, others := rowsOf(t, pool, s.Schema()); webhooks == left && others == 0 {
			return
		}
	}
}

func TestAWebhookThatIsAlwaysSentToIsDiscarded(t *testing.T) {
	is := is.New(t)
	pool := newPool(t, poolOf(16))
	s := open(t, newPool(t), newSchema())
	w := newWebhook(t, s, uuid.New())
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	open := make(chan struct{}, 1000)
	for range 12 {
		group.Go(func() {
			for ctx.Err() == nil {
				tx, err := pool.Begin(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				event, err := diverted.NewEvent("order.paid", map[string]int{"order": 1234})
				if err == nil {
					_, err = s.PublishTx(t.Context(), tx, w.Tenant, event)
				}
				select {
				case open <- struct{}{}:
				default:
				}
				if err == nil {
					_, err = tx.Exec(t.Context(), `SELECT pg_sleep(0.05)`)
				}
				if err == nil {
					err = tx.Commit(t.Context())
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 24 {
		<-open
	}
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	is.NoErr(s.DeleteWebhook(bounded, w.Key(), true))
	_, err := s.FetchWebhook(t.Context(), w.Key())
	is.True(isError(err, diverted.ErrNotFound))
	stop()
	group.Wait()
	purge(t, s, 0)
}

func TestAWebhookIsDiscardedUnderATransactionThatSendsToIt(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		w, early, other := newWebhook(t, s, uuid.New()), newWebhook(t, s, uuid.New()), newWebhook(t, s, uuid.New())
		accept(t, s, message(t, w), message(t, other))
		late := o.begin(t, s)
		is.NoErr(late.exec(`SELECT count(*) FROM ` + s.Schema() + `.webhooks`)) // REPEATABLE READ sees what there is now
		_, err := late.send(early, newEvent(t))
		is.NoErr(err)
		tx := o.begin(t, s)
		_, err = tx.send(w, newEvent(t))
		is.NoErr(err)
		is.NoErr(s.DeleteWebhook(ctx, w.Key(), true)) // by the host itself, before it commits
		_, err = tx.send(w, newEvent(t))              // REPEATABLE READ does not know yet
		is.True(err == nil || isError(err, diverted.ErrNotFound))
		_, err = late.send(w, newEvent(t))
		is.True(err == nil || isError(err, diverted.ErrNotFound))

		// What can be purged is, and nobody waits for the host.
		is.NoErr(s.DeleteWebhook(ctx, other.Key(), true))
		purge(t, s, 2)
		is.NoErr(tx.commit())
		is.NoErr(s.PurgeDeleted(ctx))
		is.NoErr(late.commit())
		is.NoErr(s.DeleteWebhook(ctx, early.Key(), true))
		purge(t, s, 0)
	})
}

func TestAWebhookWithDeliveriesIsNotEmptyWhateverTheHostDoes(t *testing.T) {
	eachOutbox(t, func(t *testing.T, is *is.I, s *postgres.Store, o outbox) {
		w := newWebhook(t, s, uuid.New())
		accept(t, s, message(t, w))
		_, err := o.begin(t, s).send(w, newEvent(t))
		is.NoErr(err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		is.True(isError(s.DeleteWebhook(ctx, w.Key(), false), diverted.ErrNotEmpty))
	})
}

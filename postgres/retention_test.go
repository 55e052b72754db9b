package postgres_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/postgres"
)

// purged is what a purge beside the test said.
type purged struct {
	result diverted.PurgeResult
	err    error
}

func TestAPurgeLocksTheWebhookBeforeItsEvents(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	setAside(t, s, w.Key(), "503")
	execute(t, pool, `UPDATE `+schema+`.deliveries SET diverted_at = diverted_at - interval '2 hours'`)

	other, err := pool.Begin(t.Context())
	is.NoErr(err)
	defer other.Rollback(t.Context())
	_, err = other.Exec(t.Context(), `SELECT FROM `+schema+`.webhooks FOR NO KEY UPDATE`)
	is.NoErr(err)
	done := make(chan purged, 1)
	go func() {
		result, err := s.Purge(t.Context(), diverted.PurgeRequest{Retention: diverted.Retention{MaxAge: time.Hour}})
		done <- purged{result, err}
	}()
	waitForWaiter(t, pool, schema)
	_, err = other.Exec(t.Context(), `SELECT FROM `+schema+`.deliveries FOR UPDATE NOWAIT`)
	is.NoErr(err)
	is.NoErr(other.Commit(t.Context()))
	p := <-done
	is.NoErr(p.err)
	is.Equal(p.result.Webhooks, []diverted.Purged{{Webhook: w.Key(), Diverted: 1}})
}

func TestWhatIsDivertedAgainWhileAPurgeWaitsForItStays(t *testing.T) {
	for name, retention := range map[string]diverted.Retention{"age": {MaxAge: time.Hour}, "cap": {MaxPerWebhook: 1}} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			pool, schema := newPool(t), newSchema()
			s := open(t, pool, schema)
			w := newWebhook(t, s, uuid.New())
			again := setAside(t, s, w.Key(), "503")
			execute(t, pool, `UPDATE `+schema+`.deliveries SET diverted_at = diverted_at - interval '2 hours'`)
			setAside(t, s, w.Key(), "503")

			other, err := pool.Begin(t.Context())
			is.NoErr(err)
			defer other.Rollback(t.Context())
			_, err = other.Exec(t.Context(), `UPDATE `+schema+`.deliveries SET diverted_at = now() WHERE event = $1`, uuid.UUID(again.Event))
			is.NoErr(err)
			done := make(chan purged, 1)
			go func() {
				result, err := s.Purge(t.Context(), diverted.PurgeRequest{Retention: retention})
				done <- purged{result, err}
			}()
			waitForWaiter(t, pool, schema)
			is.NoErr(other.Commit(t.Context()))
			p := <-done
			is.NoErr(p.err)
			is.Equal(len(p.result.Webhooks), 0)
			_, err = s.FetchDiverted(t.Context(), again)
			is.NoErr(err)
		})
	}
}

func TestACapThatNothingReachesDoesNotStopAPurgeByAge(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	old, young := setAside(t, s, w.Key(), "503"), setAside(t, s, w.Key(), "503")
	_, err := pool.Exec(t.Context(), `UPDATE "`+s.Schema()+`".deliveries SET diverted_at = diverted_at - interval '1 hour' WHERE event = $1`, uuid.UUID(old.Event))
	is.NoErr(err)
	r, err := s.Purge(t.Context(), diverted.PurgeRequest{Retention: diverted.Retention{MaxAge: time.Minute, MaxPerWebhook: math.MaxInt}})
	is.NoErr(err)
	is.Equal(r.Webhooks, []diverted.Purged{{Webhook: w.Key(), Diverted: 1}})
	_, err = s.FetchDiverted(t.Context(), young)
	is.NoErr(err)
}

func TestAPurgeThatFailsTellsWhatItDeleted(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	tenant := uuid.New()
	first, second := newWebhook(t, s, tenant), newWebhook(t, s, tenant)
	setAside(t, s, first.Key(), "503")
	setAside(t, s, second.Key(), "503")
	execute(t, pool, `UPDATE `+schema+`.deliveries SET diverted_at = diverted_at - interval '2 hours'`)

	other, err := pool.Begin(t.Context())
	is.NoErr(err)
	defer other.Rollback(t.Context())
	_, err = other.Exec(t.Context(), `SELECT FROM `+schema+`.webhooks WHERE locator = $1 FOR UPDATE`, uuid.UUID(second.Locator))
	is.NoErr(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan purged, 1)
	go func() {
		result, err := s.Purge(ctx, diverted.PurgeRequest{Retention: diverted.Retention{MaxAge: time.Hour}})
		done <- purged{result, err}
	}()
	waitForWaiter(t, pool, schema)
	cancel()
	p := <-done
	is.True(isError(p.err, context.Canceled))
	is.Equal(p.result.Webhooks, []diverted.Purged{{Webhook: first.Key(), Diverted: 1}})
}

func TestWhatASuspendedWebhookHoldsIsAsOldAsItsAcceptanceOrTheSuspension(t *testing.T) {
	for _, tt := range []struct {
		name, accepted, suspended string // ago
		want                      int
	}{
		{"both long ago", "2 hours", "61 minutes", 2},
		{"suspended just now", "2 hours", "59 minutes", 0},
		{"accepted just now", "59 minutes", "2 hours", 0},
		{"disabled", "2 hours", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			pool, schema := newPool(t), newSchema()
			s := open(t, pool, schema)
			w := newWebhook(t, s, uuid.New())
			accept(t, s, message(t, w), message(t, w), message(t, w))
			c := claim(t, s)
			is.Equal(len(c), 3) // of which one stays claimed
			waits, back := delivered(c[0]), delivered(c[1])
			waits.Kind, waits.Wait = diverted.OutcomeRetry, 3*time.Hour
			waits.Failure = &diverted.Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503}
			back.Kind = diverted.OutcomeReturn
			settle(t, s, waits, back)
			if tt.suspended != "" {
				is.NoErr(s.Suspend(t.Context(), w.Key()))
				execute(t, pool, `UPDATE `+schema+`.webhooks SET suspended_at = now() - $1::text::interval`, tt.suspended)
			} else {
				w.Enabled = false
				_, err := s.UpdateWebhook(t.Context(), w)
				is.NoErr(err)
			}
			execute(t, pool, `UPDATE `+schema+`.deliveries SET accepted_at = now() - $1::text::interval`, tt.accepted)
			result, err := s.Purge(t.Context(), diverted.PurgeRequest{Retention: diverted.Retention{MaxAge: time.Hour}})
			is.NoErr(err)
			n := 0
			for _, p := range result.Webhooks {
				n += p.Pending
			}
			is.Equal(n, tt.want)
			page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w.Key()})
			is.NoErr(err)
			is.Equal(len(page.Deliveries), 3-tt.want)
		})
	}
}

func TestAPurgeOfRetriesReadsAsManyAsItDeletes(t *testing.T) {
	is := is.New(t)
	const waiting = 20_000
	// What was changed is read again and again while any transaction may still see what it was. The server's own look at
	// some other table is one, so it may take some tries.
	first, second := math.MaxInt, math.MaxInt
	for n := 0; n < 1 || n < 5 && (first >= 10*waiting || second >= 10*diverted.DefaultBulk); n++ {
		one, two := purgeRetries(t, waiting)
		t.Log(one, two)
		first, second = min(first, one), min(second, two)
	}
	is.True(first < 10*waiting)
	is.True(second < 10*diverted.DefaultBulk)
}

// purgeRetries purges some of as many retries, and then some more, and tells what either reads.
func purgeRetries(t *testing.T, waiting int) (first, second int) {
	t.Helper()
	is := is.New(t)
	schema, w := stale(t, true, 0, 0)
	pool := newPool(t)
	execute(t, pool, `UPDATE `+schema+`.webhooks SET suspended_at = now() - interval '1 hour'`)
	execute(t, pool, `
		INSERT INTO `+schema+`.deliveries (webhook, event, request, accepted_at, type, body, due)
		SELECT w.id, gen_random_uuid(), gen_random_uuid(), now() - interval '1 hour', 'a.b', '{}', now() + (1 + random()) * interval '1 hour'
		FROM `+schema+`.webhooks w, generate_series(1, $1::int)`, waiting)
	purge := func() int {
		return reads(t, schema, func(s *postgres.Store) {
			result, err := s.Purge(t.Context(), diverted.PurgeRequest{Retention: diverted.Retention{MaxAge: time.Minute}})
			is.NoErr(err)
			is.Equal(result.Webhooks, []diverted.Purged{{Webhook: w.Key(), Pending: diverted.DefaultBulk}})
		})
	}
	first = purge() // releases them all
	execute(t, pool, `VACUUM `+schema+`.deliveries`)
	return first, purge()
}

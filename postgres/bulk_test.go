package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

func TestADryRunTakesNoLock(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	setAside(t, s, w.Key(), "503")
	held := newWebhook(t, s, w.Tenant)
	accept(t, s, message(t, held))
	is.NoErr(s.Suspend(t.Context(), held.Key()))

	other, err := pool.Begin(t.Context())
	is.NoErr(err)
	defer other.Rollback(t.Context())
	for _, table := range []string{"webhooks", "deliveries"} {
		_, err = other.Exec(t.Context(), `SELECT FROM `+schema+`.`+table+` FOR UPDATE`)
		is.NoErr(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, tt := range []struct {
		call    func(context.Context, diverted.BulkRequest) (diverted.BulkResult, error)
		webhook diverted.WebhookKey
	}{{s.ResendAll, w.Key()}, {s.DeleteAll, w.Key()}, {s.DivertAll, held.Key()}} {
		result, err := tt.call(ctx, diverted.BulkRequest{Webhook: tt.webhook, DryRun: true})
		is.NoErr(err)
		is.Equal([]int{result.Matched, result.Done}, []int{1, 0})
	}
}

// What a step selects is changed only if it still is what was asked for.
func TestABulkStepLeavesWhatChangedSinceItWasSelected(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	later, otherwise := setAside(t, s, w.Key(), "503"), setAside(t, s, w.Key(), "503")
	setAside(t, s, w.Key(), "503")

	other, err := pool.Begin(t.Context())
	is.NoErr(err)
	defer other.Rollback(t.Context())
	_, err = other.Exec(t.Context(), `SELECT FROM `+schema+`.webhooks FOR NO KEY UPDATE`)
	is.NoErr(err)
	type deleted struct {
		result diverted.BulkResult
		err    error
	}
	done := make(chan deleted, 1)
	go func() {
		result, err := s.DeleteAll(t.Context(), diverted.BulkRequest{Webhook: w.Key(), Filter: diverted.DivertedFilter{Trigger: "503"}})
		done <- deleted{result, err}
	}()
	waitForWaiter(t, pool, schema)
	_, err = other.Exec(t.Context(), `UPDATE `+schema+`.deliveries SET diverted_at = now() + interval '1 hour' WHERE event = $1`, uuid.UUID(later.Event))
	is.NoErr(err)
	_, err = other.Exec(t.Context(), `UPDATE `+schema+`.deliveries SET failure = replace(failure, '503', '404') WHERE event = $1`, uuid.UUID(otherwise.Event))
	is.NoErr(err)
	is.NoErr(other.Commit(t.Context()))
	d := <-done
	is.NoErr(d.err)
	is.Equal([]int{d.result.Matched, d.result.Done}, []int{3, 1})
	for _, key := range []diverted.Key{later, otherwise} {
		_, err := s.FetchDiverted(t.Context(), key)
		is.NoErr(err)
	}
}

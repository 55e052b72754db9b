package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

func TestADamagedRecordIsKeptAndItsDeliveriesAreHandedOutSayingSo(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New(), func(w *diverted.Webhook) { w.EventTypes = []string{"policy.*"} })
	execute(t, pool, `UPDATE `+schema+`.webhooks SET record = '{"name": damaged', changed = 2; UPDATE `+schema+`.state SET generation = 2`)
	_, err := s.FetchWebhook(t.Context(), w.Key())
	is.True(isError(err, diverted.ErrDamaged))
	_, err = s.ListWebhooks(t.Context(), diverted.WebhookQuery{Tenant: w.Tenant})
	is.True(isError(err, diverted.ErrDamaged))

	published := message(t, diverted.Webhook{Tenant: w.Tenant}) // of any type: it is not to be lost
	is.Equal(len(accept(t, s, published)[0].Deliveries), 1)
	tx, err := pool.Begin(t.Context())
	is.NoErr(err)
	all, err := s.PublishTx(t.Context(), tx, w.Tenant, newEvent(t))
	is.NoErr(err)
	is.Equal(len(all), 1)
	is.NoErr(tx.Commit(t.Context()))
	claims := claim(t, s)
	is.Equal(len(claims), 2)
	for _, c := range claims {
		is.True(errors.Is(c.Err, diverted.ErrDamaged))
	}

	is.NoErr(s.Suspend(t.Context(), w.Key()))
	is.NoErr(s.Unsuspend(t.Context(), w.Key()))
	var record string
	is.NoErr(pool.QueryRow(t.Context(), `SELECT record FROM `+schema+`.webhooks`).Scan(&record))
	is.Equal(record, `{"name": damaged`) // it may be mended
	_, err = s.PutWebhook(t.Context(), w)
	is.NoErr(err)
	_, err = s.FetchWebhook(t.Context(), w.Key())
	is.NoErr(err)
}

func TestADamagedNoticeIsForgotten(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	alert := func() {
		t.Helper()
		accept(t, s, message(t, w))
		c := claim(t, s)
		is.Equal(len(c), 1)
		o := delivered(c[0])
		o.Kind, o.Alert, o.Failure = diverted.OutcomeDrop, true, &diverted.Failure{Trigger: "500", Status: 500}
		is.Equal(settle(t, s, o), []diverted.Settled{{}})
	}
	notices := diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 5, Lease: time.Minute}}
	alert()
	execute(t, pool, `UPDATE `+schema+`.notices SET open = '{'`)
	r, err := s.Work(t.Context(), notices)
	is.NoErr(err)
	is.Equal(len(r.Notices), 0)
	is.True(r.Next != 0)
	alert()
	execute(t, pool, `UPDATE `+schema+`.notices SET open = '{'`)
	alert() // begins anew
	r, err = s.Work(t.Context(), notices)
	is.NoErr(err)
	is.Equal(len(r.Notices), 1)
	is.Equal(r.Notices[0].Notice.Failures, 1)
}

func TestDivertPendingSetsAsideWhatARestoreWouldSendAgain(t *testing.T) {
	is := is.New(t)
	s := open(t, newPool(t), newSchema())
	w, held := newWebhook(t, s, uuid.New()), newWebhook(t, s, uuid.New())
	is.NoErr(s.Suspend(t.Context(), held.Key()))
	fill(t, s, []diverted.Webhook{w}, 1010) // more than two steps
	fill(t, s, []diverted.Webhook{held}, 1)
	claims := claim(t, s)[:2]
	retry := delivered(claims[1])
	retry.Kind, retry.Wait, retry.Failure = diverted.OutcomeRetry, time.Minute, &diverted.Failure{Trigger: "503", Status: 503}
	settle(t, s, retry)
	told := 0
	defer s.Watch(func(c diverted.Change) {
		if c.Kind == diverted.ChangeDiverted {
			told++
		}
	})()

	pending := func(r diverted.DivertPendingRequest) int {
		t.Helper()
		n, err := s.DivertPending(t.Context(), r)
		is.NoErr(err)
		return n
	}
	_, err := s.DivertPending(t.Context(), diverted.DivertPendingRequest{})
	is.True(isError(err, diverted.ErrInvalid))
	soon := time.Now().Add(time.Hour)
	is.Equal(pending(diverted.DivertPendingRequest{Before: time.Now().Add(-time.Hour)}), 0)
	page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: held.Key()})
	is.NoErr(err)
	accepted := page.Deliveries[0].AcceptedAt
	is.Equal(pending(diverted.DivertPendingRequest{Before: accepted, Webhook: held.Key()}), 0)
	is.Equal(pending(diverted.DivertPendingRequest{Before: accepted.Add(1), Webhook: held.Key()}), 1) // later by a nanosecond
	is.Equal(pending(diverted.DivertPendingRequest{Before: soon}), 1010)
	is.Equal(pending(diverted.DivertPendingRequest{Before: soon}), 0) // and is safe to repeat
	is.Equal(told, 1011)

	is.Equal(settle(t, s, delivered(claims[0])), []diverted.Settled{{Stale: true}})
	is.Equal(len(claim(t, s)), 0)
	d, err := s.FetchDiverted(t.Context(), retry.Key)
	is.NoErr(err)
	is.Equal(d.Attempts, 1)
	is.Equal(d.Failure.Message, (diverted.DivertPendingRequest{Before: soon}).Failure().Message)
	is.True(!d.DivertedAt.IsZero() && !d.Failure.At.IsZero())
	is.NoErr(s.Resend(t.Context(), retry.Key))
	is.Equal(len(claim(t, s)), 1)
}

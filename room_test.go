package diverted_test

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

func TestSendAndPublishRefuseWhatAWebhookHasNoRoomForUntilItHas(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.MaxPendingPerWebhook = 2
		full, free := w.webhook("full"), w.webhook("free")
		for range 2 {
			w.send(full)
		}
		d := w.dispatcher()
		event := w.event()
		a, err := d.Send(w.ctx, full.Tenant, full.Webhook, event)
		w.is.True(errors.Is(err, diverted.ErrFull))
		w.is.Equal(a.Status, diverted.Refused)
		all, err := d.Publish(w.ctx, tenant, event)
		w.is.True(errors.Is(err, diverted.ErrFull))
		w.is.Equal(len(all), 2)
		for _, a := range all {
			w.is.Equal(a.Status == diverted.Accepted, a.Webhook == free.Webhook)
		}
		w.is.Equal(len(w.pending(full)), 2)
		w.is.Equal(len(w.pending(free)), 1)

		w.run()
		w.sleep(time.Second)
		w.is.True(w.gone(full))
		w.send(full)
		w.is.Equal(w.log.count("level=ERROR"), 0) // the caller is told, not the log
	})
}

func TestAStoreThatTakesTooMuchRefusesToSendAndDeliversAllTheSame(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.MaxStoreBytes = 2 << 20
		hook := w.webhook("a")
		sent := 0
		for {
			_, err := w.dispatcher().Send(w.ctx, hook.Tenant, hook.Webhook, w.event())
			if errors.Is(err, diverted.ErrFull) {
				break
			}
			w.is.NoErr(err)
			sent++
			w.is.True(sent < 2000)
		}
		w.run()
		w.sleep(time.Minute)
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), sent)
		w.send(hook)
	})
}

func TestConfigRefusesBoundsBelowZero(t *testing.T) {
	is := is.New(t)
	is.True(errors.Is(diverted.Config{MaxPendingPerWebhook: -1}.Validate(), diverted.ErrInvalid))
	is.True(errors.Is(diverted.Config{MaxStoreBytes: -1}.Validate(), diverted.ErrInvalid))
}

func TestOnSQLiteWhatAnotherProcessAcceptsCountsWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		ctx := t.Context()
		path := filepath.Join(t.TempDir(), "webhooks.db")
		open := func() *diverted.SQLiteStore {
			s, err := diverted.OpenSQLite(ctx, path)
			is.NoErr(err)
			return s
		}
		ours, theirs := open(), open()
		defer ours.Close()
		defer theirs.Close()
		hook, err := ours.CreateWebhook(ctx, diverted.NewWebhook(tenant, "a", "https://receiver.example/a", "*"))
		is.NoErr(err)
		send := func(s diverted.Store) diverted.AcceptStatus {
			m := diverted.Message{
				Tenant: tenant, Webhook: hook.Locator, Event: ulid.Make(), RequestLocator: ulid.Make(),
				EventType: "github.push", Body: []byte(`{}`),
			}
			r, err := s.Accept(ctx, diverted.AcceptRequest{Messages: []diverted.Message{m}, MaxPending: 3})
			is.NoErr(err)
			return r.Messages[0].Deliveries[0].Status
		}
		is.Equal(send(ours), diverted.Accepted)
		is.Equal(send(theirs), diverted.Accepted)
		is.Equal(send(theirs), diverted.Accepted)
		is.Equal(send(theirs), diverted.Refused)
		time.Sleep(time.Second)
		is.Equal(send(ours), diverted.Refused)
	})
}

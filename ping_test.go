package diverted_test

import (
	"errors"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

func TestPingMakesOneSignedAttemptOutsideTheQueue(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", disabled, func(w *diverted.Webhook) {
			w.Endpoint.HMACEnabled, w.Endpoint.Secret = true, alertSecret
		})
		result, err := w.dispatcher().Ping(w.ctx, hook)
		w.is.NoErr(err)
		w.is.True(result.Delivered)
		m := w.receiver.got()[0]
		w.is.NoErr(diverted.Verify(m.header, m.body, alertSecret))
		event, err := diverted.DecodeEvent(m.body)
		w.is.NoErr(err)
		w.is.Equal(event.Type, diverted.PingType)
		w.is.Equal(m.id, event.Locator.String())

		w.receiver.answers(status(503))
		result, err = w.d.Ping(w.ctx, hook)
		w.is.NoErr(err)
		w.is.True(!result.Delivered)
		w.is.Equal(result.Failure.Trigger, diverted.Trigger("503"))
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), 2)

		_, err = w.d.Ping(w.ctx, diverted.WebhookKey{Tenant: tenant, Webhook: ulid.Make()})
		w.is.True(errors.Is(err, diverted.ErrNotFound))
	})
}

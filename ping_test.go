package diverted_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

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

func TestPingLeavesNoConnectionWhereNothingRuns(t *testing.T) {
	is := is.New(t)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	store := diverted.NewMemoryStore()
	hook, err := store.CreateWebhook(t.Context(), diverted.NewWebhook(tenant, "a", server.URL, "*"))
	is.NoErr(err)
	d, err := diverted.NewDispatcher(store, diverted.Config{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	is.NoErr(err)
	before := goleak.IgnoreCurrent()
	result, err := d.Ping(t.Context(), hook.Key())
	is.NoErr(err)
	is.True(result.Delivered)
	is.NoErr(goleak.Find(before))
}

func TestPingLeavesTheHostsConnectionsAlone(t *testing.T) {
	is := is.New(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var connections atomic.Int64
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	get := func() {
		r, err := (&http.Client{Transport: transport}).Get(server.URL)
		is.NoErr(err)
		_, err = io.Copy(io.Discard, r.Body)
		is.NoErr(err)
		is.NoErr(r.Body.Close())
	}
	store := diverted.NewMemoryStore()
	hook, err := store.CreateWebhook(t.Context(), diverted.NewWebhook(tenant, "a", "http://127.0.0.1:1/hook", "*"))
	is.NoErr(err)
	d, err := diverted.NewDispatcher(store, diverted.Config{Transport: transport})
	is.NoErr(err)
	get()
	_, err = d.Ping(t.Context(), hook.Key()) // of another receiver
	is.NoErr(err)
	get()
	is.Equal(connections.Load(), int64(1))
}

package consoletest

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
)

// service is a host with a console under /ops/console/, a dispatcher that runs, and a receiver beside it.
type service struct {
	t       *testing.T
	is      *is.I
	tenant  uuid.UUID
	store   *diverted.MemoryStore
	history *history
	address string

	receiver *httptest.Server
	answer   atomic.Int64 // the status of the receiver's answers
	mu       sync.Mutex
	received map[string]int // by webhook-id
}

// newService starts one whose console is as usual, unless change says otherwise.
func newService(t *testing.T, change ...func(*console.Config)) *service {
	t.Helper()
	s := &service{t: t, is: is.New(t), tenant: uuid.MustParse("7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11"), received: map[string]int{}}
	s.answer.Store(http.StatusServiceUnavailable)
	s.receiver = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.received[r.Header.Get("webhook-id")]++
		s.mu.Unlock()
		w.WriteHeader(int(s.answer.Load()))
		_, _ = w.Write([]byte(`{"error":"down for maintenance"}`))
	}))
	t.Cleanup(s.receiver.Close)

	s.store = diverted.NewMemoryStore()
	t.Cleanup(func() { _ = s.store.Close() })
	s.history = &history{MemoryStore: s.store}
	log := slog.New(slog.DiscardHandler)
	dispatcher, err := diverted.NewDispatcher(s.store, diverted.Config{Logger: log, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	s.is.NoErr(err)
	config := console.Config{Store: s.history, Authorize: httpapi.AllowAll, Pinger: dispatcher, Logger: slog.Default()}
	for _, f := range change {
		f(&config)
	}
	handler, err := console.New(config)
	s.is.NoErr(err)
	mux := http.NewServeMux()
	mux.Handle("/ops/console/", handler)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.address = server.URL + "/ops/console/"

	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- dispatcher.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		s.is.NoErr(<-ended)
	})
	return s
}

// webhook creates one that the receiver is behind.
func (s *service) webhook(name string, change ...func(*diverted.Webhook)) diverted.Webhook {
	s.t.Helper()
	w := diverted.NewWebhook(s.tenant, name, s.receiver.URL+"/hooks/in", "order.*", "invoice.*")
	for _, f := range change {
		f(&w)
	}
	w, err := s.store.CreateWebhook(s.t.Context(), w)
	s.is.NoErr(err)
	return w
}

// divert sets an event aside: the nth of the real payloads.
func (s *service) divert(w diverted.Webhook, n int, change ...func(*diverted.DivertedEvent)) diverted.DivertedEvent {
	s.t.Helper()
	payloads := testdata.Payloads()
	payload := payloads[n%len(payloads)]
	event, err := diverted.NewEvent(payload.Type, payload.Data)
	s.is.NoErr(err)
	body, err := event.Encode()
	s.is.NoErr(err)
	d := diverted.DivertedEvent{
		Key: diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: event.Locator}, RequestLocator: event.RequestLocator, EventType: event.Type, Body: body,
		Failure: diverted.Failure{Trigger: "503", Message: "answered 503 Service Unavailable: " + `{"error":"down for maintenance"}`, Status: 503, Attempt: 1, At: time.Now()},
	}
	for _, f := range change {
		f(&d)
	}
	s.is.NoErr(s.store.Divert(s.t.Context(), d))
	return d
}

// counts are how often each event was received.
func (s *service) counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.received)
}

func (s *service) webhookAddress(w diverted.Webhook) string {
	return s.address + "tenants/" + s.tenant.String() + "/webhooks/" + w.Locator.String()
}

func (s *service) eventAddress(key diverted.Key) string {
	return s.address + "tenants/" + key.Tenant.String() + "/webhooks/" + key.Webhook.String() + "/diverted/" + key.Event.String()
}

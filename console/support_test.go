package console_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
)

var (
	tenant = uuid.MustParse("7f1f6a0e-4c5b-4a54-9a0e-2f6f4f3f1c11")
	other  = uuid.MustParse("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
)

// site is a console on a memory store, with what a test wants to see of it.
type site struct {
	t     *testing.T
	is    *is.I
	store *diverted.MemoryStore
	http.Handler
	log *bytes.Buffer
	// status is what the receiver answers a ping.
	status int
}

// receiver answers messages in place of the network.
type receiver func(*http.Request) int

func (f receiver) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: f(r), Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// newSite returns a console that lets everybody do everything, unless change says otherwise.
func newSite(t *testing.T, change ...func(*console.Config)) *site {
	t.Helper()
	s := &site{t: t, is: is.New(t), store: diverted.NewMemoryStore(), log: &bytes.Buffer{}, status: 200}
	t.Cleanup(func() { _ = s.store.Close() })
	dispatcher, err := diverted.NewDispatcher(s.store, diverted.Config{
		Logger:    slog.New(slog.DiscardHandler),
		Transport: receiver(func(*http.Request) int { return s.status }),
	})
	s.is.NoErr(err)
	config := console.Config{
		Store: s.store, Authorize: httpapi.AllowAll, Pinger: dispatcher,
		Logger: slog.New(slog.NewJSONHandler(s.log, nil)),
	}
	for _, f := range change {
		f(&config)
	}
	s.Handler, err = console.New(config)
	s.is.NoErr(err)
	return s
}

// permitting has the console let everybody do what needs these permissions alone.
func permitting(permissions ...httpapi.Permission) func(*console.Config) {
	return func(c *console.Config) {
		c.Authorize = func(_ *http.Request, _ uuid.UUID, needs ...httpapi.Permission) error {
			for _, p := range needs {
				if !strings.Contains(list(permissions), " "+string(p)+" ") {
					return httpapi.ErrForbidden
				}
			}
			return nil
		}
	}
}

func list(permissions []httpapi.Permission) string {
	var b strings.Builder
	for _, p := range permissions {
		b.WriteString(" " + string(p) + " ")
	}
	return b.String()
}

// page is an answer as a browser sees it.
type page struct {
	*http.Response
	body string
}

func (p page) has(text string) bool { return strings.Contains(p.body, text) }

func (s *site) get(target string, headers ...string) page {
	return s.do("GET", target, nil, headers...)
}

// follow asks for a page as a browser does that one of the console's own led there.
func (s *site) follow(target string) page { return s.get(target, "Sec-Fetch-Site", "same-origin") }

func (s *site) post(target string, form url.Values, headers ...string) page {
	return s.do("POST", target, form, append([]string{"Sec-Fetch-Site", "same-origin"}, headers...)...)
}

func (s *site) do(method, target string, form url.Values, headers ...string) page {
	s.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(s.t.Context(), method, target, body)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return page{w.Result(), w.Body.String()}
}

// webhook creates a webhook of the tenant, with a locator that rises with n.
func (s *site) webhook(n byte, change ...func(*diverted.Webhook)) diverted.Webhook {
	s.t.Helper()
	w := diverted.NewWebhook(tenant, "orders", "https://receiver.example/hook", "*")
	w.Locator = locator(n)
	for _, f := range change {
		f(&w)
	}
	w, err := s.store.CreateWebhook(s.t.Context(), w)
	s.is.NoErr(err)
	return w
}

// divert sets an event aside: a real payload, under a locator that rises with n.
func (s *site) divert(webhook diverted.WebhookKey, n byte, change ...func(*diverted.DivertedEvent)) diverted.DivertedEvent {
	s.t.Helper()
	payload := testdata.Payloads()[n]
	event := diverted.Event{Locator: locator(n), RequestLocator: locator(200), Timestamp: time.Now(), Type: payload.Type, Data: payload.Data}
	body, err := event.Encode()
	s.is.NoErr(err)
	d := diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: event.Locator},
		RequestLocator: event.RequestLocator,
		Failure:        diverted.Failure{Trigger: "503", Message: "answered 503 Service Unavailable", Status: 503, At: time.Now().Add(-time.Hour)},
		EventType:      event.Type,
		Body:           body,
	}
	for _, f := range change {
		f(&d)
	}
	s.is.NoErr(s.store.Divert(s.t.Context(), d))
	return d
}

// held returns how many diverted events a webhook has.
func (s *site) held(webhook diverted.WebhookKey) int {
	s.t.Helper()
	page, err := s.store.ListDiverted(s.t.Context(), diverted.DivertedQuery{Webhook: webhook, Limit: diverted.MaxPage})
	s.is.NoErr(err)
	return len(page.Events)
}

func locator(n byte) ulid.ULID { return ulid.ULID{1, 0xab, 15: n} }

func webhooksPath(owner uuid.UUID) string { return "/console/tenants/" + owner.String() + "/webhooks" }

func webhookPath(k diverted.WebhookKey) string {
	return webhooksPath(k.Tenant) + "/" + k.Webhook.String()
}

func eventPath(k diverted.Key) string {
	return webhookPath(k.WebhookKey()) + "/diverted/" + k.Event.String()
}

package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

var (
	tenant  = uuid.MustParse("7f1f6a0e-4c5b-4a54-9a0e-2f6f4f3f1c11")
	foreign = uuid.MustParse("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
	failed  = time.Date(2026, 11, 23, 17, 58, 0, 123_456_789, time.FixedZone("", 3600))
)

// api is a handler on a memory store, with what a test wants to see of it.
type api struct {
	t     *testing.T
	is    *is.I
	store diverted.Store
	// asked counts what the handler asked of the store, by method. fail, if set, is returned by all of them.
	asked *watched
	http.Handler
	log *bytes.Buffer
	// posts are the messages that the dispatcher sent, status is what they are answered.
	posts  []*http.Request
	status int
}

// receiver answers messages in place of the network.
type receiver func(*http.Request) int

func (f receiver) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: f(r), Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// newAPI returns an API that lets everybody do everything, unless change says otherwise.
func newAPI(t *testing.T, change ...func(*httpapi.Config)) *api {
	t.Helper()
	a := &api{t: t, is: is.New(t), store: diverted.NewMemoryStore(), log: &bytes.Buffer{}}
	t.Cleanup(func() { _ = a.store.Close() })
	a.asked = &watched{Store: a.store}
	dispatcher, err := diverted.NewDispatcher(a.store, diverted.Config{Logger: slog.New(slog.DiscardHandler), Transport: receiver(func(r *http.Request) int {
		a.posts = append(a.posts, r)
		return a.status
	})})
	a.is.NoErr(err)
	a.status = 200
	config := httpapi.Config{
		Diverted:  a.asked,
		Webhooks:  a.asked,
		Publisher: dispatcher,
		Pinger:    dispatcher,
		Authorize: httpapi.AllowAll,
		Logger:    slog.New(slog.NewJSONHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&config)
	}
	h, err := httpapi.New(config)
	a.is.NoErr(err)
	a.Handler = recorded(t, h)
	return a
}

// watched is a store that counts what it is asked, and that can fail or panic. It can all that its store can.
type watched struct {
	diverted.Store
	mu    sync.Mutex
	calls int
	fail  error
	panic any
}

func (w *watched) called() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	if w.panic != nil {
		panic(w.panic)
	}
	return w.fail
}

func (w *watched) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

func (w *watched) FetchDiverted(ctx context.Context, key diverted.Key) (diverted.DivertedEvent, error) {
	if err := w.called(); err != nil {
		return diverted.DivertedEvent{}, err
	}
	return w.Store.FetchDiverted(ctx, key)
}

func (w *watched) ListDiverted(ctx context.Context, q diverted.DivertedQuery) (diverted.DivertedPage, error) {
	if err := w.called(); err != nil {
		return diverted.DivertedPage{}, err
	}
	return w.Store.ListDiverted(ctx, q)
}

func (w *watched) Resend(ctx context.Context, key diverted.Key) error {
	if err := w.called(); err != nil {
		return err
	}
	return w.Store.Resend(ctx, key)
}

func (w *watched) DeleteDiverted(ctx context.Context, key diverted.Key) error {
	if err := w.called(); err != nil {
		return err
	}
	return w.Store.DeleteDiverted(ctx, key)
}

func (w *watched) DeleteResent(ctx context.Context, event diverted.DivertedEvent) error {
	if err := w.called(); err != nil {
		return err
	}
	return w.Store.DeleteResent(ctx, event)
}

func (w *watched) CreateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := w.called(); err != nil {
		return diverted.Webhook{}, err
	}
	return w.Store.CreateWebhook(ctx, webhook)
}

func (w *watched) UpdateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := w.called(); err != nil {
		return diverted.Webhook{}, err
	}
	return w.Store.UpdateWebhook(ctx, webhook)
}

func (w *watched) FetchWebhook(ctx context.Context, key diverted.WebhookKey) (diverted.Webhook, error) {
	if err := w.called(); err != nil {
		return diverted.Webhook{}, err
	}
	return w.Store.FetchWebhook(ctx, key)
}

func (w *watched) ListWebhooks(ctx context.Context, q diverted.WebhookQuery) (diverted.WebhookPage, error) {
	if err := w.called(); err != nil {
		return diverted.WebhookPage{}, err
	}
	return w.Store.ListWebhooks(ctx, q)
}

func (w *watched) DeleteWebhook(ctx context.Context, key diverted.WebhookKey, discard bool) error {
	if err := w.called(); err != nil {
		return err
	}
	return w.Store.DeleteWebhook(ctx, key, discard)
}

func (w *watched) Suspend(ctx context.Context, key diverted.WebhookKey) error {
	if err := w.called(); err != nil {
		return err
	}
	return w.Store.Suspend(ctx, key)
}

func (w *watched) Unsuspend(ctx context.Context, key diverted.WebhookKey) error {
	if err := w.called(); err != nil {
		return err
	}
	return w.Store.Unsuspend(ctx, key)
}

func (w *watched) ListPending(ctx context.Context, q diverted.DivertedQuery) (diverted.PendingPage, error) {
	if err := w.called(); err != nil {
		return diverted.PendingPage{}, err
	}
	return w.Store.ListPending(ctx, q)
}

func (w *watched) ResendAll(ctx context.Context, r diverted.BulkRequest) (diverted.BulkResult, error) {
	if err := w.called(); err != nil {
		return diverted.BulkResult{}, err
	}
	return w.Store.(diverted.BulkStore).ResendAll(ctx, r)
}

func (w *watched) DeleteAll(ctx context.Context, r diverted.BulkRequest) (diverted.BulkResult, error) {
	if err := w.called(); err != nil {
		return diverted.BulkResult{}, err
	}
	return w.Store.(diverted.BulkStore).DeleteAll(ctx, r)
}

func (w *watched) DivertAll(ctx context.Context, r diverted.BulkRequest) (diverted.BulkResult, error) {
	if err := w.called(); err != nil {
		return diverted.BulkResult{}, err
	}
	return w.Store.(diverted.BulkStore).DivertAll(ctx, r)
}

func (w *watched) Stats(ctx context.Context, q diverted.StatsQuery) (diverted.Stats, error) {
	if err := w.called(); err != nil {
		return diverted.Stats{}, err
	}
	return w.Store.(diverted.StatsStore).Stats(ctx, q)
}

func (w *watched) Purge(ctx context.Context, r diverted.PurgeRequest) (diverted.PurgeResult, error) {
	if err := w.called(); err != nil {
		return diverted.PurgeResult{}, err
	}
	return w.Store.(diverted.RetentionStore).Purge(ctx, r)
}

func (w *watched) Expunge(ctx context.Context, key diverted.Key) error {
	if err := w.called(); err != nil {
		return err
	}
	return w.Store.(diverted.RetentionStore).Expunge(ctx, key)
}

// result is an answer as a client sees it.
type result struct {
	*http.Response
	body string
}

// code is the code of a problem, "" if the answer is none.
func (r result) code() string { return r.problem().Code }

type problem struct {
	Type   string
	Title  string
	Status int
	Detail string
	Code   string
	Errors []struct{ Path, Detail string }
	// Locator is that of an event to be repeated.
	Locator string
}

func (r result) problem() problem {
	var p problem
	if r.Header.Get("Content-Type") == "application/problem+json" {
		_ = json.Unmarshal([]byte(r.body), &p)
	}
	return p
}

// names says whether the problem lists a fault of this path.
func (r result) names(path string) bool {
	for _, e := range r.problem().Errors {
		if e.Path == path {
			return true
		}
	}
	return false
}

// do makes a request and returns its answer. headers are name, value pairs.
func (a *api) do(method, target, body string, headers ...string) result {
	a.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(a.t.Context(), method, target, reader)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	res := result{Response: w.Result(), body: w.Body.String()}

	a.is.Equal(res.Header.Get("Cache-Control"), "no-store")                 // on every answer
	a.is.Equal(res.Header.Get("X-Content-Type-Options"), "nosniff")         // on every answer
	a.is.True(res.StatusCode < 400 || method == "HEAD" || res.code() != "") // every error is a problem
	if p := res.problem(); p.Code != "" {
		a.is.Equal(p.Status, res.StatusCode)
		a.is.True(strings.HasSuffix(p.Type, "#"+p.Code))
		a.is.True(p.Title != "")
	}
	return res
}

// webhook creates a webhook of the tenant, with a locator that rises with n.
func (a *api) webhook(owner uuid.UUID, n byte, change ...func(*diverted.Webhook)) diverted.Webhook {
	a.t.Helper()
	w := diverted.NewWebhook(owner, "orders", "https://receiver.example/hook", "*")
	w.Locator = locator(n)
	for _, f := range change {
		f(&w)
	}
	w, err := a.store.CreateWebhook(a.t.Context(), w)
	a.is.NoErr(err)
	return w
}

// divert sets an event aside: a real payload, under a locator that rises with n.
func (a *api) divert(webhook diverted.WebhookKey, n byte, change ...func(*diverted.DivertedEvent)) diverted.DivertedEvent {
	a.t.Helper()
	payload := testdata.Payloads()[n]
	event := diverted.Event{Locator: locator(n), RequestLocator: locator(200), Timestamp: failed, Type: payload.Type, Data: payload.Data}
	body, err := event.Encode()
	a.is.NoErr(err)
	d := diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: event.Locator},
		RequestLocator: event.RequestLocator,
		Failure:        diverted.Failure{Trigger: "503", Message: "answered 503 <try later> & \"wait\"", Status: 503, At: failed},
		EventType:      event.Type,
		Body:           body,
	}
	for _, f := range change {
		f(&d)
	}
	a.is.NoErr(a.store.Divert(a.t.Context(), d))
	return d
}

// of changes what an event was set aside for.
func of(trigger diverted.Trigger) func(*diverted.DivertedEvent) {
	return func(d *diverted.DivertedEvent) { d.Failure.Trigger = trigger }
}

// accept makes an event pending: a real payload, under a locator that rises with n.
func (a *api) accept(webhook diverted.WebhookKey, n byte) diverted.Key {
	a.t.Helper()
	payload := testdata.Payloads()[n]
	event := diverted.Event{Locator: locator(n), RequestLocator: locator(200), Timestamp: failed, Type: payload.Type, Data: payload.Data}
	message, err := diverted.NewMessage(webhook.Tenant, webhook.Webhook, event)
	a.is.NoErr(err)
	_, err = a.store.Accept(a.t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message}})
	a.is.NoErr(err)
	return diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: event.Locator}
}

// held returns the locators of a webhook's diverted events.
func (a *api) held(webhook diverted.WebhookKey) []ulid.ULID {
	a.t.Helper()
	page, err := a.store.ListDiverted(a.t.Context(), diverted.DivertedQuery{Webhook: webhook, Limit: diverted.MaxPage})
	a.is.NoErr(err)
	var locators []ulid.ULID
	for _, e := range page.Events {
		locators = append(locators, e.Event)
	}
	return locators
}

// pending returns the locators of a webhook's pending deliveries.
func (a *api) pending(webhook diverted.WebhookKey) []ulid.ULID {
	a.t.Helper()
	page, err := a.store.ListPending(a.t.Context(), diverted.DivertedQuery{Webhook: webhook, Limit: diverted.MaxPage})
	a.is.NoErr(err)
	var locators []ulid.ULID
	for _, d := range page.Deliveries {
		locators = append(locators, d.Event)
	}
	return locators
}

func locator(n byte) ulid.ULID { return ulid.ULID{1, 0xab, 15: n} }

func webhooksPath(owner uuid.UUID) string { return "/event/" + owner.String() + "/webhooks" }

func webhookPath(k diverted.WebhookKey) string {
	return webhooksPath(k.Tenant) + "/" + k.Webhook.String()
}

func listPath(k diverted.WebhookKey) string {
	return webhookPath(k) + "/diverted"
}

func eventPath(k diverted.Key) string { return listPath(k.WebhookKey()) + "/" + k.Event.String() }

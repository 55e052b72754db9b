package httpapi_test

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// A host mounts the API below its own prefix, and decides by its own credentials who may do what.
func ExampleNew() {
	store := diverted.NewMemoryStore()
	defer store.Close()
	acme := uuid.MustParse("7f1f6a0e-4c5b-4a54-9a0e-2f6f4f3f1c11")

	api, err := httpapi.New(httpapi.Config{
		Diverted: store,
		Authorize: func(r *http.Request, tenant uuid.UUID, permissions ...httpapi.Permission) error {
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if subtle.ConstantTimeCompare([]byte(token), []byte("acme-reader")) == 0 {
				return httpapi.ErrUnauthenticated
			}
			for _, p := range permissions {
				if tenant != acme || p != httpapi.DivertedRead && p != httpapi.DivertedList {
					return httpapi.ErrForbidden
				}
			}
			return nil
		},
	})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/", api)

	ask := func(method, path, token string) {
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Body)
	}
	list := "/api/event/" + acme.String() + "/webhooks/01JDCPY00000000000000000H1/diverted"
	ask("GET", list, "acme-reader")
	ask("DELETE", list+"/01JDCPY00000000000000000E1", "acme-reader")
	// Output:
	// 200 []
	// 403 {"type":"https://github.com/divertedevents/diverted/tree/main/httpapi#forbidden","title":"The credentials do not permit this","status":403,"detail":"It needs diverted-events:delete in this tenant.","code":"forbidden"}
}

// A host that delivers by itself keeps what failed in a store, and resends in its own way.
func ExampleConfig_resend() {
	store := diverted.NewMemoryStore()
	defer store.Close()
	queue := make(chan []byte, 10) // stands for the host's own delivery

	api, err := httpapi.New(httpapi.Config{
		Diverted:  store,
		Authorize: httpapi.AllowAll,
		Resend: func(ctx context.Context, event diverted.DivertedEvent) error {
			select {
			case queue <- event.Body:
				return nil // taken: the event is deleted
			case <-ctx.Done():
				return ctx.Err() // not taken: it stays diverted
			}
		},
	})
	if err != nil {
		panic(err)
	}

	event, err := diverted.NewEvent("order.paid", map[string]string{"order": "A-1001"})
	if err != nil {
		panic(err)
	}
	body, err := event.Encode()
	if err != nil {
		panic(err)
	}
	key := diverted.Key{Tenant: uuid.New(), Webhook: ulid.Make(), Event: event.Locator}
	if err := store.Divert(context.Background(), diverted.DivertedEvent{
		Key: key, RequestLocator: event.RequestLocator, EventType: event.Type, Body: body,
		Failure: diverted.Failure{Trigger: diverted.TriggerTimeout, Message: "connection refused"},
	}); err != nil {
		panic(err)
	}

	w := httptest.NewRecorder()
	api.ServeHTTP(w, httptest.NewRequest("POST", fmt.Sprintf("/event/%s/webhooks/%s/diverted/%s/resend", key.Tenant, key.Webhook, key.Event), nil))
	fmt.Println(w.Code, w.Body, len(queue))
	// Output: 200 {} 1
}

// With a dispatcher the API has every route: customers register webhooks, and services publish events.
func ExampleConfig_webhooks() {
	store := diverted.NewMemoryStore()
	defer store.Close()
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
	if err != nil {
		panic(err)
	}
	api, err := httpapi.New(httpapi.Config{
		Diverted: store, Webhooks: store, Publisher: dispatcher, Pinger: dispatcher,
		Authorize: httpapi.AllowAll,
	})
	if err != nil {
		panic(err)
	}
	tenant := "/event/" + uuid.NewString()
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, tenant+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		return w
	}
	ask("POST", "/webhooks", `{"name":"orders","enabled":true,"eventTypes":["order.*"],"endpoint":{"url":"https://receiver.example/hook"}}`)
	fmt.Println(ask("POST", "/events", `{"locator":"01JDCPY00000000000000000E1","type":"order.paid","data":{"order":"A-1001"}}`).Body)

	var problem struct {
		Errors []struct{ Path, Detail string }
	}
	refused := ask("POST", "/webhooks", `{"name":"orders","enabled":true,"eventTypes":[],"endpoint":{"url":"ftp://receiver.example"}}`)
	if err := json.Unmarshal(refused.Body.Bytes(), &problem); err != nil {
		panic(err)
	}
	for _, e := range problem.Errors {
		fmt.Printf("%s: %s\n", e.Path, e.Detail)
	}
	// Output:
	// {"locator":"01JDCPY00000000000000000E1","deliveries":1}
	// eventTypes: must be 1 to 100 entries, was 0
	// endpoint.url: must begin with http:// or https://
}

// rules are a host's own for webhooks, beside those of the library.
type rules struct {
	diverted.WebhookStore
	most int // webhooks of a tenant
}

func (r rules) CreateWebhook(ctx context.Context, w diverted.Webhook) (diverted.Webhook, error) {
	if err := r.check(w); err != nil {
		return w, err
	}
	// Two that are created at the same moment may both pass, which a plan bears.
	last, err := r.ListWebhooks(ctx, diverted.WebhookQuery{Tenant: w.Tenant, Offset: r.most - 1, Limit: 1})
	if err != nil {
		return w, err
	}
	if len(last.Webhooks) > 0 {
		return w, &diverted.InvalidError{Fields: []diverted.FieldError{{Detail: fmt.Sprintf("the plan has room for %d", r.most)}}}
	}
	return r.WebhookStore.CreateWebhook(ctx, w)
}

func (r rules) UpdateWebhook(ctx context.Context, w diverted.Webhook) (diverted.Webhook, error) {
	if err := r.check(w); err != nil {
		return w, err
	}
	return r.WebhookStore.UpdateWebhook(ctx, w)
}

func (r rules) check(w diverted.Webhook) error {
	var fields []diverted.FieldError
	check := func(path string, e diverted.Endpoint) {
		u, err := url.Parse(e.URL)
		if err != nil || u.Scheme != "https" {
			fields = append(fields, diverted.FieldError{Path: path, Detail: "must begin with https://"})
		} else if host := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."); strings.HasSuffix("."+host, ".acme.example") {
			fields = append(fields, diverted.FieldError{Path: path, Detail: "must not be a host of ours"})
		}
	}
	check("endpoint.url", w.Endpoint)
	if w.FailureHandling != nil && w.FailureHandling.Alert != nil {
		check("failureHandling.alertEndpoint.url", *w.FailureHandling.Alert)
	}
	if fields != nil {
		return &diverted.InvalidError{Fields: fields}
	}
	return nil
}

// Customers manage their webhooks over the API, by the host's own rules.
func ExampleConfig_rules() {
	store := diverted.NewMemoryStore()
	defer store.Close()
	api, err := httpapi.New(httpapi.Config{Diverted: store, Webhooks: rules{store, 1}, Authorize: httpapi.AllowAll})
	if err != nil {
		panic(err)
	}
	webhooks := "/event/" + uuid.NewString() + "/webhooks"
	ask := func(method, path, body string) (answer struct {
		Locator, Code string
		Errors        []struct{ Path, Detail string }
	}) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			panic(err)
		}
		fmt.Println(w.Code, answer.Code, answer.Errors)
		return answer
	}
	create := func(url string) string {
		return ask("POST", webhooks, `{"name":"orders","enabled":true,"eventTypes":["*"],"endpoint":{"url":"`+url+`"}}`).Locator
	}
	create("http://receiver.example")
	created := create("https://receiver.example")
	create("https://another.example")
	ask("PATCH", webhooks+"/"+created, `{"failureHandling":{"alertEndpoint":{"url":"https://api.acme.example"}}}`)
	// Output:
	// 400 invalid_body [{endpoint.url must begin with https://}]
	// 200  []
	// 400 invalid_body [{ the plan has room for 1}]
	// 400 invalid_body [{failureHandling.alertEndpoint.url must not be a host of ours}]
}

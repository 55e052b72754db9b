package httpapi_test

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
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

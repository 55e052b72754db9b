package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
)

// BenchmarkHandler is what a request costs on SQLite, beside the network: an operation is one request.
func BenchmarkHandler(b *testing.B) {
	store, err := diverted.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "webhooks.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
	if err != nil {
		b.Fatal(err)
	}
	handler, err := httpapi.New(httpapi.Config{Diverted: store, Publisher: dispatcher, Authorize: httpapi.AllowAll})
	if err != nil {
		b.Fatal(err)
	}
	payload := testdata.Payloads()[0]

	// fill makes a webhook with n diverted events, and returns the path of its list and those of the events.
	fill := func(b *testing.B, n int) (list string, events []string) {
		b.Helper()
		webhook, err := store.CreateWebhook(b.Context(), diverted.NewWebhook(tenant, "billing", "https://example.com/hook", "nothing"))
		if err != nil {
			b.Fatal(err)
		}
		list = fmt.Sprintf("/event/%s/webhooks/%s/diverted", tenant, webhook.Locator)
		events = make([]string, n)
		var group sync.WaitGroup
		for part := range 64 {
			group.Go(func() {
				for i := part; i < n; i += 64 {
					event, err := diverted.NewEvent(payload.Type, payload.Data)
					if err != nil {
						b.Error(err)
						return
					}
					body, err := event.Encode()
					if err != nil {
						b.Error(err)
						return
					}
					if err := store.Divert(b.Context(), diverted.DivertedEvent{
						Key:            diverted.Key{Tenant: tenant, Webhook: webhook.Locator, Event: event.Locator},
						RequestLocator: event.RequestLocator, EventType: event.Type, Body: body,
						Failure: diverted.Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503},
					}); err != nil {
						b.Error(err)
						return
					}
					events[i] = list + "/" + event.Locator.String()
				}
			})
		}
		group.Wait()
		return list, events
	}
	serve := func(b *testing.B, method, path, body string) {
		b.Helper()
		r := httptest.NewRequestWithContext(b.Context(), method, path, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code/100 != 2 {
			b.Fatal(w.Code, w.Body)
		}
	}

	b.Run("list", func(b *testing.B) {
		list, _ := fill(b, 1000)
		b.ReportAllocs()
		for b.Loop() {
			serve(b, http.MethodGet, list, "")
		}
	})
	b.Run("fetch", func(b *testing.B) {
		_, events := fill(b, 1000)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			serve(b, http.MethodGet, events[i%len(events)], "")
			i++
		}
	})
	for _, route := range []struct{ name, method, suffix string }{
		{"resend", http.MethodPost, "/resend"},
		{"delete", http.MethodDelete, ""},
	} {
		b.Run(route.name, func(b *testing.B) {
			_, events := fill(b, b.N)
			b.ReportAllocs()
			b.ResetTimer()
			for _, path := range events {
				serve(b, route.method, path+route.suffix, "")
			}
		})
	}
	b.Run("publish", func(b *testing.B) { // to one webhook
		webhook := diverted.NewWebhook(tenant, "billing", "https://example.com/hook", payload.Type)
		if _, err := store.PutWebhook(b.Context(), webhook); err != nil {
			b.Fatal(err)
		}
		body := fmt.Sprintf(`{"type":%q,"data":%s}`, payload.Type, payload.Data)
		b.ReportAllocs()
		for b.Loop() {
			serve(b, http.MethodPost, "/event/"+tenant.String()+"/events", body)
		}
	})
}

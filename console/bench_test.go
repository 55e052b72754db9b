package console_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/divertedevents/diverted/internal/testenv"
)

// BenchmarkPages makes pages of a webhook with many diverted events on SQLite, 10,000 or what
// CONSOLE_BENCH_EVENTS says, and tells the median beside the mean.
func BenchmarkPages(b *testing.B) {
	events := testenv.Number(b, "CONSOLE_BENCH_EVENTS", 10_000)
	store, err := diverted.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "console.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	w, middle := crowd(b, store, events)
	handler, err := console.New(console.Config{Store: store, Authorize: httpapi.AllowAll})
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range []struct{ name, target string }{
		{"webhooks", webhooksPath(tenant)},
		{"webhook", webhookPath(w.Key())},
		{"webhook, 30 days", webhookPath(w.Key()) + "?hours=720"},
		{"webhook, its middle", webhookPath(w.Key()) + "?after=" + middle.Event.String()},
		{"webhook, by trigger", webhookPath(w.Key()) + "?trigger=5xx"},
		{"webhook, by type", webhookPath(w.Key()) + "?eventType=" + testdata.Payloads()[7].Type},
		{"webhook, since", webhookPath(w.Key()) + "?since=" + time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05")},
		{"webhook, nothing found", webhookPath(w.Key()) + "?eventType=no.such.type"},
		{"pending", webhookPath(w.Key()) + "/pending"},
		{"event", eventPath(middle)},
		{"first step of a count", webhookPath(w.Key()) + "/diverted/delete"},
	} {
		b.Run(p.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), "GET", p.target, nil)
				recorder := httptest.NewRecorder()
				began := time.Now()
				handler.ServeHTTP(recorder, r)
				took = append(took, time.Since(began))
				if recorder.Code != http.StatusOK {
					b.Fatal(recorder.Code)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2])/1e6, "ms-median")
		})
	}
}

// crowd makes a webhook with that many diverted events, and returns the one in their middle.
func crowd(b *testing.B, store *diverted.SQLiteStore, events int) (w diverted.Webhook, middle diverted.Key) {
	b.Helper()
	w, err := store.CreateWebhook(b.Context(), diverted.NewWebhook(tenant, "crowd", "https://receiver.example/hook", "*"))
	if err != nil {
		b.Fatal(err)
	}
	if err := store.Suspend(b.Context(), w.Key()); err != nil {
		b.Fatal(err)
	}
	payloads := testdata.Payloads()
	for done := 0; done < events; {
		var request diverted.AcceptRequest
		for range min(10_000, events-done) {
			event, err := diverted.NewEvent(payloads[done%len(payloads)].Type, map[string]string{"order": fmt.Sprint("o-", done)})
			if err != nil {
				b.Fatal(err)
			}
			m, err := diverted.NewMessage(tenant, w.Locator, event)
			if err != nil {
				b.Fatal(err)
			}
			request.Messages = append(request.Messages, m)
			if done++; done == events/2 {
				middle = diverted.Key{Tenant: tenant, Webhook: w.Locator, Event: event.Locator}
			}
		}
		if _, err := store.Accept(b.Context(), request); err != nil {
			b.Fatal(err)
		}
	}
	for request := (diverted.BulkRequest{Webhook: w.Key(), Limit: diverted.MaxBulk}); ; {
		result, err := store.DivertAll(b.Context(), request)
		if err != nil {
			b.Fatal(err)
		}
		if !result.More {
			return w, middle
		}
		request.After, request.Before = result.After, result.Before
	}
}

package diverted_test

import (
	"context"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

// at200 is a transport that answers 200 at once.
type at200 struct{}

func (at200) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

// BenchmarkDeliver is what accepting, attempting and settling cost in all, beside the network: an
// operation is one delivery. Callers are 64.
func BenchmarkDeliver(b *testing.B) {
	b.Run("memory", func(b *testing.B) { benchmarkDeliver(b, diverted.NewMemoryStore()) })
	b.Run("sqlite", func(b *testing.B) {
		store, err := diverted.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "webhooks.db"))
		if err != nil {
			b.Fatal(err)
		}
		benchmarkDeliver(b, store)
	})
}

func benchmarkDeliver(b *testing.B, store diverted.Store) {
	b.Cleanup(func() { _ = store.Close() })
	var left sync.WaitGroup
	d, err := diverted.NewDispatcher(store, diverted.Config{
		Transport: at200{},
		Observer:  diverted.Observer{Delivered: func(diverted.Attempt) { left.Done() }},
	})
	if err != nil {
		b.Fatal(err)
	}
	var hooks []diverted.WebhookKey
	for range 10 {
		hook := diverted.NewWebhook(tenant, "bench", "https://receiver.example/", "*")
		if _, err := store.PutWebhook(b.Context(), hook); err != nil {
			b.Fatal(err)
		}
		hooks = append(hooks, hook.Key())
	}
	data := testdata.Payloads()[0]
	events := make([]diverted.Event, b.N)
	for i := range events {
		if events[i], err = diverted.NewEvent(data.Type, data.Data); err != nil {
			b.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(b.Context())
	var run, callers sync.WaitGroup
	run.Go(func() {
		if err := d.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	b.ReportAllocs()
	b.ResetTimer()
	left.Add(b.N)
	var next atomic.Int64
	for range 64 {
		callers.Go(func() {
			for i := int(next.Add(1)) - 1; i < b.N; i = int(next.Add(1)) - 1 {
				if _, err := d.Send(context.Background(), tenant, hooks[i%len(hooks)].Webhook, events[i]); err != nil {
					b.Error(err)
					left.Done()
				}
			}
		})
	}
	callers.Wait()
	left.Wait()
	b.StopTimer()
	stop()
	run.Wait()
}

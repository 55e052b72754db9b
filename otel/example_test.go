package otel_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/otel"
	"github.com/google/uuid"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// A host gives its meter provider, and its store for the gauges.
func ExampleNew() {
	ctx, reader := context.Background(), metric.NewManualReader() // or a periodic one, or that of Prometheus
	store := diverted.NewMemoryStore()
	defer store.Close()

	telemetry, err := otel.New(otel.Config{
		MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
		Stats:         store,
	})
	if err != nil {
		panic(err)
	}
	defer telemetry.Close()
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Observer:  telemetry.Observer(diverted.Observer{}), // or your own, which is called too
		Tracer:    telemetry,
		Transport: receiver(func(*http.Request) int { return 204 }),
	})
	if err != nil {
		panic(err)
	}

	webhook, err := store.CreateWebhook(ctx, diverted.NewWebhook(uuid.New(), "billing", "https://customer.example/hook", "order.*"))
	if err != nil {
		panic(err)
	}
	event, err := diverted.NewEvent("order.paid", map[string]string{"order": "A-1001"})
	if err != nil {
		panic(err)
	}
	if _, err := dispatcher.Publish(ctx, webhook.Tenant, event); err != nil {
		panic(err)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		panic(err)
	}
	for _, m := range all.ScopeMetrics[0].Metrics {
		if gauge, ok := m.Data.(metricdata.Gauge[int64]); ok && m.Name == "diverted.pending.deliveries" {
			fmt.Println(m.Name, gauge.DataPoints[0].Value, m.Unit)
		}
	}
	// Output: diverted.pending.deliveries 1 {delivery}
}

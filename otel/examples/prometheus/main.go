// Prometheus is examples/server with metrics: the same service, and beside its API the endpoint /metrics.
//
//	cd otel/examples/prometheus && go run . -db webhooks.db -tokens tokens.json
//
// Alert rules on these metrics are in docs/alerts.yaml of the repository.
package main

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/examples/server/service"
	"github.com/divertedevents/diverted/otel"
)

func main() {
	service.Main(service.Program{
		DB:    "webhooks.db",
		Usage: "`file` of the SQLite database, or memory",
		Open: func(ctx context.Context, db string) (diverted.Store, error) {
			if db == "memory" {
				return diverted.NewMemoryStore(), nil
			}
			return diverted.OpenSQLite(ctx, db)
		},
		Setup: measure,
	})
}

// measure has the dispatcher's doings told to Prometheus.
func measure(store diverted.Store, config *diverted.Config, mux *http.ServeMux) (end func() error, err error) {
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	stats, _ := store.(diverted.StatsStore) // a store without numbers has no gauges
	telemetry, err := otel.New(otel.Config{
		MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
		Stats:         stats,
	})
	if err != nil {
		return nil, err
	}
	config.Observer, config.Tracer = telemetry.Observer(config.Observer), telemetry
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return telemetry.Close, nil
}

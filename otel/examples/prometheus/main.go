// Prometheus is examples/server with metrics: the same service, and beside it the endpoint /metrics. That has an
// address of its own, on the loopback network, since it asks nobody who they are and tells of all tenants.
//
//	cd otel/examples/prometheus && go run . -db webhooks.db -tokens tokens.json -metrics 127.0.0.1:9464
//
// Alert rules on these metrics are in docs/alerts.yaml of the repository.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/examples/server/service"
	"github.com/divertedevents/diverted/otel"
)

func main() {
	addr := flag.String("metrics", "127.0.0.1:9464", "`address` of the endpoint /metrics, which needs no credentials; port 0 picks one")
	service.Main(service.Program{
		DB:    "webhooks.db",
		Usage: "`file` of the SQLite database, or memory",
		Open: func(ctx context.Context, db string) (diverted.Store, error) {
			if db == "memory" {
				return diverted.NewMemoryStore(), nil
			}
			return diverted.OpenSQLite(ctx, db)
		},
		Setup: func(store diverted.Store, config *diverted.Config) (func() error, error) {
			return measure(*addr, store, config)
		},
	})
}

// measure has the dispatcher's doings told to Prometheus, at this address.
func measure(addr string, store diverted.Store, config *diverted.Config) (end func() error, err error) {
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
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, errors.Join(err, telemetry.Close())
	}
	config.Observer, config.Tracer = telemetry.Observer(config.Observer), telemetry
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("metrics are not served any more", "error", err)
		}
	}()
	fmt.Printf("metrics on http://%s/metrics\n", listener.Addr())
	return func() error {
		err := server.Close()
		<-served
		return errors.Join(err, telemetry.Close())
	}, nil
}

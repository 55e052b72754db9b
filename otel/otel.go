// Package otel tells OpenTelemetry what a [diverted.Dispatcher] does: metrics of every outcome, gauges of what is
// waiting, and a span for each attempt, linked to the span that sent the event.
//
//	telemetry, err := otel.New(otel.Config{Stats: store})
//	...
//	defer telemetry.Close()
//	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
//		Observer: telemetry.Observer(diverted.Observer{}), // or your own, which is called too
//		Tracer:   telemetry,
//	})
//
// It is a module of its own, built on what package diverted offers to everybody: [diverted.Observer],
// [diverted.Tracer] and [diverted.StatsStore]. README.md lists the metrics; alert rules for Prometheus are in
// docs/alerts.yaml of the repository, and a service with a Prometheus endpoint in examples/prometheus.
package otel

import (
	"github.com/divertedevents/diverted"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// scope names the instrumentation in everything that it exports.
const scope = "github.com/divertedevents/diverted/otel"

// Config sets up [New]. The zero value of every field means its default.
type Config struct {
	// MeterProvider and TracerProvider make meters and tracers. Nil: the global ones of OpenTelemetry.
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider

	// Stats is asked for the gauges when they are collected, for the whole store at once, and at most every 10 s.
	// Every store of this project is one. Nil: there are no gauges of what the store keeps.
	Stats diverted.StatsStore

	// WithoutWebhook leaves tenant and webhook out of the metrics, where one series for each would be too many: in
	// each instrument a webhook has one set of attributes, or one for each outcome and class of failure, 18 at most.
	// The SDK keeps 2,000 sets per instrument, unless told otherwise, and adds up the rest without attributes. Spans
	// have tenant and webhook in any case.
	WithoutWebhook bool

	// Propagate puts the traceparent header on each request, so that a receiver's spans continue the attempt's
	// trace. It tells receivers, who may be strangers, the identifiers of the trace.
	Propagate bool
}

// Telemetry is what a dispatcher's [diverted.Config] takes: it is its Tracer, and makes its Observer. It is safe
// for concurrent use, and one may serve several dispatchers on one store.
type Telemetry struct {
	*meters
	tracer    trace.Tracer
	propagate bool
}

// New makes the instruments. Its errors are OpenTelemetry's.
func New(config Config) (*Telemetry, error) {
	if config.MeterProvider == nil {
		config.MeterProvider = otel.GetMeterProvider()
	}
	if config.TracerProvider == nil {
		config.TracerProvider = otel.GetTracerProvider()
	}
	m, err := newMeters(config.MeterProvider.Meter(scope), config)
	if err != nil {
		return nil, err
	}
	return &Telemetry{meters: m, tracer: config.TracerProvider.Tracer(scope), propagate: config.Propagate}, nil
}

// Close ends the gauges; call it before the store is closed. What the dispatcher does after that is still
// counted. Closing again does nothing.
func (t *Telemetry) Close() error { return t.gauges.Unregister() }

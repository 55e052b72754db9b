package otel

import (
	"context"

	"github.com/divertedevents/diverted"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

var _ diverted.Tracer = (*Telemetry)(nil)

// w3c writes and reads the header traceparent.
var w3c propagation.TraceContext

// traceParent is the header of the span in ctx, "" if there is none.
func traceParent(ctx context.Context) string {
	header := propagation.MapCarrier{}
	w3c.Inject(ctx, header)
	return header["traceparent"]
}

// Accepting implements [diverted.Tracer]: the event is kept with the span of ctx.
func (t *Telemetry) Accepting(ctx context.Context) string { return traceParent(ctx) }

// Attempting implements [diverted.Tracer]. An attempt may come hours after the event was sent, and there may be
// many, so its span begins a trace of its own and links to the one that sent the event.
func (t *Telemetry) Attempting(a diverted.Attempt) (traceparent string, end func(diverted.Attempt)) {
	options := []trace.SpanStartOption{
		trace.WithNewRoot(),
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("messaging.system", "diverted"),
			attribute.String("messaging.operation.type", "send"),
			attribute.String("messaging.operation.name", "send"),
			attribute.String("messaging.destination.name", a.EventType),
			attribute.String("messaging.message.id", a.Key.Event.String()),
			attribute.String("http.request.method", "POST"),
			attribute.String(tenantKey, a.Key.Tenant.String()),
			attribute.String(webhookKey, a.Key.Webhook.String()),
		),
	}
	if a.Number > 1 {
		options = append(options, trace.WithAttributes(attribute.Int("http.request.resend_count", a.Number-1)))
	}
	sender := w3c.Extract(context.Background(), propagation.MapCarrier{"traceparent": a.TraceParent})
	if sent := trace.SpanContextFromContext(sender); sent.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: sent}))
	}
	ctx, span := t.tracer.Start(context.Background(), "send "+a.EventType, options...)
	if t.propagate {
		traceparent = traceParent(ctx)
	}
	return traceparent, func(a diverted.Attempt) {
		if a.Status > 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", a.Status))
		}
		if a.Failure != nil {
			span.SetAttributes(attribute.String(errorKey, string(a.Failure.Trigger)))
			// Without what the receiver answered, who may quote what it was sent: traces go to others.
			span.SetStatus(codes.Error, a.Failure.Expunged().Message)
		}
		span.End()
	}
}

package otel_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/otel"
	"github.com/matryer/is"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

func TestASpanForEachAttemptLinksToTheOneThatSentTheEvent(t *testing.T) {
	for name, open := range stores {
		for _, propagate := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				exporter := tracetest.NewInMemoryExporter()
				provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
				var headers []string
				s := newService(t, open(t), otel.Config{TracerProvider: provider, Propagate: propagate}, diverted.Observer{}, func(r *http.Request) int {
					headers = append(headers, r.Header.Get("traceparent"))
					return []int{503, 200}[min(len(headers)-1, 1)]
				})
				w := s.webhook(func(w *diverted.Webhook) { w.FailureHandling = &diverted.FailureHandling{Divert: true} })

				ctx, sending := provider.Tracer("host").Start(t.Context(), "checkout")
				key := s.send(ctx, w)
				sending.End()
				s.is.NoErr(s.dispatcher.Flush(t.Context()))  // 503, diverted
				s.is.NoErr(s.store.Resend(t.Context(), key)) // by somebody else, tomorrow
				s.is.NoErr(s.dispatcher.Flush(t.Context()))  // 200
				s.send(t.Context(), w)                       // of no span
				s.is.NoErr(s.dispatcher.Flush(t.Context()))

				spans := exporter.GetSpans()
				s.is.Equal(len(spans), 4)
				for i, span := range spans[1:] {
					s.is.Equal(span.Name, "send order.paid")
					s.is.Equal(span.SpanKind, trace.SpanKindClient)
					s.is.True(!span.Parent.IsValid()) // a trace of its own
					s.is.True(span.SpanContext.TraceID() != sending.SpanContext().TraceID())
					if i < 2 {
						s.is.Equal(len(span.Links), 1)
						s.is.Equal(span.Links[0].SpanContext.SpanID(), sending.SpanContext().SpanID())
						s.is.Equal(span.Links[0].SpanContext.TraceID(), sending.SpanContext().TraceID())
					} else {
						s.is.Equal(len(span.Links), 0)
					}
					want := ""
					if propagate {
						want = "00-" + span.SpanContext.TraceID().String() + "-" + span.SpanContext.SpanID().String() + "-01"
					}
					s.is.Equal(headers[i], want)
				}
				failed, delivered := attributes(spans[1]), attributes(spans[2])
				s.is.Equal(failed["error.type"], "503")
				s.is.Equal(failed["http.response.status_code"], "503")
				s.is.Equal(failed["messaging.message.id"], key.Event.String())
				s.is.Equal(failed["diverted.webhook.id"], w.Webhook.String())
				s.is.Equal(failed["diverted.tenant.id"], tenant.String())
				s.is.Equal(spans[1].Status.Code, codes.Error)
				s.is.Equal(delivered["http.response.status_code"], "200")
				s.is.Equal(delivered["error.type"], "")
				s.is.Equal(spans[2].Status.Code, codes.Unset)
			})
		}
	}
}

func attributes(span tracetest.SpanStub) map[string]string {
	all := map[string]string{}
	for _, kv := range span.Attributes {
		all[string(kv.Key)] = kv.Value.String()
	}
	return all
}

func TestARepetitionSaysWhichOneItIs(t *testing.T) {
	is := is.New(t)
	exporter := tracetest.NewInMemoryExporter()
	telemetry, err := otel.New(otel.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))})
	is.NoErr(err)
	defer telemetry.Close()
	for number := range 4 {
		_, end := telemetry.Attempting(diverted.Attempt{Number: number, EventType: "order.paid", TraceParent: "nonsense"})
		end(diverted.Attempt{Number: number})
	}
	resent := []string{}
	for _, span := range exporter.GetSpans() {
		is.Equal(len(span.Links), 0) // a header that cannot be read is none
		resent = append(resent, attributes(span)["http.request.resend_count"])
	}
	is.Equal(resent, []string{"", "", "1", "2"})
}

// A receiver may quote what it was sent, and traces go to others.
func TestASpanTellsNothingThatAnAnswerSaid(t *testing.T) {
	is := is.New(t)
	exporter := tracetest.NewInMemoryExporter()
	telemetry, err := otel.New(otel.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))})
	is.NoErr(err)
	defer telemetry.Close()
	for _, failure := range []diverted.Failure{
		{Trigger: "422", Status: 422, Message: `422 Unprocessable Entity: {"unknown field":"card 4111"}`, Excerpt: `{"unknown field":"card 4111"}`},
		{Trigger: diverted.TriggerTimeout, Message: "https://receiver.example: connection refused"},
	} {
		_, end := telemetry.Attempting(diverted.Attempt{Number: 1, EventType: "order.paid"})
		end(diverted.Attempt{Number: 1, Status: failure.Status, Failure: &failure})
	}
	spans := exporter.GetSpans()
	is.Equal(spans[0].Status.Description, "422 Unprocessable Entity")
	is.Equal(spans[1].Status.Description, "https://receiver.example: connection refused")
	is.Equal(attributes(spans[0])["error.type"], "422")
	is.True(!strings.Contains(fmt.Sprint(spans), "card"))
}

func TestWithoutASpanThereIsNoHeader(t *testing.T) {
	is := is.New(t)
	telemetry, err := otel.New(otel.Config{TracerProvider: noop.NewTracerProvider(), Propagate: true})
	is.NoErr(err)
	defer telemetry.Close()
	is.Equal(telemetry.Accepting(context.Background()), "")
	header, end := telemetry.Attempting(diverted.Attempt{EventType: "order.paid"})
	is.Equal(header, "")
	end(diverted.Attempt{Status: 200})
}

package diverted_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/google/uuid"
	"github.com/matryer/is"
)

// tracer keeps what it is told, and answers what it should.
type tracer struct {
	accepting, attempting string
	panics                bool
	told                  []string
}

func (t *tracer) Accepting(context.Context) string {
	if t.panics {
		panic("tracer")
	}
	return t.accepting
}

func (t *tracer) Attempting(a diverted.Attempt) (string, func(diverted.Attempt)) {
	if t.panics {
		panic("tracer")
	}
	begun := fmt.Sprint(a.Number, a.TraceParent, a.EventType)
	return t.attempting, func(a diverted.Attempt) { t.told = append(t.told, fmt.Sprint(begun, " ", a.Status, a.Failure == nil)) }
}

func TestATracerConnectsAttemptsWithTheSpanThatSentTheEvent(t *testing.T) {
	const (
		sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		own  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	)
	for _, c := range []struct {
		name   string
		tracer tracer
		kept   string
		header string
	}{
		{"both", tracer{accepting: sent, attempting: own}, sent, own},
		{"nothing to keep", tracer{attempting: own}, "", own},
		{"nothing to tell the receiver", tracer{accepting: sent}, sent, ""},
		{"a later version", tracer{accepting: "01" + sent[2:], attempting: "01" + own[2:]}, "", ""},
		{"a header too many", tracer{accepting: sent + "\r\nX: y", attempting: own + "\r\nX: y"}, "", ""},
		{"upper case", tracer{accepting: "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", attempting: "00"}, "", ""},
		{"a span of no trace", tracer{accepting: "00-00000000000000000000000000000000-00f067aa0ba902b7-01"}, "", ""},
		{"a panic", tracer{panics: true}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			store := diverted.NewMemoryStore()
			defer store.Close()
			var headers []http.Header
			dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
				Tracer: &c.tracer, Logger: slog.New(slog.DiscardHandler),
				Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					headers = append(headers, r.Header)
					return &http.Response{StatusCode: []int{503, 204}[len(headers)-1], Body: http.NoBody}, nil
				}),
			})
			is.NoErr(err)
			w := diverted.NewWebhook(uuid.New(), "billing", "https://customer.example/hook", "order.*")
			w.FailureHandling = &diverted.FailureHandling{Divert: true}
			w, err = store.CreateWebhook(t.Context(), w)
			is.NoErr(err)
			event, err := diverted.NewEvent("order.paid", Order{ID: "o-1234"})
			is.NoErr(err)
			_, err = dispatcher.Send(t.Context(), w.Tenant, w.Locator, event)
			is.NoErr(err)
			is.NoErr(dispatcher.Flush(t.Context())) // 503, diverted
			is.NoErr(store.Resend(t.Context(), diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: event.Locator}))
			is.NoErr(dispatcher.Flush(t.Context())) // 204

			is.Equal(len(headers), 2)
			for _, h := range headers {
				is.Equal(h.Get("traceparent"), c.header)
			}
			if c.tracer.panics {
				return
			}
			is.Equal(c.tracer.told, []string{
				fmt.Sprint(1, c.kept, "order.paid", " ", 503, false),
				fmt.Sprint(1, c.kept, "order.paid", " ", 204, true), // through the resend, too
			})
		})
	}
}

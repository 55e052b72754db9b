package console_test

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
)

// accept makes an event pending.
func (s *site) accept(w diverted.WebhookKey) {
	s.t.Helper()
	event, err := diverted.NewEvent("order.paid", map[string]int{"amount": 1204})
	s.is.NoErr(err)
	m, err := diverted.NewMessage(w.Tenant, w.Webhook, event)
	s.is.NoErr(err)
	_, err = s.store.Accept(s.t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{m}})
	s.is.NoErr(err)
}

// run delivers for so long, while the receiver answers this.
func (s *site) run(d time.Duration, status int) {
	s.t.Helper()
	dispatcher, err := diverted.NewDispatcher(s.store, diverted.Config{
		Logger: slog.New(slog.DiscardHandler), Jitter: -1, Transport: receiver(func(*http.Request) int { return status }),
	})
	s.is.NoErr(err)
	ctx, stop := context.WithTimeout(s.t.Context(), d)
	defer stop()
	s.is.NoErr(dispatcher.Run(ctx))
}

// Retries can go on for most of a day before anything is diverted.
func TestAWebhookSaysWhyItFailsBeforeAnythingIsDiverted(t *testing.T) {
	retrying := diverted.DefaultFailureHandling()
	held := diverted.FailureHandling{Suspend: true}
	dropping := diverted.FailureHandling{Retry: &diverted.RetryStrategy{}}
	some := diverted.FailureHandling{Retry: &diverted.RetryStrategy{}, Triggers: []diverted.Trigger{"4xx", "503"}}
	dropped := diverted.FailureHandling{}
	for name, c := range map[string]struct {
		handling    *diverted.FailureHandling
		has, hasNot []string
		without     bool // the permission to list
	}{
		"retried":          {handling: &retrying, has: []string{"The last attempt failed.", "Deliveries fail with 503 (Service Unavailable).", "See what is pending"}, hasNot: []string{"dropped once"}},
		"may not list":     {handling: &retrying, without: true, has: []string{"The last attempt failed."}, hasNot: []string{"Deliveries fail", "See what is pending"}},
		"held":             {handling: &held, has: []string{"Suspended", "Deliveries failed with 503 (Service Unavailable)."}},
		"retried, dropped": {handling: &dropping, has: []string{"Deliveries fail with 503 (Service Unavailable).", "Failed events are dropped once their retries are used up."}},
		"some retried":     {handling: &some, has: []string{"Deliveries fail with 503 (Service Unavailable).", "Events that fail with 4xx or 503 are dropped once their retries are used up, all others at once."}, hasNot: []string{"Failed events are dropped"}},
		"dropped":          {handling: &dropped, has: []string{"The last attempt failed.", "Failed events are dropped."}, hasNot: []string{"Deliveries fail", "See what is pending"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var change []func(*console.Config)
				if c.without {
					change = append(change, permitting(httpapi.WebhooksRead, httpapi.DivertedRead))
				}
				s := newSite(t, change...)
				w := s.webhook(1, func(w *diverted.Webhook) { w.FailureHandling = c.handling })
				s.accept(w.Key())
				s.run(30*time.Second, 503)
				r := s.get(webhookPath(w.Key()))
				for _, text := range c.has {
					if !r.has(text) {
						t.Errorf("%q is not on the page", text)
					}
				}
				for _, text := range c.hasNot {
					if r.has(text) {
						t.Errorf("%q is on the page", text)
					}
				}
			})
		})
	}
}

// How long it has failed is told by the last success: the last failure is always a moment ago.
func TestAFailingWebhookIsListedWithItsLastSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := newSite(t)
		w := s.webhook(1)
		s.accept(w.Key())
		s.run(time.Second, 503)
		is.True(s.get(webhooksPath(tenant)).has("no success recorded"))
		s.run(time.Hour, 200)
		is.True(!s.get(webhooksPath(tenant)).has("no success"))
		time.Sleep(3 * time.Hour)
		s.accept(w.Key())
		s.run(time.Second, 503)
		age := regexp.MustCompile(`no success for <time [^>]*>3 h</time>`)
		is.True(age.MatchString(s.get(webhooksPath(tenant)).body))
	})
}

// What is diverted says it better: there is no second explanation.
func TestWhatIsDivertedExplainsAFailingWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := newSite(t)
		w := s.webhook(1)
		s.divert(w.Key(), 3)
		s.accept(w.Key())
		s.run(30*time.Second, 500)
		r := s.get(webhookPath(w.Key()))
		is.True(r.has("The one diverted event failed with 503 (Service Unavailable)."))
		is.True(!r.has("Deliveries fail"))
	})
}

func TestAPingThatIsRefusedSaysHowLongToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		ping := webhookPath(s.webhook(1).Key()) + "/ping"
		s.is.Equal(s.post(ping, nil).StatusCode, http.StatusOK)
		time.Sleep(3500 * time.Millisecond)
		r := s.post(ping, nil)
		s.is.Equal(r.StatusCode, http.StatusTooManyRequests)
		s.is.Equal(r.Header.Get("Retry-After"), "2") // rounded up
		time.Sleep(1500 * time.Millisecond)
		s.is.Equal(s.post(ping, nil).StatusCode, http.StatusOK)
	})
}

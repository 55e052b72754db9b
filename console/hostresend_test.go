package console_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
)

// host is one that delivers by itself: it is given events, and says which it does not take.
type host struct {
	mu      sync.Mutex
	given   []diverted.DivertedEvent
	refuses func(diverted.DivertedEvent) error
}

func (h *host) resend(_ context.Context, event diverted.DivertedEvent) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuses != nil {
		if err := h.refuses(event); err != nil {
			return err
		}
	}
	h.given = append(h.given, event)
	return nil
}

// newHostSite returns a console whose host delivers by itself.
func newHostSite(t *testing.T) (*site, *host) {
	h := &host{}
	return newSite(t, func(c *console.Config) { c.Resend = h.resend }), h
}

// Whatever the store knows of a webhook, the host decides.
func TestAHostIsHandedWhatIsResent(t *testing.T) {
	is := is.New(t)
	s, h := newHostSite(t)
	suspended, disabled := s.webhook(1), s.webhook(2, func(w *diverted.Webhook) { w.Enabled = false })
	is.NoErr(s.store.Suspend(t.Context(), suspended.Key()))
	for i, key := range []diverted.WebhookKey{suspended.Key(), disabled.Key(), s.webhook(3).Key(), {Tenant: tenant, Webhook: locator(50)}} {
		e := s.divert(key, byte(i+1))
		is.True(s.get(webhookPath(key)).has("Resend all"))
		is.True(s.get(eventPath(e.Key)).has(`/resend"`))
		r := s.post(eventPath(e.Key)+"/resend", nil)
		r = s.follow(resolve(s, eventPath(e.Key)+"/resend", r.Header.Get("Location")))
		is.Equal(r.StatusCode, 200) // though nothing is left of a webhook that the store does not know
		is.True(r.has("The event was handed to the service&#39;s own delivery"))
		is.True(!r.has("fresh"))
		is.Equal(s.held(key), 0)
		is.Equal(s.pending(key), 0) // where no dispatcher would find it
		is.Equal(len(h.given), i+1)
		is.Equal(string(h.given[i].Body), string(e.Body))
	}
	e := s.divert(suspended.Key(), 9)
	is.NoErr(s.store.Expunge(t.Context(), e.Key))
	is.True(!s.get(eventPath(e.Key)).has(`/resend"`)) // there is nothing to hand over
}

func TestAHostIsHandedManyEvents(t *testing.T) {
	is := is.New(t)
	s, h := newHostSite(t)
	w := diverted.WebhookKey{Tenant: tenant, Webhook: locator(50)}
	s.many(w, 40)
	h.refuses = func(e diverted.DivertedEvent) error {
		if e.Event == locator(1) {
			return errors.New("the queue at 10.0.0.7 is full")
		}
		return nil
	}
	at := webhookPath(w) + "/diverted/resend"
	r := s.get(at)
	is.True(r.has("<strong>40</strong> events would be handed over"))
	is.True(r.has("own delivery, and removed from here once that delivery has taken it.") && !r.has("fresh"))
	is.Equal(len(h.given), 0) // counting hands over nothing
	target, form := r.form(s, at)
	is.Equal(form.Get("limit"), "1000") // a step's worth of calls
	r = s.post(target, form)
	r = s.follow(resolve(s, target, r.Header.Get("Location")))
	is.True(r.has("39 events were handed to the service&#39;s own delivery."))
	is.True(r.has("1 was skipped: its body was expunged, it was resent or deleted meanwhile, or the service&#39;s own delivery did not take it"))
	is.Equal(len(h.given), 39)
	is.Equal(s.held(w), 1)
	is.Equal(s.pending(w), 0)
	is.True(strings.Contains(s.log.String(), "10.0.0.7") && !r.has("10.0.0.7"))

	h.refuses = nil
	target, form = s.get(at).form(s, at)
	r = s.post(target, form)
	r = s.follow(resolve(s, target, r.Header.Get("Location")))
	is.Equal(r.StatusCode, 200)
	is.True(r.has("1 event was handed to the service&#39;s own delivery."))
	is.True(!r.has("Back to the webhook")) // which has no page any more
}

func TestAHostsRefusalKeepsTheEvent(t *testing.T) {
	s, h := newHostSite(t)
	key := diverted.WebhookKey{Tenant: tenant, Webhook: locator(50)}
	e := s.divert(key, 3)
	for _, c := range []struct {
		err    error
		status int
		title  string
	}{
		{errors.New("the queue at 10.0.0.7 is full"), 502, "The event could not be resent"},
		{diverted.ErrNotFound, 502, "The event could not be resent"}, // the host's own, not the event's
		{diverted.ErrSuspended, 409, "The webhook is suspended"},
		{diverted.ErrDisabled, 409, "The webhook is disabled"},
		{diverted.ErrWebhookUnknown, 409, "The webhook is not registered here"},
	} {
		is := is.New(t)
		h.refuses = func(diverted.DivertedEvent) error { return c.err }
		r := s.post(eventPath(e.Key)+"/resend", nil)
		is.Equal(r.StatusCode, c.status)
		is.True(r.has(c.title))
		is.True(!r.has("10.0.0.7"))
		is.Equal(s.held(key), 1)
	}
	is.New(t).True(strings.Contains(s.log.String(), "10.0.0.7")) // its text is for the log
}

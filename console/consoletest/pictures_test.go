package consoletest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// Every page has its picture taken, and fits the width that it is given.
func TestPagesFitADeskAndAPhoneByDayAndByNight(t *testing.T) {
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	billing, healthy, events := s.night()
	dir := pictures(t)
	webhook := s.webhookAddress(billing)
	at := func(key diverted.Key) string {
		return s.address + "tenants/" + key.Tenant.String() + "/webhooks/" + key.Webhook.String() + "/diverted/" + key.Event.String()
	}
	for _, p := range []struct{ name, address string }{
		{"home", s.address},
		{"webhooks", s.address + "tenants/" + s.tenant.String() + "/webhooks"},
		{"webhook", webhook},
		{"webhook-week", webhook + "?hours=168&trigger=5xx"},
		{"webhook-active", s.webhookAddress(healthy)},
		{"pending", webhook + "/pending"},
		{"event", at(events[0])},
		{"event-held", at(events[1])},
		{"delete", at(events[0]) + "/delete"},
		{"bulk-plan", s.webhookAddress(healthy) + "/diverted/resend"},
		{"bulk-running", s.webhookAddress(healthy) + "/diverted/resend?state=running&counted=1217&done=800"},
		{"bulk-finished", s.webhookAddress(healthy) + "/diverted/resend?state=finished&counted=1217&done=1215&missed=2"},
		{"problem", s.address + "tenants/" + s.tenant.String() + "/webhooks/" + ulid.Make().String()},
	} {
		for _, screen := range []struct {
			name  string
			width int64
		}{{"desk", 1280}, {"phone", 390}} {
			for _, scheme := range []string{"light", "dark"} {
				call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
					Width: screen.width, Height: 844, DeviceScaleFactor: 1, Mobile: screen.name == "phone",
				})
				call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
				})
				b.followTo(s.address, p.address)
				wide := ask[int64](b, `document.documentElement.scrollWidth`) > screen.width
				picture := call(b, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true)}).Data
				name := fmt.Sprintf("%s-%s-%s.png", p.name, screen.name, scheme)
				if wide {
					t.Errorf("%s is wider than its screen", name)
				}
				is.NoErr(os.WriteFile(filepath.Join(dir, name), picture, 0o644))
			}
		}
	}
	b.quiet("the server responded with a status of 404") // the page of a problem
}

// night sets up what an operator may find: a webhook that was suspended three hours ago, one that is well again, and
// an event of each, the latter's first.
func (s *service) night() (billing, healthy diverted.Webhook, events [2]diverted.Key) {
	s.t.Helper()
	h := s.history
	h.failures = map[ulid.ULID][]diverted.Failure{}
	h.past = map[ulid.ULID]diverted.Stats{}
	h.webhooks = map[ulid.ULID]time.Time{}
	random := rand.New(rand.NewPCG(7, 23))
	now := time.Now()

	url := func(u string) func(*diverted.Webhook) { return func(w *diverted.Webhook) { w.Endpoint.URL = u } }
	signed := func(w *diverted.Webhook) {
		w.Endpoint.HMACEnabled, w.Endpoint.Secret = true, diverted.GenerateSecret()
		w.Endpoint.Headers = http.Header{"Authorization": {"Bearer not-to-be-seen"}, "X-Region": {"eu-west"}}
	}
	healthy = s.webhook("Northwind warehouse", url("https://hooks.northwind.example/in"), signed)
	s.webhook("Contoso ledger (staging)", url("https://staging.contoso.example/in?token=t0ps3cret"), func(w *diverted.Webhook) { w.Enabled = false })
	billing = s.webhook("Fabrikam billing", url("https://api.fabrikam.example/webhooks/orders"), signed, func(w *diverted.Webhook) {
		w.FailureHandling = &diverted.FailureHandling{Divert: true, Suspend: true, Retry: &diverted.RetryStrategy{Attempts: 5, Interval: time.Minute}}
	})
	flaky := s.webhook("Adventure Works mailing", url("https://mail.adventure-works.example/events"))
	s.webhook("Tailspin analytics", url("https://collect.tailspin.example/v2"))

	hours := func(w diverted.Webhook, each func(ago int) (delivered, failed int, by map[diverted.Trigger]int)) {
		for ago := 30 * 24; ago >= 0; ago-- {
			delivered, failed, by := each(ago)
			h.hours[w.Locator] = append(h.hours[w.Locator], diverted.HourStats{
				Hour: now.UTC().Truncate(time.Hour).Add(-time.Duration(ago) * time.Hour), Delivered: delivered, Failed: failed, Diverted: by,
			})
		}
	}
	hours(billing, func(ago int) (int, int, map[diverted.Trigger]int) {
		switch {
		case ago > 9:
			by := map[diverted.Trigger]int{}
			if random.IntN(9) == 0 {
				by["timeout"] = 1 + random.IntN(3)
			}
			return 300 + random.IntN(200), random.IntN(6), by
		case ago >= 3:
			return 40 * (ago - 2), 500 + random.IntN(300), map[diverted.Trigger]int{
				"503": (10 - ago) * (22 + random.IntN(6)), "timeout": 4 + random.IntN(16), "429": random.IntN(2) * random.IntN(24),
			}
		}
		return 0, 0, nil
	})
	well := func(ago int) (int, int, map[diverted.Trigger]int) {
		if ago == 5 {
			return 400, 72, map[diverted.Trigger]int{"503": 12}
		}
		return 900 + random.IntN(300), random.IntN(2), nil
	}
	for _, w := range []diverted.Webhook{healthy} {
		hours(w, well)
		h.past[w.Locator] = diverted.Stats{LastSuccess: now.Add(-3 * time.Second), LastFailure: now.Add(-5 * time.Hour)}
	}
	hours(flaky, func(int) (int, int, map[diverted.Trigger]int) { return 200, 30 + random.IntN(20), nil })
	h.past[flaky.Locator] = diverted.Stats{LastSuccess: now.Add(-50 * time.Second), LastFailure: now.Add(-4 * time.Second)}
	h.past[billing.Locator] = diverted.Stats{LastSuccess: now.Add(-3*time.Hour - 12*time.Minute), LastFailure: now.Add(-3 * time.Hour)}

	messages := map[diverted.Trigger]string{
		"503":     `https://api.fabrikam.example answered 503 Service Unavailable: {"error":"down for maintenance","retry":true}`,
		"timeout": "https://api.fabrikam.example: no answer within 15s",
		"429":     "https://api.fabrikam.example answered 429 Too Many Requests",
	}
	for i := range 1217 {
		trigger := diverted.Trigger("503")
		switch {
		case i%23 == 7:
			trigger = "timeout"
		case i%41 == 5:
			trigger = "429"
		}
		w, at := billing, now.Add(-9*time.Hour+time.Duration(i)*17*time.Second)
		e := s.divert(w, i*7, func(e *diverted.DivertedEvent) {
			e.Failure.Trigger, e.Failure.Message = trigger, messages[trigger]
		})
		h.at[e.Event] = at
		h.failures[e.Event] = attempts(e.Failure, at)
		if i == 3 {
			events[1] = e.Key
		}
	}
	for i := range 12 {
		e := s.divert(healthy, 5+i*23, func(e *diverted.DivertedEvent) {
			e.Failure.Message = `https://hooks.northwind.example answered 503 Service Unavailable: {"error":"down for maintenance"}`
		})
		h.at[e.Event] = now.Add(-5*time.Hour + time.Duration(i)*time.Minute)
		h.failures[e.Event] = attempts(e.Failure, h.at[e.Event])
		if i == 2 {
			events[0] = e.Key
		}
	}
	s.is.NoErr(s.store.Suspend(s.t.Context(), billing.Key()))
	h.webhooks[billing.Locator] = now.Add(-3 * time.Hour)
	for i := range 38 {
		e, err := diverted.NewEvent("order.paid", map[string]int{"order": i})
		s.is.NoErr(err)
		m, err := diverted.NewMessage(s.tenant, billing.Locator, e)
		s.is.NoErr(err)
		_, err = s.store.Accept(s.t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{m}})
		s.is.NoErr(err)
	}
	return billing, healthy, events
}

// attempts are those that an event went through until it was diverted: six, at growing intervals.
func attempts(last diverted.Failure, at time.Time) []diverted.Failure {
	var all []diverted.Failure
	for n := 6; n >= 1; n-- {
		f := last
		f.Attempt, f.At, f.Duration = n, at, time.Duration(180+n*37)*time.Millisecond
		f.Excerpt = `{"error":"down for maintenance","retry":true,"request":"req_8f31c` + fmt.Sprint(n) + `"}`
		if n == 2 {
			f = diverted.Failure{Trigger: "timeout", Message: strings.Fields(last.Message)[0] + ": no answer within 15s", Attempt: n, At: at, Duration: 15 * time.Second}
		}
		if n == 4 {
			f.RetryAfter = 30 * time.Second
		}
		all = append([]diverted.Failure{f}, all...)
		at = at.Add(-time.Minute << max(n-2, 0)).Add(-3 * time.Second)
	}
	return all
}

package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

func TestTextFromOutsideIsText(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	const hostile = `</script><script>alert(1)</script>"' onload=x {{.}} `
	const unseen = "\u200b\u2028\u00ad" // which a name may have
	w := s.webhook(1, func(w *diverted.Webhook) {
		w.Name, w.Endpoint.Tag = hostile+unseen, hostile+unseen
		w.Endpoint.URL = "https://receiver.example/<script>alert(2)</script>\u202e" + unseen + "?\u202e=1"
	})
	body, err := json.Marshal(map[string]string{hostile: hostile + "\u202e"})
	is.NoErr(err)
	e := s.divert(w.Key(), 3, func(e *diverted.DivertedEvent) {
		e.Body, e.Failure.Message, e.Failure.Excerpt = body, hostile+"\u202e", hostile
	})
	for _, target := range []string{webhooksPath(tenant), webhookPath(w.Key()), webhookPath(w.Key()) + "/pending", webhookPath(w.Key()) + "/suspend", eventPath(e.Key), eventPath(e.Key) + "/delete", webhookPath(w.Key()) + "/diverted/resend"} {
		r := s.get(target)
		is.Equal(r.StatusCode, 200)
		is.Equal(strings.Count(r.body, "<script"), 1) // the console's own
		is.True(!strings.ContainsAny(r.body, "\u202e"+unseen))
		is.True(r.has("&lt;/script&gt;") || r.has(`\u003c`))
	}
	download := s.get(eventPath(e.Key) + "/body")
	is.Equal(download.body, string(body))
	is.True(strings.HasPrefix(download.Header.Get("Content-Disposition"), "attachment"))
	is.Equal(download.Header.Get("X-Content-Type-Options"), "nosniff")
}

func TestSecretsAreOnNoPage(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	secret, alertSecret := diverted.GenerateSecret(), diverted.GenerateSecret()
	w := s.webhook(1, func(w *diverted.Webhook) {
		w.Endpoint.URL = "https://receiver.example/hook?key=planted-in-query"
		w.Endpoint.HMACEnabled, w.Endpoint.Secret = true, secret
		w.Endpoint.Headers = http.Header{"Authorization": {"Bearer planted-in-header"}, "X-Key": {"planted-too"}}
		w.FailureHandling = &diverted.FailureHandling{Divert: true, Alert: &diverted.Endpoint{
			URL: "https://alerts.example/planted-in-path", HMACEnabled: true, Secret: alertSecret, Headers: http.Header{"X-Key": {"planted-again"}},
		}}
	})
	e := s.divert(w.Key(), 3)
	for _, target := range []string{webhooksPath(tenant), webhookPath(w.Key()), webhookPath(w.Key()) + "/pending", eventPath(e.Key), eventPath(e.Key) + "/delete", webhookPath(w.Key()) + "/diverted/delete"} {
		r := s.get(target)
		is.Equal(r.StatusCode, 200)
		is.True(!r.has("planted"))
		is.True(!r.has(string(secret)[6:]))
		is.True(!r.has(string(alertSecret)[6:]))
	}
	r := s.get(eventPath(e.Key))
	is.True(r.has("<dt>Authorization</dt><dd class=\"masked\">***</dd>"))
	is.True(r.has("<dt>webhook-signature</dt><dd class=\"masked\">v1,***</dd>"))
	is.True(r.has("https://receiver.example/hook?key=***"))
	is.True(s.get(webhookPath(w.Key())).has("a notice is sent to https://alerts.example."))
}

func TestEventShowsItsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // minutes of retries
		is := is.New(t)
		s := newSite(t)
		w := s.webhook(1, func(w *diverted.Webhook) {
			w.FailureHandling = &diverted.FailureHandling{Divert: true, Retry: &diverted.RetryStrategy{Attempts: 1, Interval: time.Minute}}
		})
		e := s.divert(w.Key(), 3)
		is.NoErr(s.store.Resend(t.Context(), e.Key))
		attempts := 0
		dispatcher, err := diverted.NewDispatcher(s.store, diverted.Config{
			Logger: slog.New(slog.DiscardHandler), Jitter: -1,
			Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				if attempts++; attempts == 1 {
					time.Sleep(87 * time.Millisecond)
					return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"120"}}, Body: io.NopCloser(strings.NewReader("back at four"))}, nil
				}
				<-r.Context().Done() // says nothing
				return nil, r.Context().Err()
			}),
		})
		is.NoErr(err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- dispatcher.Run(ctx) }()
		time.Sleep(time.Hour)
		stop()
		is.NoErr(<-ended)
		is.Equal(attempts, 2)

		r := s.get(eventPath(e.Key))
		for _, text := range []string{
			"Attempt 1", "took 87 ms", "asked to wait 2 min", "back at four", "Restarted",
			"Attempt 2", "2 min 15 s after attempt 1", "took 15 s", "Failed with timeout (no complete answer)",
			"<bdi>Service Unavailable: back at four</bdi>", `<dt>webhook-id</dt><dd class="id">`,
			`<span class="key">&#34;locator&#34;</span>`, e.Event.String(), e.RequestLocator.String(),
		} {
			if !r.has(text) {
				t.Errorf("%q is not on the page", text)
			}
		}
		is.True(strings.Index(r.body, "Attempt 1") < strings.Index(r.body, "Attempt 2"))
		is.Equal(strings.Count(r.body, "<pre "), 2)
		is.Equal(strings.Count(r.body, `tabindex="0" role="group" aria-label="`), 2) // what has the focus says what it is
	})
}

// roundTrip is the network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestButtonsOfAnEvent(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	a, b, c := s.divert(w.Key(), 3), s.divert(w.Key(), 4), s.divert(w.Key(), 5)

	r := s.post(eventPath(a.Key)+"/resend", nil)
	is.Equal(r.StatusCode, http.StatusSeeOther)
	at := resolve(s, eventPath(a.Key)+"/resend", r.Header.Get("Location"))
	is.Equal(at, webhookPath(w.Key())+"?notice=resent")
	is.True(s.get(at).has("The event is on its way again"))
	is.Equal(s.pending(w.Key()), 1)
	is.Equal(s.post(eventPath(a.Key)+"/resend", nil).StatusCode, 404) // pressed twice

	is.True(s.get(eventPath(b.Key) + "/delete").has("Delete this event?"))
	r = s.post(eventPath(b.Key)+"/delete", nil)
	is.True(s.get(resolve(s, eventPath(b.Key)+"/delete", r.Header.Get("Location"))).has("The event was deleted"))
	is.Equal(s.held(w.Key()), 1)

	is.True(s.get(eventPath(c.Key) + "/expunge").has("Expunge the body of this event?"))
	r = s.post(eventPath(c.Key)+"/expunge", nil)
	r = s.get(resolve(s, eventPath(c.Key)+"/expunge", r.Header.Get("Location")))
	is.True(r.has("The body was expunged"))
	is.True(r.has("It cannot be resent: its body was expunged."))
	is.True(!r.has(`/resend"`))
	is.Equal(s.get(eventPath(c.Key)+"/body").StatusCode, 409)
	is.Equal(s.post(eventPath(c.Key)+"/resend", nil).StatusCode, 409)
	is.True(s.get(webhookPath(w.Key())).has(`<span class="tag">expunged</span>`))
}

func TestButtonsOfAWebhook(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	r := s.get(webhookPath(w.Key()))
	is.True(r.has("Suspended <time"))

	s.status = 503
	r = s.post(webhookPath(w.Key())+"/ping", nil)
	is.Equal(r.StatusCode, 200)
	is.True(r.has("The ping failed with 503"))
	is.Equal(s.post(webhookPath(w.Key())+"/ping", nil).StatusCode, http.StatusTooManyRequests)

	r = s.post(webhookPath(w.Key())+"/unsuspend", nil)
	is.True(s.get(resolve(s, webhookPath(w.Key())+"/unsuspend", r.Header.Get("Location"))).has("The webhook is active again"))
	stand, err := s.store.FetchWebhook(t.Context(), w.Key())
	is.NoErr(err)
	is.True(!stand.Suspended())

	r = s.get(webhookPath(w.Key()) + "/suspend")
	is.True(r.has("is held until it is unsuspended") && r.has(w.Name) && r.has("Cancel"))
	stand, err = s.store.FetchWebhook(t.Context(), w.Key())
	is.NoErr(err)
	is.True(!stand.Suspended()) // it only asks
	for range 2 {               // pressed twice
		r = s.post(webhookPath(w.Key())+"/suspend", nil)
		r = s.get(resolve(s, webhookPath(w.Key())+"/suspend", r.Header.Get("Location")))
		is.True(r.has("The webhook is suspended") && r.has("Suspended <time"))
	}
	// A notice is one of those that there are.
	is.True(!s.get(webhookPath(w.Key()) + "?notice=hacked").has("hacked"))
}

func TestAListSaysWhyItCannotBeResent(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	disabled := s.webhook(1, func(w *diverted.Webhook) { w.Enabled = false })
	suspended := s.webhook(2)
	both := s.webhook(3, func(w *diverted.Webhook) { w.Enabled = false })
	is.NoErr(s.store.Suspend(t.Context(), suspended.Key()))
	is.NoErr(s.store.Suspend(t.Context(), both.Key()))
	is.True(!s.get(webhookPath(suspended.Key())).has("can be resent")) // there is nothing
	for w, when := range map[diverted.WebhookKey]string{
		disabled.Key(): "once the webhook is enabled.", suspended.Key(): "once the webhook is unsuspended.", both.Key(): "once the webhook is unsuspended and enabled.",
	} {
		e := s.divert(w, 3)
		is.True(s.get(webhookPath(w)).has("They can be resent " + when))
		is.True(s.get(eventPath(e.Key)).has("It can be resent " + strings.Replace(when, "the webhook", "its webhook", 1)))
	}
	is.True(!s.get(webhookPath(s.webhook(4).Key())).has("can be resent"))
}

// The browser refuses what the server would, and nothing else.
func TestTheFieldOfATriggerKnowsTriggers(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	given := regexp.MustCompile(`id="trigger"[^>]* pattern="([^"]+)"`).FindStringSubmatch(s.get(webhookPath(s.webhook(1).Key())).body)
	is.Equal(len(given), 2)
	pattern := regexp.MustCompile("^(?:" + given[1] + ")$")
	for _, trigger := range []string{"3xx", "4XX", "5xX", "timeout", "TimeOut", "300", "503", "599", "200", "2xx", "600", "50", "5033", "5x3", "time", "x"} {
		_, err := diverted.ParseTrigger(trigger)
		is.Equal(pattern.MatchString(trigger), err == nil)
	}
}

// A suspension's end does not enable what is disabled.
func TestUnsuspendingADisabledWebhookSaysThatItStaysDisabled(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1, func(w *diverted.Webhook) { w.Enabled = false })
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	is.True(s.get(webhookPath(w.Key())).has("The webhook is disabled too"))
	is.True(s.get(webhookPath(w.Key()) + "/pending").has("The webhook is suspended, and disabled."))
	r := s.post(webhookPath(w.Key())+"/unsuspend", nil)
	r = s.get(resolve(s, webhookPath(w.Key())+"/unsuspend", r.Header.Get("Location")))
	is.True(r.has("The suspension has ended"))
	is.True(r.has("still disabled"))
	is.True(!r.has("active again"))
}

func TestListsGoOn(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	for n := range byte(60) {
		s.webhook(n+1, func(w *diverted.Webhook) { w.Name = fmt.Sprintf("webhook %d.", n) })
	}
	at, seen := webhooksPath(tenant)+"?state=active", 0
	for pages := 1; ; pages++ {
		r := s.get(at)
		seen += strings.Count(r.body, `<tr role="row">`) - 1
		next := nextLink(r.body)
		if next == "" {
			is.Equal(pages, 3)
			break
		}
		at = resolve(s, at, next)
	}
	is.Equal(seen, 60)
	is.True(s.get(webhooksPath(tenant) + "?name=webhook+7.").has("webhook 7."))
	is.True(!s.get(webhooksPath(tenant) + "?name=webhook+7.").has("webhook 8."))
	is.True(s.get(webhooksPath(tenant) + "?state=suspended").has("No webhooks match."))

	w := diverted.WebhookKey{Tenant: tenant, Webhook: locator(1)}
	s.many(w, 120)
	at, seen = webhookPath(w), 0
	for at != "" {
		r := s.get(at)
		seen += strings.Count(r.body, `<tr role="row">`) - 1
		next := nextLink(r.body)
		if next == "" {
			break
		}
		at = resolve(s, at, next)
	}
	is.Equal(seen, 120)
}

// Whatever leads from a page of a webhook to the same page keeps the range of the chart.
func TestTheRangeOfAChartIsKept(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	s.many(w, 120)
	same := regexp.MustCompile(`href="([^"]*` + w.Webhook.String() + `[^"/]*)"`)
	keeps := func(at string, links int) {
		t.Helper()
		r := s.get(at)
		is.True(r.has(`<input type="hidden" name="hours" value="168">`)) // of the filter
		n := 0
		for _, link := range same.FindAllStringSubmatch(r.body, -1) {
			if strings.Contains(link[1], "hours=168") {
				n++
			}
		}
		is.Equal(n, links)
	}
	at := webhookPath(w) + "?hours=168"
	keeps(at, 3)                                       // the range, a trigger of the chart, the next page
	keeps(at+"&trigger=5xx", 4)                        // Clear as well
	keeps(at+"&trigger=404", 4)                        // Show all instead of a next page
	keeps(resolve(s, at, nextLink(s.get(at).body)), 4) // the first page and the next
	is.True(!s.get(webhookPath(w)).has(`name="hours"`))
}

func nextLink(body string) string {
	_, rest, found := strings.Cut(body, `rel="next" href="`)
	if !found {
		return ""
	}
	link, _, _ := strings.Cut(rest, `"`)
	return link
}

// A host that delivers by itself need not tell the store of its webhooks.
func TestAWebhookThatTheStoreDoesNotKnow(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	key := diverted.WebhookKey{Tenant: tenant, Webhook: locator(50)}
	e := s.divert(key, 3)
	r := s.get(webhookPath(key))
	is.Equal(r.StatusCode, 200)
	is.True(r.has("its host delivers events itself"))
	is.True(r.has(e.Event.String()))
	is.True(!r.has("Resend all"))
	is.True(s.get(eventPath(e.Key)).has("It cannot be resent from here: its webhook is not registered here."))
	is.True(r.has("They cannot be resent from here: the webhook is not registered here."))

	// No list leads to it, but its locator does.
	list := webhooksPath(tenant)
	is.True(s.get(list).has("Open a webhook by its locator"))
	r = s.get(list + "?webhook=" + key.Webhook.String())
	is.Equal(r.StatusCode, http.StatusSeeOther)
	is.Equal(resolve(s, list, r.Header.Get("Location")), webhookPath(key))
	r = s.get(list + "?webhook=%20" + key.Webhook.String() + "%09%C2%A0") // as it is pasted
	is.Equal(resolve(s, list, r.Header.Get("Location")), webhookPath(key))
	for _, no := range []string{"orders", "%20", key.Webhook.String() + "%20x"} {
		is.Equal(s.get(list+"?webhook="+no).StatusCode, 400)
	}
}

// What is said of a webhook of which nothing is left is said by the console alone, once, and not by a link to any locator.
func TestALinkFromElsewhereMakesNoWebhook(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	key := diverted.WebhookKey{Tenant: tenant, Webhook: locator(50)}
	e := s.divert(key, 3)
	r := s.post(eventPath(e.Key)+"/delete", nil)
	r = s.follow(resolve(s, eventPath(e.Key)+"/delete", r.Header.Get("Location")))
	is.Equal(r.StatusCode, 200)
	is.True(r.has("The event was deleted"))

	for notice, status := range map[string]int{
		"resent": 200, "handed": 200, "deleted": 200, // the last one may just have left
		"expunged": 404, "suspended": 404, "unsuspended": 404, "stilldisabled": 404, "x": 404, "": 404, // nothing leaves by these
	} {
		at := webhookPath(key) + "?notice=" + notice
		is.Equal(s.follow(at).StatusCode, status)
		is.Equal(s.get(at, "Referer", "http://example.com/console/").StatusCode, status)
		for _, from := range [][]string{nil, {"Sec-Fetch-Site", "none"}, {"Sec-Fetch-Site", "cross-site"}, {"Referer", "http://elsewhere.example/"}} {
			r := s.get(at, from...)
			is.Equal(r.StatusCode, 404)
			is.True(!r.has(`class="notice`)) // nor does its problem say that something was done
		}
	}
}

// A body of the greatest size makes a page of a bounded one, in bounded time.
func TestAGreatBodyMakesASmallPage(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	for i, body := range [][]byte{
		append(append([]byte(`{"a":"`), bytes.Repeat([]byte("x"), diverted.MaxEventBytes-8)...), `"}`...),
		append(bytes.Repeat([]byte("["), 4000), bytes.Repeat([]byte("]"), 4000)...),
		append(append([]byte(`[1`), bytes.Repeat([]byte(",1"), 1<<20)...), ']'),
	} {
		e := s.divert(w.Key(), byte(i), func(e *diverted.DivertedEvent) { e.Body = body })
		r := s.get(eventPath(e.Key))
		is.Equal(r.StatusCode, 200)
		is.True(len(r.body) < 2<<20)
		is.True(r.has("Only the beginning is shown."))
		is.Equal(s.get(eventPath(e.Key)+"/body").body, string(body))
	}
}

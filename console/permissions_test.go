package console_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
)

// Every button that a page shows works, and every one that would be refused is not there, for each permission alone
// beside those that the page needs.
func TestPagesOfferWhatIsPermittedAndNothingElse(t *testing.T) {
	all := []httpapi.Permission{
		httpapi.DivertedRead, httpapi.DivertedList, httpapi.DivertedResend, httpapi.DivertedDelete, httpapi.DivertedPayload,
		httpapi.WebhooksRead, httpapi.WebhooksList, httpapi.WebhooksWrite,
	}
	for _, left := range append(all, "") {
		for _, only := range []bool{true, false} {
			permissions := slices.DeleteFunc(slices.Clone(all), func(p httpapi.Permission) bool { return p == left })
			if only {
				permissions = []httpapi.Permission{httpapi.WebhooksRead, httpapi.DivertedRead, left}
			}
			is := is.New(t)
			s := newSite(t, permitting(permissions...))
			active, suspended := s.webhook(1), s.webhook(2)
			e := s.divert(active.Key(), 3)
			held := s.divert(suspended.Key(), 4)
			is.NoErr(s.store.Suspend(t.Context(), suspended.Key()))
			s.accept(suspended.Key())
			may := func(needs ...httpapi.Permission) bool {
				return !slices.ContainsFunc(needs, func(p httpapi.Permission) bool { return !slices.Contains(permissions, p) })
			}
			check := func(target, text string, want bool) {
				t.Helper()
				r := s.get(target)
				if r.StatusCode != http.StatusOK || r.has(text) != want {
					t.Errorf("with %v: %s (%d) shows %q: %v", permissions, target, r.StatusCode, text, r.has(text))
				}
			}
			if may(httpapi.WebhooksRead) {
				check(webhookPath(active.Key()), `/ping"`, may(httpapi.WebhooksWrite))
				check(webhookPath(active.Key()), `/unsuspend"`, false)
				check(webhookPath(suspended.Key()), `/unsuspend"`, may(httpapi.WebhooksWrite))
				check(webhookPath(active.Key()), `/suspend"`, may(httpapi.WebhooksWrite))
				check(webhookPath(suspended.Key()), `/suspend"`, false)
				check(webhookPath(active.Key()), e.Event.String(), may(httpapi.DivertedRead, httpapi.DivertedList))
				check(webhookPath(active.Key()), `/pending"`, may(httpapi.DivertedRead, httpapi.DivertedList))
				check(webhookPath(active.Key()), `>Webhooks</bdi>`, may(httpapi.WebhooksList))
				lists := may(httpapi.DivertedRead, httpapi.DivertedList) // else there is no list to act on
				check(webhookPath(active.Key()), `/diverted/resend"`, lists && may(httpapi.DivertedResend))
				check(webhookPath(suspended.Key()), `/diverted/resend"`, false)
				check(webhookPath(active.Key()), `/diverted/delete"`, lists && may(httpapi.DivertedDelete))
				diverts := may(httpapi.WebhooksWrite, httpapi.DivertedList)
				check(webhookPath(suspended.Key()), `/divert"`, diverts)
				check(webhookPath(active.Key()), `/divert"`, false)
				if lists {
					check(webhookPath(suspended.Key())+"/pending", `/divert"`, diverts)
				}
			}
			if may(httpapi.DivertedRead) {
				check(eventPath(e.Key), `/resend"`, may(httpapi.DivertedResend))
				check(eventPath(held.Key), `/resend"`, false)
				check(eventPath(e.Key), `/delete"`, may(httpapi.DivertedDelete))
				check(eventPath(e.Key), `/expunge"`, may(httpapi.DivertedDelete))
				check(eventPath(e.Key), `class="json"`, may(httpapi.DivertedPayload))
				check(eventPath(e.Key), `/body"`, may(httpapi.DivertedPayload))
				check(eventPath(e.Key), active.Name, may(httpapi.WebhooksRead))
			}
			if may(httpapi.DivertedDelete) {
				check(eventPath(e.Key)+"/delete", breaking(e.EventType), may(httpapi.DivertedRead))
				check(eventPath(e.Key)+"/expunge", breaking(e.EventType), may(httpapi.DivertedRead))
			}
			for _, route := range []struct {
				method, target string
				needs          []httpapi.Permission
			}{
				{"GET", webhooksPath(tenant), []httpapi.Permission{httpapi.WebhooksRead, httpapi.WebhooksList}},
				{"GET", webhookPath(active.Key()), []httpapi.Permission{httpapi.WebhooksRead}},
				{"GET", webhookPath(active.Key()) + "/pending", []httpapi.Permission{httpapi.WebhooksRead, httpapi.DivertedRead, httpapi.DivertedList}},
				{"POST", webhookPath(suspended.Key()) + "/ping", []httpapi.Permission{httpapi.WebhooksWrite}},
				{"GET", webhookPath(active.Key()) + "/diverted/resend", []httpapi.Permission{httpapi.DivertedList, httpapi.DivertedResend}},
				{"GET", webhookPath(active.Key()) + "/diverted/delete", []httpapi.Permission{httpapi.DivertedList, httpapi.DivertedDelete}},
				{"GET", webhookPath(suspended.Key()) + "/divert", []httpapi.Permission{httpapi.WebhooksWrite, httpapi.DivertedList}},
				{"GET", eventPath(e.Key), []httpapi.Permission{httpapi.DivertedRead}},
				{"GET", eventPath(e.Key) + "/body", []httpapi.Permission{httpapi.DivertedRead, httpapi.DivertedPayload}},
				{"GET", eventPath(e.Key) + "/delete", []httpapi.Permission{httpapi.DivertedDelete}},
				{"GET", eventPath(e.Key) + "/expunge", []httpapi.Permission{httpapi.DivertedDelete}},
				{"GET", webhookPath(active.Key()) + "/suspend", []httpapi.Permission{httpapi.WebhooksWrite}},
				{"POST", webhookPath(suspended.Key()) + "/suspend", []httpapi.Permission{httpapi.WebhooksWrite}},
				{"POST", webhookPath(suspended.Key()) + "/unsuspend", []httpapi.Permission{httpapi.WebhooksWrite}},
				{"POST", eventPath(held.Key) + "/expunge", []httpapi.Permission{httpapi.DivertedDelete}},
				{"POST", eventPath(held.Key) + "/delete", []httpapi.Permission{httpapi.DivertedDelete}},
				{"POST", eventPath(e.Key) + "/resend", []httpapi.Permission{httpapi.DivertedResend}},
			} {
				r := s.do(route.method, route.target, nil, "Sec-Fetch-Site", "same-origin")
				if refused := r.StatusCode == http.StatusForbidden; refused == may(route.needs...) || r.StatusCode >= 400 && !refused {
					t.Errorf("with %v: %s %s: %d", permissions, route.method, route.target, r.StatusCode)
				}
			}
		}
	}
}

// breaking is an event type as pages have it, which may break it.
func breaking(eventType string) string {
	return strings.NewReplacer(".", ".<wbr>", "_", "_<wbr>").Replace(eventType)
}

// What is done leads to a page that the caller may see, or says itself what it was.
func TestWhoMayNotSeeAWebhookIsToldWhatWasDone(t *testing.T) {
	is := is.New(t)
	s := newSite(t, permitting(httpapi.WebhooksWrite, httpapi.DivertedResend))
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	r := s.post(webhookPath(w.Key())+"/unsuspend", nil)
	is.Equal(r.StatusCode, http.StatusOK)
	is.True(r.has("The webhook is active again"))
	r = s.get(webhookPath(w.Key()) + "/suspend")
	is.Equal(r.StatusCode, http.StatusOK)
	is.True(!r.has(w.Name) && !r.has("Cancel")) // nor is it named, and there is no page to go back to
	r = s.post(webhookPath(w.Key())+"/suspend", nil)
	is.Equal(r.StatusCode, http.StatusOK)
	is.True(r.has("The webhook is suspended"))
	is.NoErr(s.store.Unsuspend(t.Context(), w.Key()))
	r = s.post(eventPath(e.Key)+"/resend", nil)
	is.Equal(r.StatusCode, http.StatusOK)
	is.True(r.has("The event is on its way again"))
	is.Equal(s.held(w.Key()), 0)
}

// Nothing is looked up for those who may not see it, so that nothing can be told by the answer.
func TestForeignAndUnknownAreAlike(t *testing.T) {
	is := is.New(t)
	s := newSite(t, func(c *console.Config) {
		c.Authorize = func(_ *http.Request, of uuid.UUID, _ ...httpapi.Permission) error {
			if of != tenant {
				return httpapi.ErrForbidden
			}
			return nil
		}
	})
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	foreign := diverted.Key{Tenant: other, Webhook: w.Locator, Event: e.Event}
	unknown := diverted.Key{Tenant: other, Webhook: locator(90), Event: locator(91)}
	for _, paths := range [][2]string{
		{webhookPath(foreign.WebhookKey()), webhookPath(unknown.WebhookKey())},
		{eventPath(foreign), eventPath(unknown)},
	} {
		a, b := s.get(paths[0]), s.get(paths[1])
		is.Equal(a.StatusCode, http.StatusForbidden)
		is.Equal(b.StatusCode, http.StatusForbidden)
		is.Equal(len(a.body), len(b.body))
	}
}

func TestWhoHasNoCredentialsIsChallenged(t *testing.T) {
	is := is.New(t)
	s := newSite(t, func(c *console.Config) {
		c.Challenge = `Basic realm="operators"`
		c.Authorize = func(*http.Request, uuid.UUID, ...httpapi.Permission) error { return httpapi.ErrUnauthenticated }
	})
	r := s.get(webhooksPath(tenant))
	is.Equal(r.StatusCode, http.StatusUnauthorized)
	is.Equal(r.Header.Get("WWW-Authenticate"), `Basic realm="operators"`)
}

func TestCrossOriginPostsAreRefused(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
	} {
		for _, target := range []string{
			webhookPath(w.Key()) + "/suspend", webhookPath(w.Key()) + "/unsuspend", webhookPath(w.Key()) + "/ping", eventPath(e.Key) + "/resend", eventPath(e.Key) + "/delete",
			eventPath(e.Key) + "/expunge", webhookPath(w.Key()) + "/diverted/delete", webhookPath(w.Key()) + "/diverted/resend", webhookPath(w.Key()) + "/divert",
		} {
			is.Equal(s.do("POST", target, nil, headers...).StatusCode, http.StatusForbidden)
		}
	}
	stand, err := s.store.FetchWebhook(t.Context(), w.Key())
	is.NoErr(err)
	is.True(stand.Suspended())
	is.Equal(s.held(w.Key()), 1)

	// A link from elsewhere leads to a page, and changes nothing.
	is.Equal(s.get(eventPath(e.Key)+"/delete", "Sec-Fetch-Site", "cross-site").StatusCode, 200)
	is.Equal(s.held(w.Key()), 1)
	// The console's own form, as a browser sends it over plain HTTP.
	is.Equal(s.do("POST", eventPath(e.Key)+"/delete", nil, "Origin", "http://example.com").StatusCode, http.StatusSeeOther)
	is.Equal(s.held(w.Key()), 0)
}

package console_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
)

func TestNewNamesWhatIsMissing(t *testing.T) {
	is := is.New(t)
	_, err := console.New(console.Config{})
	is.True(errors.Is(err, diverted.ErrInvalid))
	is.True(strings.Contains(err.Error(), "Store"))
	is.True(strings.Contains(err.Error(), "Authorize"))
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	for _, target := range []string{
		"/console/", "/console/nothing", "/console/assets/console.css", webhooksPath(tenant), webhookPath(w.Key()),
		eventPath(e.Key), eventPath(e.Key) + "/body", webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(9)}),
	} {
		r := s.get(target)
		policy := r.Header.Get("Content-Security-Policy")
		for _, directive := range []string{
			"default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'",
		} {
			is.True(strings.Contains(policy, directive)) // the policy of every answer
		}
		is.True(!strings.Contains(policy, "unsafe"))
		is.Equal(r.Header.Get("X-Content-Type-Options"), "nosniff")
		is.Equal(r.Header.Get("Referrer-Policy"), "same-origin")
		is.Equal(r.Header.Get("Cache-Control"), "no-store")
	}
}

// What pages load or say inline would be stopped by their own policy.
func TestPagesHaveNothingInline(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?: [^>]*)?>[^<]|https?://[^ ]*\.(?:js|css)`)
	for _, target := range []string{"/console/", "/console/nothing", webhooksPath(tenant), webhookPath(w.Key()), webhookPath(w.Key()) + "/pending", eventPath(e.Key), eventPath(e.Key) + "/delete"} {
		is.Equal(inline.FindString(s.get(target).body), "")
	}
}

// The console finds its pages, and its pages find each other, wherever it is mounted.
// A page has several forms, which those who do not see them tell apart by their names.
func TestFormsThatSearchHaveNames(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	named := regexp.MustCompile(`<form method="get"[^>]* aria-label="([^"]+)"`)
	for target, want := range map[string]int{webhooksPath(tenant): 2, webhookPath(w.Key()): 1} {
		r := s.get(target)
		names := map[string]bool{}
		for _, form := range named.FindAllStringSubmatch(r.body, -1) {
			names[form[1]] = true
		}
		is.Equal(len(names), want)
		is.Equal(strings.Count(r.body, `<form method="get"`), want)
	}
}

func TestAnyPrefix(t *testing.T) {
	s := newSite(t)
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	for name, mount := range map[string]struct {
		prefix  string
		handler http.Handler
	}{
		"root":               {"", s},
		"prefix":             {"/console", s},
		"stripped":           {"/console", http.StripPrefix("/console", s)},
		"deep":               {"/a/b/ops", s},
		"deep and stripped":  {"/a/b/ops", http.StripPrefix("/a/b/ops", s)},
		"partly stripped":    {"/a/b/ops", http.StripPrefix("/a", s)},
		"a route's own word": {"/tenants/assets/x", s},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			reached := map[string]bool{}
			link := regexp.MustCompile(`(?:href|src|action)="([^"#]+)[^"]*"`)
			var visit func(address string)
			visit = func(address string) {
				u, err := url.Parse(address)
				is.NoErr(err)
				if reached[u.Path] {
					return
				}
				reached[u.Path] = true
				r := httptest.NewRequest("GET", u.String(), nil)
				recorder := httptest.NewRecorder()
				mount.handler.ServeHTTP(recorder, r)
				if recorder.Code == http.StatusMethodNotAllowed {
					return // a button's
				}
				if recorder.Code != http.StatusOK {
					t.Fatalf("%s: %d", address, recorder.Code)
				}
				if !strings.HasPrefix(recorder.Header().Get("Content-Type"), "text/html") {
					return
				}
				for _, match := range link.FindAllStringSubmatch(recorder.Body.String(), -1) {
					next, err := u.Parse(strings.ReplaceAll(match[1], "&amp;", "&"))
					is.NoErr(err)
					if next.Host == "" {
						visit(next.String())
					}
				}
			}
			visit(mount.prefix + webhooksPath(tenant)[len("/console"):])
			for _, wanted := range []string{"/", "/assets/console.css", "/assets/console.js", "/assets/icon.svg", eventPath(e.Key)[len("/console"):], webhookPath(w.Key())[len("/console"):] + "/ping"} {
				is.True(reached[mount.prefix+wanted]) // by links alone
			}
		})
	}
}

func TestTheMountPointWithoutItsSlashLeadsToTheFirstPage(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	mux := http.NewServeMux()
	mux.Handle("/console/", http.StripPrefix("/console", s))
	mux.Handle("/console", http.StripPrefix("/console", s))
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequest("GET", "/console", nil))
	is.Equal(recorder.Code, http.StatusSeeOther)
	is.Equal(path.Join("/", recorder.Header().Get("Location")), "/console")
	is.True(strings.HasSuffix(recorder.Header().Get("Location"), "console/"))
}

func TestTheFirstPageLeadsToATenant(t *testing.T) {
	is := is.New(t)
	s := newSite(t, func(c *console.Config) {
		c.Authorize = func(*http.Request, uuid.UUID, ...httpapi.Permission) error { return httpapi.ErrUnauthenticated }
	})
	is.Equal(s.get("/console/").StatusCode, 200) // it tells nothing
	r := s.get("/console/?tenant=" + tenant.String())
	is.Equal(r.StatusCode, http.StatusSeeOther)
	is.Equal(r.Header.Get("Location"), "./tenants/"+tenant.String()+"/webhooks")
	is.Equal(s.get("/console/?tenant=+"+tenant.String()+"%0A").Header.Get("Location"), r.Header.Get("Location")) // as it is pasted
	is.True(s.get("/console/").has(`pattern="\s*[0-9A-Fa-f]{8}`))
	is.Equal(s.get("/console/?tenant=x").StatusCode, 400)
}

func TestErrorsArePages(t *testing.T) {
	s := newSite(t)
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	suspended := s.webhook(2)
	held := s.divert(suspended.Key(), 4)
	is := is.New(t)
	is.NoErr(s.store.Suspend(t.Context(), suspended.Key()))
	unknown := diverted.WebhookKey{Tenant: tenant, Webhook: locator(99)}
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/console/x", 404},
		{"GET", "/console/tenants", 404},
		{"GET", "/console/assets/console.go", 404},
		{"GET", "/console/assets/..%2fconsole.css", 404},
		{"POST", "/console/", 405},
		{"PUT", webhooksPath(tenant), 405},
		{"GET", eventPath(e.Key) + "/resend", 405},
		{"GET", "/console/tenants/x/webhooks", 400},
		{"GET", "/console/tenants//webhooks", 400},
		{"GET", "/console/tenants/{" + tenant.String() + "}/webhooks", 400},
		{"GET", webhooksPath(uuid.Nil), 400}, // which would be everybody's
		{"GET", "/console/?tenant=" + uuid.Nil.String(), 400},
		{"GET", webhookPath(diverted.WebhookKey{Tenant: tenant}), 400},
		{"GET", eventPath(diverted.Key{Tenant: tenant, Webhook: w.Locator}), 400},
		{"GET", webhooksPath(tenant) + "/x", 400},
		{"GET", webhooksPath(tenant) + "?state=broken", 400},
		{"GET", webhooksPath(tenant) + "?sate=active", 400},
		{"GET", webhooksPath(tenant) + "?state=active&state=active", 400},
		{"GET", webhooksPath(tenant) + "?name=%zz", 400},
		{"GET", webhooksPath(tenant) + "?eventType=%3Cb%3E", 400},
		{"GET", webhookPath(w.Key()) + "?trigger=200", 400},
		{"GET", webhookPath(w.Key()) + "?since=yesterday", 400},
		{"GET", webhookPath(w.Key()) + "?since=2026-11-23T03:00&until=2026-11-22T03:00", 400},
		{"GET", webhookPath(w.Key()) + "?until=0001-01-01", 400}, // which would be no bound at all
		{"GET", webhookPath(w.Key()) + "?since=1970-01-01T00:00:00%2B00:01", 400},
		{"GET", webhookPath(w.Key()) + "?hours=721", 400},
		{"GET", webhookPath(w.Key()) + "?after=x", 400},
		{"GET", webhookPath(unknown), 404},
		{"GET", webhookPath(diverted.WebhookKey{Tenant: other, Webhook: w.Locator}), 404},
		{"GET", webhookPath(w.Key()) + "/diverted/" + locator(99).String(), 404},
		{"POST", eventPath(held.Key) + "/resend", 409},
		{"GET", webhookPath(unknown) + "/suspend", 404},
		{"POST", webhookPath(unknown) + "/suspend", 404},
		{"POST", webhookPath(unknown) + "/unsuspend", 404},
		{"POST", webhookPath(unknown) + "/ping", 404},
		{"POST", webhookPath(w.Key()) + "/unsuspend?force=1", 400},
	} {
		r := s.do(c.method, c.target, nil, "Sec-Fetch-Site", "same-origin")
		if r.StatusCode != c.status {
			t.Errorf("%s %s: %d, not %d", c.method, c.target, r.StatusCode, c.status)
		}
		if !r.has("<h1>") || !r.has("</html>") {
			t.Errorf("%s %s is no page", c.method, c.target)
		}
		if c.status == 405 && r.Header.Get("Allow") == "" {
			t.Errorf("%s %s does not say what is allowed", c.method, c.target)
		}
	}
	is.Equal(s.log.String(), "") // the caller's mistakes are not the operator's
}

// Whoever meets a problem finds the way back to the webhook that it was about, if there is one.
func TestProblemsKeepTheirPlace(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	unknown := diverted.WebhookKey{Tenant: tenant, Webhook: locator(99)}
	for target, back := range map[string]string{
		webhookPath(w.Key()) + "?trigger=200":                      "orders",
		webhookPath(w.Key()) + "/diverted/" + locator(99).String(): "orders",
		webhookPath(w.Key()) + "/diverted/delete?since=x":          "orders",
		webhookPath(w.Key()) + "/pending?x=1":                      "orders",
		webhookPath(unknown):                                       "Webhooks",
		webhookPath(unknown) + "/diverted/" + locator(99).String(): "Webhooks",
	} {
		is.True(s.get(target).has("Back to&nbsp;<bdi>" + back + "</bdi>"))
	}
	is.True(s.post(eventPath(e.Key)+"/resend", nil).has("Back to&nbsp;<bdi>orders</bdi>"))

	s = newSite(t, permitting(httpapi.DivertedRead))
	w = s.webhook(1)
	r := s.get(webhookPath(w.Key()) + "/diverted/" + locator(99).String())
	is.Equal(r.StatusCode, 404)
	is.True(!r.has("orders"))
}

func TestAnUnknownParameterIsNamed(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	is.True(s.get(webhooksPath(tenant) + "?sate=active").has("this page has no parameter “sate”"))
	is.True(s.get(webhooksPath(tenant) + "?%3Cb%3E%E2%80%AE=x").has(`“&lt;b&gt;\u202e”`))
	is.True(!s.get(webhooksPath(tenant) + "?" + strings.Repeat("x", 100)).has(strings.Repeat("x", 65)))
	is.True(s.get(webhooksPath(tenant) + "?x" + strings.Repeat("ä", 40) + "=1").has("“x" + strings.Repeat("ä", 31) + "”")) // no half of one
	is.True(s.get(webhooksPath(tenant) + "?sate%ff=1").has(`“sate\xff”`))                                                  // which was sent so
}

func TestAPageIsTheSameTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which no page is younger than another
		s := newSite(t)
		w := s.webhook(1).Key()
		s.divert(w, 1)
		unknown := url.Values{} // more than a page lists
		for i := range 40 {
			unknown.Set(fmt.Sprintf("x%02d", i), "1")
		}
		for target, status := range map[string]int{
			webhooksPath(tenant) + "?" + unknown.Encode(): 400,
			webhookPath(w) + "/diverted/resend?eventType=push&since=2026-01-01&until=2030-01-01&before=2030-01-01&state=running&counted=2&done=1": 200,
		} {
			first := s.follow(target)
			s.is.Equal(first.StatusCode, status)
			for range 9 {
				if s.follow(target).body != first.body {
					t.Fatalf("%s is another page each time", target)
				}
			}
		}
	})
}

// broken is a store that fails, or panics.
type broken struct {
	diverted.Store
	err error
}

func (b broken) ListWebhooks(context.Context, diverted.WebhookQuery) (diverted.WebhookPage, error) {
	if b.err == nil {
		panic("secret-in-a-panic")
	}
	return diverted.WebhookPage{}, b.err
}

func TestFaultsAreLoggedAndNotTold(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
	}{
		"unforeseen": {errors.New("disk <b>on fire</b>"), 500},
		"locked":     {diverted.ErrLocked, 503},
		"panic":      {nil, 500},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			s := newSite(t, func(config *console.Config) { config.Store = broken{config.Store, c.err} })
			r := s.get(webhooksPath(tenant))
			is.Equal(r.StatusCode, c.status)
			is.True(!r.has("on fire"))
			is.True(s.log.Len() > 0)
			is.True(!strings.Contains(s.log.String(), "secret-in-a-panic"))
			is.Equal(r.Header.Get("Retry-After") != "", c.status == 503)
		})
	}
}

func TestAnAuthorizersFaultIsNoPermission(t *testing.T) {
	for calls := range 4 { // the fault comes at the page itself, or at something that it would offer
		for fault, fail := range map[string]func() error{
			"the directory is down": func() error { return errors.New("the directory is down") },
			"console: panic":        func() error { panic("the directory is down") },
		} {
			is := is.New(t)
			n := 0
			s := newSite(t, func(c *console.Config) {
				c.Authorize = func(*http.Request, uuid.UUID, ...httpapi.Permission) error {
					if n++; n > calls {
						return fail()
					}
					return nil
				}
			})
			w := s.webhook(1)
			r := s.get(webhookPath(w.Key()))
			is.Equal(r.StatusCode, 500)
			is.True(r.has("Something went wrong"))
			is.True(!r.has("directory"))
			is.True(strings.Contains(s.log.String(), fault))
		}
	}
}

// A button that is answered with an authorizer's fault has changed nothing.
func TestAnAuthorizersFaultChangesNothing(t *testing.T) {
	for fault, fail := range map[string]func() error{
		"an error": func() error { return errors.New("the directory is down") },
		"a panic":  func() error { panic("the directory is down") },
	} {
		t.Run(fault, func(t *testing.T) {
			is := is.New(t)
			s := newSite(t, func(c *console.Config) {
				c.Authorize = func(_ *http.Request, _ uuid.UUID, permissions ...httpapi.Permission) error {
					if permissions[0] == httpapi.WebhooksRead || permissions[0] == httpapi.DivertedRead { // asked for where to lead
						return fail()
					}
					return nil
				}
			})
			active, suspended := s.webhook(1), s.webhook(2)
			e := s.divert(active.Key(), 3)
			is.NoErr(s.store.Suspend(t.Context(), suspended.Key()))
			for _, target := range []string{eventPath(e.Key) + "/resend", eventPath(e.Key) + "/delete", eventPath(e.Key) + "/expunge", webhookPath(suspended.Key()) + "/unsuspend", webhookPath(active.Key()) + "/suspend"} {
				is.Equal(s.post(target, nil).StatusCode, 500)
			}
			is.Equal(s.held(active.Key()), 1)
			after, err := s.store.FetchDiverted(t.Context(), e.Key)
			is.NoErr(err)
			is.True(!after.Expunged)
			w, err := s.store.FetchWebhook(t.Context(), suspended.Key())
			is.NoErr(err)
			is.True(w.Suspended())
			w, err = s.store.FetchWebhook(t.Context(), active.Key())
			is.NoErr(err)
			is.True(!w.Suspended())
		})
	}
}

// A problem that comes before the caller is known to be allowed anything asks for no more.
func TestWhoMayNotSeeAPageIsAskedForOnce(t *testing.T) {
	is := is.New(t)
	for want, refusal := range map[int]error{http.StatusForbidden: httpapi.ErrForbidden, http.StatusUnauthorized: httpapi.ErrUnauthenticated} {
		asked := 0
		s := newSite(t, func(c *console.Config) {
			c.Authorize = func(*http.Request, uuid.UUID, ...httpapi.Permission) error { asked++; return refusal }
		})
		is.Equal(s.get(webhooksPath(tenant)).StatusCode, want)
		is.Equal(asked, 1)
	}
}

func TestAssetsAreKeptByTheirVersion(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	style := regexp.MustCompile(`href="\.(/assets/console\.css\?v=[0-9a-f]+)"`).FindStringSubmatch(s.get("/console/").body)
	is.Equal(len(style), 2)
	r := s.get("/console" + style[1])
	is.True(strings.Contains(r.Header.Get("Cache-Control"), "immutable"))
	is.Equal(r.Header.Get("Content-Type"), "text/css; charset=utf-8")
	is.Equal(s.get("/console/assets/console.js?v=old").Header.Get("Cache-Control"), "no-store")
	head := s.do("HEAD", "/console/", nil)
	is.Equal(head.body, "")
	is.True(head.Header.Get("Content-Length") != "0")
}

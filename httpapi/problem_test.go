package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// TestMalformedPathParametersAreNamedAndNothingIsLookedUp is the first row of the table of bad input.
func TestMalformedPathParametersAreNamedAndNothingIsLookedUp(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	id, hook, event := tenant.String(), d.Webhook.String(), d.Event.String()
	bare := strings.ReplaceAll(id, "-", "")

	type path struct{ tenant, webhook, event string }
	cases := map[string]struct {
		path
		names []string
	}{
		"a tenant in braces":               {path{"%7B" + id + "%7D", hook, event}, []string{"tenantLocator"}},
		"a tenant as a URN":                {path{"urn:uuid:" + id, hook, event}, []string{"tenantLocator"}},
		"a tenant without hyphens":         {path{bare, hook, event}, []string{"tenantLocator"}},
		"a tenant with a hyphen misplaced": {path{bare[:7] + "-" + bare[7:12] + "-" + bare[12:16] + "-" + bare[16:20] + "-" + bare[20:], hook, event}, []string{"tenantLocator"}},
		"a tenant with a letter too far":   {path{"g" + id[1:], hook, event}, []string{"tenantLocator"}},
		"a tenant with a blank":            {path{"%20" + id[1:], hook, event}, []string{"tenantLocator"}},
		"an empty tenant":                  {path{"", hook, event}, []string{"tenantLocator"}},
		"a tenant with a slash":            {path{id[:8] + "%2F" + id[9:], hook, event}, []string{"tenantLocator"}},
		"a webhook that is too short":      {path{id, hook[1:], event}, []string{"webhookLocator"}},
		"a webhook that is too long":       {path{id, hook + "0", event}, []string{"webhookLocator"}},
		"a webhook that overflows":         {path{id, "8" + hook[1:], event}, []string{"webhookLocator"}},
		"a webhook with a slash":           {path{id, hook[:10] + "%2F" + hook[11:], event}, []string{"webhookLocator"}},
		"a webhook that leaves the path":   {path{id, "%2e%2e", event}, []string{"webhookLocator"}},
		"an event with a NUL":              {path{id, hook, event[:25] + "%00"}, []string{"eventLocator"}},
		"an event with a wide letter":      {path{id, hook, event[:23] + "%EF%BC%A1"}, []string{"eventLocator"}},
		"an event that is empty":           {path{id, hook, ""}, []string{"eventLocator"}},
		"several at once":                  {path{bare, "x", "y"}, []string{"tenantLocator", "webhookLocator", "eventLocator"}},
		"nobody's":                         {path{uuid.Nil.String(), ulid.Zero.String(), ulid.Zero.String()}, []string{"tenantLocator", "webhookLocator", "eventLocator"}},
	}
	for _, letter := range "ILOUilou" {
		cases["an event with the letter "+string(letter)] = struct {
			path
			names []string
		}{path{id, hook, event[:25] + string(letter)}, []string{"eventLocator"}}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := *a
			a.t, a.is = t, a.is.New(t)
			before := a.asked.count()
			for _, m := range []struct{ method, suffix string }{{"GET", ""}, {"DELETE", ""}, {"POST", "/resend"}} {
				res := a.do(m.method, "/event/"+c.tenant+"/webhooks/"+c.webhook+"/diverted/"+c.event+m.suffix, "")
				a.is.Equal(res.StatusCode, 400)
				a.is.Equal(res.code(), "invalid_parameter")
				a.is.Equal(len(res.problem().Errors), len(c.names))
				for _, name := range c.names {
					a.is.True(res.names(name))
				}
			}
			a.is.Equal(a.asked.count(), before) // nothing was looked up
		})
	}
	a.is.Equal(a.held(d.WebhookKey()), []ulid.ULID{d.Event})
}

func TestMalformedQueryParametersAreNamedWithTheirRange(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	number := []string{"", "%20", "+5", "%2B5", "-1", "5%20", "%205", "0x10", "1e2", "1.0", "1_0", "007", "ten", "%D9%A1", "99999999999999999999"}
	cases := map[string][]string{
		"offset": append([]string{"100001", "2147483647"}, number...),
		"count":  append([]string{"0", "1001"}, number...),
		"after":  {"", "x", strings.Repeat("I", 26), "8" + d.Event.String()[1:], d.Event.String() + "%20"},
	}
	ranges := map[string]string{"offset": "from 0 to 100000", "count": "from 1 to 1000", "after": "26 characters"}
	for name, values := range cases {
		for _, value := range values {
			res := a.do("GET", listPath(d.WebhookKey())+"?"+name+"="+value, "")
			a.is.Equal(res.StatusCode, 400)
			a.is.Equal(res.code(), "invalid_parameter")
			a.is.True(res.names(name))
			a.is.True(strings.Contains(res.problem().Detail, ranges[name]))
		}
	}
	for query, name := range map[string]string{
		"offset=1&offset=1": "offset", // twice, even if they agree
		"count=5&count=6":   "count",
		"count=5&cuont=6":   "cuont", // misspelt: it would mean another page
		"count=5&Count=6":   "Count",
		"count=%zz":         "query",
		"count=5;offset=1":  "query",
		"x%0Ay=1":           `"x\ny"`,
	} {
		res := a.do("GET", listPath(d.WebhookKey())+"?"+query, "")
		a.is.Equal(res.StatusCode, 400)
		a.is.True(res.names(name))
	}
	several := a.do("GET", listPath(d.WebhookKey())+"?count=0&offset=-1&after=x", "")
	a.is.Equal(len(several.problem().Errors), 3) // told at once
	a.is.Equal(a.asked.count(), 0)               // nothing was looked up

	a.is.Equal(a.do("DELETE", eventPath(d.Key)+"?dryRun=true", "").StatusCode, 400) // it might have meant not to
	a.is.Equal(a.held(d.WebhookKey()), []ulid.ULID{d.Event})
}

func TestAProblemListsAtMostFiftyFaults(t *testing.T) {
	a := newAPI(t)
	var query strings.Builder
	for i := range 200 {
		fmt.Fprintf(&query, "x%d=1&", i)
	}
	res := a.do("GET", listPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(1)})+"?"+query.String(), "")
	a.is.Equal(len(res.problem().Errors), 50)
	a.is.True(strings.HasSuffix(res.problem().Detail, "and 197 more"))
}

// authorized returns a configuration that asks authorize.
func authorized(authorize func(*http.Request, uuid.UUID, ...httpapi.Permission) error) func(*httpapi.Config) {
	return func(c *httpapi.Config) { c.Authorize = authorize }
}

func TestMissingCredentialsAndPermissionsAreToldApart(t *testing.T) {
	var fail error
	a := newAPI(t, authorized(func(*http.Request, uuid.UUID, ...httpapi.Permission) error { return fail }))
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	for _, m := range []struct{ method, path string }{
		{"GET", eventPath(d.Key)}, {"GET", listPath(d.WebhookKey())},
		{"DELETE", eventPath(d.Key)}, {"POST", eventPath(d.Key) + "/resend"},
	} {
		fail = fmt.Errorf("token s3cret: %w", httpapi.ErrUnauthenticated)
		res := a.do(m.method, m.path, "")
		a.is.Equal(res.StatusCode, 401)
		a.is.Equal(res.code(), "unauthenticated")
		a.is.Equal(res.Header.Get("WWW-Authenticate"), "Bearer")
		a.is.True(!strings.Contains(res.body, "s3cret"))

		fail = httpapi.ErrForbidden
		res = a.do(m.method, m.path, "")
		a.is.Equal(res.StatusCode, 403)
		a.is.Equal(res.code(), "forbidden")

		fail = fmt.Errorf("token table: %w", diverted.ErrNotFound) // the host's trouble, not the caller's
		res = a.do(m.method, m.path, "")
		a.is.Equal(res.StatusCode, 500)
		a.is.Equal(res.code(), "internal")
		a.is.True(!strings.Contains(res.body, "token table"))
		a.is.True(strings.Contains(a.log.String(), "token table"))
	}
	a.is.Equal(a.asked.count(), 0) // nothing was looked up
	a.is.Equal(a.held(d.WebhookKey()), []ulid.ULID{d.Event})
}

func TestEveryRouteAsksForItsPermissionsWithinItsTenant(t *testing.T) {
	var tenants []uuid.UUID
	var asked []httpapi.Permission
	a := newAPI(t, authorized(func(_ *http.Request, tenant uuid.UUID, permissions ...httpapi.Permission) error {
		tenants, asked = append(tenants, tenant), permissions
		return httpapi.ErrForbidden
	}))
	k := diverted.Key{Tenant: tenant, Webhook: locator(1), Event: locator(2)}
	for _, c := range []struct {
		method, path string
		want         []httpapi.Permission
	}{
		{"GET", eventPath(k), []httpapi.Permission{"diverted-events:read"}},
		{"HEAD", eventPath(k), []httpapi.Permission{"diverted-events:read"}},
		{"GET", listPath(k.WebhookKey()), []httpapi.Permission{"diverted-events:read", "diverted-events:list"}},
		{"POST", eventPath(k) + "/resend", []httpapi.Permission{"diverted-events:resend"}},
		{"DELETE", eventPath(k), []httpapi.Permission{"diverted-events:delete"}},
		{"GET", eventPath(k) + "?extended=true", []httpapi.Permission{"diverted-events:read"}},
		{"GET", listPath(k.WebhookKey()) + "?extended=true", []httpapi.Permission{"diverted-events:read", "diverted-events:list"}},
		{"DELETE", eventPath(k) + "/payload", []httpapi.Permission{"diverted-events:delete"}},
		{"POST", listPath(k.WebhookKey()) + "/resend?all=true", []httpapi.Permission{"diverted-events:list", "diverted-events:resend"}},
		{"POST", listPath(k.WebhookKey()) + "/resend?all=true&dryRun=true", []httpapi.Permission{"diverted-events:list", "diverted-events:resend"}},
		{"DELETE", listPath(k.WebhookKey()) + "?all=true", []httpapi.Permission{"diverted-events:list", "diverted-events:delete"}},
		{"POST", webhookPath(k.WebhookKey()) + "/divert?all=true", []httpapi.Permission{"webhooks:write", "diverted-events:list"}},
		{"GET", webhookPath(k.WebhookKey()) + "/pending", []httpapi.Permission{"diverted-events:read", "diverted-events:list"}},
		{"GET", webhookPath(k.WebhookKey()) + "/stats", []httpapi.Permission{"webhooks:read"}},
		{"GET", webhooksPath(tenant) + "/stats", []httpapi.Permission{"webhooks:read", "webhooks:list"}},
		{"POST", webhooksPath(tenant), []httpapi.Permission{"webhooks:write"}},
		{"GET", webhooksPath(tenant) + "/list", []httpapi.Permission{"webhooks:read", "webhooks:list"}},
		{"GET", webhookPath(k.WebhookKey()), []httpapi.Permission{"webhooks:read"}},
		{"PATCH", webhookPath(k.WebhookKey()), []httpapi.Permission{"webhooks:write"}},
		{"DELETE", webhookPath(k.WebhookKey()), []httpapi.Permission{"webhooks:write"}},
		{"DELETE", webhookPath(k.WebhookKey()) + "?discard=false", []httpapi.Permission{"webhooks:write"}},
		{"DELETE", webhookPath(k.WebhookKey()) + "?discard=true", []httpapi.Permission{"webhooks:write", "diverted-events:delete"}},
		{"PATCH", webhookPath(k.WebhookKey()) + "/suspend", []httpapi.Permission{"webhooks:write"}},
		{"PATCH", webhookPath(k.WebhookKey()) + "/unsuspend", []httpapi.Permission{"webhooks:write"}},
		{"POST", webhookPath(k.WebhookKey()) + "/ping", []httpapi.Permission{"webhooks:write"}},
		{"POST", "/event/" + tenant.String() + "/events", []httpapi.Permission{"events:write"}},
	} {
		tenants = nil
		a.is.Equal(a.do(c.method, c.path, "").StatusCode, 403)
		a.is.Equal(asked, c.want)
		a.is.Equal(tenants, []uuid.UUID{tenant}) // asked once
	}
}

func TestChecksAreMadeInTheirOrder(t *testing.T) {
	fail := httpapi.ErrUnauthenticated
	a := newAPI(t, authorized(func(*http.Request, uuid.UUID, ...httpapi.Permission) error { return fail }))
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	evil := []string{"Sec-Fetch-Site", "cross-site"}

	// Each request is wrong in everything that is not mended yet.
	a.is.Equal(a.do("DELETE", "/event/x/webhoks/y/diverted/z?q", "", evil...).code(), "no_route")
	a.is.Equal(a.do("PUT", "/event/x/webhooks/y/diverted/z?q", "", evil...).code(), "method_not_allowed")
	a.is.Equal(a.do("DELETE", "/event/x/webhooks/y/diverted/z?q", "", evil...).code(), "invalid_parameter")
	unknown := eventPath(diverted.Key{Tenant: tenant, Webhook: d.Webhook, Event: locator(99)})
	a.is.Equal(a.do("DELETE", unknown+"?q", "", evil...).code(), "cross_origin")
	a.is.Equal(a.do("DELETE", unknown+"?q", "").code(), "unauthenticated")
	fail = httpapi.ErrForbidden
	a.is.Equal(a.do("DELETE", unknown+"?q", "").code(), "forbidden")
	fail = nil
	a.is.Equal(a.do("DELETE", unknown+"?q", "").code(), "invalid_parameter")
	a.is.Equal(a.asked.count(), 0)
	a.is.Equal(a.do("DELETE", unknown, "").code(), "not_found")
	a.is.Equal(a.do("DELETE", eventPath(d.Key), "").StatusCode, 200)
}

func TestUnknownAndForeignEventsAreAnsweredInTheSameBytes(t *testing.T) {
	a := newAPI(t)
	mine := a.webhook(tenant, 1).Key()
	theirs := a.webhook(foreign, 2).Key()
	a.divert(mine, 7)
	d := a.divert(theirs, 8)
	other := a.divert(a.webhook(tenant, 3).Key(), 9)

	wire := func(method, path string) string {
		recorder := httptest.NewRecorder()
		a.ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
		header, err := json.Marshal(recorder.Header())
		a.is.NoErr(err)
		return fmt.Sprintf("%d %s %s", recorder.Code, header, recorder.Body)
	}
	for _, m := range []struct{ method, suffix string }{{"GET", ""}, {"HEAD", ""}, {"DELETE", ""}, {"POST", "/resend"}} {
		unknown := wire(m.method, eventPath(diverted.Key{Tenant: tenant, Webhook: locator(90), Event: locator(91)})+m.suffix)
		a.is.True(strings.Contains(unknown, "404 "))
		for name, k := range map[string]diverted.Key{
			"an unknown event of a known webhook": {Tenant: tenant, Webhook: mine.Webhook, Event: locator(91)},
			"another tenant's event":              {Tenant: tenant, Webhook: d.Webhook, Event: d.Event},
			"another tenant's event, my webhook":  {Tenant: tenant, Webhook: mine.Webhook, Event: d.Event},
			"another webhook's event":             {Tenant: tenant, Webhook: mine.Webhook, Event: other.Event},
		} {
			t.Log(m.method, name)
			a.is.Equal(wire(m.method, eventPath(k)+m.suffix), unknown)
		}
	}
	a.is.Equal(wire("GET", listPath(diverted.WebhookKey{Tenant: tenant, Webhook: theirs.Webhook})),
		wire("GET", listPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(90)})))
	a.is.Equal(a.held(theirs), []ulid.ULID{d.Event})
	a.is.Equal(len(a.held(mine)), 1)
}

func TestResendIsRefusedWhileTheWebhookDoesNotLetTheEventGo(t *testing.T) {
	a := newAPI(t)
	suspended := a.webhook(tenant, 1).Key()
	a.is.NoErr(a.store.Suspend(t.Context(), suspended))
	disabled := a.webhook(tenant, 2, func(w *diverted.Webhook) { w.Enabled = false }).Key()
	unknown := diverted.WebhookKey{Tenant: tenant, Webhook: locator(3)}
	for code, w := range map[string]diverted.WebhookKey{"suspended": suspended, "disabled": disabled, "webhook_unknown": unknown} {
		d := a.divert(w, 7)
		before := a.do("GET", eventPath(d.Key), "").body
		res := a.do("POST", eventPath(d.Key)+"/resend", "")
		a.is.Equal(res.StatusCode, 409)
		a.is.Equal(res.code(), code)
		a.is.Equal(a.do("GET", eventPath(d.Key), "").body, before) // nothing changed
		pending, err := a.store.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w})
		a.is.NoErr(err)
		a.is.Equal(len(pending.Deliveries), 0)
	}
}

func TestAnotherMethodIsTold405WithTheMethodsThereAre(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	for path, allow := range map[string]string{
		listPath(d.WebhookKey()):                   "DELETE, GET, HEAD",
		listPath(d.WebhookKey()) + "/resend":       "POST",
		eventPath(d.Key):                           "DELETE, GET, HEAD",
		eventPath(d.Key) + "/resend":               "POST",
		eventPath(d.Key) + "/payload":              "DELETE",
		webhookPath(d.WebhookKey()) + "/divert":    "POST",
		webhookPath(d.WebhookKey()) + "/pending":   "GET, HEAD",
		webhookPath(d.WebhookKey()) + "/stats":     "GET, HEAD",
		webhooksPath(tenant) + "/stats":            "GET, HEAD",
		webhooksPath(tenant):                       "POST",
		webhooksPath(tenant) + "/list":             "GET, HEAD",
		webhookPath(d.WebhookKey()):                "DELETE, GET, HEAD, PATCH",
		webhookPath(d.WebhookKey()) + "/suspend":   "PATCH",
		webhookPath(d.WebhookKey()) + "/unsuspend": "PATCH",
		webhookPath(d.WebhookKey()) + "/ping":      "POST",
		"/event/" + tenant.String() + "/events":    "POST",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "QUERY"} {
			if slices.Contains(strings.Split(allow, ", "), method) {
				continue
			}
			res := a.do(method, path, "")
			a.is.Equal(res.StatusCode, 405)
			a.is.Equal(res.Header.Get("Allow"), allow)
			a.is.True(method == "HEAD" || res.code() == "method_not_allowed")
		}
	}
	a.is.Equal(a.held(d.WebhookKey()), []ulid.ULID{d.Event})
}

func TestAnUnknownPathIsAProblemToo(t *testing.T) {
	a := newAPI(t)
	good := eventPath(diverted.Key{Tenant: tenant, Webhook: locator(1), Event: locator(2)})
	for _, path := range []string{"/", "/event", "/event/", "/events" + good[6:], "/EVENT" + good[6:], good + "/", good + "/resend/", good + "/resent", good + "/resend/now",
		strings.Replace(good, "webhooks", "webhook", 1), strings.Replace(good, "/webhooks/", "%2Fwebhooks%2F", 1), "//", "/event/" + tenant.String()} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			res := a.do(method, path, "")
			a.is.Equal(res.StatusCode, 404)
			a.is.Equal(res.code(), "no_route")
		}
	}
	a.is.Equal(a.asked.count(), 0)
}

func TestAStoreThatIsLockedOrClosedIs503WithRetryAfter(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	for _, fail := range []error{diverted.ErrLocked, diverted.ErrClosed, fmt.Errorf("settle: %w", diverted.ErrLocked), context.DeadlineExceeded} {
		a.asked.fail = fail
		for _, m := range []struct{ method, path string }{
			{"GET", eventPath(d.Key)}, {"GET", listPath(d.WebhookKey())}, {"DELETE", eventPath(d.Key)}, {"POST", eventPath(d.Key) + "/resend"},
		} {
			res := a.do(m.method, m.path, "")
			a.is.Equal(res.StatusCode, 503)
			a.is.Equal(res.code(), "unavailable")
			a.is.Equal(res.Header.Get("Retry-After"), "1")
		}
	}
	a.is.True(strings.Contains(a.log.String(), "settle")) // an operator sees why
	a.is.Equal(a.held(d.WebhookKey()), []ulid.ULID{d.Event})
}

func TestTheUnforeseenIs500WithoutInternalsAndLogged(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	a.asked.fail = errors.New("disk I/O error at /var/lib/x")
	res := a.do("DELETE", eventPath(d.Key), "")
	a.is.Equal(res.StatusCode, 500)
	a.is.Equal(res.code(), "internal")
	a.is.True(!strings.Contains(res.body, "/var/lib"))
	log := a.log.String()
	for _, want := range []string{"/var/lib/x", `"method":"DELETE"`, d.Tenant.String(), d.Webhook.String(), d.Event.String()} {
		a.is.True(strings.Contains(log, want))
	}
	a.is.Equal(a.held(d.WebhookKey()), []ulid.ULID{d.Event})
}

func TestAPanicIs500WithoutInternalsAndLogged(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	a.asked.panic = "credential s3cret"
	res := a.do("GET", eventPath(d.Key), "")
	a.is.Equal(res.StatusCode, 500)
	a.is.Equal(res.code(), "internal")
	a.is.True(!strings.Contains(res.body, "s3cret"))
	a.is.True(strings.Contains(a.log.String(), "problem_test.go") || strings.Contains(a.log.String(), "support_test.go")) // the stack
	a.is.True(!strings.Contains(a.log.String(), "s3cret"))

	a = newAPI(t, authorized(func(r *http.Request, _ uuid.UUID, p ...httpapi.Permission) error { _ = p[len(r.Method)]; return nil }))
	a.is.Equal(a.do("GET", eventPath(d.Key), "").code(), "internal")
	a.is.True(strings.Contains(a.log.String(), "index out of range")) // what the runtime says is told
}

func TestAnAbortedRequestGoesOnAborting(t *testing.T) {
	a := newAPI(t)
	a.asked.panic = http.ErrAbortHandler
	defer func() { a.is.Equal(recover(), http.ErrAbortHandler) }()
	a.do("GET", listPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(1)}), "")
}

func TestCrossOriginRequestsOfBrowsersChangeNothing(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"}} {
		for _, m := range []struct{ method, path string }{{"DELETE", eventPath(d.Key)}, {"POST", eventPath(d.Key) + "/resend"}} {
			res := a.do(m.method, m.path, "", headers...)
			a.is.Equal(res.StatusCode, 403)
			a.is.Equal(res.code(), "cross_origin")
		}
		a.is.Equal(a.do("GET", eventPath(d.Key), "", headers...).StatusCode, 200) // reading is what CORS is for
	}
	a.is.Equal(a.asked.count(), 4)

	trusting := newAPI(t, func(c *httpapi.Config) {
		c.CrossOrigin = http.NewCrossOriginProtection()
		if err := c.CrossOrigin.AddTrustedOrigin("https://console.example"); err != nil {
			t.Fatal(err)
		}
	})
	d = trusting.divert(trusting.webhook(tenant, 1).Key(), 7)
	a.is.Equal(trusting.do("DELETE", eventPath(d.Key), "", "Origin", "https://console.example", "Sec-Fetch-Site", "cross-site").StatusCode, 200)
}

func TestRoutesAreFoundUnderAnyPrefix(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	want := a.do("GET", eventPath(d.Key), "").body
	for _, prefix := range []string{"/api/v1", "/event", "/event/api", "/a%2Fb"} {
		a.is.Equal(a.do("GET", prefix+eventPath(d.Key), "").body, want)
	}
	mux := http.NewServeMux()
	mux.Handle("/stripped/", http.StripPrefix("/stripped", a))
	mux.Handle("/kept/", a)
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequest("GET", "/stripped"+eventPath(d.Key), nil))
	a.is.Equal(recorder.Body.String(), want)
	recorder = httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequest("GET", "/kept"+strings.Replace(eventPath(d.Key), d.Event.String(), d.Event.String()[:12]+"%2F"+d.Event.String()[13:], 1), nil))
	a.is.Equal(recorder.Code, 400) // %2F goes through ServeMux as it is
}

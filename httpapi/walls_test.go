package httpapi_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// grant is what a token permits.
type grant struct {
	tenant      uuid.UUID
	permissions []httpapi.Permission
}

func (g grant) permits(tenant uuid.UUID, permissions ...httpapi.Permission) bool {
	return g.tenant == tenant && !slices.ContainsFunc(permissions, func(p httpapi.Permission) bool { return !slices.Contains(g.permissions, p) })
}

// everyGrant returns the grants of two tenants with every subset of the permissions, by token.
func everyGrant() map[string]grant {
	all := httpapi.Permissions()
	grants := map[string]grant{}
	for i, owner := range []uuid.UUID{tenant, foreign} {
		for subset := range 1 << len(all) {
			g := grant{tenant: owner}
			for bit, p := range all {
				if subset&(1<<bit) != 0 {
					g.permissions = append(g.permissions, p)
				}
			}
			grants[fmt.Sprintf("token-%d-%d", i, subset)] = g
		}
	}
	return grants
}

// town is two tenants side by side. Whatever belongs to one says so, in its texts and in its locators.
type town struct {
	http.Handler
	asked *watched
}

// Each tenant has webhooks and events 1 to 3, under locators of its own; number 9 is nobody's.
func locatorOf(owner uuid.UUID, kind, n byte) ulid.ULID {
	return ulid.ULID{1, 0x50, kind, owner[0], owner[1], owner[2], 15: n}
}

func marker(owner uuid.UUID) string { return "mark-" + owner.String()[:8] }

func newTown(t *testing.T, grants map[string]grant) town {
	t.Helper()
	store := diverted.NewMemoryStore()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, owner := range []uuid.UUID{tenant, foreign} {
		for n := byte(1); n <= 3; n++ {
			w := diverted.NewWebhook(owner, marker(owner), "https://"+marker(owner)+".example/hook", "order.*")
			w.Locator = locatorOf(owner, 'w', n)
			w.Enabled = n != 3
			w.Endpoint.Tag = marker(owner)
			_, err := store.CreateWebhook(t.Context(), w)
			must(err)
			for e := byte(1); e <= 3; e++ {
				must(store.Divert(t.Context(), diverted.DivertedEvent{
					Key:            diverted.Key{Tenant: owner, Webhook: w.Locator, Event: locatorOf(owner, 'e', e)},
					RequestLocator: locatorOf(owner, 'r', e),
					Failure:        diverted.Failure{Trigger: "503", Status: 503, Message: marker(owner), At: failed},
					EventType:      "order.paid", Body: []byte(`{"to":"` + marker(owner) + `"}`),
				}))
			}
		}
		for n := byte(1); n <= 3; n++ { // one is pending at each
			_, err := store.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{{
				Tenant: owner, Webhook: locatorOf(owner, 'w', n), Event: locatorOf(owner, 'e', 4), RequestLocator: locatorOf(owner, 'r', 4),
				EventType: marker(owner), Body: []byte(`{}`),
			}}})
			must(err)
		}
		must(store.Suspend(t.Context(), diverted.WebhookKey{Tenant: owner, Webhook: locatorOf(owner, 'w', 2)}))
	}
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Logger:    slog.New(slog.DiscardHandler),
		Transport: receiver(func(*http.Request) int { return 200 }),
	})
	must(err)
	watching := &watched{Store: store}
	h, err := httpapi.New(httpapi.Config{
		Diverted: watching, Webhooks: watching, Publisher: dispatcher, Pinger: dispatcher,
		Logger:    slog.New(slog.DiscardHandler),
		Authorize: authorizer(grants),
	})
	must(err)
	return town{Handler: h, asked: watching}
}

// authorizer permits what the grants do.
func authorizer(grants map[string]grant) func(*http.Request, uuid.UUID, ...httpapi.Permission) error {
	return func(r *http.Request, tenant uuid.UUID, permissions ...httpapi.Permission) error {
		g, ok := grants[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		switch {
		case !ok:
			return httpapi.ErrUnauthenticated
		case !g.permits(tenant, permissions...):
			return httpapi.ErrForbidden
		}
		return nil
	}
}

// A store that is asked for the numbers of nobody tells those of all, so that zeros must not reach it: whoever is permitted
// something in the tenant of zeros would have it of all tenants, and at the webhook of zeros of all webhooks.
func TestZerosAreNobodysAndNotEverybodys(t *testing.T) {
	grants := map[string]grant{"nobody": {uuid.Nil, httpapi.Permissions()}, "reader": {tenant, []httpapi.Permission{httpapi.WebhooksRead}}}
	here := newTown(t, grants)
	// A host that delivers by itself has no webhooks here.
	alone, err := httpapi.New(httpapi.Config{Diverted: here.asked, Authorize: authorizer(grants), Logger: slog.New(slog.DiscardHandler)})
	is.New(t).NoErr(err)
	none, all := "/event/"+uuid.Nil.String(), "/event/"+tenant.String()+"/webhooks/"
	for _, c := range []struct{ token, method, path string }{
		{"nobody", "GET", none + "/webhooks/stats"},
		{"nobody", "GET", none + "/webhooks/stats?hours=24"},
		{"nobody", "GET", none + "/webhooks/list"},
		{"nobody", "GET", none + "/webhooks/" + ulid.Zero.String() + "/stats"},
		{"nobody", "GET", none + "/webhooks/" + locatorOf(tenant, 'w', 1).String() + "/diverted"},
		{"nobody", "DELETE", none + "/webhooks/" + locatorOf(tenant, 'w', 1).String() + "/diverted?all=true"},
		{"reader", "GET", all + ulid.Zero.String() + "/stats"}, // it may not list them
		{"reader", "GET", all + ulid.Zero.String()},
	} {
		for _, handler := range []http.Handler{here, alone} {
			is := is.New(t)
			asked := here.asked.count()
			w := asking{method: c.method, path: c.path, token: c.token}.of(town{Handler: handler})
			is.True(w.Code == 400 || w.Code == 404 && handler == alone) // it has fewer routes
			is.True(w.Code == 404 || strings.Contains(w.Body.String(), `"code":"invalid_parameter"`))
			is.Equal(here.asked.count(), asked) // nothing was looked up
		}
	}
}

// asking is a call that somebody makes.
type asking struct {
	method, path, body string
	token              string
	needs              []httpapi.Permission
	tenant             uuid.UUID
	foreigners         []ulid.ULID // what of the path and body is another tenant's
}

// with is the same call, with locators that nobody has in place of the other tenant's.
func (a asking) with(nobody func(ulid.ULID) ulid.ULID) asking {
	for _, locator := range a.foreigners {
		a.path = strings.ReplaceAll(a.path, locator.String(), nobody(locator).String())
		a.body = strings.ReplaceAll(a.body, locator.String(), nobody(locator).String())
	}
	return a
}

func (a asking) of(t town) *httptest.ResponseRecorder {
	r := httptest.NewRequest(a.method, a.path, strings.NewReader(a.body))
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	if a.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	t.ServeHTTP(w, r)
	return w
}

// calls are the names of what randomly makes up.
var calls = []string{
	"list diverted", "fetch diverted", "fetch extended", "resend", "resend all", "delete diverted", "delete all", "divert all", "list pending", "expunge", "stats", "tenant stats",
	"create", "fetch", "list", "update", "delete", "discard", "suspend", "unsuspend", "ping", "publish",
}

// randomly makes up a call: any route, any token, and locators of one's own, of the other, or of nobody.
func randomly(rnd *rand.Rand, tokens []string, grants map[string]grant) (string, asking) {
	pick := func(options ...string) string { return options[rnd.IntN(len(options))] }
	a := asking{token: tokens[rnd.IntN(len(tokens))], tenant: []uuid.UUID{tenant, foreign}[rnd.IntN(2)]}
	if g, ok := grants[a.token]; ok && rnd.IntN(4) > 0 {
		a.tenant = g.tenant // mostly one's own, so that much of what is permitted is tried
	}
	other := foreign
	if a.tenant == foreign {
		other = tenant
	}
	locator := func(kind byte) string {
		switch rnd.IntN(4) {
		case 0:
			id := locatorOf(other, kind, byte(1+rnd.IntN(3)))
			a.foreigners = append(a.foreigners, id)
			return id.String()
		case 1:
			return locatorOf(a.tenant, kind, 9).String()
		default:
			return locatorOf(a.tenant, kind, byte(1+rnd.IntN(3))).String()
		}
	}
	webhooks := "/event/" + a.tenant.String() + "/webhooks"
	var webhook, event string
	one := func() string { webhook = locator('w'); return webhooks + "/" + webhook }
	diverted := func() string { event = locator('e'); return one() + "/diverted/" + event }
	read, list := httpapi.DivertedRead, httpapi.DivertedList
	set := func(method, path, body string, needs ...httpapi.Permission) {
		a.method, a.path, a.body, a.needs = method, path, body, needs
	}
	name := pick(calls...)
	filter := pick("?all=true", "?trigger=503", "?trigger=5xx&eventType=order.paid&dryRun=true", "?all=true&limit=1", "?eventType="+marker(other), "?since=2020-01-01T00:00:00Z", "")
	switch name {
	case "fetch extended":
		set(pick("GET", "HEAD"), diverted()+"?extended=true", "", read)
	case "resend all":
		set("POST", one()+"/diverted/resend"+filter, "", list, httpapi.DivertedResend)
	case "delete all":
		set("DELETE", one()+"/diverted"+filter, "", list, httpapi.DivertedDelete)
	case "divert all":
		set("POST", one()+"/divert"+pick("?all=true", "?eventType="+marker(a.tenant), ""), "", httpapi.WebhooksWrite, list)
	case "list pending":
		set(pick("GET", "HEAD"), one()+"/pending"+pick("", "?count=2", "?offset=1", "?count=0"), "", read, list)
	case "expunge":
		set("DELETE", diverted()+"/payload", "", httpapi.DivertedDelete)
	case "stats":
		set(pick("GET", "HEAD"), one()+"/stats"+pick("", "?hours=24", "?hours=0"), "", httpapi.WebhooksRead)
	case "tenant stats":
		set(pick("GET", "HEAD"), webhooks+"/stats"+pick("", "?hours=24", "?hours=0"), "", httpapi.WebhooksRead, httpapi.WebhooksList)
	case "list diverted":
		set(pick("GET", "HEAD"), one()+"/diverted"+pick("", "?count=2", "?offset=1", "?count=0", "?extended=true", "?trigger=5xx"), "", read, list)
	case "fetch diverted":
		set(pick("GET", "HEAD"), diverted(), "", read)
	case "resend":
		set("POST", diverted()+"/resend", "", httpapi.DivertedResend)
	case "delete diverted":
		set("DELETE", diverted(), "", httpapi.DivertedDelete)
	case "create":
		set("POST", webhooks, pick(`{"name":"new","enabled":true,"eventTypes":["order.*"],"endpoint":{"url":"https://new.example"}}`, `{}`, `{`), httpapi.WebhooksWrite)
	case "fetch":
		set(pick("GET", "HEAD"), one(), "", httpapi.WebhooksRead)
	case "list":
		set(pick("GET", "HEAD"), webhooks+"/list"+pick("", "?count=1", "?name="+marker(other), "?suspended=true", "?eventTypes=order.paid", "?enabled=0"), "", httpapi.WebhooksRead, httpapi.WebhooksList)
	case "update":
		set("PATCH", one(), pick(`{"name":"renamed"}`, `{"endpoint":{"hmacEnabled":true}}`, `{"name":""}`, `{"removeEventTypes":["order.*"]}`), httpapi.WebhooksWrite)
	case "delete":
		set("DELETE", one()+pick("", "?discard=false"), "", httpapi.WebhooksWrite)
	case "discard":
		set("DELETE", one()+"?discard=true", "", httpapi.WebhooksWrite, httpapi.DivertedDelete)
	case "suspend":
		set("PATCH", one()+"/suspend", "", httpapi.WebhooksWrite)
	case "unsuspend":
		set("PATCH", one()+"/unsuspend", "", httpapi.WebhooksWrite)
	case "ping":
		set("POST", one()+"/ping", "", httpapi.WebhooksWrite)
	case "publish":
		set("POST", "/event/"+a.tenant.String()+"/events", `{"type":"order.paid","data":1,"locator":"`+locator('e')+`"}`, httpapi.EventsWrite)
	}
	return name, a
}

func TestNoRandomCallTellsOfAnotherTenantOrPassesWithoutPermission(t *testing.T) {
	const times = 10_000
	is := is.New(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	grants := everyGrant()
	is.Equal(len(grants), 2<<9)
	tokens := []string{"", "unknown"}
	for token := range grants {
		tokens = append(tokens, token)
	}
	slices.Sort(tokens)

	nobody := func(id ulid.ULID) ulid.ULID { id[15] = 99; return id }
	told, passed := 0, 0
	stopped, succeeded, compared := map[string]int{}, map[string]int{}, map[string]int{}
	here, before := newTown(t, grants), newTown(t, grants)
	for range times {
		name, a := randomly(rnd, tokens, grants)
		g, known := grants[a.token]
		asked := here.asked.count()
		w := a.of(here)
		shows := fmt.Sprint(w.Code, w.Header(), w.Body)

		// Nothing may pass that a permission should have stopped, and nothing of the store may be touched then.
		want := 0
		switch {
		case !known:
			want = 401
		case !g.permits(a.tenant, a.needs...):
			want = 403
		}
		if want != 0 {
			stopped[name]++
			if w.Code != want || here.asked.count() != asked {
				passed++
				t.Errorf("%s: %s %s with %s of %v: %s", name, a.method, a.path, a.token, g.permissions, shows)
			}
		} else if w.Code == 401 || w.Code == 403 || w.Code >= 500 {
			t.Errorf("%s: %s %s with %v was refused: %s", name, a.method, a.path, g.permissions, shows)
		}

		// What was sent is shown to those alone who may see it.
		if shown := strings.Contains(shows, `"to":`); known && shown != (name == "fetch extended" && w.Code == 200 && a.method == "GET" && g.permits(a.tenant, httpapi.DivertedPayload)) {
			t.Errorf("%s: %s %s with %v shows %s", name, a.method, a.path, g.permissions, shows)
		}

		// Nothing may tell of the other tenant.
		if known {
			other := foreign
			if g.tenant == foreign {
				other = tenant
			}
			if strings.Contains(shows, marker(other)) || strings.Contains(shows, other.String()) {
				told++
				t.Errorf("%s: %s %s of %s shows %s", name, a.method, a.path, g.tenant, shows)
			}
		}
		// What is the other tenant's must be answered like what is nobody's, byte for byte.
		if len(a.foreigners) > 0 {
			twin := a.with(nobody).of(before)
			answer := shows
			for _, id := range a.foreigners {
				answer = strings.ReplaceAll(answer, id.String(), nobody(id).String()) // publish repeats its own
			}
			if want == 0 {
				compared[name]++
			}
			if other := fmt.Sprint(twin.Code, twin.Header(), twin.Body); other != answer {
				told++
				t.Errorf("%s: %s %s: %s, but %s for what is nobody's", name, a.method, a.path, shows, other)
			}
		}
		if w.Code < 300 {
			succeeded[name]++
		}
		if w.Code < 300 && a.method != "GET" && a.method != "HEAD" {
			here, before = newTown(t, grants), newTown(t, grants) // begin anew, so that there is always something to find
		}
	}
	t.Logf("%d calls: stopped %v, succeeded %v, compared %v", times, stopped, succeeded, compared)
	is.Equal(told, 0)
	is.Equal(passed, 0)
	for _, name := range calls {
		if name == "delete" {
			continue // every webhook here has events
		}
		is.True(stopped[name] > 0)
		is.True(succeeded[name] > 0)
		is.True(name == "create" || name == "list" || name == "tenant stats" || compared[name] > 0)
	}
}

package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/google/uuid"
)

// Whatever is asked is answered, and not by a 5xx. What is accepted comes back as it was sent.

const fullWebhook = `{"name":"orders","enabled":true,"eventTypes":["order.*","user.created"],"maxPerSecond":5,
	"endpoint":{"url":"https://receiver.example/hook?a=1","headers":{"X-Key":["a","b"]},"hmacEnabled":true,"secret":"` + secretA + `","tag":"eu"},
	"failureHandling":{"triggers":["5xx","404","timeout"],"retryStrategy":{"attempts":3,"interval":60,"type":"linear"},"divert":true,
	"suspend":true,"alertEndpoint":{"url":"https://alerts.example/"}}}`

func FuzzCreateWebhook(f *testing.F) {
	for _, body := range []string{
		fullWebhook,
		`{"name":"Bestellungen €","enabled":false,"eventTypes":["*"],"endpoint":{"url":"https://receiver.example"}}`,
		`{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":{"url":"https://receiver.example"},"failureHandling":{"divert":null}}`,
		`[`, `{}`, `null`, `{"name":"a","name":"b"}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		a := newAPI(t)
		res := a.do("POST", webhooksPath(tenant), body)
		if res.StatusCode != 200 {
			a.is.True(res.StatusCode < 500)
			return
		}
		var sent, got wire
		a.is.NoErr(json.Unmarshal([]byte(body), &sent))
		got = a.read(res)
		a.is.Equal(got.Name, sent.Name)
		a.is.Equal(got.Enabled, sent.Enabled)
		a.is.Equal(got.EventTypes, sent.EventTypes)
		a.is.Equal(got.Endpoint.URL, sent.Endpoint.URL)
		a.is.Equal(got.Endpoint.HMACEnabled, sent.Endpoint.HMACEnabled)
		asked := a.read(a.do("GET", webhooksPath(tenant)+"/"+got.Locator, ""))
		withoutSecrets(&got)
		withoutSecrets(&asked)
		a.is.Equal(asked, got)
	})
}

// withoutSecrets leaves out what an answer shows in full once.
func withoutSecrets(w *wire) {
	w.Endpoint.Secret = nil
	if w.FailureHandling.AlertEndpoint != nil {
		w.FailureHandling.AlertEndpoint.Secret = nil
	}
}

func FuzzUpdateWebhook(f *testing.F) {
	for _, body := range []string{
		`{"name":"renamed","enabled":false,"addEventTypes":["a.*"],"removeEventTypes":["order.*"]}`,
		`{"endpoint":{"url":"https://other.example/","addHeaders":{"X-New":["1"]},"removeHeaders":["x-key"],"hmacEnabled":false,"secret":"` + secretB + `"}}`,
		`{"failureHandling":{"addTriggers":["3xx"],"removeTriggers":["404"],"retryStrategy":{"attempts":10},"divert":false}}`,
		`{"failureHandling":{"removeRetryStrategy":true,"removeAlertEndpoint":true,"suspend":false}}`,
		`{"failureHandling":{"alertEndpoint":{"tag":"x"}}}`,
		`{"maxPerSecond":7}`, `{"removeMaxPerSecond":true}`, `{}`, `{"name":null}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		a := newAPI(t)
		before := a.read(a.do("POST", webhooksPath(tenant), fullWebhook))
		path := webhooksPath(tenant) + "/" + before.Locator
		res := a.do("PATCH", path, body)
		a.is.True(res.StatusCode < 500)
		asked := a.read(a.do("GET", path, ""))
		expected := before // nothing, if it was refused
		if res.StatusCode == 200 {
			expected = a.read(res)
		}
		withoutSecrets(&expected)
		withoutSecrets(&asked)
		a.is.Equal(asked, expected)
	})
}

func FuzzPublish(f *testing.F) {
	for _, p := range testdata.Payloads()[:3] {
		f.Add(`{"type":"` + p.Type + `","data":` + string(p.Data) + `}`)
	}
	f.Add(`{"type":"order.paid","data":1e400,"locator":"01JZQ8X4W3M9V6T5R2P1N0KHGF","requestId":"01JDCPY00000000000000000R1",` +
		`"userLocator":"7f1f6a0e-4c5b-4a54-9a0e-2f6f4f3f1c11","timestamp":"2026-11-23T18:58:00.5+01:00"}`)
	f.Add(`{"type":"order.paid","data":{"a":1,"a":2,"\u2028":"\ud800"}}`)
	f.Add(`{"type":"*","data":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		var given *diverted.Event
		a := newAPI(t, func(c *httpapi.Config) {
			c.Publisher = publisher(func(_ context.Context, _ uuid.UUID, e diverted.Event) ([]diverted.Acceptance, error) {
				given = &e
				_, err := e.Encode() // as a dispatcher does
				return nil, err
			})
		})
		res := a.do("POST", eventsPath, body)
		if res.StatusCode != 202 {
			a.is.True(res.StatusCode < 500)
			return
		}
		var sent struct {
			Type string
			Data json.RawMessage
		}
		a.is.NoErr(json.Unmarshal([]byte(body), &sent))
		message, err := given.Encode()
		a.is.NoErr(err)
		event, err := diverted.DecodeEvent(message)
		a.is.NoErr(err)
		a.is.Equal(event.Type, sent.Type)
		a.is.Equal(event.Locator, given.Locator)
		var compact bytes.Buffer
		a.is.NoErr(json.Compact(&compact, sent.Data))
		a.is.Equal(string(event.Data), compact.String())
	})
}

// methods are those of the routes, and one of none.
var methods = []string{"GET", "HEAD", "POST", "PATCH", "DELETE", "PUT"}

func FuzzPathAndQuery(f *testing.F) {
	webhook := locator(1).String()
	for i, target := range []string{
		webhooksPath(tenant) + "/list", webhooksPath(tenant) + "/" + webhook, webhooksPath(tenant) + "/" + webhook + "/diverted",
		webhooksPath(tenant) + "/" + webhook + "/diverted/" + locator(5).String(), webhooksPath(tenant) + "/" + webhook + "/diverted/" + locator(5).String() + "/resend",
		webhooksPath(tenant) + "/" + webhook + "/unsuspend", webhooksPath(tenant) + "/" + webhook + "/suspend", "/event/openapi.json", "/prefix" + eventsPath, "/event//webhooks/list",
		"/event/" + tenant.String() + "/webhooks/%2F/diverted", "/event/../event/%zz",
	} {
		f.Add(uint8(i), target, "")
		f.Add(uint8(0), target, "count=2&offset=1&after="+webhook)
	}
	f.Add(uint8(0), webhooksPath(tenant)+"/list", "name=orders&enabled=true&suspended=false&active=true&eventTypes=order.*&count=100")
	f.Add(uint8(4), webhooksPath(tenant)+"/"+webhook, "discard=true")
	f.Add(uint8(0), webhooksPath(tenant)+"/list", "count=01&count=2&%zz")
	f.Fuzz(func(t *testing.T, method uint8, path, query string) {
		address, err := url.Parse(path)
		if err != nil {
			return // no server would have such a request
		}
		a := newAPI(t)
		for n := range byte(3) {
			key := a.webhook(tenant, n+1).Key()
			for event := range byte(3) {
				a.divert(key, event+5)
			}
		}
		r := httptest.NewRequestWithContext(t.Context(), methods[int(method)%len(methods)], "/", nil)
		r.URL = &url.URL{Path: address.Path, RawPath: address.RawPath, RawQuery: query}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if next := w.Header().Get("Link"); next != "" {
			a.follow(r.URL, next)
		}
	})
}

// A cursor of our own leads through all that there is, whatever the size of its pages.
func FuzzCursor(f *testing.F) {
	f.Add(uint8(1), uint8(0), uint8(5))
	f.Add(uint8(3), uint8(2), uint8(10))
	f.Add(uint8(7), uint8(9), uint8(0))
	f.Fuzz(func(t *testing.T, count, offset, events uint8) {
		a := newAPI(t)
		key := a.webhook(tenant, 1).Key()
		var all []string
		for n := range events % 20 {
			all = append(all, a.divert(key, n).Event.String())
		}
		all = all[min(int(offset), len(all)):]
		target := &url.URL{Path: listPath(key), RawQuery: fmt.Sprintf("count=%d&offset=%d", max(count, 1), offset)}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", target.String(), nil))
		listed := eventLocators(t, w)
		if next := w.Header().Get("Link"); next != "" {
			listed = append(listed, a.follow(target, next)...)
		}
		if !slices.Equal(listed, all) {
			t.Fatalf("listed %v, not %v", listed, all)
		}
	})
}

// eventLocators returns those of a list of diverted events. A list of webhooks has none.
func eventLocators(t *testing.T, answer *httptest.ResponseRecorder) (locators []string) {
	t.Helper()
	var list []struct{ EventLocator string }
	if strings.HasPrefix(answer.Body.String(), "[") {
		if err := json.Unmarshal(answer.Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
	}
	for _, item := range list {
		locators = append(locators, item.EventLocator)
	}
	return locators
}

// follow asks for the pages behind a Link until there is none, and returns the event locators on them.
func (a *api) follow(from *url.URL, link string) (listed []string) {
	a.t.Helper()
	for range 1000 {
		reference, rest, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
		a.is.True(ok && strings.Contains(rest, `rel="next"`))
		next, err := from.Parse(reference)
		a.is.NoErr(err)
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(a.t.Context(), "GET", "/", nil)
		r.URL = next
		a.ServeHTTP(w, r)
		a.is.Equal(w.Code, 200)
		listed = append(listed, eventLocators(a.t, w)...)
		if link = w.Header().Get("Link"); link == "" {
			return listed
		}
	}
	a.t.Fatal("a list without an end")
	return nil
}
